"""Figures of the conclusions: effects with their intervals and pairs, seeds over cells, interactions."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.ticker import FuncFormatter, MaxNLocator

from alexnet_ablations.conclude.conclusions import Conclusion
from alexnet_ablations.conclude.outcomes import Outcome, headline_of
from alexnet_ablations.conclude.sentences import averaged, effect, false_claim_text, interval_text
from alexnet_ablations.declare.design import Cell, Factor, level_text
from alexnet_ablations.report.verdicts import typeset
from alexnet_lab.reports.curves import DASHES, MARKERS, Interval, intervals
from alexnet_lab.reports.drawing import Drawing, in_rows, label
from alexnet_lab.reports.page import Figure, Table
from alexnet_lab.reports.palette import LIGHT, SERIES

MOST_EFFECTS = 20  # rows of an effect plot; the rest stands in its table
MOST_SEEDS_IN_COLOUR = 7


def forest(conclusions: Sequence[Conclusion], zero: str) -> Figure:
    """Draw every effect on the headline outcome with its interval, and below each the pairs it is the mean of.

    `zero` says what an effect of 0 is.
    """
    outcome, margin = conclusions[0].outcome, conclusions[0].inference.margin
    drawn = _widest(conclusions)
    population = next((item.population for item in conclusions if item.population), "")
    over_images = next((item for item in conclusions if item.inference.images), None)
    reading = (
        "Dot and bar: mean difference and its 95% interval, paired by seed; a full dot where the bar leaves 0 out. "
        "Small rings: one seed each. "
    )
    if any(item.inference.overlap for item in conclusions):
        reading += f"Each seed has training and test images of its own; the bar is {population}. "
    elif over_images is None:
        reading += f"The bar is about other seeds {population}. "
    else:
        others = over_images.population.removeprefix("for ")
        reading += f"The rings are {over_images.tested_on}; the bar is about other seeds and {others}. "
    if margin:
        reading += f"Shaded: less than {outcome.show_margin(margin)} either way, too small to matter. "
    reading += zero
    if len(drawn) < len(conclusions):
        reading += f" {len(drawn)} of {len(conclusions)} comparisons, the largest; all of them are in the table."
    return intervals(
        "effects",
        ", ".join(filter(None, (f"Effects on {outcome.label}", outcome.unit))),
        reading,
        [_row(item) for item in drawn],
        unit=outcome.measured,
        negligible=margin or 0.0,
        table=_effects_table(conclusions, outcome),
    )


def _row(conclusion: Conclusion) -> Interval:
    interval, outcome = conclusion.shown, conclusion.outcome
    several = len(conclusion.values) > 1
    return Interval(
        conclusion.contrast.name,
        conclusion.inference.mean,
        interval.low if interval else math.nan,
        interval.high if interval else math.nan,
        detail=f"{_in_words(conclusion, outcome.unit)}: {conclusion.verdict}{_check(conclusion)}",
        text=_in_words(conclusion),
        points=[(f"seed {seed}", value, typeset(effect(outcome, value))) for seed, value in conclusion.values.items()]
        if several
        else (),
    )


def seeds_over_cells(results: pd.DataFrame, labels: Mapping[str, str]) -> Figure | None:
    """Draw each seed as a line over the cells: what the pairing takes out is how far the lines lie apart."""
    outcome = headline_of(results)
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
        drawing.points(axes, f"seed {seed}", x, y, names, [outcome.show_finely(value) for value in y])
    means = wide.mean().to_numpy(float)
    axes.hlines(means, x - 0.3, x + 0.3, color=LIGHT["ink"], linewidth=2.2)
    drawing.points(axes, "mean", x, means, names, [outcome.show_finely(value) for value in means])
    _at_least_tall(axes, outcome)
    axes.set_xticks(x, [label(name, 22) for name in names], rotation=90)
    axes.set_xlim(-0.5, len(names) - 0.5)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.4g}{'%' if outcome.percent else ''}"))
    axes.set_ylabel(outcome.label)
    rows: list[list[object]] = [[f"seed {seed}", *(_or_none(value) for value in wide.loc[seed])] for seed in seeds]
    rows.append(["mean", *(_or_none(value) for value in means)])
    reading = (
        "One line a seed, a bar the mean. Lines that run side by side rise and fall with the seed: a comparison within "
        "each seed is then surer than the heights suggest."
    )
    return drawing.finish("seeds", "Every seed", reading, Table(["", *names], rows))


def interactions(
    results: pd.DataFrame,
    cells: Sequence[Cell],
    factors: Sequence[Factor],
    headline: Sequence[Conclusion],
    most: int = 6,
) -> list[Figure]:
    """Draw, for each pair of factors whose interaction the design estimates, one factor's levels under the other's."""
    pairs: dict[tuple[str, ...], list[Conclusion]] = {}
    for item in headline:
        if item.contrast.kind == "interaction" and len(item.contrast.fields) == 2:
            pairs.setdefault(item.contrast.fields, []).append(item)
    by_field = {factor.field: factor for factor in factors}
    figures = []
    for fields, mine in list(pairs.items())[:most]:
        figure = _interaction(results, cells, by_field[fields[0]], by_field[fields[1]], mine)
        if figure is not None:
            figures.append(figure)
    return figures


def _interaction(
    results: pd.DataFrame, every: Sequence[Cell], first: Factor, second: Factor, conclusions: Sequence[Conclusion]
) -> Figure | None:
    drawing = Drawing(height=270)
    axes = drawing.axes()
    outcome = headline_of(results)
    compared = outcome.compared(results)
    rows: list[list[object]] = []
    x = np.arange(len(first.levels))
    names = [level_text(level) for level in first.levels]
    handles = []
    for at, level in enumerate(second.levels):
        cells = []
        for one in first.levels:
            levels = {(first.field, one), (second.field, level)}
            mine = [cell.name for cell in every if levels <= set(cell.settings)]
            cells.append(compared[results["cell"].isin(mine)].dropna())
        means = np.asarray([values.mean() if len(values) else np.nan for values in cells], float)
        name = f"{second.field} {level_text(level)}"
        handles += axes.plot(
            x, means, color=SERIES[at % len(SERIES)], linestyle=DASHES[at % len(DASHES)],
            marker=MARKERS[at % len(MARKERS)], markersize=5,
        )  # fmt: skip
        details = [
            f"{outcome.show_finely(mean)}, n={len(values)} runs" for mean, values in zip(means, cells, strict=True)
        ]
        drawing.points(axes, name, x, means, [f"{first.field} {one}" for one in names], details)
        rows += [
            [f"{first.field} {one}", name, _or_none(mean), len(values)]
            for one, mean, values in zip(names, means, cells, strict=True)
        ]
    if not any(isinstance(row[2], float) for row in rows):
        return None
    _at_least_tall(axes, outcome)
    axes.set_xticks(x, [label(one, 16) for one in names])
    axes.set_xlim(-0.35, len(names) - 0.65)
    axes.set_xlabel(first.field)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.4g}{'%' if outcome.percent else ''}"))
    axes.set_ylabel(outcome.label)
    named = [label(f"{second.field} {level_text(level)}", 20) for level in second.levels]
    drawing.canvas.legend(
        in_rows(handles), in_rows(named), loc="outside upper left", ncols=2, frameon=False, fontsize=10,
        handlelength=2.6,
    )  # fmt: skip
    reading = (
        f"Lines side by side: {first.field} is worth the same at every {second.field}; lines that cross or part: it "
        "is not. Each point is the mean over all runs with these levels, whatever their other levels."
    )
    if len(conclusions) <= 2:
        details = [f"{item.contrast.name}{averaged(item.contrast)}: {_in_words(item)}" for item in conclusions]
        reading += f" {'; '.join(details)}."
    columns = [first.field, second.field, outcome.label + (", %" if outcome.percent else ""), "runs"]
    name = "interaction-" + "-".join(_slug(field) for field in (first.field, second.field))
    title = f"{first.field} with {second.field}"
    return drawing.finish(name, title, reading, Table(columns, rows))


def _at_least_tall(axes: Any, outcome: Outcome) -> None:
    """Show no less than what matters several times over: a trifle must not fill a plot."""
    least = 4 * (0.0 if outcome.margin is None else outcome.margin)
    low, high = axes.get_ylim()
    if high - low < least:
        middle = (low + high) / 2
        axes.set_ylim(middle - least / 2, middle + least / 2)


def _widest(conclusions: Sequence[Conclusion]) -> list[Conclusion]:
    """Keep the order of the design, and of too many comparisons those with the largest effects."""
    if len(conclusions) <= MOST_EFFECTS:
        return list(conclusions)
    ranked = sorted(conclusions, key=lambda item: -abs(item.inference.mean) if item.n else 1.0)
    largest = {id(item) for item in ranked[:MOST_EFFECTS]}
    return [item for item in conclusions if id(item) in largest]


def _in_words(conclusion: Conclusion, unit: str = "") -> str:
    if not conclusion.n:
        return "no pair"
    size = f"{conclusion.outcome.show_effect(conclusion.inference.mean)} {unit}".strip()
    between = f" {interval_text(conclusion.outcome, conclusion.shown)}" if conclusion.shown else ""
    return typeset(f"{size}{between}, n={conclusion.n}")


def _check(conclusion: Conclusion) -> str:
    if conclusion.false_claim is None:
        return ""
    return f"; probability of a false claim {false_claim_text(conclusion)}"


def _effects_table(conclusions: Sequence[Conclusion], outcome: Outcome) -> Table:
    rows = [
        [
            item.contrast.name,
            item.inference.mean if item.n else None,
            item.shown.low if item.shown else None,
            item.shown.high if item.shown else None,
            item.n,
            item.verdict,
            typeset(interval_text(outcome, item.within_possible(item.inference.sign_flip))),
            typeset(" ".join(outcome.show_effect(value) for value in item.values.values())) or "–",
        ]
        for item in conclusions
    ]
    columns = [
        "change",
        f"effect, {outcome.unit or outcome.label}",
        "low",
        "high",
        "n pairs",
        "verdict",
        "interval by sign flip",
    ]
    return Table([*columns, "each seed"], rows)


def _by_cell_and_seed(results: pd.DataFrame, cells: Sequence[str]) -> pd.DataFrame:
    compared = results[["seed", "cell"]].assign(value=headline_of(results).compared(results))
    wide: pd.DataFrame = compared.pivot_table(index="seed", columns="cell", values="value", dropna=False)
    return wide.reindex(columns=list(cells))


def _or_none(value: float) -> float | None:
    return round(float(value), 4) if np.isfinite(value) else None


def _slug(text: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in text.lower().replace("_", "-"))
