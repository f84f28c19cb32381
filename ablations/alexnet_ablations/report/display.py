"""A study as HTML for a notebook: its answer, the effects, every seed, and the cells; or what it will make."""

from alexnet_ablations.conclude.conclusions import conclude_study
from alexnet_ablations.conclude.outcomes import read_results
from alexnet_ablations.declare.design import level_text
from alexnet_ablations.declare.study import Study
from alexnet_ablations.report import sections, verdicts
from alexnet_ablations.report.context import ReportContext
from alexnet_ablations.report.findings import Diagnosed
from alexnet_ablations.report.readings import read_cells
from alexnet_lab.reports.display import fragment
from alexnet_lab.reports.page import FigureGrid, Table

MOST_FIGURES = 3
NOT_DIAGNOSED = Diagnosed((), {}, 0, {})  # a notebook shows no findings, which take seconds


def study_html(study: Study) -> str:
    """Show what the runs in a study's folder say; before there are any, what the study will make."""
    cells = read_cells(study)
    results = read_results(study.runs(), level=study.level)
    if not results["state"].isin(("ok", "diverged")).any():
        return _planned(study)
    conclusions = conclude_study(study, results)
    context = ReportContext(study, results, conclusions, cells, NOT_DIAGNOSED)
    drawn = [
        figure
        for block in sections.effect_plots(context).blocks
        if isinstance(block, FigureGrid)
        for figure in block.figures
    ]
    tables = [block for block in sections.cells_section(context).blocks if isinstance(block, Table)]
    points = [("Limit", text) for text in verdicts.limits(conclusions, study.limitations)]
    more = f"alexnet-lab report {study.folder} writes the whole page."
    return fragment(verdicts.lead(study, results, conclusions), drawn[:MOST_FIGURES], points, more, tables=tables)


def _planned(study: Study) -> str:
    rows = [[factor.field, ", ".join(level_text(level) for level in factor.levels)] for factor in study.factors]
    lead = f"{len(study.cells)} cells, {study.seeds} seeds each: {study.size} runs, none of which has ended."
    table = Table(["factor", "levels, the baseline first"], rows)
    limits = [("Limit", text) for text in study.limitations]
    return fragment(lead, [], limits, f"Folder: {study.folder}", tables=[table])
