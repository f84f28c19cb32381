"""The sections from which a study can be repeated: what failed, every run, and how to make it again."""

import shlex
from dataclasses import replace
from urllib.parse import quote

import pandas as pd

from alexnet_ablations.conclude.outcomes import headline_of, read_results
from alexnet_ablations.conclude.sentences import p_value
from alexnet_ablations.report import verdicts
from alexnet_ablations.report.blocks import Folded
from alexnet_ablations.report.context import MOST_UNFOLDED, ReportContext
from alexnet_lab.reports.page import Block, Commands, Facts, Link, Paragraph, Section, Table

FACTS = {"alexnet_lab": "alexnet-lab"}  # names of facts that are not plain words
MOST_PROVENANCES = 200  # runs whose provenance is compared


def failures_section(context: ReportContext) -> Section:
    """Return how many runs of each cell ended well, and why the others did not."""
    bad = context.results[~context.results["state"].isin(("ok", "waiting", "running"))]
    rows: list[list[object]] = []
    for (cell, state, why), mine in bad.groupby(["cell", "state", "why"], sort=False):
        seeds = ", ".join(str(seed) for seed in mine["seed"].head(12)) + (" …" if len(mine) > 12 else "")
        rows.append([context.labels[str(cell)], str(state), seeds, str(why)])
    # A finished run with damaged records stands above, with the names of its files.
    damaged = {(str(cell), seed) for cell, seed in zip(bad["cell"], bad["seed"], strict=True)}
    rows += [
        [context.labels[cell], "unreadable records", str(seed), "; ".join(damages.values())]
        for (cell, seed), damages in context.damages.items()
        if (cell, seed) not in damaged
    ]
    if not rows:
        ended = int((context.results["state"] == "ok").sum())
        text = f"None: all {ended} runs that ended, ended well." if ended else "No run has ended yet."
        return Section("Failures", [Paragraph(text)])
    text = (
        "A cell that diverges is a result: its runs count here, and their seeds leave the comparisons that need them."
    )
    table = Table(["cell", "state", "seeds", "why"], rows, "Failures", folded=len(rows) > MOST_UNFOLDED)
    survival = [_survival(context)] if any(one.well < one.ended for one in context.conclusions.survivals) else []
    damages = verdicts.damage(context.results)
    named = [Paragraph(damages)] if damages else []
    return Section("Failures", [Paragraph(text), *named, *survival, table])


def _survival(context: ReportContext) -> Table:
    rows = [
        [
            context.labels[survival.cell],
            f"{survival.well} of {survival.ended}",
            _span(survival.interval.low, survival.interval.high) if survival.ended else "–",
            "–" if survival.against_baseline is None else p_value(survival.against_baseline),
        ]
        for survival in context.conclusions.survivals
    ]
    caption = (
        "Survival: of the runs that ended, those that neither diverged nor failed (Clopper-Pearson; exact McNemar)"
    )
    columns = ["cell", "ended well", "95% interval", "p, against the baseline"]
    return Table(columns, rows, caption, folded=len(rows) > MOST_UNFOLDED)


def runs_section(context: ReportContext) -> Section:
    """Return every run with its state, its headline, and its page where there is one."""
    rows: list[list[object]] = []
    pages = 0
    runs, folds = context.study.runs(), context.study.splitting.folds
    # Of a seed's folds each is shown, with its own accuracy; the results have them together.
    results = read_results([replace(run, whole=None) for run in runs], health={}) if folds else context.results
    keys = list(zip(results["cell"], results["seed"], strict=True))
    outcome = headline_of(results)
    headline = dict(zip(keys, outcome.compared(results), strict=True))
    states = dict(zip(keys, results["state"], strict=True))
    for run in runs:
        has_page = (run.folder.path / "report" / "index.html").exists()
        pages += has_page
        where = quote(f"../{run.folder.path.relative_to(context.study.folder)}/report/index.html")
        value = headline.get(run.key, float("nan"))
        rows.append(
            [
                context.labels[run.compared.name],
                run.seed,
                *([run.recipe.fold] if folds else []),
                str(states.get(run.key, "waiting")),
                "–" if value != value else outcome.show(value / outcome.times),  # noqa: PLR0124  # only NaN differs
                Link("inspection", where) if has_page else "–",
            ]
        )
    columns = ["cell", "seed", *(["fold"] if folds else []), "state", outcome.label, "page"]
    folded = len(rows) > 2 * MOST_UNFOLDED
    blocks: list[Block] = [Table(columns, rows, "Every run" if folded else "", folded=folded)]
    if pages < len(rows):
        blocks.append(Paragraph(
            "A run's page shows its histograms over time, every unit and its findings in full. These commands write "
            "them: for one run, for the first seed of every cell, for all."
        ))  # fmt: skip
        first = context.study.runs()[0].folder.path
        folder = shlex.quote(str(context.study.folder))
        blocks.append(Commands([
            f"alexnet-lab inspect {shlex.quote(str(first))}",
            f"alexnet-lab report {folder} --inspect cells",
            f"alexnet-lab report {folder} --inspect all",
        ]))  # fmt: skip
    return Section("Runs", blocks)


def reproduce_section(context: ReportContext) -> Section:
    """Return how to make the study again: its file, versions, machine and data; and what measuring cost."""
    text = (
        "With the file of that name from this study's folder, or the same lines from below; the same data, version and "
        "kind of machine give the same numbers."
    )
    blocks: list[Block] = [
        Paragraph(text),
        Commands(["alexnet-lab study study.toml --out again"]),
        Folded("study.toml, whole", [Commands(context.study.to_toml(whole=True).splitlines())]),
    ]
    facts, notes = _provenance(context)
    if facts:
        blocks.append(Facts(facts))
    blocks += [Paragraph(f"Note: {note}") for note in notes[:6]]
    shares = (
        context.results["measuring_share"].dropna() if "measuring_share" in context.results else pd.Series(dtype=float)
    )
    if len(shares):
        blocks.append(Paragraph(
            f"Measuring took {100 * shares.mean():.1f}% of the time of training, as clocked in these runs "
            f"({100 * shares.min():.1f}% to {100 * shares.max():.1f}%, n={len(shares)} "
            f"{'cells and seeds' if context.study.splitting.folds else 'runs'})."
        ))  # fmt: skip
    blocks.append(
        Paragraph(
            "Beside this page: tables.md and tables.tex for a paper, results.csv with a row per cell and seed, and "
            "every figure as SVG and PNG in figures/."
        )
    )
    return Section("Reproduce", blocks)


def _provenance(context: ReportContext) -> tuple[list[tuple[str, object]], list[str]]:
    """Return versions, machine and data of the runs, a fact on which they differ with its values; and their notes."""
    seen: dict[str, dict[str, None]] = {}
    notes: dict[str, None] = {}
    left_out = ("classes", "notes", "identity", "started")
    for run in context.study.runs()[:MOST_PROVENANCES]:
        try:
            provenance = run.folder.provenance() or {}
        except ValueError:  # named among the failures
            continue
        for name, value in provenance.items():
            if name not in left_out and not isinstance(value, dict | list):
                seen.setdefault(name, {})[str(value)] = None
        notes |= dict.fromkeys(str(note) for note in provenance.get("notes", []))
    facts: list[tuple[str, object]] = [
        (
            FACTS.get(name, name.replace("_", " ")),
            "; ".join(list(values)[:3]) + (f"; {len(values) - 3} more" if len(values) > 3 else ""),
        )
        for name, values in seen.items()
    ]
    return facts, list(notes)


def _span(low: float, high: float) -> str:
    return f"{100 * low:.0f}% to {100 * high:.0f}%"
