"""alexnet-lab inspect: one run, looked into."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.markup import escape
from rich.table import Table

from alexnet_ablations.cli.folders import refuse_place
from alexnet_lab.terminal import open_console


def inspect(
    run: Annotated[Path, typer.Argument(help="Folder of a run or a Panel.", show_default=False)],
    out: Annotated[Path | None, typer.Option(help="Folder of the report.", show_default="RUN/report")] = None,
    opened: Annotated[bool, typer.Option("--open", help="Show the page in the browser.")] = False,
) -> None:
    """Look into a run: its result, what speaks against it, what went wrong inside.

    [bold]alexnet-lab inspect runs/digits-alexnet-1f0c[/]

    Writes a page, index.html, that needs no network, and its figures as PNG and
    SVG; prints the result, what speaks against it, the layers and the findings.
    Works on unfinished runs too.
    """
    from alexnet_lab.diagnosis import describe, describe_limitations, limitations
    from alexnet_lab.diagnosis.examination import examine, unexamined
    from alexnet_lab.reports.inspection import layer_rows, open_run, page_of, summary

    if out is not None:
        refuse_place(out)
    console = open_console()
    measured = open_run(run)
    findings = examine(measured.evidence)
    page = page_of(measured, findings).write(out or run / "report")  # first, whatever the terminal can print
    console.print(summary(measured, findings), markup=False, highlight=False)
    against = limitations(measured.evidence, findings)
    if against:
        console.print("What speaks against it:")
        console.print(describe_limitations(against), markup=False, highlight=False)
    rows = layer_rows(measured)
    if rows:
        console.print(layer_table(rows))
    console.print(describe(findings, unexamined(measured.evidence)), markup=False, highlight=False)
    console.print(f"[dim]{escape(str(page))}[/]", soft_wrap=True)
    if opened:
        typer.launch(page.resolve().as_uri())


def layer_table(rows: list[dict[str, Any]]) -> Table:
    """Return a row for each layer with weights: medians of the last measured epoch, and its units on N inputs."""
    from alexnet_lab.diagnosis.numbers import written

    words = {row["word"] for row in rows if row["word"]}
    rate = "off-rate" if words <= {"off"} else "off or negative"
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("layer")
    for header in ("gradient norm", "update ratio", rate, "dead", "N"):
        table.add_column(header, justify="right")
    for row in rows:
        counted = row["units"] is not None
        table.add_row(
            escape(row["layer"]),
            *("-" if row[name] is None else written(row[name], 3) for name in ("gradient norm", "update ratio")),
            f"{100 * row['off-rate']:.1f}%" if counted else "-",
            f"{row['dead']} of {row['units']}" if counted else "-",
            f"{row['N']} {row['split']}" if counted else "-",
        )
    return table
