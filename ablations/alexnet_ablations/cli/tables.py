"""Results as tables for the terminal."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from rich import box
from rich.table import Table

from alexnet_ablations.design import Cell
from alexnet_ablations.statistics import Effect, NamedEffect


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


def effect_table(effects: Sequence[NamedEffect]) -> Table:
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


def _interval(effect: Effect) -> str:
    if math.isnan(effect.low):
        return "needs two seeds"
    return rf"\[{_points(effect.low)}, {_points(effect.high)}]"


def _points(share: float) -> str:
    return f"{100 * share:+.1f}".replace("-0.0", "+0.0")
