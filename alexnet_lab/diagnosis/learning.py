"""Rules on learning curves and verdicts: divergence, no learning, one class only, overfitting.

They need no instruments.
"""

import re
from typing import Any

import numpy as np

from alexnet_lab.diagnosis.evidence import Evidence, Floats
from alexnet_lab.diagnosis.findings import Finding
from alexnet_lab.diagnosis.numbers import written
from alexnet_lab.diagnosis.thresholds import limit
from alexnet_lab.training.metrics import read_confusion


def diverged(evidence: Evidence) -> list[Finding]:
    """Find a loss that stopped being a number: at which step, and in which layer first."""
    if evidence.verdict.get("state") != "diverged":
        return []
    why = str(evidence.verdict.get("why", ""))
    place = re.search(r"at step (\d+), epoch (\d+)", why)
    layer = re.search(r"(?:made|output of) (\S+) (?:infinite|is the first)", why)
    step, epoch = (int(place[1]), int(place[2])) if place else (0, 0)
    layers = (layer[1],) if layer else ()
    rate = evidence.recipe.get("learning_rate")
    return [
        Finding(
            name="diverged",
            severity="serious",
            title="The run diverged" + (f" at step {step}" if step else "") + (f", in {layers[0]}" if layers else ""),
            sentence="The loss became infinite or not a number; from there on nothing can be learned.",
            evidence=f"{why[:1].upper()}{why[1:]}." if why else "The verdict of the run says so and gives no reason.",
            threshold="a loss that is a finite number: no choice of ours",
            contrary=_growth_before(evidence),
            remedy="Divide the learning rate by ten"
            + (f" (it was {written(rate)})" if isinstance(rate, float) else "")
            + ", let it rise over the first epochs (warmup_epochs), or bound the gradient (clip_norm 1).",
            layers=layers,
            epochs=(epoch,) if epoch else (),
            numbers={"step": step} if step else {},
        )
    ]


def _growth_before(evidence: Evidence) -> str:
    """Say whether the gradient grew before the end."""
    if not evidence.measured_epochs:
        return "Whether the gradient grew before that, or one batch did it, these records cannot say: no instruments."
    total = evidence.whole_gradient()
    finite = total[np.isfinite(total)]
    if len(finite) < 3:
        return f"Only {len(finite)} steps with a finite gradient were measured: too few to see it grow."
    growth = finite[-1] / max(float(np.median(finite[:-1])), np.finfo(float).tiny)
    if growth > limit("gradient_growth").value:
        return (
            f"None: the norm of the gradient had grown to {written(growth, 3)} times its median over {len(finite)} "
            "measured steps before the end."
        )
    return (
        f"The norm of the last finite gradient was {written(growth, 2)} times the median of {len(finite)} measured "
        "steps, so it did not build up: a single batch, or an image that is not finite, may be at fault rather than "
        "the rate."
    )


def class_collapse(evidence: Evidence) -> list[Finding]:
    """Find a network with one answer, by its confusion matrix, or by a balanced accuracy of exactly 1/K."""
    confusion = confusion_of(evidence, "validation")
    if confusion is not None:
        return _collapsed_by_confusion(evidence, confusion)
    balanced = evidence.curve("validation_balanced_accuracy")
    if evidence.classes < 2 or len(balanced) < 2 or not np.allclose(balanced[-2:], 1 / evidence.classes, atol=1e-9):
        return []
    return [
        _collapse(
            evidence,
            "one class",
            f"Balanced accuracy was exactly 1/{evidence.classes} in epochs {evidence.epochs[-2]} and "
            f"{evidence.epochs[-1]}{_of_images(evidence, 'validation')}: so it is when one class gets every image.",
            "two epochs at exactly 1/K; the confusion matrix is not written before the end",
            evidence.epochs[-2:],
            {"balanced_accuracy": float(balanced[-1])},
        )
    ]


def _collapsed_by_confusion(evidence: Evidence, confusion: Floats) -> list[Finding]:
    predicted, present = confusion.sum(0) / confusion.sum(), int((confusion.sum(1) > 0).sum())
    if present < 2 or predicted.max() < limit("one_class_share").value:
        return []
    favourite = int(predicted.argmax())
    names = evidence.provenance.get("classes", ())
    name = f"class {names[favourite]!r}" if favourite < len(names) else f"class number {favourite}"
    tested = int(evidence.verdict["result"].get("tested_epoch", 0))
    return [
        _collapse(
            evidence,
            name,
            f"Of {int(confusion.sum())} validation images, {int(confusion.sum(0)[favourite])} were taken for {name}, "
            f"and {int(confusion.sum(1)[favourite])} are of it (epoch {tested}, the one that was tested).",
            str(limit("one_class_share")),
            (tested,),
            {"share": float(predicted.max()), "images": float(confusion.sum())},
        )
    ]


def _collapse(
    evidence: Evidence, what: str, observation: str, threshold: str, epochs: tuple[int, ...], numbers: dict[str, float]
) -> Finding:
    auroc = evidence.curve("validation_auroc")
    ranks = float(auroc[-1]) if len(auroc) else float("nan")
    if ranks > limit("auroc_orders").value:
        contrary = (
            f"AUROC is {ranks:.3f} in the last epoch: the scores do order the images, so the classes may be told apart "
            "and only the largest score is always the same one."
        )
    elif np.isfinite(ranks):
        contrary = f"None: AUROC is {ranks:.3f} in the last epoch, so the scores do not order the images either."
    else:
        contrary = "AUROC, which would tell whether the scores order the images, is not in these records."
    return Finding(
        name="class-collapse",
        severity="serious",
        title=f"Every image is taken for {what}",
        sentence="The network gives one answer to every image; its accuracy is the share of that class.",
        evidence=observation,
        threshold=threshold,
        contrary=contrary,
        remedy="Look for the cause among the other findings first (rate, scale, dead units); with rare classes, judge "
        "by balanced accuracy (best_by balanced_accuracy) and train for longer.",
        epochs=epochs,
        numbers=numbers,
    )


def no_learning(evidence: Evidence) -> list[Finding]:
    """Find a run that guesses, on training and on validation images alike."""
    classes, balanced, loss = (
        evidence.classes,
        evidence.curve("validation_balanced_accuracy"),
        evidence.curve("train_loss"),
    )
    images = evidence.images.get("validation", 0)
    if classes < 2 or not images or not np.isfinite(balanced).any() or class_collapse(evidence):
        return []
    guess = 1 / classes
    most = guess + limit("chance_deviations").value * (guess * (1 - guess) / images) ** 0.5
    chance_loss = loss_of_guessing(evidence)
    if np.nanmax(balanced) > most or not loss[-1] >= limit("flat_loss").value * chance_loss:
        return []
    epochs = len(balanced)
    return [
        Finding(
            name="no-learning",
            severity="serious" if epochs > 2 else "warning",
            title="Nothing was learned: the network guesses",
            sentence="After training it is right no more often than by guessing.",
            evidence=f"Best balanced accuracy on {images} validation images {np.nanmax(balanced):.3f}, guessing gives "
            f"{guess:.3f}; training loss {loss[-1]:.3f} in epoch {evidence.epochs[-1]}, guessing gives "
            f"{chance_loss:.3f}.",
            threshold=f"balanced accuracy {most:.3f}, {limit('chance_deviations')}; and {limit('flat_loss')}",
            contrary=_trend(loss, epochs),
            remedy="See the findings beside this one for a cause; without any, try a rate ten times larger, then one "
            "ten times smaller, init he with input_scale unit, and look at the images with their labels.",
            epochs=evidence.epochs,
            numbers={"balanced_accuracy": float(np.nanmax(balanced)), "guess": guess, "images": images},
        )
    ]


def _trend(loss: Floats, epochs: int) -> str:
    if epochs < 3:
        return f"It was only {epochs} epoch{'s' * (epochs > 1)}: some networks stay at chance that long and learn then."
    falls = int((np.diff(loss) < 0).sum())
    return (
        f"The training loss fell in {falls} of {epochs - 1} steps from one epoch to the next, by "
        f"{loss[0] - loss[-1]:.3f} in all" + (": it may be a slow start." if falls > 0.8 * (epochs - 1) else ".")
    )


def overfitting(evidence: Evidence) -> list[Finding]:
    """Find the gap between training and validation accuracy, if it is more than chance could make it."""
    train, validation = evidence.curve("train_accuracy"), evidence.curve("validation_accuracy")
    if not len(train) or not np.isfinite([train[-1], validation[-1]]).all():
        return []
    gap = float(train[-1] - validation[-1])
    counts = [evidence.images.get(part, 0) for part in ("train", "validation")]
    error = sum(p * (1 - p) / n for p, n in zip((train[-1], validation[-1]), counts, strict=True) if n) ** 0.5
    lowest = gap - 1.96 * float(error)
    if gap < limit("generalisation_gap").value or lowest <= 0:
        return []
    loss = evidence.curve("validation_loss")
    best = int(np.nanargmin(loss)) if np.isfinite(loss).any() else len(loss) - 1
    risen = bool(loss[-1] > limit("loss_rise").value * loss[best])
    at_best = float(train[best] - validation[best])
    serious = gap >= limit("generalisation_gap_serious").value
    return [
        Finding(
            name="overfitting",
            severity="serious" if serious else "warning",
            title=f"Overfitting: {100 * gap:.0f} points between training and validation accuracy",
            sentence="The network is right more often on its training images than on images it has not seen: in part "
            "it has learned them by heart.",
            evidence=f"Accuracy {train[-1]:.3f} on {counts[0] or '?'} training images, {validation[-1]:.3f} on "
            f"{counts[1] or '?'} validation images in epoch {evidence.epochs[-1]}; the gap is {gap:.3f}, at least "
            f"{lowest:.3f} with 97.5% confidence. Validation loss {loss[-1]:.3f}, at its lowest {loss[best]:.3f} in "
            f"epoch {evidence.epochs[best]}.",
            threshold=str(limit("generalisation_gap_serious" if serious else "generalisation_gap")),
            contrary=f"Validation loss {'rose' if risen else 'did not rise'} by a tenth from its lowest"
            + ("" if risen else ", so the gap has cost nothing yet")
            + f"; in that epoch the gap was {at_best:.3f}. Training accuracy is taken while dropout and augmentation "
            "are on and weights still move, which makes the true gap larger, not smaller.",
            remedy="More dropout or augmentation (augment flip,crop), more weight decay, fewer epochs (patience), "
            "a narrower network, or more images.",
            epochs=evidence.epochs[-1:],
            numbers={"gap": gap, "lowest": lowest, "training_images": counts[0], "validation_images": counts[1]},
        )
    ]


def confusion_of(evidence: Evidence, part: str) -> Floats | None:
    """Return the confusion matrix of the tested weights on one part of the split, true classes in rows."""
    result: dict[str, Any] = evidence.verdict.get("result") or {}
    confusion = (result.get(part) or {}).get("confusion")
    matrix = read_confusion(confusion) if confusion else None
    return matrix if matrix is not None and matrix.sum() else None


def loss_of_guessing(evidence: Evidence) -> float:
    """Return the entropy of the classes' shares among the validation images; equal shares where they are not known.

    NaN of findings, whose shares the records do not have: no loss is then at, or above, guessing.
    """
    if evidence.has_findings:
        return float("nan")
    confusion = confusion_of(evidence, "validation")
    if confusion is None:
        return float(np.log(evidence.classes))
    shares = confusion.sum(1)[confusion.sum(1) > 0] / confusion.sum()
    return float(-(shares * np.log(shares)).sum())


def _of_images(evidence: Evidence, part: str) -> str:
    return f" on {evidence.images[part]} images" if part in evidence.images else ""
