"""What is said of a run while it trains: a live bar, plain lines, lines of JSON, or nothing.

All of it is made from events: a kind and its facts. Those of a study's runs, which are told in lines as well, come from
alexnet_ablations.
"""

import json
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from alexnet_lab.live import live_on

# Seconds between two drawings; a step may take less.
BETWEEN_DRAWINGS = 0.1


class Quiet:
    """Takes the events of a run and says nothing; closed when the run has ended."""

    def __call__(self, kind: str, facts: dict[str, Any]) -> None:
        """Take an event."""

    def close(self) -> None:
        """End."""


class JsonLines(Quiet):
    """One line of JSON per event, for machines."""

    def __init__(self, write: Callable[[str], object] | None = None) -> None:
        self.write = write or partial(print, flush=True)

    def __call__(self, kind: str, facts: dict[str, Any]) -> None:
        """Write an event, unless it is of a kind that comes many times a second."""
        if kind not in INTERVALS:
            self.write(json.dumps({"event": kind, **facts}))


class PlainLines(Quiet):
    """A line per event; of the kinds that come many times a second, one when nothing was said for a while."""

    def __init__(self, console: Console) -> None:
        self.console, self.said_at = console, time.monotonic()

    def __call__(self, kind: str, facts: dict[str, Any]) -> None:
        """Print an event, if people are to read of its kind and it is due."""
        if kind in SENTENCES and time.monotonic() - self.said_at >= INTERVALS.get(kind, 0.0):
            self.console.print(SENTENCES[kind](facts), markup=False, highlight=False, soft_wrap=True)
            self.said_at = time.monotonic()


class LiveBar(Quiet):
    """A bar over all steps with loss, accuracy, images per second and the time that is left."""

    def __init__(self, console: Console) -> None:
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        self.console = console
        self.progress = Progress(*columns, console=console, auto_refresh=False)  # never started: `live` draws it
        self.live = live_on(console)
        self.live.start()
        self.drawn_at = 0.0
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
        elif kind in ("note", "epoch"):
            self.console.print(SENTENCES[kind](facts), markup=False, highlight=False)
        self._draw()

    def _draw(self) -> None:
        if time.monotonic() - self.drawn_at >= BETWEEN_DRAWINGS:
            self.live.update(self.progress.get_renderable(), refresh=True)
            self.drawn_at = time.monotonic()

    def close(self) -> None:
        """Take the bar off the screen."""
        self.live.stop()


def reporter_on(console: Console) -> Quiet:
    """Return what shows a run on a console: a bar where it can be redrawn, else lines."""
    return LiveBar(console) if console.is_terminal else PlainLines(console)


class Stages:
    """A bar for each stage of a command: what is done, and how much of it. Nothing where nobody watches."""

    def __init__(self, console: Console) -> None:
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        self.progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self.tasks: dict[str, TaskID] = {}

    def __enter__(self) -> "Stages":
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def told(self, what: str, done: int, total: int) -> None:
        """Show how far a stage is."""
        if what not in self.tasks:
            self.tasks[what] = self.progress.add_task(what)
        self.progress.update(self.tasks[what], completed=done, total=total)


def duration(seconds: float) -> str:
    """Write a time as people read it: 0:42, 12:05, 3:04:05."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def about_left(seconds: float | None) -> str:
    """Write what is left in round numbers, as a part of a sentence: `, about 3 min left`."""
    if seconds is None:
        return ""
    if seconds < 50:
        return f", about {max(5 * round(seconds / 5), 5)} s left"
    if seconds < 90 * 60:
        return f", about {round(seconds / 60)} min left"
    return f", about {seconds / 3600:.1f} h left"


def _epoch_line(facts: dict[str, Any]) -> str:
    judged = f"accuracy {facts['validation_accuracy']:.2%}" if facts["validation_accuracy"] is not None else "no AUROC"
    if facts["validation_accuracy"] is None and facts["validation_auroc"] is not None:  # of findings
        judged = f"AUROC {facts['validation_auroc']:.4f}"
    return (
        f"epoch {facts['epoch']:3}  loss {facts['train_loss']:.4f}  accuracy {facts['train_accuracy']:.2%}  "
        f"validation: loss {facts['validation_loss']:.4f}  {judged}  "
        f"{facts['images_per_second']:.0f} images/s"
    )


def _step_line(facts: dict[str, Any]) -> str:
    return (
        f"epoch {facts['epoch']}, step {facts['step']}: loss {facts['loss']:.3f}, "
        f"{facts['images_per_second']:.0f} images/s"
    )


def _ended_line(facts: dict[str, Any]) -> str:
    if facts["state"] != "ok":
        outcome = f"{facts['state']} ({facts['why']})" if facts["why"] else facts["state"]
    else:
        outcome = "ok" if facts["test_accuracy"] is None else f"{facts['test_accuracy']:.1%}"
    name = f"{facts['cell']} seed {facts['seed']}"
    return f"[{facts['done']}/{facts['total']}] {name}: {outcome}, {duration(facts['seconds'])}"


def _working_line(facts: dict[str, Any]) -> str:
    working = ", ".join(f"{name} {share:.0%}" for name, share in facts["running"][:4])
    more = f" and {len(facts['running']) - 4} more" if len(facts["running"]) > 4 else ""
    time_left = about_left(facts["seconds_left"])
    return f"{facts['done']} of {facts['total']} runs done; at work: {working}{more}{time_left}"


# Seconds without a line after which an event of a kind that comes many times a second is told.
INTERVALS: Mapping[str, float] = {"step": 10.0, "preparing": 10.0, "working": 60.0}
# The kinds of events that people read, of a run (note to preparing) and of a study's runs, each as a sentence.
SENTENCES: Mapping[str, Callable[[dict[str, Any]], str]] = {
    "note": lambda facts: f"note: {facts['text']}",
    "epoch": _epoch_line,
    "step": _step_line,
    "preparing": lambda facts: f"{facts['what']}: {facts['done']} of {facts['total']}",
    "died": lambda facts: f"{facts['cell']} seed {facts['seed']}: {facts['why']}; it is started again",
    "ended": _ended_line,
    "working": _working_line,
}
