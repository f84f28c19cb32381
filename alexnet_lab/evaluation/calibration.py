"""Whether probabilities are right: Brier score, calibration curve, and the temperature that corrects over-confidence.

Temperature: C. Guo, G. Pleiss, Y. Sun, K. Q. Weinberger, ICML 2017. One number divides the logarithms of all
probabilities; it changes no order of classes, so accuracy stays, and it is fitted on validation images.

Shapes: N images, K classes. With labels N K these are findings: probabilities are then of sigmoids, the temperature
divides the logarithms of their odds, and scores are means over findings.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from alexnet_lab.evaluation.estimates import wilson
from alexnet_lab.training.metrics import SMALLEST, loss_of_each

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]

BINS = 10
LEAST_IN_BIN = 15  # images; of fewer, a share says little
TEMPERATURES = (0.05, 20.0)  # the search stays between; a set without mistakes would have 0


@dataclass(frozen=True)
class Bin:
    """Images of neighbouring probability: the mean of what was predicted, and the share that came true."""

    predicted: float
    observed: float
    low: float  # Wilson's interval of the share, over images
    high: float
    images: int


def brier_of_each(probabilities: Floats, labels: Labels) -> Floats:
    """Return for each image the sum over classes of (probability - truth) squared, 0 to 2; their mean is the score.

    Of findings it is the mean over findings, 0 to 1.
    """
    if labels.ndim == 2:
        squares_of_findings: Floats = ((probabilities - labels) ** 2).mean(1)
        return squares_of_findings
    truth = np.eye(probabilities.shape[1])[labels]
    squares: Floats = ((probabilities - truth) ** 2).sum(1)
    return squares


def calibration_curve(scores: Floats, positive: NDArray[np.bool_]) -> list[Bin]:
    """Return images in up to ten bins of equal count, by their probability; equal probabilities share a bin."""
    order = np.argsort(scores, kind="stable")
    bins = max(1, min(BINS, len(scores) // LEAST_IN_BIN))
    cuts = np.linspace(0, len(scores), bins + 1).round().astype(int)[1:-1]
    ranked = scores[order]
    # A cut inside a run of equal probabilities moves to the run's beginning.
    starts = np.unique(np.concatenate([[0], np.searchsorted(ranked, ranked[cuts], "left")]))
    filled = []
    for start, end in zip(starts, [*starts[1:], len(scores)], strict=True):
        chosen = order[start:end]
        right = int(positive[chosen].sum())
        filled.append(
            Bin(float(scores[chosen].mean()), right / len(chosen), *wilson(right, len(chosen)), images=len(chosen))
        )
    return filled


def fit_temperature(probabilities: Floats, labels: Labels) -> float:
    """Return the temperature with the least loss on these images, between 0.05 and 20."""
    from scipy.optimize import minimize_scalar

    def loss(logarithm: float) -> float:
        cooled = tempered(probabilities, float(np.exp(logarithm)), are_findings=labels.ndim == 2)
        return float(loss_of_each(cooled, labels).mean())

    bounds = tuple(np.log(TEMPERATURES))
    minimum = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-6})
    return float(np.exp(minimum.x))


def tempered(probabilities: Floats, temperature: float, *, are_findings: bool = False) -> Floats:
    """Return the probabilities at that temperature: softmax of their logarithms divided by it, of findings sigmoid."""
    if are_findings:
        from scipy.special import expit, logit

        tempered_findings: Floats = expit(logit(np.clip(probabilities, SMALLEST, 1 - SMALLEST)) / temperature)
        return tempered_findings
    logs = np.log(np.maximum(probabilities, SMALLEST)) / temperature
    powers = np.exp(logs - logs.max(1, keepdims=True))
    scaled: Floats = powers / powers.sum(1, keepdims=True)
    return scaled
