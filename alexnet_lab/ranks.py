"""The area under a ROC curve, from ranks: how often an image of a kind scores above another one, ties counting half.

Shapes: N images, P columns of scores.
"""

import numpy as np
from numpy.typing import NDArray


def auroc_of(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> float:
    """Return the area of scores, N, where both kinds are there."""
    return float(aurocs_of(scores[:, None], positive[:, None])[0])


def aurocs_of(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the area of each column of scores, N P; NaN where one kind is missing."""
    rows = np.ascontiguousarray(scores.T)
    order = np.argsort(rows, axis=1)
    rows = np.take_along_axis(rows, order, 1)
    of_kind = np.take_along_axis(np.ascontiguousarray(positive.T), order, 1)  # P N, in order of the score
    count, places = rows.shape[1], np.arange(rows.shape[1])
    starts = np.ones(rows.shape, np.bool_)
    starts[:, 1:] = rows[:, 1:] != rows[:, :-1]
    first, last = places, places
    if not starts.all():  # equal scores share the middle of their ranks
        ends = np.ones(rows.shape, np.bool_)
        ends[:, :-1] = starts[:, 1:]
        first = np.maximum.accumulate(np.where(starts, places, 0), 1)
        last = np.minimum.accumulate(np.where(ends, places, count)[:, ::-1], 1)[:, ::-1]
    twice_ranks = first + last + 2
    kind = of_kind.sum(1)
    others = count - kind
    above = (of_kind * twice_ranks).sum(1) / 2 - kind * (kind + 1) / 2
    return np.where(kind * others > 0, above / np.maximum(kind * others, 1), np.nan)
