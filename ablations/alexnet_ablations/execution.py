"""Runs on this machine: one process each, several side by side.

A run that dies takes nothing with it. What it has to say stands in its folder, and progress is read from there.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

from alexnet_ablations.study import PlannedRun
from alexnet_lab.records import write_atomically

Report = Callable[[PlannedRun, str, int], None]  # run, "started" | "epoch" | "ended", epochs so far


def run_all(runs: Sequence[PlannedRun], jobs: int, report: Report, pause: float = 0.2) -> None:
    """Start every run, at most `jobs` at once, and wait; an interrupt ends the runs in progress and is raised again."""
    waiting = list(runs)
    active: dict[PlannedRun, subprocess.Popen[bytes]] = {}
    epochs: dict[PlannedRun, int] = {}
    try:
        while waiting or active:
            while waiting and len(active) < jobs:
                run = waiting.pop(0)
                active[run] = _start(run)
                report(run, "started", 0)
            time.sleep(pause)
            for run, process in list(active.items()):
                ended = process.poll() is not None
                done = sum(1 for _ in run.folder.metrics())
                if done != epochs.get(run, 0):
                    epochs[run] = done
                    report(run, "epoch", done)
                if ended:
                    del active[run]
                    report(run, "ended", done)
    finally:
        for process in active.values():
            process.terminate()
        for process in active.values():
            process.wait()


def _start(run: PlannedRun) -> subprocess.Popen[bytes]:
    folder = run.folder.path
    folder.mkdir(parents=True, exist_ok=True)
    # The verdict of an earlier attempt must not pass for this one's, should this one die before it begins.
    (folder / "state.json").unlink(missing_ok=True)
    write_atomically(folder / "recipe.json", run.recipe.to_json())
    threads = str(run.recipe.threads)
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    with (folder / "output.txt").open("wb") as output:
        return subprocess.Popen(  # noqa: S603  # our own interpreter, our own module, a path we made
            [sys.executable, "-m", "alexnet_lab.training.run", str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
        )
