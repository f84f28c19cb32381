"""Pairs of images that may show one picture, also mirrored, turned, cropped, brighter or recompressed.

Each image becomes a pattern: grey, 64 pixels a side, every pixel less the mean of the 9 x 9 pixels around it and
divided by their standard deviation. Brightness, contrast and slow shading drop out of it. The low frequencies of a
pattern, each less its mean over the set and divided by its spread there, are the image's description: what all images
of a set share, such as the anatomy of a chest, drops out too.

An image is looked for in several views: as it is, mirrored, turned by up to 5 degrees, cropped by 10% anywhere. The
NEIGHBOURS whose descriptions come nearest to one of its views are its candidates, which alignment.py verifies.

All images are compared with all, in blocks: memory grows with the number of images, time with its square.

Shapes: N images, V views, D numbers of a description, S the side of a thumbnail, T that of a small pattern.
"""

import functools
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

SIDE = 64  # of a thumbnail and its pattern, S
SMALL = 32  # of the pattern that is described and first aligned, T
NEIGHBOURHOOD = 9
FAINT = 2.0  # grey levels: added to the standard deviation, so that noise on plain areas stays small
FREQUENCIES = 12  # in each direction
ANGLES = (-5.0, -2.5, 0.0, 2.5, 5.0)  # degrees
ZOOM = 0.9  # share of the side that a cropped view keeps
SHIFTS = (-0.1, 0.0, 0.1)  # of the crop's middle, half sides
NEIGHBOURS = 4
LEAST_ALIKE = 0.4  # cosine of two descriptions
BLOCK_VALUES = 2**24  # cosines held at once
BLOCK = 256  # images

Tell = Callable[[int, int], None]  # done, total


@dataclass(frozen=True)
class Candidates:
    """Pairs that may show one picture: `one` as the view sees it looks like `other`."""

    one: Tensor  # M
    other: Tensor  # M
    views: Tensor  # M 2 3: where in `one` a point of `other` lies, in half sides from the middle


@dataclass(frozen=True)
class Thumbnails:
    """Some of the thumbnails of a set, N S S, taken out when they are asked for: a copy of them is large."""

    every: NDArray[np.uint8]
    indices: NDArray[np.int64]

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.indices)

    def __getitem__(self, rows: slice | NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return those of some rows."""
        return self.every[self.indices[rows]]


def patterns(thumbs: NDArray[np.uint8]) -> Tensor:
    """Return the patterns, N 1 S S, of thumbnails, N S S."""
    grey = torch.from_numpy(np.array(thumbs)).float()[:, None]
    detail = grey - _local_mean(grey)
    return detail / (_local_mean(detail * detail).sqrt() + FAINT)


def small(pattern: Tensor) -> Tensor:
    """Return patterns, N 1 S S, as small ones, N 1 T T."""
    return F.avg_pool2d(pattern, SIDE // SMALL)


def seen(pattern: Tensor, views: Tensor) -> Tensor:
    """Return patterns, N 1 T T, as views, N 2 3, see them."""
    grid = F.affine_grid(views, list(pattern.shape), align_corners=False)
    return F.grid_sample(pattern, grid, padding_mode="border", align_corners=False)


def candidates(thumbs: NDArray[np.uint8] | Thumbnails, tell: Tell = lambda _done, _total: None) -> Candidates:
    """Return pairs of thumbnails, N S S, that may show the same picture."""
    count, views = len(thumbs), _views()
    frequencies = torch.empty(count, FREQUENCIES**2)
    for start in range(0, count, BLOCK):
        frequencies[start : start + BLOCK] = _described(thumbs[start : start + BLOCK])
    mean, spread = frequencies.mean(0), frequencies.std(0, correction=0) + 1e-6
    descriptions = F.normalize(frequencies.sub_(mean).div_(spread), dim=1)
    matrix = _view_matrix()
    block = max(1, min(BLOCK, BLOCK_VALUES // (len(views) * count)))
    kept, cosines_kept = [], []
    for start in range(0, count, block):
        pixels = small(patterns(thumbs[start : start + block])).flatten(1)
        queries = F.normalize(((pixels @ matrix).view(len(pixels), len(views), -1) - mean) / spread, dim=2)
        cosines, view = (queries.flatten(0, 1) @ descriptions.T).view(len(pixels), len(views), count).max(1)
        own = torch.arange(start, start + len(pixels))
        cosines[torch.arange(len(own)), own] = -1
        nearest, other = cosines.topk(min(NEIGHBOURS, count), 1)
        rows = torch.stack([own[:, None].expand_as(other), other, view.gather(1, other)], 2)
        kept.append(rows[nearest > LEAST_ALIKE])
        cosines_kept.append(nearest[nearest > LEAST_ALIKE])
        tell(min(start + block, count), count)
    one, other, number = _each_once(torch.cat(kept), torch.cat(cosines_kept)).unbind(1)
    return Candidates(one, other, views[number])


def _each_once(rows: Tensor, cosines: Tensor) -> Tensor:
    """Keep of rows with the same two images, in either order, the one whose descriptions are nearest."""
    rows = rows[cosines.argsort(descending=True, stable=True)]
    pairs = rows[:, :2].sort(1).values.numpy()
    _, first = np.unique(pairs, axis=0, return_index=True)
    return rows[torch.from_numpy(first)]


def _local_mean(grey: Tensor) -> Tensor:
    """Return the mean over the neighbourhood of each pixel, which is smaller at the border, N 1 S S."""
    weights = _box_means(grey.shape[-1])
    return weights @ grey @ weights.T  # nine times as fast as avg_pool2d on a processor


@functools.cache
def _box_means(side: int) -> Tensor:
    """Return the weights, S S, of the mean over a neighbourhood along a line."""
    places = torch.arange(side)
    near = ((places[:, None] - places).abs() <= NEIGHBOURHOOD // 2).float()
    return near / near.sum(1, keepdim=True)


def _views() -> Tensor:
    """Return the views, V 2 3; the first sees an image as it is."""
    turned = [(angle, 1.0, 0.0, 0.0) for angle in sorted(ANGLES, key=abs)]
    cropped = [(0.0, ZOOM, right, down) for right, down in itertools.product(SHIFTS, SHIFTS)]
    views = []
    for sign, (angle, zoom, right, down) in itertools.product((1, -1), turned + cropped):
        cosine, sine = zoom * math.cos(math.radians(angle)), zoom * math.sin(math.radians(angle))
        views.append([[sign * cosine, -sine, right], [sign * sine, cosine, down]])
    return torch.tensor(views)


def _described(thumbs: NDArray[np.uint8]) -> Tensor:
    """Return the low frequencies of thumbnails, N D."""
    return _frequencies(small(patterns(thumbs)))


def _frequencies(pattern: Tensor) -> Tensor:
    waves = _waves()
    return (waves @ pattern[:, 0] @ waves.T).flatten(1)


@functools.cache
def _view_matrix() -> Tensor:
    """Return the matrix, T*T V*D, from a small pattern to its low frequencies in every view: both steps are linear."""
    points = torch.eye(SMALL * SMALL).view(-1, 1, SMALL, SMALL)
    return torch.cat([_frequencies(seen(points, view.expand(len(points), 2, 3))) for view in _views()], 1)


def _waves() -> Tensor:
    """Return the first rows of the discrete cosine transform, FREQUENCIES T."""
    places = (torch.arange(SMALL) + 0.5) * math.pi / SMALL
    waves = torch.cos(torch.arange(FREQUENCIES)[:, None] * places) * math.sqrt(2 / SMALL)
    waves[0] /= math.sqrt(2)
    return waves
