"""A study from start to table, in one call."""

from typing import TYPE_CHECKING

from alexnet_ablations.conclude.outcomes import read_results
from alexnet_ablations.declare.study import Study
from alexnet_ablations.run.coordinator import Watcher, refuse_if_coordinated, run_all
from alexnet_ablations.run.progress import watcher_on
from alexnet_lab.live import Interrupted, screen

if TYPE_CHECKING:
    import pandas as pd


def run_study(study: Study, jobs: int | None = None, *, quiet: bool = False) -> "pd.DataFrame":
    """Make the runs that are missing, `jobs` at a time or as many as the machine carries, and show how far they are.

    Return one row per run: cell, factors, seed, state, and every outcome. Runs already in the folder are included. In a
    notebook, `study` by itself then shows what they say. Ctrl-C, or a notebook's stop button, lets the runs in progress
    save; the same call goes on from there.
    """
    refuse_if_coordinated(study.folder)
    study = study.open_folder()
    watcher = Watcher() if quiet else watcher_on(screen())
    try:
        run_all(study.folder, [run for run in study.runs() if not run.is_done], jobs, watcher)
    except KeyboardInterrupt:
        raise Interrupted(f"stopped, and saved in {study.folder}; the same call goes on from there") from None
    return read_results(study.runs(), level=study.level)
