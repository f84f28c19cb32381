"""An estimate with its 95% interval, or without one and why."""

from dataclasses import dataclass

LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A number, the ends of its 95% interval, and where that comes from; what the images cannot define is None."""

    value: float | None
    low: float | None = None
    high: float | None = None
    method: str = ""  # such as "DeLong"; without an interval, why there is none


def wilson(right: float, count: float) -> tuple[float, float]:
    """Return Wilson's 95% interval of a share; `count` independent ones, which need not be a whole number."""
    from scipy.special import ndtri

    z = float(ndtri((1 + LEVEL) / 2))
    share, spread = right / count, z**2 / count
    middle = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * (share * (1 - share) / count + spread / count / 4) ** 0.5
    return max(0.0, middle - half), min(1.0, middle + half)
