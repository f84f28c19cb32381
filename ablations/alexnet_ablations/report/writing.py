"""Writes the report of a study: a page, its tables and its figures, from the study's folder alone.

>>> write_report(read_study(folder / "study.toml", folder))  # folder/report/index.html
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pandas as pd

import alexnet_lab
from alexnet_ablations.conclude.conclusions import Conclusions, conclude_study
from alexnet_ablations.conclude.outcomes import read_results
from alexnet_ablations.conclude.paper_tables import write_tables
from alexnet_ablations.declare.study import Study
from alexnet_ablations.report import provenance, sections, verdicts
from alexnet_ablations.report.context import ReportContext
from alexnet_ablations.report.findings import diagnose_runs
from alexnet_ablations.report.readings import CellReadings, read_cells
from alexnet_ablations.report.tuning import tuning_section
from alexnet_lab.reports.page import Page

Inspect = Literal["none", "cells", "all"]
REPORT = "report"


def read_runs(study: Study, level: float | None = None) -> tuple[pd.DataFrame, list[CellReadings]]:
    """Read the folder of every run once: return the table of results, and what a report shows beside it."""
    cells = read_cells(study)
    health = {run.key: run.health for cell in cells for run in cell.runs}
    return read_results(study.runs(), level=study.level if level is None else level, health=health), cells


def write_report(
    study: Study,
    results: pd.DataFrame | None = None,
    conclusions: Conclusions | None = None,
    cells: Sequence[CellReadings] | None = None,
    *,
    inspect: Inspect = "none",
    margin: float | None = None,
    level: float | None = None,
) -> Path:
    """Write STUDY/report: index.html, tables.md, tables.tex, results.csv, figures/; return the path of the page.

    Works on a study in any state. What `read_runs` returned, and `conclusions`, save reading it again. `inspect` writes
    the pages of single runs first, which takes some seconds each: of the first seed of every cell, or of all. `margin`
    is what is too small to matter, in points of the headline outcome, and `level` the validation accuracy to which
    epochs are counted; without them it is what the study says.
    """
    study = replace(
        study,
        margin=study.margin if margin is None else margin,
        level=study.level if level is None else level,
    )
    if inspect != "none":
        write_inspections(study, only_first=inspect == "cells")
    if results is None:
        results, cells = read_runs(study)
    if conclusions is None:
        conclusions = conclude_study(study, results)
    folder = study.folder / REPORT
    page = study_page(study, results, conclusions, cells)
    write_tables(results, conclusions, folder)
    for stale in [*folder.glob("figures/*.svg"), *folder.glob("figures/*.png")]:
        stale.unlink()  # a figure of an earlier report, which this one may not have
    return page.write(folder)


def study_page(
    study: Study, results: pd.DataFrame, conclusions: Conclusions, cells: Sequence[CellReadings] | None = None
) -> Page:
    """Return the page of a study; `cells` is what read_cells returns, where it was read already."""
    cells = read_cells(study) if cells is None else cells
    context = ReportContext(study, results, conclusions, cells, diagnose_runs(study.runs(), cells))
    made = [
        sections.verdicts_section(context),
        sections.effect_plots(context),
        *([tuning_section(context)] if study.tuning is not None else []),
        sections.cells_section(context),
        sections.curves_section(context),
        sections.gradients_section(context),
        sections.units_section(context),
        sections.others_section(context),
        sections.findings_section(context),
        provenance.failures_section(context),
        provenance.runs_section(context),
        provenance.reproduce_section(context),
    ]
    names = [factor.field.replace("_", " ") for factor in study.factors]
    fields = " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
    title = (
        study.about
        or f"{fields}: what {'they are' if len(names) > 1 else 'it is'} worth on {study.start.data.rpartition('/')[2]}"
    )
    footer = f"alexnet-lab {alexnet_lab.__version__}; {study.folder.resolve()}"
    return Page(title[:1].upper() + title[1:], verdicts.lead(study, results, conclusions), made, footer=footer)


def write_inspections(study: Study, *, only_first: bool) -> list[Path]:
    """Write the page of every run that has begun and has no page newer than its records, or of one run per cell."""
    from alexnet_lab.reports.inspection import inspect_run

    written = []
    inspected: set[str] = set()
    for run in study.runs():
        path = run.folder.path
        if not (path / "recipe.json").exists() or (only_first and run.compared.name in inspected):
            continue
        inspected.add(run.compared.name)
        page = path / "report" / "index.html"
        records = max((record.stat().st_mtime for record in path.glob("*.json*")), default=0.0)
        if not page.exists() or page.stat().st_mtime < records:
            written.append(inspect_run(path).write(path / "report"))
    return written
