"""Every figure of a set of predictions that the bootstrap draws again: all of them from weighted images, at once.

With weights of one the figures are those of the set itself. Each class is set against the rest at its threshold.

Images with several findings have each of these set against its absence, and no accuracy.

Shapes: R weightings, N images, K classes, D thresholds of the decision curve, G different scores of a class.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from alexnet_lab.data.findings import positives
from alexnet_lab.evaluation.calibration import brier_of_each
from alexnet_lab.evaluation.decision_curve import THRESHOLDS, worth
from alexnet_lab.training.metrics import loss_of_each

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]

OF_CLASSES = ("auroc", "sensitivity", "specificity", "positive predictive value", "negative predictive value")
OF_FINDINGS = ("auroc", "Brier score", "loss", "Brier score, tempered", "loss, tempered")  # means over findings
OF_ALL = ("accuracy", "balanced accuracy", *OF_FINDINGS)


@dataclass(frozen=True)
class Figures:
    """Figures of R weightings; what a weighting cannot define is NaN."""

    overall: Mapping[str, Floats]  # each R
    of_class: Sequence[Mapping[str, Floats]]  # K of OF_CLASSES, each R
    net_benefit: Sequence[Floats]  # K, each R D


@dataclass(frozen=True)
class Sorted:
    """The images of a set in order of the probability of one class, prepared once for every weighting."""

    order: NDArray[np.int64]  # N, ascending
    starts: NDArray[np.int64]  # G: where each score begins in the order
    positive: NDArray[np.bool_]  # N, in the order
    at_threshold: int  # the first of the G scores that is at or above the threshold; G where none is
    at_decisions: NDArray[np.int64]  # D, likewise


def in_order(scores: Floats, positive: NDArray[np.bool_], threshold: float | None) -> Sorted:
    """Sort the images by the probability of a class."""
    order = np.argsort(scores, kind="stable")
    distinct, starts = np.unique(scores[order], return_index=True)
    at = len(distinct) if threshold is None else int(np.searchsorted(distinct, threshold, "left"))
    return Sorted(order, starts, positive[order], at, np.searchsorted(distinct, THRESHOLDS, "left"))


class Statistics:
    """The figures of one set of predictions, for any weights of its images."""

    def __init__(
        self, labels: Labels, probabilities: Floats, tempered: Floats, thresholds: Sequence[float | None]
    ) -> None:
        positive = positives(labels, probabilities.shape[1])
        self.thresholds = thresholds
        self.names = OF_FINDINGS if labels.ndim == 2 else OF_ALL
        self._sorts = [
            in_order(probabilities[:, k], positive[:, k], threshold) for k, threshold in enumerate(thresholds)
        ]
        costs = [
            of_each(of_set, labels) for of_set in (probabilities, tempered) for of_each in (brier_of_each, loss_of_each)
        ]
        self._right = None if labels.ndim == 2 else (probabilities.argmax(1) == labels).astype(float)
        self._columns = np.stack([*([] if self._right is None else [self._right]), *costs], 1).astype(float)
        self._truth = positive.astype(float)
        # A mean over classes is of those that the set has images of; a weighting without one of them has no mean.
        counts = positive.sum(0)
        self._present = np.flatnonzero(counts if labels.ndim == 1 else (counts > 0) & (counts < len(labels)))

    @property
    def width(self) -> int:
        """Return how many figures a row has."""
        classes = len(self.thresholds)
        return len(self.names) + classes * (len(OF_CLASSES) + len(THRESHOLDS))

    def figures(self, weights: Floats) -> Figures:
        """Return the figures of these weightings, R N."""
        with np.errstate(divide="ignore", invalid="ignore"):
            of_class, net_benefit = zip(*(_of_class(weights, prepared) for prepared in self._sorts), strict=True)
            total = weights.sum(1, keepdims=True)
            means = list((weights @ self._columns / total).T)
            areas = np.stack([figures["auroc"] for figures in of_class], 1)[:, self._present].mean(1)
            if self._right is None:
                overall = [areas, *means]
            else:
                recalls = (weights @ (self._truth * self._right[:, None])) / (weights @ self._truth)  # R K
                accuracy, *costs = means
                overall = [accuracy, recalls[:, self._present].mean(1), areas, *costs]
        return Figures(dict(zip(self.names, overall, strict=True)), of_class, net_benefit)

    def rows(self, weights: Floats) -> Floats:
        """Return the figures of these weightings as one row each, for the bootstrap; `from_rows` reads them."""
        drawn = self.figures(weights)
        columns = [drawn.overall[name] for name in self.names]
        columns += [figures[name] for figures in drawn.of_class for name in OF_CLASSES]
        return np.concatenate([np.stack(columns, 1), *drawn.net_benefit], 1)

    def from_rows(self, rows: Floats) -> Figures:
        """Return rows as figures again."""
        classes = len(self.thresholds)
        ends = len(self.names) + len(OF_CLASSES) * np.arange(classes + 1)
        width = len(OF_CLASSES)
        of_class = [dict(zip(OF_CLASSES, rows[:, at : at + width].T, strict=True)) for at in ends[:-1]]
        overall = dict(zip(self.names, rows[:, : len(self.names)].T, strict=True))
        return Figures(overall, of_class, np.split(rows[:, ends[-1] :], classes, 1))


def _of_class(weights: Floats, prepared: Sorted) -> tuple[dict[str, Floats], Floats]:
    """Return the figures of one class against the rest, each R, and its net benefit, R D."""
    ranked = weights[:, prepared.order]
    positive = np.add.reduceat(ranked * prepared.positive, prepared.starts, axis=1)  # R G
    negative = np.add.reduceat(ranked * ~prepared.positive, prepared.starts, axis=1)
    below = np.cumsum(negative, 1)
    sick, healthy = positive.sum(1), below[:, -1]
    area = (positive * (below - negative / 2)).sum(1) / (sick * healthy)
    # Of each score, the weight at or above it; one more for a threshold above all.
    true = np.append(np.cumsum(positive[:, ::-1], 1)[:, ::-1], np.zeros((len(weights), 1)), 1)
    false = np.append(np.cumsum(negative[:, ::-1], 1)[:, ::-1], np.zeros((len(weights), 1)), 1)
    hits, alarms = true[:, prepared.at_threshold], false[:, prepared.at_threshold]
    figures = {
        "auroc": area,
        "sensitivity": hits / sick,
        "specificity": 1 - alarms / healthy,
        "positive predictive value": hits / (hits + alarms),
        "negative predictive value": (healthy - alarms) / (healthy - alarms + sick - hits),
    }
    total = (sick + healthy)[:, None]
    benefit = worth(true[:, prepared.at_decisions] / total, false[:, prepared.at_decisions] / total, THRESHOLDS)
    return dict(zip(OF_CLASSES, (figures[name] for name in OF_CLASSES), strict=True)), benefit
