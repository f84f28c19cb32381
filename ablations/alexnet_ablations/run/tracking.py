"""Copies a study into a tracker while it runs, from the run folders, on a thread that nothing waits for.

A tracker can fail in many ways and none of them may cost a run: what it raises is said once and tracking is switched
off, what it is slow at delays nobody, and at the end it has a few seconds to finish.
"""

import queue
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from alexnet_ablations.run.coordinator import Watcher
from alexnet_ablations.run.trackers import Sink, TrackedRun

if TYPE_CHECKING:
    from alexnet_ablations.declare.study import PlannedRun, Study
    from alexnet_ablations.run.attempt import Attempt

PATIENCE = 15.0  # seconds that a tracker has at the end to finish
LONGEST = 200  # characters of an error message: some libraries write a page
LOST: dict[str, Any] = {"state": "lost", "why": "the run's process ended without a verdict"}

Event = Literal["started", "moved", "ended"]


def mirrored(watcher: Watcher, study: "Study", sink: Sink) -> Watcher:
    """Return a watcher that also copies to a sink, which first gets the runs that are already done."""
    mirror = Mirror(sink, study.folder.resolve().name, watcher.note)
    for run in study.runs():
        if run.is_done:
            mirror.run_ended(run)
    return _Mirrored(watcher, mirror)


class Mirror:
    """Copies run folders to a sink; its methods return at once."""

    def __init__(self, sink: Sink, study: str, tell: Callable[[str], None], patience: float = PATIENCE) -> None:
        self.sink, self.study, self.tell, self.patience = sink, study, tell, patience
        self.logged: dict[tuple[str, int], int] = {}  # epochs that the sink has, by run
        self.error = ""
        self.is_on = True
        self._events: queue.SimpleQueue[tuple[Event, PlannedRun] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="tracker", daemon=True)
        self._thread.start()

    def run_started(self, run: "PlannedRun") -> None:
        """Learn that a run has been started, or started again."""
        self._put("started", run)

    def epoch(self, run: "PlannedRun") -> None:
        """Learn that a run's metrics have grown."""
        self._put("moved", run)

    def run_ended(self, run: "PlannedRun") -> None:
        """Learn that a run has ended, with or without a verdict."""
        self._put("ended", run)

    def close(self) -> None:
        """Let the sink finish, for `patience` seconds at most."""
        self._events.put(None)
        self._thread.join(self.patience)
        if self._thread.is_alive():
            self.is_on = False
            self.error = self.error or (
                f"it had not finished {self.patience:g} s after the study, so the tracker lacks the last records"
            )
        self.report_error()

    def report_error(self) -> None:
        """Report an error once, on the caller's thread: only one thread writes to the terminal."""
        if self.error:
            text, self.error = self.error, ""
            self.tell(f"tracking is switched off: {text}. The study goes on; its folder has everything")

    def _put(self, event: Event, run: "PlannedRun") -> None:
        self.report_error()
        if self.is_on:
            self._events.put((event, run))

    def _work(self) -> None:
        try:
            while (event := self._events.get()) is not None:
                self._take(*event)
            self.sink.close()
        except Exception as error:  # noqa: BLE001  # third-party code and networks: no error of theirs may cost a run
            self.is_on = False
            reason = f"{type(error).__name__}: {str(error).strip()}".splitlines()[0]
            self.error = (reason if len(reason) < LONGEST else reason[:LONGEST] + "...").rstrip(" .:")

    def _take(self, event: Event, run: "PlannedRun") -> None:
        key = (run.cell.name, run.seed)
        tracked = TrackedRun(self.study, *key, dict(run.cell.settings), vars(run.recipe))
        if key not in self.logged:
            self.logged[key] = 0
            self.sink.run_started(tracked)
        if event == "started":  # the folder may still hold an earlier attempt, of another recipe
            return
        for row in run.folder.metrics():
            if row["epoch"] > self.logged[key]:
                self.sink.epoch(tracked, row)
                self.logged[key] = row["epoch"]
        if event == "ended":
            self.sink.run_ended(tracked, _verdict_of(run))
            del self.logged[key]


class _Mirrored(Watcher):
    """Passes everything to a watcher, and runs and epochs to a mirror."""

    def __init__(self, watcher: Watcher, mirror: Mirror) -> None:
        self.watcher, self.mirror = watcher, mirror
        self.epochs: dict[tuple[str, int], int] = {}

    def begin(self, runs: "Sequence[PlannedRun]", slots: int) -> None:
        self.watcher.begin(runs, slots)

    def started(self, attempt: "Attempt") -> None:
        self.mirror.run_started(attempt.run)
        self.watcher.started(attempt)

    def moved(self, attempt: "Attempt") -> None:
        key = (attempt.run.cell.name, attempt.run.seed)
        if attempt.epochs != self.epochs.get(key, 0):  # most moves are steps
            self.epochs[key] = attempt.epochs
            self.mirror.epoch(attempt.run)
        self.watcher.moved(attempt)

    def died(self, attempt: "Attempt") -> None:
        self.watcher.died(attempt)

    def ended(self, attempt: "Attempt") -> None:
        self.mirror.run_ended(attempt.run)
        self.watcher.ended(attempt)

    def skipped(self, run: "PlannedRun") -> None:
        self.mirror.run_ended(run)
        self.watcher.skipped(run)

    def note(self, text: str) -> None:
        self.watcher.note(text)

    def tick(self) -> None:
        self.mirror.report_error()
        self.watcher.tick()

    def close(self) -> None:
        try:
            self.mirror.close()
        finally:  # an interrupt while waiting must still restore the terminal
            self.watcher.close()


def _verdict_of(run: "PlannedRun") -> dict[str, Any]:
    try:
        return run.folder.verdict() or LOST
    except ValueError:  # damaged, so it counts as none
        return LOST
