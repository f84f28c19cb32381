"""Rule on a network that may do no better than one constant answer: always the class that is most frequent.

Both answer the same images, so only those count on which one is right and the other wrong: of two shares of the same
images the difference is known better than each of them. The confusion matrix of the verdict says how many these are,
for the weights that were tested. Of those that the run ended with, only the share is on record.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from alexnet_lab.diagnosis.evidence import Evidence, Floats
from alexnet_lab.diagnosis.findings import SEVERITIES, Finding, Severity
from alexnet_lab.diagnosis.learning import class_collapse, confusion_of, no_learning
from alexnet_lab.diagnosis.thresholds import limit


@dataclass(frozen=True)
class Comparison:
    """A network against one constant answer, on the images of one part of the split."""

    part: str  # validation, test; or validation after the last epoch
    images: int
    answer: str  # the class that is most frequent there
    accuracy: float
    constant: float  # the share of that class
    difference: tuple[float, float, float]  # accuracy less constant: as counted, and its interval
    balanced: tuple[float, float, float]  # balanced accuracy: as counted, and its interval
    guessing: float  # the balanced accuracy of any constant answer
    auroc: float
    is_tested: bool = True  # the weights that were tested; else those that the run ended with

    @property
    def is_better(self) -> bool:
        """Say whether the network surely does better than the constant answer."""
        return self.difference[1] > 0

    @property
    def tells_apart(self) -> bool:
        """Say whether it surely tells the classes apart, however often it is right."""
        return self.balanced[1] > self.guessing

    def __str__(self) -> str:
        difference, low, high = (100 * value for value in self.difference)
        return (
            f"{self.part.capitalize()}: {100 * self.accuracy:.1f}% of {self.images} images right, always "
            f"{self.answer} is right on {100 * self.constant:.1f}%; difference {difference:+.1f} points, 95% interval "
            f"[{low:+.1f}, {high:+.1f}], {'paired by image' if self.is_tested else 'pairs are not on record'}."
        )


def constant_answer(evidence: Evidence) -> list[Finding]:
    """Find a network that is right no more often than the most frequent class is shown, or not surely more often."""
    if class_collapse(evidence) or no_learning(evidence):
        return []  # which say more
    compared = (_compared(evidence, "validation"), _at_the_end(evidence), _compared(evidence, "test"))
    parts = [comparison for comparison in compared if comparison is not None]
    beaten = [comparison for comparison in parts if comparison.difference[0] <= 0]
    better = [comparison for comparison in parts if comparison.is_better and comparison.is_tested]
    concerned = [
        comparison
        for comparison in parts
        if comparison in beaten or (comparison.is_tested and not comparison.is_better)
    ]
    if not concerned:
        return []
    worst = min(concerned, key=lambda comparison: comparison.difference[0])
    # What another part of the split says against it makes it one step less serious; so does balanced accuracy.
    against = all(comparison.tells_apart for comparison in concerned)
    severity: Severity = SEVERITIES[min(2, (not beaten) + bool(better) + against)]
    return [
        Finding(
            name="no-better-than-constant",
            severity=severity,
            title=("No better" if beaten else "Not surely better")
            + f" than always answering {worst.answer}: right on {100 * worst.accuracy:.1f}% of {worst.images} "
            f"images in {worst.part}, against {100 * worst.constant:.1f}%",
            sentence="Always naming the most frequent class, without looking at an image, is right as often."
            if beaten
            else "It is right a little more often than always naming the most frequent class, without looking at an "
            "image; on so few images that may be chance.",
            evidence=" ".join(map(str, parts)),
            threshold=str(limit("constant_interval")),
            contrary=_speaking_against(evidence, concerned, better),
            remedy="Train for longer while the loss still falls; judge by balanced accuracy where classes are unequal "
            "(best_by balanced_accuracy), and take more images of the rare ones. See the findings beside this one for "
            "a cause.",
            epochs=(int(evidence.verdict["result"].get("tested_epoch", 0)),),
            numbers={
                "accuracy": worst.accuracy,
                "constant": worst.constant,
                "difference": worst.difference[0],
                "low": worst.difference[1],
                "high": worst.difference[2],
                "images": worst.images,
            },
        )
    ]


def paired_difference(first_alone: float, second_alone: float, count: float) -> tuple[float, float, float]:
    """Return the difference of two shares of the same images, and its interval.

    first_alone of count are right by the first answer only, second_alone by the second only. Half an image is added to
    each of the four cells (Agresti and Min 2005), so that the interval keeps its word on few images too.
    """
    both = first_alone + second_alone + 1
    centre = (first_alone - second_alone) / (count + 2)
    error = (both - (first_alone - second_alone) ** 2 / (count + 2)) ** 0.5 / (count + 2)
    reach = limit("constant_interval").value * error
    return (first_alone - second_alone) / count, centre - reach, centre + reach


def _compared(evidence: Evidence, part: str) -> Comparison | None:
    confusion = confusion_of(evidence, part)
    if confusion is None or (confusion.sum(1) > 0).sum() < 2:
        return None
    metrics: dict[str, Any] = evidence.verdict["result"][part]
    images, right = confusion.sum(1), confusion.diagonal()
    most, count = int(images.argmax()), float(confusion.sum())
    names = evidence.provenance.get("classes", ())
    auroc = metrics.get("auroc")
    return Comparison(
        part=part,
        images=int(count),
        answer=f"{names[most]!r}" if most < len(names) else f"class number {most}",
        accuracy=float(right.sum() / count),
        constant=float(images[most] / count),
        difference=paired_difference(float(right.sum() - right[most]), float(images[most] - right[most]), count),
        balanced=_balanced(images[images > 0], right[images > 0]),
        guessing=1 / int((images > 0).sum()),
        auroc=float("nan") if auroc is None else float(auroc),
    )


def _at_the_end(evidence: Evidence) -> Comparison | None:
    """Compare the last epoch, if another one was tested; its interval takes the two shares as of different images."""
    confusion, epochs = confusion_of(evidence, "validation"), evidence.epochs
    names = ("accuracy", "balanced_accuracy", "auroc")
    last = [float(curve[-1]) for name in names if len(curve := evidence.curve(f"validation_{name}"))]
    tested = _compared(evidence, "validation")
    if confusion is None or tested is None or not epochs or not np.isfinite(last[:2]).all():
        return None
    if epochs[-1] == evidence.verdict["result"].get("tested_epoch"):
        return None
    accuracy, balanced, auroc = last
    images = confusion.sum(1)[confusion.sum(1) > 0]
    reach = limit("constant_interval").value
    variance = (accuracy * (1 - accuracy) + tested.constant * (1 - tested.constant)) / tested.images
    apart = accuracy - tested.constant
    error = (balanced * (1 - balanced) * (1 / images).sum()) ** 0.5 / len(images)
    return replace(
        tested,
        part=f"validation after the last epoch ({epochs[-1]})",
        accuracy=accuracy,
        difference=(apart, apart - reach * variance**0.5, apart + reach * variance**0.5),
        balanced=(balanced, balanced - reach * error, balanced + reach * error),
        auroc=auroc,
        is_tested=False,
    )


def _balanced(images: Floats, right: Floats) -> tuple[float, float, float]:
    """Return the mean recall of the classes and its interval, each recall with one success and one failure added."""
    recall = (right + 1) / (images + 2)
    error = float((recall * (1 - recall) / (images + 2)).sum() ** 0.5 / len(images))
    reach = limit("constant_interval").value * error
    return float((right / images).mean()), float(recall.mean()) - reach, float(recall.mean()) + reach


def _speaking_against(evidence: Evidence, concerned: list[Comparison], better: list[Comparison]) -> str:
    sentences = [f"In {comparison.part} the tested weights surely do better." for comparison in better]
    looked_at = []
    for comparison in concerned:
        value, low, high = comparison.balanced
        figures = f"Balanced accuracy in {comparison.part} is {value:.3f} [{low:.3f}, {high:.3f}], guessing gives "
        figures += f"{comparison.guessing:.3f}"
        if np.isfinite(comparison.auroc):
            figures += f"; AUROC is {comparison.auroc:.3f}, guessing has 0.5"
        if comparison.tells_apart:
            sentences.append(f"{figures}: the classes are told apart, though the network is hardly right more often.")
        elif comparison.auroc > limit("auroc_orders").value:
            sentences.append(
                f"{figures}: the scores order the images, though the largest is often that of the wrong class."
            )
        else:
            looked_at.append(f"{figures}.")
    loss = evidence.curve("train_loss")
    if len(loss) > 1 and loss[-1] < loss[0]:
        sentences.append(f"The training loss fell from {loss[0]:.3f} to {loss[-1]:.3f}, so something is being learned.")
    return (
        " ".join(sentences + looked_at) if sentences else f"None: the training loss did not fall. {' '.join(looked_at)}"
    )
