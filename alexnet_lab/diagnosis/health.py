"""Gradient health as numbers, for a study to treat as outcomes beside accuracy.

All are read in the last measured epoch, from the records alone; None where the records lack what they need.
"""

from collections.abc import Callable

import numpy as np

from alexnet_lab.diagnosis.evidence import Evidence, median_of
from alexnet_lab.instruments.flow import KINDS
from alexnet_lab.records import RunFolder

OUTCOMES = {
    "dead_share": "units dead on the probe set at the last epoch / all units that a ReLU follows",
    "negative_side_rate": "inputs of the probe set on which a unit is <= 0 everywhere: mean over units, then sites",
    "gradient_first_to_last": "root mean square of the gradient, first weight layer / last; median over steps",
    "update_ratio": "norm of the update / norm of the weights; median over steps, then over weight layers",
    "signal_to_noise": "of the gradient over a window; median over windows, then over weight layers",
}


def health_of(run: RunFolder) -> dict[str, float | None]:
    """Return the outcomes that OUTCOMES names, all of them None where a record of the instruments is damaged.

    dead_share counts ReLU and ReLU6 only and is None for a network without them: a leaky unit cannot die.
    negative_side_rate is the same counter for any activation, so that ReLU and LeakyReLU cells can be compared.

    gradient_first_to_last takes root mean squares, i.e. norms divided by the square root of the number of elements, and
    not plain norms: conv1 has some thousand weights and fc6 millions, and the quotient of plain norms would mostly
    say that. With it, a change of width alone does not look like a change of gradient flow.

    update_ratio is that of the last epoch, where a falling schedule has made steps small: compare it between runs of
    one schedule. A finding about the rate looks at the epoch with the largest ratio instead.
    """
    return health_from(last_evidence(run))


def last_evidence(run: RunFolder) -> Evidence:
    """Read the last epoch of a run, and the others only if the last has no measurements: a study reads many runs."""
    evidence = Evidence(run, last_epochs=1)
    is_measured = evidence.measured_epochs and evidence.epochs_counted("probe")
    return evidence if _is_damaged(evidence) or not evidence.flow or is_measured else Evidence(run)


def health_from(evidence: Evidence) -> dict[str, float | None]:
    """Return what health_of does, from records that were read already.

    None for all where a file of flow/ is damaged: outcomes must not come from an earlier epoch unnoticed.
    """
    if _is_damaged(evidence):
        return dict.fromkeys(OUTCOMES)
    return {
        "dead_share": _dead_share(evidence),
        "negative_side_rate": _negative_side_rate(evidence),
        "gradient_first_to_last": _over_last_epoch(evidence, evidence.first_to_last),
        "update_ratio": _over_last_epoch(evidence, evidence.typical_update_ratio),
        "signal_to_noise": _over_last_epoch(evidence, lambda epoch: _signal_to_noise(evidence, epoch)),
    }


def _is_damaged(evidence: Evidence) -> bool:
    return any(name.startswith("flow/") for name in evidence.damages)


def _over_last_epoch(evidence: Evidence, measure: Callable[[int], float | None]) -> float | None:
    return measure(evidence.measured_epochs[-1]) if evidence.measured_epochs else None


def _last_probe(evidence: Evidence) -> int | None:
    return evidence.epochs_counted("probe")[-1] if evidence.epochs_counted("probe") else None


def _dead_share(evidence: Evidence) -> float | None:
    epoch = _last_probe(evidence)
    if epoch is None:
        return None
    counted = [
        silence
        for index, site in enumerate(evidence.sites)
        if site.word == "off" and (silence := evidence.silence("probe", index, epoch))
    ]
    units = sum(len(silence.rate) for silence in counted)
    return sum(len(silence.dead) for silence in counted) / units if units else None


def _negative_side_rate(evidence: Evidence) -> float | None:
    epoch = _last_probe(evidence)
    if epoch is None:
        return None
    counted = [evidence.silence("probe", index, epoch) for index in range(len(evidence.sites))]
    rates = [silence.rate.mean() for silence in counted if silence]
    return float(np.mean(rates)) if rates else None


def _signal_to_noise(evidence: Evidence, epoch: int) -> float | None:
    def of(parameter: int) -> float | None:
        table = evidence.table_in(epoch, "windows")
        if "kind" not in table:
            return None
        rows = (table["kind"] == KINDS.index("gradient")) & (table["subject"] == parameter)
        return median_of(table["signal_to_noise"][rows].astype(float))

    return median_of(of(parameter) for parameter in evidence.trained)
