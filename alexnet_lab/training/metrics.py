"""Metrics of a set of predictions.

They agree with scikit-learn's, which takes longer to import than a small network takes for an epoch.

Shapes: N images, K classes.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexnet_lab.ranks import auroc_of

TOP_FIVE_FROM = 10  # classes; with fewer, being among the best five says little
CALIBRATION_BINS = 15  # equal widths of confidence, as Guo et al. 2017
DENSE_UP_TO = 200  # classes; a confusion matrix of more is stored as its counts above 0, of which N is the most
MOST_CLASSES = 2**20  # of a confusion matrix that is read
SMALLEST = np.finfo(np.float64).eps  # probability whose logarithm is taken


def metrics_of(probabilities: NDArray[np.float64], labels: NDArray[np.int64]) -> dict[str, Any]:
    """Return the metrics of predictions (N K): of classes where labels are N, of findings where they are N K."""
    return (finding_metrics if labels.ndim == 2 else classification_metrics)(probabilities, labels)


def finding_metrics(probabilities: NDArray[np.float64], labels: NDArray[np.int64]) -> dict[str, Any]:
    """Return loss and AUROC of each finding and over all; what only one class an image has is None.

    The loss is the mean binary cross-entropy over images and findings. A finding that all images have, or all lack, has
    no AUROC, and the mean over findings leaves it out.
    """
    curves = [
        auroc_of(probabilities[:, k], labels[:, k] == 1) if 0 < labels[:, k].sum() < len(labels) else None
        for k in range(labels.shape[1])
    ]
    areas = [value for value in curves if value is not None]
    return {
        "loss": float(loss_of_each(probabilities, labels).mean()),
        "accuracy": None,
        "balanced_accuracy": None,
        "auroc": float(np.mean(areas)) if areas else None,
        "top5_accuracy": None,
        "calibration_error": None,
        "finding_auroc": curves,
        "images": len(labels),
    }


def classification_metrics(probabilities: NDArray[np.float64], labels: NDArray[np.int64]) -> dict[str, Any]:
    """Return every metric of a set of predictions (N K); one that the data cannot define is None."""
    classes = probabilities.shape[1]
    predicted = probabilities.argmax(1)
    counts = np.bincount(labels, minlength=classes)
    present = np.flatnonzero(counts)
    # One class against the rest needs both; a class that no image shows has no curve.
    curves = [auroc_of(probabilities[:, k], labels == k) for k in present if len(present) > 1]
    hits = np.bincount(labels[predicted == labels], minlength=classes)
    best_five = np.argsort(probabilities, axis=1, kind="stable")[:, -5:]
    return {
        "loss": float(loss_of_each(probabilities, labels).mean()),
        "accuracy": float((predicted == labels).mean()),
        "balanced_accuracy": float((hits[present] / counts[present]).mean()),
        "auroc": float(np.mean(curves)) if curves else None,
        "top5_accuracy": float((best_five == labels[:, None]).any(1).mean()) if classes >= TOP_FIVE_FROM else None,
        "calibration_error": expected_calibration_error(probabilities, labels),
        "recall": [float(hit / count) if count else None for hit, count in zip(hits, counts, strict=True)],
        "confusion": confusion_counts(labels, predicted, classes),
        "images": len(labels),
    }


def loss_of_each(probabilities: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return for each image the negative logarithm of the probability of its class; of findings, the mean over them."""
    if labels.ndim == 2:
        of_truth = np.where(labels == 1, probabilities, 1 - probabilities)
        means: NDArray[np.float64] = -np.log(np.maximum(of_truth, SMALLEST)).mean(1)
        return means
    losses: NDArray[np.float64] = -np.log(np.maximum(probabilities[np.arange(len(labels)), labels], SMALLEST))
    return losses


def confusion_counts(
    labels: NDArray[np.int64], predicted: NDArray[np.int64], classes: int
) -> list[list[int]] | dict[str, Any]:
    """Return the confusion matrix for JSON, true classes in rows; that of many classes as counts above 0.

    The latter is {"classes": K, "true": [...], "predicted": [...], "count": [...]}.
    """
    cells, counts = np.unique(labels * classes + predicted, return_counts=True)
    true, answer = np.divmod(cells, classes)
    if classes > DENSE_UP_TO:
        return {"classes": classes, "true": true.tolist(), "predicted": answer.tolist(), "count": counts.tolist()}
    matrix = np.zeros((classes, classes), np.int64)
    matrix[true, answer] = counts
    rows: list[list[int]] = matrix.tolist()
    return rows


def read_confusion(stored: list[list[int]] | dict[str, Any]) -> Any:
    """Return a stored confusion matrix as an array (K K), of many classes as a scipy.sparse.csr_array.

    Both have `sum` over an axis or all, `diagonal` and `shape`. ValueError if it is none.
    """
    try:
        if isinstance(stored, dict):
            from scipy.sparse import coo_array

            if type(stored["classes"]) is not int or not 0 < stored["classes"] <= MOST_CLASSES:
                raise ValueError(f"its number of classes is not 1 to {MOST_CLASSES:,}")  # noqa: TRY301  # as the others
            at = (np.array(stored["true"]), np.array(stored["predicted"]))
            return coo_array((np.array(stored["count"], float), at), (stored["classes"],) * 2).tocsr()
        return np.array(stored, float).reshape(len(stored), len(stored))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"the confusion matrix of the verdict cannot be read ({error})") from None


def expected_calibration_error(probabilities: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """Return how far confidence stands from accuracy, averaged over bins of confidence by their share of images."""
    confidence = probabilities.max(1)
    right = probabilities.argmax(1) == labels
    bins = np.minimum((confidence * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    gaps = np.bincount(bins, weights=confidence - right, minlength=CALIBRATION_BINS)
    return float(np.abs(gaps).sum() / len(labels))


def finding_calibration_error(probabilities: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """Return the mean over findings of how far a probability stands from the share that has the finding, by bins."""
    gaps = []
    for scores, present in zip(probabilities.T, labels.T, strict=True):
        bins = np.minimum((scores * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
        gaps.append(np.abs(np.bincount(bins, weights=scores - present, minlength=CALIBRATION_BINS)).sum() / len(labels))
    return float(np.mean(gaps))


def is_better(name: str, value: float | None, best: float | None) -> bool:
    """Say whether a metric improved; of a loss, less is better."""
    if value is None:
        return False
    return best is None or (value < best if name == "loss" else value > best)
