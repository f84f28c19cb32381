"""The sections of the page that show results, each from what was read and concluded."""

from collections.abc import Mapping, Sequence

from alexnet_ablations.conclude.conclusions import Conclusion
from alexnet_ablations.conclude.outcomes import label_in
from alexnet_ablations.conclude.paper_tables import (
    PaperTable,
    cells_table,
    effects_table,
    paper_tables,
    populations_note,
)
from alexnet_ablations.conclude.sentences import effect, finding_of, shown_interval, survival_sentence
from alexnet_ablations.report import effects, training, verdicts
from alexnet_ablations.report.blocks import Folded, Heading, Sentences, SideBySide, Verdict
from alexnet_ablations.report.context import MOST_UNFOLDED, ReportContext
from alexnet_ablations.report.findings import finding_blocks
from alexnet_ablations.report.readings import CellReadings
from alexnet_lab.reports.page import Block, Callout, FigureGrid, Paragraph, Section, Table

MOST_VERDICTS = 10  # comparisons with a box of their own; the rest is a table
MOST_STANDING_OUT = 10
MOST_COLUMNS = 6  # comparisons side by side in one table


def verdicts_section(context: ReportContext) -> Section:
    """Return what each comparison came to, and what these seeds and this design cannot show."""
    blocks: list[Block] = []
    missing = verdicts.unfinished(context.results)
    if missing:
        text = f"{missing}. What follows rests on these; the command that began the study goes on with what is missing."
        damages = verdicts.damage(context.results)
        blocks.append(Callout("warning", "This study is not finished", f"{text} {damages}".strip()))
    headline = context.conclusions.headline
    alone = _settled_first([item for item in headline if item.contrast.kind == "effect"])
    together = _settled_first([item for item in headline if item.contrast.kind == "interaction"])
    blocks.append(SideBySide([Verdict(item) for item in alone[:MOST_VERDICTS]]))
    if together:
        blocks.append(Heading("Two changes together, beyond the sum of each alone"))
        sentences = [
            f"{item.contrast.name}: {verdicts.typeset(finding_of(item))}." for item in together[:MOST_VERDICTS]
        ]
        blocks.append(Sentences(sentences))
    further = max(len(alone) - MOST_VERDICTS, 0) + max(len(together) - MOST_VERDICTS, 0)
    if further:
        blocks.append(Paragraph(f"{further} more of {len(headline)} comparisons stand in the table of effects."))
    limits = verdicts.limits(context.conclusions, context.study.limitations)
    if context.study.seeds == 1:
        limits.insert(0, "One seed: there are no intervals and no verdicts, and chance may have made any difference.")
    if limits:
        blocks += [Heading("What this study cannot show"), Sentences(limits)]
    survived = [
        _in_labels(survival_sentence(survival), context.labels)
        for survival in context.conclusions.survivals
        if survival.well < survival.ended
    ]
    if survived:
        further = len(survived) - 3
        more = [f"And {verdicts.counted(further, 'more cell')}, under Failures."] if further > 0 else []
        blocks += [Heading("Runs that did not end well"), Sentences([*survived[:3], *more])]
    return Section("What was found", blocks)


def _settled_first(conclusions: Sequence[Conclusion]) -> list[Conclusion]:
    """Keep the order of the design; of more than are shown, put differences first, then what is largest."""
    if len(conclusions) <= MOST_VERDICTS:
        return list(conclusions)
    return sorted(
        conclusions, key=lambda item: (not item.verdict.startswith("difference"), -abs(item.effect) if item.n else 0)
    )


def effect_plots(context: ReportContext) -> Section:
    """Return the effects with their intervals, every seed, and interactions."""
    headline = context.conclusions.headline
    drawn = training.drawn_cells(context.cells, context.results)
    zero = verdicts.zero_of(context.study, context.baseline)
    first = [effects.forest(headline, zero)] if any(item.n for item in headline) else []
    lines = effects.seeds_over_cells(context.results, {cell.cell: cell.label for cell in drawn})
    crossed = effects.interactions(context.results, context.study.cells, context.study.factors, headline)
    figures = [*first, *([lines] if lines else []), *crossed]
    blocks: list[Block] = [FigureGrid(figures)] if figures else [Paragraph("There is no pair of runs to compare yet.")]
    if headline:
        blocks.append(_page_table(effects_table(context.conclusions), "All comparisons, with their p-values"))
    return Section(f"Effects on {context.conclusions.headline_outcome.label}", blocks)


def cells_section(context: ReportContext) -> Section:
    """Return the table of cells."""
    table = cells_table(context.results, context.conclusions)
    rows = [[cell.label, *row[table.words :]] for cell, row in zip(context.cells, table.rows, strict=True)]
    folded = len(rows) > MOST_UNFOLDED
    header = ["cell", *table.header[table.words :]]
    shown_table = Table(header, rows, f"{len(rows)} cells" if folded else "", folded=folded)
    text = f"The baseline is {context.baseline}; the others are named by what they change. {table.caption}"
    return Section("Cells", [Paragraph(text), shown_table])


def curves_section(context: ReportContext) -> Section:
    """Return the learning curves of the cells."""
    drawn = training.drawn_cells(context.cells, context.results)
    figures = training.learning(drawn, has_findings=context.study.start.has_findings)
    blocks: list[Block] = (
        [*_fewer(drawn, context), *_over_runs(context), FigureGrid(figures)]
        if figures
        else [Paragraph("No epoch has ended yet.")]
    )
    return Section("Learning", blocks)


def gradients_section(context: ReportContext) -> Section:
    """Return gradients through depth, cell beside cell."""
    drawn = training.drawn_cells(context.cells, context.results)
    figures = training.gradient_flow(drawn)
    if not figures:
        return Section("Gradient flow", [Paragraph(_no_records(context))])
    read_at = next((run.read_at for cell in drawn for run in cell.runs if run.read_at), "")
    text = f"The last epoch of each run. Read: {read_at}." if read_at else "The last epoch of each run."
    return Section(
        "Gradient flow", [Paragraph(text), *_fewer(drawn, context), *_over_runs(context), FigureGrid(figures)]
    )


def units_section(context: ReportContext) -> Section:
    """Return how often units are silent, cell below cell."""
    drawn = training.drawn_cells(context.cells, context.results)
    figures = training.silent_units(drawn)
    if not figures:
        return Section("Silent units", [Paragraph(_no_records(context))])
    splits = {run.split for cell in drawn for run in cell.runs if run.split}
    where = "on a fixed probe set in evaluation mode" if splits == {"probe"} else "as the tables say"
    if splits == {"training"}:
        where = "over the training images of the epoch, while the weights moved and dropout was on"
    counts = sorted({one.inputs for cell in drawn for run in cell.runs for one in run.silent if one is not None})
    text = f"A unit is a channel or a neuron. Counted at the end of the last epoch, {where}. "
    text += (
        f"N = {' or '.join(f'{count:,}' for count in counts)} inputs: a unit that is silent on all of them may still "
        f"fire on fewer than {min(300 / counts[0], 100):.2g}% of inputs like these (3/N, 95%)."
    )
    return Section(
        "Silent units", [Paragraph(text), *_fewer(drawn, context), *_over_runs(context), FigureGrid(figures)]
    )


def others_section(context: ReportContext) -> Section:
    """Return the effects on all other outcomes: what stands out in sentences, then everything as a table."""
    headline = context.conclusions.headline_outcome
    outcomes = [outcome for outcome in context.conclusions.outcomes if outcome != headline]
    title = f"Beside {headline.label.removeprefix('test ')}"
    if not outcomes:
        return Section(title, [Paragraph("No run has another outcome yet.")])
    # What a change does comes before what two do together.
    standing_out = sorted(verdicts.standing_out(context.conclusions), key=lambda pair: pair[0].contrast.kind)
    sentences = [text for _, text in standing_out]
    text = (
        "Exploratory: each outcome is a family of its own, and over so many some will stand out by chance. "
        "×2 means twice as much."
    )
    text = " ".join(filter(None, (text, populations_note(context.conclusions, outcomes).strip())))
    blocks: list[Block] = [Paragraph(text)]
    if sentences:
        blocks.append(Sentences(sentences[:MOST_STANDING_OUT]))
        if len(sentences) > MOST_STANDING_OUT:
            blocks.append(Paragraph(f"And {len(sentences) - MOST_STANDING_OUT} more, in the table."))
    else:
        blocks.append(Paragraph("None of them shows a difference beyond chance."))
    every = {outcome.name: context.conclusions.of(outcome) for outcome in outcomes}
    of_first = every[outcomes[0].name]
    if len(of_first) > MOST_COLUMNS:
        every = {name: [item for item in items if item.contrast.kind == "effect"] for name, items in every.items()}
        of_first = every[outcomes[0].name]
    if len(of_first) <= MOST_COLUMNS:
        rows = [
            [label_in(context.results, outcome), *map(_cell_of_effect, every[outcome.name])]
            for outcome in outcomes
            if any(item.n for item in every[outcome.name])
        ]
        caption = "Effect and 95% interval, paired by seed; • beyond chance within its outcome"
        blocks.append(Table(["outcome", *(item.contrast.name for item in of_first)], rows, caption))
    unpaired = [one.label for one in outcomes if not any(item.n for item in context.conclusions.of(one))]
    if unpaired:
        blocks.append(
            Paragraph(f"Not compared, since no comparison has a number on both sides: {', '.join(unpaired)}.")
        )
    tables = paper_tables(context.results, context.conclusions)
    blocks += [_page_table(table, table.title) for table in tables if table.name in ("other-means", "other-effects")]
    return Section(title, blocks)


def findings_section(context: ReportContext) -> Section:
    """Return the findings of the diagnosis, merged over the runs of each cell."""
    return Section("Findings", finding_blocks(context.diagnosed, context.labels))


def _cell_of_effect(conclusion: Conclusion) -> str:
    if not conclusion.n:
        return "–"
    size = effect(conclusion.outcome, conclusion.inference.mean)
    between = f" {shown_interval(conclusion)}" if conclusion.shown else f" (n={conclusion.n})"
    mark = " •" if conclusion.verdict.startswith("difference") else ""
    pairs = "" if conclusion.n == conclusion.planned or not conclusion.shown else f" n={conclusion.n}"
    return verdicts.typeset(f"{size}{between}{pairs}{mark}")


def _page_table(table: PaperTable, title: str) -> Folded:
    rows = [[*row[: table.words], *map(verdicts.typeset, row[table.words :])] for row in table.rows]
    return Folded(
        f"{title}, {verdicts.counted(len(rows), 'row')}", [Paragraph(table.caption), Table(table.header, rows)]
    )


def _fewer(drawn: Sequence[CellReadings], context: ReportContext) -> list[Block]:
    if len(drawn) == len(context.cells):
        return []
    return [Paragraph(f"{len(drawn)} of {len(context.cells)} cells: the baseline and those farthest from it.")]


def _over_runs(context: ReportContext) -> list[Block]:
    folds = context.study.splitting.folds
    if not folds:
        return []
    return [
        Paragraph(f"Under each seed a cell has {folds} runs, one for each fold: each of them counts as a seed here.")
    ]


def _no_records(context: ReportContext) -> str:
    if context.study.start.instruments == "off":
        return "The runs carried no instruments (instruments = off), so nothing is known of this."
    return "No run has recorded this yet."


def _in_labels(text: str, labels: Mapping[str, str]) -> str:
    cell, colon, rest = text.partition(": ")
    return f"{labels.get(cell, cell)}{colon}{rest}"
