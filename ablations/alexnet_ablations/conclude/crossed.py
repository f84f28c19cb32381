"""Seeds and images at once: how far the mean of paired differences would move with other seeds and other images.

Each seed is tested on the same images, so that differences are a table of n seeds by G images (or patients) and

    difference = mean + seed + image + rest

with a variance for each. The mean of the table has the variance (seed)/n + (image)/G + (rest)/(nG), which mean squares
estimate as (S + I - R) / (nG), S, I and R being those of seeds, images and rest. The degrees of freedom are
Satterthwaite's, those of I corrected for its kurtosis: where few images differ at all, I is known less well than G
would suggest.

The interval is never narrower than Student's over the seeds alone, nor is its p smaller: what is said of other images
holds on these too. docs/evidence.md says how often it is right.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from alexnet_ablations.conclude.intervals import CONFIDENCE, TIE, Interval


@dataclass(frozen=True)
class Crossed:
    """Mean squares of a table of differences, seeds by images; the unit is that of the differences, squared."""

    seeds: int  # n
    groups: int  # G: images, or patients
    mean: float
    between_seeds: float  # S, n - 1 degrees of freedom
    between_groups: float  # I
    rest: float  # R
    groups_df: float  # of I

    @property
    def variance(self) -> float:
        """Return the variance of the mean over other seeds and images; at least that over other seeds."""
        spare = max(self.between_groups - self.rest, 0.0)
        return (self.between_seeds + spare) / (self.seeds * self.groups)

    @property
    def degrees(self) -> float:
        """Return the degrees of freedom of that variance."""
        cells = self.seeds * self.groups
        parts = [
            (self.between_seeds, self.seeds - 1.0),
            (self.between_groups, self.groups_df),
            (self.rest, (self.seeds - 1.0) * (self.groups - 1.0)),
        ]
        spread = sum(square**2 / df for square, df in parts if square)
        return max((self.variance * cells) ** 2 / spread, 1.0) if spread else 1.0

    @property
    def image_spread(self) -> float:
        """Return the standard deviation between images of what all seeds agree on."""
        return math.sqrt(max(self.between_groups - self.rest, 0.0) / self.seeds)

    def half_width(self, confidence: float = CONFIDENCE) -> float:
        """Return half the width of the interval, at least that over the seeds alone."""
        from scipy import special

        tail = (1 + confidence) / 2
        return max(
            float(special.stdtrit(self.degrees, tail)) * math.sqrt(self.variance),
            float(special.stdtrit(self.seeds - 1, tail)) * math.sqrt(self.between_seeds / (self.seeds * self.groups)),
        )

    def interval(self, confidence: float = CONFIDENCE) -> Interval:
        """Return the interval of the mean for other seeds and other images like these."""
        half = self.half_width(confidence)
        return Interval(self.mean - half, self.mean + half)

    def p_value(self) -> float:
        """Return the two-sided p-value against no difference."""
        return 2 * self._tail(abs(self.mean))

    def equivalence_p_value(self, margin: float) -> float:
        """Return the p-value of two one-sided tests: small where the mean is surely within the margin."""
        return self._tail(margin - abs(self.mean))

    def _tail(self, distance: float) -> float:
        from scipy import special

        over_seeds = self.between_seeds / (self.seeds * self.groups)
        tests = [(self.degrees, self.variance), (self.seeds - 1.0, over_seeds)]
        return max(
            float(special.stdtr(df, -distance / math.sqrt(variance))) if variance > 0 else float(distance <= 0)
            for df, variance in tests
        )


def crossed(table: NDArray[np.float64]) -> Crossed | None:
    """Return the mean squares of differences by seed and image (n G); None below two of either, or without spread."""
    seeds, groups = table.shape
    if seeds < 2 or groups < 2 or np.ptp(table) <= TIE * np.abs(table).max():
        return None
    mean = float(table.mean())
    by_seed, by_group = table.mean(1) - mean, table.mean(0) - mean
    of_seeds, of_groups = groups * float(by_seed @ by_seed), seeds * float(by_group @ by_group)
    rest = table - mean - by_seed[:, None] - by_group
    return Crossed(
        seeds,
        groups,
        mean,
        between_seeds=of_seeds / (seeds - 1),
        between_groups=of_groups / (groups - 1),
        rest=float(np.einsum("ng,ng->", rest, rest)) / ((seeds - 1) * (groups - 1)),
        groups_df=_degrees_of(by_group),
    )


def _degrees_of(values: NDArray[np.float64]) -> float:
    """Return the degrees of freedom of a variance: 2 var^2 over the variance of its estimate, by the kurtosis."""
    count = len(values)
    second = float((values**2).mean())
    excess = float((values**4).mean()) / second**2 - 3 if second > 0 else 0.0
    return 2 / (2 / (count - 1) + max(excess, 0.0) / count)
