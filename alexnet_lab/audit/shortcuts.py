"""Whether the class can be told without looking at what the picture shows: from the file, the table, or the border.

Each source of facts becomes columns of 0 and 1: a column for each of the most frequent values of a text, and for each
eighth of the order of a number. A ridge regression on them, fitted on four fifths of the images, scores the rest; the
score of a source is the area under the ROC curve (AUROC), averaged over the classes, each against the others. Where
images have several findings, each finding is judged by itself, against its absence.

A score is compared with those of PERMUTATIONS in which the labels are dealt anew. Images of one patient, and copies of
one picture, keep their labels together, and are in one fifth together. The fifths do not depend on the labels, so under
the null hypothesis every permutation is as likely as the labels themselves and the test is exact, whatever the
prevalence. A source is accused where its p-value, adjusted by Holm's rule for the number of tests (sources, or sources
times findings), is at most LEVEL, and its AUROC at least LEAST_AUROC: in a large set a difference that nobody could use
would also be significant.

With many tests no p-value of so few permutations could pass Holm's rule. A test whose p-value is at most LEVEL then
gets more of them, and the p-value of all. The others keep theirs, which is above LEVEL: so every level is kept.
"""

import functools
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from alexnet_lab.ranks import aurocs_of

Flags = NDArray[np.bool_]  # N D
Columns = NDArray[np.float64]  # N D

LEVEL = 0.05
LEAST_AUROC = 0.6
PERMUTATIONS = 999
RESAMPLES = 500
FOLDS = 5
MOST_IMAGES = 4000  # a random choice of them is judged
MOST_VALUES = 20  # of a text that get a column of their own
BINS = 8
SHARE_OF_NUMBERS = 0.9  # of a column's values, for it to be one of numbers
RIDGE = 1.0
BLOCK = 100  # permutations at once
FEWEST_GROUPS = 10

Tell = Callable[[int, int], None]


@dataclass(frozen=True)
class Shortcut:
    """How well a source alone tells the class, or whether images have a finding."""

    source: str
    auroc: float
    low: float  # of a 95% interval
    high: float
    chance: float  # 95% of the permutations are below it
    p: float
    adjusted: float = 1.0
    finding: str = ""  # of images with several

    @property
    def is_accused(self) -> bool:
        """Return whether the class can be told from this source."""
        return self.adjusted <= LEVEL and self.auroc >= LEAST_AUROC


def encoded(values: Sequence[str] | NDArray[np.str_] | NDArray[np.float64]) -> Flags | None:
    """Return texts or numbers as columns of 0 and 1; None where all values are the same or all differ."""
    if isinstance(values, np.ndarray) and values.dtype.kind not in "US":
        columns = _of_numbers(values.astype(np.float64))
    else:
        numbers = np.array([_number(value) for value in values])
        present = np.array([bool(value) for value in values])
        if present.any() and np.isfinite(numbers[present]).mean() >= SHARE_OF_NUMBERS:
            columns = _of_numbers(numbers)
        else:
            counts = Counter(values)
            frequent = sorted(counts, key=lambda value: (-counts[value], value))[:MOST_VALUES]
            if counts[frequent[0]] == 1:
                return None
            columns = np.array([[value == name for name in frequent] for value in values])
    columns = columns[:, columns.any(0) & ~columns.all(0)]
    return columns if columns.shape[1] else None


def _of_numbers(values: NDArray[np.float64]) -> Flags:
    """Return a column for each eighth of the order, and one for missing values."""
    known = np.isfinite(values)
    edges = np.unique(np.quantile(values[known], np.linspace(0, 1, BINS + 1)[1:-1]))
    place = np.searchsorted(edges, np.where(known, values, 0), side="left")
    of_bins: Flags = (place[:, None] == np.arange(len(edges) + 1)) & known[:, None]
    return np.column_stack([of_bins, ~known])


def _number(value: str) -> float:
    try:
        return float(value)
    except ValueError:
        return np.nan


def judge(
    sources: Mapping[str, Columns | Flags],
    labels: NDArray[np.int64],
    groups: NDArray[np.int64],
    seed: int = 0,
    tell: Tell = lambda _done, _total: None,
    findings: Sequence[str] = (),
) -> list[Shortcut]:
    """Return for each source how well it tells the labels, N; images of one group, N, belong together.

    With labels N K of 0 and 1, K `findings`, return it for each source and each finding that some images have and some
    lack.
    """
    rng = np.random.default_rng(seed)
    chosen = _some_groups(groups, rng)
    groups = np.unique(groups[chosen], return_inverse=True)[1].reshape(-1)
    targets = _targets(labels[chosen], findings)
    if not targets or groups.max(initial=0) + 1 < FEWEST_GROUPS:
        return []
    deals = _Deals(groups, 2 * math.ceil(len(sources) * len(targets) / LEVEL), rng)
    fold = (rng.permutation(groups.max() + 1) % FOLDS)[groups]
    shortcuts = []
    for done, (source, columns) in enumerate(sources.items(), 1):
        facts = columns[chosen].astype(np.float64)
        solvers = [_solver(facts, fold == number) for number in range(FOLDS)]
        judged = [_judged(solvers, target, deals, fold) for target in targets.values()]
        times = [
            np.bincount(rng.integers(0, deals.groups, deals.groups), minlength=deals.groups) for _ in range(RESAMPLES)
        ]
        drawn = np.array(times, np.int16)[:, groups]
        for name, (own, scores, p) in zip(targets, judged, strict=True):
            low, high = np.quantile(_resampled(own, targets[name], drawn), (0.025, 0.975))
            chance = float(np.quantile(scores[1:], 0.95))
            shortcuts.append(Shortcut(source, float(scores[0]), float(low), float(high), chance, p, finding=name))
        tell(done, len(sources))
    order = sorted(range(len(shortcuts)), key=lambda at: shortcuts[at].p)
    largest, adjusted = 0.0, dict.fromkeys(order, 1.0)
    for rank, at in enumerate(order):  # Holm
        largest = max(largest, min(1.0, (len(shortcuts) - rank) * shortcuts[at].p))
        adjusted[at] = largest
    return [replace(one, adjusted=adjusted[at]) for at, one in enumerate(shortcuts)]


def _targets(labels: NDArray[np.int64], findings: Sequence[str]) -> dict[str, NDArray[np.int64]]:
    """Return what is to be told, by its name: the class, without a name, or whether an image has a finding."""
    if labels.ndim == 2:
        return {name: labels[:, k] for k, name in enumerate(findings) if 0 < labels[:, k].sum() < len(labels)}
    classes, numbers = np.unique(labels, return_inverse=True)
    return {"": numbers.reshape(-1).astype(np.int64)} if len(classes) > 1 else {}


def _some_groups(groups: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Return the indices of at most about MOST_IMAGES images, of whole groups."""
    if len(groups) <= MOST_IMAGES:
        return np.arange(len(groups))
    names, sizes = np.unique(groups, return_counts=True)
    order = rng.permutation(len(names))
    kept = names[order[np.cumsum(sizes[order]) <= MOST_IMAGES]]
    return np.flatnonzero(np.isin(groups, kept))


class _Deals:
    """Permutations of the images, in which groups of one size exchange all their labels.

    `first` has PERMUTATIONS of them behind the images as they are, N 1+PERMUTATIONS; `more` has so many that `wanted`
    are there in all, and is made when it is asked for.
    """

    def __init__(self, groups: NDArray[np.int64], wanted: int, rng: np.random.Generator) -> None:
        sizes = np.bincount(groups)
        order, starts = np.argsort(groups, kind="stable"), np.cumsum(sizes) - sizes
        # The images of the groups of each size: groups, members.
        self._rows = [
            order[starts[sizes == size][:, None] + np.arange(size)].astype(np.int32) for size in np.unique(sizes)
        ]
        self.groups = len(sizes)
        self._images, self._wanted = len(groups), wanted
        self._further = rng.spawn(1)[0]
        self.first = self._dealt(1 + PERMUTATIONS, rng)

    @functools.cached_property
    def more(self) -> NDArray[np.int32]:
        """Return further permutations; none where the first are enough."""
        return self._dealt(max(0, self._wanted - 1 - PERMUTATIONS) + 1, self._further)[:, 1:]

    def _dealt(self, count: int, rng: np.random.Generator) -> NDArray[np.int32]:
        dealt = np.repeat(np.arange(self._images, dtype=np.int32)[:, None], count, 1)
        for rows in self._rows:
            for column in range(1, count):
                dealt[rows, column] = rows[rng.permutation(len(rows))]
        return dealt


def _judged(
    solvers: Sequence[Callable[[NDArray[np.bool_]], NDArray[np.float64]]],
    labels: NDArray[np.int64],
    deals: _Deals,
    fold: NDArray[np.int64],
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Return the scores of each class for each image, the AUROC of the first deals, and the p-value."""
    areas, own = _areas(solvers, labels, deals.first, fold)
    # As in any permutation test the labels themselves are one of the permutations; a tie counts against accusing.
    reached = areas >= areas[0] - 1e-12
    p = float(reached.mean())
    if p <= LEVEL and deals.more.shape[1]:
        further = _areas(solvers, labels, deals.more, fold)[0] >= areas[0] - 1e-12
        p = float((reached.sum() + further.sum()) / (len(reached) + len(further)))
    return own, areas, p


def _areas(
    solvers: Sequence[Callable[[NDArray[np.bool_]], NDArray[np.float64]]],
    labels: NDArray[np.int64],
    dealt: NDArray[np.int32],
    fold: NDArray[np.int64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the AUROC of each deal, the mean over classes, and the scores in the first of them, N classes."""
    classes = _classes_of(labels)
    areas = np.empty((len(classes), dealt.shape[1]))
    own = np.empty((len(dealt), len(classes)))
    for start in range(0, dealt.shape[1], BLOCK):
        some = labels[dealt[:, start : start + BLOCK]]
        for at, label in enumerate(classes):
            positive = some == label
            predicted = np.empty(positive.shape)
            for number, solve in enumerate(solvers):
                predicted[fold == number] = solve(positive)
            if start == 0:
                own[:, at] = predicted[:, 0]
            areas[at, start : start + BLOCK] = auroc(predicted, positive)
    return areas.mean(0), own


def _classes_of(labels: NDArray[np.int64]) -> list[int]:
    """Return the classes to score, each against the others: of two, either has the area of the other."""
    count = int(labels.max()) + 1
    return [1] if count == 2 else list(range(count))


def _solver(columns: Columns, tested: NDArray[np.bool_]) -> Callable[[NDArray[np.bool_]], NDArray[np.float64]]:
    """Return a function from labels, N P, to the scores of the tested images by ridge regression on the others."""
    trained = columns[~tested]
    middle = trained.mean(0)
    trained = trained - middle
    weights = np.linalg.solve(trained.T @ trained + RIDGE * np.eye(trained.shape[1]), trained.T)
    scored = columns[tested] - middle

    def solve(positive: NDArray[np.bool_]) -> NDArray[np.float64]:
        # Without the training mean: it falls where a fold happens to hold more positives, which would look like skill.
        scores: NDArray[np.float64] = scored @ (weights @ positive[~tested].astype(float))
        return scores

    return solve


def auroc(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the area under the ROC curve of each column of scores, N P; ties count half, one class alone .5."""
    return np.nan_to_num(aurocs_of(np.round(scores, 12), positive), nan=0.5)


def _resampled(scores: NDArray[np.float64], labels: NDArray[np.int64], drawn: NDArray[np.int16]) -> NDArray[np.float64]:
    """Return the AUROC, mean over classes, of resamples in which each image is there so many times, R N."""
    areas = []
    for column, label in zip(np.round(scores, 12).T, _classes_of(labels), strict=True):
        order = np.argsort(column)
        runs = np.flatnonzero(np.diff(column[order], prepend=np.nan) != 0)  # where equal scores begin
        positive = labels[order] == label
        above, others = (
            np.add.reduceat(drawn[:, order] * kind, runs, 1, dtype=np.float64) for kind in (positive, ~positive)
        )
        below = np.cumsum(others, 1) - others / 2
        pairs = above.sum(1) * others.sum(1)
        areas.append(np.where(pairs > 0, (above * below).sum(1) / np.maximum(pairs, 1), 0.5))
    mean: NDArray[np.float64] = np.mean(areas, axis=0)
    return mean
