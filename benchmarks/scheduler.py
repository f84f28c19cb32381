"""How well the slots are filled: twelve real runs on two slots, against the time that they would take without a gap.

    python benchmarks/scheduler.py                           # three minutes on two quiet cores
    python benchmarks/scheduler.py --csv benchmarks/results/scheduler.csv

Ideal is the sum of the run times, each from the start of its process to its end, divided by the slots. What is above it
is the coordinator's: noticing an end, starting the next run, and the last run's slot neighbour standing empty. Exits 1
if the whole took more than 1.10 of the ideal, or if a run did not end well: a time of failing runs says nothing.
"""

import argparse
import os
import platform
import sys
import tempfile
import time
from pathlib import Path

import torch
from timing import append_rows

from alexnet_ablations.declare.design import Factor
from alexnet_ablations.declare.study import Study
from alexnet_ablations.run.attempt import Attempt
from alexnet_ablations.run.coordinator import Watcher, run_all
from alexnet_lab.training.recipe import Recipe

LIMIT = 1.10


class Stopwatch(Watcher):
    """Keeps the time that each run took, and how it ended."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, int, str, float]] = []

    def ended(self, attempt: Attempt) -> None:
        """Note a run's time."""
        self.rows.append((attempt.run.cell.name, attempt.run.seed, attempt.state, attempt.seconds))


def measure(folder: Path, slots: int, epochs: int) -> tuple[Stopwatch, float, float]:
    """Make a study of twelve runs; return the runs' times, the time of the whole, and the coordinator's own seconds."""
    start = Recipe(epochs=epochs, width=1 / 8)
    factors = (Factor("norm", ("lrn", "bn")), Factor("act", ("relu", "leaky:slope=0.1")))
    study = Study(start, factors, 3, folder)
    stopwatch = Stopwatch()
    began, computed = time.perf_counter(), time.process_time()
    run_all(study.folder, study.runs(), slots, stopwatch)
    return stopwatch, time.perf_counter() - began, time.process_time() - computed


def main() -> int:
    """Measure, print, and say whether the limit holds."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--slots", type=int, default=2, help="runs side by side")
    options.add_argument("--epochs", type=int, default=5, help="epochs of each run")
    options.add_argument("--csv", type=Path, help="write the rows here")
    arguments = options.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as folder:
        stopwatch, total, own = measure(Path(folder), arguments.slots, arguments.epochs)
    failed = [row for row in stopwatch.rows if row[2] != "ok"]
    times = [row[3] for row in stopwatch.rows]
    ideal = sum(times) / arguments.slots
    print(f"{len(times)} runs of {min(times):.1f} to {max(times):.1f} s on {arguments.slots} slots: {total:.1f} s")
    print(f"ideal {ideal:.1f} s; ratio {total / ideal:.3f}, at most {LIMIT}")
    print(f"the coordinator itself: {own:.2f} s of processor time, {own / total:.1%} of a core")
    if arguments.csv:
        rows = [(cell, seed, state, f"{seconds:.3f}") for cell, seed, state, seconds in stopwatch.rows]
        rows.append(("whole", "", f"ratio {total / ideal:.4f}", f"{total:.3f}"))
        arguments.csv.unlink(missing_ok=True)
        append_rows(arguments.csv, ["cell", "seed", "state", "seconds"], rows)
    if failed:
        print(f"{len(failed)} runs did not end well, the first {failed[0][:3]}: their times say nothing")
    return int(bool(failed) or total / ideal > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
