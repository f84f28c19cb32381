"""The bootstrap over patients, or over images where no patient is known: intervals of anything that has weights.

A replicate draws as many patients as there are, with replacement, and every image of a patient comes with it. Images of
one patient are alike, so an interval over images would be too narrow: it takes the tenth picture of a patient for news.

Ends are percentiles, moved outwards for few patients as T. C. Hesterberg (The American Statistician 69, 2015, 371-386)
advises: percentiles are those of a normal interval without its t and its n - 1.

Shapes: N images, U units (patients or images), R replicates, S statistics.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from alexnet_lab.evaluation.estimates import LEVEL
from alexnet_lab.randomness import derived_seed

Floats = NDArray[np.float64]
Statistics = Callable[[Floats], Floats]  # weights, R N, to R S

REPLICATES = 2000
WEIGHTS_AT_ONCE = 4_000_000
MOST_UNDEFINED = 0.05  # share of replicates without a value, as where no patient of a class was drawn


@dataclass(frozen=True)
class Units:
    """What is drawn: patients, or images."""

    word: str  # "patients" or "images"
    of_image: NDArray[np.int64]  # N

    @property
    def count(self) -> int:
        """Return how many there are."""
        return int(self.of_image.max()) + 1 if len(self.of_image) else 0


def units_of(groups: NDArray[np.str_] | None, images: int) -> Units:
    """Return the patients of these images, or the images themselves where no patient is known."""
    if groups is None:
        return Units("images", np.arange(images))
    return Units("patients", np.unique(groups, return_inverse=True)[1].astype(np.int64))


def replicates(
    statistics: Statistics,
    units: Units,
    count: int = REPLICATES,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Floats:
    """Return the statistics of resampled sets, R S; one that a replicate cannot define is NaN."""
    rows = []
    done = 0
    for weights in _weights(units, count, seed):
        rows.append(statistics(weights))
        done += len(weights)
        progress(done, count)
    return np.concatenate(rows)


def _weights(units: Units, count: int, seed: int) -> Iterator[Floats]:
    """Yield how often each image is drawn, R N in parts that fit in memory; the parts do not change the numbers."""
    rng = np.random.default_rng(derived_seed(seed, "bootstrap"))
    drawn = units.count
    at_once = max(1, WEIGHTS_AT_ONCE // max(len(units.of_image), 1))
    for start in range(0, count, at_once):
        picks = rng.integers(0, drawn, (min(at_once, count - start), drawn))
        rows = len(picks)
        flat = (picks + drawn * np.arange(rows)[:, None]).ravel()
        times = np.bincount(flat, minlength=rows * drawn).reshape(rows, drawn)
        yield times[:, units.of_image].astype(float)


def percentile_interval(values: Floats, units: int) -> tuple[float, float] | None:
    """Return the 95% interval from the replicates of one statistic; None where too many are undefined, or of one unit.

    None too where no replicate differs from another: that shows no spread, and does not show that there is none.
    """
    from scipy.special import ndtr, stdtrit

    defined = values[np.isfinite(values)]
    if units < 2 or len(defined) < (1 - MOST_UNDEFINED) * len(values) or np.ptp(defined) < 1e-12:
        return None
    tail = float(ndtr(np.sqrt(units / (units - 1)) * stdtrit(units - 1, (1 - LEVEL) / 2)))
    low, high = np.quantile(defined, [tail, 1 - tail])
    return float(low), float(high)
