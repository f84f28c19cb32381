"""Whether two images show one picture: one is laid over the other as well as it goes, and both are correlated there.

The place is found from the view that made the pair a candidate by Gauss-Newton steps on the six numbers of an affine
map, first on small patterns, then for the pairs that come near on whole ones. Only where both images have pixels, which
must be LEAST_SHARED of the area, are they correlated.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from alexnet_lab.audit.candidates import Candidates, Thumbnails, patterns, small

# Measured on 317 chest X-rays and copies of them: copies correlate by 0.91 or more in 19 cases of 20; two exposures of
# one patient by 0.89 or less, and pictures of different patients by 0.8 or less.
SAME = 0.9  # least correlation of two images that show one picture
ALIKE = 0.82  # of two that a person should look at
NEAR = 0.76  # of the small patterns of a pair that is worth another look
FIRST_STEPS = 3
MORE_STEPS = 4
LEAST_SHARED = 0.6
BLOCK = 128  # pairs

Tell = Callable[[int, int], None]  # done, total


@dataclass(frozen=True)
class Pairs:
    """Pairs of images that show one picture, the smaller number first, each pair once."""

    pairs: NDArray[np.int64]  # M 2
    correlations: NDArray[np.float64]  # M
    maps: NDArray[np.float64]  # M 2 3: where in one a point of the other lies, in half sides from the middle


def verified(
    thumbs: NDArray[np.uint8] | Thumbnails,
    found: Candidates,
    tell: Tell = lambda _done, _total: None,
    least: float = ALIKE,
) -> Pairs:
    """Return the candidates that correlate by `least` or more once aligned."""
    kept: dict[tuple[int, int], tuple[float, Tensor]] = {}
    count = len(found.one)
    for start in range(0, count, BLOCK):
        some = slice(start, start + BLOCK)
        one, other, views = found.one[some], found.other[some], found.views[some]
        whole = patterns(thumbs[one.numpy()]), patterns(thumbs[other.numpy()])
        maps, correlations = _aligned(small(whole[0]), small(whole[1]), views, FIRST_STEPS)
        near = correlations >= NEAR
        if near.any():
            maps, correlations = _aligned(whole[0][near], whole[1][near], maps[near], MORE_STEPS)
            rows = zip(one[near].tolist(), other[near].tolist(), correlations.tolist(), maps, strict=True)
            for first, second, correlation, placed in rows:
                pair = (min(first, second), max(first, second))
                if correlation >= least and correlation > kept.get(pair, (0.0, placed))[0]:
                    kept[pair] = (correlation, placed)
        tell(min(start + BLOCK, count), count)
    ordered = sorted(kept)
    return Pairs(
        np.array(ordered, np.int64).reshape(-1, 2),
        np.array([kept[pair][0] for pair in ordered]),
        np.array([kept[pair][1].tolist() for pair in ordered]).reshape(-1, 2, 3),
    )


def _aligned(moved: Tensor, fixed: Tensor, maps: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Return the best maps, M 2 3, that lay `moved` over `fixed`, M 1 H H, and the correlations there."""
    side = moved.shape[-1]
    right = F.pad(moved[..., 2:] - moved[..., :-2], (1, 1)) * (side / 4)  # by half sides
    down = F.pad(moved[..., 2:, :] - moved[..., :-2, :], (0, 0, 1, 1)) * (side / 4)
    layers = torch.cat([moved, right, down, torch.ones_like(moved)], 1)
    places = (torch.arange(side) + 0.5) * (2 / side) - 1
    y, x = (axis.flatten() for axis in torch.meshgrid(places, places, indexing="ij"))
    target = fixed.flatten(1)
    best, at = torch.full((len(moved),), -1.0), maps
    for step in range(steps + 1):
        grid = F.affine_grid(maps, list(moved.shape), align_corners=False)
        image, along, across, inside = F.grid_sample(layers, grid, align_corners=False).flatten(2).unbind(1)
        both = (inside > 0.99).float()
        area = both.sum(1, keepdim=True).clamp_min(1)
        image, aim = (_centred(values, both, area) for values in (image, target))
        sizes = [values.norm(dim=1, keepdim=True).clamp_min(1e-6) for values in (image, aim)]
        correlations = (image * aim).sum(1) / (sizes[0] * sizes[1])[:, 0]
        correlations = torch.where(area[:, 0] >= LEAST_SHARED * side * side, correlations, torch.zeros(()))
        better = correlations > best
        best = torch.where(better, correlations, best)
        at = torch.where(better[:, None, None], maps, at)
        if step < steps:
            slopes = torch.stack([along * x, along * y, along, across * x, across * y, across], 2) * both[..., None]
            slopes = slopes - (slopes.sum(1, keepdim=True) / area[..., None]) * both[..., None]
            missing = (aim * (sizes[0] / sizes[1]) - image)[..., None]
            normal = slopes.transpose(1, 2) @ slopes
            # Damped a little, so that a picture without structure in some direction does not run away in it.
            damping = normal.diagonal(dim1=1, dim2=2).mean(1) * 1e-3 + 1e-6
            normal = normal + damping[:, None, None] * torch.eye(6)
            maps = maps + torch.linalg.solve(normal, slopes.transpose(1, 2) @ missing).view(-1, 2, 3)
    return at, best


def _centred(values: Tensor, both: Tensor, area: Tensor) -> Tensor:
    """Return values, M P, less their mean where both images have pixels, and 0 elsewhere."""
    return (values - (values * both).sum(1, keepdim=True) / area) * both
