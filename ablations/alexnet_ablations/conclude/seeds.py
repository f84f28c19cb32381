"""How many seeds: what n pairs can show, and how many it takes to show more.

Everything here is about the mean of n paired differences whose standard deviation is taken as known. Estimated
from three pairs it is off by a factor of two or more one time in four, and the number of seeds goes with its square.
"""

import math
from collections.abc import Callable

from alexnet_ablations.conclude.intervals import CONFIDENCE

MOST = 10_000  # seeds; what needs more is out of reach
POWER = 0.8


def half_width(pairs: int, spread: float, confidence: float = CONFIDENCE) -> float:
    """Return half the width of the t interval that so many pairs with that standard deviation give."""
    from scipy import special

    if pairs < 2:
        return math.inf
    return float(special.stdtrit(pairs - 1, (1 + confidence) / 2)) * spread / math.sqrt(pairs)


def power(pairs: int, effect: float, spread: float, level: float = 1 - CONFIDENCE) -> float:
    """Return how often a two-sided paired t test at that level finds an effect of that size."""
    # scipy.stats says the same and takes longer to import than a study takes to conclude.
    from scipy import special

    if pairs < 2:
        return 0.0
    if spread == 0:
        return float(effect != 0)
    shift = abs(effect) / spread * math.sqrt(pairs)
    limit = float(special.stdtrit(pairs - 1, 1 - level / 2))
    # The noncentral t loses its far tail to rounding; there the true value is below anything that matters.
    below = [float(special.nctdtr(pairs - 1, shift, at)) for at in (limit, -limit)]
    beyond = [1 - below[0], below[1]]
    return min(1.0, sum(share for share in beyond if math.isfinite(share)))


def seeds_for_half_width(spread: float, target: float, confidence: float = CONFIDENCE) -> int | None:
    """Return the fewest seeds whose interval is the target either way or tighter; None beyond 10,000."""
    return _fewest(lambda pairs: half_width(pairs, spread, confidence) <= target)


def seeds_for_power(effect: float, spread: float, level: float = 1 - CONFIDENCE, wanted: float = POWER) -> int | None:
    """Return the fewest seeds that find such an effect as often as wanted; None beyond 10,000."""
    return _fewest(lambda pairs: power(pairs, effect, spread, level) >= wanted)


def detectable_effect(pairs: int, spread: float, level: float = 1 - CONFIDENCE, wanted: float = POWER) -> float:
    """Return the smallest effect that so many seeds find four times in five; infinite below two."""
    if pairs < 2:
        return math.inf
    if spread == 0:
        return 0.0
    low, high = 0.0, spread
    while power(pairs, high, spread, level) < wanted:
        low, high = high, 2 * high
    while high - low > 1e-6 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if power(pairs, middle, spread, level) >= wanted else (middle, high)
    return high


def _fewest(is_enough: Callable[[int], bool]) -> int | None:
    if not is_enough(MOST):
        return None
    low, high = 1, MOST  # not enough; enough
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if is_enough(middle) else (middle, high)
    return high
