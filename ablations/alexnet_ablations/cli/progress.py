"""What a run says while it trains: a live bar, plain lines, lines of JSON, or nothing."""

import json
import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn


class Quiet:
    """Takes the events of a run and says nothing; closed when the run has ended."""

    def __call__(self, kind: str, facts: dict[str, Any]) -> None:
        """Take an event."""

    def close(self) -> None:
        """End."""


class JsonLines(Quiet):
    """One line of JSON per epoch and note, for machines."""

    def __call__(self, kind: str, facts: dict[str, Any]) -> None:
        """Print an event, unless it is of the kind that comes many times a second."""
        if kind not in ("step", "preparing"):
            print(json.dumps({"event": kind, **facts}), flush=True)  # noqa: T201  # standard output is the interface


class PlainLines(Quiet):
    """A line per epoch, and one every ten seconds within a long one."""

    def __init__(self, console: Console) -> None:
        self.console, self.said_at = console, time.monotonic()

    def __call__(self, kind: str, facts: dict[str, Any]) -> None:
        """Print an event that is due."""
        if kind == "note":
            self.console.print(f"note: {facts['text']}", markup=False, highlight=False)
        elif kind == "epoch":
            self.console.print(_epoch_line(facts), markup=False, highlight=False)
        elif time.monotonic() - self.said_at > 10 and kind in ("step", "preparing"):
            text = (
                f"epoch {facts['epoch']}, step {facts['step']}: loss {facts['loss']:.3f}, "
                f"{facts['images_per_second']:.0f} images/s"
                if kind == "step"
                else f"{facts['what']}: {facts['done']} of {facts['total']}"
            )
            self.console.print(text, markup=False, highlight=False)
        else:
            return
        self.said_at = time.monotonic()


class LiveBar(Quiet):
    """A bar over all steps with loss, accuracy, images per second and the time that is left."""

    def __init__(self, console: Console) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self.progress = Progress(*columns, console=console, transient=True)
        self.progress.start()
        self.task: TaskID | None = None
        self.preparing: TaskID | None = None

    def __call__(self, kind: str, facts: dict[str, Any]) -> None:
        """Move the bar, or print above it."""
        if kind == "preparing":
            if self.preparing is None:
                self.preparing = self.progress.add_task(facts["what"])
            self.progress.update(self.preparing, completed=facts["done"], total=facts["total"])
        elif kind == "begin":
            total = facts["epochs"] * facts["steps_per_epoch"]
            self.task = self.progress.add_task("training", total=total, completed=facts["done"])
            if self.preparing is not None:
                self.progress.remove_task(self.preparing)
        elif kind == "step" and self.task is not None:
            text = (
                f"epoch {facts['epoch']}  loss {facts['loss']:.3f}  accuracy {facts['accuracy']:.1%}  "
                f"{facts['images_per_second']:.0f} images/s"
            )
            self.progress.update(self.task, completed=facts["step"], description=text)
        elif kind == "note":
            self.progress.console.print(f"note: {facts['text']}", markup=False, highlight=False)
        elif kind == "epoch":
            self.progress.console.print(_epoch_line(facts), markup=False, highlight=False)

    def close(self) -> None:
        """Take the bar off the screen."""
        self.progress.stop()


def _epoch_line(row: dict[str, Any]) -> str:
    return (
        f"epoch {row['epoch']:3}  loss {row['train_loss']:.4f}  accuracy {row['train_accuracy']:.2%}  "
        f"validation: loss {row['validation_loss']:.4f}  accuracy {row['validation_accuracy']:.2%}  "
        f"{row['images_per_second']:.0f} images/s"
    )
