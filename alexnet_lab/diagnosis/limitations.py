"""What speaks against the result of a run: how little data it rests on, what the data hides, how near a limit came.

A limitation is not a finding: nothing need be wrong with the network. It belongs beside the result, whatever that is.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from alexnet_lab.diagnosis.areas import Areas, areas_of
from alexnet_lab.diagnosis.evidence import Evidence
from alexnet_lab.diagnosis.findings import Finding, wrapped
from alexnet_lab.diagnosis.learning import confusion_of
from alexnet_lab.diagnosis.margins import nearest_limit
from alexnet_lab.diagnosis.proportions import newcombe, wilson
from alexnet_lab.diagnosis.thresholds import limit


@dataclass(frozen=True)
class Limitation:
    """One thing to know before believing a result: a few words, and a sentence with its figures."""

    title: str  # Test set
    text: str


def limitations(evidence: Evidence, findings: Collection[Finding]) -> list[Limitation]:
    """Return what speaks against a run's result: damage, the notes of its data, test size, gap, calibration, limits."""
    return [
        *(Limitation("Damaged record", f"{why}. It is left out.") for why in evidence.damages.values()),
        *(Limitation("Notes of the run", _sentence(note)) for note in evidence.provenance.get("notes", ())),
        *_test_size(evidence),
        *_gap(evidence),
        *_calibration(evidence),
        *_nearest(evidence, findings),
    ]


def describe_limitations(limits: Sequence[Limitation], width: int = 100) -> str:
    """Write limitations as lines of plain text."""
    return "\n".join(
        line for limitation in limits for line in wrapped(f"{limitation.title}: {limitation.text}", "  ", width, hang=2)
    )


def counts_of(evidence: Evidence, part: str) -> tuple[int, int] | None:
    """Return how many images of a part the tested weights got right, and of how many; None without a result."""
    if not evidence.result:
        return None
    confusion = confusion_of(evidence, part)
    if confusion is not None:
        return round(float(confusion.diagonal().sum())), round(float(confusion.sum()))
    figures: dict[str, Any] = evidence.result.get(part) or {}
    accuracy, images = figures.get("accuracy"), figures.get("images")
    if accuracy is None or not images or not 0 <= accuracy <= 1:
        return None
    return round(accuracy * images), int(images)


def constant_share(evidence: Evidence, part: str) -> tuple[str, float] | None:
    """Return the most frequent class of a part, and the share of its images that are of it; None without a result."""
    confusion = confusion_of(evidence, part)
    if confusion is None:
        return None
    images = confusion.sum(1)
    most, names = int(images.argmax()), evidence.provenance.get("classes", ())
    return names[most] if most < len(names) else f"class {most}", float(images[most] / images.sum())


def _test_size(evidence: Evidence) -> list[Limitation]:
    areas = areas_of(evidence, "test")
    if areas is not None:
        return _areas(areas)
    counts = counts_of(evidence, "test")
    if counts is None:
        return []
    low, high = wilson(*counts)
    return [
        Limitation(
            "Test set",
            f"{counts[1]:,} images: {_percent(counts)} right has a 95% interval of {100 * low:.1f} to "
            f"{100 * high:.1f}% ({100 * (high - low):.0f} points wide), for these weights on new images like these "
            "(Wilson, images independent).",
        )
    ]


def _areas(areas: Areas) -> list[Limitation]:
    """Say how wide the interval of the mean AUROC is, and which finding the test knows least of."""
    mean = areas.mean
    if mean.value is None or mean.low is None or mean.high is None:
        return [Limitation("Test set", f"{areas.images:,} images: {mean.method}.")]
    text = (
        f"{areas.images:,} images: a mean AUROC of {mean.value:.3f} over findings has a 95% interval of "
        f"{mean.low:.3f} to {mean.high:.3f}, for these weights on new images like these (DeLong, images independent)."
    )
    bounded = [(name, count, one) for name, count, one in areas.each if one.low is not None and one.high is not None]
    if bounded:
        name, count, one = max(bounded, key=lambda entry: (entry[2].high or 0) - (entry[2].low or 0))
        text += f" Least is known of {name}, which {count:,} of them have: {one.low:.3f} to {one.high:.3f}."
    return [Limitation("Test set", text)]


def _gap(evidence: Evidence) -> list[Limitation]:
    """Compare validation, by which the epoch was chosen, with test."""
    validation, test = counts_of(evidence, "validation"), counts_of(evidence, "test")
    if validation is None or test is None:
        return []
    low, high = newcombe(validation, test)
    gap = validation[0] / validation[1] - test[0] / test[1]
    text = (
        f"{_percent(validation)} of {validation[1]:,} validation images against {_percent(test)} of {test[1]:,} test "
        f"images: {abs(100 * gap):.1f} points {'less' if gap > 0 else 'more'} on test, 95% interval of validation less "
        f"test {_points(low)} to {_points(high)}."
    )
    if low > 0:
        text += " That is more than chance: the epoch was chosen on validation, or the two parts differ in kind."
    return [Limitation("Validation and test", text)]


def _calibration(evidence: Evidence) -> list[Limitation]:
    error = (evidence.result.get("test") or {}).get("calibration_error")
    bound = limit("calibration_error")
    if error is None or error < bound.value:
        return []
    text = (
        f"The confidence of the network is off by {100 * error:.0f} points on average (calibration error {error:.2f} "
        f"on test, limit {bound.value:g}): its probabilities are not to be taken at their word."
    )
    return [Limitation("Calibration", text)]


def _nearest(evidence: Evidence, findings: Collection[Finding]) -> list[Limitation]:
    margin = nearest_limit(evidence, findings)
    if margin is None or margin.share < limit("near_limit").value:
        return []
    name = margin.finding.replace("-", " ")
    return [Limitation("Nearest to a limit", f"{margin.text} Beyond it there would be a finding: {name}.")]


def _percent(counts: tuple[int, int]) -> str:
    return f"{100 * counts[0] / counts[1]:.1f}%"


def _points(value: float) -> str:
    return f"{100 * value:+.1f}".replace("-", "−")


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}" + ("" if text.endswith(".") else ".")
