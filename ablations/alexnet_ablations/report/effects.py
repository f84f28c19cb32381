"""Figures of what was found: effects with their intervals and pairs, seeds over cells, interactions."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.ticker import FuncFormatter, MaxNLocator

from alexnet_ablations.conclude.conclusions import Conclusion
from alexnet_ablations.conclude.outcomes import HEADLINE, Outcome
from alexnet_ablations.conclude.sentences import effect, interval
from alexnet_ablations.declare.design import Cell, Factor, level_text
from alexnet_lab.reports.curves import DASHES, LINE_OF_TEXT, MARKERS
from alexnet_lab.reports.drawing import Drawing, label
from alexnet_lab.reports.page import Figure, Table
from alexnet_lab.reports.palette import LIGHT, SERIES

MOST_EFFECTS = 20  # rows of an effect plot; the rest stands in its table
MOST_SEEDS_IN_COLOUR = 7
DOTS_BELOW = 9  # pixels from an interval to the dots of its pairs


def forest(found: Sequence[Conclusion], baseline: str) -> Figure:
    """Draw every effect on the headline outcome with its interval, and below each the pairs it is the mean of."""
    outcome = found[0].outcome
    shown = _widest(found)
    lines = [[*textwrap.wrap(label(each.contrast.name, 90), 24), _in_words(each)] for each in shown]
    heights = [max(len(text) * LINE_OF_TEXT, 2 * DOTS_BELOW + 8) + 14 for text in lines]
    drawing = Drawing(height=sum(heights) + 54)
    axes = drawing.axes(grid=False)
    places = -(np.cumsum(heights) - np.asarray(heights) / 2)
    margin = found[0].inference.margin
    if margin:
        axes.axvspan(-margin, margin, color=LIGHT["grid"], lw=0)
    axes.axvline(0, color=LIGHT["muted"], linewidth=1)
    for each, place in zip(shown, places, strict=True):
        _draw_effect(drawing, axes, each, float(place))
    axes.set_yticks(places, ["\n".join(text) for text in lines])
    axes.tick_params(axis="y", length=0, labelcolor=LIGHT["ink"])
    axes.set_ylim(-sum(heights), 0)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:+g}".replace("-", "−") if value else "0"))
    axes.spines["left"].set_visible(False)
    axes.margins(x=0.08)
    axes.set_xlabel(f"{outcome.unit} of {outcome.label}")
    reading = (
        "Dot and bar: mean difference and its 95% interval, paired by seed; a full dot where the bar leaves 0 out. "
        "Small rings: one seed each. "
    )
    if margin:
        reading += f"Shaded: less than {outcome.show_margin(margin)} either way, too small to matter. "
    reading += f"0 is the baseline, {baseline}."
    if len(shown) < len(found):
        reading += f" {len(shown)} of {len(found)} comparisons, the largest; all of them are in the table."
    return drawing.finish(
        "effects", f"Effects on {outcome.label}, {outcome.unit}", reading, _effects_behind(found, outcome)
    )


def _draw_effect(drawing: Drawing, axes: Any, each: Conclusion, place: float) -> None:
    t = each.inference.t
    if t is not None:
        axes.plot([t.low, t.high], [place, place], color=SERIES[0], linewidth=2.4, solid_capstyle="butt")
    apart = t is not None and not t.low <= 0 <= t.high
    if each.n:
        inside = SERIES[0] if apart else LIGHT["paper"]
        axes.plot([each.inference.mean], [place], "o", markersize=8, color=SERIES[0], markerfacecolor=inside)
        ends = [t.low, each.inference.mean, t.high] if t is not None else [each.inference.mean]
        told = f"{_in_words(each, each.outcome.unit)}: {each.verdict}"
        drawing.points(axes, each.contrast.name, ends, [place] * len(ends), [""] * len(ends), [told] * len(ends))
    seeds, values = list(each.values), list(each.values.values())
    if len(values) > 1:
        below = [place - DOTS_BELOW] * len(values)
        axes.plot(values, below, "o", markersize=3.6, color=LIGHT["muted"], markerfacecolor="none", markeredgewidth=1)
        told_each = [effect(each.outcome, value) for value in values]
        drawing.points(axes, each.contrast.name, values, below, [f"seed {seed}" for seed in seeds], told_each)


def seeds_over_cells(results: pd.DataFrame, labels: Mapping[str, str]) -> Figure | None:
    """Draw each seed as a line over the cells: what the pairing takes out is how far the lines lie apart."""
    wide = _by_cell_and_seed(results, list(labels))
    seeds = [seed for seed in wide.index if wide.loc[seed].notna().any()]
    if not seeds or len(wide.columns) < 2:
        return None
    names = [labels[cell] for cell in wide.columns]
    drawing = Drawing(height=240 + 6.3 * max(len(label(name, 22)) for name in names))
    axes = drawing.axes()
    x = np.arange(len(names))
    for at, seed in enumerate(seeds):
        y = wide.loc[seed].to_numpy(float)
        few = len(seeds) <= MOST_SEEDS_IN_COLOUR
        axes.plot(
            x, y, linewidth=1.4, markersize=4.5, color=SERIES[at] if few else LIGHT["muted"],
            linestyle=DASHES[at % len(DASHES)] if few else "-", marker=MARKERS[at % len(MARKERS)] if few else "o",
            alpha=1 if few else 0.6,
        )  # fmt: skip
        drawing.points(axes, f"seed {seed}", x, y, names, [_percent(value) for value in y])
    means = wide.mean().to_numpy(float)
    axes.hlines(means, x - 0.3, x + 0.3, color=LIGHT["ink"], linewidth=2.2)
    drawing.points(axes, "mean", x, means, names, [_percent(value) for value in means])
    _at_least_tall(axes)
    axes.set_xticks(x, [label(name, 22) for name in names], rotation=90)
    axes.set_xlim(-0.5, len(names) - 0.5)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.4g}%"))
    axes.set_ylabel(HEADLINE.label)
    rows: list[list[object]] = [[f"seed {seed}", *(_or_none(value) for value in wide.loc[seed])] for seed in seeds]
    rows.append(["mean", *(_or_none(value) for value in means)])
    reading = (
        "One line a seed, a bar the mean. Lines that run side by side share their luck: a comparison within each seed "
        "is then surer than the heights suggest."
    )
    return drawing.finish("seeds", "Every seed", reading, Table(["", *names], rows))


def interactions(
    results: pd.DataFrame, cells: Sequence[Cell], factors: Sequence[Factor], found: Sequence[Conclusion], most: int = 6
) -> list[Figure]:
    """Draw, for each pair of factors whose interaction the design estimates, one factor's levels under the other's."""
    pairs: dict[tuple[str, ...], list[Conclusion]] = {}
    for each in found:
        if each.contrast.kind == "interaction" and len(each.contrast.fields) == 2:
            pairs.setdefault(each.contrast.fields, []).append(each)
    by_field = {factor.field: factor for factor in factors}
    figures = []
    for fields, mine in list(pairs.items())[:most]:
        figure = _interaction(results, cells, by_field[fields[0]], by_field[fields[1]], mine)
        if figure is not None:
            figures.append(figure)
    return figures


def _interaction(
    results: pd.DataFrame, every: Sequence[Cell], first: Factor, second: Factor, found: Sequence[Conclusion]
) -> Figure | None:
    drawing = Drawing(height=270)
    axes = drawing.axes()
    compared = HEADLINE.compared(results)
    rows: list[list[object]] = []
    x = np.arange(len(first.levels))
    names = [level_text(level) for level in first.levels]
    handles = []
    for at, level in enumerate(second.levels):
        cells = []
        for one in first.levels:
            wanted = {(first.field, one), (second.field, level)}
            mine = [cell.name for cell in every if wanted <= set(cell.settings)]
            cells.append(compared[results["cell"].isin(mine)].dropna())
        means = np.asarray([values.mean() if len(values) else np.nan for values in cells], float)
        name = f"{second.field} {level_text(level)}"
        handles += axes.plot(
            x, means, color=SERIES[at % len(SERIES)], linestyle=DASHES[at % len(DASHES)],
            marker=MARKERS[at % len(MARKERS)], markersize=5,
        )  # fmt: skip
        told = [f"{_percent(mean)}, n={len(values)} runs" for mean, values in zip(means, cells, strict=True)]
        drawing.points(axes, name, x, means, [f"{first.field} {one}" for one in names], told)
        rows += [
            [f"{first.field} {one}", name, _or_none(mean), len(values)]
            for one, mean, values in zip(names, means, cells, strict=True)
        ]
    if not any(isinstance(row[2], float) for row in rows):
        return None
    _at_least_tall(axes)
    axes.set_xticks(x, [label(one, 16) for one in names])
    axes.set_xlim(-0.35, len(names) - 0.65)
    axes.set_xlabel(first.field)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.4g}%"))
    axes.set_ylabel(HEADLINE.label)
    named = [label(f"{second.field} {level_text(level)}", 20) for level in second.levels]
    drawing.canvas.legend(
        handles, named, loc="outside upper left", ncols=2, frameon=False, fontsize=10, handlelength=2.6
    )
    reading = (
        f"Lines side by side: {first.field} is worth the same at every {second.field}; lines that cross or part: it "
        "is not. Means over all runs with these levels."
    )
    if len(found) <= 2:
        reading += " " + "; ".join(f"{each.contrast.name}: {_in_words(each)}" for each in found) + "."
    columns = [first.field, second.field, f"{HEADLINE.label}, %", "runs"]
    name = "interaction-" + "-".join(_slug(field) for field in (first.field, second.field))
    title = f"{first.field} with {second.field}"
    return drawing.finish(name, title, reading, Table(columns, rows))


def _at_least_tall(axes: Any) -> None:
    """Show no less than what matters several times over: a trifle must not fill a plot."""
    least = 4 * (HEADLINE.margin or 0)
    low, high = axes.get_ylim()
    if high - low < least:
        middle = (low + high) / 2
        axes.set_ylim(middle - least / 2, middle + least / 2)


def _widest(found: Sequence[Conclusion]) -> list[Conclusion]:
    """Keep the order of the design, and of too many comparisons those with the largest effects."""
    if len(found) <= MOST_EFFECTS:
        return list(found)
    ranked = sorted(found, key=lambda each: -abs(each.inference.mean) if each.n else 1.0)
    kept = {id(each) for each in ranked[:MOST_EFFECTS]}
    return [each for each in found if id(each) in kept]


def _in_words(found: Conclusion, unit: str = "") -> str:
    if not found.n:
        return "no pair"
    told = found.outcome.show_effect(found.inference.mean) + (f" {unit}" if unit else "")
    between = f" {interval(found.outcome, found.inference.t)}" if found.inference.t else ""
    return f"{told}{between}, n={found.n}".replace("-", "−")


def _effects_behind(found: Sequence[Conclusion], outcome: Outcome) -> Table:
    rows = [
        [
            each.contrast.name,
            each.inference.mean if each.n else None,
            each.inference.t.low if each.inference.t else None,
            each.inference.t.high if each.inference.t else None,
            each.n,
            each.verdict,
            interval(outcome, each.inference.sign_flip).replace("-", "−"),
            interval(outcome, each.inference.bootstrap).replace("-", "−"),
            " ".join(outcome.show_effect(value) for value in each.values.values()) or "–",
        ]
        for each in found
    ]
    columns = ["change", f"effect, {outcome.unit}", "low", "high", "n pairs", "found", "interval by sign flip"]
    return Table([*columns, "by bootstrap", "each seed"], rows)


def _by_cell_and_seed(results: pd.DataFrame, cells: Sequence[str]) -> pd.DataFrame:
    compared = results[["seed", "cell"]].assign(value=HEADLINE.compared(results))
    wide: pd.DataFrame = compared.pivot_table(index="seed", columns="cell", values="value", dropna=False)
    return wide.reindex(columns=list(cells))


def _percent(value: float) -> str:
    return "–" if not np.isfinite(value) else f"{value:.2f}%"


def _or_none(value: float) -> float | None:
    return round(float(value), 4) if np.isfinite(value) else None


def _slug(text: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in text.lower().replace("_", "-"))
