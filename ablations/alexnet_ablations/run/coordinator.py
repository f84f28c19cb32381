"""Runs on this machine: one process each, several side by side, whatever happens to any of them.

    run_all(study.folder, [run for run in study.runs() if not run.is_done], jobs=4)

A run that dies takes nothing with it: what it has to say stands in its folder. One that ends without a word is started
once more and goes on from its checkpoint; one that does so twice is `lost`. The coordinator holds a lock on the study;
a second one is told so and does no harm. It may be killed at any moment: its runs save and end, and the same call goes
on, with the same numbers in the end as an undisturbed study to the last bit.
"""

import shutil
import signal
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from alexnet_ablations.declare.status import COORDINATOR_LOCK, FAILED, coordinator_of
from alexnet_ablations.declare.study import PlannedRun
from alexnet_ablations.run.attempts import GRACE, Attempt
from alexnet_ablations.run.ledger import Ledger, Row, read_index, rebuild
from alexnet_ablations.run.slots import Slots, find_slots, free_memory, memory_allows
from alexnet_lab.locks import Lock

# So many runs that end with the same failure before any ends well are one error, not many findings.
SAME_FAILURES = 3
# A run that dies without a verdict is tried so many times in all.
ATTEMPTS = 2
# Seconds between two looks at how far the runs are. Their ends are noticed without looking.
TICK = 0.25
# What a run that ended well says of its own memory.
PEAK = "peak_memory_bytes"
# Bytes that must be free on the disk for another run to start.
ROOM = 64 * 2**20


class SameFailureError(ValueError):
    """The first runs all failed in the same way: the study is mistaken, not its cells."""


class Watcher:
    """What a coordinator tells whoever watches; this one says nothing."""

    def begin(self, runs: Sequence[PlannedRun], slots: int) -> None:
        """Learn which runs are to be made, so many side by side."""

    def started(self, attempt: Attempt) -> None:
        """Learn that a run has been started."""

    def moved(self, attempt: Attempt) -> None:
        """Learn that a run got further."""

    def died(self, attempt: Attempt) -> None:
        """Learn that a run ended without a verdict and will be started again."""

    def ended(self, attempt: Attempt) -> None:
        """Learn that a run has ended, and how."""

    def skipped(self, run: PlannedRun) -> None:
        """Learn that a run needs not be made: another process has done it meanwhile."""

    def note(self, text: str) -> None:
        """Take a sentence for the user."""

    def tick(self) -> None:
        """Learn that time passes."""

    def close(self) -> None:
        """Learn that all is over, well or not."""


def run_all(
    study: Path,
    runs: Sequence[PlannedRun],
    jobs: int | None = None,
    watcher: Watcher | None = None,
    *,
    timeout: float | None = None,
    repeat: bool = False,
) -> None:
    """Make every run, as many side by side as `jobs` says or the machine carries, and wait for them.

    A run that is done when its turn comes is left alone, unless `repeat` asks for it. `timeout` ends a run that takes
    longer, in minutes. An interrupt lets the runs in progress save, and is raised again.
    """
    if timeout is not None and timeout <= 0:
        raise ValueError(f"a time limit must be above 0 minutes, got {timeout:g}")
    if not runs:
        lock = Lock(study / COORDINATOR_LOCK)
        if study.exists() and lock.take():
            _settle_index(study)
            lock.release()
        return
    lock = _take(study)
    try:
        _settle_index(study)
        threads = max(run.recipe.threads for run in runs)
        slots = find_slots(threads, runs[0].recipe.device, jobs)
        with _signals_as_interrupts():
            _Coordinator(study, runs, slots, watcher or Watcher(), timeout, repeat).work()
    finally:
        lock.release()


def refuse_if_coordinated(study: Path) -> None:
    """Raise ValueError if another process coordinates this study: nothing in its folder is to be changed now."""
    holder = coordinator_of(study)
    if holder:
        raise ValueError(
            f"{study} is being worked on by {holder}; wait until it has ended "
            f"(alexnet-lab status {study} shows how far it is)"
        )


def _take(study: Path) -> Lock:
    lock = Lock(study / COORDINATOR_LOCK)
    try:
        study.mkdir(parents=True, exist_ok=True)
        if lock.take():
            return lock
    except OSError as error:
        raise ValueError(f"{study} must be a folder that can be written ({error.strerror}); choose another") from None
    refuse_if_coordinated(study)
    raise ValueError(f"{study} was worked on by another process a moment ago; try again")


def _settle_index(study: Path) -> None:
    """Let the index learn from the folders how runs ended whose coordinator was killed before they did."""
    with suppress(sqlite3.Error, OSError):  # the folders have all that counts, and the ledger tells of a broken index
        if any(row.state == "running" for row in read_index(study)):
            rebuild(study)


class _Coordinator:
    """The loop that keeps the slots full."""

    def __init__(
        self,
        study: Path,
        runs: Sequence[PlannedRun],
        slots: Slots,
        watcher: Watcher,
        timeout: float | None,
        repeat: bool,
    ) -> None:
        self.study, self.waiting, self.slots, self.watcher = study, list(runs), slots, watcher
        self.timeout, self.repeat = timeout, repeat
        self.active: list[Attempt] = []
        self.tried: dict[tuple[str, int], int] = {}
        self.failures: list[str] | None = []  # None as soon as a run has ended otherwise
        self.said: set[str] = set()
        self.wake = threading.Event()
        self.ledger = Ledger(study, watcher.note)
        self.ledger.enter([Row(run.cell.name, run.seed, "waiting") for run in runs])
        self.largest = max((row.memory or 0 for row in self.ledger.rows.values()), default=0)

    def work(self) -> None:
        self.watcher.begin(self.waiting, self.slots.count)
        try:
            while self.waiting or self.active:
                self._fill_slots()
                self.wake.wait(TICK)
                self.wake.clear()
                for attempt in list(self.active):
                    self._look_at(attempt)
                self.watcher.tick()
        except KeyboardInterrupt:
            if self.active:
                self.watcher.note(
                    f"{len(self.active)} runs are saved before this ends; once more Ctrl-C ends them at once"
                )
            raise
        finally:
            self._stop_all()
            self.ledger.close()
            self.watcher.close()

    def _fill_slots(self) -> None:
        for run in list(self.waiting):
            slot = self.slots.free(attempt.slot for attempt in self.active)
            if slot is None or not self._memory_allows():
                return
            self._refuse_full_disk()
            lock = self._take_folder(run)
            if lock is None:  # an orphan of a killed coordinator is about to save and end; others can start meanwhile
                continue
            self.waiting.remove(run)
            if not self.repeat and run.is_done:
                lock.release()
                done = _verdict_of(run)
                if done is not None:
                    self.ledger.ended(run.cell.name, run.seed, done["state"], done["why"], None)
                self.watcher.skipped(run)
                continue
            key = (run.cell.name, run.seed)
            self.tried[key] = self.tried.get(key, 0) + 1
            attempt = Attempt(run, self.tried[key], slot, lock, self.wake)
            self.active.append(attempt)
            self.ledger.started(*key, attempt.process.pid, slot.name)
            self.watcher.started(attempt)

    def _look_at(self, attempt: Attempt) -> None:
        has_ended = attempt.process.poll() is not None
        if attempt.look():
            self.watcher.moved(attempt)
        if has_ended:
            self._end(attempt)
        elif self.timeout is not None and attempt.seconds > 60 * self.timeout:
            attempt.is_over_time = True
            attempt.ask_to_stop()

    def _end(self, attempt: Attempt) -> None:
        """Take the verdict of a run that ended, or give one in its stead."""
        self.active.remove(attempt)
        attempt.close()
        run, key = attempt.run, (attempt.run.cell.name, attempt.run.seed)
        verdict = _verdict_of(run)
        if verdict is None:
            attempt.kill()  # what it started may have outlived it, and hold its folder
        if verdict is not None:
            attempt.state, attempt.why, peak = verdict["state"], verdict["why"], verdict["result"].get(PEAK)
            if peak and run.recipe.device == "cpu":  # what the run measured itself, where the system showed nothing
                attempt.memory = max(attempt.memory, int(peak))
        elif attempt.is_over_time:
            attempt.state = "timeout"
            attempt.why = (
                f"it took longer than {self.timeout:g} min and was stopped after {attempt.epochs} of "
                f"{run.recipe.epochs} epochs; with a longer time limit it goes on from there"
            )
        else:
            attempt.state, attempt.why = "lost", attempt.how_it_died()
            if attempt.number < ATTEMPTS:
                self.waiting.insert(0, run)
                self.ledger.ended(*key, "waiting", attempt.why, attempt.seconds)
                self.watcher.died(attempt)
                return
            attempt.why += f", {attempt.number} times in a row"
        self.largest = max(self.largest, attempt.memory)
        if verdict is None:
            self._give_verdict(attempt)
        self.ledger.ended(*key, attempt.state, attempt.why, attempt.seconds, attempt.memory)
        self.watcher.ended(attempt)
        self._stop_if_all_fail_alike(attempt)

    def _give_verdict(self, attempt: Attempt) -> None:
        """Write what a dead run cannot write any more: in its folder, whose lock it has let go of."""
        lock = Lock(attempt.run.folder.lock)
        try:
            if lock.take():
                attempt.run.folder.end("timeout" if attempt.is_over_time else "lost", attempt.why)
        except OSError as error:
            self.watcher.note(f"the verdict of {attempt.name} cannot be written: {error}")
        finally:
            lock.release()

    def _stop_if_all_fail_alike(self, attempt: Attempt) -> None:
        if self.failures is None or attempt.state not in FAILED:
            self.failures = None
            return
        self.failures.append(f"{attempt.state}: {attempt.why.replace(str(attempt.run.folder.path), 'its folder')}")
        if len(set(self.failures)) > 1:
            self.failures = None
        elif len(self.failures) == SAME_FAILURES:
            raise SameFailureError(
                f"the first {SAME_FAILURES} runs failed in the same way, so the rest was not started: {attempt.why}"
            )

    def _take_folder(self, run: PlannedRun) -> Lock | None:
        lock = Lock(run.folder.lock)
        try:
            run.folder.path.mkdir(parents=True, exist_ok=True)
            if lock.take(patience=0.0):
                return lock
        except OSError as error:
            raise ValueError(
                f"{run.folder.path} cannot be written ({error.strerror}); mend that, and the same command goes on"
            ) from None
        holder = lock.holder()
        if holder:
            self._say_once(f"{run.cell.name} seed {run.seed} is still in the hands of {holder}; waiting for it to end")
        return None

    def _memory_allows(self) -> bool:
        taken = [attempt.memory for attempt in self.active]
        free = free_memory()
        if memory_allows(taken, self.largest, free):
            return True
        need = max(self.largest, *taken) / 2**30
        self._say_once(f"fewer than {self.slots.count} side by side: a run takes about {need:.1f} GiB of memory")
        return False

    def _refuse_full_disk(self) -> None:
        free = shutil.disk_usage(self.study).free
        if free < ROOM:
            raise ValueError(
                f"no room for another run: {free / 2**20:.0f} MiB are free on the disk of {self.study}, and "
                f"{ROOM / 2**20:.0f} must be; free some, and the same command goes on"
            )

    def _say_once(self, text: str) -> None:
        if text.partition(":")[0] not in self.said:
            self.said.add(text.partition(":")[0])
            self.watcher.note(text)

    def _stop_all(self) -> None:
        """Let the runs in progress save, and end those that do not; a second interrupt ends all at once."""
        deadline = time.monotonic() + GRACE
        try:
            for attempt in self.active:
                attempt.ask_to_stop()
            while any(a.process.poll() is None for a in self.active) and time.monotonic() < deadline:
                time.sleep(0.05)
        finally:
            for attempt in self.active:
                if attempt.process.poll() is None:
                    attempt.kill()
                    attempt.process.wait()
                attempt.close()
                verdict = _verdict_of(attempt.run) or {"state": "lost", "why": "it was stopped with the study"}
                key = (attempt.run.cell.name, attempt.run.seed)
                self.ledger.ended(*key, verdict["state"], verdict["why"], attempt.seconds)
            self.active.clear()


def _verdict_of(run: PlannedRun) -> dict[str, Any] | None:
    try:
        return run.folder.verdict()
    except ValueError:  # damaged: as good as none
        return None


@contextmanager
def _signals_as_interrupts() -> Iterator[None]:
    """Let a polite kill, and a terminal that is closed, end the study as Ctrl-C does: runs saved first."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = {}
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup asks to be left alone
            before[number] = signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
