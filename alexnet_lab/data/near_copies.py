"""Find pictures that a set holds twice with other contrast, compression or size, without comparing all with all.

Each image becomes a pattern: grey, at most 32 pixels a side, every pixel less the mean of the 5 x 5 pixels around it
and divided by their standard deviation. Brightness, contrast, tint and size drop out of it. Two images show the same
picture if their patterns correlate by SAME or more.

Of 317 chest X-rays, the 6 pairs that SAME finds correlate by 0.93 or more and all other pairs by less than 0.7; of the
60,000 images of CIFAR-10 (as JPEG), it finds 101 of the 103 pairs that comparing all with all finds. Looked at one by
one, each of these pairs showed one picture twice.

Candidates are images whose random projections have the same signs in one of TABLES tables (locality-sensitive hashing,
Charikar 2002). Time and memory grow in proportion to the number of images: a table compares an image with at most
WINDOW others before and after it, and at most 2 PAIRS pairs per image are verified by correlation.

Shifted, cropped, mirrored, rotated and inverted copies are not found, nor are images under 24 pixels a side and images
that are plain over more than three quarters of their area.
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

SAME = 0.85  # least correlation
SIDE = 32  # of a pattern
SMALLEST_SIDE = 24  # of an image that is compared
NEIGHBOURHOOD = 5
DETAIL = 1.0  # grey levels: a pixel whose neighbourhood has a smaller standard deviation is plain
LEAST_DETAILED = 0.25  # share of pixels
TABLES = 48
WINDOW = 16
PAIRS = 4
# Of all signs. Patterns that correlate by SAME differ in a share of arccos(SAME) / pi, 0.18, with a standard deviation
# below 0.02 for 384 signs or more.
MOST_DIFFERENT_SIGNS = 0.25
BLOCK_BYTES = 2**24  # of pixels read at once

Indices = NDArray[np.int64]
Tell = Callable[[int, int], None]  # done, total


def near_copies(pixels: NDArray[np.uint8], indices: Indices, tell: Tell = lambda _done, _total: None) -> Indices:
    """Return the pairs, M 2, of those indices whose pixels, N C T T, show the same picture; the smaller comes first.

    Images that are known to be equal should not be among the indices more than once.
    """
    if len(indices) < 2 or pixels.shape[-1] < SMALLEST_SIDE:
        return np.empty((0, 2), np.int64)
    # In a random order, so that an image with many copies is compared with a random choice of them.
    indices = np.random.default_rng(0).permutation(indices)
    signs, detailed = _signs(pixels, indices, tell)
    indices, signs = indices[detailed], signs[detailed]
    pairs = np.sort(indices[_candidates(signs)], 1)
    pairs = pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]
    return pairs[_correlations(pixels, pairs) >= SAME]


def patterns(pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Return the pattern of each image, N P with unit norm and zero mean, and the share of its pixels with detail."""
    stored = pixels.shape[-1]
    side = min(SIDE, stored)
    grey = pixels.mean(1, dtype=np.float32)  # N T T
    averages = _averages(stored, side)
    small = averages @ (grey.reshape(-1, stored) @ averages.T).reshape(-1, stored, side)  # N S S
    box = _box_means(side)
    detail = small - box @ small @ box.T
    spread = np.sqrt(np.maximum(box @ (detail * detail) @ box.T, 0))
    flat = (detail / (spread + DETAIL)).reshape(len(pixels), -1)
    flat -= flat.mean(1, keepdims=True)
    norms = np.linalg.norm(flat, axis=1, keepdims=True)
    rows: NDArray[np.float32] = flat / np.maximum(norms, 1e-6)
    return rows, (spread > DETAIL).mean((1, 2))


def _averages(stored: int, side: int) -> NDArray[np.float32]:
    """Return the weights, side x stored, that average over an area: pixels on an edge count in part."""
    edges = np.linspace(0, stored, side + 1)
    places = np.arange(stored)
    covered = np.minimum(edges[1:, None], places + 1) - np.maximum(edges[:-1, None], places)
    return (covered.clip(0) * (side / stored)).astype(np.float32)


def _box_means(side: int) -> NDArray[np.float32]:
    """Return the weights, side x side, of the mean over a neighbourhood, which is smaller at the border."""
    distance = np.abs(np.arange(side)[:, None] - np.arange(side))
    near = distance <= NEIGHBOURHOOD // 2
    weights: NDArray[np.float32] = (near / near.sum(1, keepdims=True)).astype(np.float32)
    return weights


def _signs(pixels: NDArray[np.uint8], indices: Indices, tell: Tell) -> tuple[NDArray[np.uint32], NDArray[np.bool_]]:
    """Return the signs of random projections, N TABLES with as many bits as a table has; and which have detail."""
    bits = min(max(round(math.log2(len(indices))) - 2, 8), 20)
    length = min(SIDE, pixels.shape[-1]) ** 2
    directions = np.random.default_rng(1).standard_normal((length, TABLES * bits), np.float32)
    powers = (1 << np.arange(bits)).astype(np.uint32)
    signs = np.empty((len(indices), TABLES), np.uint32)
    detailed = np.empty(len(indices), np.bool_)
    block = max(1, BLOCK_BYTES // pixels[0].nbytes)
    for start in range(0, len(indices), block):
        some = slice(start, start + block)
        rows, share = patterns(_read(pixels, indices[some]))
        positive = (rows @ directions > 0).reshape(len(rows), TABLES, bits)
        signs[some] = positive @ powers
        detailed[some] = share >= LEAST_DETAILED
        tell(min(start + block, len(indices)), len(indices))
    return signs, detailed


def _candidates(signs: NDArray[np.uint32]) -> Indices:
    """Return pairs of rows that share a table's signs and most of all signs, M 2: at most 2 PAIRS times the rows."""
    bits = int(np.bitwise_or.reduce(signs, axis=None)).bit_length() if len(signs) else 0
    most = MOST_DIFFERENT_SIGNS * TABLES * bits
    pairs = [np.empty((0, 3), np.int64)]  # difference, row, row
    for table in range(TABLES):
        order = np.argsort(signs[:, table], kind="stable")
        ordered = signs[order, table]
        for step in range(1, WINDOW + 1):
            equal = np.flatnonzero(ordered[step:] == ordered[:-step])
            if not len(equal):
                break
            for start in range(0, len(equal), 2**17):
                at = equal[start : start + 2**17]
                one, other = order[at], order[at + step]
                different = np.bitwise_count(signs[one] ^ signs[other]).sum(1, dtype=np.int64)
                near = different <= most
                pairs.append(np.stack([different, np.minimum(one, other), np.maximum(one, other)], 1)[near])
        pairs = [_most_alike(np.unique(np.concatenate(pairs), axis=0))]  # after each table, to bound the memory
    return pairs[0][:, 1:]


def _most_alike(pairs: Indices) -> Indices:
    """Keep the pairs, in order of difference, that are among the first PAIRS of one of their rows."""
    keep = np.zeros(len(pairs), np.bool_)
    for column in (1, 2):
        order = np.argsort(pairs[:, column], kind="stable")
        _, starts, counts = np.unique(pairs[order, column], return_index=True, return_counts=True)
        keep[order[np.arange(len(pairs)) - np.repeat(starts, counts) < PAIRS]] = True
    return pairs[keep]


def _correlations(pixels: NDArray[np.uint8], pairs: Indices) -> NDArray[np.float64]:
    correlations = np.empty(len(pairs))
    block = max(1, BLOCK_BYTES // (2 * pixels[0].nbytes))
    for start in range(0, len(pairs), block):
        used, places = np.unique(pairs[start : start + block], return_inverse=True)
        rows, _ = patterns(_read(pixels, used))
        one, other = places.reshape(-1, 2).T
        correlations[start : start + block] = (rows[one] * rows[other]).sum(1)
    return correlations


def _read(pixels: NDArray[np.uint8], indices: Indices) -> NDArray[np.uint8]:
    """Read images in ascending order, which spares a disk the jumps."""
    ascending = np.argsort(indices, kind="stable")
    read = np.empty((len(indices), *pixels.shape[1:]), np.uint8)
    read[ascending] = pixels[indices[ascending]]
    return read
