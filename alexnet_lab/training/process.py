"""One run as a process of its own: who may write in its folder, who learns how far it is, and what ends it.

A coordinator starts it with the folder's lock already taken and handed over, and with a pipe as its standard input. The
pipe closes when the coordinator dies, however it dies; then the run saves and ends, so that nothing trains unseen, and
whoever comes next finds the lock free and a checkpoint to go on from. Pipes and locks of open files are alike on Linux
and macOS.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from alexnet_lab.locks import Lock
from alexnet_lab.records import RunFolder
from alexnet_lab.training.recipe import Recipe, read_recipe

USAGE = "usage: python -m alexnet_lab.training.run [--coordinated] RUN_FOLDER"
# Seconds between two notes of how far the run is. They are small, and no one waits for the disk.
BETWEEN_NOTES = 0.5
# A run whose coordinator died and that does not reach its next step in so many seconds hangs.
LINGER = 600.0


def run_folder(arguments: list[str], train: Callable[[Recipe, RunFolder, Callable[..., None]], int]) -> int:
    """Train by the recipe in the folder that the arguments name, as the only one who writes there."""
    coordinated = arguments[:1] == ["--coordinated"]
    names = arguments[1:] if coordinated else arguments
    if len(names) != 1 or names[0].startswith("-"):
        print(USAGE, file=sys.stderr)  # noqa: T201  # a command prints
        return 2
    folder = RunFolder(Path(names[0]))
    if coordinated:
        threading.Thread(target=_end_with_coordinator, args=(sys.stdin.fileno(),), daemon=True).start()
    try:
        recipe = _recipe_in(folder)
        if not coordinated and os.environ.get("RANK", "0") == "0":  # torchrun's first process holds it for all
            hold(folder)
    except ValueError as error:
        print(error, file=sys.stderr)  # noqa: T201  # a command prints
        return 2
    try:
        return train(recipe, folder, Tracker(folder))
    finally:
        folder.forget_progress()


def _recipe_in(folder: RunFolder) -> Recipe:
    written = folder.recipe()
    if written is None:
        raise ValueError(f"{folder.path} has no recipe.json; write one there, or start with alexnet-lab train")
    return read_recipe(written)


def hold(folder: RunFolder) -> Lock:
    """Take the folder for this process until it ends; ValueError says who has it."""
    folder.path.mkdir(parents=True, exist_ok=True)
    lock = Lock(folder.lock)
    if not lock.take():
        raise ValueError(f"{folder.path} is being written by {lock.holder()}; wait for it, or choose another folder")
    return lock


class Tracker:
    """Prints notes, and keeps the folder's progress.json up to date for whoever watches."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self.totals: dict[str, Any] = {}
        self.noted_at = -BETWEEN_NOTES

    def __call__(self, kind: str, facts: dict[str, Any]) -> None:
        """Take an event of the run."""
        if kind == "note":
            print(facts["text"], flush=True)  # noqa: T201  # kept in the run's output.txt
        elif kind == "begin":
            self.totals = {"epochs": facts["epochs"], "steps": facts["epochs"] * facts["steps_per_epoch"]}
            self.folder.note_progress({**self.totals, "epoch": 0, "step": facts["done"]})
        elif kind in ("step", "preparing") and time.monotonic() - self.noted_at >= BETWEEN_NOTES:
            self.folder.note_progress({**self.totals, **facts})
            self.noted_at = time.monotonic()


def _end_with_coordinator(pipe: int) -> None:
    while os.read(pipe, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(LINGER)
    os.kill(os.getpid(), signal.SIGKILL)
