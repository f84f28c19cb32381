"""What tells a map from noise: the maps of random weights, erasing what is hot, the border, other seeds.

J. Adebayo and others, Sanity Checks for Saliency Maps, NeurIPS 2018: a map that random weights give as well explains
nothing that was learned.

Shapes: C channels, S side.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from alexnet_lab.explanation.maps import log_odds

Floats = NDArray[np.float64]

ERASED = 0.1  # share of the pixels that is erased, the hottest
BORDER = 0.1  # of the side, at each edge: the frame in which tokens, tubes and edges of the film stand


def rank_correlation(one: Floats, other: Floats) -> float:
    """Return Spearman's correlation of two maps over their pixels; NaN where one is the same everywhere."""
    from scipy.stats import rankdata

    ranks = [rankdata(one_map.ravel()) for one_map in (one, other)]
    first, second = (rank - rank.mean() for rank in ranks)
    lengths = float(np.sqrt((first**2).sum() * (second**2).sum()))
    return float((first * second).sum() / lengths) if lengths else float("nan")


def border_share(heat: Floats) -> float:
    """Return the share of the positive heat in the frame; a map without a preference has `border_area`."""
    positive = np.clip(heat, 0, None)
    frame = _frame(len(heat))
    inner = positive[frame:-frame, frame:-frame].sum() if frame else positive.sum()
    total = positive.sum()
    return float(1 - inner / total) if total > 0 else float("nan")


def border_area(side: int) -> float:
    """Return the share of the pixels in the frame."""
    return 1 - (side - 2 * _frame(side)) ** 2 / side**2


def _frame(side: int) -> int:
    return round(BORDER * side)


def fall_when_erased(network: nn.Module, image: Tensor, kind: int, heat: Floats) -> float:
    """Return how far the log odds of a class fall when the hottest tenth of the pixels takes the mean's value."""
    count = max(1, round(ERASED * heat.size))
    hottest = np.argsort(-heat.ravel(), kind="stable")[:count]
    hidden = image.clone()
    hidden.flatten(1)[:, torch.from_numpy(hottest)] = 0
    with torch.no_grad():
        untouched, erased = log_odds(network(torch.stack([image, hidden])), kind).tolist()
    return float(untouched - erased)
