"""The conclusions of a study for the terminal: sentences, the tables of cells and effects, and notes."""

from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

if TYPE_CHECKING:
    import pandas as pd

    from alexnet_ablations.conclude.conclusions import Conclusion, Conclusions
    from alexnet_ablations.conclude.paper_tables import PaperTable

# Beginnings of headers, dispensable first: a narrow terminal goes without these columns, which tables.md has too.
DISPENSABLE = (
    "p, within",
    "equivalence interval",
    "P(false claim)",
    "p, sign flip",
    "p, t test",
    "seeds alone",
    "n",
    "sd over seeds",
    "each seed",
)


def print_conclusions(console: Console, results: "pd.DataFrame", conclusions: "Conclusions") -> None:
    """Print a sentence for each comparison, what was found first, the tables behind them, and what to keep in mind."""
    from alexnet_ablations.conclude.paper_tables import cells_table, effects_table
    from alexnet_ablations.conclude.sentences import (
        averaging_note,
        damage_sentence,
        lacking_sentence,
        look_sentence,
        notes_of,
        sentence_of,
        survival_sentences,
    )

    headline = conclusions.headline
    damages = damage_sentence(results)
    if damages:
        console.print(escape(damages), style="red", highlight=False)
    for conclusion in sorted(headline, key=lambda conclusion: not _is_decided(conclusion)):
        style = "bold" if _is_decided(conclusion) else ""
        console.print(escape(sentence_of(conclusion)), style=style, highlight=False)
    console.print(terminal_table(cells_table(results, conclusions), console))
    if headline:
        console.print(terminal_table(effects_table(conclusions), console))
    for sentence in survival_sentences(conclusions):
        console.print(escape(sentence), style="yellow", highlight=False)
    notes = dict.fromkeys(note for conclusion in headline for note in notes_of(conclusion))
    for_all = (averaging_note([conclusion.contrast for conclusion in headline]), lacking_sentence(conclusions))
    for note in filter(None, (*for_all, look_sentence(conclusions), *notes)):
        console.print(escape(note), style="dim", highlight=False)
    _print_others(console, results, conclusions)


def _is_decided(conclusion: "Conclusion") -> bool:
    return conclusion.verdict.startswith(("difference", "equivalent"))


def terminal_table(table: "PaperTable", console: Console) -> Table:
    """Lay a table out for the terminal, without what its width has no room for; the caption is left to files."""
    columns = list(range(len(table.header)))
    for beginning in DISPENSABLE:
        laid_out = _laid_out(table, columns)
        wide = console.options.update(max_width=10_000)  # how wide it would like to be
        if Measurement.get(console, wide, laid_out).maximum <= console.width:
            break
        columns = [at for at in columns if not table.header[at].startswith(beginning) or at < table.words]
    return _laid_out(table, columns)


def _laid_out(table: "PaperTable", columns: list[int]) -> Table:
    laid_out = Table(box=box.SIMPLE_HEAD)
    for at in columns:
        is_word = at < table.words
        laid_out.add_column(escape(table.header[at]), justify="left" if is_word else "right", no_wrap=is_word)
    for row in table.rows:
        laid_out.add_row(*(escape(row[at]) for at in columns))
    return laid_out


def _print_others(console: Console, results: "pd.DataFrame", conclusions: "Conclusions") -> None:
    """Name what stands out beside the headline, as the report does; all of it stands in the tables."""
    from alexnet_ablations.conclude.outcomes import label_in
    from alexnet_ablations.conclude.sentences import sentence_of

    others = [conclusion for conclusion in conclusions.items if conclusion.is_exploratory]
    if not others:
        return
    differing = [conclusion for conclusion in others if conclusion.verdict == "difference"]  # and large enough
    outcomes = len({conclusion.outcome.name for conclusion in others})
    many = (
        f"{len(differing)} difference{'' if len(differing) == 1 else 's'} beyond chance"
        if differing
        else "none stands out"
    )
    beside = conclusions.headline_outcome.label.removeprefix("test ")
    console.print(f"\nbeside {beside}, {outcomes} outcomes (exploratory): {many}", style="dim")
    for conclusion in differing:
        label = label_in(results, conclusion.outcome)
        console.print(f"  {escape(label)}: {escape(sentence_of(conclusion))}", highlight=False)
