"""alexnet-lab study: a study from a file, or one of the packaged studies."""

from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from alexnet_ablations.cli.conditions import divide, on_this_machine
from alexnet_ablations.cli.run_study import plan_run_conclude
from alexnet_ablations.cli.study_options import StudyOptions, with_shared_options
from alexnet_ablations.declare.declaration import find_study, packaged_studies, read_study_file
from alexnet_lab.terminal import open_console


@with_shared_options
def study(
    source: Annotated[
        str | None, typer.Argument(help="A study file, a study's folder, or the name of a packaged study.")
    ] = None,
    listing: Annotated[bool, typer.Option("--list", help="List the packaged studies.")] = False,
    data: Annotated[
        str | None, typer.Option(help="Images, instead of those the study names.", rich_help_panel="Study")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Seeds per cell.", show_default="the study's", rich_help_panel="Study")
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Epochs per run.", show_default="the study's", rich_help_panel="Study")
    ] = None,
    design: Annotated[
        str | None, typer.Option(help="Another design for the same levels.", rich_help_panel="Study")
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            help="Weights instead of those the study names: imagenet, a file, a run, or a folder with a run of each "
            "network. Networks are then built as those of the runs."
        ),
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option(metavar="FIELD=VALUE,...", help="Other values for all cells: width=1,image_size=227,device=cuda."),
    ] = None,
    *,
    how: StudyOptions,
) -> None:
    """Run a study that is declared in a file.

    [bold]alexnet-lab study --list[/]                       the packaged studies
    [bold]alexnet-lab study lrn-or-bn --plan[/]             what it costs and can show
    [bold]alexnet-lab study lrn-or-bn --data xrays.zip[/]   on your images
    [bold]alexnet-lab study transfer --weights runs/cifar10[/]  from your own runs
    [bold]alexnet-lab study mine.toml --out runs/mine[/]
    [bold]alexnet-lab study runs/mine --seeds 6[/]          continues, with more seeds
    [bold]alexnet-lab study runs/mine --margin 1[/]         concludes anew, trains nothing
    [bold]alexnet-lab study mine.toml --tune learning_rate:8[/]  each cell at its best
    [bold]alexnet-lab study mine.toml --folds 5[/]          every image tested once a seed

    A study file has the fields of alexnet-lab ablate, whose --save writes one:

      seeds = 6
      folds = 5  # or: resplit = true
      margin = 1
      \\[factors]
      norm = \\["bn", "none"]
      batch_size = \\[16, 64]
      \\[recipe]
      data = "xrays.zip"
      epochs = 20
      \\[executor]
      name = "slurm"
      partition = "gpu"
      time = "4h"

      \\[tune]
      learning_rate = "1e-4..1e-1"
      points = 8
    """
    from alexnet_ablations.declare.study import declare_study, read_study
    from alexnet_lab.training.weight_sources import settings_of

    console = open_console()
    if listing or source is None:
        print_studies(console)
        return
    path = find_study(source)
    words = read_study_file(path)
    read_study(path, Path())  # a mistake in the file is told with its name, before options change anything
    _, shared = divide({"data": data, "epochs": None if epochs is None else str(epochs)}, baseline)
    start = {**words["recipe"], **words["baseline"]}
    if weights is not None:
        varied = words["factors"] if "weights" in words["factors"] else start
        varied["weights"] = weights
        start |= settings_of(weights)
    start |= shared
    folder = how.out or (path.parent if path.name == "study.toml" else Path("runs") / path.stem)
    chosen = declare_study(
        words["factors"],
        {**start, **on_this_machine(start, folder, how.jobs)},
        folder,
        design=design or words.get("design"),
        seeds=seeds or words.get("seeds", 3),
        about=words.get("about", ""),
        margin=how.margin or words.get("margin"),
        level=how.level or words.get("level"),
        tune=how.tune or words.get("tune"),
        chosen=None if how.tune else words.get("chosen"),
        folds=words.get("folds") if how.folds is None else how.folds,
        resplit=how.resplit or words.get("resplit", False),
    )
    if chosen.about and not how.is_silent:
        console.print(chosen.about, style="bold", markup=False, highlight=False)
    plan_run_conclude(console, chosen, how, words.get("executor"))


def print_studies(console: Console) -> None:
    """Print the packaged studies, each with its question."""
    from alexnet_ablations.declare.study import read_study

    table = Table(box=box.SIMPLE_HEAD, show_edge=False)
    for header in ("study", "question", "runs"):
        table.add_column(header, justify="right" if header == "runs" else "left", no_wrap=header != "question")
    for name, path in packaged_studies().items():
        packaged = read_study(path, Path())
        table.add_row(name, packaged.about, f"{len(packaged.cells)} x {packaged.seeds}")
    console.print(table)
    files = next(iter(packaged_studies().values())).parent
    console.print(f"alexnet-lab study NAME   runs one. The files: {files}", style="dim", markup=False)
