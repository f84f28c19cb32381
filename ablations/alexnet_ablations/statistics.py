"""What the runs say together: effects paired by seed, with intervals.

Two cells under one seed share every weight, batch and mask that they have in common, so their difference is taken
within the seed and only then averaged.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexnet_ablations.design import Factor


@dataclass(frozen=True)
class Effect:
    """The mean of paired differences with its 95% interval (Student's t); without two pairs there is no interval."""

    mean: float
    low: float
    high: float
    pairs: int


@dataclass(frozen=True)
class NamedEffect:
    """An effect and what it is the effect of."""

    name: str
    effect: Effect


def paired_effect(differences: Sequence[float]) -> Effect | None:
    """Estimate the mean difference and its interval; None where no pair is whole."""
    from scipy import stats

    d = np.asarray(differences, dtype=float)
    if len(d) == 0:
        return None
    mean = float(d.mean())
    if len(d) == 1:
        return Effect(mean, float("nan"), float("nan"), 1)
    half = float(stats.t.ppf(0.975, len(d) - 1) * d.std(ddof=1) / np.sqrt(len(d)))
    return Effect(mean, mean - half, mean + half, len(d))


def factorial_effects(rows: Sequence[dict[str, Any]], factors: Sequence[Factor], outcome: str) -> list[NamedEffect]:
    """Return, for each level, its effect against the baseline averaged over all other factors; then the interactions.

    An interaction is how much two changes together gain beyond the sum of each alone. A seed counts where every
    run that its difference needs ended with a number; `pairs` says how many did.
    """
    table = _by_seed_and_levels(rows, factors, outcome)

    def effect_of(changes: Sequence[tuple[int, int]]) -> Effect | None:
        differences: NDArray[np.float64] = table
        # From the last axis to the first, so that taking one away leaves the others where they were.
        for axis, level in sorted(changes, reverse=True):
            differences = np.subtract(differences.take(level, axis + 1), differences.take(0, axis + 1))
        # A run without a number is a NaN, and so is every mean it belongs to: that seed is left out, whole.
        per_seed = differences.reshape(len(table), -1).mean(1)
        return paired_effect(per_seed[~np.isnan(per_seed)].tolist())

    named = []
    changes = [[(at, level) for level in range(1, len(factor.levels))] for at, factor in enumerate(factors)]
    for at, level in itertools.chain.from_iterable(changes):
        factor = factors[at]
        named.append((f"{factor.field}: {factor.levels[0]} → {factor.levels[level]}", [(at, level)]))
    for one, other in itertools.combinations(changes, 2):
        for (i, a), (j, b) in itertools.product(one, other):
            name = f"{factors[i].field} {factors[i].levels[a]} × {factors[j].field} {factors[j].levels[b]}"
            named.append((name, [(i, a), (j, b)]))
    found = ((name, effect_of(change)) for name, change in named)
    return [NamedEffect(name, effect) for name, effect in found if effect]


def _by_seed_and_levels(rows: Sequence[dict[str, Any]], factors: Sequence[Factor], outcome: str) -> NDArray[np.float64]:
    """Arrange an outcome as an array: seeds first, then one axis per factor; NaN where a run has no number."""
    seeds = sorted({row["seed"] for row in rows})
    table = np.full((len(seeds), *(len(factor.levels) for factor in factors)), np.nan)
    for row in rows:
        if row[outcome] is not None:
            place = tuple(factor.levels.index(row[factor.field]) for factor in factors)
            table[seeds.index(row["seed"]), *place] = row[outcome]
    return table
