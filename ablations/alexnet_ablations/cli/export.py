"""alexnet-lab export: a run's records and its network for other tools."""

from pathlib import Path
from typing import Annotated

import typer

from alexnet_ablations.cli.folders import refuse_place
from alexnet_lab.terminal import open_console


def export(
    run: Annotated[Path, typer.Argument(help="Folder of a run or a Panel.", show_default=False)],
    to: Annotated[str, typer.Option(help="parquet, csv, tensorboard, onnx or torch-export.")] = "parquet",
    out: Annotated[Path | None, typer.Option(help="Where to write.", show_default="RUN/export")] = None,
) -> None:
    """Write a run's metrics and instrument records for other tools, or its network.

    [bold]alexnet-lab export runs/digits-alexnet-0a1b --to csv[/]
    [bold]alexnet-lab export RUN --to parquet --out tables[/]           needs the extra parquet
    [bold]alexnet-lab export RUN --to tensorboard --out tb/mine[/]      needs the extra tracking
    [bold]alexnet-lab export RUN --to onnx --out handover/[/]           needs the extra medical
    [bold]alexnet-lab export RUN --to torch-export --out handover/[/]

    ONNX: model.onnx takes pixels and gives probabilities. Scale, channels and views
    are inside; decoding and resizing stay outside, and card.json says how. It is
    written only if onnxruntime gives the run's own probabilities to 1e-5.
    torch-export: model.pt2 is the same for torch.export.load, checked in the same way.

    Tables are tidy: one file each for metrics, result, confusion, steps (norms),
    windows and histograms (long form), units, cost, parameters and sites, with
    names instead of indices. A run without instruments has the first three.
    """
    from alexnet_lab.reports.export import export as write

    if out is not None:
        refuse_place(out)
    console = open_console()
    written = write(run, to, out or run / "export")
    for path in written:
        console.print(str(path), markup=False, highlight=False, soft_wrap=True)
