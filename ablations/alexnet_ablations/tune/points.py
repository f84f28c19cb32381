"""The values that a search tries: the recipe's own first, then points that fill the ranges evenly, however many.

The points are a scrambled Sobol sequence with a fixed seed: the same in every cell and every search, and the first 8 of
16 are the 8. A search that is given more points later keeps what it tried.
"""

import math

import numpy as np

from alexnet_ablations.declare.tuning import Tuning
from alexnet_lab.training.recipe import Recipe

SEED = 2012


def points_of(tuning: Tuning, start: Recipe) -> list[dict[str, float]]:
    """Return the values to try by field, in order; fewer than asked for where rounding makes two of them one."""
    from scipy.stats import qmc

    points = [{name: float(getattr(start, name)) for name in tuning.names}]
    others = tuning.points - 1
    if others:
        sobol = qmc.Sobol(len(tuning.fields), scramble=True, seed=np.random.default_rng(SEED))
        shares = sobol.random_base2(math.ceil(math.log2(others)))[:others]
        points += [
            {field.field: field.value(float(share), start) for field, share in zip(tuning.fields, row, strict=True)}
            for row in shares
        ]
    return [point for at, point in enumerate(points) if point not in points[:at]]
