"""How near a run came to the limits of the rules that found nothing.

A rule is left out here if it needs more than one number, such as a rate that is too high beside a loss that swings:
of those no distance can be said.
"""

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np

from alexnet_lab.diagnosis.evidence import Evidence
from alexnet_lab.diagnosis.findings import Finding
from alexnet_lab.diagnosis.learning import confusion_of
from alexnet_lab.diagnosis.numbers import written
from alexnet_lab.diagnosis.precision import largest_underflow
from alexnet_lab.diagnosis.thresholds import limit
from alexnet_lab.diagnosis.units import counted_at_end, limit_of


@dataclass(frozen=True)
class Margin:
    """One number of a run beside its limit."""

    finding: str  # the finding that the limit belongs to: dying-units
    text: str  # a sentence with the number and the limit
    share: float  # of the way from what is usual (0) to the limit (1)


def nearest_limit(evidence: Evidence, findings: Collection[Finding]) -> Margin | None:
    """Return the number that came nearest to its limit, among the rules that found nothing; None without any."""
    fired = {finding.name for finding in findings}
    margins = [margin for margin in _margins(evidence) if margin.finding not in fired and margin.share < 1]
    return max(margins, key=lambda margin: margin.share, default=None)


def _margins(evidence: Evidence) -> Iterator[Margin]:
    yield from _dead_units(evidence)
    yield from _gap(evidence)
    yield from _gradient(evidence)
    yield from _first_signal(evidence)
    yield from _one_class(evidence)
    underflow = largest_underflow(evidence)
    if underflow is not None:
        what, share = underflow
        bound = limit("underflow").value
        text = (
            f"{written(100 * share, 2)}% of the {what} are too small for the precision; the limit is {100 * bound:g}%."
        )
        yield Margin("precision-underflow", text, share / bound)


def _dead_units(evidence: Evidence) -> Iterator[Margin]:
    """Compare the dead share of every layer with the limit for its kind of unit, in the last epoch counted."""
    for silence in counted_at_end(evidence):
        dead, units, bound = len(silence.dead), len(silence.rate), limit_of(silence).value
        text = (
            f"{dead} of the {units} units of {silence.site.fed_by} are dead on {silence.inputs} inputs "
            f"({100 * dead / units:.0f}%); the limit is {100 * bound:g}%."
        )
        for finding in ("dying-units", "dead-at-start"):
            yield Margin(finding, text, dead / units / bound)


def _gap(evidence: Evidence) -> Iterator[Margin]:
    train, validation = evidence.curve("train_accuracy"), evidence.curve("validation_accuracy")
    if len(train) and np.isfinite([train[-1], validation[-1]]).all():
        gap, bound = float(train[-1] - validation[-1]), limit("generalisation_gap").value
        text = f"Training accuracy is {100 * gap:.1f} points above validation; the limit is {100 * bound:g}."
        yield Margin("overfitting", text, min(gap / bound, 0.99))  # beyond it, but not by more than chance


def _gradient(evidence: Evidence) -> Iterator[Margin]:
    if not evidence.measured_epochs:
        return
    epoch = evidence.measured_epochs[-1]
    for of, ratio in (
        ("weights", evidence.first_to_last(epoch)),
        ("activations", evidence.depth_ratio("activation gradient", epoch)),
    ):
        if ratio is None or not ratio > 0:
            continue
        for finding, name in (
            ("vanishing-gradients", "gradient_vanishes"),
            ("exploding-gradients", "gradient_explodes"),
        ):
            bound = limit(name).value
            text = (
                f"The gradient of the {of} is {written(ratio, 2)} times as large in the first layer as in the last; "
                f"the limit is {written(bound)}."
            )
            yield Margin(finding, text, math.log(ratio) / math.log(bound))


def _first_signal(evidence: Evidence) -> Iterator[Margin]:
    if not evidence.measured_epochs or not evidence.sites:
        return
    size = evidence.level("activation", 0, evidence.measured_epochs[0], first_window=True)
    if size is None or not size.rms > 0 or not math.isfinite(size.rms):
        return
    for name in ("first_signal_low", "first_signal_high"):
        bound = limit(name).value
        text = (
            f"The root mean square of what {evidence.sites[0].fed_by} puts out at first is {written(size.rms, 2)}; the "
            f"limit is {written(bound)}."
        )
        yield Margin("wrong-scale-for-init", text, math.log(size.rms) / math.log(bound))  # 1 is usual


def _one_class(evidence: Evidence) -> Iterator[Margin]:
    confusion = confusion_of(evidence, "validation")
    if confusion is None or confusion.shape[0] < 2:
        return
    share, bound = float((confusion.sum(0) / confusion.sum()).max()), limit("one_class_share").value
    usual = float((confusion.sum(1) / confusion.sum()).max())
    text = (
        f"{100 * share:.0f}% of the predictions are of one class, which {100 * usual:.0f}% of the images or fewer "
        f"show; the limit is {100 * bound:g}%."
    )
    if usual < bound:
        yield Margin("class-collapse", text, (share - usual) / (bound - usual))
