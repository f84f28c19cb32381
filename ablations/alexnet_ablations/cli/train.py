"""alexnet-lab train: one run, by a recipe."""

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from alexnet_ablations.cli.folders import refuse_place
from alexnet_ablations.cli.progress import JsonLines, LiveBar, PlainLines, Quiet
from alexnet_ablations.cli.recipe_options import with_recipe_options
from alexnet_ablations.cli.terminal import open_console
from alexnet_ablations.declare.declaration import read_start
from alexnet_lab.locks import Lock
from alexnet_lab.records import RunFolder
from alexnet_lab.training.process import hold, is_first_process
from alexnet_lab.training.recipe import NAMED, Recipe, read_recipe
from alexnet_lab.training.weight_sources import find_weights

SHOWN = ("accuracy", "balanced_accuracy", "auroc", "top5_accuracy", "calibration_error", "loss")


@with_recipe_options
def train(
    recipe: Annotated[str, typer.Option(help=f"Starting point: {', '.join(NAMED)}, or a TOML file.")] = "laptop",
    out: Annotated[Path | None, typer.Option(help="Run folder.", show_default="runs/<data>-<network>-<digest>")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing but errors.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print lines of JSON.")] = False,
    **given: Any,
) -> None:
    """Train one network by a recipe, test its best epoch, and keep everything.

    [bold]alexnet-lab train[/]                                      digits, a minute
    [bold]alexnet-lab train --norm bn --act leaky:0.1 --epochs 5[/]
    [bold]alexnet-lab train --data xrays.zip --recipe modern --width 0.5[/]
    [bold]alexnet-lab train --data cifar10 --recipe paper --device cuda[/]
    [bold]alexnet-lab train --data xrays.zip --weights runs/cifar10 --freeze features[/]

    A recipe in TOML has the same fields (learning_rate = 0.02), and recipe =
    "paper" in it names what it starts from. Options override the recipe. The
    same command continues an interrupted run where it was saved.
    """
    console = open_console()
    chosen = _read_choices(recipe, given)
    folder = RunFolder(out or Path("runs") / _name_of(chosen))
    refuse_place(folder.path, "run")
    is_same = _is_same(folder, chosen, is_named=out is None)
    damages = folder.damages(weights=True) if is_same else ()
    verdict = folder.verdict() if is_same and not damages else None
    if _is_final(verdict):
        _clear_leftovers(folder)
        if not quiet and not as_json:
            console.print(f"already done: {folder.path}", markup=False)
    else:
        note = f"{', '.join(damages)} in {folder.path} changed after the run ended; the run is made again"
        verdict = _run(chosen, folder, console, [note] if damages else [], quiet=quiet, as_json=as_json)
    if verdict is None or not _is_final(verdict):
        _remove_if_empty(folder, with_parent=out is None)
        raise ValueError(verdict["why"] if verdict else "the run ended without a verdict")
    if as_json:
        told = {name: verdict[name] for name in ("state", "why", "result")}
        print(json.dumps({"event": "verdict", "folder": str(folder.path), **told}))  # noqa: T201  # the interface
    elif not quiet:
        _print_verdict(console, folder, verdict)


def _read_choices(recipe: str, given: Mapping[str, Any]) -> Recipe:
    """Return the recipe that a starting point and options make together."""
    fields = read_start(recipe)
    fields |= {name: value for name, value in given.items() if value is not None}
    fields.setdefault("threads", os.cpu_count() or 1)
    if "device" not in fields:
        import torch

        fields["device"] = "cuda" if torch.cuda.is_available() else "cpu"
    return read_recipe(fields)


def _is_final(verdict: Mapping[str, Any] | None) -> bool:
    """Return whether a run ended with a result, which the same command does not make again."""
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


def _name_of(recipe: Recipe) -> str:
    data = Path(recipe.data.partition(":")[0]).stem or "data"
    weights = find_weights(recipe)
    return f"{data}-{recipe.network}-{recipe.identity('', weights.digest if weights else '')}"


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
        if is_named:
            return True
        raise ValueError(
            f"the recipe in {folder.path} cannot be read: {error}; or choose another folder with --out"
        ) from None
    if theirs is None or theirs == recipe:
        return theirs is not None
    mine = asdict(recipe)
    differing = sorted(name for name, value in asdict(theirs).items() if mine[name] != value)
    raise ValueError(
        f"{folder.path} holds a run that differs in {', '.join(differing)}; choose another folder with --out"
    )


def _clear_leftovers(folder: RunFolder) -> None:
    """Remove what a run left behind that was killed after its verdict."""
    if not folder.leftovers():
        return
    lock = Lock(folder.lock)
    with suppress(PermissionError):  # of a folder that may only be read
        if lock.take(patience=0.0):  # else the run is about to remove them itself
            folder.clear_leftovers()
            lock.release()


def _run(
    recipe: Recipe, folder: RunFolder, console: Console, notes: Sequence[str], *, quiet: bool, as_json: bool
) -> dict[str, Any] | None:
    """Train, and return the verdict; an interrupted run, and torchrun's further processes, end the command here."""
    from alexnet_lab.training.run import train_with_verdict

    is_first = is_first_process()  # under torchrun every process runs this command, and the first one writes and prints
    reporter = Quiet()
    if as_json and is_first:
        reporter = JsonLines()
    elif is_first and not quiet:
        reporter = LiveBar(console) if console.is_terminal else PlainLines(console)
    lock = hold(folder) if is_first else None
    for text in notes:
        reporter("note", {"text": text})
    try:
        status = train_with_verdict(recipe, folder, reporter)
    finally:
        reporter.close()
    if lock is not None:
        lock.release()
    if status == 130 or not is_first:
        raise typer.Exit(status)
    return folder.verdict()


def _print_verdict(console: Console, folder: RunFolder, verdict: dict[str, Any]) -> None:
    if verdict["state"] == "diverged":
        console.print(f"diverged: {verdict['why']}", markup=False)
        console.print(str(folder.path), style="dim", markup=False)
        return
    result = verdict["result"]
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column(f"weights of epoch {result['tested_epoch']}")
    for part in ("validation", "test"):
        table.add_column(f"{part}, n={result[part]['images']}", justify="right")
    for metric in SHOWN:
        values = [result[part][metric] for part in ("validation", "test")]
        if any(value is not None for value in values):
            table.add_row(metric.replace("_", " "), *("-" if v is None else f"{v:.4f}" for v in values))
    provenance = folder.provenance() or {}
    for at, name in enumerate(provenance.get("classes", [])):
        values = [result[part]["recall"][at] for part in ("validation", "test")]
        table.add_row(escape(f"recall of {name}"), *("-" if v is None else f"{v:.4f}" for v in values))
    console.print(table)
    what = "recipe, split, metrics of every epoch, best weights, verdict"
    console.print(f"{folder.path}: {what}", style="dim", markup=False)
