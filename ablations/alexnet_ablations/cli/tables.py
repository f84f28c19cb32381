"""What a study found, for the terminal: cells, effects, and the sentences that go with them."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from alexnet_ablations.design import Cell

if TYPE_CHECKING:
    import pandas as pd

    from alexnet_ablations.paper_tables import PaperTable
    from alexnet_ablations.statistics import Conclusions, Effect, NamedEffect


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
    console.print(f"\nbeside accuracy, {outcomes} outcomes (exploratory), {len(differing)} differences:", style="dim")
    for found in differing:
        console.print(f"  {escape(found.outcome.label)}: {escape(found.sentence)}", highlight=False)


def cell_table(rows: Sequence[dict[str, Any]], cells: Sequence[Cell]) -> Table:
    """One row per cell: mean and spread of test accuracy over its seeds, and how many runs ended with a number."""
    table = Table(box=box.SIMPLE_HEAD)
    for field, _ in cells[0].settings:
        table.add_column(field)
    for header in ("test accuracy", "sd over seeds", "each seed", "runs ok"):
        table.add_column(header, justify="right")
    for cell in cells:
        mine = [row for row in rows if all(row[field] == level for field, level in cell.settings)]
        found = [100 * row["test_accuracy"] for row in mine if row["test_accuracy"] is not None]
        table.add_row(
            *(str(level) for _, level in cell.settings),
            f"{np.mean(found):.1f}%" if found else "-",
            f"{np.std(found, ddof=1):.1f}" if len(found) > 1 else "-",
            " ".join(f"{accuracy:.1f}" for accuracy in found) or "-",
            f"{len(found)}/{len(mine)}",
        )
    return table


def effect_table(effects: "Sequence[NamedEffect]") -> Table:
    """One row per effect, in points of accuracy, with its interval and the number of pairs behind it."""
    table = Table(box=box.SIMPLE_HEAD)
    for header, justify in (
        ("change", "left"),
        ("effect, points", "right"),
        ("95% interval", "right"),
        ("pairs", "right"),
    ):
        table.add_column(header, justify=justify)  # type: ignore[arg-type]  # rich's literal, from a tuple
    for named in effects:
        table.add_row(named.name, _points(named.effect.mean), _interval(named.effect), str(named.effect.pairs))
    return table


def _interval(effect: "Effect") -> str:
    if math.isnan(effect.low):
        return "needs two seeds"
    return rf"\[{_points(effect.low)}, {_points(effect.high)}]"


def _points(share: float) -> str:
    return f"{100 * share:+.1f}".replace("-0.0", "+0.0")
