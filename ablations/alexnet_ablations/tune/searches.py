"""The runs of a study's searches: ordinary runs, of every cell at every point, under seeds of their own.

STUDY/tuning/<cell and values, and fold>/seed-<10000 + search>/

Where seeds divide the images into folds, each fold has a search of its own. It trains and validates on the images that
the runs of the comparison have for that fold, so that no choice sees an image that it is tested on.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from alexnet_ablations.declare.design import Cell
from alexnet_ablations.declare.splitting import cell_in_fold
from alexnet_ablations.declare.study import PlannedRun, Study
from alexnet_ablations.declare.tuning import FIRST_SEED
from alexnet_ablations.tune.points import points_of
from alexnet_lab.records import RunFolder

FOLDER = "tuning"


@dataclass(frozen=True)
class Search:
    """One search of one cell: the same points as every other, under one seed."""

    cell: Cell
    number: int  # from 0; with one search per seed, the seed that its choice is for
    points: tuple[dict[str, float], ...]
    runs: tuple[PlannedRun, ...]  # one for each point
    fold: str = ""  # that its choice is for, 1/5; empty without folds


def searches_of(study: Study) -> list[Search]:
    """Return every search of a study; none where nothing is tuned."""
    if study.tuning is None:
        return []
    points = tuple(points_of(study.tuning, study.start))
    return [
        Search(cell, number, points, tuple(_run(study, cell, point, number, fold) for point in points), fold)
        for number in range(study.tuning.searches(study.seeds))
        for fold in study.splitting.parts
        for cell in study.cells
    ]


def tuning_runs(searches: Sequence[Search]) -> list[PlannedRun]:
    """Return the runs of searches, point by point within a seed, so that what is interrupted is still balanced."""
    by_seed: dict[int, list[Search]] = {}
    for search in searches:
        by_seed.setdefault(search.number, []).append(search)
    return [
        run for together in by_seed.values() for row in zip(*(s.runs for s in together), strict=True) for run in row
    ]


def every_run(study: Study) -> list[PlannedRun]:
    """Return all runs of a study, those of its searches first."""
    return [*tuning_runs(searches_of(study)), *study.runs()]


def is_search(run: PlannedRun) -> bool:
    """Return whether a run belongs to a search, and not to the comparison."""
    return run.seed >= FIRST_SEED


def _run(study: Study, cell: Cell, point: dict[str, float], number: int, fold: str) -> PlannedRun:
    at_point = Cell((*cell.settings, *point.items()))
    trained = cell_in_fold(at_point, fold)
    seed = FIRST_SEED + number
    folder = RunFolder(study.folder / FOLDER / trained.name / f"seed-{seed}")
    start = study.splitting.start_of(study.start, number)  # the images of the seed that its choice is for
    return PlannedRun(trained, seed, trained.recipe(start, seed), folder, at_point if fold else None)
