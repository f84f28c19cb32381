"""How many seeds: what n pairs can show, and how many it takes to show more.

Everything here is about the mean of n paired differences whose standard deviation is taken as known. Estimated
from three pairs it is off by a factor of two or more one time in four, and the number of seeds goes with its square.
"""

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np

from alexnet_ablations.conclude.intervals import CONFIDENCE

MOST = 10_000  # seeds; what needs more is out of reach
POWER = 0.8
FAR = 30.0  # standard errors


def half_width(pairs: int, spread: float, confidence: float = CONFIDENCE) -> float:
    """Return half the width of the t interval that so many pairs with that standard deviation give."""
    from scipy import special

    if pairs < 2:
        return math.inf
    return float(special.stdtrit(pairs - 1, (1 + confidence) / 2)) * spread / math.sqrt(pairs)


def power(pairs: int, effect: float, spread: float, level: float = 1 - CONFIDENCE) -> float:
    """Return how often a two-sided paired t test at that level finds an effect of that size."""
    if pairs < 2:
        return 0.0
    return power_of_t(pairs - 1, effect, spread / math.sqrt(pairs), level)


def power_of_t(degrees: float, effect: float, standard_error: float, level: float) -> float:
    """Return how often a two-sided t test finds an effect, by the degrees of freedom of its standard error."""
    # scipy.stats says the same and takes longer to import than a study takes to conclude.
    from scipy import special

    if standard_error == 0:
        return float(effect != 0)
    shift = abs(effect) / standard_error
    if shift > FAR:
        return _power_far_out(degrees, shift, level)
    limit = float(special.stdtrit(degrees, 1 - level / 2))
    # The noncentral t loses its far tail to rounding; there the true value is below anything that matters.
    below = [float(special.nctdtr(degrees, shift, at)) for at in (limit, -limit)]
    beyond = [1 - below[0], below[1]]
    return min(1.0, sum(share for share in beyond if math.isfinite(share)))


def _power_far_out(degrees: float, shift: float, level: float) -> float:
    """Return the power where nctdtr fails, which begins with exp(-shift² / 2): the mean over the normal part of t."""
    from scipy import special

    limit = float(special.stdtrit(degrees, 1 - level / 2))
    at, weights = np.polynomial.hermite_e.hermegauss(41)
    chance = special.chdtr(degrees, degrees * ((shift + at) / limit) ** 2)
    return min(1.0, float(weights @ chance / weights.sum()))


def seeds_for_half_width(spread: float, target: float, confidence: float = CONFIDENCE) -> int | None:
    """Return the fewest seeds whose interval is the target either way or tighter; None beyond 10,000."""
    return fewest(lambda pairs: half_width(pairs, spread, confidence) <= target)


def seeds_for_power(effect: float, spread: float, level: float = 1 - CONFIDENCE, target: float = POWER) -> int | None:
    """Return the fewest seeds that find such an effect as often as wanted; None beyond 10,000."""
    return fewest(lambda pairs: power(pairs, effect, spread, level) >= target)


def detectable_effect(pairs: int, spread: float, level: float = 1 - CONFIDENCE, target: float = POWER) -> float:
    """Return the smallest effect that so many seeds find four times in five; infinite below two."""
    if pairs < 2:
        return math.inf
    return smallest_effect(pairs - 1, spread / math.sqrt(pairs), level, target)


def smallest_effect(degrees: float, standard_error: float, level: float, target: float = POWER) -> float:
    """Return the smallest effect that a two-sided t test finds as often as wanted."""
    if standard_error == 0:
        return 0.0
    return standard_error * _shift(round(degrees, 2), level, target)


@lru_cache(maxsize=4096)
def _shift(degrees: float, level: float, target: float) -> float:
    """Return the smallest effect in standard errors."""
    low, high = 0.0, 1.0
    while power_of_t(degrees, high, 1.0, level) < target:
        low, high = high, 2 * high
    while high - low > 1e-5 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if power_of_t(degrees, middle, 1.0, level) >= target else (middle, high)
    return high


def fewest(is_enough: Callable[[int], bool], most: int = MOST) -> int | None:
    """Return the fewest that are enough; None where `most` are not."""
    if not is_enough(most):
        return None
    low, high = 1, most  # not enough; enough
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if is_enough(middle) else (middle, high)
    return high
