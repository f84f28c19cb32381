"""What a study found, for the terminal: cells, effects, and the sentences that go with them."""

from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    import pandas as pd

    from alexnet_ablations.paper_tables import PaperTable
    from alexnet_ablations.statistics import Conclusions


def print_conclusions(console: Console, results: "pd.DataFrame", conclusions: "Conclusions") -> None:
    """Print what was found: a sentence for each comparison, then the tables behind them, then what to keep in mind."""
    from alexnet_ablations.paper_tables import cells_table, effects_table

    for found in conclusions.headline:
        style = "bold" if found.verdict.startswith(("difference", "equivalent")) else ""
        console.print(escape(found.sentence), style=style, highlight=False)
    console.print(terminal_table(cells_table(results, conclusions)))
    if conclusions.headline:
        console.print(terminal_table(effects_table(conclusions)))
    for sentence in conclusions.survival_sentences:
        console.print(escape(sentence), style="yellow", highlight=False)
    for note in dict.fromkeys(note for found in conclusions.headline for note in found.notes):
        console.print(escape(note), style="dim", highlight=False)
    _print_others(console, conclusions)


def terminal_table(table: "PaperTable") -> Table:
    """Lay a table out for the terminal; its caption is left to files."""
    shown = Table(box=box.SIMPLE_HEAD)
    for at, title in enumerate(table.header):
        shown.add_column(escape(title), justify="left" if at < table.words else "right", no_wrap=at < table.words)
    for row in table.rows:
        shown.add_row(*(escape(cell) for cell in row))
    return shown


def _print_others(console: Console, conclusions: "Conclusions") -> None:
    """Name what stands out beside the headline; all of it stands in the tables."""
    others = [found for found in conclusions.items if found.is_exploratory]
    differing = [found for found in others if found.verdict.startswith("difference")]
    if not others:
        return
    outcomes = len({found.outcome.name for found in others})
    many = f"{len(differing)} difference{'' if len(differing) == 1 else 's'}" if differing else "no difference found"
    console.print(f"\nbeside accuracy, {outcomes} outcomes (exploratory): {many}", style="dim")
    for found in differing:
        console.print(f"  {escape(found.outcome.label)}: {escape(found.sentence)}", highlight=False)
