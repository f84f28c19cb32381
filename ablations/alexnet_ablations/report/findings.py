"""The findings of the diagnosis over the runs of a study, merged: one entry per kind of finding, with its cells."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from alexnet_ablations.declare.study import PlannedRun
from alexnet_ablations.report.readings import CellReadings
from alexnet_lab.diagnosis.evidence import Evidence
from alexnet_lab.diagnosis.examination import examine
from alexnet_lab.diagnosis.findings import SEVERITIES, Finding, Severity
from alexnet_lab.reports.page import Block, Callout, Paragraph

MOST_RUNS = 60  # that are diagnosed: each opens all of its epochs; of more, the first seeds of every cell


@dataclass(frozen=True)
class MergedFinding:
    """One kind of finding in all cells that have it."""

    name: str
    severity: Severity  # the worst of any run
    first: Finding  # of the first cell that has it, in which the sentence and the remedy are the same for all
    cells: Mapping[str, Sequence[tuple[int, Finding]]]  # by cell: seeds and their findings


@dataclass(frozen=True)
class Diagnosed:
    """Findings by kind, and how many runs were diagnosed."""

    findings: tuple[MergedFinding, ...]
    seeds: Mapping[str, int]  # by cell: how many of its runs were diagnosed
    runs: int  # all that could have been
    damages: Mapping[tuple[str, int], Mapping[str, str]]  # by cell and seed: the records that could not be judged
    word: str = "seed"  # run, where a seed has several: one for each fold


def diagnose_runs(runs: Sequence[PlannedRun], cells: Sequence[CellReadings]) -> Diagnosed:
    """Diagnose the runs that have begun, seed by seed, as many as time allows; what is damaged is not judged."""
    begun = {run.key for cell in cells for run in cell.runs if run.has_begun}
    can = [run for run in runs if run.key in begun]
    chosen = can[:MOST_RUNS]  # runs stand seed by seed, so these are the first seeds of every cell
    by_name: dict[str, dict[str, list[tuple[int, Finding]]]] = {}
    seeds: dict[str, int] = {}
    damages: dict[tuple[str, int], dict[str, str]] = {}
    for run in chosen:
        cell = run.compared.name
        seeds[cell] = seeds.get(cell, 0) + 1
        evidence = Evidence(run.folder)
        damages.setdefault((cell, run.seed), {}).update(evidence.damages)
        for finding in examine(evidence):
            by_name.setdefault(finding.name, {}).setdefault(cell, []).append((run.seed, finding))
    merged = [_merged(name, cells) for name, cells in by_name.items()]
    # Most serious first, and of these what most runs have.
    merged.sort(key=lambda kind: (SEVERITIES.index(kind.severity), -sum(map(len, kind.cells.values()))))
    word = "run" if any(run.whole is not None for run in runs) else "seed"
    return Diagnosed(tuple(merged), seeds, len(can), damages, word)


def _merged(name: str, cells: dict[str, list[tuple[int, Finding]]]) -> MergedFinding:
    every = [finding for findings in cells.values() for _, finding in findings]
    worst = min(every, key=lambda finding: SEVERITIES.index(finding.severity))
    return MergedFinding(name, worst.severity, worst, cells)


def finding_blocks(diagnosed: Diagnosed, labels: Mapping[str, str], most_cells: int = 12) -> list[Block]:
    """Return the findings of a study, and which cells are without any."""
    looked = sum(diagnosed.seeds.values())
    if not looked:
        return [Paragraph("No run has begun, so there is nothing to diagnose.")]
    blocks: list[Block] = []
    if looked < diagnosed.runs:
        blocks.append(
            Paragraph(f"{looked} of {diagnosed.runs:,} runs were diagnosed, the first seeds of each cell; for another "
                      "run take alexnet-lab inspect.")
        )  # fmt: skip
    for kind in diagnosed.findings:
        title = kind.name.replace("-", " ").capitalize()
        details = [
            (_short(labels[cell]), _in_cell(findings, diagnosed.seeds[cell], diagnosed.word))
            for cell, findings in kind.cells.items()
        ]
        if len(details) > most_cells:
            details = [*details[:most_cells], ("and", f"{len(details) - most_cells} more cells")]
        details.append(("Try", kind.first.remedy))
        blocks.append(Callout(kind.severity, title, kind.first.sentence, details))
    concerned = {cell for kind in diagnosed.findings for cell in kind.cells}
    clean = [labels[cell] for cell in diagnosed.seeds if cell not in concerned]
    if not diagnosed.findings:
        text = f"Every rule was applied to what {looked} runs recorded, and none found anything wrong."
        blocks.append(Callout("good", "No finding", text))
    elif clean:
        names = "; ".join(clean[:most_cells]) + (
            f"; and {len(clean) - most_cells} more" if len(clean) > most_cells else ""
        )
        blocks.append(Paragraph(f"Without any finding: {names}."))
    return blocks


def _in_cell(findings: Sequence[tuple[int, Finding]], looked: int, word: str) -> str:
    share = f"in {len(findings)} of {looked} {word}s" if looked > 1 else f"in its one {word}"
    seed, finding = findings[0]
    return f"{share}. Seed {seed}: {finding.title}. {finding.evidence}"


def _short(label: str) -> str:
    return label if len(label) <= 40 else f"{label[:39]}…"
