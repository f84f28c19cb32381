"""Makes the runs of a study: which is next, which is tried again, what an end means.

    run_all(study.folder, [run for run in study.runs() if not run.is_done], jobs=4)

Each run is a process of its own, and its folder says how it ended, so a run that dies takes nothing with it. One that
ends without a verdict is started once more and continues from its checkpoint; one that does so twice is `lost`. The
coordinator holds a lock on the study, and a second one is refused. It may be killed at any moment: its runs save and
end, and the same call continues, with the numbers of an undisturbed study to the last bit.
"""

import re
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from alexnet_ablations.declare.history import read_history
from alexnet_ablations.declare.status import COORDINATOR_LOCK, FAILED, RUN_PLACES, coordinator_of, found_runs
from alexnet_ablations.declare.study import PlannedRun
from alexnet_ablations.run.attempt import Attempt
from alexnet_ablations.run.engines import read_engine
from alexnet_ablations.run.executors import Engine, Needs, Order, Refusal
from alexnet_lab.locks import NO_LOCKS, Lock
from alexnet_lab.records import RunFolder
from alexnet_lab.training.handover import remove_attempts, run_of, without_attempt

# So many first runs that fail in the same way are one error of the study, and end it.
SAME_FAILURES = 3
# Attempts at a run that dies without a verdict, in all.
ATTEMPTS = 2
# Seconds between two looks at the progress of runs. Their ends wake the coordinator at once.
TICK = 0.25
# The name under which a finished run records its peak memory.
PEAK = "peak_memory_bytes"


class SameFailureError(ValueError):
    """The first runs all failed in the same way: what they share is wrong."""


class Watcher:
    """What a coordinator reports; this one ignores all of it."""

    def begin(self, runs: Sequence[PlannedRun], slots: int) -> None:
        """Learn which runs will be made, and how many side by side."""

    def started(self, attempt: Attempt) -> None:
        """Learn that a run has been started."""

    def moved(self, attempt: Attempt) -> None:
        """Learn that a run made progress."""

    def died(self, attempt: Attempt) -> None:
        """Learn that a run ended without a verdict and will be started again."""

    def ended(self, attempt: Attempt) -> None:
        """Learn that a run has ended, and how."""

    def skipped(self, run: PlannedRun) -> None:
        """Learn that another process has already made a run."""

    def note(self, text: str) -> None:
        """Take a sentence for the user."""

    def tick(self) -> None:
        """Learn that TICK seconds have passed."""

    def close(self) -> None:
        """Learn that no run is left, or that the study was interrupted."""


def run_all(
    study: Path,
    runs: Sequence[PlannedRun],
    jobs: int | None = None,
    watcher: Watcher | None = None,
    *,
    timeout: float | None = None,
    repeat: bool = False,
    executor: str | Engine = "local",
) -> None:
    """Make every run, `jobs` at a time or as many as the machine carries, and wait for them.

    A run that is already done is skipped, unless `repeat` is set. `timeout`, in minutes, stops a run that takes longer.
    KeyboardInterrupt lets the runs in progress save, and is raised again; runs of an engine that outlives its
    coordinator, such as slurm, go on. `executor` is an engine, such as `Slurm(partition="gpu")`, or its name.
    """
    if timeout is not None and timeout <= 0:
        raise ValueError(f"a time limit must be above 0 minutes, got {timeout:g}")
    engine = read_engine(executor) if isinstance(executor, str) else executor
    if not runs:
        with suppress(OSError):  # a study that is complete may be read-only
            lock = Lock(study / COORDINATOR_LOCK)
            if study.exists() and lock.take():
                _clear_leftovers(study)
                lock.release()
        return
    lock = _take(study)
    try:
        _clear_leftovers(study)
        with _signals_as_interrupts():
            _Coordinator(study, runs, jobs, watcher or Watcher(), timeout, repeat, engine).work()
    finally:
        lock.release()


def refuse_if_coordinated(study: Path) -> None:
    """Raise ValueError if another process coordinates this study, so that nothing in its folder may be changed."""
    holder = coordinator_of(study)
    if holder:
        raise ValueError(
            f"{study} is in use by {holder}; wait until it has ended (alexnet-lab status {study} shows how far it is)"
        )


def _take(study: Path) -> Lock:
    lock = Lock(study / COORDINATOR_LOCK)
    try:
        study.mkdir(parents=True, exist_ok=True)
        if lock.take():
            return lock
    except OSError as error:
        if error.errno in NO_LOCKS:  # a file system of a cluster: two coordinators there waste time, and harm nothing
            return lock
        raise ValueError(f"{study} must be a folder that can be written ({error.strerror}); choose another") from None
    refuse_if_coordinated(study)
    raise ValueError(f"{study} was in use by another process a moment ago; try again")


def _clear_leftovers(study: Path) -> None:
    """Remove what runs left that were killed after their verdict, such as checkpoints nobody continues from."""
    for _, _, folder in found_runs(study):
        if folder.leftovers():
            lock = Lock(folder.lock)
            if lock.take(patience=0.0):  # else the run is about to remove them itself
                folder.clear_leftovers()
                lock.release()
    for run in {run_of(path) for place in RUN_PLACES for path in (study / place).glob("*/seed-*.attempt-*")}:
        verdict = _verdict_in(RunFolder(run))
        if verdict is not None and verdict["state"] in ("ok", "diverged"):
            remove_attempts(run)


class _Coordinator:
    """The loop that keeps the slots full."""

    def __init__(
        self,
        study: Path,
        runs: Sequence[PlannedRun],
        jobs: int | None,
        watcher: Watcher,
        timeout: float | None,
        repeat: bool,
        engine: Engine,
    ) -> None:
        self.waiting, self.watcher, self.timeout, self.repeat = list(runs), watcher, timeout, repeat
        self.engine = engine
        self.active: list[Attempt] = []
        self.tried: dict[tuple[str, int], int] = {}
        self.failures: list[str] | None = []  # None as soon as a run has ended otherwise
        self.reported: set[str] = set()
        folders = [path for _, _, path in found_runs(study)]
        largest = max((read_history(folder.path).memory for folder in folders), default=0)
        needs = Needs.of([run.recipe for run in runs], largest, None if timeout is None else 60 * timeout)
        self.executor = engine.open(Order(study, needs, jobs, self._say_once))

    def work(self) -> None:
        self.watcher.begin(self.waiting, self.executor.count)
        goes_on = False
        try:
            while self.waiting or self.active:
                self._start_runs()
                self.executor.wake.wait(TICK)
                self.executor.wake.clear()
                for attempt in list(self.active):
                    self._look_at(attempt)
                self.watcher.tick()
        except KeyboardInterrupt:
            goes_on = self.engine.outlives
            if self.active and goes_on:
                self.watcher.note(
                    f"{len(self.active)} runs go on without this command, which follows them when it is back"
                )
            elif self.active:
                self.watcher.note(
                    f"{len(self.active)} runs are saved before this ends; once more Ctrl-C ends them at once"
                )
            raise
        finally:
            if not goes_on:
                self._stop_all()
            self.watcher.close()

    def _start_runs(self) -> None:
        for run in list(self.waiting):
            key = (run.cell.name, run.seed)
            started = self.executor.submit(run, self.tried.get(key, 0) + 1, self._is_done)
            if started is Refusal.FULL:
                return
            if started is Refusal.HELD:  # a run of a killed coordinator is about to save and end; others can start
                continue
            self.waiting.remove(run)
            if started is Refusal.DONE:
                self.watcher.skipped(run)
                continue
            self.tried[key] = started.number
            self.active.append(started)
            with self._recording():
                started.record_start()
            self.watcher.started(started)

    def _look_at(self, attempt: Attempt) -> None:
        before = (attempt.epochs, attempt.share)
        has_ended = self.executor.poll(attempt)
        if before != (attempt.epochs, attempt.share):
            self.watcher.moved(attempt)
        if has_ended:
            self._end(attempt)
        elif self.timeout is not None and attempt.seconds > 60 * self.timeout:
            attempt.is_over_time = True
            self.executor.stop(attempt)

    def _end(self, attempt: Attempt) -> None:
        """Take the verdict of a run that ended, or give one in its place."""
        self.active.remove(attempt)
        run = attempt.run
        verdict = _verdict_in(run.folder)
        if verdict is not None:
            attempt.state, attempt.why = verdict["state"], without_attempt(verdict["why"])
            peak = verdict["result"].get(PEAK)
            if peak and run.recipe.device == "cpu":  # what the run measured itself, where the system showed nothing
                attempt.memory = max(attempt.memory, int(peak))
        elif attempt.is_over_time:
            attempt.state = "timeout"
            attempt.why = (
                f"it took longer than {self.timeout:g} min and was stopped after {attempt.epochs} of "
                f"{run.recipe.epochs} epochs; with a longer time limit it continues from there"
            )
        else:
            attempt.state, attempt.why = "lost", attempt.how_it_died()
        self.executor.close(attempt)
        self._record_end(attempt)
        if verdict is None and not attempt.is_over_time:
            if attempt.number < ATTEMPTS:
                self.waiting.insert(0, run)
                self.watcher.died(attempt)
                return
            attempt.why += f", {attempt.number} times in a row"
        if verdict is None:
            try:
                self.executor.write_verdict(attempt)
            except OSError as error:
                self.watcher.note(f"the verdict of {attempt.name} cannot be written: {error}")
        elif attempt.state in ("ok", "diverged"):
            remove_attempts(run.folder.path)
        self.watcher.ended(attempt)
        self._stop_if_all_fail_alike(attempt)

    def _stop_if_all_fail_alike(self, attempt: Attempt) -> None:
        if self.failures is None or attempt.state not in FAILED:
            self.failures = None
            return
        own = re.escape(f"{attempt.run.cell.name}/seed-{attempt.run.seed}")
        why = re.sub(rf"\S*{own}\b", "its folder", attempt.why)  # a path of its own makes every failure one of a kind
        self.failures.append(f"{attempt.state}: {why}")
        if len(set(self.failures)) > 1:
            self.failures = None
        elif len(self.failures) == SAME_FAILURES:
            raise SameFailureError(
                f"the first {SAME_FAILURES} runs failed in the same way, so the rest was not started: {attempt.why}"
            )

    def _is_done(self, run: PlannedRun) -> bool:
        return not self.repeat and run.is_done

    def _record_end(self, attempt: Attempt) -> None:
        with self._recording():
            attempt.record_end()

    @contextmanager
    def _recording(self) -> Iterator[None]:
        """Say once that attempts cannot be recorded: nothing depends on that, and runs say when they cannot write."""
        try:
            yield
        except OSError as error:
            self._say_once(f"attempts cannot be recorded: {error}")

    def _say_once(self, text: str) -> None:
        if text.partition(":")[0] not in self.reported:
            self.reported.add(text.partition(":")[0])
            self.watcher.note(text)

    def _stop_all(self) -> None:
        try:
            self.executor.stop_all()
        finally:
            for attempt in list(self.active):
                verdict = _verdict_in(attempt.run.folder)
                attempt.state = verdict["state"] if verdict is not None else "lost"
                self.executor.close(attempt)
                self._record_end(attempt)
            self.active.clear()


def _verdict_in(folder: RunFolder) -> dict[str, Any] | None:
    try:
        return folder.verdict()
    except ValueError:  # damaged: as good as none
        return None


@contextmanager
def _signals_as_interrupts() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the study as Ctrl-C does: runs save first."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = {}
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup asks to ignore it
            before[number] = signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
