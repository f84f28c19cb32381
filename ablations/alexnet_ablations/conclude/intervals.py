"""Intervals and p-values for the mean of a few paired differences, and for a share.

n is the number of pairs, as a rule between 3 and 20: small enough that a sign-flip test can go through all 2^n ways,
and that every interval here rests on an assumption worth knowing.

    t           exact for normal differences; the headline
    sign flip   exact for differences that are symmetric around their mean, whatever their shape; at most 1 - 2/2^n sure

Where each seed draws its own test and training images from one set, these overlap, and the mean of n differences varies
by more than their spread over n: `overlap`, test images over training images, is added to 1/n (Nadeau and Bengio 2003).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]

LEVEL = 0.05  # of every test
CONFIDENCE = 1 - LEVEL
EXACT_UP_TO = 20  # pairs; 2^20 sign patterns are a few hundredths of a second, beyond it patterns are drawn
DRAWN_PATTERNS = 99_999
# Sums of the same numbers in another order differ in the last bits; a tie must stay a tie.
TIE = 1e-9


@dataclass(frozen=True)
class Interval:
    """Where the mean lies, by one method."""

    low: float
    high: float


def t_interval(
    differences: Sequence[float] | Values, confidence: float = CONFIDENCE, overlap: float = 0.0
) -> Interval | None:
    """Return Student's interval; None below two pairs, or where all pairs differ by the same amount."""
    from scipy import special

    d = np.asarray(differences, dtype=float)
    if len(d) < 2 or has_no_spread(d):
        return None
    half = float(special.stdtrit(len(d) - 1, (1 + confidence) / 2)) * _standard_error(d, overlap)
    return Interval(float(d.mean()) - half, float(d.mean()) + half)


def t_p_value(differences: Sequence[float] | Values, overlap: float = 0.0) -> float | None:
    """Return the two-sided p-value of Student's paired test against no difference; None as for the interval."""
    from scipy import special

    d = np.asarray(differences, dtype=float)
    if len(d) < 2 or has_no_spread(d):
        return None
    return float(2 * special.stdtr(len(d) - 1, -abs(float(d.mean())) / _standard_error(d, overlap)))


def equivalence_p_value(differences: Sequence[float] | Values, margin: float, overlap: float = 0.0) -> float | None:
    """Return the p-value of two one-sided t tests: small where the mean is surely within the margin, either way."""
    from scipy import special

    if margin <= 0:
        raise ValueError(f"a margin of equivalence is above 0; got {margin:g}; take the smallest effect that matters")
    d = np.asarray(differences, dtype=float)
    if len(d) < 2 or has_no_spread(d):
        return None
    nearest = (margin - abs(float(d.mean()))) / _standard_error(d, overlap)
    return float(special.stdtr(len(d) - 1, -nearest))


def attainable_p(pairs: int) -> float:
    """Return the smallest p-value that an exact two-sided sign-flip test on so many pairs can reach."""
    return min(1.0, 2.0 ** (1 - pairs))  # 0 for more pairs than a float can tell


def sign_flip_p_value(differences: Sequence[float] | Values) -> float | None:
    """Return the two-sided p-value of flipping signs: how often chance alone gives as large a sum.

    Under no effect a difference is as likely as its negative. Up to 20 pairs all 2^n patterns are counted; beyond, the
    observed one and 99,999 that are drawn, always the same.
    """
    d = np.asarray(differences, dtype=float)
    if len(d) == 0:
        return None
    observed = abs(d.sum()) - TIE * np.abs(d).sum()
    if len(d) <= EXACT_UP_TO:
        # The mirror image of a pattern has the same absolute sum: those that keep the first sign will do.
        sums = np.array([d[0]])
        for value in d[1:]:
            sums = np.concatenate([sums + value, sums - value])
        return float(np.mean(np.abs(sums) >= observed))
    # What has one sign is a drawn subset, what has the other is the rest.
    sums = 2 * _sums_of_drawn(d.tobytes()) - d.sum()
    return float((1 + np.sum(np.abs(sums) >= observed)) / (1 + DRAWN_PATTERNS))


def sign_flip_interval(differences: Sequence[float] | Values, confidence: float = CONFIDENCE) -> Interval | None:
    """Return the means that a sign-flip test does not reject; None where so few pairs can reject nothing.

    They are the k-th smallest to the k-th largest of the means of all non-empty subsets (Hartigan 1969, typical
    values), with k the number of patterns that one tail may hold: six pairs are the fewest for 95%.
    """
    d = np.asarray(differences, dtype=float)
    patterns = 2 ** len(d) if len(d) <= EXACT_UP_TO else DRAWN_PATTERNS + 1
    tail = math.floor((1 - confidence) / 2 * patterns + TIE)
    if len(d) == 0 or tail < 1:
        return None
    if len(d) <= EXACT_UP_TO:
        sums, sizes = np.zeros(1), np.zeros(1)
        for value in d:
            sums, sizes = np.concatenate([sums, sums + value]), np.concatenate([sizes, sizes + 1])
        means = sums[1:] / sizes[1:]
    else:
        sizes = _drawn_subsets(len(d)).sum(1)
        means = _sums_of_drawn(d.tobytes())[sizes > 0] / sizes[sizes > 0]
    ordered = np.partition(means, [tail - 1, len(means) - tail])
    return Interval(float(ordered[tail - 1]), float(ordered[len(means) - tail]))


def share_interval(successes: int, of: int, confidence: float = CONFIDENCE) -> Interval:
    """Return the exact interval of a share (Clopper and Pearson), which covers at least as often as it says."""
    from scipy import special

    if of == 0:
        return Interval(0.0, 1.0)
    tail = (1 - confidence) / 2
    low = special.betaincinv(successes, of - successes + 1, tail) if successes else 0.0
    high = special.betaincinv(successes + 1, of - successes, 1 - tail) if successes < of else 1.0
    return Interval(float(low), float(high))


def has_no_spread(differences: Values) -> bool:
    """Say whether all pairs differ by the same amount, up to rounding: there is no standard error to speak of."""
    return bool(np.ptp(differences) <= TIE * np.abs(differences).max())


def _standard_error(differences: Values, overlap: float) -> float:
    return float(differences.std(ddof=1)) * math.sqrt(1 / len(differences) + overlap)


@lru_cache(maxsize=4)
def _drawn_subsets(pairs: int) -> NDArray[np.int8]:
    """Return which pairs each drawn subset holds; drawn once for all lists of that length."""
    return _generator(pairs).integers(0, 2, (DRAWN_PATTERNS, pairs)).astype(np.int8)


@lru_cache(maxsize=2)
def _sums_of_drawn(differences: bytes) -> Values:
    """Return the sum over each drawn subset; a test and an interval of the same list share them."""
    d = np.frombuffer(differences)
    return np.concatenate([part.astype(float) @ d for part in np.array_split(_drawn_subsets(len(d)), 16)])


def _generator(pairs: int) -> np.random.Generator:
    """Return the same draws for every list of the same length, so that a report repeats to the last digit."""
    return np.random.default_rng([2012, pairs])
