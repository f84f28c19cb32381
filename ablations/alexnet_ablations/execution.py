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

# So many runs that end with the same error before any ends well are one error, not many findings.
SAME_FAILURES = 3

Report = Callable[[PlannedRun, str, int], None]  # run, "started" | "epoch" | "ended", epochs so far


class SameFailureError(ValueError):
    """The first runs all failed in the same way: the study is mistaken, not its cells."""


def run_all(runs: Sequence[PlannedRun], jobs: int, report: Report, pause: float = 0.2) -> None:
    """Start every run, at most `jobs` at once, and wait; an interrupt ends the runs in progress and is raised again."""
    waiting = list(runs)
    active: dict[PlannedRun, subprocess.Popen[bytes]] = {}
    epochs: dict[PlannedRun, int] = {}
    failures: list[str] | None = []  # None as soon as a run has ended otherwise
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
                    failures = _failures_so_far(failures, run)
    finally:
        for process in active.values():
            process.terminate()
        for process in active.values():
            process.wait()


def _failures_so_far(failures: list[str] | None, run: PlannedRun) -> list[str] | None:
    verdict = run.folder.verdict()
    if failures is None or verdict is None or verdict["state"] != "error":
        return None
    failures = [*failures, verdict["why"]]
    if len(failures) == SAME_FAILURES and len(set(failures)) == 1:
        raise SameFailureError(
            f"the first {SAME_FAILURES} runs failed in the same way, so the rest was not started: {failures[0]}"
        )
    return failures if len(failures) < SAME_FAILURES else None


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
