"""Fractions of two-level factorials: which cells to train when all are too many, and what they cannot tell apart.

A factor is a column of zeros (baseline) and ones (changed); an added column is the sum, modulo 2, of some base columns.
Two effects whose columns add up to the same sum are aliased: one number stands for both. Resolution IV means that no
effect of one factor shares its number with an interaction of two. The cell of zeros, the baseline, is always in.

Box, Hunter, Hunter, Statistics for Experimenters, chapter 6.
"""

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

# Sums that are tried to find the fraction with the fewest aliases; if there are more, any of resolution IV is taken.
SEARCH_LIMIT = 200_000


@dataclass(frozen=True)
class Fraction:
    """Columns as bit masks over the base factors; bit i set: base factor i takes part in the sum."""

    columns: tuple[int, ...]
    base: int

    def rows(self) -> list[tuple[int, ...]]:
        """Return the cells, each a 0 or 1 per factor, the baseline first."""
        return [tuple((column & at).bit_count() % 2 for column in self.columns) for at in range(2**self.base)]

    def aliased(self, order: int) -> dict[int, list[tuple[int, ...]]]:
        """Group the effects of up to so many factors by their sums; those of one group cannot be told apart."""
        groups: dict[int, list[tuple[int, ...]]] = {}
        for size in range(1, order + 1):
            for factors in itertools.combinations(range(len(self.columns)), size):
                groups.setdefault(self.sum_of(factors), []).append(factors)
        return groups

    def sum_of(self, factors: Sequence[int]) -> int:
        """Add the columns of these factors."""
        total = 0
        for factor in factors:
            total ^= self.columns[factor]
        return total


@cache
def smallest_fraction(factors: int) -> Fraction:
    """Return a fraction of 2^factors with the fewest cells that resolution IV allows, and few aliases."""
    if factors < 4:
        raise ValueError(
            f"a fractional design needs at least 4 factors, got {factors}: with fewer, no fraction keeps effects and "
            "interactions apart; take --design factorial"
        )
    # q base factors carry at most 2^(q-1) factors at resolution IV.
    base = next(q for q in range(3, factors) if factors <= 2 ** (q - 1))
    own = tuple(1 << at for at in range(base))
    candidates = sorted((mask for mask in range(2**base) if mask.bit_count() >= 3), key=lambda m: (m.bit_count(), m))
    added = factors - base
    if math.comb(len(candidates), added) * 2**added <= SEARCH_LIMIT:
        choices = itertools.combinations(candidates, added)
        _, columns = min(
            (_aberration(masks), (*own, *masks)) for masks in choices if is_resolution_four((*own, *masks))
        )
    else:  # sums of an odd number of columns: every alias then has an even number of letters, so four at least
        columns = (*own, *[mask for mask in candidates if mask.bit_count() % 2][:added])
    if not is_resolution_four(columns):
        raise AssertionError(f"columns {columns} are not of resolution IV")
    return Fraction(columns, base)


def is_resolution_four(columns: Sequence[int]) -> bool:
    """Return whether every factor is told from every other and from every interaction of two."""
    effects = set(columns)
    pairs = itertools.combinations(columns, 2)
    return 0 not in effects and len(effects) == len(columns) and not any((a ^ b) in effects for a, b in pairs)


def _aberration(masks: Sequence[int]) -> tuple[int, ...]:
    """Count the words of 3, 4, 5 ... letters that equal nothing: fewer short ones, fewer aliases that matter."""
    lengths: Counter[int] = Counter()
    for size in range(1, len(masks) + 1):
        for chosen in itertools.combinations(masks, size):
            total = 0
            for mask in chosen:
                total ^= mask
            lengths[size + total.bit_count()] += 1
    return tuple(lengths[length] for length in range(3, 9))
