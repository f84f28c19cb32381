"""What a machine does for one run of a study that another machine coordinates.

    python -m alexnet_ablations.run.node TASK.json PLACE      a task as `Task.to_json` writes it

Each call is an attempt in a folder of its own (alexnet_lab/training/handover.py). The run is a process in a session of
its own, at the end of a pipe: however this process ends, the pipe closes, and the run saves and ends. Nothing here
needs a lock, the clocks of machines to agree, or the coordinator to be there.

Decoded images are kept on a disk of the machine's own, downloads where they are for every machine.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from alexnet_ablations.declare.history import note_end, note_start
from alexnet_lab.records import RunFolder, write_atomically
from alexnet_lab.training.handover import new_attempt, publish
from alexnet_lab.training.process import child_environment, last_line, run_command

# Seconds that a run has to save itself when its attempt is cancelled.
GRACE = 30.0
USAGE = "usage: python -m alexnet_ablations.run.node TASK.json PLACE"


@dataclass(frozen=True)
class Task:
    """A run to be made: its folder, its recipe as written, and the folder that relative paths begin at."""

    run: str
    recipe: str
    folder: str
    threads: int

    def to_json(self) -> str:
        """Write the task for the machine that will do it."""
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> "Task":
        """Read a task as a coordinator wrote it."""
        return cls(**json.loads(text))


def command_of(folder: Path) -> list[str]:
    """Return the command that makes the run of a folder that is this process's alone."""
    return run_command(folder)


def make_attempt(task: Task, place: str, environment: Mapping[str, str] | None = None) -> int:
    """Make an attempt at a run and publish it; return the status of its process, 0 if the run was there already.

    An attempt that left no verdict stays, for its checkpoints. SIGTERM lets the run save and end.
    """
    run = Path(task.run)
    if (run / "state.json").exists():  # another attempt was first
        return 0
    attempt = RunFolder(new_attempt(run))
    attempt.path.mkdir(parents=True)
    write_atomically(attempt.path / "recipe.json", task.recipe)
    note_start(attempt.path, place)
    began = time.monotonic()
    status = _run_process(attempt.path, task, environment or {})
    verdict = _verdict_of(attempt)
    if attempt.path.exists():  # else another attempt was first, and this one was deleted
        state, result = ("lost", {}) if verdict is None else (verdict["state"], verdict["result"])
        note_end(attempt.path, state, time.monotonic() - began, int(result.get("peak_memory_bytes") or 0))
    if verdict is not None:
        publish(attempt.path)
    return status


def last_words(folder: Path) -> str:
    """Return the last line that the process of an attempt printed."""
    return last_line(folder / "output.txt")


def images_here() -> str:
    """Return this user's folder for decoded images on a disk of this machine."""
    place = Path(tempfile.gettempdir()) / f"alexnet-lab-images-{os.getuid()}"
    with suppress(FileExistsError):
        place.mkdir(mode=0o700)
    # The folder for temporary files is everybody's: a folder of that name may be another user's, or lead elsewhere.
    status = place.lstat()
    is_ours = status.st_uid == os.getuid() and status.st_mode & 0o077 == 0 and not place.is_symlink()
    return str(place) if is_ours else tempfile.mkdtemp(prefix="alexnet-lab-images-")


def _run_process(folder: Path, task: Task, environment: Mapping[str, str]) -> int:
    threads = str(task.threads)
    local = {} if "ALEXNET_LAB_IMAGES" in os.environ else {"ALEXNET_LAB_IMAGES": images_here()}
    settings = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, **local, **environment}
    with (folder / "output.txt").open("wb") as output:
        process = subprocess.Popen(  # noqa: S603  # our own interpreter, our own module, a path we made
            command_of(folder),
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=task.folder if Path(task.folder).is_dir() else None,
            env={**child_environment(), **settings},
            start_new_session=True,
        )
    try:
        with _passing_on(process.terminate):
            return process.wait()
    except KeyboardInterrupt:  # an engine that cancels its task: the run may save
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)
        raise
    finally:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)  # and what it started and left
        process.wait()
        if process.stdin is not None:
            process.stdin.close()


def _verdict_of(folder: RunFolder) -> dict[str, Any] | None:
    try:
        return folder.verdict()
    except ValueError:  # damaged: as good as none
        return None


class _passing_on:  # noqa: N801  # a context manager reads as one
    """Pass SIGTERM on as a call, if signals can be received here."""

    def __init__(self, call: Callable[[], None]) -> None:
        self.call = call
        self.before: Any = None

    def __enter__(self) -> None:
        def ask(_number: int, _frame: FrameType | None) -> None:
            self.call()

        with suppress(ValueError):  # not the main thread
            self.before = signal.signal(signal.SIGTERM, ask)

    def __exit__(self, *_: object) -> None:
        with suppress(ValueError):
            if self.before is not None:
                signal.signal(signal.SIGTERM, self.before)


def main(arguments: list[str]) -> int:
    """Make an attempt at the run of a task file."""
    if len(arguments) != 2:
        print(USAGE, file=sys.stderr)  # noqa: T201  # a command prints
        return 2
    status = make_attempt(Task.from_json(Path(arguments[0]).read_text()), arguments[1])
    return status if status >= 0 else 128 - status  # as a shell says that a signal ended it


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
