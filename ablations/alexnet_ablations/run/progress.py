"""What is said of a study while it runs: a live table on a terminal or in a notebook, lines elsewhere."""

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from alexnet_ablations.declare.status import time_left
from alexnet_ablations.run.coordinator import Watcher
from alexnet_lab.live import live_on
from alexnet_lab.progress import PlainLines, about_left, duration

if TYPE_CHECKING:
    from alexnet_ablations.declare.study import PlannedRun
    from alexnet_ablations.run.attempt import Attempt


def watcher_on(console: Console) -> Watcher:
    """Return what shows a study on a console: a table where it can be redrawn, else lines."""
    return LiveTable(console) if console.is_terminal else Events(PlainLines(console))


class Tally(Watcher):
    """Counts runs by how they ended, and predicts when all will have."""

    def __init__(self) -> None:
        self.total, self.slots = 0, 1
        self.active: list[Attempt] = []
        self.waiting: list[str] = []
        self.ended_runs: list[tuple[str, float]] = []
        self.states: dict[str, int] = {}

    @property
    def done(self) -> int:
        """Count the runs that have ended, however they did."""
        return sum(self.states.values())

    @property
    def left(self) -> float | None:
        """Return the seconds until all runs will have ended; None while nothing is known."""
        running = [(a.run.cell.name, a.seconds, a.share) for a in self.active if not a.is_queued]
        queued = [a.run.cell.name for a in self.active if a.is_queued]
        # A queue has as many slots as it gives: those that are at work now.
        slots = max(len(running), 1) if queued else self.slots
        return time_left(self.ended_runs, running, [*self.waiting, *queued], slots)

    @property
    def trouble(self) -> str:
        """Return how many runs did not end well: 1 diverged, 2 oom."""
        return ", ".join(f"{count} {state}" for state, count in self.states.items() if state not in ("ok", "done"))

    def begin(self, runs: "Sequence[PlannedRun]", slots: int) -> None:
        """Count the runs."""
        self.total, self.slots = len(runs), min(slots, len(runs))
        self.waiting = [run.cell.name for run in runs]

    def started(self, attempt: "Attempt") -> None:
        """Move a run from those that wait to those in progress."""
        self.waiting.remove(attempt.run.cell.name)
        self.active.append(attempt)

    def died(self, attempt: "Attempt") -> None:
        """Move a run back: it will be started again."""
        self.active.remove(attempt)
        self.waiting.append(attempt.run.cell.name)

    def ended(self, attempt: "Attempt") -> None:
        """Count a run that ended."""
        self.active.remove(attempt)
        self.states[attempt.state] = self.states.get(attempt.state, 0) + 1
        if attempt.state == "ok":
            self.ended_runs.append((attempt.run.cell.name, attempt.seconds))

    def skipped(self, run: "PlannedRun") -> None:
        """Count a run that was done already."""
        self.waiting.remove(run.cell.name)
        self.states["done"] = self.states.get("done", 0) + 1


class Events(Tally):
    """Passes what happens in a study on as events, for lines of text or of JSON."""

    def __init__(self, tell: Callable[[str, dict[str, Any]], None]) -> None:
        super().__init__()
        self.tell = tell

    def started(self, attempt: "Attempt") -> None:
        """Tell that a run has been started, where and as which process."""
        super().started(attempt)
        self._tell("started", attempt, number=attempt.number, slot=attempt.slot, pid=attempt.pid)

    def died(self, attempt: "Attempt") -> None:
        """Tell that a run will be started again."""
        super().died(attempt)
        self._tell("died", attempt, why=attempt.why)

    def ended(self, attempt: "Attempt") -> None:
        """Tell how a run ended."""
        super().ended(attempt)
        self._tell(
            "ended",
            attempt,
            state=attempt.state,
            why=attempt.why,
            seconds=round(attempt.seconds, 3),
            test_accuracy=_test_accuracy(attempt),
            done=self.done,
            total=self.total,
        )

    def note(self, text: str) -> None:
        """Pass a sentence on."""
        self.tell("note", {"text": text})

    def tick(self) -> None:
        """Tell how far the runs in progress are."""
        if self.active:
            running = [(attempt.name, attempt.share) for attempt in self.active]
            facts = {"done": self.done, "total": self.total, "running": running, "seconds_left": self.left}
            self.tell("working", facts)

    def _tell(self, kind: str, attempt: "Attempt", **facts: Any) -> None:
        self.tell(kind, {"cell": attempt.run.cell.name, "seed": attempt.run.seed, **facts})


class LiveTable(Tally):
    """A bar per run in progress and one for all, redrawn in place; only what went wrong stays on the screen."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self.console = console
        self.live = live_on(console)
        self.drawn_at = 0.0
        self.longest = 0

    def begin(self, runs: "Sequence[PlannedRun]", slots: int) -> None:
        """Draw the table for the first time."""
        super().begin(runs, slots)
        self.longest = max(len(run.cell.name) for run in runs)
        self.live.start()
        self.tick()

    def died(self, attempt: "Attempt") -> None:
        """Leave a line that stays."""
        super().died(attempt)
        self._keep(attempt, f"{attempt.why}; it is started again", "yellow")

    def ended(self, attempt: "Attempt") -> None:
        """Leave a line that stays, if the run did not end well."""
        super().ended(attempt)
        if attempt.state != "ok":
            self._keep(attempt, f"{attempt.state}: {attempt.why}", "yellow" if attempt.state == "diverged" else "red")

    def note(self, text: str) -> None:
        """Print a sentence above the table."""
        self.console.print(f"note: {text}", markup=False, highlight=False)

    def tick(self) -> None:
        """Draw the table again, four times a second at most."""
        if time.monotonic() - self.drawn_at >= 0.24:
            self.drawn_at = time.monotonic()
            self.live.update(self.drawing(), refresh=True)

    def close(self) -> None:
        """Take the table off the screen."""
        self.live.stop()

    def drawing(self) -> RenderableType:
        """Return the table, at most as high and as wide as the terminal."""
        most = max(self.console.height - 4, 1)
        on_gpus = any(attempt.slot.startswith("gpu") for attempt in self.active)
        runs = Table.grid(padding=(0, 2, 0, 0))
        # Fixed widths: columns that move from one drawing to the next cannot be read.
        widths = (7, *((6,) if on_gpus else ()), 12, 8, 10, 5)
        for width in (min(self.longest, max(self.console.width - sum(widths) - 2 * len(widths) - 1, 8)), *widths):
            runs.add_column(no_wrap=True, overflow="ellipsis", width=width)
        for attempt in sorted(self.active, key=lambda one: one.is_queued)[:most]:
            runs.add_row(
                attempt.run.cell.name,
                f"seed {attempt.run.seed}",
                *((attempt.slot,) if on_gpus else ()),
                ProgressBar(total=1.0, completed=attempt.share, width=12),
                "queued"
                if attempt.is_queued
                else "starting"
                if attempt.share == 0
                else "testing"
                if attempt.share == 1
                else f"{attempt.share:.0%}",
                _judged(attempt),
                duration(attempt.seconds),
            )
        hidden = len(self.active) - most
        more = [Text(f"and {hidden} more", style="dim")] if hidden > 0 else []
        share = (self.done + sum(attempt.share for attempt in self.active)) / max(self.total, 1)
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(width=24)
        table.add_column(no_wrap=True, overflow="ellipsis")
        trouble = f", {self.trouble}" if self.trouble else ""
        text = Text(f"{self.done} of {self.total} runs{trouble}{about_left(self.left)}")
        table.add_row(ProgressBar(total=1.0, completed=share, width=24), text)
        return Group(runs, *more, table)

    def _keep(self, attempt: "Attempt", text: str, colour: str) -> None:
        self.console.print(Text.assemble((attempt.name, "bold"), " ", (text, colour)), soft_wrap=True)


def _judged(attempt: "Attempt") -> str:
    """Write the last validation accuracy; of findings, which have none, the AUROC."""
    if attempt.accuracy is not None:
        return f"val {attempt.accuracy:.1%}"
    return "" if attempt.auroc is None else f"AUROC {attempt.auroc:.3f}"


def _test_accuracy(attempt: "Attempt") -> float | None:
    """Return the test accuracy of a run that ended well."""
    if attempt.state != "ok":
        return None
    verdict = attempt.run.folder.verdict() or {}
    accuracy: float | None = verdict.get("result", {}).get("test", {}).get("accuracy")
    return accuracy
