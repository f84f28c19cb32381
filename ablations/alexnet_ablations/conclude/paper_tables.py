"""A study as tables for a paper: Markdown, LaTeX (booktabs) and the rows behind them, and for the terminal.

Four tables: the cells, the effects on the headline outcome, the means of every other outcome, and the effects on them.
Every number that was estimated has its n in the same row. The LaTeX is for a paper: it leaves out comparisons without
a pair and outcomes of the machine, and breaks long tables so that each part fits a page.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from alexnet_ablations.conclude.conclusions import Conclusion, Conclusions
from alexnet_ablations.conclude.outcomes import Outcome, headline_of, write_results
from alexnet_ablations.conclude.sentences import (
    averaging_note,
    decisive,
    effect,
    equivalence_interval,
    false_claim_text,
    p_value,
    seeds_alone,
    shown_interval,
)
from alexnet_lab.records import write_atomically

MOST_CELLS_SIDE_BY_SIDE = 8
MOST_SEEDS_ONE_BY_ONE = 6  # a column of more numbers than these is no help
MOST_ROWS_OF_A_PAGE = 40


@dataclass(frozen=True)
class PaperTable:
    """A table as text: titles over columns, rows under them, and what a reader must know to read it."""

    name: str  # cells, effects, other-means, other-effects
    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str
    words: int  # so many columns, from the left, hold words; the others hold numbers


_CHECK = (
    " P(false claim): the probability that the one said to be better is not, from the accuracies, the number of test "
    "images and the share that both get right (arXiv 2505.04720): a check that takes one run of each, and knows "
    "nothing of seeds."
)
CUT = "Intervals are cut where a share, such as an accuracy, would leave 0 to 100%."


def paper_tables(results: pd.DataFrame, conclusions: Conclusions) -> list[PaperTable]:
    """Return the tables of a study; those on other outcomes only where a run has any."""
    tables = [cells_table(results, conclusions)]
    if conclusions.headline:
        tables.append(effects_table(conclusions))
    others = [outcome for outcome in conclusions.outcomes if outcome.name != conclusions.headline_outcome.name]
    if others:
        tables += [_other_means(results, others), _other_effects(conclusions, others)]
    return tables


def for_paper(conclusions: Conclusions) -> Conclusions:
    """Leave out the comparisons without a pair, and the outcomes that say as much of the machine."""
    kept = tuple(item for item in conclusions.items if item.n and not item.outcome.of_machine)
    return replace(conclusions, items=kept)


def cells_table(results: pd.DataFrame, conclusions: Conclusions) -> PaperTable:
    """One row per cell: mean and spread of the headline outcome, its n, and how many runs ended well."""
    fields, headline = factor_columns(results), headline_of(results)
    seeds_fit = results["seed"].nunique() <= MOST_SEEDS_ONE_BY_ONE
    all_well = all(survival.well == survival.ended for survival in conclusions.survivals)
    rows = []
    for (_, runs), survival in zip(results.groupby("cell", sort=False), conclusions.survivals, strict=True):
        values = headline.compared(runs).dropna()
        every_seed = " ".join(f"{value:.{headline.digits}f}" for value in values)
        share = f"{survival.interval.low:.0%} to {survival.interval.high:.0%}" if survival.ended else "-"
        rows.append(
            (
                *(_level(runs[field].iloc[0]) for field in fields),
                mean_over_seeds(headline, runs),
                spread_over_seeds(headline, runs),
                str(len(values)),
                *([every_seed or "-"] if seeds_fit else []),
                f"{survival.well}/{survival.ended}",
                *([] if all_well else [share]),
            )
        )
    header = (
        *fields,
        headline.label,
        "sd over seeds",
        "n",
        *(["each seed"] if seeds_fit else []),
        "ended well",
        *([] if all_well else ["95% interval of that share"]),
    )
    exact = "" if all_well else ", with the exact (Clopper-Pearson) interval of that share"
    caption = (
        f"Mean and standard deviation of {headline.label} over n seeds. Ended well: of the runs that came to an end, "
        f"those that neither diverged nor failed{exact}."
    )
    return PaperTable("cells", "Cells", header, tuple(rows), caption, len(fields))


def effects_table(conclusions: Conclusions) -> PaperTable:
    """One row per contrast of the headline outcome."""
    headline, outcome = conclusions.headline, conclusions.headline_outcome
    margin = headline[0].inference.margin
    beside = any(item.inference.images for item in headline)
    checked = any(item.false_claim is not None for item in headline)
    header = (
        "change",
        f"effect, {outcome.unit or outcome.label}",
        "95% interval",
        *(["seeds alone"] if beside else []),
        "n pairs",
        "p, t test",
        "p, t test, Holm",
        "equivalence interval",
        f"p, within {outcome.show_margin(margin)}, Holm" if margin is not None else "p, equivalence, Holm",
        "p, sign flip",
        *(["P(false claim)"] if checked else []),
        "verdict",
    )
    rows = tuple(
        (
            item.contrast.name,
            item.outcome.show_effect(item.inference.mean),
            shown_interval(item),
            *([seeds_alone(item)] if beside else []),
            str(item.n),
            p_value(item.inference.t_p),
            p_value(item.holm_p),
            equivalence_interval(item),
            p_value(item.equivalence_holm_p),
            p_value(item.inference.sign_flip_p),
            *([false_claim_text(item)] if checked else []),
            item.verdict,
        )
        for item in headline
    )
    note = averaging_note([item.contrast for item in headline])
    average = f"{note} " if note else ""
    interval, sign_flip = _what_decides(conclusions)
    caption = (
        f"Effects on {outcome.label}, paired by seed, with {interval}. "
        f"{_cut(headline)}{average}Holm: the p of the t test before it, adjusted for all {len(headline)} comparisons. "
        f"The equivalence interval ({decisive(headline[0])}) lies within the margin where two one-sided t tests have p "
        f"up to {headline[0].level:.2g}, before Holm's rule. "
        f"{sign_flip} A verdict other than undecided needs an adjusted p of at most {headline[0].level:.2g}, what this "
        f"look may spend.{_CHECK if checked else ''}"
    )
    return PaperTable("effects", f"Effects on {outcome.label}", header, rows, caption, 1)


def _what_decides(conclusions: Conclusions) -> tuple[str, str]:
    """Say what the headline intervals are, and what the sign-flip test beside them is."""
    headline = conclusions.headline
    where = next((item.population for item in headline if item.population), "")
    tested = next((item.tested_on for item in headline if item.tested_on), "")
    if conclusions.resplits is not None:
        interval = (
            f"Student's 95% interval, {where}, seen {tested}, its variance corrected for what splits of one set share "
            "(Nadeau and Bengio 2003)"
        )
        return interval, "An exact sign-flip test does not hold of splits that overlap."
    smallest = min((item.inference.attainable_p for item in headline if item.n), default=1.0)
    sign_flip = (
        "Sign flip: another test, exact, of the seeds alone, not adjusted, whose p cannot go below "
        f"{smallest:.2g} here."
    )
    if not any(item.inference.images for item in headline):
        return f"Student's 95% interval: for other seeds {where}", sign_flip
    interval = (
        f"the 95% interval over seeds and images, {where}, and beside it Student's over the seeds alone, {tested}"
    )
    if not all(item.inference.images for item in headline if item.n > 1):
        interval += "; rows without one beside it are about these test images alone"
    return interval, sign_flip


def _other_means(results: pd.DataFrame, outcomes: Sequence[Outcome]) -> PaperTable:
    cells = {str(cell): mine for cell, mine in results.groupby("cell", sort=False)}

    def means(outcome: Outcome) -> list[str]:
        compared = outcome.compared(results)
        by_cell = [compared[mine.index].dropna() for mine in cells.values()]
        return [f"{_shown_mean(outcome, values)} ({len(values)})" for values in by_cell]

    rows = [[outcome.label, *means(outcome)] for outcome in outcomes]
    header = ["outcome", *cells]
    if len(cells) > MOST_CELLS_SIDE_BY_SIDE:  # then cells go down and outcomes across
        header, *rows = [list(column) for column in zip(["cell", *cells], *rows, strict=True)]
    level = results["level"].dropna()
    reached = f" The level is a validation accuracy of {level.iloc[0]:.1%}." if len(level) else ""
    caption = (
        "Means over seeds, n in parentheses; geometric means of what is compared as a factor (losses, ratios, speed, "
        f"memory, time).{reached}"
    )
    return PaperTable("other-means", "Other outcomes", tuple(header), tuple(map(tuple, rows)), caption, 1)


def _other_effects(conclusions: Conclusions, outcomes: Sequence[Outcome]) -> PaperTable:
    def row(item: Conclusion) -> tuple[str, ...]:
        return (
            item.outcome.label,
            item.contrast.name,
            effect(item.outcome, item.inference.mean) if item.n else "-",
            shown_interval(item),
            str(item.n),
            p_value(item.inference.t_p),
            p_value(item.holm_p),
            equivalence_interval(item),
            item.verdict,
        )

    rows = tuple(row(item) for outcome in outcomes for item in conclusions.of(outcome))
    note = averaging_note([item.contrast for item in conclusions.items])
    average = f"{note} " if note else ""
    caption = (
        f"{average}{_cut(conclusions.items)}{populations_note(conclusions, outcomes)}Exploratory: Holm's rule adjusts "
        "the t tests within each outcome and not over outcomes, so that some of many will stand out by chance. The "
        "equivalence interval decides on equivalence. × is a factor; points are hundredths of a share."
    )
    header = (
        "outcome",
        "change",
        "effect",
        "95% interval",
        "n pairs",
        "p, t test",
        "p, t test, Holm",
        "equivalence interval",
        "verdict",
    )
    return PaperTable("other-effects", "Effects on other outcomes (exploratory)", header, rows, caption, 2)


def populations_note(conclusions: Conclusions, outcomes: Sequence[Outcome]) -> str:
    """Say which outcomes' intervals are about other images too; empty where none are."""
    over_images = [
        outcome.label for outcome in outcomes if any(item.inference.images for item in conclusions.of(outcome))
    ]
    if conclusions.resplits is not None:
        return f"Intervals of what is measured on images are {conclusions.resplits.population}. "
    if not over_images or conclusions.answers is None:
        return ""
    return (
        f"The interval of {' and '.join(over_images)} is {conclusions.answers.population}; the others are about other "
        "seeds on these images alone. "
    )


def _cut(conclusions: Sequence[Conclusion]) -> str:
    return "" if all(item.shown == item.inference.t for item in conclusions) else f"{CUT} "


def factor_columns(results: pd.DataFrame) -> list[str]:
    """Return the factors of a table of results: its columns between the cell and the seed."""
    columns = list(results.columns)
    return columns[columns.index("cell") + 1 : columns.index("seed")]


def mean_over_seeds(outcome: Outcome, runs: pd.DataFrame) -> str:
    """Write the mean, geometric where the outcome is compared as a factor; a dash where no run has a number."""
    return _shown_mean(outcome, outcome.compared(runs).dropna())


def _shown_mean(outcome: Outcome, compared: "pd.Series[float]") -> str:
    if not len(compared):
        return "-"
    mean = float(compared.mean())
    return outcome.show(math.exp(mean) if outcome.scale == "factor" else mean / outcome.times)


def spread_over_seeds(outcome: Outcome, runs: pd.DataFrame) -> str:
    """Write the standard deviation, of what is compared as a factor as a factor; a dash below two runs."""
    compared = outcome.compared(runs).dropna()
    if len(compared) < 2:
        return "-"
    spread = float(compared.std())
    return f"×÷{math.exp(spread):.2f}" if outcome.scale == "factor" else f"{spread:.{outcome.digits}f}"


def markdown(tables: Sequence[PaperTable]) -> str:
    """Write tables as Markdown."""
    return "\n".join(_markdown(table) for table in tables)


def latex(tables: Sequence[PaperTable]) -> str:
    """Write tables as LaTeX floats; the preamble needs booktabs and graphicx."""
    head = "% Each float stands alone. In the preamble: \\usepackage{booktabs}, \\usepackage{graphicx}\n"
    return head + "\n".join(_latex(part) for table in tables for part in _pages(table))


def _pages(table: PaperTable) -> list[PaperTable]:
    """Break a table into parts that fit a page each."""
    count = max(1, math.ceil(len(table.rows) / MOST_ROWS_OF_A_PAGE))
    parts = [table.rows[at * MOST_ROWS_OF_A_PAGE : (at + 1) * MOST_ROWS_OF_A_PAGE] for at in range(count)]
    return [
        replace(
            table,
            name=table.name if not at else f"{table.name}-{at + 1}",
            rows=rows,
            caption=table.caption if not at else f"{table.title}, continued.",
        )
        for at, rows in enumerate(parts)
    ]


def write_tables(results: pd.DataFrame, conclusions: Conclusions, folder: Path) -> list[Path]:
    """Write tables.md, tables.tex and results.csv into a folder; return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    tables = paper_tables(results, conclusions)
    paths = [folder / name for name in ("tables.md", "tables.tex", "results.csv")]
    write_atomically(paths[0], markdown(tables))
    write_atomically(paths[1], latex(paper_tables(results, for_paper(conclusions))))
    write_results(results, paths[2])
    return paths


def _level(value: object) -> str:
    return "-" if value is None or value != value else str(value)  # noqa: PLR0124  # only NaN differs from itself


def _markdown(table: PaperTable) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("\\", "\\\\").replace("|", "\\|") for cell in cells) + " |"

    rule = ["---"] * table.words + ["---:"] * (len(table.header) - table.words)
    body = [line(table.header), "|" + "|".join(rule) + "|", *(line(row) for row in table.rows)]
    return "\n".join([f"## {table.title}", "", *body, "", table.caption, ""])


# One character of text to what LaTeX prints as that character; those that it would take for commands come first.
_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"$<$",
    ">": r"$>$",
    "→": r"$\to$",
    "×": r"$\times$",
    "÷": r"$\div$",
    "−": r"$-$",
}


def escape_latex(text: str) -> str:
    """Write text so that LaTeX prints it as it stands."""
    return "".join(_LATEX.get(character, character) for character in text)


def _number(text: str) -> str:
    """Set a number as people write it: a hyphen before it as a minus, e-05 as a power of ten."""
    text = re.sub(r"(?<![\w.-])-(?=\d)", "$-$", text)
    return re.sub(r"(\d)e([+-])0*(\d+)\b", lambda m: rf"{m[1]}$\cdot10^{{{m[2].strip('+')}{m[3]}}}$", text)


def _latex(table: PaperTable) -> str:
    def line(cells: Sequence[str], *, numbers: bool = True) -> str:
        # A row that begins with [ would be read as an argument of the line end before it; a group is not.
        written = [
            _number(escape_latex(cell)) if numbers and at >= table.words else escape_latex(cell)
            for at, cell in enumerate(cells)
        ]
        guarded = [("{}" if cell.startswith("[") else "") + cell for cell in written]
        return "    " + " & ".join(guarded) + r" \\"

    columns = "l" * table.words + "r" * (len(table.header) - table.words)
    return "\n".join(
        [
            r"\begin{table}",
            r"  \centering",
            rf"  \caption{{{escape_latex(table.caption)}}}",
            rf"  \label{{tab:{table.name}}}",
            r"  \resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
            rf"  \begin{{tabular}}{{{columns}}}",
            r"    \toprule",
            line(table.header, numbers=False),
            r"    \midrule",
            *(line(row) for row in table.rows),
            r"    \bottomrule",
            r"  \end{tabular}}",
            r"\end{table}",
            "",
        ]
    )
