"""What grows with a study: processor time of coordinator, `status` and results, memory, and the folder.

    python benchmarks/scaling.py                        # 10, 100 and 1,000 runs, nothing trained
    python benchmarks/scaling.py --runs 1000 --seed 3

Training is simulated: an engine of the benchmark's own writes a finished run's folder at once, with numbers drawn from
the seed, so what is left is what a study costs beside training. Each size is a study of its own, in a temporary folder.
The second part writes one run with more epochs, parameters and test images, and reports its folder's bytes.

Prints tables. Seconds are those of the processor, without what the disk took, so a busy machine changes them little.
"""

import argparse
import json
import os
import platform
import resource
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from alexnet_ablations.conclude.outcomes import read_results
from alexnet_ablations.declare.status import Sighting, statuses
from alexnet_ablations.declare.study import PlannedRun, Study, declare_study
from alexnet_ablations.run.coordinator import run_all
from alexnet_ablations.run.elsewhere import RemoteAttempt, make_way
from alexnet_ablations.run.executors import Order, Refusal
from alexnet_lab.predictions_file import PartPredictions, write_predictions
from alexnet_lab.records import RunFolder
from alexnet_lab.training.handover import new_attempt, publish

IMAGES, CLASSES, EPOCHS = 359, 10, 12


@dataclass(frozen=True)
class Simulated:
    """An engine whose runs end as soon as they are submitted."""

    seed: int
    outlives: ClassVar[bool] = False
    is_here: ClassVar[bool] = False

    def open(self, order: Order) -> "SimulatedExecutor":
        """Return an executor for one study."""
        return SimulatedExecutor(self.seed, order)

    @staticmethod
    def sightings(_study: Path) -> Mapping[Path, Sighting]:
        """Return nothing."""
        return {}


class SimulatedExecutor:
    """Writes a finished run in place of starting one."""

    def __init__(self, seed: int, order: Order) -> None:
        self.seed, self.count = seed, order.jobs or 100
        self.wake = threading.Event()
        self.active: list[RemoteAttempt] = []

    def submit(self, run: PlannedRun, number: int, is_done: Callable[[PlannedRun], bool]) -> RemoteAttempt | Refusal:
        """Write the run."""
        if len(self.active) >= self.count:
            return Refusal.FULL
        refused = make_way(run, is_done)
        if refused is not None:
            return refused
        attempt = new_attempt(run.folder.path)
        write_run(RunFolder(attempt), run, self.seed)
        publish(attempt)
        self.active.append(RemoteAttempt(run, number, "simulated"))
        self.wake.set()
        return self.active[-1]

    def poll(self, attempt: RemoteAttempt) -> bool:
        """Say that it has ended."""
        return attempt.is_published()

    def stop(self, attempt: RemoteAttempt) -> None:
        """Do nothing."""

    def stop_all(self) -> None:
        """Do nothing."""

    def close(self, attempt: RemoteAttempt) -> None:
        """Forget it."""
        self.active.remove(attempt)

    def write_verdict(self, attempt: RemoteAttempt) -> None:
        """Do nothing."""


def write_run(
    folder: RunFolder, run: PlannedRun, seed: int, *, epochs: int = EPOCHS, images: int = IMAGES, parameters: int = 0
) -> None:
    """Write what a run leaves: rows, predictions, weights, verdict; instruments are in report_scale.py."""
    rng = np.random.default_rng([seed, run.seed, *map(ord, run.cell.name)])
    folder.begin(run.recipe.to_json(), {"classes": [str(n) for n in range(CLASSES)]}, json.dumps({"train": [0]}))
    for epoch in range(1, epochs + 1):
        folder.log({"epoch": epoch, "step": 33 * epoch, "train_loss": 1 / epoch, "validation_accuracy": 1 - 0.5**epoch})
    probabilities = rng.dirichlet(np.ones(CLASSES), images).astype(np.float32)
    labels = rng.integers(0, CLASSES, images)
    part = PartPredictions(np.arange(images), labels, probabilities, None)
    write_predictions(
        folder.path / "predictions.npz", {"validation": part, "test": part}, [str(n) for n in range(CLASSES)]
    )
    if parameters:
        (folder.path / "checkpoints" / "best.safetensors").write_bytes(os.urandom(4 * parameters))
    accuracy = float((probabilities.argmax(1) == labels).mean())
    metrics = {"accuracy": accuracy, "images": images, "recall": [accuracy] * CLASSES}
    folder.end(
        "ok",
        result={"tested_epoch": epochs, "epochs": epochs, "steps": 33 * epochs, "test": metrics, "validation": metrics},
    )


def study_of(folder: Path, runs: int) -> Study:
    """Declare a study of that many runs, in two cells."""
    start = {"data": "digits", "epochs": EPOCHS, "threads": 1, "device": "cpu"}
    return declare_study({"norm": ["bn"]}, start, folder, seeds=max(runs // 2, 1)).open_folder()


def bytes_in(folder: Path) -> int:
    """Return the size of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def with_runs(count: int, seed: int) -> str:
    """Make a study of simulated runs, and return a row of the table."""
    with tempfile.TemporaryDirectory() as scratch:
        study = study_of(Path(scratch) / "study", count)
        runs = study.runs()
        seconds = [time.process_time()]
        run_all(study.folder, runs, executor=Simulated(seed))
        seconds.append(time.process_time())
        states = {one.state for one in statuses(runs)}
        seconds.append(time.process_time())
        table = read_results(runs)
        seconds.append(time.process_time())
        if states != {"ok"} or len(table) != len(runs):
            raise SystemExit(f"of {len(runs)} runs {len(table)} were read, in states {', '.join(states)}")
        made, shown, read = np.diff(seconds)
        size = bytes_in(study.folder) / len(runs)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return (
        f"| {len(runs):,} | {1000 * made / len(runs):.1f} | {1000 * shown / len(runs):.1f} | "
        f"{1000 * read / len(runs):.1f} | {size / 1000:.0f} | {peak:.0f} |"
    )


def of_a_run(seed: int, **larger: int) -> int:
    """Return the bytes of one run's folder."""
    with tempfile.TemporaryDirectory() as scratch:
        run = study_of(Path(scratch) / "study", 2).runs()[0]
        write_run(run.folder, run, seed, **larger)
        return bytes_in(run.folder.path)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, nargs="*", default=[10, 100, 1000])
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, seed {arguments.seed}\n")
    print("| runs | coordinator, ms a run | status, ms a run | results, ms a run | folder, kB a run | peak, MB |")
    print("|---|---|---|---|---|---|")
    for count in arguments.runs:
        print(with_runs(count, arguments.seed), flush=True)
    base = of_a_run(arguments.seed)
    print("\n| a run's folder grows by | bytes |")
    print("|---|---|")
    print(f"| an epoch (metrics; no instruments) | {(of_a_run(arguments.seed, epochs=1012) - base) / 1000:.0f} |")
    of_images = (of_a_run(arguments.seed, images=100359) - base) / 1e5
    print(f"| a test and a validation image ({CLASSES} classes) | {of_images:.0f} |")
    print(f"| a parameter | {(of_a_run(arguments.seed, parameters=10**6) - base) / 1e6:.0f} |")


if __name__ == "__main__":
    main()
