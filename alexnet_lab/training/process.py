"""One run as a process of its own: how it is started, its lock, its progress, and what ends it.

A coordinator starts it with the folder's lock already taken and passed on, and with a pipe as its standard input. The
pipe closes when the coordinator dies, however it dies; then the run saves and ends, so that no run trains without a
coordinator, and whoever comes next finds the lock free and a checkpoint to continue from.
"""

import os
import signal
import site
import sys
import threading
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

from alexnet_lab.locks import Lock
from alexnet_lab.records import RunFolder
from alexnet_lab.terminal import as_text, print_anything
from alexnet_lab.training.recipe import Recipe, read_recipe

COORDINATED = "--coordinated"
USAGE = f"usage: python -m alexnet_lab.training.run [{COORDINATED}] RUN_FOLDER"
PACKAGES = ("alexnet_lab", "alexnet_kernels", "alexnet_ablations")
# Seconds between two notes of how far the run is; nobody waits for the disk.
BETWEEN_NOTES = 0.5
# Seconds in which a run whose coordinator died must reach its next step, save and end; after that it is killed.
LINGER = 600.0
# Bytes at the end of what a process printed in which its last line is looked for, and letters of it that are told.
LAST_BYTES, LAST_LETTERS = 2**16, 300


def python_command(module: str, *arguments: str) -> list[str]:
    """Return the command that runs a module of ours by this interpreter; start it with `child_environment()`.

    `python -m` alone would import from the working folder first: a `random.py` there would be executed.
    """
    return [sys.executable, "-P", "-m", module, *arguments]


def child_environment() -> dict[str, str]:
    """Return the environment for a process of ours: nothing is imported from a folder because one works there.

    PYTHONPATH keeps its absolute entries, and gains the folders of a checkout that is not installed. Processes that the
    child starts are kept from the working folder too.
    """
    inherited = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    entries = [entry for entry in inherited if Path(entry).is_absolute()]
    entries += [root for root in _roots_of_packages() if root not in entries]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["PYTHONSAFEPATH"] = "1"
    return {**environment, "PYTHONPATH": os.pathsep.join(entries)} if entries else environment


def _roots_of_packages() -> list[str]:
    """Return the folders of our packages that are no part of what this interpreter imports from by itself."""
    installed = {Path(folder) for folder in (*site.getsitepackages(), site.getusersitepackages())}
    by_pth = {line for folder in installed for pth in folder.glob("*.pth") for line in _lines_of(pth)}
    roots = []
    for package in PACKAGES:
        spec = find_spec(package)
        for location in spec.submodule_search_locations or () if spec else ():
            root = Path(location).absolute().parent
            if root not in installed and str(root) not in by_pth and str(root) not in roots:
                roots.append(str(root))
    return roots


def _lines_of(path: Path) -> list[str]:
    return [line.rstrip("/") for line in path.read_text(errors="replace").splitlines()]


def last_line(output: Path) -> str:
    """Return the last line that a process printed into a file, cut short; empty where there is none.

    A process may have printed without end, so only the end of the file is read.
    """
    try:
        with output.open("rb") as file:
            file.seek(max(output.stat().st_size - LAST_BYTES, 0))
            lines = file.read(LAST_BYTES).decode(errors="replace").strip().splitlines()
    except OSError:
        return ""
    return lines[-1][:LAST_LETTERS] if lines else ""


def is_first_process() -> bool:
    """Say whether this process writes and prints for all that share the run."""
    return os.environ.get("RANK", "0") == "0"


def run_folder(arguments: list[str], train: Callable[[Recipe, RunFolder, Callable[..., None]], int]) -> int:
    """Train by the recipe in the folder that the arguments name, holding its lock; return the exit status."""
    coordinated = arguments[:1] == [COORDINATED]
    names = arguments[1:] if coordinated else arguments
    if len(names) != 1 or names[0].startswith("-"):
        print(USAGE, file=sys.stderr)  # noqa: T201  # a command prints
        return 2
    print_anything()
    folder = RunFolder(Path(names[0]))
    if coordinated:
        end_with(sys.stdin.fileno(), signal.SIGTERM)
    try:
        recipe = _recipe_in(folder)
        if not coordinated and is_first_process():  # it holds the lock for all
            hold(folder)
    except ValueError as error:
        print(as_text(str(error)), file=sys.stderr)  # noqa: T201  # a command prints
        return 2
    try:
        return train(recipe, folder, Tracker(folder))
    finally:
        folder.forget_progress()


def leave(status: int) -> NoReturn:
    """End this process without taking the interpreter down, which takes a second once torch is loaded.

    For a run that has written its verdict: everything that it keeps is in its folder by then.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def run_command(folder: Path) -> list[str]:
    """Return the command by which a coordinator starts the run of a folder."""
    return python_command("alexnet_lab.training.run", COORDINATED, str(folder))


def _recipe_in(folder: RunFolder) -> Recipe:
    written = folder.recipe()
    if written is None:
        raise ValueError(f"{folder.path} has no recipe.json; write one there, or start with alexnet-lab train")
    return read_recipe(written)


def hold(folder: RunFolder) -> Lock:
    """Lock the folder for this process until it ends; ValueError says which process has it."""
    folder.path.mkdir(parents=True, exist_ok=True)
    lock = Lock(folder.lock)
    if not lock.take():
        raise ValueError(f"{folder.path} is being written by {lock.holder()}; wait for it, or choose another folder")
    return lock


class Tracker:
    """Prints notes, and keeps the folder's progress.json up to date."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self.totals: dict[str, Any] = {}
        self.noted_at = -BETWEEN_NOTES

    def __call__(self, kind: str, facts: dict[str, Any]) -> None:
        """Take an event of the run."""
        if kind == "note":
            print(as_text(facts["text"]), flush=True)  # noqa: T201  # kept in the run's output.txt
        elif kind == "begin":
            self.totals = {"epochs": facts["epochs"], "steps": facts["epochs"] * facts["steps_per_epoch"]}
            self.folder.note_progress({**self.totals, "epoch": 0, "step": facts["done"]})
        elif kind in ("step", "preparing") and time.monotonic() - self.noted_at >= BETWEEN_NOTES:
            self.folder.note_progress({**self.totals, **facts})
            self.noted_at = time.monotonic()


def end_with(pipe: int, number: signal.Signals) -> None:
    """Send this process a signal when the pipe's other end closes, and kill it if that does not end it."""
    threading.Thread(target=_wait_and_end, args=(pipe, number), daemon=True).start()


def _wait_and_end(pipe: int, number: signal.Signals) -> None:
    while os.read(pipe, 1):
        pass
    os.kill(os.getpid(), number)
    time.sleep(LINGER)
    os.kill(os.getpid(), signal.SIGKILL)
