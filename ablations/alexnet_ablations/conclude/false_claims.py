"""The probability of a false claim of outperformance (Christodoulou and others 2025, arXiv 2505.04720).

Of n test images, x1 are those that only the network said to be better gets right, x2 those that only the other does:

    x1 = n (its accuracy - share that both get right),    x2 = n (the other's accuracy - that share)

Under a flat prior the shares of all images have the distribution Dirichlet(x1 + 1, x2 + 1, n - x1 - x2 + 2), and the
claim is false where the first is not above the second. Of two shares of a Dirichlet distribution the first part of
their sum is Beta(x1 + 1, x2 + 1), so that this is the probability that it is at most a half.

It is a check beside the interval, and no replacement: it takes one run of each network as papers report it, here the
mean over the seeds, so that it knows nothing of how much seeds differ.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from alexnet_ablations.conclude.answers import Answers
from alexnet_ablations.declare.contrasts import Contrast


@dataclass(frozen=True)
class FalseClaim:
    """What a claim that one network is better rests on, and how probably it is false."""

    probability: float
    images: int  # n; patients where the data names them
    better: float  # accuracies, means over seeds
    other: float
    both: float  # share that both get right


def false_claim_probability(images: float, better: float, other: float, both: float) -> float:
    """Return the probability that a network is not better, from accuracies and the share that both get right."""
    from scipy import special

    only_better, only_other = (max(images * (share - both), 0.0) for share in (better, other))
    return float(special.betainc(only_better + 1, only_other + 1, 0.5))


def false_claim_of(contrast: Contrast, seeds: Iterable[int], answers: Answers, *, is_gain: bool) -> FalseClaim | None:
    """Return how probably it is false that the changed networks are better (`is_gain`), or that they are worse.

    Over several pairs of cells, one for each combination of the other factors, shares are averaged. None for
    interactions, for designs whose cells do not stand in pairs, and where predictions are missing.
    """
    changed = [cell for cell, weight in contrast.weights.items() if weight > 0]
    unchanged = [cell for cell, weight in contrast.weights.items() if weight < 0]
    if contrast.kind != "effect" or contrast.aliases or len(changed) != len(unchanged):
        return None
    better, other = (changed, unchanged) if is_gain else (unchanged, changed)
    rows = []
    for seed in seeds:
        for cells in zip(better, other, strict=True):
            one, two = (answers.of(cell, seed) for cell in cells)
            if one is None or two is None:
                return None
            rows.append([answered.mean(dtype=np.float64) for answered in (one, two, one * two)])
    if not rows:
        return None
    shares = [float(share) for share in np.mean(rows, axis=0)]
    return FalseClaim(false_claim_probability(answers.groups, *shares), answers.groups, *shares)
