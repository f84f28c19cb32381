"""The other processes of a run that several share: the first one starts them, and they end with it.

A recipe says how many processes share its run (`processes`). Each takes its part of every batch, on a GPU of its own
where the recipe is for GPUs. The first process alone writes the folder and speaks with a coordinator. It starts the
others as `python -m alexnet_lab.training.run --companion PLACE RUN_FOLDER`, each at the end of a pipe that closes when
the first one dies, however it dies.

Under torchrun nothing is started here: it has started all processes (parallel.py).
"""

import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alexnet_lab.records import RunFolder
from alexnet_lab.terminal import as_text
from alexnet_lab.training.parallel import COUNT, MEETING, RANK, RANK_HERE
from alexnet_lab.training.process import child_environment, leave, python_command
from alexnet_lab.training.recipe import Recipe

COMPANION = "--companion"
MODULE = "alexnet_lab.training.run"
RECIPE = "recipe.json"
# Seconds that the processes of a run have to end once the first one has; and in which the first one, when another one
# has failed, must end by itself. torch needs some to see that another process has gone, and on GPUs may never see it.
GRACE = 20.0
LOOK = 0.2


class CompanionError(Exception):
    """Another process of the run ended before its time; the message says which, and how."""


@contextmanager
def companions(recipe: Recipe, folder: RunFolder) -> Iterator[None]:
    """Have the other processes of the run while the block lasts; CompanionError if one ends before it."""
    if recipe.processes == 1:
        yield
        return
    if COUNT in os.environ:
        raise ValueError(
            f"processes {recipe.processes} asks the run to start its processes, and torchrun has started "
            f"{os.environ[COUNT]}; leave one of the two out"
        )
    with tempfile.TemporaryDirectory(prefix="alexnet-lab-") as name:
        place = Path(name)
        (place / RECIPE).write_text(recipe.to_json())
        shared = {COUNT: str(recipe.processes), MEETING: str(place / "meeting")}
        started = [_start(place, folder, shared, rank) for rank in range(1, recipe.processes)]
        watch = _Watch(started, folder)
        patience = 0.0
        try:
            with _environment({**shared, RANK: "0", RANK_HERE: "0"}):
                yield
            patience = GRACE  # only then: after an error they have nothing to end well, since they write nothing
        except RuntimeError as error:  # what torch raises where another process has gone
            why = watch.failure(patience=GRACE / 4)
            if why:
                raise CompanionError(why) from error
            raise
        finally:
            watch.close(patience)


class _Watch:
    """Waits for the other processes, and ends this one where it hangs after another has failed."""

    def __init__(self, processes: "list[subprocess.Popen[bytes]]", folder: RunFolder) -> None:
        self.processes, self.folder = processes, folder
        self._closed = threading.Event()
        threading.Thread(target=self._end_if_stuck, daemon=True).start()

    def failure(self, patience: float = 0.0) -> str:
        """Say which process failed, and how; empty while none has within so many seconds."""
        deadline = time.monotonic() + patience
        while True:
            for number, process in enumerate(self.processes, 2):
                if process.poll():
                    how = f"status {process.returncode}" if process.returncode > 0 else f"signal {-process.returncode}"
                    return f"process {number} of the {len(self.processes) + 1} that share the run ended with {how}"
            if time.monotonic() >= deadline:
                return ""
            time.sleep(LOOK)

    def close(self, patience: float) -> None:
        """Let all end within so many seconds, and end those that do not."""
        self._closed.set()
        deadline = time.monotonic() + patience
        for process in self.processes:
            try:
                process.wait(max(deadline - time.monotonic(), 0.0))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdin is not None:
                process.stdin.close()

    def _end_if_stuck(self) -> None:
        while not self._closed.wait(LOOK):
            why = self.failure()
            if why and not self._closed.wait(GRACE):
                if not (self.folder.path / "state.json").exists():  # the one that failed may have said why
                    self.folder.end("error", why)
                print(as_text(why), flush=True)  # noqa: T201  # kept in the run's output.txt
                leave(1)


def _start(place: Path, folder: RunFolder, shared: dict[str, str], rank: int) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(  # noqa: S603  # our own interpreter, our own module, paths we made
        python_command(MODULE, COMPANION, str(place), str(folder.path)),
        stdin=subprocess.PIPE,
        env={**child_environment(), **shared, RANK: str(rank), RANK_HERE: str(rank)},
    )


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    os.environ.update(values)
    try:
        yield
    finally:
        for name in values:
            del os.environ[name]
