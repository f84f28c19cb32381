"""Factors and levels become cells: the networks that a study trains.

factorial         every level of every factor with every other
one-at-a-time     the baseline, and each change by itself
leave-one-out     the network with all changes, and each of them taken back
fractional        a part of the factorial of two-level factors, chosen so that single effects stay clean
only              the baseline and the network with all changes named, nothing between
"""

import hashlib
import itertools
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from alexnet_ablations.declare.fractional import smallest_fraction
from alexnet_lab.choices import unknown_choice
from alexnet_lab.networks.catalogue import CATALOGUE
from alexnet_lab.training.recipe import Recipe, read_recipe

FACTORIAL_LIMIT = 8  # cells up to which everything is crossed unless another design is named
# A comparison of more cells tells nothing apart: each is one of as many tests. And every run is read for each report.
MOST_CELLS = 1_000
MOST_RUNS = 10_000
NAME_LIMIT = 160  # characters; folder names end at 255 bytes


@dataclass(frozen=True)
class Factor:
    """One field of the recipe and the levels it takes; the first is the baseline. None is: as published."""

    field: str
    levels: tuple[Any, ...]

    @property
    def changes(self) -> tuple[Any, ...]:
        """Return the levels that are compared with the baseline."""
        return self.levels[1:]


@dataclass(frozen=True)
class Cell:
    """One combination of levels."""

    settings: tuple[tuple[str, Any], ...]

    @property
    def name(self) -> str:
        """Name the cell, fit for a folder: norm=bn,act=leaky."""
        text = ",".join(f"{field}={level_text(level)}" for field, level in self.settings)
        name = re.sub(r"[^\w.,=+-]", "_", text)
        if len(name) > NAME_LIMIT:
            name = f"{name[:NAME_LIMIT]}-{hashlib.blake2b(text.encode(), digest_size=4).hexdigest()}"
        return name

    def recipe(self, start: Recipe, seed: int) -> Recipe:
        """Return the recipe of this cell under that seed."""
        values = {**vars(start), **dict(self.settings), "seed": seed}
        if "preset" not in dict(self.settings) and values["preset"] not in CATALOGUE[values["network"]].presets:
            values["preset"] = None  # a preset of another network
        return read_recipe(values)


def level_text(level: Any) -> str:
    """Write a level as a flag would have it."""
    if level is None:
        return "published"
    if isinstance(level, bool):
        return str(level).lower()
    return str(level) or "none"


def cells_of(design: str, factors: Sequence[Factor]) -> list[Cell]:
    """Return the cells of a design, the baseline first; a design that its factors cannot have is refused."""
    check_size(design, factors)
    cells = [Cell(tuple(zip((f.field for f in factors), at, strict=True))) for at in DESIGNS[design](factors)]
    for name, count in Counter(cell.name for cell in cells).items():
        if count > 1:
            raise ValueError(f"two cells would share the folder {name}; write their levels so that they differ in it")
    return cells


def check_design(design: str, factors: Sequence[Factor]) -> None:
    """Raise ValueError if the design is unknown, its cells are too many, or these factors cannot have it."""
    cells_of(design, factors)


def check_size(design: str, factors: Sequence[Factor], seeds: int = 1, folds: int = 0) -> None:
    """Raise ValueError if a study of these factors and seeds is too large, before any of it is listed."""
    cells = count_cells(design, factors)
    if cells > MOST_CELLS:
        raise ValueError(
            f"a study has at most {MOST_CELLS:,} cells, and the design {design} makes {cells:,} of these levels; "
            "name fewer, or take --design one-at-a-time"
        )
    runs_per_seed = max(folds, 1)
    if cells * seeds * runs_per_seed > MOST_RUNS:
        product = f"{cells:,} cells x {seeds:,} seeds" + (f" x {folds:,} folds" if folds else "")
        most = MOST_RUNS // (cells * runs_per_seed)
        fewer = f"take at most {most:,} seeds, or name fewer levels" if most else "name fewer levels or folds"
        raise ValueError(
            f"a study has at most {MOST_RUNS:,} runs, and {product} are {cells * seeds * runs_per_seed:,}; {fewer}"
        )


def count_cells(design: str, factors: Sequence[Factor]) -> int:
    """Count the cells of a design without making them."""
    if design not in DESIGNS:
        raise unknown_choice("design", design, DESIGNS)
    if design == "factorial":
        return math.prod(len(factor.levels) for factor in factors)
    if design == "one-at-a-time":
        return 1 + sum(len(factor.changes) for factor in factors)
    return len(DESIGNS[design](factors))  # as many cells as factors or levels, or a small fraction


def default_design(factors: Sequence[Factor]) -> str:
    """Cross everything while that makes few cells; else change one thing at a time."""
    return "factorial" if count_cells("factorial", factors) <= FACTORIAL_LIMIT else "one-at-a-time"


def _baseline(factors: Sequence[Factor]) -> tuple[Any, ...]:
    return tuple(factor.levels[0] for factor in factors)


def _factorial(factors: Sequence[Factor]) -> list[tuple[Any, ...]]:
    return list(itertools.product(*(factor.levels for factor in factors)))


def _one_at_a_time(factors: Sequence[Factor]) -> list[tuple[Any, ...]]:
    baseline = _baseline(factors)
    changed = [
        (*baseline[:at], level, *baseline[at + 1 :]) for at, factor in enumerate(factors) for level in factor.changes
    ]
    return [baseline, *changed]


def _leave_one_out(factors: Sequence[Factor]) -> list[tuple[Any, ...]]:
    if len(factors) < 2:
        raise ValueError(
            "leave-one-out takes changes back one at a time and needs at least two factors, "
            f"got {len(factors)}; take --design only"
        )
    _require_single_changes("leave-one-out", "has one fully changed network", factors)
    baseline, full = _baseline(factors), tuple(factor.changes[0] for factor in factors)
    # With two factors, full less one change is the other change by itself: never the baseline.
    return [baseline, full, *((*full[:at], baseline[at], *full[at + 1 :]) for at in range(len(factors)))]


def _fractional(factors: Sequence[Factor]) -> list[tuple[Any, ...]]:
    _require_single_changes("fractional", "holds two levels of each factor", factors)
    return [
        tuple(factor.levels[bit] for factor, bit in zip(factors, row, strict=True))
        for row in smallest_fraction(len(factors)).rows()
    ]


def _only(factors: Sequence[Factor]) -> list[tuple[Any, ...]]:
    counts = {len(factor.changes) for factor in factors} - {1}
    if len(counts) > 1:
        named = ", ".join(f"{factor.field} {len(factor.changes)}" for factor in factors)
        raise ValueError(
            "in the design only, the first levels named make one network, the second ones the next, so every factor "
            f"names one level or the same number of them; got {named}"
        )
    variants = counts.pop() if counts else 1
    changed = [tuple(f.changes[at if len(f.changes) > 1 else 0] for f in factors) for at in range(variants)]
    return [_baseline(factors), *changed]


def _require_single_changes(design: str, why: str, factors: Sequence[Factor]) -> None:
    for factor in factors:
        if len(factor.levels) > 2:
            levels = ", ".join(map(level_text, factor.levels))
            raise ValueError(
                f"the design {design} {why}, and {factor.field} has {len(factor.levels)} levels ({levels}); "
                "name one level besides the baseline, or take --design factorial or one-at-a-time"
            )


DESIGNS: Mapping[str, Callable[[Sequence[Factor]], list[tuple[Any, ...]]]] = {
    "factorial": _factorial,
    "one-at-a-time": _one_at_a_time,
    "leave-one-out": _leave_one_out,
    "fractional": _fractional,
    "only": _only,
}
