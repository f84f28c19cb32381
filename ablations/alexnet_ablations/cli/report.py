"""alexnet-lab report: the page of a study, written again from its folder."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from alexnet_ablations.cli.study_options import Level, Margin, check
from alexnet_lab.choices import unknown_choice
from alexnet_lab.terminal import open_console

INSPECT = ("none", "cells", "all")


def report(
    folder: Annotated[Path, typer.Argument(help="Study folder.", show_default=False)],
    inspect: Annotated[
        str, typer.Option(help="Write pages of single runs too: of the first seed per cell (cells), or all.")
    ] = "none",
    margin: Margin = None,
    level: Level = None,
    opened: Annotated[bool, typer.Option("--open", help="Show the page in the browser.")] = False,
) -> None:
    """Write the report of a study: what was found, how sure it is, and why.

    [bold]alexnet-lab report runs/norm-bn[/]                   writes its report/
    [bold]alexnet-lab report runs/norm-bn --inspect cells[/]   and one run's page a cell
    [bold]alexnet-lab report runs/norm-bn --margin 1[/]        within one point is equal
    [bold]alexnet-lab report runs/norm-bn --level 0.9[/]       epochs to 90%

    A page that needs no network, tables for a paper (tables.md, tables.tex), a
    row per cell and seed (results.csv) and every figure as SVG and PNG. Works on a study
    in any state, and trains nothing. --margin and --level hold for this report;
    given to ablate or study, the study keeps them.
    """
    check(margin=margin, level=level)
    if inspect not in INSPECT:
        raise unknown_choice("choice of runs to inspect", inspect, INSPECT)
    if not (folder / "study.toml").exists():
        run = " (a run: alexnet-lab inspect looks into it)" if (folder / "recipe.json").exists() else ""
        raise ValueError(f"{folder} holds no study.toml{run}; name the folder of a study (--out of its command)")

    from alexnet_ablations.conclude.sentences import damage_sentence
    from alexnet_ablations.declare.study import read_study
    from alexnet_ablations.report import read_runs, write_report

    console = open_console()
    study = read_study(folder / "study.toml", folder)
    results, cells = read_runs(study, level)
    page = write_report(study, results, cells=cells, inspect=inspect, margin=margin, level=level)  # type: ignore[arg-type]  # checked above
    if damaged := damage_sentence(results):
        console.print(damaged, style="yellow", markup=False, highlight=False, soft_wrap=True)
    console.print(f"{escape(str(page))}", soft_wrap=True, highlight=False)
    if opened:
        typer.launch(page.resolve().as_uri())
