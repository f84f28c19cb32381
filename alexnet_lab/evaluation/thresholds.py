"""A threshold on the probability of a class, chosen on validation images: at or above it an image counts as positive.

youden             the highest sensitivity + specificity
sensitivity=0.95   the highest threshold with at least that sensitivity
specificity=0.9    the lowest threshold with at least that specificity
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from alexnet_lab.choices import unknown_choice

Floats = NDArray[np.float64]
RULES = ("youden", "sensitivity", "specificity")


@dataclass(frozen=True)
class Threshold:
    """A threshold, and what it reaches on the images that it was chosen on."""

    value: float
    sensitivity: float
    specificity: float


def parse_rule(text: str) -> tuple[str, float]:
    """Read `youden`, `sensitivity=0.95` or `specificity=0.9`."""
    name, equals, number = text.partition("=")
    if name not in RULES:
        raise unknown_choice("rule for thresholds", name, RULES)
    if name == "youden":
        if equals:
            raise ValueError(f"the rule youden takes no number, got {text!r}")
        return name, 0.0
    try:
        least = float(number)
    except ValueError:
        least = float("nan")
    if not 0 < least <= 1:
        raise ValueError(f"a rule names the least {name}, above 0 and at most 1, such as {name}=0.95; got {text!r}")
    return name, least


def choose_threshold(scores: Floats, positive: NDArray[np.bool_], rule: str) -> Threshold | None:
    """Choose by that rule; None where the images are all of the class, or none of them is.

    Thresholds lie midway between neighbouring scores. Of equally good ones, the nearest to 1/2 is taken.
    """
    name, least = parse_rule(rule)
    if positive.all() or not positive.any():
        return None
    distinct = np.unique(scores)
    candidates = np.concatenate([[0.0], (distinct[1:] + distinct[:-1]) / 2, [1.0]])
    # Scores are probabilities: at 0 all images are positive. At 1 those of probability 1 are.
    sensitivity = 1 - np.searchsorted(np.sort(scores[positive]), candidates, "left") / positive.sum()
    specificity = np.searchsorted(np.sort(scores[~positive]), candidates, "left") / (~positive).sum()
    if name == "youden":
        worth = sensitivity + specificity
    elif name == "sensitivity":
        worth = np.where(sensitivity >= least - 1e-12, specificity, -1.0)
    else:
        worth = np.where(specificity >= least - 1e-12, sensitivity, -1.0)
    best = np.flatnonzero(worth >= worth.max() - 1e-12)
    if worth.max() < 0:  # a specificity that even the highest threshold misses: scores of exactly 1
        best = np.array([len(candidates) - 1])
    at = best[np.abs(candidates[best] - 0.5).argmin()]
    return Threshold(float(candidates[at]), float(sensitivity[at]), float(specificity[at]))
