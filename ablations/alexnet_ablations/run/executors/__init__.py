"""Where runs are placed: an executor starts a run, notices its end, and stops it.

The coordinator decides which run is next, whether it is tried again, and what its end means. An executor knows one kind
of place: `local` is this machine. Another one is a class with these methods, in a file of its own.
"""

import threading
from collections.abc import Callable
from enum import Enum
from typing import Generic, Protocol, TypeVar

from alexnet_ablations.declare.study import PlannedRun
from alexnet_ablations.run.attempt import Attempt

A = TypeVar("A", bound=Attempt)


class Refusal(Enum):
    """Why a run was not started."""

    FULL = "there is no room for another run now"
    HELD = "another process works in the run's folder"
    DONE = "another process has finished the run"


class Executor(Protocol, Generic[A]):
    """Places runs, and notices when they end."""

    count: int  # runs side by side, at most
    wake: threading.Event  # set whenever an attempt has ended

    def submit(self, run: PlannedRun, number: int, is_done: Callable[[PlannedRun], bool]) -> A | Refusal:
        """Start a run, or say why not; `is_done` is asked once nobody else can change the run's folder."""

    def poll(self, attempt: A) -> bool:
        """Update an attempt's progress, memory and seconds; say whether it has ended."""

    def stop(self, attempt: A) -> None:
        """Ask a run to save and end. One that is asked again and does not listen is ended."""

    def stop_all(self) -> None:
        """Let all runs save and end, and end those that do not; return when none is left."""

    def close(self, attempt: A) -> None:
        """Release what an ended attempt held, and end whatever it left running."""

    def write_verdict(self, attempt: A) -> None:
        """Write the verdict of an attempt that left none; raise OSError where it cannot be written."""
