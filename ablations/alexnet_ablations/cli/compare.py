"""alexnet-lab compare: runs side by side."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.markup import escape
from rich.table import Table

from alexnet_ablations.cli.folders import refuse_place
from alexnet_lab.terminal import open_console


def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(help="Folders of runs or Panels; differences are from the first.", show_default=False),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the report.")] = Path("comparison"),
) -> None:
    """Lay runs side by side: results, recipes, and gradients and units layer by layer.

    [bold]alexnet-lab compare runs/lrn runs/bn[/]

    Writes a page, index.html, that needs no network, and its figures; prints the
    results, what speaks against them, what the recipes differ in, and how far the
    histograms are apart.
    """
    from alexnet_lab.diagnosis.findings import wrapped
    from alexnet_lab.reports.comparison import distance_rows, open_runs, page_of, recipe_rows, remarks, result_table

    refuse_place(out)
    console = open_console()
    compared = open_runs(runs)
    page = page_of(compared).write(out)  # first, whatever the terminal can print
    results = result_table(compared)
    if not compared.is_of_panels:
        console.print(plain_table(results.columns, results.rows))
    for title, text in remarks(compared):
        console.print("\n".join(wrapped(f"{title}: {text}", "  ", 100, hang=2)), markup=False, highlight=False)
    rows = recipe_rows(compared)
    if rows:
        console.print(plain_table(["recipe", *compared.names], rows))
    elif not compared.is_of_panels:
        console.print("the recipes are the same in every field")
    for other in range(1, len(compared.runs)):
        distances = [
            [
                kind,
                layer,
                f"{100 * distance.total_variation:.1f}%",
                f"{distance.wasserstein:.2f}",
                f"{distance.shift:+.2f}".replace("-", "−"),
            ]
            for kind, layer, distance in distance_rows(compared, other)
            if kind == "gradient"
        ]
        if distances:
            console.print(f"{compared.names[0]} to {compared.names[other]}, epoch {compared.epoch}", markup=False)
            columns = ["values", "layer", "total variation", "Wasserstein, powers of two", "shift"]
            console.print(plain_table(columns, distances))
    console.print(f"[dim]{escape(str(page))}[/]", soft_wrap=True)


def plain_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Table:
    """Return rows under columns, numbers on the right."""
    from alexnet_lab.reports.page import number

    table = Table(box=box.SIMPLE_HEAD)
    for at, name in enumerate(columns):
        table.add_column(escape(name), justify="left" if at == 0 else "right", overflow="fold")
    for row in rows:
        cells = [number(cell) if cell is None or isinstance(cell, int | float) else str(cell) for cell in row]
        table.add_row(*(escape(cell) for cell in cells))
    return table
