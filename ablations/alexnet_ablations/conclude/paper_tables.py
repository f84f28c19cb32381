"""A study as tables for a paper: Markdown, LaTeX (booktabs) and the rows behind them, and for the terminal.

Four tables: the cells, the effects on the headline outcome, the means of every other outcome, and the effects on them.
Every number that was estimated has its n in the same row.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from alexnet_ablations.conclude.conclusions import Conclusion, Conclusions
from alexnet_ablations.conclude.outcomes import HEADLINE, Outcome, write_results
from alexnet_ablations.conclude.sentences import effect, interval, p_value
from alexnet_lab.records import write_atomically

MOST_CELLS_SIDE_BY_SIDE = 8
MOST_SEEDS_ONE_BY_ONE = 6  # a column of more numbers than these is no help


@dataclass(frozen=True)
class PaperTable:
    """A table as text: titles over columns, rows under them, and what a reader must know to read it."""

    name: str  # cells, effects, other-means, other-effects
    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str
    words: int  # so many columns, from the left, hold words; the others hold numbers


def paper_tables(results: pd.DataFrame, conclusions: Conclusions) -> list[PaperTable]:
    """Return the tables of a study; those on other outcomes only where a run has any."""
    tables = [cells_table(results, conclusions)]
    if conclusions.headline:
        tables.append(effects_table(conclusions))
    others = [outcome for outcome in conclusions.outcomes if outcome.name != HEADLINE.name]
    if others:
        tables += [_other_means(results, others), _other_effects(conclusions, others)]
    return tables


def cells_table(results: pd.DataFrame, conclusions: Conclusions) -> PaperTable:
    """One row per cell: mean and spread of the headline outcome, its n, and how many runs ended well."""
    fields = factor_columns(results)
    seeds_fit = results["seed"].nunique() <= MOST_SEEDS_ONE_BY_ONE
    all_well = all(survival.well == survival.ended for survival in conclusions.survivals)
    rows = []
    for (_, mine), survival in zip(results.groupby("cell", sort=False), conclusions.survivals, strict=True):
        values = HEADLINE.compared(mine).dropna()
        each = " ".join(f"{value:.{HEADLINE.digits}f}" for value in values)
        share = f"{survival.interval.low:.0%} to {survival.interval.high:.0%}" if survival.ended else "-"
        rows.append(
            (
                *(_level(mine[field].iloc[0]) for field in fields),
                mean_over_seeds(HEADLINE, mine),
                spread_over_seeds(HEADLINE, mine),
                str(len(values)),
                *([each or "-"] if seeds_fit else []),
                f"{survival.well}/{survival.ended}",
                *([] if all_well else [share]),
            )
        )
    header = (
        *fields,
        HEADLINE.label,
        "sd over seeds",
        "n",
        *(["each seed"] if seeds_fit else []),
        "ended well",
        *([] if all_well else ["95% interval of that share"]),
    )
    exact = "" if all_well else ", with the exact (Clopper-Pearson) interval of that share"
    caption = (
        f"Mean and standard deviation of {HEADLINE.label} over n seeds. Ended well: of the runs that came to an end, "
        f"those that neither diverged nor failed{exact}."
    )
    return PaperTable("cells", "Cells", header, tuple(rows), caption, len(fields))


def effects_table(conclusions: Conclusions) -> PaperTable:
    """One row per contrast of the headline outcome."""
    found = conclusions.headline
    margin = found[0].inference.margin
    header = (
        "change",
        f"effect, {HEADLINE.unit}",
        "95% interval",
        "n pairs",
        "p, sign flip",
        "p, Holm",
        f"p, within {HEADLINE.show_margin(margin)}" if margin is not None else "p, equivalence",
        "found",
    )
    rows = tuple(
        (
            each.contrast.name,
            each.outcome.show_effect(each.inference.mean),
            interval(each.outcome, each.inference.t),
            str(each.n),
            p_value(each.inference.sign_flip_p),
            p_value(each.holm_p),
            p_value(each.equivalence_holm_p),
            each.verdict,
        )
        for each in found
    )
    smallest = min((each.inference.attainable_p for each in found if each.n), default=1.0)
    caption = (
        f"Effects on {HEADLINE.label}, paired by seed, with Student's 95% interval. Sign flip: exact two-sided p of "
        f"one comparison, which cannot go below {smallest:.2g} here. Holm: the paired t test, adjusted for all "
        f"{len(found)} comparisons. Within the margin: two one-sided t tests, adjusted alike. A verdict other than "
        "open needs an adjusted p of at most 0.05."
    )
    return PaperTable("effects", f"Effects on {HEADLINE.label}", header, rows, caption, 1)


def _other_means(results: pd.DataFrame, outcomes: Sequence[Outcome]) -> PaperTable:
    cells = {str(cell): mine for cell, mine in results.groupby("cell", sort=False)}

    def mean(outcome: Outcome, mine: pd.DataFrame) -> str:
        return f"{mean_over_seeds(outcome, mine)} ({outcome.compared(mine).count()})"

    rows = [[outcome.label, *(mean(outcome, mine) for mine in cells.values())] for outcome in outcomes]
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
    def row(each: Conclusion) -> tuple[str, ...]:
        return (
            each.outcome.label,
            each.contrast.name,
            effect(each.outcome, each.inference.mean),
            interval(each.outcome, each.inference.t),
            str(each.n),
            p_value(each.inference.sign_flip_p),
            p_value(each.holm_p),
            each.verdict,
        )

    rows = tuple(row(each) for outcome in outcomes for each in conclusions.of(outcome))
    caption = (
        "Exploratory: Holm's rule adjusts within each outcome and not over outcomes, so that some of many will stand "
        "out by chance. × is a factor; points are hundredths of a share."
    )
    header = ("outcome", "change", "effect", "95% interval", "n pairs", "p, sign flip", "p, Holm", "found")
    return PaperTable("other-effects", "Effects on other outcomes (exploratory)", header, rows, caption, 2)


def factor_columns(results: pd.DataFrame) -> list[str]:
    """Return the factors of a table of results: its columns between the cell and the seed."""
    columns = list(results.columns)
    return columns[columns.index("cell") + 1 : columns.index("seed")]


def mean_over_seeds(outcome: Outcome, runs: pd.DataFrame) -> str:
    """Write the mean, geometric where the outcome is compared as a factor; a dash where no run has a number."""
    compared = outcome.compared(runs).dropna()
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
    return head + "\n".join(_latex(table) for table in tables)


def write_tables(results: pd.DataFrame, conclusions: Conclusions, folder: Path) -> list[Path]:
    """Write tables.md, tables.tex and results.csv into a folder; return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    tables = paper_tables(results, conclusions)
    paths = [folder / name for name in ("tables.md", "tables.tex", "results.csv")]
    write_atomically(paths[0], markdown(tables))
    write_atomically(paths[1], latex(tables))
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
    "∞": r"$\infty$",
    "−": r"$-$",
}


def escape_latex(text: str) -> str:
    """Write text so that LaTeX prints it as it stands."""
    return "".join(_LATEX.get(character, character) for character in text)


def _minus(text: str) -> str:
    """Set the hyphen before a number as the minus that it is."""
    return re.sub(r"(?<![\w.-])-(?=\d|\$\\infty)", "$-$", text)


def _latex(table: PaperTable) -> str:
    def line(cells: Sequence[str]) -> str:
        # A row that begins with [ would be read as an argument of the line end before it; a group is not.
        guarded = [("{}" if cell.startswith("[") else "") + _minus(escape_latex(cell)) for cell in cells]
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
            line(table.header),
            r"    \midrule",
            *(line(row) for row in table.rows),
            r"    \bottomrule",
            r"  \end{tabular}}",
            r"\end{table}",
            "",
        ]
    )
