"""Figures of an evaluation: ROC curves, calibration curves, decision curves."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from alexnet_lab.evaluation.assessment import ClassAssessment, Predicted
from alexnet_lab.evaluation.calibration import Bin
from alexnet_lab.evaluation.decision_curve import THRESHOLDS
from alexnet_lab.reports.curves import DASHES
from alexnet_lab.reports.drawing import Drawing, label
from alexnet_lab.reports.page import Figure, Table, decimals
from alexnet_lab.reports.palette import LIGHT, SERIES

Floats = NDArray[np.float64]
MOST_POINTS = 150  # of one ROC curve in the page; of more, evenly spaced ones are drawn


def roc_figure(name: str, predicted: Predicted, classes: Sequence[ClassAssessment]) -> Figure:
    """Draw the ROC curve of each class against the rest, with the threshold of validation as a dot."""
    drawing = Drawing(height=330)
    axes = drawing.axes()
    axes.plot([0, 1], [0, 1], color=LIGHT["edge"], linewidth=1, linestyle=(0, (4, 3)))
    rows: list[list[object]] = []
    for at, one in enumerate(classes):
        alarms, hits = roc_points(predicted.probabilities[:, at], predicted.positive_of(at))
        if not len(alarms):
            continue
        colour = SERIES[at % len(SERIES)]
        axes.plot(
            alarms, hits, color=colour, linestyle=DASHES[at // len(SERIES) % len(DASHES)], label=label(one.name, 20)
        )
        drawn = np.unique(np.linspace(0, len(alarms) - 1, min(len(alarms), MOST_POINTS)).round().astype(int))
        drawing.points(
            axes, one.name, alarms[drawn], hits[drawn],
            [f"sensitivity {hits[place]:.1%}" for place in drawn],
            [f"specificity {1 - alarms[place]:.1%}" for place in drawn],
        )  # fmt: skip
        sensitivity, specificity = (
            one.figures[word].value if word in one.figures else None for word in ("sensitivity", "specificity")
        )
        if sensitivity is not None and specificity is not None:
            axes.plot([1 - specificity], [sensitivity], marker="o", markersize=7, color=colour)
            rows.append([one.name, decimals(one.threshold), decimals(sensitivity), decimals(specificity)])
    _unit_square(axes, "1 − specificity", "sensitivity")
    axes.legend(loc="lower right", frameon=False, fontsize=10)
    return drawing.finish(
        name,
        "ROC curves",
        ("Each finding against its absence." if predicted.has_findings else "Each class against all others.")
        + " The dot is the threshold chosen on validation; the dashed line is chance.",
        Table(["finding" if predicted.has_findings else "class", "threshold", "sensitivity", "specificity"], rows),
    )


def roc_points(scores: Floats, positive: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Return 1 - specificity and sensitivity at every threshold, from none positive to all; empty without a class."""
    if positive.all() or not positive.any():
        return np.empty(0), np.empty(0)
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)  # the last of each run of equal scores
    hits, alarms = (np.cumsum(of[order])[ends] / of.sum() for of in (positive, ~positive))
    return np.concatenate([[0.0], alarms]), np.concatenate([[0.0], hits])


def calibration_figure(name: str, assessed: ClassAssessment, temperature: float) -> Figure:
    """Draw the calibration curve of one class, as predicted and after the temperature."""
    drawing = Drawing(height=300)
    axes = drawing.axes()
    axes.plot([0, 1], [0, 1], color=LIGHT["edge"], linewidth=1, linestyle=(0, (4, 3)))
    lines = (("as predicted", assessed.calibration), (f"temperature {temperature:.2f}", assessed.calibration_tempered))
    for at, (word, bins) in enumerate(lines):
        x, y = [bin_.predicted for bin_ in bins], [bin_.observed for bin_ in bins]
        colour = SERIES[at]
        if not at:
            axes.vlines(x, [bin_.low for bin_ in bins], [bin_.high for bin_ in bins], color=colour, linewidth=1)
        axes.plot(x, y, color=colour, marker="os"[at], markersize=5, linestyle=DASHES[at], label=word)
        drawing.points(axes, word, x, y, [f"predicted {value:.3f}" for value in x], [_came_true(bin_) for bin_ in bins])
    _unit_square(axes, f"probability of {assessed.name}", "share that came true")
    axes.legend(loc="upper left", frameon=False, fontsize=10)
    rows = [
        [word, decimals(bin_.predicted), decimals(bin_.observed), decimals(bin_.low), decimals(bin_.high), bin_.images]
        for word, bins in lines
        for bin_ in bins
    ]
    return drawing.finish(
        name,
        f"Calibration: {assessed.name}",
        "Bins of equal count. On the dashed line probabilities are right; bars are Wilson intervals over images.",
        Table(["curve", "predicted", "came true", "low", "high", "images"], rows),
    )


def decision_figure(name: str, assessed: ClassAssessment) -> Figure:
    """Draw the net benefit of acting on a class at every threshold, beside acting on all and on none."""
    drawing = Drawing(height=290)
    axes = drawing.axes()
    benefit, everyone = np.array(assessed.net_benefit), np.array(assessed.benefit_of_all)
    low, high = (np.array(ends, float) for ends in (assessed.net_benefit_low, assessed.net_benefit_high))
    axes.fill_between(THRESHOLDS, low, high, color=SERIES[0], alpha=0.2, lw=0)
    axes.plot(THRESHOLDS, benefit, color=SERIES[0], label="by the network")
    axes.plot(THRESHOLDS, everyone, color=SERIES[1], linestyle=DASHES[1], label="on everyone")
    axes.axhline(0, color=LIGHT["muted"], linewidth=1, label="on nobody")
    top = max(0.05, float(np.nanmax([benefit.max(), everyone[0], *high[np.isfinite(high)]])))
    axes.set_ylim(-0.25 * top, 1.6 * top)  # room for the words
    axes.set_xlim(0, 1)
    axes.set_xlabel("threshold probability")
    axes.set_ylabel("net benefit")
    drawing.points(
        axes, "by the network", THRESHOLDS, benefit,
        [f"threshold {value:.2f}" for value in THRESHOLDS],
        [f"net benefit {one:.3f}; on everyone {every:.3f}" for one, every in zip(benefit, everyone, strict=True)],
    )  # fmt: skip
    axes.legend(loc="upper right", frameon=False, fontsize=10)
    rows = [
        [
            decimals(float(at), 2),
            decimals(one),
            *(decimals(None if end is None else end) for end in ends),
            decimals(every),
        ]
        for at, one, ends, every in zip(
            THRESHOLDS,
            assessed.net_benefit,
            zip(assessed.net_benefit_low, assessed.net_benefit_high, strict=True),
            assessed.benefit_of_all,
            strict=True,
        )
    ]
    return drawing.finish(
        name,
        f"Net benefit: {assessed.name}",
        "Worth of acting on a prediction, in true positives per image. The band is pointwise, by the bootstrap.",
        Table(["threshold", "net benefit", "low", "high", "on everyone"], rows),
    )


def _value(assessed: ClassAssessment, figure: str) -> float | None:
    return assessed.figures[figure].value if figure in assessed.figures else None


def _came_true(bin_: Bin) -> str:
    return f"came true {bin_.observed:.3f} of {bin_.images} ({bin_.low:.3f} to {bin_.high:.3f})"


def _unit_square(axes: Axes, x_label: str, y_label: str) -> None:
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlabel(label(x_label, 40))
    axes.set_ylabel(y_label)
