"""The section on what was tuned: what each cell was tried at, what it chose, and what that changes in the effects."""

from collections.abc import Sequence

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from alexnet_ablations.conclude.budgets import (
    AtBudget,
    beside_sentences,
    effects_at_budgets,
    size_of,
)
from alexnet_ablations.declare.design import level_text
from alexnet_ablations.declare.study import Study
from alexnet_ablations.declare.tuning import TUNABLE, Tuning
from alexnet_ablations.report.blocks import Heading, Sentences
from alexnet_ablations.report.context import MOST_UNFOLDED, ReportContext
from alexnet_ablations.report.verdicts import typeset
from alexnet_ablations.tune.choice import LESS_IS_BETTER, SearchResult, read_outcomes
from alexnet_ablations.tune.sentences import chosen_values, edge_sentences, listed
from alexnet_lab.reports.curves import DASHES, MARKERS, Series, curves
from alexnet_lab.reports.drawing import Drawing, label
from alexnet_lab.reports.page import Block, Callout, Figure, FigureGrid, Paragraph, Section, Table
from alexnet_lab.reports.palette import LIGHT, SERIES

MOST_LINES = 8  # cells that share a figure
NARROW = 500.0  # a log axis from some value to so many times it has marks between powers of ten too
MOST_EFFECTS = 6  # comparisons that are drawn over the budget


def tuning_section(context: ReportContext) -> Section:
    """Return what the searches tried and chose, and the effects at the common values beside the tuned ones."""
    study = context.study
    tuning = study.tuning
    if tuning is None:
        return Section("Tuning", [Paragraph("Nothing was tuned: all cells share the recipe's values.")])
    outcomes = read_outcomes(study)
    ended = sum(bool(one.state) for outcome in outcomes for one in outcome.tried)
    total = sum(len(outcome.tried) for outcome in outcomes)
    blocks: list[Block] = [Paragraph(_method(study, tuning))]
    if ended < total:
        text = f"{ended} of {total} tuning runs have ended; the command that began the study goes on."
        blocks.append(Callout("warning", "The search is not finished", text))
    edges = [f"{typeset(_in_labels(text, context.labels))}." for text in edge_sentences(study, outcomes)]
    if edges:
        blocks.append(Callout("warning", "Best at the edge of what was tried", " ".join(edges)))
    budgets = effects_at_budgets(study, outcomes) if ended else []
    sentences = [f"{typeset(text)}." for text in beside_sentences(context.conclusions.headline, budgets)]
    if sentences:
        blocks += [Heading("At the common values, and with each cell tuned"), Sentences(sentences)]
    drawn = [_figure(context, outcomes, name) for name in tuning.names] if ended else []
    budget = _budget_figure(budgets, context)
    blocks.append(
        FigureGrid([*drawn, *([budget] if budget else [])]) if drawn else Paragraph("No point has ended yet.")
    )
    blocks.append(_chosen_table(context, outcomes))
    if budgets:
        blocks.append(_budget_table(budgets, context))
    return Section("Tuning", blocks)


def _method(study: Study, tuning: Tuning) -> str:
    names = " and ".join(name.replace("_", " ") for name in tuning.names)
    metric = study.start.best_by.replace("_", " ")
    folds = study.splitting.folds
    searches = f"{study.seeds * max(folds, 1)} times, once for each seed{' and fold' if folds else ''}"
    searched = "searched once" if tuning.once else f"searched {searches}"
    best = "lowest" if study.start.best_by in LESS_IS_BETTER else "highest"
    return (
        f"Each cell was {searched}: {tuning.points} values of {names}, the same in every cell, first the recipe's own. "
        f"A search chooses the {best} validation {metric}; of equal ones the lower validation loss, and then the "
        "earlier. A point that diverged is worse than every other. The comparison was then made under seeds that no "
        "search had used"
        + (
            ", and its interval does not include that another search might choose otherwise."
            if tuning.once
            else ", each with the values of its own search, so that its interval includes the choice."
        )
    )


def _figure(context: ReportContext, outcomes: Sequence[SearchResult], name: str) -> Figure:
    """Draw the validation metric over one field: a line or dots for each cell, rings at what was chosen."""
    study = context.study
    metric, scale = study.start.best_by, TUNABLE[name]
    alone = study.tuning is not None and len(study.tuning.names) == 1
    percent = 1.0 if metric == "loss" else 100.0
    drawing = Drawing(height=300)
    axes = drawing.axes()
    own = float(getattr(study.start, name))
    axes.axvline(own, color=LIGHT["muted"], linewidth=1, linestyle=(0, (4, 3)))
    cells = list(dict.fromkeys(outcome.cell.name for outcome in outcomes))[:MOST_LINES]
    handles: list[Line2D] = []
    rows: list[list[object]] = []
    for at, cell in enumerate(cells):
        mine = [outcome for outcome in outcomes if outcome.cell.name == cell]
        colour, marker = SERIES[at % len(SERIES)], MARKERS[at % len(MARKERS)]
        tried = sorted(
            (one.values[name], percent * float(np.mean([search.tried[place].metric for search in mine])), place)
            for place, one in enumerate(mine[0].tried)
        )
        x, y = [value for value, _, _ in tried], [mean for _, mean, _ in tried]
        handles += axes.plot(
            x, y, color=colour, marker=marker, markersize=4, linestyle=DASHES[at % len(DASHES)] if alone else "none"
        )
        details = [_reached(value, metric) for value in y]
        drawing.points(axes, context.labels[cell], x, y, [f"{name} {value:g}" for value in x], details)
        chosen = {search.chosen for search in mine if search.is_complete}
        rings = [(value, mean) for value, mean, place in tried if place in chosen]
        axes.plot(
            [value for value, _ in rings], [mean for _, mean in rings], marker="o", markersize=10, linestyle="none",
            markerfacecolor="none", markeredgecolor=colour, markeredgewidth=1.5,
        )  # fmt: skip
        for value, mean, place in tried:
            diverged = sum(search.tried[place].state == "diverged" for search in mine)
            searches = sum(search.is_complete and search.chosen == place for search in mine)
            rows.append(
                [context.labels[cell], value, round(mean, 4) if np.isfinite(mean) else None, diverged, searches]
            )
    if scale == "log" and min((row[1] for row in rows if isinstance(row[1], float)), default=0.0) > 0:
        axes.set_xscale("log")
        low, high = axes.get_xlim()
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0) if high < NARROW * low else (1.0,)))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
    if metric != "loss":
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.4g}%"))
    axes.set_xlabel(name.replace("_", " "))
    axes.set_ylabel(f"validation {metric.replace('_', ' ')}")
    drawing.canvas.legend(
        handles, [label(context.labels[cell], 25) for cell in cells], loc="outside upper left",
        ncols=1 if max(len(context.labels[cell]) for cell in cells) > 17 else 2, frameon=False, fontsize=10,
        handlelength=2.6,
    )  # fmt: skip
    several = "mean over searches" if any(outcome.number or outcome.fold for outcome in outcomes) else "one search"
    reading = (
        f"Each point: {several}. A ring: chosen by at least one search. Dashed: the recipe's own value, {own:g}. A "
        "point that diverged is left out, and counted in the table."
    )
    if not alone:
        reading += " The other tuned fields differ from point to point, so there are no lines."
    every = len(dict.fromkeys(outcome.cell.name for outcome in outcomes))
    if every > len(cells):
        reading += f" {len(cells)} of {every} cells, the first."
    columns = ["cell", name, f"validation {metric}", "diverged", "chosen by"]
    title = f"Validation over {name.replace('_', ' ')}"
    return drawing.finish(f"tuning-{name.replace('_', '-')}", title, reading, Table(columns, rows))


def _budget_figure(budgets: Sequence[AtBudget], context: ReportContext) -> Figure | None:
    """Draw the effects over the number of points that were tried; None where there is one search only."""
    effects = [item for item in budgets[0].conclusions if item.contrast.kind == "effect"] if budgets else []
    if len(budgets) < 2 or not any(item.shown for item in effects):
        return None
    lines = []
    for at, first in enumerate(effects[:MOST_EFFECTS]):
        items = [budget.conclusions[budgets[0].conclusions.index(effects[at])] for budget in budgets]
        lines.append(
            Series(
                first.contrast.name,
                [budget.points for budget in budgets],
                [item.inference.mean for item in items],
                [item.shown.low if item.shown else item.inference.mean for item in items],
                [item.shown.high if item.shown else item.inference.mean for item in items],
                [f"n={item.n}" for item in items],
            )
        )
    reading = (
        "Each cell at the best of its first points; 1 is the recipe's own values. Band: 95%, paired by search, so that "
        "it includes the choice. From the runs of the searches, whose test images no choice has seen."
    )
    if len(effects) > MOST_EFFECTS:
        reading += f" {MOST_EFFECTS} of {len(effects)} comparisons, the first; all of them are in the table."
    outcome = effects[0].outcome
    return curves(
        "tuning-budget",
        "Effect over the budget",
        reading,
        lines,
        y_label=outcome.measured,
        x_label="points tried",
        marks=[(0.0, "no difference")],
        height=300,
    )


def _chosen_table(context: ReportContext, outcomes: Sequence[SearchResult]) -> Table:
    tuning = context.study.tuning
    names = tuning.names if tuning is not None else ()
    metric = context.study.start.best_by
    rows: list[list[object]] = []
    for cell in dict.fromkeys(outcome.cell.name for outcome in outcomes):
        mine = [outcome for outcome in outcomes if outcome.cell.name == cell and outcome.is_complete]
        own = [search.tried[0].metric for search in mine]
        best = [search.tried[search.chosen].metric for search in mine]
        diverged = sum(one.state == "diverged" for search in mine for one in search.tried)
        factor = 1.0 if metric == "loss" else 100.0
        rows.append([
            context.labels[cell],
            *(typeset(listed(chosen_values(outcomes, cell, name))) for name in names),
            _reached(factor * float(np.mean(own)), metric) if own else "–",
            _reached(factor * float(np.mean(best)), metric) if best else "–",
            f"{diverged} of {sum(len(search.tried) for search in mine)}",
        ])  # fmt: skip
    own_values = ", ".join(f"{name} {level_text(getattr(context.study.start, name))}" for name in names)
    columns = ["cell", *(f"chosen {name.replace('_', ' ')}" for name in names), "at the recipe's own", "at the chosen"]
    caption = (
        f"What each search chose, and the validation {metric.replace('_', ' ')} at the recipe's own ({own_values}) and "
        "at the chosen, mean over searches. What was chosen for being high is higher than it will be again."
    )
    folded = len(rows) > MOST_UNFOLDED
    return Table([*columns, "diverged"], rows, caption, folded=folded)


def _budget_table(budgets: Sequence[AtBudget], context: ReportContext) -> Table:
    tuned = {item.contrast.name: item for item in context.conclusions.headline}
    rows: list[list[object]] = []
    for at, first in enumerate(budgets[0].conclusions):
        last = tuned.get(first.contrast.name)
        rows.append([
            first.contrast.name,
            *(typeset(size_of(budget.conclusions[at])) for budget in budgets),
            typeset(size_of(last)) if last is not None else "–",
        ])  # fmt: skip
    columns = [
        "comparison",
        *("common values" if b.points == 1 else f"best of {b.points}" for b in budgets),
        "the comparison, fresh seeds",
    ]
    caption = "Effects over the budget, with 95% intervals; all but the last column from the runs of the searches"
    return Table(columns, rows, caption, folded=True)


def _reached(value: float, metric: str) -> str:
    if not np.isfinite(value):
        return "–"
    return f"{value:.4g}" if metric == "loss" else f"{value:.2f}%"


def _in_labels(text: str, labels: dict[str, str]) -> str:
    cell, _, rest = text.partition(":")
    return f"{labels.get(cell, cell)}:{rest}"
