"""All that is said of a network's predictions on one labelled set: figures, intervals, curves, mistakes.

>>> rules = fit_rules(validation, classes, "youden")     # thresholds and temperature, from validation alone
>>> assess("test", test, classes, rules).macro_auroc

Where images have several findings, these stand in the place of classes, each against its absence.

Shapes: N images, K classes.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from alexnet_lab.data.findings import positives
from alexnet_lab.evaluation import auroc as areas
from alexnet_lab.evaluation.calibration import Bin, calibration_curve, fit_temperature, tempered
from alexnet_lab.evaluation.decision_curve import THRESHOLDS, benefit_of_all
from alexnet_lab.evaluation.estimates import Estimate, wilson
from alexnet_lab.evaluation.resampling import REPLICATES, Units, percentile_interval, replicates, units_of
from alexnet_lab.evaluation.statistics import OF_CLASSES, Figures, Statistics
from alexnet_lab.evaluation.thresholds import Threshold, choose_threshold
from alexnet_lab.training.metrics import expected_calibration_error, finding_calibration_error

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]
Progress = Callable[[int, int], None]  # done, total
FEW = 20  # patients: below, no bootstrap interval is more than rough


@dataclass(frozen=True)
class Predicted:
    """Labelled images with the probabilities that a network gives to them."""

    names: tuple[str, ...]  # N: the file where one is known, else the number of the image
    labels: Labels  # N; N K of findings
    probabilities: Floats = field(repr=False)  # N K
    groups: NDArray[np.str_] | None = None  # N: the patient or slide

    @property
    def answers(self) -> Labels:
        """Return the most probable class of each image."""
        answers: Labels = self.probabilities.argmax(1)
        return answers

    @property
    def has_findings(self) -> bool:
        """Return whether images have several findings, and not one class each."""
        return self.labels.ndim == 2

    @property
    def positive(self) -> NDArray[np.bool_]:
        """Return whether each image is of each class, or has each finding, N K."""
        return positives(self.labels, self.probabilities.shape[1])

    def positive_of(self, k: int) -> NDArray[np.bool_]:
        """Return whether each image is of one class, or has one finding, N."""
        positive: NDArray[np.bool_] = self.labels[:, k] == 1 if self.has_findings else self.labels == k
        return positive

    def tempered(self, temperature: float) -> Floats:
        """Return the probabilities at that temperature, N K."""
        return tempered(self.probabilities, temperature, are_findings=self.has_findings)


@dataclass(frozen=True)
class Rules:
    """What was chosen on the validation images and applies to every other set."""

    rule: str
    thresholds: tuple[Threshold | None, ...]  # K
    temperature: float


@dataclass(frozen=True)
class ClassAssessment:
    """One class against all others, or one finding against its absence."""

    name: str
    images: int
    units: int  # patients, or images, with an image of the class
    threshold: float | None
    auroc_delong: Estimate
    figures: dict[str, Estimate]  # of statistics.OF_CLASSES, by the bootstrap
    brier: float  # of this class against the rest, 0 to 1
    calibration: list[Bin]
    calibration_tempered: list[Bin]
    net_benefit: list[float]  # at decision_curve.THRESHOLDS
    net_benefit_low: list[float | None]
    net_benefit_high: list[float | None]
    benefit_of_all: list[float]


@dataclass(frozen=True)
class Mistake:
    """An image whose most probable class is not its own; or a finding of it on the wrong side of the threshold."""

    image: int  # its place in the set
    name: str
    true: str
    predicted: str
    confidence: float
    probability_of_true: float


@dataclass(frozen=True)
class Assessment:
    """A set of predictions, assessed."""

    part: str
    images: int
    population: str  # what the intervals are about
    unit: str  # "patients" or "images"
    units: int
    replicates: int
    macro_auroc_delong: Estimate
    figures: dict[str, Estimate]  # of Statistics.names, by the bootstrap
    calibration_error: float
    calibration_error_tempered: float
    confusion: list[list[int]]  # true classes in rows; empty of findings
    # "TRUE as PREDICTED", of findings "Mass missed" and "Mass, false alarm": names of images, most confident first
    cells: dict[str, list[str]]
    classes: list[ClassAssessment]
    mistakes: list[Mistake]  # most confident first
    notes: list[str]
    resampled: Figures = field(repr=False, compare=False)  # of every replicate, for differences between sets


def fit_rules(validation: Predicted, rule: str = "youden") -> Rules:
    """Choose thresholds and fit the temperature on validation images."""
    scores, positive = validation.probabilities, validation.positive
    thresholds = [choose_threshold(scores[:, k], positive[:, k], rule) for k in range(scores.shape[1])]
    return Rules(rule, tuple(thresholds), fit_temperature(scores, validation.labels))


def assess(
    part: str,
    predicted: Predicted,
    classes: Sequence[str],
    rules: Rules,
    count: int = REPLICATES,
    progress: Progress = lambda _done, _total: None,
) -> Assessment:
    """Assess the predictions for a set that had no say in the rules. Refuses images of one class only."""
    labels, probabilities = predicted.labels, predicted.probabilities
    _refuse_one_answer(part, predicted, classes)
    units = units_of(predicted.groups, len(labels))
    cooled = predicted.tempered(rules.temperature)
    cuts = [None if threshold is None else threshold.value for threshold in rules.thresholds]
    statistics = Statistics(labels, probabilities, cooled, cuts)
    observed = statistics.figures(np.ones((1, len(labels))))
    if units.count > 1:
        drawn = statistics.from_rows(replicates(statistics.rows, units, count, progress=progress))
    else:
        drawn = statistics.from_rows(np.full((1, statistics.width), np.nan))
    calibration_error = finding_calibration_error if predicted.has_findings else expected_calibration_error
    mistakes = _wrong_findings(predicted, classes, cuts) if predicted.has_findings else _mistakes(predicted, classes)
    return Assessment(
        part=part,
        images=len(labels),
        population=_population(part, units),
        unit=units.word,
        units=units.count,
        replicates=count if units.count > 1 else 0,
        macro_auroc_delong=areas.macro_auroc(probabilities, labels),
        figures={
            name: _estimate(
                observed.overall[name], drawn.overall[name], units, len(labels) if name == "accuracy" else None
            )
            for name in statistics.names
        },
        calibration_error=calibration_error(probabilities, labels),
        calibration_error_tempered=calibration_error(cooled, labels),
        confusion=[]
        if predicted.has_findings
        else [
            np.bincount(predicted.answers[labels == k], minlength=len(classes)).tolist() for k in range(len(classes))
        ],
        cells=_cells_of_findings(mistakes) if predicted.has_findings else _cells(predicted, classes),
        classes=[
            _of_class(k, name, predicted, cooled[:, k], cuts[k], units, observed, drawn)
            for k, name in enumerate(classes)
        ],
        mistakes=mistakes,
        notes=_notes(part, predicted, classes, rules, units),
        resampled=drawn,
    )


def _refuse_one_answer(part: str, predicted: Predicted, classes: Sequence[str]) -> None:
    """Refuse a set without any class, or finding, that some images have and others lack."""
    counts, images = predicted.positive.sum(0), len(predicted.labels)
    if ((counts > 0) & (counts < images)).any():
        return
    if predicted.has_findings:
        raise ValueError(
            f"the {part} set must have images with and without at least one finding; all of its {images} images have, "
            "or lack, each: add others"
        )
    present = np.unique(predicted.labels)
    held = f"{images} images of {classes[present[0]]!r}" if len(present) else "no image"
    raise ValueError(
        f"the {part} set must have images of at least two classes, since sensitivity and specificity need both; it "
        f"has {held}: add images of another class"
    )


def drop(of: Assessment, since: Assessment, name: str = "auroc") -> Estimate:
    """Return a figure of one set less that of another, with the bootstrap's interval; the sets share no image."""
    first, second = of.figures[name].value, since.figures[name].value
    if first is None or second is None:
        return Estimate(None, method="one of the sets does not define it")
    one, two = of.resampled.overall[name], since.resampled.overall[name]
    count = min(len(one), len(two))
    # Both sets are drawn by one generator; turning one of them round keeps the draws apart.
    ends = percentile_interval(one[:count] - two[:count][::-1], min(of.units, since.units))
    if ends is None:
        return Estimate(first - second, method="no interval: one of the sets shows no spread")
    return Estimate(first - second, *ends, method=f"bootstrap over {of.unit} and {since.unit}")


def _population(part: str, units: Units) -> str:
    of_whom = f"other {units.word} like the {units.count:,} of the {part} set"
    return f"{of_whom}, for these trained weights; other training runs and training sets are not in the interval"


def _of_class(
    k: int,
    name: str,
    predicted: Predicted,
    cooled: Floats,
    threshold: float | None,
    units: Units,
    observed: Figures,
    drawn: Figures,
) -> ClassAssessment:
    scores, positive = predicted.probabilities[:, k], predicted.positive_of(k)
    denominators = _denominators(scores, positive, threshold, units)
    benefit = drawn.net_benefit[k]
    ends = [percentile_interval(column, units.count) or (None, None) for column in benefit.T]
    return ClassAssessment(
        name=name,
        images=int(positive.sum()),
        units=len(np.unique(units.of_image[positive])),
        threshold=threshold,
        auroc_delong=areas.auroc(scores, positive),
        figures={
            figure: _estimate(observed.of_class[k][figure], drawn.of_class[k][figure], units, denominators.get(figure))
            for figure in OF_CLASSES
        }
        if threshold is not None
        else {"auroc": _estimate(observed.of_class[k]["auroc"], drawn.of_class[k]["auroc"], units, None)},
        brier=float(((scores - positive) ** 2).mean()),
        calibration=calibration_curve(scores, positive),
        calibration_tempered=calibration_curve(cooled, positive),
        net_benefit=observed.net_benefit[k][0].tolist(),
        net_benefit_low=[low for low, _ in ends],
        net_benefit_high=[high for _, high in ends],
        benefit_of_all=benefit_of_all(float(positive.mean()), THRESHOLDS).tolist(),
    )


def _denominators(scores: Floats, positive: NDArray[np.bool_], threshold: float | None, units: Units) -> dict[str, int]:
    """Return how many patients, or images, each share of a class is over."""
    if threshold is None:
        return {}
    called = scores >= threshold
    over = {
        "sensitivity": positive,
        "specificity": ~positive,
        "positive predictive value": called,
        "negative predictive value": ~called,
    }
    return {name: len(np.unique(units.of_image[chosen])) for name, chosen in over.items()}


def _estimate(observed: Floats, drawn: Floats, units: Units, share_over: int | None) -> Estimate:
    """Give a figure its interval; a share of which no replicate shows another value gets Wilson's."""
    value = float(observed[0])
    if not math.isfinite(value):
        return Estimate(None, method="these images do not define it")
    ends = percentile_interval(drawn, units.count)
    if ends is not None:
        return Estimate(value, *ends, method=f"bootstrap over {units.word}")
    if units.count < 2:
        return Estimate(value, method=f"no interval: one needs at least two {units.word}")
    if share_over and value in (0.0, 1.0):
        return Estimate(value, *wilson(value * share_over, share_over), method=f"Wilson, {share_over} {units.word}")
    return Estimate(value, method=f"no interval: too few {units.word} for the bootstrap")


def _cells(predicted: Predicted, classes: Sequence[str]) -> dict[str, list[str]]:
    confidence = predicted.probabilities.max(1)
    cells: dict[str, list[str]] = {}
    for image in np.argsort(-confidence, kind="stable"):
        cell = f"{classes[predicted.labels[image]]} as {classes[predicted.answers[image]]}"
        cells.setdefault(cell, []).append(predicted.names[image])
    return cells


def _mistakes(predicted: Predicted, classes: Sequence[str]) -> list[Mistake]:
    confidence, answers = predicted.probabilities.max(1), predicted.answers
    wrong = np.flatnonzero(answers != predicted.labels)
    return [
        Mistake(
            int(image),
            predicted.names[image],
            classes[predicted.labels[image]],
            classes[answers[image]],
            float(confidence[image]),
            float(predicted.probabilities[image, predicted.labels[image]]),
        )
        for image in wrong[np.argsort(-confidence[wrong], kind="stable")]
    ]


def _wrong_findings(predicted: Predicted, findings: Sequence[str], thresholds: Sequence[float | None]) -> list[Mistake]:
    """Return the findings on the wrong side of their threshold, those farthest from it in odds first."""
    from scipy.special import logit

    scores, positive = np.clip(predicted.probabilities, 1e-12, 1 - 1e-12), predicted.positive
    cuts = np.array([np.nan if threshold is None else threshold for threshold in thresholds])
    wrong = ((predicted.probabilities >= cuts) != positive) & np.isfinite(cuts)
    away = np.abs(logit(scores) - logit(np.clip(cuts, 1e-12, 1 - 1e-12)))
    images, which = np.nonzero(wrong)
    order = np.argsort(-away[images, which], kind="stable")
    mistakes = []
    for image, k in zip(images[order], which[order], strict=True):
        name, has = findings[k], bool(positive[image, k])
        probability = float(predicted.probabilities[image, k])
        of_truth = probability if has else 1 - probability
        true, called = (name, f"no {name}") if has else (f"no {name}", name)
        mistakes.append(Mistake(int(image), predicted.names[image], true, called, 1 - of_truth, of_truth))
    return mistakes


def _cells_of_findings(mistakes: Sequence[Mistake]) -> dict[str, list[str]]:
    cells: dict[str, list[str]] = {}
    for one in mistakes:
        is_miss = one.predicted == f"no {one.true}"
        cells.setdefault(f"{one.true} missed" if is_miss else f"{one.predicted}, false alarm", []).append(one.name)
    return cells


def _notes(part: str, predicted: Predicted, classes: Sequence[str], rules: Rules, units: Units) -> list[str]:
    notes = []
    counts = predicted.positive.sum(0)
    absent = [name for name, count in zip(classes, counts, strict=True) if not count]
    if absent and predicted.has_findings:
        notes.append(
            f"no image of the {part} set has {', '.join(absent)}: there is no AUROC of it, and no mean has one"
        )
    elif absent:
        notes.append(f"the {part} set has no image of {', '.join(absent)}: its figures are left out of every mean")
    always = [name for name, count in zip(classes, counts, strict=True) if count == len(predicted.labels)]
    if always:
        notes.append(f"every image of the {part} set has {', '.join(always)}: there is no AUROC of it")
    unchosen = [name for name, threshold in zip(classes, rules.thresholds, strict=True) if threshold is None]
    if unchosen:
        lacks = "all images of validation have, or lack," if predicted.has_findings else "validation has no image of"
        notes.append(f"{lacks} {', '.join(unchosen)}: no threshold could be chosen on it")
    if units.count == 1:
        notes.append(
            f"all {len(predicted.labels)} images of the {part} set are of one patient: an interval over patients needs "
            "at least two, so there is none"
        )
    elif units.word == "images":
        notes.append(
            f"no patient is known for the {part} images: intervals suppose independent images, and are too narrow if "
            "several are of one patient"
        )
    elif units.count < FEW:
        notes.append(f"{units.count} patients are few: intervals from fewer than {FEW} are rough")
    return notes
