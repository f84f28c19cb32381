"""Rules on what the run's precision cannot hold, and on values that are no numbers."""

import numpy as np

from alexnet_lab.diagnosis.evidence import Evidence, Floats
from alexnet_lab.diagnosis.findings import Finding
from alexnet_lab.diagnosis.thresholds import limit
from alexnet_lab.instruments.flow import KINDS

PLURAL = {"weight": "weights", "gradient": "gradients", "activation": "activations"}
PLURAL["activation gradient"] = "gradients of activations"
RANGES = {
    "fp16": "fp16 holds 6e-8 to 65504",
    "bf16": "bf16 has the range of fp32 with 8 bits of precision",
    "fp32": "fp32 holds 1e-45 to 3e38",
}


def underflow(evidence: Evidence) -> list[Finding]:
    """Find tensors of which a large share is too small for the precision and becomes zero."""
    rows, epoch = _last_epoch(evidence)
    if evidence.recipe.get("precision") == "fp16":
        # Our fp16 runs scale their loss. A gradient on record below the smallest fp16 number was held, scaled up; what
        # really was lost is on record as zero, and cannot be told from the silence of a ReLU.
        rows = [row for row in rows if "gradient" not in KINDS[evidence.windows["kind"][row]]]
    share = evidence.windows["underflow"].astype(float) if rows else np.empty(0)
    lost = [row for row in rows if share[row] >= limit("underflow").value]
    if not lost:
        return []
    worst = max(lost, key=lambda row: share[row])
    serious = share[worst] >= limit("underflow_serious").value
    counts = evidence.windows["counts"][worst].sum(0)
    zeros, total = int(counts[0]), int(counts.sum())
    return [
        Finding(
            name="precision-underflow",
            severity="serious" if serious else "warning",
            title=f"{100 * share[worst]:.0f}% of the {_what(evidence, worst)} are lost in {_precision(evidence)}",
            sentence="These values are too small for the format and become zero; where they are gradients, what they "
            "would have taught is lost.",
            evidence=f"Epoch {epoch}: " + _listed(evidence, lost, share) + ".",
            threshold=str(limit("underflow_serious" if serious else "underflow")),
            contrary=f"Values that were zero to begin with, {zeros} of {total} there, are not counted as lost, so "
            f"silent ReLUs are not the cause. {_elsewhere(len(lost), len(rows))}",
            remedy="precision bf16, which has the range of fp32; or scale the loss up (fp16 runs do by themselves).",
            layers=_layers(evidence, lost),
            epochs=(epoch,),
            numbers={"share": float(share[worst]), "tensors": len(lost), "of": len(rows)},
        )
    ]


def overflow(evidence: Evidence) -> list[Finding]:
    """Find weights and activations beyond the precision; and gradients, if it happens often."""
    rows, epoch = _last_epoch(evidence)
    if not len(rows):
        return []
    share, kind = evidence.windows["overflow"].astype(float), evidence.windows["kind"]
    lost = []
    for row in rows:
        same = [r for r in rows if kind[r] == kind[row] and _subject(evidence, r) == _subject(evidence, row)]
        # A loss scaler looks for its scale by letting gradients overflow now and then.
        often = np.mean([share[each] > 0 for each in same]) > limit("overflow_windows").value
        if share[row] > 0 and ("gradient" not in KINDS[kind[row]] or often):
            lost.append(row)
    if not lost:
        return []
    worst = max(lost, key=lambda row: share[row])
    return [
        Finding(
            name="precision-overflow",
            severity="serious",
            title=f"{_what(evidence, worst).capitalize()} overflow in {_precision(evidence)}",
            sentence="These values are larger than the format can hold and become infinite, and then not a number.",
            evidence=f"Epoch {epoch}: " + _listed(evidence, lost, share) + ".",
            threshold=str(limit("overflow_windows")),
            contrary=_elsewhere(len(lost), len(rows)),
            remedy="precision bf16, a norm, input_scale unit, a smaller rate.",
            layers=_layers(evidence, lost),
            epochs=(epoch,),
            numbers={"share": float(share[worst]), "tensors": len(lost), "of": len(rows)},
        )
    ]


def not_finite(evidence: Evidence) -> list[Finding]:
    """Find the first window with infinite values or NaN, where the verdict does not say so already."""
    if evidence.verdict.get("state") == "diverged" or not len(evidence.windows.get("counts", ())):
        return []
    bad = evidence.windows["counts"][:, :, -2:].sum(axis=(1, 2))
    kind = evidence.windows["kind"]
    # In half precision a gradient may be infinite in a step that the loss scaler then leaves out.
    tolerated = (kind == KINDS.index("gradient")) | (kind == KINDS.index("activation gradient"))
    rows = np.flatnonzero((bad > 0) & ~(tolerated & (_precision(evidence) == "fp16")))
    if not len(rows):
        return []
    # In the earliest window: weights and activations before gradients, which all turn at once; the most affected first.
    share = bad / np.maximum(evidence.windows["counts"].sum(axis=(1, 2)), 1)
    order = np.lexsort((-share[rows], tolerated[rows], evidence.windows["first_step"][rows]))
    first = rows[order[0]]
    epoch, step = int(evidence.windows["epoch"][first]), int(evidence.windows["first_step"][first])
    total = int(evidence.windows["counts"][first].sum())
    return [
        Finding(
            name="not-finite",
            severity="serious",
            title=f"Infinite values or NaN in the {_what(evidence, first)}",
            sentence="A value that is not a number spreads to everything computed from it.",
            evidence=f"First seen in the window of steps {step} to {int(evidence.windows['last_step'][first])}, epoch "
            f"{epoch}: {int(bad[first])} of {total} values. {len(rows)} tensors and windows in all.",
            threshold="a finite value: no choice of ours",
            contrary="The run has not been given up as diverged, so the loss itself was a number wherever it was read.",
            remedy="A smaller rate with warmup_epochs 1, clip_norm 1, and a look at the images for values that are not "
            "finite.",
            layers=_layers(evidence, [first]),
            epochs=(epoch,),
            numbers={"values": float(bad[first]), "step": step},
        )
    ]


def _last_epoch(evidence: Evidence) -> tuple[list[int], int]:
    """Return the rows of windows of the last epoch that has any."""
    epochs = evidence.windows.get("epoch", np.empty(0, int))
    if not len(epochs):
        return [], 0
    last = int(epochs.max())
    return [int(row) for row in np.flatnonzero(epochs == last)], last


def _precision(evidence: Evidence) -> str:
    return evidence.flow.layout.precision if evidence.flow else "?"


def _subject(evidence: Evidence, row: int) -> str:
    of_parameter = KINDS[evidence.windows["kind"][row]] in ("weight", "gradient")
    subject = int(evidence.windows["subject"][row])
    return evidence.parameters[subject].name if of_parameter else evidence.sites[subject].name


def _what(evidence: Evidence, row: int) -> str:
    return f"{PLURAL[KINDS[evidence.windows['kind'][row]]]} at {_subject(evidence, row)}"


def _layers(evidence: Evidence, rows: list[int]) -> tuple[str, ...]:
    found: dict[str, None] = {}  # in order, each once
    for row in rows:
        subject = int(evidence.windows["subject"][row])
        of_parameter = KINDS[evidence.windows["kind"][row]] in ("weight", "gradient")
        found[evidence.parameters[subject].layer if of_parameter else evidence.sites[subject].fed_by] = None
    return tuple(found)


def _listed(evidence: Evidence, rows: list[int], share: Floats) -> str:
    ordered = sorted(rows, key=lambda row: -share[row])
    text = ", ".join(f"{_what(evidence, row)} {100 * share[row]:.2g}%" for row in ordered[:5])
    return text + (f", and {len(rows) - 5} more" if len(rows) > 5 else "") + f"; {RANGES[_precision(evidence)]}"


def _elsewhere(lost: int, rows: int) -> str:
    return f"{rows - lost} of {rows} tensors and windows of that epoch stay within the limit."
