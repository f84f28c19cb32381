"""Net benefit: what acting on a prediction is worth, in true positives per image, at a threshold that a reader chooses.

A. J. Vickers, E. B. Elkin, Medical Decision Making 26 (2006), 565-574. A threshold probability p says that one missed
case weighs as much as (1 - p) / p false alarms. Net benefit is TP/N - FP/N x p / (1 - p); acting on nobody has 0.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
THRESHOLDS: Floats = np.arange(1, 50) / 50  # 0.02 to 0.98


def net_benefit(scores: Floats, positive: NDArray[np.bool_], thresholds: Floats = THRESHOLDS) -> Floats:
    """Return the net benefit of acting on images at or above each threshold."""
    acted = scores[:, None] >= thresholds
    true, false = (acted & positive[:, None]).sum(0), (acted & ~positive[:, None]).sum(0)
    return worth(true / len(scores), false / len(scores), thresholds)


def benefit_of_all(prevalence: float, thresholds: Floats = THRESHOLDS) -> Floats:
    """Return the net benefit of acting on every image."""
    return worth(np.full(len(thresholds), prevalence), np.full(len(thresholds), 1 - prevalence), thresholds)


def worth(true: Floats, false: Floats, thresholds: Floats) -> Floats:
    """Return the net benefit of these shares of true and false positives."""
    benefit: Floats = true - false * thresholds / (1 - thresholds)
    return benefit
