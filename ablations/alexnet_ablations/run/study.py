"""A study from start to table, in one call."""

from typing import TYPE_CHECKING

from alexnet_ablations.conclude.outcomes import read_results
from alexnet_ablations.declare.study import Study, refuse_unfit_weights
from alexnet_ablations.run.coordinator import refuse_if_coordinated, run_all
from alexnet_ablations.run.executors import Engine

if TYPE_CHECKING:
    import pandas as pd


def run_study(study: Study, jobs: int | None = None, *, executor: str | Engine = "local") -> "pd.DataFrame":
    """Make the runs that are missing, `jobs` at a time or as many as the machine carries.

    `executor` is an engine, such as `Slurm(partition="gpu", time="4h")` or `Ray(ray_address="auto")`, or its name.
    Return one row per run: cell, factors, seed, state, and every outcome. Runs already in the folder are included.
    """
    refuse_if_coordinated(study.folder)
    missing = [run for run in study.grown_from_folder().runs() if not run.is_done]
    refuse_unfit_weights(missing)
    study = study.open_folder()
    run_all(study.folder, missing, jobs, executor=executor)
    return read_results(study.runs(), level=study.level)
