"""Rules on the gradient: does it reach the first layer, does it grow on its way, does every layer move.

Both the gradient of the weights and that of the activations are looked at. In a network of ReLUs without biases the
products of weight and gradient are the same in every layer (Du, Hu and Lee 2018), so that weights too small or too
large show in the gradient of the activations, and hardly in that of the weights (Glorot and Bengio 2010, 4.2.1).
"""

from collections.abc import Callable

import numpy as np

from alexnet_lab.diagnosis.evidence import Evidence
from alexnet_lab.diagnosis.findings import Finding, Severity
from alexnet_lab.diagnosis.numbers import written
from alexnet_lab.diagnosis.thresholds import limit
from alexnet_lab.diagnosis.units import is_silent

Ratios = dict[int, float]  # epoch to first over last


def vanishing(evidence: Evidence) -> list[Finding]:
    """Find a gradient that is lost on its way to the first layer, and say whether dead units stand in it."""
    bound = limit("gradient_vanishes")
    of_activations, of_weights = _ratios(evidence)
    epochs = _epochs_where(lambda ratio: ratio < bound.value, of_activations, of_weights)
    if not epochs:
        return []
    last = evidence.measured_epochs[-1]
    first = evidence.parameters[evidence.trained[0]].layer
    latest = epochs[-1]
    silent = _silent_layers(evidence, latest)
    return [
        Finding(
            name="vanishing-gradients",
            is_inside=True,
            severity="serious" if latest == last else "note",
            title=f"The gradient vanishes on its way to {first}"
            + (", past dead ReLUs" if silent else "")
            + ("" if latest == last else f", until epoch {latest}"),
            sentence="Hardly any gradient reaches the first layers: they stay close to their initial values.",
            evidence=_figures(evidence, latest, of_activations, of_weights)
            + (f" Units dead on the way: {', '.join(silent.values())}." if silent else ""),
            threshold=str(bound),
            contrary=_other_reading(of_activations, of_weights, latest, below=bound.value)
            + ("" if latest == last else f" In epoch {last}, the last one, neither is below the limit: it recovered."),
            remedy=(
                "Revive the units: a rate ten times smaller, init he, act leaky; then look again."
                if silent
                else "A norm before the activations (norm bn), ReLU or leaky in place of tanh or sigmoid, init he."
            ),
            layers=(first, *silent),
            epochs=epochs,
            numbers=_numbers(of_activations, of_weights, latest),
        )
    ]


def exploding(evidence: Evidence) -> list[Finding]:
    """Find a gradient that grows from layer to layer on its way to the first."""
    bound = limit("gradient_explodes")
    of_activations, of_weights = _ratios(evidence)
    epochs = _epochs_where(lambda ratio: ratio > bound.value, of_activations, of_weights)
    if not epochs:
        return []
    last, latest = evidence.measured_epochs[-1], epochs[-1]
    first = evidence.parameters[evidence.trained[0]].layer
    return [
        Finding(
            name="exploding-gradients",
            is_inside=True,
            severity="serious" if latest == last else "note",
            title=f"The gradient explodes on its way to {first}"
            + ("" if latest == last else f", until epoch {latest}"),
            sentence="Every layer makes the gradient larger on its way back: a rate that is right for the last layers "
            "is too high for the first.",
            evidence=_figures(evidence, latest, of_activations, of_weights),
            threshold=str(bound),
            contrary=_other_reading(of_activations, of_weights, latest, above=bound.value)
            + ("" if latest == last else f" In epoch {last}, the last one, neither is above the limit: it settled."),
            remedy="init he (or smaller weights), a norm (norm bn), a bound on the gradient (clip_norm 1), a rate ten "
            "times smaller.",
            layers=(first,),
            epochs=epochs,
            numbers=_numbers(of_activations, of_weights, latest),
        )
    ]


def frozen(evidence: Evidence) -> list[Finding]:
    """Find layers whose weights did not move in any measured step of the last epoch."""
    if not evidence.measured_epochs:
        return []
    epoch = evidence.measured_epochs[-1]
    still = [
        i for i in evidence.weights if _steps(evidence, epoch, i) and not evidence.of(epoch, i, "update_norm").any()
    ]
    stuck = [index for index in still if evidence.parameters[index].trainable]
    meant = [index for index in still if not evidence.parameters[index].trainable]
    findings = []
    if stuck:
        fed = [index for index in stuck if evidence.of(epoch, index, "gradient_norm").any()]
        findings.append(
            _standing_still(
                evidence,
                stuck,
                "serious",
                title=f"Not learning, though it is not frozen: {_names(evidence, stuck)}",
                contrary=f"A gradient does arrive in {_names(evidence, fed)}: what is missing is the update."
                if fed
                else "No gradient arrives either, so the optimiser is not at fault: something cuts the way back.",
                remedy="Hand these parameters to the optimiser, and see that their rate is not 0."
                if fed
                else "Look for a layer of dead units above, a detach(), or a branch that the loss does not see.",
                moving=len(evidence.weights) - len(still),
            )
        )
    if meant:
        findings.append(
            _standing_still(
                evidence,
                meant,
                "note",
                title=f"Frozen, as asked: {_names(evidence, meant)}",
                contrary="Marked as not trainable, so it is no mistake if it was meant.",
                remedy="Nothing, if it was meant; else leave out --freeze, or set requires_grad in a loop of your own.",
                moving=len(evidence.weights) - len(still),
            )
        )
    return findings


def _standing_still(
    evidence: Evidence,
    layers: list[int],
    severity: Severity,
    title: str,
    contrary: str,
    remedy: str,
    moving: int,
) -> Finding:
    epoch = evidence.measured_epochs[-1]
    steps = _steps(evidence, epoch, layers[0])
    return Finding(
        name="frozen-layers",
        severity=severity,
        title=title,
        sentence="Weights that do not change compute whatever they started with, however long the run is.",
        evidence=f"Update exactly 0 in all {steps} measured steps of epoch {epoch}, in {len(layers)} of "
        f"{len(evidence.weights)} layers with weights.",
        threshold="an update of exactly 0: no choice of ours",
        contrary=f"{contrary} {moving} other layers moved in the same steps.",
        remedy=remedy,
        layers=tuple(evidence.parameters[index].layer for index in layers),
        epochs=(epoch,),
        numbers={"layers": len(layers), "steps": steps, "moving": moving},
    )


def _ratios(evidence: Evidence) -> tuple[Ratios, Ratios]:
    """Return first over last of the gradient by epoch: of the activations, and of the weights."""
    of_activations, of_weights = {}, {}
    for epoch in evidence.measured_epochs:
        if (ratio := evidence.depth_ratio("activation gradient", epoch)) is not None:
            of_activations[epoch] = ratio
        if (ratio := evidence.first_to_last(epoch)) is not None:
            of_weights[epoch] = ratio
    return of_activations, of_weights


def _epochs_where(crosses: Callable[[float], bool], *ratios: Ratios) -> tuple[int, ...]:
    return tuple(sorted({epoch for by_epoch in ratios for epoch, ratio in by_epoch.items() if crosses(ratio)}))


def _figures(evidence: Evidence, epoch: int, of_activations: Ratios, of_weights: Ratios) -> str:
    """Say both ratios, and the gradient layer by layer."""
    parts = []
    if ends := evidence.counted_ends("activation gradient", epoch) if epoch in of_activations else None:
        parts.append(
            f"gradient of the activations, {' over '.join(evidence.sites[site].name for site in ends)}: "
            f"{written(of_activations[epoch], 2)}"
        )
    if epoch in of_weights:
        first, last = (evidence.parameters[evidence.trained[at]].layer for at in (0, -1))
        parts.append(f"gradient of the weights, {first} over {last}: {written(of_weights[epoch], 2)}")
    sizes = ", ".join(f"{written(evidence.gradient_size(epoch, index), 1)}" for index in evidence.trained)
    steps = _steps(evidence, epoch, evidence.trained[0])
    text = "; ".join(parts)
    return (
        f"{text[:1].upper()}{text[1:]} (root mean squares, epoch {epoch}, {steps} measured steps). "
        f"Weights, layer by layer: {sizes}."
    )


def _other_reading(
    of_activations: Ratios, of_weights: Ratios, epoch: int, below: float = -np.inf, above: float = np.inf
) -> str:
    """Say whether the second of the two ratios agrees."""
    measured = {
        name: ratios[epoch]
        for name, ratios in (("activations", of_activations), ("weights", of_weights))
        if epoch in ratios
    }
    if len(measured) < 2:
        only = next(iter(measured))
        return f"Only the gradient of the {only} was measured, so nothing stands against it or confirms it."
    dissent = [name for name, ratio in measured.items() if below <= ratio <= above]
    if not dissent:
        return "None: the gradients of activations and of weights agree."
    return (
        f"The gradient of the {dissent[0]} is within the limit ({written(measured[dissent[0]], 2)}), so the first "
        "layers may still learn, if slowly."
    )


def _numbers(of_activations: Ratios, of_weights: Ratios, epoch: int) -> dict[str, float]:
    named = {"activations_first_to_last": of_activations, "weights_first_to_last": of_weights}
    return {name: ratios[epoch] for name, ratios in named.items() if epoch in ratios}


def _silent_layers(evidence: Evidence, epoch: int) -> dict[str, str]:
    """Return the layers in which as many units are dead as a warning needs, with the count in words."""
    silent = {}
    for index, site in enumerate(evidence.sites):
        silence = evidence.silence("probe", index, epoch) or evidence.silence("training", index, epoch)
        if site.word == "off" and silence and is_silent(silence):
            silent[site.fed_by] = f"{len(silence.dead)} of {len(silence.rate)} in {site.fed_by} (N={silence.inputs})"
    return silent


def _steps(evidence: Evidence, epoch: int, parameter: int) -> int:
    return len(evidence.of(epoch, parameter, "step"))


def _names(evidence: Evidence, indices: list[int]) -> str:
    names = [evidence.parameters[index].layer for index in indices]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
