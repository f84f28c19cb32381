"""Areas under ROC curves with DeLong's interval: of one class against the rest, and their mean over classes.

E. R. DeLong, D. M. DeLong, D. L. Clarke-Pearson, Biometrics 44 (1988), 837-845; placements from midranks as in X. Sun,
W. Xu, IEEE Signal Processing Letters 21 (2014), 1389-1393. The intervals suppose that images are independent.

Shapes: N images, K classes.
"""

import numpy as np
from numpy.typing import NDArray

from alexnet_lab.data.findings import positives
from alexnet_lab.evaluation.estimates import LEVEL, Estimate

Floats = NDArray[np.float64]
METHOD = "DeLong"
NO_SPREAD = "no interval: every image of the class ranks above or below all others, so nothing shows a spread"


def auroc(scores: Floats, positive: NDArray[np.bool_]) -> Estimate:
    """Return the area of one class against the rest, with DeLong's interval cut to 0 to 1."""
    area, influence = influences(scores, positive)
    return _with_interval(area, influence)


def macro_auroc(probabilities: Floats, labels: NDArray[np.int64]) -> Estimate:
    """Return the mean of the areas of the classes that have images; with two classes it is the area of either.

    With labels N K it is the mean over findings.

    Its variance is that of the mean of the classes' influences on each image, since all areas share the images.
    """
    positive = positives(labels, probabilities.shape[1])
    present = [k for k, count in enumerate(positive.sum(0)) if 0 < count < len(labels)]
    placements = [influences(probabilities[:, k], positive[:, k]) for k in present]
    areas = [area for area, _ in placements if area is not None]
    if not areas:
        return Estimate(None, method="an area needs images of two classes")
    return _with_interval(float(np.mean(areas)), np.mean([influence for _, influence in placements], 0))


def influences(scores: Floats, positive: NDArray[np.bool_]) -> tuple[float | None, Floats]:
    """Return the area and what each image adds to it, N: the sum is 0, the sum of squares the variance of the area.

    They are NaN where a class has fewer than two images.
    """
    from scipy.stats import rankdata

    influence = np.full(len(scores), np.nan)
    above, below = scores[positive], scores[~positive]
    m, n = len(above), len(below)
    if not m or not n:
        return None, influence
    # The share of the other kind that each image is on the right side of; ties count half.
    ranks = rankdata(scores)
    over = (ranks[positive] - rankdata(above)) / n
    under = 1 - (ranks[~positive] - rankdata(below)) / m
    area = float(over.mean())
    if m > 1 and n > 1:
        influence[positive] = (over - area) / np.sqrt(m * (m - 1))
        influence[~positive] = (under - area) / np.sqrt(n * (n - 1))
    return area, influence


def _with_interval(area: float | None, influence: Floats) -> Estimate:
    from scipy.special import ndtri

    if area is None:
        return Estimate(None, method="an area needs images of the class and of another")
    error = float(np.sqrt((influence**2).sum()))
    if not np.isfinite(error):
        return Estimate(area, method="no interval: DeLong's needs two images of the class and two of others")
    if error < 1e-12:
        return Estimate(area, method=NO_SPREAD)
    half = float(ndtri((1 + LEVEL) / 2)) * error
    return Estimate(area, max(0.0, area - half), min(1.0, area + half), METHOD)
