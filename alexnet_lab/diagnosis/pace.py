"""Rules on the size of steps and of signals: rate too low or too high, inputs that do not fit the initial values.

A rate is judged by what it does, the norm of the update over that of the weights, in the epoch where that is largest; a
schedule that ends near zero is not a fault. It is a finding only beside a symptom in the learning curve.
"""

import numpy as np

from alexnet_lab.diagnosis.evidence import Evidence
from alexnet_lab.diagnosis.findings import Finding
from alexnet_lab.diagnosis.learning import loss_of_guessing
from alexnet_lab.diagnosis.numbers import written
from alexnet_lab.diagnosis.thresholds import limit
from alexnet_lab.levels import parse_level


def rate_too_low(evidence: Evidence) -> list[Finding]:
    """Find updates far below a thousandth of the weights, in a run that has not learned much."""
    peak = _largest_ratio(evidence)
    if peak is None or not 0 < peak[1] < limit("update_ratio_low").value or not _is_slow(evidence):
        return []
    epoch, ratio = peak
    pull = _pull(evidence, epoch)
    return [
        Finding(
            name="rate-too-low",
            is_inside=True,
            severity="warning",
            title=f"Slow: an update changes the weights by {written(ratio, 1)} of their size at most",
            sentence="The steps are so small that the weights hardly leave their initial values in the time given.",
            evidence=f"Update over weights {written(ratio, 2)}, median over {len(evidence.trained)} layers and the "
            f"steps of epoch {epoch}, where it is largest. {_loss_in_words(evidence)}",
            threshold=str(limit("update_ratio_low")),
            contrary=f"The gradient is only {written(pull, 2)} of the weights, so the rate is not alone to blame: see "
            "whether the gradient vanishes."
            if pull < limit("gradient_over_weights").value
            else f"None: the gradient is {written(pull, 2)} of the weights, large enough: it is the rate that makes "
            "the steps small.",
            remedy=f"A rate ten times larger{_rate(evidence)}; then ten times again, until the loss no longer falls "
            "faster.",
            epochs=(epoch,),
            numbers={"update_ratio": ratio, "gradient_over_weights": pull},
        )
    ]


def rate_too_high(evidence: Evidence) -> list[Finding]:
    """Find updates far above a thousandth of the weights beside a loss that suffers from it, or a loss that swings."""
    symptom, peak = _suffering(evidence), _largest_ratio(evidence)
    swings = _swings(evidence)
    large = peak is not None and peak[1] > limit("update_ratio_high").value
    if not (large and symptom) and not swings:
        return []
    size = (
        f"Update over weights {written(peak[1], 2)}, median over {len(evidence.trained)} layers and the steps of epoch "
        f"{peak[0]}, where it is largest. "
        if peak
        else ""
    )
    if peak is None:
        contrary = "The size of the updates was not measured; small batches alone can make a loss swing."
    elif large:
        contrary = f"In the last epoch measured the ratio is {written(_ratio_at_end(evidence), 2)}" + (
            ", so that a schedule lowered it; the harm was done before." if _ratio_at_end(evidence) < peak[1] else "."
        )
    else:
        contrary = (
            f"The largest update ratio, {written(peak[1], 2)}, is not unusual (limit "
            f"{written(limit('update_ratio_high').value)}): small batches may make the loss swing rather than the rate."
        )
    return [
        Finding(
            name="rate-too-high",
            severity="serious" if large and symptom else "warning",
            title="The learning rate is too high" if large else "The training loss swings",
            sentence="Steps overshoot: what one update learns the next one undoes, and units may be pushed to where "
            "they are silent for good.",
            evidence=size + (symptom or swings),
            threshold=f"{limit('update_ratio_high')}" if large else str(limit("loss_swings")),
            contrary=contrary,
            remedy=f"A rate three to ten times smaller{_rate(evidence)}, warmup_epochs 1, clip_norm 1.",
            epochs=(peak[0],) if peak else evidence.epochs,
            numbers={"update_ratio": peak[1]} if peak else {},
        )
    ]


def misplaced_norm(evidence: Evidence) -> list[Finding]:
    """Find a norm away from its place beside a slow run whose signal changes size from layer to layer."""
    text, epochs = evidence.recipe.get("norm"), evidence.measured_epochs
    if not text or not epochs or not _is_slow(evidence):
        return []
    level = parse_level("norm", text)
    unusual = [str(level.placement)] if level.placement else []
    if level.layers:
        unusual.append("layers=" + ("all" if level.layers == "all" else "+".join(map(str, level.layers))))
    sizes = [evidence.level("activation", site, epochs[0], first_window=True) for site in range(len(evidence.sites))]
    measured = [(i, size.rms) for i, size in enumerate(sizes) if size is not None and size.rms > 0]
    if not unusual or len(measured) < 2:
        return []
    spread = max(rms for _, rms in measured) / min(rms for _, rms in measured)
    if spread < limit("signal_spread").value:
        return []
    spreads = ", ".join(f"{evidence.sites[i].fed_by} {written(rms, 2)}" for i, rms in measured)
    peak = _largest_ratio(evidence)
    return [
        Finding(
            name="misplaced-norm",
            is_inside=True,
            severity="warning",
            title=f"Slow, with {level.name} in an unusual place ({', '.join(unusual)})",
            sentence="A norm is there to keep the signal one size through the layers; from this place it does not.",
            evidence=f"Root mean square of what enters each activation, first window of epoch {epochs[0]}: {spreads}; "
            f"largest over smallest {written(spread, 2)}. {_loss_in_words(evidence)}",
            threshold=str(limit("signal_spread")),
            contrary="One run cannot tell the norm from the rest: the same recipe with the norm where it belongs, and "
            "with none, is the comparison (alexnet-lab ablate --norm). "
            f"The size of the updates is {written(peak[1] if peak else float('nan'), 2)} of the weights.",
            remedy=f"norm {level.name} without placement or layers, which puts it where it belongs; or norm bn.",
            layers=tuple(evidence.sites[i].fed_by for i, _ in measured),
            epochs=epochs[:1],
            numbers={"spread": spread},
        )
    ]


def wrong_scale(evidence: Evidence) -> list[Finding]:
    """Find inputs that do not fit the initial values: by what comes out of the first layer in the first steps."""
    if not evidence.measured_epochs or not evidence.sites:
        return []
    epoch = evidence.measured_epochs[0]
    size = evidence.level("activation", 0, epoch, first_window=True)
    low, high = limit("first_signal_low"), limit("first_signal_high")
    if size is None or not np.isfinite(size.rms):
        return []
    growth = _growth_in_first_epoch(evidence)
    # Weights that grow within the window enlarge the signal too, and that is no matter of the inputs.
    if low.value <= size.rms <= high.value * growth:
        return []
    warnings = [note for note in evidence.provenance.get("notes", ()) if "init" in note]
    last = evidence.level("activation", len(evidence.sites) - 1, epoch, first_window=True)
    learned = not _is_slow(evidence) and evidence.verdict.get("state") != "diverged"
    small = size.rms < low.value
    contrary = (
        "The training loss has fallen well all the same, so the network found its scale by itself."
        if learned and evidence.rows
        else "None: the network has not learned well."
        if evidence.rows or evidence.verdict.get("state") == "diverged"
        else "Whether the network learned all the same these records do not say: no epoch of metrics."
    )
    if last is not None and low.value <= last.rms <= high.value:
        contrary += (
            f" At the last site, {evidence.sites[-1].fed_by}, the size is {written(last.rms, 2)}, within the limits."
        )
    return [
        Finding(
            name="wrong-scale-for-init",
            is_inside=True,
            severity="warning" if learned else "serious",
            title=f"The inputs are too {'small' if small else 'large'} for the initial values",
            sentence="Initial values are made for inputs of one size. With inputs that are too "
            + (
                "small the signal is lost on its way, and biases drown it."
                if small
                else "large the first steps are enormous, and the loss may overflow."
            ),
            evidence=f"Root mean square of what {evidence.sites[0].fed_by} puts out {written(size.rms, 2)}, in the "
            f"first window of epoch {epoch} ({size.values} values). "
            + (f"The recipe was cautioned: {'; '.join(warnings)}." if warnings else "No caution stood in the recipe."),
            threshold=str(low if small else high),
            contrary=contrary,
            remedy="Pair them: init he with input_scale unit, or init published with input_scale mean-image or pixels "
            "and a 2012 preset at full width; norm bn makes the scale of the input matter less.",
            layers=(evidence.sites[0].fed_by,),
            epochs=(epoch,),
            numbers={"first_signal": size.rms},
        )
    ]


def _largest_ratio(evidence: Evidence) -> tuple[int, float] | None:
    """Return the epoch in which the typical update ratio is largest, and that ratio."""
    ratios = [(epoch, evidence.typical_update_ratio(epoch)) for epoch in evidence.measured_epochs]
    measured = [(epoch, ratio) for epoch, ratio in ratios if ratio is not None]
    return max(measured, key=lambda pair: pair[1]) if measured else None


def _growth_in_first_epoch(evidence: Evidence) -> float:
    """Return how many times its first size the first layer's weights reach in the first measured epoch, at least 1."""
    if not evidence.weights:
        return 1.0
    norms = evidence.of(evidence.measured_epochs[0], evidence.weights[0], "weight_norm")
    finite = norms[np.isfinite(norms)]
    return max(1.0, float(finite.max() / finite[0])) if len(finite) and finite[0] > 0 else 1.0


def _ratio_at_end(evidence: Evidence) -> float:
    ratio = evidence.typical_update_ratio(evidence.measured_epochs[-1])
    return float("nan") if ratio is None else ratio


def _pull(evidence: Evidence, epoch: int) -> float:
    """Return the norm of the gradient over that of the weights, median over steps, then over layers."""
    pulls = []
    for index in evidence.trained:
        weight, gradient = (evidence.of(epoch, index, name) for name in ("weight_norm", "gradient_norm"))
        if (weight > 0).any():
            pulls.append(float(np.median(gradient[weight > 0] / weight[weight > 0])))
    return float(np.median(pulls)) if pulls else float("nan")


def _is_slow(evidence: Evidence) -> bool:
    """Say whether the training loss has not even halved; without a learning curve, it is taken for so."""
    loss = evidence.curve("train_loss")
    if not len(loss):
        return True
    start = min(loss[0], loss_of_guessing(evidence)) if evidence.classes > 1 else loss[0]
    return bool(not loss[-1] < limit("slow_loss").value * start)


def _loss_in_words(evidence: Evidence) -> str:
    loss = evidence.curve("train_loss")
    if not len(loss):
        return "No learning curve stands in these records."
    first, last = (written(float(loss[at]), 3) for at in (0, -1))
    return f"Training loss {first} in epoch {evidence.epochs[0]}, {last} in epoch {evidence.epochs[-1]}."


def _suffering(evidence: Evidence) -> str:
    """Say in what way the loss suffers, or nothing."""
    loss = evidence.curve("train_loss")
    if evidence.verdict.get("state") == "diverged":
        return "The run diverged."
    if not len(loss):
        return ""
    if evidence.classes > 1 and loss[-1] >= limit("flat_loss").value * loss_of_guessing(evidence):
        guessing = written(loss_of_guessing(evidence), 3)
        return f"Training loss {written(loss[-1], 3)} in the last epoch; guessing gives {guessing}."
    return _swings(evidence)


def _swings(evidence: Evidence) -> str:
    """Say how often the training loss rose from one epoch to the next, if that is often and not by a little."""
    loss = evidence.curve("train_loss")
    if len(loss) < 5 or not np.isfinite(loss).all():
        return ""
    rises = int((loss[1:] > limit("loss_rise").value * loss[:-1]).sum())
    if rises < limit("loss_swings").value * (len(loss) - 1) or loss[-1] < limit("learned_loss").value * loss[0]:
        return ""
    return f"The training loss rose by more than a tenth in {rises} of {len(loss) - 1} steps from epoch to epoch."


def _rate(evidence: Evidence) -> str:
    rate = evidence.recipe.get("learning_rate")
    return f" than {written(rate)}" if isinstance(rate, float) else ""
