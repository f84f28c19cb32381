"""The distance between two histograms by powers of two, as two numbers, since each misses what the other shows.

Total variation is the share of the values that would have to change their bin, between 0 and 1. It sees everything the
histogram holds, signs, zeros, infinities and NaN among them, but once two histograms share no bin it is 1, however far
apart they are. The Wasserstein distance says how far: the mean number of powers of two by which the values would have
to move, which is what a gradient that thinned by 2^10 should count as. It is taken over the finite values that are
not zero, whose sizes have a logarithm; the others are in the total variation.

Both compare shares, so that runs of different length can be compared; a float32 has its bins in the same places in
every run, and nothing is fitted to the data.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.float64]  # (2, columns): by sign, then zero, subnormal, powers of two, infinite, NaN


@dataclass(frozen=True)
class Distance:
    """From the first histogram to the second."""

    total_variation: float  # share of the values, 0 to 1
    wasserstein: float  # powers of two; NaN where a histogram has no finite value but zero
    shift: float  # of the mean size, in powers of two; positive: the second has the larger values


def distance(first: Counts, second: Counts) -> Distance | None:
    """Measure from one histogram to another of the same layout; None where one of them is empty."""
    if first.shape != second.shape:
        raise ValueError(f"histograms to be compared need one layout, got {first.shape} and {second.shape}")
    if not first.sum() or not second.sum():
        return None
    variation = 0.5 * float(np.abs(first / first.sum() - second / second.sum()).sum())
    # Of both signs together: how large a value is, not which way it points.
    one, two = (counts[:, 2:-2].sum(0) for counts in (first, second))
    if not one.sum() or not two.sum():
        return Distance(variation, float("nan"), float("nan"))
    difference = np.cumsum(one / one.sum() - two / two.sum())
    return Distance(variation, float(np.abs(difference).sum()), float(difference.sum()))
