"""What a study of so many seeds and test images shows, whatever it found.

The spread between seeds, between images and of the rest is taken as known; the effect is never taken from the data: the
power to find the effect that was found says nothing that its p does not say. More seeds do not make up for few images.
"""

import math
from dataclasses import dataclass

from alexnet_ablations.conclude.crossed import Crossed
from alexnet_ablations.conclude.seeds import MOST, POWER, fewest, power_of_t, smallest_effect

MOST_GROUPS = 10**7  # images; what needs more is out of reach


@dataclass(frozen=True)
class Spread:
    """Standard deviations of a paired difference: between seeds, between images, and of the rest."""

    seeds: float
    images: float = 0.0
    rest: float = 0.0  # of one image under one seed, beyond what its image and its seed explain
    overlap: float = 0.0  # of splits that each seed draws: then `seeds` is that between splits, images included

    def table(self, seeds: int, groups: int) -> Crossed:
        """Return the mean squares to expect of so many seeds and images."""
        rest = self.rest**2
        between_seeds = groups * self.seeds**2 + rest
        return Crossed(
            seeds,
            groups,
            0.0,
            between_seeds=between_seeds,
            between_groups=seeds * self.images**2 + rest,
            rest=rest,
            groups_df=float(groups - 1),
        )

    def detectable(self, seeds: int, groups: int, level: float) -> float:
        """Return the smallest effect that is found four times in five; infinite below two seeds."""
        return max((smallest_effect(df, error, level) for df, error in self._tests(seeds, groups)), default=math.inf)

    def shows(self, effect: float, seeds: int, groups: int, level: float) -> bool:
        """Say whether so many seeds and images find an effect four times in five."""
        tests = self._tests(seeds, groups)
        return bool(tests) and all(power_of_t(df, effect, error, level) >= POWER for df, error in tests)

    def _tests(self, seeds: int, groups: int) -> list[tuple[float, float]]:
        """Return degrees of freedom and standard error of the tests that must both find an effect."""
        if seeds < 2:
            return []
        if self.overlap:
            return [(seeds - 1.0, self.seeds * math.sqrt(1 / seeds + self.overlap))]
        table = self.table(seeds, groups)
        alone = math.sqrt(table.between_seeds / (seeds * groups))
        return [(table.degrees, math.sqrt(table.variance)), (seeds - 1.0, alone)]


@dataclass(frozen=True)
class Sensitivity:
    """What a study shows four times in five, and what it would take to show the margin."""

    seeds: int
    groups: int | None  # images or patients; None where the conclusion is about these images
    effect: float  # the smallest that these seeds and images show
    margin: float | None
    seeds_for_margin: int | None = None  # with the images there are; None: no number of seeds, or no margin
    least: float = 0.0  # what no number of seeds goes below, with the images there are
    groups_for_margin: int | None = None  # with the seeds there are; None: no number of images, or no margin


def sensitivity_of(
    seeds: int, spread: float, images: Crossed | None, level: float, margin: float | None, *, overlap: float = 0.0
) -> Sensitivity:
    """Return what a study shows, from the spread of its seeds or the mean squares of its seeds and images."""
    if images is None:
        spreads, groups = Spread(spread, overlap=overlap), 1
    else:
        rest = images.rest
        between_seeds = math.sqrt(max(images.between_seeds - rest, 0.0) / images.groups)
        spreads, groups = Spread(between_seeds, images.image_spread, math.sqrt(rest)), images.groups
    effect = spreads.detectable(seeds, groups, level)
    counted = None if images is None else groups
    if margin is None:
        return Sensitivity(seeds, counted, effect, None)
    return Sensitivity(
        seeds,
        counted,
        effect,
        margin,
        seeds_for_margin=fewest(lambda n: spreads.shows(margin, n, groups, level)),
        least=spreads.detectable(MOST, groups, level),
        groups_for_margin=None
        if images is None
        else fewest(lambda count: spreads.shows(margin, seeds, count, level), most=MOST_GROUPS),
    )
