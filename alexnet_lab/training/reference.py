"""What the images of a run look like, measured once at its end, so that unlike ones can be told without its data.

reference.npz holds no image: limits, and the distribution of embeddings.

    check        what is compared                                             limits from
    size         shorter side, longer side, their ratio                       all images, and 1.5 beyond
    mode         grey or coloured                                             warned of where all images are of one kind
    grey level   mean over the picture, 0 to 255                              training and validation images
    contrast     spread of its grey levels                                    training and validation images
    embedding    distance from the training images, 1 for the typical one     validation images

The distance is that of a normal distribution: principal components with their variances, and one variance for all
other directions. Limits are those that a further image of the same kind passes with a chance of ALPHA: an order
statistic, and where there are too few images for it, a prediction limit, or the largest value if that is more. All
limits together should warn of one in a hundred at most. How many of its own test images a run warns of is counted.

Shapes: N images, F features, D principal components.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from alexnet_lab.data.feed import Feed
from alexnet_lab.data.scaling import BRIGHTNESS
from alexnet_lab.npz import UNREADABLE_NPZ, opened_npz
from alexnet_lab.records import atomically
from alexnet_lab.training.embedding import embedding_of, features_of

FILE = "reference.npz"
MOST_MEASURED = 500  # images of each part
COMPONENTS = 32
TOLERANCE = 1.5  # of sizes
ALPHA: Mapping[str, float] = {"level": 0.001, "contrast": 0.001, "distance": 0.004}  # at each end
CHECKS = ("shorter", "longer", "ratio", "level", "contrast", "distance")

Array = NDArray[np.float64]


@dataclass(frozen=True)
class ImageFacts:
    """What is compared of N images; a size that is not known is 0 x 0."""

    sizes: NDArray[np.int32]  # N 2: width, height
    coloured: NDArray[np.bool_]
    level: Array
    contrast: Array
    features: Array = field(repr=False)  # N F


@dataclass(frozen=True)
class Reference:
    """Limits for every check, low and high, and the distribution of the training images' features."""

    images: int  # that were measured, of training and validation
    coloured: float  # share of them
    low: Array  # in the order of CHECKS
    high: Array
    mean: Array = field(repr=False)  # F
    scale: Array = field(repr=False)  # F
    components: Array = field(repr=False)  # D F
    variances: Array = field(repr=False)  # D
    rest: float  # variance in every other direction
    test_images: int = 0
    test_warned: int = 0

    def distances(self, features: Array) -> Array:
        """Return how far images are from the training images, N: 1 is typical."""
        z = (features - self.mean) / self.scale
        p = z @ self.components.T
        others = np.maximum((z * z).sum(1) - (p * p).sum(1), 0)
        total = (p * p / self.variances).sum(1) + others / self.rest
        distances: Array = np.sqrt(total / z.shape[1])
        return distances

    def warnings(self, facts: ImageFacts) -> list[dict[str, str]]:
        """Return for each image what is unlike the run's images: the check, and a phrase for a user."""
        return [
            self._of_one(*one)
            for one in zip(
                facts.sizes.tolist(),
                facts.coloured.tolist(),
                facts.level.tolist(),
                facts.contrast.tolist(),
                self.distances(facts.features).tolist(),
                strict=True,
            )
        ]

    def _of_one(
        self, size: tuple[int, int], is_coloured: bool, level: float, contrast: float, distance: float
    ) -> dict[str, str]:
        low, high = (dict(zip(CHECKS, limits.tolist(), strict=True)) for limits in (self.low, self.high))

        def is_outside(check: str, value: float) -> bool:
            return not low[check] <= value <= high[check]

        warnings = {}
        shorter, longer = sorted(size)
        if shorter:
            sides_text = f"{size[0]} x {size[1]} pixels"
            if is_outside("shorter", shorter) or is_outside("longer", longer):
                sides = f"{math.ceil(low['shorter'])} to {math.floor(high['longer'])}"
                warnings["size"] = f"{sides_text}, expected sides of {sides}"
            elif is_outside("ratio", longer / shorter):
                warnings["size"] = f"{sides_text}, expected sides in a ratio of at most {high['ratio']:.3g}"
        if is_coloured and self.coloured == 0:
            warnings["mode"] = "coloured, expected grey"
        if not is_coloured and self.coloured == 1:
            warnings["mode"] = "grey, expected coloured"
        for check, name, value in (("level", "grey level", level), ("contrast", "contrast", contrast)):
            if is_outside(check, value):
                ends = f"{max(low[check], 0):.1f} to {min(high[check], 255):.1f}"
                warnings[name] = f"{'mean ' if check == 'level' else ''}{name} {value:.1f}, expected {ends}"
        if is_outside("distance", distance):
            warnings["embedding"] = f"embedding distance {distance:.3g}, expected at most {high['distance']:.3g}"
        return warnings


def facts_of(pixels: NDArray[np.uint8], coloured: NDArray[np.bool_], sizes: Any, features: Array) -> ImageFacts:
    """Return what is compared of images with these stored pixels, N C T T."""
    grey = pixels[:, 0].astype(np.float64)
    if pixels.shape[1] == 3:
        grey = np.tensordot(np.array(BRIGHTNESS), pixels.astype(np.float64), (0, 1))
    flat = grey.reshape(len(grey), -1)
    return ImageFacts(np.asarray(sizes, np.int32).reshape(-1, 2), coloured, flat.mean(1), flat.std(1), features)


def reference_of(network: nn.Module, feed: Feed, batch_size: int) -> Reference | None:
    """Measure up to MOST_MEASURED images of each part of a feed, in its own order; None where a feature is not finite.

    It costs the network a pass over them, and changes nothing.
    """
    split = feed.split
    train, validation, test = (
        _facts(network, feed, spaced(part), batch_size) for part in (split.train, split.validation, split.test)
    )
    if not all(np.isfinite(part.features).all() for part in (train, validation)):
        return None
    with embedding_of(network) as embedding:
        groups = embedding.groups
    reference = fitted(train, validation, groups)
    warned = sum(bool(one) for one in reference.warnings(test))
    return replace(reference, test_images=len(test.level), test_warned=warned)


def spaced(indices: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return those of the images that are measured: all, or MOST_MEASURED evenly spaced ones."""
    chosen: NDArray[np.int64] = indices[
        np.linspace(0, len(indices) - 1, min(len(indices), MOST_MEASURED)).round().astype(np.int64)
    ]
    return chosen


def _facts(network: nn.Module, feed: Feed, indices: NDArray[np.int64], batch_size: int) -> ImageFacts:
    pixels = np.asarray(feed.stored[indices])
    coloured = (pixels != pixels[:, :1]).any((1, 2, 3))
    sizes = np.zeros((len(indices), 2)) if feed.sizes is None else feed.sizes[indices]
    return facts_of(pixels, coloured, sizes, features_of(network, feed, indices, batch_size))


def fitted(train: ImageFacts, validation: ImageFacts, groups: NDArray[np.int64]) -> Reference:
    """Return the reference of training images, with limits by validation images; groups are those of features."""
    mean, scale = train.features.mean(0), _scale(train.features, groups)
    z = (train.features - mean) / scale
    count = min(COMPONENTS, (len(z) - 1) // 2, z.shape[1] // 2)
    variances, components = _principal(z, count)
    left = (z * z).sum() / max(len(z) - 1, 1) - variances.sum()
    both = [
        np.concatenate([getattr(train, name), getattr(validation, name)]) for name in ("sizes", "level", "contrast")
    ]
    coloured = np.concatenate([train.coloured, validation.coloured])
    sizes = both[0][both[0].min(1) > 0]
    low, high = np.full(len(CHECKS), -np.inf), np.full(len(CHECKS), np.inf)
    if len(sizes):
        shorter, longer = sizes.min(1), sizes.max(1)
        for at, values in enumerate((shorter, longer, longer / shorter)):
            low[at], high[at] = values.min() / TOLERANCE, values.max() * TOLERANCE
    for name, values in zip(("level", "contrast"), both[1:], strict=True):
        at = CHECKS.index(name)
        low[at], high[at] = -upper_limit(-values, ALPHA[name]), upper_limit(values, ALPHA[name])
    reference = Reference(
        len(coloured),
        float(coloured.mean()),
        low,
        high,
        mean,
        scale,
        components,
        np.maximum(variances, 1e-6),
        max(float(left) / (z.shape[1] - count), 1e-6),
    )
    # Distances are above 0 and skewed; their logarithms are nearer to a normal distribution.
    limit = upper_limit(np.log(np.maximum(reference.distances(validation.features), 1e-12)), ALPHA["distance"])
    high[CHECKS.index("distance")] = math.exp(min(limit, 700.0))
    return reference


def upper_limit(values: Array, alpha: float) -> float:
    """Return what a further value of the same distribution exceeds with a chance of at most alpha, or near it."""
    from scipy.stats import t

    count = len(values)
    rank = math.ceil((count + 1) * (1 - alpha))
    if rank <= count:
        return float(np.sort(values)[rank - 1])
    if count < 2:
        return math.inf
    beyond = t.ppf(1 - alpha, count - 1) * values.std(ddof=1) * math.sqrt(1 + 1 / count)
    return float(max(values.max(), values.mean() + beyond))


def _scale(features: Array, groups: NDArray[np.int64]) -> Array:
    """Return the spread of each feature; one that hardly varies has a hundredth of the spread of its group."""
    spread = features.std(0)
    of_group = np.sqrt(np.bincount(groups, spread**2) / np.bincount(groups))
    scale: Array = np.maximum(spread, np.maximum(0.01 * of_group[groups], 1e-12))
    return scale


def _principal(z: Array, count: int) -> tuple[Array, Array]:
    """Return the largest variances of centred rows, descending, and their directions."""
    if not count:
        return np.zeros(0), np.zeros((0, z.shape[1]))
    # The smaller of both products has the same eigenvalues.
    is_wide = z.shape[0] <= z.shape[1]
    values, vectors = np.linalg.eigh(z @ z.T if is_wide else z.T @ z)
    values, vectors = values[::-1][:count], vectors[:, ::-1][:, :count]
    directions = z.T @ vectors if is_wide else vectors
    norms = np.maximum(np.linalg.norm(directions, axis=0), 1e-12)
    # Rounded as they are stored, so that limits are of the same distances.
    components = (directions / norms).T.astype(np.float32).astype(np.float64)
    return np.maximum(values, 0) / max(len(z) - 1, 1), components


def write_reference(path: Path, reference: Reference) -> None:
    """Write the reference, whole or not at all."""
    values = {**asdict(reference), "components": reference.components.astype(np.float32)}
    with atomically(path) as file:
        np.savez(file, allow_pickle=False, **{name: np.asarray(value) for name, value in values.items()})


def read_reference(path: Path) -> Reference | None:
    """Read the reference of a run; None where it kept none. ValueError, one sentence, where it is damaged."""
    if not path.exists():
        return None
    try:
        with opened_npz(path) as arrays:
            values: dict[str, Any] = {one.name: arrays[one.name] for one in fields(Reference)}
        numbers = {name: value.item() for name, value in values.items() if value.ndim == 0}
        return Reference(**{**{name: value.astype(np.float64) for name, value in values.items()}, **numbers})
    except UNREADABLE_NPZ as error:
        text = str(error).partition("\n")[0]
        raise ValueError(f"{path} is damaged ({text}); the command that made the run makes it again") from None
