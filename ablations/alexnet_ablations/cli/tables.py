"""What a study found, for the terminal: cells, effects, and the sentences that go with them."""

from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

if TYPE_CHECKING:
    import pandas as pd

    from alexnet_ablations.conclude.conclusions import Conclusions
    from alexnet_ablations.conclude.paper_tables import PaperTable

# Beginnings of headers, dispensable first: a narrow terminal goes without these columns, which tables.md has too.
DISPENSABLE = ("p, within", "p, sign flip", "n", "sd over seeds", "p, Holm", "each seed")


def print_conclusions(console: Console, results: "pd.DataFrame", conclusions: "Conclusions") -> None:
    """Print what was found: a sentence for each comparison, then the tables behind them, then what to keep in mind."""
    from alexnet_ablations.conclude.paper_tables import cells_table, effects_table

    for found in conclusions.headline:
        style = "bold" if found.verdict.startswith(("difference", "equivalent")) else ""
        console.print(escape(found.sentence), style=style, highlight=False)
    console.print(terminal_table(cells_table(results, conclusions), console))
    if conclusions.headline:
        console.print(terminal_table(effects_table(conclusions), console))
    for sentence in conclusions.survival_sentences:
        console.print(escape(sentence), style="yellow", highlight=False)
    for note in dict.fromkeys(note for found in conclusions.headline for note in found.notes):
        console.print(escape(note), style="dim", highlight=False)
    _print_others(console, results, conclusions)


def terminal_table(table: "PaperTable", console: Console) -> Table:
    """Lay a table out for the terminal, without what its width has no room for; the caption is left to files."""
    columns = list(range(len(table.header)))
    for beginning in DISPENSABLE:
        shown = _laid_out(table, columns)
        wide = console.options.update(max_width=10_000)  # how wide it would like to be
        if Measurement.get(console, wide, shown).maximum <= console.width:
            break
        columns = [at for at in columns if not table.header[at].startswith(beginning) or at < table.words]
    return _laid_out(table, columns)


def _laid_out(table: "PaperTable", columns: list[int]) -> Table:
    shown = Table(box=box.SIMPLE_HEAD)
    for at in columns:
        is_word = at < table.words
        shown.add_column(escape(table.header[at]), justify="left" if is_word else "right", no_wrap=is_word)
    for row in table.rows:
        shown.add_row(*(escape(row[at]) for at in columns))
    return shown


def _print_others(console: Console, results: "pd.DataFrame", conclusions: "Conclusions") -> None:
    """Name what stands out beside the headline, as the report does; all of it stands in the tables."""
    from alexnet_ablations.conclude.outcomes import label_in

    others = [found for found in conclusions.items if found.is_exploratory]
    differing = [found for found in others if found.verdict == "difference"]  # and not one that is too small to matter
    if not others:
        return
    outcomes = len({found.outcome.name for found in others})
    many = f"{len(differing)} difference{'' if len(differing) == 1 else 's'}" if differing else "no difference found"
    console.print(f"\nbeside accuracy, {outcomes} outcomes (exploratory): {many}", style="dim")
    for found in differing:
        console.print(f"  {escape(label_in(results, found.outcome))}: {escape(found.sentence)}", highlight=False)
