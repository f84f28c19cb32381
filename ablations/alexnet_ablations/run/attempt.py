"""One attempt at a run: how far it is, and after that how it ended.

What is read here comes from the run's folder, so it is the same whatever placed the run. Each executor has a subclass
that knows how to ask the run to stop.
"""

from alexnet_ablations.declare.history import note_end, note_start
from alexnet_ablations.declare.status import share_done
from alexnet_ablations.declare.study import PlannedRun
from alexnet_lab.records import RunFolder


class Attempt:
    """A run in progress, and after that how it ended."""

    def __init__(self, run: PlannedRun, number: int, slot: str) -> None:
        self.run, self.number, self.slot = run, number, slot  # number: 1 for the coordinator's first attempt at it
        self.pid: int | None = None
        self.epochs = 0
        self.share = 0.0
        self.accuracy: float | None = None  # validation, last; of findings there is none
        self.auroc: float | None = None
        self.memory = 0
        self.seconds = 0.0
        self.state, self.why = "running", ""
        self.is_over_time = False
        self.is_queued = False  # it waits for its place, and nothing of it runs
        self._read_until = -1

    @property
    def name(self) -> str:
        """Name the run as people see it."""
        return f"{self.run.cell.name} seed {self.run.seed}"

    @property
    def folder(self) -> RunFolder:
        """Return the folder in which this attempt works."""
        return self.run.folder

    def record_start(self) -> None:
        """Record in the folder that this attempt has started; OSError where that cannot be written."""
        note_start(self.folder.path, self.slot)

    def record_end(self) -> None:
        """Record in the folder how this attempt ended; OSError where that cannot be written."""
        note_end(self.folder.path, self.state, self.seconds, self.memory)

    def read_progress(self) -> bool:
        """Read how far the run is; say whether it got further since the last call."""
        before = (self.epochs, self.share)
        try:
            size = (self.folder.path / "metrics.jsonl").stat().st_size
        except FileNotFoundError:  # no epoch has ended yet
            size = 0
        if size != self._read_until:
            rows = list(self.folder.metrics())
            self._read_until, self.epochs = size, len(rows)
            self.accuracy = rows[-1].get("validation_accuracy") if rows else None
            self.auroc = rows[-1].get("validation_auroc") if rows else None
        self.share = share_done(self.folder.progress() or {}, self.epochs, self.run.recipe.epochs)
        return before != (self.epochs, self.share)

    def how_it_died(self) -> str:
        """Say how an attempt ended that left no verdict."""
        return "it ended without a verdict"
