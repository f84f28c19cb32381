"""The sections on what was found, each from what was read and concluded."""

from collections.abc import Mapping, Sequence

from alexnet_ablations.conclude.conclusions import Conclusion
from alexnet_ablations.conclude.outcomes import HEADLINE, label_in
from alexnet_ablations.conclude.paper_tables import PaperTable, cells_table, effects_table, paper_tables
from alexnet_ablations.conclude.sentences import effect, interval
from alexnet_ablations.report import effects, training, verdicts
from alexnet_ablations.report.blocks import Heading, Sentences, SideBySide, Verdict
from alexnet_ablations.report.context import MOST_UNFOLDED, ReportContext
from alexnet_ablations.report.findings import finding_blocks
from alexnet_ablations.report.readings import CellReadings
from alexnet_lab.reports.page import Block, Callout, FigureGrid, Paragraph, Section, Table

MOST_VERDICTS = 10  # comparisons with a box of their own; the rest is a table
MOST_STANDING_OUT = 10
MOST_COLUMNS = 6  # comparisons side by side in one table


def verdicts_section(of: ReportContext) -> Section:
    """Return what each comparison came to, and what these seeds and this design cannot show."""
    blocks: list[Block] = []
    missing = verdicts.unfinished(of.results)
    if missing:
        text = f"{missing}. What follows rests on these; the command that began the study goes on with what is missing."
        blocks.append(Callout("warning", "This study is not finished", text))
    found = of.conclusions.headline
    effects_alone = _settled_first([each for each in found if each.contrast.kind == "effect"])
    together = _settled_first([each for each in found if each.contrast.kind == "interaction"])
    blocks.append(SideBySide([Verdict(each) for each in effects_alone[:MOST_VERDICTS]]))
    if together:
        blocks.append(Heading("Two changes together, beyond the sum of each alone"))
        said = [f"{each.contrast.name}: {verdicts.verdict_text(each)}" for each in together[:MOST_VERDICTS]]
        blocks.append(Sentences(said))
    left = max(len(effects_alone) - MOST_VERDICTS, 0) + max(len(together) - MOST_VERDICTS, 0)
    if left:
        blocks.append(Paragraph(f"{left} more of {len(found)} comparisons stand in the table of effects."))
    limits = verdicts.limits(of.conclusions, of.study.limitations)
    if of.study.seeds == 1:
        limits.insert(0, "One seed: there are no intervals and no verdicts, and chance may have made any difference.")
    if limits:
        blocks += [Heading("What this study cannot show"), Sentences(limits)]
    survived = [_in_labels(each.sentence, of.labels) for each in of.conclusions.survivals if each.well < each.ended]
    if survived:
        left = len(survived) - 3
        more = [f"And {verdicts.counted(left, 'more cell')}, under Failures."] if left > 0 else []
        blocks += [Heading("Runs that did not end well"), Sentences([*survived[:3], *more])]
    return Section("What was found", blocks)


def _settled_first(found: Sequence[Conclusion]) -> list[Conclusion]:
    """Keep the order of the design; of more than are shown, put differences first, then what is largest."""
    if len(found) <= MOST_VERDICTS:
        return list(found)
    return sorted(
        found, key=lambda each: (not each.verdict.startswith("difference"), -abs(each.effect) if each.n else 0)
    )


def effect_plots(of: ReportContext) -> Section:
    """Return the effects with their intervals, every seed, and interactions."""
    found = of.conclusions.headline
    drawn = training.drawn_cells(of.cells, of.results)
    first = [effects.forest(found, of.baseline)] if any(each.n for each in found) else []
    lines = effects.seeds_over_cells(of.results, {each.cell: each.label for each in drawn})
    crossed = effects.interactions(of.results, of.study.cells, of.study.factors, found)
    figures = [*first, *([lines] if lines else []), *crossed]
    blocks: list[Block] = [FigureGrid(figures)] if figures else [Paragraph("There is no pair of runs to compare yet.")]
    if found:
        table = effects_table(of.conclusions)
        blocks.append(_page_table(table, "All comparisons, with their p-values"))
    return Section(f"Effects on {HEADLINE.label}", blocks)


def cells_section(of: ReportContext) -> Section:
    """Return the table of cells."""
    table = cells_table(of.results, of.conclusions)
    rows = [[each.label, *row[table.words :]] for each, row in zip(of.cells, table.rows, strict=True)]
    folded = len(rows) > MOST_UNFOLDED
    header = ["cell", *table.header[table.words :]]
    shown = Table(header, rows, f"{len(rows)} cells" if folded else "", folded=folded)
    said = f"The baseline is {of.baseline}; the others are named by what they change. {table.caption}"
    return Section("Cells", [Paragraph(said), shown])


def curves_section(of: ReportContext) -> Section:
    """Return the learning curves of the cells."""
    drawn = training.drawn_cells(of.cells, of.results)
    figures = training.learning(drawn)
    blocks: list[Block] = (
        [*_fewer(drawn, of), FigureGrid(figures)] if figures else [Paragraph("No epoch has ended yet.")]
    )
    return Section("Learning", blocks)


def gradients_section(of: ReportContext) -> Section:
    """Return gradients through depth, cell beside cell."""
    drawn = training.drawn_cells(of.cells, of.results)
    figures = training.gradient_flow(drawn)
    if not figures:
        return Section("Gradient flow", [Paragraph(_no_records(of))])
    read_at = next((run.read_at for each in drawn for run in each.runs if run.read_at), "")
    said = f"The last epoch of each run. Read: {read_at}." if read_at else "The last epoch of each run."
    return Section("Gradient flow", [Paragraph(said), *_fewer(drawn, of), FigureGrid(figures)])


def units_section(of: ReportContext) -> Section:
    """Return how often units are silent, cell below cell."""
    drawn = training.drawn_cells(of.cells, of.results)
    figures = training.silent_units(drawn)
    if not figures:
        return Section("Silent units", [Paragraph(_no_records(of))])
    splits = {run.split for each in drawn for run in each.runs if run.split}
    where = "on a fixed probe set in evaluation mode" if splits == {"probe"} else "as the tables say"
    if splits == {"training"}:
        where = "over the training images of the epoch, while the weights moved and dropout was on"
    counts = sorted({one.inputs for each in drawn for run in each.runs for one in run.silent if one is not None})
    said = f"A unit is a channel or a neuron. Counted at the end of the last epoch, {where}. "
    said += (
        f"N = {' or '.join(f'{count:,}' for count in counts)} inputs: a unit that is silent on all of them may still "
        f"fire on fewer than {min(300 / counts[0], 100):.2g}% of inputs like these (3/N, 95%)."
    )
    return Section("Silent units", [Paragraph(said), *_fewer(drawn, of), FigureGrid(figures)])


def others_section(of: ReportContext) -> Section:
    """Return the effects on all other outcomes: what stands out in sentences, then everything as a table."""
    outcomes = [outcome for outcome in of.conclusions.outcomes if outcome != HEADLINE]
    if not outcomes:
        return Section("Beside accuracy", [Paragraph("No run has another outcome yet.")])
    found = verdicts.standing_out(of.conclusions)
    # What a change does comes before what two do together.
    told = [text for each, text in sorted(found, key=lambda pair: pair[0].contrast.kind)]
    said = (
        "Exploratory: each outcome is a family of its own, and over so many some will stand out by chance. "
        "×2 means twice as much."
    )
    blocks: list[Block] = [Paragraph(said)]
    if told:
        blocks.append(Sentences(told[:MOST_STANDING_OUT]))
        if len(told) > MOST_STANDING_OUT:
            blocks.append(Paragraph(f"And {len(told) - MOST_STANDING_OUT} more, in the table."))
    else:
        blocks.append(Paragraph("None of them shows a difference beyond chance."))
    every = {outcome.name: of.conclusions.of(outcome) for outcome in outcomes}
    shown = every[outcomes[0].name]
    if len(shown) > MOST_COLUMNS:
        every = {name: [each for each in found if each.contrast.kind == "effect"] for name, found in every.items()}
        shown = every[outcomes[0].name]
    if len(shown) <= MOST_COLUMNS:
        rows = [
            [label_in(of.results, outcome), *map(_cell_of_effect, every[outcome.name])]
            for outcome in outcomes
            if any(each.n for each in every[outcome.name])
        ]
        caption = "Effect and 95% interval, paired by seed; • beyond chance within its outcome"
        blocks.append(Table(["outcome", *(each.contrast.name for each in shown)], rows, caption))
    unpaired = [o.label for o in outcomes if not any(each.n for each in of.conclusions.of(o))]
    if unpaired:
        blocks.append(
            Paragraph(f"Not compared, since no comparison has a number on both sides: {', '.join(unpaired)}.")
        )
    tables = paper_tables(of.results, of.conclusions)
    blocks += [_page_table(each, each.title) for each in tables if each.name in ("other-means", "other-effects")]
    return Section("Beside accuracy", blocks)


def findings_section(of: ReportContext) -> Section:
    """Return what the diagnosis found, merged over the runs of each cell."""
    return Section("Findings", finding_blocks(of.diagnosed, of.labels))


def _cell_of_effect(found: Conclusion) -> str:
    if not found.n:
        return "–"
    size = effect(found.outcome, found.inference.mean)
    between = f" {interval(found.outcome, found.inference.t)}" if found.inference.t else f" (n={found.n})"
    mark = " •" if found.verdict.startswith("difference") else ""
    pairs = "" if found.n == found.planned or not found.inference.t else f" n={found.n}"
    return f"{size}{between}{pairs}{mark}".replace("-", "−")


def _page_table(table: PaperTable, caption: str) -> Table:
    return Table(table.header, table.rows, caption, folded=True)


def _fewer(drawn: Sequence[CellReadings], of: ReportContext) -> list[Block]:
    if len(drawn) == len(of.cells):
        return []
    return [Paragraph(f"{len(drawn)} of {len(of.cells)} cells: the baseline and those farthest from it.")]


def _no_records(of: ReportContext) -> str:
    if of.study.start.instruments == "off":
        return "The runs carried no instruments (instruments = off), so nothing is known of this."
    return "No run has recorded this yet."


def _in_labels(text: str, labels: Mapping[str, str]) -> str:
    cell, colon, rest = text.partition(": ")
    return f"{labels.get(cell, cell)}{colon}{rest}"
