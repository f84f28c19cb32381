"""alexnet-lab audit: what a dataset hides, before anything is trained on it."""

import json
from pathlib import Path
from typing import Annotated

import typer

from alexnet_ablations.cli.folders import refuse_place
from alexnet_lab.progress import Stages
from alexnet_lab.terminal import open_console


def audit(
    data: Annotated[str, typer.Argument(help="Folder, .zip, table or name, as --data takes it.", show_default=False)],
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Folder of the report.", show_default="audits/<data>")
    ] = None,
    group: Annotated[
        str, typer.Option(metavar="COLUMN", help="Column of the table that names the patient.", show_default="group")
    ] = "",
    patient_from: Annotated[
        str, typer.Option(metavar="PATTERN", help=r"Where paths name the patient: 'person(\d+)'.", show_default=False)
    ] = "",
    findings: Annotated[
        str,
        typer.Option(
            metavar="COLUMNS",
            help="Several labels an image: the table's column that joins them by |, or its 0/1 columns A|B|C.",
            show_default=False,
        ),
    ] = "",
    fold: Annotated[str, typer.Option(help="Judge this fold: 2/5.", show_default=False)] = "",
    split_seed: Annotated[int, typer.Option(help="Names the split where the data has none of its own.")] = 0,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing but errors.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print audit.json.")] = False,
) -> None:
    r"""Look for copies, patients on two sides, and shortcuts in a dataset.

    [bold]alexnet-lab audit xrays.zip[/]
    [bold]alexnet-lab audit xrays/ --patient-from 'person(\d+)'[/]
    [bold]alexnet-lab audit table.csv --group patient_id --out audits/table[/]
    [bold]alexnet-lab audit Data_Entry_2017.csv --findings 'Finding Labels' --group patient[/]

    Copies are found within and across the parts of the split, also when they were
    compressed, scaled, brightened, mirrored, cropped by 10% or turned by 5 degrees.
    A shortcut is a class that can be told from the kind of file, from another
    column of the table, or from the border of the picture alone. With --findings
    each finding is judged by itself.

    Writes a page, index.html, and audit.json. Ends with status 1 if copies or
    patients are on two sides, copies have two classes or other findings, or there
    is a shortcut.
    """
    from alexnet_lab.audit.examination import examine
    from alexnet_lab.data.sources import listing_of
    from alexnet_lab.records import write_atomically
    from alexnet_lab.reports.audited import audit_page

    console = open_console()
    folder = out or Path("audits") / (Path(data.partition(":")[0]).stem or "data")
    refuse_place(folder)
    is_silent = quiet or as_json
    with Stages(open_console(stderr=True)) as stages:
        examination = examine(
            data,
            group=group,
            patient_from=patient_from,
            findings=findings,
            split_seed=split_seed,
            fold=fold,
            progress=(lambda _what, _done, _total: None) if is_silent else stages.told,
        )
    facts = json.dumps(examination.facts(), indent=1)
    listing = listing_of(data, findings=findings)
    if listing is None:
        page = audit_page(examination).write(folder)
    else:
        with listing.reader() as opened:
            page = audit_page(examination, opened).write(folder)
    write_atomically(folder / "audit.json", facts + "\n")
    if as_json:
        print(facts)  # noqa: T201  # the interface
    elif not quiet:
        count, pairs = len(examination.survey.labels), len(examination.copies)
        counted = f"{count:,} images, {pairs:,} pairs of copies, {len(examination.survey.unreadable):,} unreadable"
        console.print(counted, markup=False, highlight=False)
        for title, text in examination.problems:
            console.print(f"to fix: {title}. {text}", style="red", markup=False, highlight=False)
        for note in examination.notes:
            console.print(f"note: {note}", markup=False, highlight=False)
        if not examination.problems:
            console.print("no leak and no shortcut was found", markup=False, highlight=False)
        console.print(f"{page} and audit.json", style="dim", markup=False, highlight=False, soft_wrap=True)
    if examination.problems:
        raise typer.Exit(1)
