"""Trackers that a study can be copied to: TensorBoard event files and MLflow.

A sink may raise and may be slow; tracking.py keeps both from the study. It hears of a run in this order: started, its
epochs, ended. A study that continues repeats a run from its first epoch, and a sink keeps each number once.
"""

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from alexnet_lab.choices import unknown_choice
from alexnet_lab.reports.export import scalar_tag

if TYPE_CHECKING:
    from mlflow.entities import Run
    from torch.utils.tensorboard import SummaryWriter

INSTALL = 'pip install "alexnet-lab[tracking]"'
OURS = ".alexnet-lab"  # ends the names of our event files: a repeated run replaces its own and leaves others
RUN_TAG = "alexnet_lab.run"


@dataclass(frozen=True)
class TrackedRun:
    """A run as a sink knows it."""

    study: str
    cell: str
    seed: int
    settings: Mapping[str, Any] = field(default_factory=dict)  # the levels that make its cell
    recipe: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Return the name that no other run of the study has."""
        return f"{self.cell}/seed-{self.seed}"


class Sink(Protocol):
    """A tracker that gets a copy of a study's numbers."""

    def run_started(self, run: TrackedRun) -> None:
        """Begin a run, before its first epoch."""

    def epoch(self, run: TrackedRun, row: Mapping[str, Any]) -> None:
        """Take one line of metrics.jsonl."""

    def run_ended(self, run: TrackedRun, verdict: Mapping[str, Any]) -> None:
        """Take the verdict: state, why, and the result on validation and test."""

    def close(self) -> None:
        """Finish writing."""


def open_sink(text: str) -> Sink:
    """Open `tensorboard:DIR` or `mlflow:URI`; raise ValueError for what can be refused without a network."""
    kind, _, argument = text.partition(":")
    if kind not in KINDS:
        raise unknown_choice("tracker", kind, KINDS)
    if not argument:
        raise ValueError(f"a tracker is written {EXAMPLES[kind]}; got {text!r}")
    return KINDS[kind](argument)


def test_metrics(verdict: Mapping[str, Any]) -> dict[str, float]:
    """Return the test metrics that are one number each; empty where the run was not tested."""
    metrics = verdict.get("result", {}).get("test", {})
    return {f"test_{name}": float(value) for name, value in metrics.items() if isinstance(value, int | float)}


class TensorBoardSink:
    """One folder of event files per run, DIR/<study>/<cell>/seed-<k>; cells by their levels under HPARAMS."""

    def __init__(self, folder: str) -> None:
        try:
            import tensorboard  # noqa: F401  # torch's writer needs it
        except ImportError:
            raise ValueError(f"tracking needs tensorboard, which is not installed: {INSTALL}") from None
        self.folder = Path(folder).expanduser()
        existing = next(path for path in (self.folder, *self.folder.absolute().parents) if path.exists())
        if not existing.is_dir():
            raise ValueError(f"tensorboard:{folder} must name a folder, and {existing} is a file; name another")
        self.writers: dict[str, SummaryWriter] = {}

    def run_started(self, run: TrackedRun) -> None:
        """Open the run's event file, replacing an earlier one of ours."""
        from torch.utils.tensorboard import SummaryWriter

        folder = self.folder / run.study / run.name
        folder.mkdir(parents=True, exist_ok=True)
        for stale in folder.glob(f"events.out.tfevents.*{OURS}"):
            stale.unlink()
        self.writers[run.name] = SummaryWriter(str(folder), filename_suffix=OURS)

    def epoch(self, run: TrackedRun, row: Mapping[str, Any]) -> None:
        """Write a scalar per metric, at the epoch's last step."""
        writer = self.writers[run.name]
        for name, value in row.items():
            if name not in ("epoch", "step") and isinstance(value, int | float):
                writer.add_scalar(scalar_tag(name), value, row["step"])
        writer.flush()

    def run_ended(self, run: TrackedRun, verdict: Mapping[str, Any]) -> None:
        """Write the test metrics and the cell's levels, and close the file."""
        from torch.utils.tensorboard.summary import hparams

        writer = self.writers.pop(run.name)
        figures = test_metrics(verdict)
        for name, value in figures.items():
            writer.add_scalar(scalar_tag(name), value, verdict["result"].get("steps"))
        writer.add_text("verdict", f"{verdict['state']}. {verdict['why']}")
        # All as text: one column may hold 0.5 and `published`.
        levels = {name: "published" if level is None else str(level) for name, level in run.settings.items()}
        settings = {**levels, "seed": run.seed}
        # add_hparams would write to a separate file with a name of its own.
        for summary in hparams(settings, {scalar_tag(name): 0 for name in figures}):  # type: ignore[no-untyped-call]
            writer.file_writer.add_summary(summary)  # type: ignore[attr-defined]  # set once the writer has a file
        writer.close()

    def close(self) -> None:
        """Close the files of runs that were interrupted."""
        for writer in self.writers.values():
            writer.close()


class MlflowSink:
    """An experiment per study, an MLflow run per run; by mlflow-skinny, which writes to servers and folders."""

    def __init__(self, address: str) -> None:
        # MLflow reports its use to its makers unless told not to.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("DO_NOT_TRACK", "true")
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
        # By default it tries seven times for two minutes each, longer than many a study lasts.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
        # Later versions write to a folder only if this is set.
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        try:
            from mlflow import MlflowClient
            from mlflow.exceptions import MlflowException
        except ImportError:
            raise ValueError(f"tracking needs mlflow-skinny, which is not installed: {INSTALL}") from None
        try:
            self.client = MlflowClient(tracking_uri=address)
            if not address.startswith("http"):
                self.client.search_experiments(max_results=1)
        except (MlflowException, OSError) as error:
            raise ValueError(
                f"mlflow cannot write to {address!r} ({str(error).strip().partition('. ')[0]}); give a server, "
                "http://..., or a folder, file:///...; a database needs the whole of it: pip install mlflow"
            ) from None
        self.experiments: dict[str, str] = {}
        self.runs: dict[str, str] = {}
        self.logged: dict[str, int] = {}

    def run_started(self, run: TrackedRun) -> None:
        """Begin a run, or continue the one that an interrupted study began."""
        from mlflow.entities import Param

        experiment = self._experiment(run.study)
        existing = self._known(experiment, run)
        if existing is not None and existing.data.tags.get("state") == "ok":
            return  # all of it is there
        if existing is not None:
            self.runs[run.name] = existing.info.run_id
            self.logged[run.name] = int(existing.data.metrics.get("epoch", 0))
            self.client.update_run(existing.info.run_id, status="RUNNING")
            return
        tags = {RUN_TAG: run.name, "cell": run.cell, "seed": str(run.seed)}
        begun = self.client.create_run(experiment, tags=tags, run_name=run.name)
        self.runs[run.name], self.logged[run.name] = begun.info.run_id, 0
        params = [Param(name, value) for name, value in _params(run).items()]
        self.client.log_batch(begun.info.run_id, params=params)

    def epoch(self, run: TrackedRun, row: Mapping[str, Any]) -> None:
        """Log the metrics of an epoch that MLflow does not have yet."""
        if run.name not in self.runs or row["epoch"] <= self.logged[run.name]:
            return
        self._log(run, {name: value for name, value in row.items() if name != "step"}, row["step"])
        self.logged[run.name] = row["epoch"]

    def run_ended(self, run: TrackedRun, verdict: Mapping[str, Any]) -> None:
        """Log the test metrics and the verdict."""
        if run.name not in self.runs:
            return
        self._log(run, test_metrics(verdict), verdict.get("result", {}).get("steps", 0))
        identity = self.runs.pop(run.name)
        self.client.set_tag(identity, "state", verdict["state"])
        self.client.set_tag(identity, "why", verdict["why"][:5000])  # servers refuse longer ones
        self.client.set_terminated(identity, "FINISHED" if verdict["state"] == "ok" else "FAILED")

    def close(self) -> None:
        """Mark the runs that were interrupted as killed."""
        for identity in self.runs.values():
            self.client.set_terminated(identity, "KILLED")

    def _experiment(self, study: str) -> str:
        if study not in self.experiments:
            existing = self.client.get_experiment_by_name(study)
            self.experiments[study] = existing.experiment_id if existing else self.client.create_experiment(study)
        return self.experiments[study]

    def _known(self, experiment: str, run: TrackedRun) -> "Run | None":
        candidates = self.client.search_runs([experiment], f"tags.`{RUN_TAG}` = '{run.name}'")
        # A run with another recipe is another run, even under the same name.
        return next((candidate for candidate in candidates if candidate.data.params == _params(run)), None)

    def _log(self, run: TrackedRun, values: Mapping[str, Any], step: int) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        metrics = [
            Metric(name, float(value), now, step) for name, value in values.items() if isinstance(value, int | float)
        ]
        self.client.log_batch(self.runs[run.name], metrics=metrics)


def _params(run: TrackedRun) -> dict[str, str]:
    """Return the recipe as MLflow parameters, without empty ones, which some servers refuse."""
    return {name: str(value) for name, value in run.recipe.items() if value != ""}


KINDS: Mapping[str, Callable[[str], Sink]] = {"tensorboard": TensorBoardSink, "mlflow": MlflowSink}
EXAMPLES: Mapping[str, str] = {
    "tensorboard": "tensorboard:FOLDER, as in tensorboard:runs/tb",
    "mlflow": "mlflow:ADDRESS, as in mlflow:http://localhost:5000 or mlflow:file:///home/me/mlruns",
}
