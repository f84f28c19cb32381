"""Runs, panels and other things with figures as HTML for a notebook: no script, no style sheet, pictures within.

A notebook's page belongs to others, so nothing here reaches beyond its own elements: figures are SVG files inside of
`img`, where no name can clash and nothing runs, and every text is escaped.
"""

import base64
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from alexnet_lab.diagnosis.examination import examine
from alexnet_lab.diagnosis.limitations import limitations
from alexnet_lab.instruments.flow import FlowWriter
from alexnet_lab.reports import panels
from alexnet_lab.reports.inspection import open_run, summary
from alexnet_lab.reports.measured import Measured
from alexnet_lab.reports.page import Figure, Table, cell_html, escape

if TYPE_CHECKING:
    from alexnet_lab.evaluation.trained import Run
    from alexnet_lab.instruments.panel import Panel

MOST_POINTS = 6  # findings and limits that are shown; the page has all


def run_html(run: "Run") -> str:
    """Show a run: its result, its learning curves, the gradient and the units, and what speaks against it."""
    measured = open_run(run.path)
    findings = examine(measured.evidence)
    points = [(finding.title, finding.sentence) for finding in findings]
    points += [(limitation.title, limitation.text) for limitation in limitations(measured.evidence, findings)]
    figures = [figure for figure in (panels.result(measured), *panels.learning(measured)[:2]) if figure is not None]
    more = f"alexnet-lab inspect {run.path} writes the whole page."
    return fragment(summary(measured, findings), [*figures, *inside(measured)], points, more)


def panel_html(panel: "Panel") -> str:
    """Show what a panel measured: its table, the gradient through depth, and the units by epoch."""
    with TemporaryDirectory() as scratch:
        folder = panel.writer.folder.parent if panel.writer is not None else Path(scratch)
        if panel.writer is None and panel.tables:
            writer = FlowWriter(folder)
            writer.begin(panel.layout())
            for epoch, tables in panel.tables.items():
                writer.write_epoch(epoch, tables)
        measured = Measured(folder)
        figures = inside(measured)
        findings = examine(measured.evidence)
    points = [(finding.title, finding.sentence) for finding in findings]
    lead = f"A panel on {type(panel.model).__name__}, {panel.steps_taken} steps."
    more = f"Its records are in {folder}: alexnet-lab inspect {folder} writes a page." if panel.writer else ""
    return fragment(lead, figures, points, more, text=panel.summary())


def inside(measured: Measured) -> list[Figure]:
    """Return the figures of what instruments measured: gradient and updates, then the units."""
    depth = panels.through_depth(measured)
    ratio = next((figure for figure in panels.norms(measured) if figure.name == "update-ratio"), None)
    split = "probe" if any(measured.rates("probe", at)[0] for at in range(len(measured.sites))) else "training"
    return [figure for figure in (depth, ratio, *panels.unit_rates(measured, split)) if figure is not None]


def fragment(
    lead: str,
    figures: Sequence[Figure],
    points: Sequence[tuple[str, str]] = (),
    more: str = "",
    *,
    tables: Sequence[Table] = (),
    text: str = "",
) -> str:
    """Return a lead, figures side by side, titled points, tables and a preformatted text as one element."""
    items = "".join(
        f"<li><b>{escape(title)}.</b> {escape(sentence)}</li>" for title, sentence in points[:MOST_POINTS]
    ) + (f"<li>and {len(points) - MOST_POINTS} more</li>" if len(points) > MOST_POINTS else "")
    side_by_side = "display:flex;flex-wrap:wrap;gap:12px;align-items:flex-start"
    parts = [
        f'<p style="max-width:46rem">{escape(lead)}</p>',
        f'<pre style="line-height:1.3">{escape(text, keep_lines=True)}</pre>' if text else "",
        f'<div style="{side_by_side}">{"".join(map(picture, figures))}</div>',
        "".join(map(table_html, tables)),
        f'<ul style="max-width:46rem">{items}</ul>' if items else "",
        f'<p style="opacity:.7;font-size:85%">{escape(more)}</p>' if more else "",
    ]
    return f'<div class="alexnet-lab">{"".join(parts)}</div>'


def picture(figure: Figure) -> str:
    """Return a figure as a picture with its title and the sentence on how to read it."""
    width, height = figure.size
    source = base64.b64encode(figure.render("svg")).decode()
    return (
        f'<figure style="margin:0;width:{width:g}px;max-width:100%"><figcaption style="min-height:4.6em">'
        f'<b>{escape(figure.title)}</b><br><span style="font-size:85%;opacity:.8">{escape(figure.reading)}</span>'
        f'</figcaption><img width="{width:g}" height="{height:g}" style="max-width:100%;height:auto" '
        f'alt="{escape(figure.title)}" src="data:image/svg+xml;base64,{source}"></figure>'
    )


def table_html(table: Table) -> str:
    """Return a table without classes, as notebooks show tables."""
    head = "".join(f"<th>{escape(name)}</th>" for name in table.columns)
    rows = "".join(f"<tr>{''.join(f'<td>{cell_html(cell)}</td>' for cell in row)}</tr>" for row in table.rows)
    caption = f"<caption>{escape(table.caption)}</caption>" if table.caption else ""
    return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
