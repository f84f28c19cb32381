"""What the searches of a study found, and the values that each chooses.

A search chooses the point with the best validation value of the metric that picks a run's checkpoint (`best_by` of the
recipe, as a rule accuracy). Of equal ones it takes the one with the lower validation loss, and then the earlier, so
that the recipe's own values win. A point that diverged is worse than every one that did not. Test images play no part.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from alexnet_ablations.declare.design import Cell
from alexnet_ablations.declare.splitting import cell_in_fold
from alexnet_ablations.declare.study import PlannedRun, Study
from alexnet_ablations.tune.searches import searches_of, tuning_runs

LESS_IS_BETTER = ("loss",)


@dataclass(frozen=True)
class Tried:
    """One point of a search, as far as its run got."""

    values: Mapping[str, float]
    state: str  # ok, diverged, or "" while the run has no verdict that counts
    metric: float = math.nan  # validation, of the checkpoint that was tested
    loss: float = math.nan  # validation


@dataclass(frozen=True)
class SearchResult:
    """What one search found."""

    cell: Cell
    number: int
    metric: str
    tried: tuple[Tried, ...]
    fold: str = ""  # that its choice is for

    @property
    def is_complete(self) -> bool:
        """Return whether every point has been tried to its end."""
        return all(one.state for one in self.tried)

    @property
    def chosen(self) -> int:
        """Return which point is chosen."""
        return choose(self.tried, self.metric)


class UnfinishedSearchError(ValueError):
    """A choice was asked for before every point had been tried."""


def choose(tried: Sequence[Tried], metric: str = "accuracy") -> int:
    """Return the index of the best point by the rule of this module; 0, the recipe's own, where all diverged."""
    sign = -1.0 if metric in LESS_IS_BETTER else 1.0

    def goodness(one: Tried) -> tuple[bool, float, float]:
        value = sign * one.metric if math.isfinite(one.metric) else -math.inf
        return one.state == "ok", value, -one.loss if math.isfinite(one.loss) else -math.inf

    return max(range(len(tried)), key=lambda at: (*goodness(tried[at]), -at))


def read_outcomes(study: Study) -> list[SearchResult]:
    """Read what every search of a study found so far, from its run folders."""
    return [
        SearchResult(
            search.cell,
            search.number,
            study.start.best_by,
            tuple(
                _tried(run, point, study.start.best_by) for run, point in zip(search.runs, search.points, strict=True)
            ),
            search.fold,
        )
        for search in searches_of(study)
    ]


def with_choices(study: Study) -> Study:
    """Return the study with the values that its searches chose; raise UnfinishedSearchError while runs are missing."""
    if study.tuning is None:
        return study
    outcomes = read_outcomes(study)
    missing = sum(not one.state for outcome in outcomes for one in outcome.tried)
    if missing:
        total = len(tuning_runs(searches_of(study)))
        raise UnfinishedSearchError(
            f"{missing} of {total} tuning runs have no result, so no values are chosen yet; the same command goes on"
        )
    chosen: dict[str, list[Mapping[str, float]]] = {}
    for outcome in outcomes:  # in the order of the seeds
        trained = cell_in_fold(outcome.cell, outcome.fold)
        chosen.setdefault(trained.name, []).append(dict(outcome.tried[outcome.chosen].values))
    return replace(study, chosen={cell: tuple(values) for cell, values in chosen.items()})


def within_budget(outcome: SearchResult, points: int) -> SearchResult:
    """Return what the search would have found with its first points alone."""
    return replace(outcome, tried=outcome.tried[:points])


def _tried(run: PlannedRun, values: Mapping[str, float], metric: str) -> Tried:
    if not run.is_done:
        return Tried(values, "")
    verdict = run.folder.verdict() or {}
    state = str(verdict.get("state", ""))
    if state != "ok":
        return Tried(values, state)
    validation = verdict["result"].get("validation") or {}
    return Tried(values, state, _number(validation.get(metric)), _number(validation.get("loss")))


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
