"""alexnet-lab predict: a trained network's probabilities for new images."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from alexnet_lab.terminal import open_console

if TYPE_CHECKING:
    from alexnet_lab.evaluation.predictions import Predictions

SHOWN = 6  # classes with a column of their own; of more, the most probable


def predict(
    run: Annotated[Path, typer.Argument(help="Run folder.", show_default=False)],
    images: Annotated[list[Path], typer.Argument(help="Image files, folders, .zip archives.", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="Print lines of JSON.")] = False,
    csv: Annotated[Path | None, typer.Option(help="Write a CSV file.", show_default=False)] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
) -> None:
    """Predict the class of images with the best weights of a finished run.

    [bold]alexnet-lab predict runs/xrays-alexnet-1f0c scan.png[/]
    [bold]alexnet-lab predict RUN scans/ more.zip --csv predictions.csv[/]
    [bold]alexnet-lab predict RUN scans/ --json[/]

    Images go through the steps of the run's own test: size, scale, and ten views
    if its recipe says so. Those that cannot be read are named, the others are
    predicted, and the command ends with 1.

    An image unlike those of the run has a warning: its size, grey or coloured,
    grey level, contrast, or its distance in the network's embedding. It was fitted
    so that one in a hundred images like the run's has one.

    Of a run on findings, those are predicted that reach a threshold: the one with
    the highest sensitivity + specificity on the run's validation images.
    """
    from alexnet_lab.evaluation.trained import load_run

    if as_json and csv is not None:
        raise ValueError("--json prints and --csv writes a file; give one of them")
    if csv is not None and (csv.is_dir() or not csv.absolute().parent.is_dir()):
        raise ValueError(f"--csv must name a file in a folder that exists, got {csv}")
    console, errors = open_console(), open_console(stderr=True)
    predictions = load_run(run).predict(images, device)
    if as_json:
        _print_json(predictions)
    elif csv is not None:
        predictions.table().to_csv(csv, index=False, errors="surrogateescape")
        console.print(
            f"{csv}: {len(predictions.files)} of {len(predictions.files) + len(predictions.unreadable)} images",
            style="dim",
            markup=False,
            soft_wrap=True,
        )
    elif predictions.files:
        _print_table(console, predictions)
    for note in predictions.notes:
        errors.print(f"note: {note}", markup=False, highlight=False, soft_wrap=True)
    for name, why in predictions.unreadable.items():
        errors.print(f"[bold red]cannot be read:[/] {escape(f'{name}: {why}')}", highlight=False, soft_wrap=True)
    if predictions.unreadable:
        raise typer.Exit(1)


def _print_json(predictions: "Predictions") -> None:
    warned: Sequence[Mapping[str, str] | None] = predictions.warnings or [None] * len(predictions.files)
    for name, best, row, warnings in zip(
        predictions.files, predictions.predicted, predictions.probabilities.tolist(), warned, strict=True
    ):
        probabilities = dict(zip(predictions.classes, row, strict=True))
        line = {"file": name, "predicted": best, "probabilities": probabilities, "warnings": warnings}
        print(json.dumps(line))  # noqa: T201  # the interface
    for name, why in predictions.unreadable.items():
        print(json.dumps({"file": name, "error": why}))  # noqa: T201


def _print_table(console: Console, predictions: "Predictions") -> None:
    """Print a row per image: a column for each class if they are few, else the most probable classes."""
    classes = predictions.classes
    is_few = len(classes) <= SHOWN
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("file", overflow="fold")
    table.add_column("predicted", overflow="fold")
    for name in classes if is_few else ("probability",):
        table.add_column(escape(name), justify="right", overflow="fold")
    if not is_few:
        table.add_column("next", overflow="fold")
    warned: Sequence[Mapping[str, str]] = predictions.warnings or [{} for _ in predictions.files]
    if any(warned):
        table.add_column("warning", overflow="fold")
    for name, best, row, warnings in zip(
        predictions.files, predictions.predicted, predictions.probabilities, warned, strict=True
    ):
        ranked = row.argsort()[::-1]
        following = ", ".join(f"{classes[number]} {row[number]:.4f}" for number in ranked[1:3])
        cells = [f"{value:.4f}" for value in row] if is_few else [f"{row.max():.4f}", following]
        if any(warned):
            cells.append("; ".join(warnings.values()))
        table.add_row(*map(escape, (name, best, *cells)))
    console.print(table)
