"""Checks intervals of studies whose seeds divide the images anew, on learners that are really trained.

    python benchmarks/varying_splits.py                 # the tables of docs/evidence.md, in a few minutes
    python benchmarks/varying_splits.py --studies 100   # a first look

A learner is ridge regression on random features, rectified, of points in six dimensions; a seed draws its features,
which two cells share as far as both have them, and its split. A study has one set of N points. The truth is the
difference of accuracy over all sets of so many points, seeds and new points: the mean of learners of which each has
points of its own. Intervals and p-values are the product's own. Seeded: the same numbers every time.

    folds      each seed divides the N points into five folds and tests each; trained on 64%, as runs are
    resplit    each seed tests another fifth of them and trains on 60%
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from simulation_tables import share, table

from alexnet_ablations.conclude.crossed import crossed
from alexnet_ablations.conclude.intervals import LEVEL, t_interval, t_p_value

SEEDS, POINTS = (3, 6, 10), (60, 200)
FOLDS = 5
HELD_OUT = 0.2  # for validation, of what is not tested; and for a test, of everything
DIMENSIONS, NOISE = 6, 0.8
TRUE_SETS, TRUE_POINTS = 2_000, 500  # learners whose mean is the truth, and new points that each is tested on

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Cell:
    """A learner: so many features, and how strongly their weights are held down."""

    features: int
    ridge: float
    own: bool = False  # its features are drawn for itself


@dataclass(frozen=True)
class Pair:
    """Two cells that are compared."""

    name: str
    first: Cell
    second: Cell

    @property
    def are_equal(self) -> bool:
        """Return whether both are equal over all draws."""
        return (self.first.features, self.first.ridge) == (self.second.features, self.second.ridge)


PAIRS = (
    Pair("equal, features of their own", Cell(16, 1.0), Cell(16, 1.0, own=True)),
    Pair("8 and 32 features", Cell(8, 1.0), Cell(32, 1.0)),
    Pair("weak and strong ridge", Cell(32, 0.1), Cell(32, 30.0)),
)
MOST_FEATURES = max(cell.features for pair in PAIRS for cell in (pair.first, pair.second))


def points(generator: np.random.Generator, *shape: int) -> tuple[Floats, Floats]:
    """Return points and their classes, -1 or 1, which no learner can tell for certain."""
    x = generator.standard_normal((*shape, DIMENSIONS), np.float32)
    noise = np.float32(NOISE) * generator.standard_normal(shape, np.float32)
    return x, np.sign(x[..., 0] * x[..., 1] + x[..., 2] + noise)


def projections(generator: np.random.Generator, count: int) -> Floats:
    """Return the directions and offsets of the features of so many seeds, those of both cells (count 2 D F)."""
    return generator.standard_normal((count, 2, DIMENSIONS + 1, MOST_FEATURES), np.float32)


def answers(cell: Cell, drawn: Floats, x: Floats, y: Floats, trained: NDArray[np.bool_], queries: Floats) -> Floats:
    """Return what learners say of points: for each seed (S) and training set (T N), of M points (S T M).

    `x` and `y` are of one set (N D, N) or of one for each seed (S N D, S N); `queries` is M D, or S M D.
    """
    directions = drawn[:, int(cell.own), :, : cell.features]
    of_training, new = (_features(inputs, directions) for inputs in (x, queries))
    taught = of_training[:, None] * trained[..., None]  # S T N F
    products = np.swapaxes(taught, -1, -2)
    gram = products @ of_training[:, None] + np.float32(cell.ridge) * np.eye(cell.features, dtype=np.float32)
    target = np.einsum("stfn,...n->stf", products, y) if y.ndim == 1 else np.einsum("stfn,sn->stf", products, y)
    weights = np.linalg.solve(gram, target[..., None])
    return np.sign((new[:, None] @ weights)[..., 0])


def _features(x: Floats, directions: Floats) -> Floats:
    features: Floats = np.maximum(x @ directions[:, :-1] + directions[:, -1:], np.float32(0))
    return features


def truth_of(pair: Pair, count: int, generator: np.random.Generator) -> float:
    """Return the difference over all sets of so many training points, in points of accuracy."""
    if pair.are_equal:
        return 0.0
    total, block = 0.0, 100
    for _ in range(TRUE_SETS // block):
        x, y = points(generator, block, count)
        queries, right = points(generator, block, TRUE_POINTS)
        drawn = projections(generator, block)
        every = np.ones((1, 1, count), bool)
        first, second = (answers(cell, drawn, x, y, every, queries)[:, 0] for cell in (pair.first, pair.second))
        total += float((second == right).mean() - (first == right).mean()) * block
    return 100 * total / TRUE_SETS


def differences_by_folds(pair: Pair, x: Floats, y: Floats, generator: np.random.Generator) -> Floats:
    """Return differences by seed and point, in points of accuracy, of seeds that each test every point once."""
    seeds, count = SEEDS[-1], len(x)
    fold = np.stack([generator.permutation(count) % FOLDS for _ in range(seeds)])
    tested = fold[:, None] == np.arange(FOLDS)[:, None]  # S K N
    trained = ~tested & ~_held_out(tested, generator)
    drawn = projections(generator, seeds)
    right = []
    for cell in (pair.first, pair.second):
        answered = answers(cell, drawn, x, y, trained, x)
        right.append(((answered == y) & tested).any(1))
    return 100 * (right[1].astype(float) - right[0])


def differences_by_splits(pair: Pair, x: Floats, y: Floats, generator: np.random.Generator) -> tuple[Floats, float]:
    """Return the difference of each seed on its own split, in points, and test over training points."""
    seeds, count = SEEDS[-1], len(x)
    place = np.stack([generator.permutation(count) for _ in range(seeds)])
    held = round(HELD_OUT * count)
    tested, trained = place < held, place >= 2 * held
    drawn = projections(generator, seeds)
    right = []
    for cell in (pair.first, pair.second):
        answered = answers(cell, drawn, x, y, trained[:, None], x)[:, 0]
        right.append(((answered == y) & tested).sum(1) / held)
    return 100 * (right[1] - right[0]), held / (count - 2 * held)


def _held_out(tested: NDArray[np.bool_], generator: np.random.Generator) -> NDArray[np.bool_]:
    """Hold out a share of what is not tested, for validation."""
    order = generator.random(tested.shape)
    order[tested] = np.inf
    ranks = order.argsort(-1).argsort(-1)
    held: NDArray[np.bool_] = ranks < np.round(HELD_OUT * (~tested).sum(-1, keepdims=True))
    return held


def rows(studies: int) -> Iterator[list[str]]:
    """Yield a row for each pair of cells, number of points and number of seeds."""
    for at, pair in enumerate(PAIRS):
        for count in POINTS:
            generator = np.random.default_rng([2012, at, count])
            by_folds = truth_of(pair, round(0.64 * count), generator)
            by_splits = truth_of(pair, round(0.6 * count), generator)
            hits: dict[tuple[int, str], list[bool]] = {}
            for _ in range(studies):
                x, y = points(generator, count)
                of_folds = differences_by_folds(pair, x, y, generator)
                d, overlap = differences_by_splits(pair, x, y, generator)
                for seeds in SEEDS:
                    for name, hit in _judged(of_folds[:seeds], by_folds, d[:seeds], overlap, by_splits).items():
                        hits.setdefault((seeds, name), []).append(hit)
            for seeds in SEEDS:
                shares = [share(hits[seeds, name]) for name in COLUMNS]
                if not pair.are_equal:
                    shares = [text if "apart" not in name else "-" for name, text in zip(COLUMNS, shares, strict=True)]
                yield [pair.name, f"{by_folds:+.1f}", str(count), str(seeds), *shares]


COLUMNS = (
    "folds: images like these",
    "folds: seeds alone",
    "folds: told apart",
    "resplit",
    "resplit, as if splits did not overlap",
    "resplit: told apart",
)


def _judged(of_folds: Floats, by_folds: float, d: Floats, overlap: float, by_splits: float) -> dict[str, bool]:
    """Return which intervals hold the truth, and which p-values tell the cells apart."""
    squares = crossed(of_folds)
    alone = t_interval(of_folds.mean(1))
    interval = None if squares is None else squares.interval()
    corrected, plain = t_interval(d, overlap=overlap), t_interval(d)
    p = t_p_value(d, overlap)
    values = (
        _holds(interval, by_folds, float(of_folds.mean())),
        _holds(alone, by_folds, float(of_folds.mean())),
        squares is not None and squares.p_value() <= LEVEL,
        _holds(corrected, by_splits, float(d.mean())),
        _holds(plain, by_splits, float(d.mean())),
        p is not None and p <= LEVEL,
    )
    return dict(zip(COLUMNS, values, strict=True))


def _holds(interval: object, truth: float, mean: float) -> bool:
    """Say whether an interval holds the truth; without spread it is a point."""
    low, high = (mean, mean) if interval is None else (interval.low, interval.high)  # type: ignore[attr-defined]
    return low <= truth <= high


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=500, help="simulated studies per row")
    arguments = parser.parse_args()
    title = "How often a 95% interval holds the difference, and equal cells are told apart"
    title += f", % ({arguments.studies} studies)"
    header = ["cells", "difference, folds", "images", "seeds", *COLUMNS]
    table(title, header, list(rows(arguments.studies)))


if __name__ == "__main__":
    main()
