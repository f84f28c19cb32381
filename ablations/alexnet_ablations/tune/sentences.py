"""What a search costs and chose, in words."""

from collections.abc import Sequence

from alexnet_ablations.declare.study import Study
from alexnet_ablations.declare.tuning import TUNABLE, TunedField
from alexnet_ablations.tune.choice import SearchResult
from alexnet_ablations.tune.searches import searches_of, tuning_runs
from alexnet_lab.training.recipe import Recipe

MOST_VALUES = 6  # chosen values that a sentence lists
WIDER = 10.0  # by how much a range that was too narrow is extended, on a log scale


def plan_sentence(study: Study, missing: int) -> str:
    """Say what is searched, how, and how many runs that takes before the comparison."""
    tuning = study.tuning
    assert tuning is not None  # noqa: S101  # only studies that are tuned have a plan of it
    searches = searches_of(study)
    runs, points = len(tuning_runs(searches)), len(searches[0].points)
    ranges = []
    for field in tuning.fields:
        low, high = field.bounds(study.start)
        ranges.append(f"{field.field} {low:.3g} to {high:.3g}")
    unit = "each cell" if tuning.once else "each cell under each seed"
    if study.splitting.folds:
        unit += " and in each fold"
    done = f"; {runs - missing} already done" if missing < runs else ""
    return (
        f"tuned first: {', '.join(ranges)}, {points} points for {unit} = {runs} runs{done}; "
        f"chosen by validation {study.start.best_by.replace('_', ' ')}"
    )


def chosen_values(outcomes: Sequence[SearchResult], cell: str, name: str) -> list[float]:
    """Return the values of a field that the finished searches of a cell chose, by search."""
    return [one.tried[one.chosen].values[name] for one in outcomes if one.cell.name == cell and one.is_complete]


def chosen_sentences(outcomes: Sequence[SearchResult]) -> list[str]:
    """Say for each cell which values its searches chose."""
    sentences = []
    for cell in dict.fromkeys(one.cell.name for one in outcomes):
        parts = []
        for name in outcomes[0].tried[0].values:
            values = chosen_values(outcomes, cell, name)
            parts.append(f"{name} {listed(values)}")
        sentences.append(f"{cell}: best on validation at {', '.join(parts)}")
    return sentences


def edge_sentences(study: Study, outcomes: Sequence[SearchResult]) -> list[str]:
    """Warn of each cell whose best value is the lowest or highest that was tried, in half of its searches or more."""
    sentences = []
    fields = study.tuning.fields if study.tuning is not None else ()
    for cell in dict.fromkeys(one.cell.name for one in outcomes if one.is_complete):
        for field in fields:
            name = field.field
            tried = sorted({one.values[name] for search in outcomes for one in search.tried})
            values = chosen_values(outcomes, cell, name)
            for end, word in ((tried[0], "lowest"), (tried[-1], "highest")):
                at = sum(value == end for value in values)
                if 2 * at >= len(values) and len(tried) > 1:
                    share = "" if len(values) == 1 else f" in {at} of {len(values)} searches"
                    remedy = _remedy(field, study.start, word) if _can_go_on(name, end, word) else ""
                    best = f"the best {name.replace('_', ' ')}, {end:g}, is the {word} that was tried"
                    sentences.append(f"{cell}: {best}{share}{remedy}")
    return sentences


def listed(values: Sequence[float]) -> str:
    """Write the values of several searches: 0.0214 in all of 3, or 0.01, 0.0214 and 1 more."""
    if not values:
        return "not chosen yet"
    if len(set(values)) == 1:
        return f"{values[0]:g}" + (f" in all {len(values)} searches" if len(values) > 1 else "")
    text = ", ".join(f"{value:g}" for value in values[:MOST_VALUES])
    return text + (f" and {len(values) - MOST_VALUES} more" if len(values) > MOST_VALUES else "")


def _can_go_on(name: str, end: float, word: str) -> bool:
    """Say whether there is a value beyond this end: warm-up and smoothing begin at 0."""
    return not (TUNABLE[name] == "linear" and word == "lowest" and end == 0)


def _remedy(field: TunedField, start: Recipe, word: str) -> str:
    low, high = field.bounds(start)
    if TUNABLE[field.field] == "log":
        low, high = (low / WIDER, high) if word == "lowest" else (low, high * WIDER)
        return f"; a better one may lie beyond: --tune {field.field}={low:.3g}..{high:.3g} in another folder"
    return f"; a better one may lie beyond: give --tune {field.field} a wider range, in another folder"
