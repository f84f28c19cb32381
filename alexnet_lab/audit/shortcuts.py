"""Whether the class can be told without looking at what the picture shows: from the file, the table, or the border.

Each source of facts becomes columns of 0 and 1: a column for each of the most frequent values of a text, and for each
eighth of the order of a number. A ridge regression on them, fitted on four fifths of the images, scores the rest; the
score of a source is the area under the ROC curve (AUROC), averaged over the classes, each against the others.

A score is compared with those of PERMUTATIONS in which the labels are dealt anew. Images of one patient, and copies of
one picture, keep their labels together, and are in one fifth together. The fifths do not depend on the labels, so under
the null hypothesis every permutation is as likely as the labels themselves and the test is exact, whatever the
prevalence. A source is accused where its p-value, adjusted by Holm's rule for the number of sources, is at most LEVEL,
and its AUROC at least LEAST_AUROC: in a large set a difference that nobody could use would also be significant.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

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
    """How well a source alone tells the class."""

    source: str
    auroc: float
    low: float  # of a 95% interval
    high: float
    chance: float  # 95% of the permutations are below it
    p: float
    adjusted: float = 1.0

    @property
    def is_accused(self) -> bool:
        """Return whether the class can be told from this source."""
        return self.adjusted <= LEVEL and self.auroc >= LEAST_AUROC


def encoded(values: Sequence[str] | NDArray[np.float64]) -> Columns | None:
    """Return texts or numbers as columns of 0 and 1; None where all values are the same or all differ."""
    array = np.asarray(values)
    if array.dtype.kind in "US":
        numbers = np.array([_number(value) for value in array])
        missing = np.array([not value for value in array])
        if np.isfinite(numbers[~missing]).mean() >= SHARE_OF_NUMBERS if (~missing).any() else False:
            array = numbers
    if array.dtype.kind in "US":
        names, counts = np.unique(array, return_counts=True)
        if counts.max() == 1:
            return None
        frequent = names[np.argsort(-counts, kind="stable")[:MOST_VALUES]]
        columns = (array[:, None] == frequent).astype(float)
    else:
        known = np.isfinite(array)
        edges = np.unique(np.quantile(array[known], np.linspace(0, 1, BINS + 1)[1:-1]))
        place = np.searchsorted(edges, np.where(known, array, 0), side="left")
        columns = ((place[:, None] == np.arange(len(edges) + 1)) & known[:, None]).astype(float)
        columns = np.column_stack([columns, ~known])
    columns = columns[:, np.ptp(columns, axis=0) > 0]
    return columns if columns.shape[1] else None


def _number(value: str) -> float:
    try:
        return float(value)
    except ValueError:
        return np.nan


def judge(
    sources: Mapping[str, Columns],
    labels: NDArray[np.int64],
    groups: NDArray[np.int64],
    seed: int = 0,
    tell: Tell = lambda _done, _total: None,
) -> list[Shortcut]:
    """Return for each source how well it tells the labels, N; images of one group, N, belong together."""
    rng = np.random.default_rng(seed)
    chosen = _some_groups(groups, rng)
    labels, groups = (
        np.unique(labels[chosen], return_inverse=True)[1],
        np.unique(groups[chosen], return_inverse=True)[1],
    )
    if labels.max(initial=0) == 0 or groups.max(initial=0) + 1 < FEWEST_GROUPS:
        return []
    dealt = _dealt(labels, groups, rng)  # N 1+PERMUTATIONS; the labels themselves first
    fold = (rng.permutation(groups.max() + 1) % FOLDS)[groups]
    shortcuts = []
    for done, (source, columns) in enumerate(sources.items(), 1):
        shortcuts.append(_judged(source, columns[chosen], dealt, groups, fold, rng))
        tell(done, len(sources))
    order = sorted(range(len(shortcuts)), key=lambda at: shortcuts[at].p)
    largest, adjusted = 0.0, dict.fromkeys(order, 1.0)
    for rank, at in enumerate(order):  # Holm
        largest = max(largest, min(1.0, (len(shortcuts) - rank) * shortcuts[at].p))
        adjusted[at] = largest
    return [Shortcut(**{**vars(one), "adjusted": adjusted[at]}) for at, one in enumerate(shortcuts)]


def _some_groups(groups: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Return the indices of at most about MOST_IMAGES images, of whole groups."""
    if len(groups) <= MOST_IMAGES:
        return np.arange(len(groups))
    names, sizes = np.unique(groups, return_counts=True)
    order = rng.permutation(len(names))
    kept = names[order[np.cumsum(sizes[order]) <= MOST_IMAGES]]
    return np.flatnonzero(np.isin(groups, kept))


def _dealt(labels: NDArray[np.int64], groups: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Deal the labels anew: groups of one size exchange all their labels."""
    order = np.argsort(groups, kind="stable")
    sizes = np.bincount(groups)
    starts = np.cumsum(sizes) - sizes
    dealt = np.repeat(labels[:, None], 1 + PERMUTATIONS, 1)
    for size in np.unique(sizes):
        rows = order[starts[sizes == size][:, None] + np.arange(size)]  # groups of this size, members
        for column in range(1, 1 + PERMUTATIONS):
            dealt[rows, column] = labels[rows[rng.permutation(len(rows))]]
    return dealt


def _judged(
    source: str,
    columns: Columns,
    dealt: NDArray[np.int64],
    groups: NDArray[np.int64],
    fold: NDArray[np.int64],
    rng: np.random.Generator,
) -> Shortcut:
    solvers = [_solver(columns, fold == number) for number in range(FOLDS)]
    classes = int(dealt.max()) + 1
    scores = np.empty(dealt.shape[1])
    own = np.empty((len(dealt), classes))
    for start in range(0, dealt.shape[1], BLOCK):
        some = dealt[:, start : start + BLOCK]
        areas = []
        for label in range(classes):
            positive = some == label
            predicted = np.empty(positive.shape)
            for number, solve in enumerate(solvers):
                predicted[fold == number] = solve(positive)
            if start == 0:
                own[:, label] = predicted[:, 0]
            areas.append(auroc(predicted, positive))
        scores[start : start + BLOCK] = np.mean(areas, axis=0)
    resampled = _resampled(own, dealt[:, 0], groups, rng)
    low, high = np.quantile(resampled, (0.025, 0.975))
    # As in any permutation test the labels themselves are one of the permutations; a tie counts against accusing.
    p = float((scores >= scores[0] - 1e-12).mean())
    return Shortcut(source, float(scores[0]), float(low), float(high), float(np.quantile(scores[1:], 0.95)), p)


def _solver(columns: Columns, tested: NDArray[np.bool_]) -> Callable[[NDArray[np.bool_]], NDArray[np.float64]]:
    """Return a function from labels, N P, to the scores of the tested images by ridge regression on the others."""
    trained = columns[~tested]
    middle = trained.mean(0)
    trained = trained - middle
    weights = np.linalg.solve(trained.T @ trained + RIDGE * np.eye(trained.shape[1]), trained.T)
    matrix = (columns[tested] - middle) @ weights

    def solve(positive: NDArray[np.bool_]) -> NDArray[np.float64]:
        # Without the training mean: it falls where a fold happens to hold more positives, which would look like skill.
        scores: NDArray[np.float64] = matrix @ positive[~tested].astype(float)
        return scores

    return solve


def auroc(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the area under the ROC curve of each column of scores, N P; ties count half, one class alone .5."""
    ranks = rankdata(np.round(scores, 12), axis=0)
    count = positive.sum(0).astype(float)
    others = len(positive) - count
    area = ((ranks * positive).sum(0) - count * (count + 1) / 2) / np.maximum(count * others, 1)
    return np.where((count > 0) & (others > 0), area, 0.5)


def _resampled(
    scores: NDArray[np.float64], labels: NDArray[np.int64], groups: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.float64]:
    """Return the mean AUROC of resamples of whole groups."""
    order = np.argsort(groups, kind="stable")
    members = np.split(order, np.cumsum(np.bincount(groups))[:-1])
    values = np.empty(RESAMPLES)
    for at in range(RESAMPLES):
        drawn = np.concatenate([members[group] for group in rng.integers(0, len(members), len(members))])
        wanted = labels[drawn][:, None] == np.arange(scores.shape[1])
        values[at] = auroc(scores[drawn], wanted).mean()
    return values
