"""One run in its folder: made, continued where it was interrupted, or found done.

    folder = run_place(recipe, None)          # runs/digits-alexnet-1f0c
    verdict = make_run(recipe, folder, is_named=False, report=reporter)

What `alexnet-lab train` and `alexnet_lab.train` have in common.
"""

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

from alexnet_lab.locks import Lock
from alexnet_lab.progress import Quiet
from alexnet_lab.records import RunFolder
from alexnet_lab.training.process import hold, is_first_process
from alexnet_lab.training.recipe import Recipe, read_recipe
from alexnet_lab.training.weight_sources import find_weights

INTERRUPTED = 130  # the status of a run that was asked to stop, and was saved


class Stopped(Exception):  # noqa: N818  # it is no error: the run was saved, or another process writes it
    """The run has no verdict yet; `status` is the exit status that says why."""

    def __init__(self, status: int) -> None:
        super().__init__(f"status {status}")
        self.status = status


def recipe_on_this_machine(fields: Mapping[str, Any]) -> Recipe:
    """Return the recipe of these fields, with every thread of this machine and its GPU unless they say otherwise."""
    processes = fields.get("processes", 1)
    sharing = processes if isinstance(processes, int) and processes > 1 else 1
    chosen = {"threads": max((os.cpu_count() or 1) // sharing, 1), **fields}
    if "device" not in chosen:
        import torch

        chosen["device"] = "cuda" if torch.cuda.is_available() else "cpu"
    return read_recipe(chosen)


def run_place(recipe: Recipe, folder: Path | None) -> RunFolder:
    """Return the folder of a run: the one that was named, or one below runs/ that is named after the recipe."""
    data = Path(recipe.data.partition(":")[0]).stem or "data"
    weights = find_weights(recipe)
    digest = recipe.identity("", weights.digest if weights else "")
    return RunFolder(folder or Path("runs") / f"{data}-{recipe.network}-{digest}")


def finished(recipe: Recipe, folder: RunFolder, *, is_named: bool) -> tuple[dict[str, Any] | None, str]:
    """Return the verdict of a run that is done, else None and a note where its files changed after it ended.

    Raises ValueError if the folder holds another run. `is_named` is off where the folder is named after the recipe.
    """
    is_same = _is_same(folder, recipe, is_named=is_named)
    damages = folder.damages(weights=True) if is_same else ()
    if damages:
        return None, f"{', '.join(damages)} in {folder.path} changed after the run ended; the run is made again"
    verdict = folder.verdict() if is_same else None
    if not _is_final(verdict):
        return None, ""
    _clear_leftovers(folder)
    return verdict, ""


def make_run(recipe: Recipe, folder: RunFolder, report: Quiet, note: str = "", *, is_named: bool) -> dict[str, Any]:
    """Train in this process, holding the folder's lock, and return the verdict, ok or diverged.

    Raises ValueError with the reason of any other verdict, and Stopped where there is none. `report` is closed.
    """
    from alexnet_lab.training.run import train_with_verdict

    is_first = is_first_process()  # under torchrun every process comes here, and the first one writes and prints
    lock = None
    try:
        lock = hold(folder) if is_first else None
        if note:
            report("note", {"text": note})
        status = train_with_verdict(recipe, folder, report)
    finally:
        report.close()
        if lock is not None:
            lock.release()
    if status == INTERRUPTED or not is_first:
        raise Stopped(status)
    verdict = folder.verdict()
    if verdict is None or not _is_final(verdict):
        _remove_if_empty(folder, with_parent=not is_named)
        raise ValueError(verdict["why"] if verdict else "the run ended without a verdict")
    return verdict


def _is_final(verdict: Mapping[str, Any] | None) -> bool:
    """Return whether a run ended with a result, which the same call does not make again."""
    return verdict is not None and verdict["state"] in ("ok", "diverged")


def _remove_if_empty(folder: RunFolder, *, with_parent: bool) -> None:
    """Remove the folder of a run that failed before it began; one that has something else in it stays."""
    if (folder.path / "recipe.json").exists():
        return
    (folder.path / "state.json").unlink(missing_ok=True)
    folder.lock.unlink(missing_ok=True)
    with suppress(OSError):
        folder.path.rmdir()
        if with_parent:
            folder.path.parent.rmdir()


def _is_same(folder: RunFolder, recipe: Recipe, *, is_named: bool) -> bool:
    """Return whether the folder holds this run; one that holds another is refused.

    A recipe that is damaged says nothing. Then the digest in the verdict decides, or the folder's name, where that was
    made from the recipe.
    """
    with suppress(ValueError):  # of a damaged verdict
        recorded = ((folder.verdict() or {}).get("files") or {}).get("recipe.json")
        if recorded == sha256(recipe.to_json().encode()).hexdigest():
            return True
    try:
        fields = folder.recipe()
        theirs = None if fields is None else read_recipe(fields)
    except ValueError as error:
        if not is_named:
            return True
        raise ValueError(
            f"{folder.path} may hold another run, whose recipe cannot be read ({str(error).partition(';')[0]}); choose "
            "another folder, or move this one away"
        ) from None
    if theirs is None or theirs == recipe:
        return theirs is not None
    mine = asdict(recipe)
    differing = sorted(name for name, value in asdict(theirs).items() if mine[name] != value)
    raise ValueError(f"{folder.path} holds a run that differs in {', '.join(differing)}; choose another folder")


def _clear_leftovers(folder: RunFolder) -> None:
    """Remove what a run left behind that was killed after its verdict."""
    if not folder.leftovers():
        return
    lock = Lock(folder.lock)
    with suppress(PermissionError):  # of a folder that may only be read
        if lock.take(patience=0.0):  # else the run is about to remove them itself
            folder.clear_leftovers()
            lock.release()
