"""alexnet-lab train: one run, by a recipe."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from alexnet_ablations.cli.folders import refuse_place
from alexnet_ablations.cli.recipe_options import with_recipe_options
from alexnet_ablations.declare.declaration import read_start
from alexnet_lab.progress import JsonLines, Quiet, reporter_on
from alexnet_lab.records import RunFolder
from alexnet_lab.terminal import open_console
from alexnet_lab.training.process import is_first_process
from alexnet_lab.training.recipe import NAMED
from alexnet_lab.training.single import Stopped, finished, make_run, recipe_on_this_machine, run_place

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
    fields = read_start(recipe) | {name: value for name, value in given.items() if value is not None}
    chosen = recipe_on_this_machine(fields)
    folder, is_named = run_place(chosen, out), out is not None
    refuse_place(folder.path, "run")
    verdict, note = finished(chosen, folder, is_named=is_named)
    if verdict is None:
        try:
            reporter = _reporter(console, quiet=quiet, as_json=as_json)
            verdict = make_run(chosen, folder, reporter, note, is_named=is_named)
        except Stopped as stop:  # interrupted, or one of torchrun's further processes
            raise typer.Exit(stop.status) from None
    elif not quiet and not as_json:
        console.print(f"already done: {folder.path}", markup=False, soft_wrap=True)
    if as_json:
        summary = {name: verdict[name] for name in ("state", "why", "result")}
        print(json.dumps({"event": "verdict", "folder": str(folder.path), **summary}))  # noqa: T201  # the interface
    elif not quiet:
        _print_verdict(console, folder, verdict)


def _reporter(console: Console, *, quiet: bool, as_json: bool) -> Quiet:
    if not is_first_process():  # under torchrun every process runs this command
        return Quiet()
    if as_json:
        return JsonLines()
    return Quiet() if quiet else reporter_on(console)


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
        kind = "finding_auroc" if "finding_auroc" in result["test"] else "recall"
        values = [result[part][kind][at] for part in ("validation", "test")]
        label = "AUROC" if kind == "finding_auroc" else "recall"
        table.add_row(escape(f"{label} of {name}"), *("-" if v is None else f"{v:.4f}" for v in values))
    console.print(table)
    what = "recipe, split, metrics of every epoch, best weights, verdict"
    console.print(f"{folder.path}: {what}", style="dim", markup=False, soft_wrap=True)
