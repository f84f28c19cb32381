"""What executors share that place runs on other machines: slurm and ray.

There an attempt works in a folder of its own (alexnet_lab/training/handover.py), and run/node.py records when it starts
and ends. A coordinator here only looks.
"""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from alexnet_ablations.declare.history import read_history
from alexnet_ablations.declare.study import PlannedRun
from alexnet_ablations.run.attempt import Attempt
from alexnet_ablations.run.executors import Refusal
from alexnet_ablations.run.node import Task, last_words
from alexnet_lab.locks import NO_LOCKS, Lock
from alexnet_lab.records import RunFolder, State, write_atomically
from alexnet_lab.training.handover import (
    attempts_of,
    furthest_attempt,
    new_attempt,
    publish,
    remove_attempts,
    set_aside,
)

FINAL = ("ok", "diverged")


class RemoteAttempt(Attempt):
    """An attempt on another machine, which is known by what stands in its run's folders."""

    def __init__(self, run: PlannedRun, number: int, slot: str) -> None:
        super().__init__(run, number, slot)
        self.is_queued = True
        self._folder = run.folder

    @property
    def folder(self) -> RunFolder:
        """Return the folder of the attempt that is furthest, or of the run once one is published."""
        return self._folder

    def record_start(self) -> None:
        """Do nothing: the machine that makes the attempt records it."""

    def record_end(self) -> None:
        """Do nothing: the machine that makes the attempt records it."""

    def look(self) -> None:
        """Find the folder of the attempt, and read how far it is."""
        path = furthest_attempt(self.run.folder.path)
        if path != self._folder.path:
            self._folder = RunFolder(path)
            self._read_until = -1
        with suppress(FileNotFoundError):  # it is published in this moment
            self.read_progress()

    def is_published(self) -> bool:
        """Say whether an attempt at the run has ended with a verdict; one whose machine died then is published here."""
        if (self.run.folder.path / "state.json").exists():
            history = read_history(self.run.folder.path)
            self.seconds, self.memory = history.seconds or self.seconds, max(self.memory, history.memory)
            return True
        return any(publish(path) for path in attempts_of(self.run.folder.path) if _has_verdict(path))

    def said(self) -> str:
        """Return the last words of the attempt that is furthest."""
        return last_words(furthest_attempt(self.run.folder.path))


def make_way(run: PlannedRun, is_done: Callable[[PlannedRun], bool]) -> Refusal | None:
    """Free the name of a run for the next attempt at it; return why not, if not.

    What a local run left there becomes an attempt, from whose checkpoints the next one goes on.
    """
    if not run.folder.path.exists():
        for path in attempts_of(run.folder.path):
            if _has_verdict(path, FINAL) and publish(path):
                break
    if is_done(run):
        remove_attempts(run.folder.path)
        return Refusal.DONE
    try:
        run.folder.path.parent.mkdir(parents=True, exist_ok=True)
        if not run.folder.path.exists():
            return None
        lock = Lock(run.folder.lock)
        if not _taken(lock):
            return Refusal.HELD
        set_aside(run.folder.path)
        lock.release()
    except OSError as error:
        raise ValueError(
            f"{run.folder.path} cannot be written ({error.strerror}); correct that, and the same command continues"
        ) from None
    return None


def task_of(run: PlannedRun) -> Task:
    """Return what another machine must know to make a run."""
    return Task(str(run.folder.path.absolute()), run.recipe.to_json(), str(Path.cwd()), run.recipe.threads)


def end_in_place(attempt: RemoteAttempt, state: State) -> None:
    """Write the verdict of a run whose attempts left none, in the furthest of them, and publish it."""
    path = furthest_attempt(attempt.run.folder.path)
    if path == attempt.run.folder.path:  # no attempt has begun
        path = new_attempt(path)
        path.mkdir(parents=True)
        write_atomically(path / "recipe.json", attempt.run.recipe.to_json())
    RunFolder(path).end(state, attempt.why)
    publish(path)


def _has_verdict(path: Path, states: tuple[str, ...] = ()) -> bool:
    try:
        verdict = RunFolder(path).verdict()
    except ValueError:  # damaged: as good as none
        return False
    return verdict is not None and (not states or verdict["state"] in states)


def _taken(lock: Lock) -> bool:
    try:
        return lock.take(patience=0.0)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        return True  # a file system without locks: nobody holds one
