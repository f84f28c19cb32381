"""Images that a dataset holds more than once: equal bytes, equal pixels, or the same picture after a change."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from alexnet_lab.audit.alignment import SAME, verified
from alexnet_lab.audit.candidates import Thumbnails, candidates
from alexnet_lab.audit.survey import Progress, Survey
from alexnet_lab.data.decoding import UNREADABLE, decode, look_at

BYTES, PIXELS, PICTURE, ALIKE = "same bytes", "same pixels", "same picture", "much alike"
SMALLEST_SIDE = 24  # of images whose pictures are compared
LEAST_DETAILED = 0.25  # share of a picture that is not plain
DETAIL = 2  # grey levels between neighbours
CERTAIN = 0.995  # correlation of pairs whose pixels are compared


@dataclass(frozen=True)
class Pair:
    """Two images, the smaller number first, and how they are alike."""

    one: int
    other: int
    kind: str  # BYTES, PIXELS, PICTURE; ALIKE: for a person to judge
    correlation: float = 1.0
    change: str = ""  # "mirrored, cropped to 90%"

    @property
    def is_copy(self) -> bool:
        """Return whether both show one picture."""
        return self.kind != ALIKE


def find_pairs(
    survey: Survey, progress: Progress, opened: Callable[[str], AbstractContextManager[bytes]] | None = None
) -> list[Pair]:
    """Return all pairs of copies, and pairs that are much alike; of equal bytes, each with the first of them.

    `opened` opens a file, to compare all its pixels.
    """
    readable = survey.readable
    first = survey.contents[readable]
    pairs = [Pair(int(survey.contents[i]), int(i), BYTES) for i in readable[first != readable]]
    if survey.stored_side < SMALLEST_SIDE:
        return pairs
    different = np.unique(first)
    different = different[_detailed(survey.thumbs, different)]
    if len(different) < 2:
        return pairs
    thumbs = Thumbnails(survey.thumbs, different)
    paired = candidates(thumbs, lambda done, total: progress("looking for copies", done, total))
    near = verified(thumbs, paired, lambda done, total: progress("comparing copies", done, total))
    for (one, other), correlation, placed in zip(near.pairs, near.correlations, near.maps, strict=True):
        i, j = int(different[one]), int(different[other])
        kind = PICTURE if correlation >= SAME else ALIKE
        if correlation >= CERTAIN and _same_pixels(survey, i, j, opened):
            kind = PIXELS
        pairs.append(Pair(i, j, kind, round(float(correlation), 3), "" if kind == PIXELS else change_of(placed)))
    return sorted(pairs, key=lambda pair: (pair.one, pair.other))


def change_of(placed: NDArray[np.float64]) -> str:
    """Say what an affine map, 2 3, does to a picture: mirrored, turned, cropped; what is left is contrast and size."""
    (a, b, _), (c, d, _) = placed.tolist()
    determinant = a * d - b * c
    words = ["mirrored"] if determinant < 0 else []
    sign = -1 if determinant < 0 else 1
    angle = math.degrees(math.atan2(c - sign * b, d + sign * a))
    if abs(angle) > 170:
        angle -= math.copysign(180, angle)
    zoom = math.sqrt(abs(determinant))
    if abs(angle) >= 1:
        words.append(f"turned by {abs(angle):.0f}°")
    if abs(zoom - 1) >= 0.03:
        words.append(f"cropped to {100 * min(zoom, 1 / zoom):.0f}%")
    return ", ".join(words) or "other contrast, compression or size"


def clusters(pairs: Sequence[Pair], count: int) -> NDArray[np.int64]:
    """Return for each of `count` images the number of its cluster: all that copies connect."""
    joined = [(pair.one, pair.other) for pair in pairs if pair.is_copy]
    rows, columns = np.array(joined, np.int64).reshape(-1, 2).T
    graph = coo_array((np.ones(len(rows)), (rows, columns)), shape=(count, count))
    labels: NDArray[np.int64] = connected_components(graph, directed=False)[1].astype(np.int64)
    return labels


def copied(pairs: Sequence[Pair], values: NDArray[np.generic], indices: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Yield pairs of copies among those images, connected directly or through others, whose values differ.

    Each image comes with the first of its cluster for every value other than its own.
    """
    members: dict[int, list[int]] = {}
    numbers = clusters(pairs, len(values))
    for index in indices.tolist():
        members.setdefault(int(numbers[index]), []).append(index)
    for cluster in members.values():
        firsts: dict[object, int] = {}
        for index in cluster:
            firsts.setdefault(values[index], index)
        for index in cluster:
            yield from ((other, index) for value, other in firsts.items() if value != values[index] and other < index)


def _detailed(thumbs: NDArray[np.uint8], indices: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Say which pictures are not plain over most of their area."""
    steps = (np.abs(np.diff(thumbs[index].astype(np.int16), axis=0)) >= DETAIL for index in indices)
    return np.fromiter((step.mean() >= LEAST_DETAILED for step in steps), np.bool_, len(indices))


def _same_pixels(
    survey: Survey, one: int, other: int, opened: Callable[[str], AbstractContextManager[bytes]] | None
) -> bool:
    facts = (survey.facts[one], survey.facts[other]) if survey.facts else (None, None)
    if opened is None or survey.names is None or facts[0] is None or facts[1] is None:
        return False
    if (facts[0].width, facts[0].height) != (facts[1].width, facts[1].height):
        return False
    try:
        pictures = []
        for index in (one, other):
            with opened(survey.names[index]) as content:
                side = look_at(content).side("pad")
                pictures.append(decode(content, side, "pad", grey=False, deep_bits=16 if facts[0].bits > 8 else 8))
    except UNREADABLE:  # since it was surveyed
        return False
    return bool(np.array_equal(pictures[0], pictures[1]))
