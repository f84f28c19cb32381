"""A study from start to table, in one call."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from alexnet_ablations.conclude.outcomes import read_results
from alexnet_ablations.declare.study import PlannedRun, Study, refuse_unfit_weights
from alexnet_ablations.run.coordinator import Watcher, refuse_if_coordinated, run_all
from alexnet_ablations.run.executors import Engine
from alexnet_ablations.run.progress import watcher_on
from alexnet_ablations.run.splits import check_splits
from alexnet_ablations.tune.choice import with_choices
from alexnet_ablations.tune.searches import every_run, searches_of, tuning_runs
from alexnet_lab.live import Interrupted, screen

if TYPE_CHECKING:
    import pandas as pd


def run_study(
    study: Study, jobs: int | None = None, *, executor: str | Engine = "local", quiet: bool = False
) -> "pd.DataFrame":
    """Make the runs that are missing, `jobs` at a time or as many as the machine carries, and show how far they are.

    `executor` is an engine, such as `Slurm(partition="gpu", time="4h")` or `Ray(ray_address="auto")`, or its name.
    Return one row per cell and seed: cell, factors, seed, state, and every outcome. Runs already in the folder are
    included. In a notebook, `study` by itself then shows what they say. Ctrl-C, or a notebook's stop button, lets the
    runs in progress save; the same call goes on from there. A study that is tuned is searched first; its rows are those
    of the comparison, and read_study(...) of its folder has the chosen values.
    """
    refuse_if_coordinated(study.folder)
    grown = study.grown_from_folder()
    missing = [run for run in every_run(grown) if not run.is_done]
    refuse_unfit_weights(missing)
    if missing and grown.splitting.is_by_seed:
        check_splits(grown)

    def make(runs: Sequence[PlannedRun]) -> None:
        watcher = Watcher() if quiet else watcher_on(screen())
        run_all(study.folder, runs, jobs, watcher, executor=executor)

    try:
        study = make_in_stages(study.open_folder(), make)
    except KeyboardInterrupt:
        raise Interrupted(f"stopped, and saved in {study.folder}; the same call goes on from there") from None
    return read_results(study.runs(), level=study.level)


def make_in_stages(study: Study, make: Callable[[Sequence[PlannedRun]], object]) -> Study:
    """Make what is missing of the searches, choose, and make what is missing of the comparison at the chosen values.

    Return the study with its choices, which its study.toml then holds. Raises UnfinishedSearchError if a search could
    not be completed.
    """
    searches = [run for run in tuning_runs(searches_of(study)) if not run.is_done]
    if searches:
        make(searches)
    if study.tuning is not None:
        study = with_choices(study).open_folder()
    make([run for run in study.runs() if not run.is_done])
    return study
