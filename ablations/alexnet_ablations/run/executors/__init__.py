"""Where runs are placed: an executor starts a run, notices its end, and stops it.

The coordinator decides which run is next, whether it is tried again, and what its end means. An executor knows one kind
of place: this machine, a Slurm cluster, a Ray cluster. Each has a file of its own with two classes: the engine, a value
whose fields are the user's options, and the executor that it opens for one study.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from alexnet_ablations.declare.status import Sighting
from alexnet_ablations.declare.study import PlannedRun
from alexnet_ablations.run.attempt import Attempt
from alexnet_lab.training.recipe import Recipe

A = TypeVar("A", bound=Attempt)


class Refusal(Enum):
    """Why a run was not started."""

    FULL = "there is no room for another run now"
    HELD = "another process works in the run's folder"
    DONE = "another process has finished the run"


@dataclass(frozen=True)
class Needs:
    """What each run of a study needs, all its processes together."""

    threads: int
    gpus: int  # 0 on processors
    memory: int = 0  # bytes that an earlier run took at the most; 0 while none has ended
    seconds: float | None = None  # after which the coordinator stops it

    @classmethod
    def of(cls, recipes: Sequence[Recipe], memory: int = 0, seconds: float | None = None) -> "Needs":
        """Return what runs of these recipes need at the most."""
        threads = max(recipe.threads * recipe.processes for recipe in recipes)
        gpus = max(recipe.processes if recipe.device == "cuda" else 0 for recipe in recipes)
        return cls(threads, gpus, memory, seconds)


@dataclass(frozen=True)
class Order:
    """What a coordinator wants placed: the runs of a study, `jobs` side by side or as many as fit."""

    study: Path
    needs: Needs
    jobs: int | None
    say: Callable[[str], None]  # tells the user a sentence


class Engine(Protocol):
    """A kind of place, with the user's options as its fields: a frozen dataclass whose fields `option` describes."""

    outlives: ClassVar[bool]  # its runs go on when the coordinator ends
    is_here: ClassVar[bool]  # its runs are processes of this machine

    def open(self, order: Order) -> "Executor[Any]":
        """Return an executor for one study; ValueError if the place cannot be reached."""

    @staticmethod
    def sightings(study: Path) -> Mapping[Path, Sighting]:
        """Return what the place says of the runs of a study at this moment, by absolute folder; nothing is changed."""


def option(help: str, metavar: str, default: Any = None) -> Any:  # noqa: A002  # as typer calls it
    """Describe a field of an engine, which is an option of the command line: text, or several with a default of ()."""
    return field(default=default, metadata={"help": help, "metavar": metavar})


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
