"""Rules on what the run's precision cannot hold, and on values that are no numbers."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from alexnet_lab.diagnosis.evidence import Evidence, Floats
from alexnet_lab.diagnosis.findings import Finding
from alexnet_lab.diagnosis.numbers import written
from alexnet_lab.diagnosis.thresholds import limit
from alexnet_lab.instruments.flow import KINDS, Columns

PLURAL = {
    "weight": "weights",
    "gradient": "gradients",
    "activation": "activations",
    "activation gradient": "gradients of activations",
}
RANGES = {
    "fp16": "fp16 holds 6×10⁻⁸ to 65504",
    "bf16": "bf16 has the range of fp32 with 8 bits of precision",
    "fp32": "fp32 holds 10⁻³⁸ to 3×10³⁸, and fainter values with less precision",
}


@dataclass(frozen=True)
class Windows:
    """The windows of one epoch, one row each, with names for what they are of."""

    evidence: Evidence
    epoch: int
    table: Columns
    counts: NDArray[np.int64]  # rows, 2, columns

    @property
    def precision(self) -> str:
        """Return what the run computes in."""
        return self.evidence.flow.layout.precision if self.evidence.flow else "?"

    def is_gradient(self, row: int) -> bool:
        """Say whether a row is of gradients, of weights or of activations."""
        return "gradient" in KINDS[self.table["kind"][row]]

    def what(self, row: int) -> str:
        """Name a row in words."""
        kind, subject = KINDS[self.table["kind"][row]], int(self.table["subject"][row])
        of_parameter = kind in ("weight", "gradient")
        name = self.evidence.parameters[subject].name if of_parameter else self.evidence.sites[subject].name
        return f"{PLURAL[kind]} at {name}"

    def layers(self, rows: list[int]) -> tuple[str, ...]:
        """Return the layers of some rows, each once, in order."""
        layers: dict[str, None] = {}
        for row in rows:
            subject = int(self.table["subject"][row])
            of_parameter = KINDS[self.table["kind"][row]] in ("weight", "gradient")
            layers[self.evidence.parameters[subject].layer if of_parameter else self.evidence.sites[subject].fed_by] = (
                None
            )
        return tuple(layers)

    def listed(self, rows: list[int], share: Floats) -> str:
        """Write down the worst rows with their shares."""
        ordered = sorted(rows, key=lambda row: -share[row])
        text = ", ".join(f"{self.what(row)} {written(100 * share[row], 2)}%" for row in ordered[:5])
        return (
            text
            + (f", and {len(rows) - 5} more" if len(rows) > 5 else "")
            + f"; {RANGES.get(self.precision, self.precision)}"
        )

    def others(self, rows: list[int]) -> str:
        """Say how many rows are not concerned."""
        of = len(self.table["kind"])
        return f"{of - len(rows)} of {of} tensors and windows of that epoch stay within the limit."


def underflow(evidence: Evidence) -> list[Finding]:
    """Find tensors of which a large share is too small for the precision and becomes zero."""
    last = _last_windows(evidence)
    if last is None:
        return []
    share = _underflow_shares(evidence, last)
    lost = [int(row) for row in np.flatnonzero(share >= limit("underflow").value)]
    if not lost:
        return []
    worst = max(lost, key=lambda row: share[row])
    serious = share[worst] >= limit("underflow_serious").value
    zeros, total = int(last.counts[worst, :, 0].sum()), int(last.counts[worst].sum())
    return [
        Finding(
            name="precision-underflow",
            is_inside=True,
            severity="serious" if serious else "warning",
            title=f"{100 * share[worst]:.0f}% of the {last.what(worst)} are lost in {last.precision}",
            sentence="These values are too small for the format and become zero; where they are gradients, what they "
            "would have taught is lost.",
            evidence=f"Epoch {last.epoch}: {last.listed(lost, share)}.",
            threshold=str(limit("underflow_serious" if serious else "underflow")),
            contrary=f"Values that were zero to begin with, {zeros} of {total} there, are not counted as lost, so "
            f"silent ReLUs are not the cause. {last.others(lost)}",
            remedy="precision bf16, which has the range of fp32; or scale the loss up (fp16 runs do by themselves).",
            layers=last.layers(lost),
            epochs=(last.epoch,),
            numbers={"share": float(share[worst]), "tensors": len(lost), "of": len(share)},
        )
    ]


def largest_underflow(evidence: Evidence) -> tuple[str, float] | None:
    """Return the tensor with the largest share of values lost, in words, and that share; None without windows."""
    last = _last_windows(evidence)
    if last is None:
        return None
    share = _underflow_shares(evidence, last)
    worst = int(share.argmax())
    return last.what(worst), float(share[worst])


def _underflow_shares(evidence: Evidence, last: Windows) -> Floats:
    """Return the share of values lost by row; 0 for gradients in fp16.

    fp16 runs scale their loss. A gradient on record below the smallest fp16 number was held, scaled up; what was lost
    is on record as zero, and cannot be told from the silence of a ReLU.
    """
    share: Floats = np.nan_to_num(last.table["underflow"].astype(float))
    if evidence.recipe.get("precision") == "fp16":
        share[[last.is_gradient(row) for row in range(len(share))]] = 0.0
    return share


def overflow(evidence: Evidence) -> list[Finding]:
    """Find weights and activations beyond the precision; and gradients, if it happens often."""
    last = _last_windows(evidence)
    if last is None:
        return []
    share: Floats = last.table["overflow"].astype(float)
    lost = []
    for row in map(int, np.flatnonzero(share > 0)):
        same = (last.table["kind"] == last.table["kind"][row]) & (last.table["subject"] == last.table["subject"][row])
        # A loss scaler looks for its scale by letting gradients overflow now and then.
        if not last.is_gradient(row) or (share[same] > 0).mean() > limit("overflow_windows").value:
            lost.append(row)
    if not lost:
        return []
    worst = max(lost, key=lambda row: share[row])
    return [
        Finding(
            name="precision-overflow",
            severity="serious",
            title=f"{last.what(worst).capitalize()} overflow in {last.precision}",
            sentence="These values are larger than the format can hold and become infinite, and then not a number.",
            evidence=f"Epoch {last.epoch}: {last.listed(lost, share)}.",
            threshold=str(limit("overflow_windows")),
            contrary=last.others(lost),
            remedy="precision bf16, a norm, input_scale unit, a smaller rate.",
            layers=last.layers(lost),
            epochs=(last.epoch,),
            numbers={"share": float(share[worst]), "tensors": len(lost), "of": len(share)},
        )
    ]


def not_finite(evidence: Evidence) -> list[Finding]:
    """Find the first window with infinite values or NaN, where the verdict does not say so already."""
    if evidence.verdict.get("state") == "diverged" or evidence.flow is None:
        return []
    for epoch in evidence.flow.epochs:
        windows = _windows(evidence, epoch)
        if windows is None:
            continue
        bad = windows.counts[:, :, -2:].sum(axis=(1, 2))
        gradient = np.array([windows.is_gradient(row) for row in range(len(bad))], bool)
        # In fp16 a gradient may be infinite in a step that the loss scaler then leaves out.
        rows = np.flatnonzero((bad > 0) & ~(gradient & (windows.precision == "fp16")))
        if len(rows):
            # In the earliest window: weights and activations before gradients, which all turn at once; the most
            # affected first.
            share = bad / np.maximum(windows.counts.sum(axis=(1, 2)), 1)
            order = np.lexsort((-share[rows], gradient[rows], windows.table["first_step"][rows]))
            return [_not_finite(windows, int(rows[order[0]]), bad, len(rows))]
    return []


def _not_finite(windows: Windows, row: int, bad: NDArray[np.int64], concerned: int) -> Finding:
    steps = [int(windows.table[name][row]) for name in ("first_step", "last_step")]
    return Finding(
        name="not-finite",
        severity="serious",
        title=f"Infinite values or NaN in the {windows.what(row)}",
        sentence="A value that is not a number spreads to everything computed from it.",
        evidence=f"First seen in the window of steps {steps[0]} to {steps[1]}, epoch {windows.epoch}: "
        f"{int(bad[row])} of {int(windows.counts[row].sum())} values. {concerned} tensors and windows in that epoch.",
        threshold="a finite value: no choice of ours",
        contrary="The run has not been given up as diverged, so the loss itself was a number wherever it was read.",
        remedy="A smaller rate with warmup_epochs 1, clip_norm 1, and a look at the images for values that are not "
        "finite.",
        layers=windows.layers([row]),
        epochs=(windows.epoch,),
        numbers={"values": float(bad[row]), "step": steps[0]},
    )


def _windows(evidence: Evidence, epoch: int) -> Windows | None:
    """Return the windows of an epoch, or None where there are none."""
    table, counts = evidence.table_in(epoch, "windows"), evidence.table_in(epoch, "histograms").get("counts")
    if counts is None or not len(table.get("kind", ())):
        return None
    return Windows(evidence, epoch, table, counts)


def _last_windows(evidence: Evidence) -> Windows | None:
    """Return the windows of the last epoch that has any."""
    for epoch in reversed(evidence.flow.epochs if evidence.flow else {}):
        if (windows := _windows(evidence, epoch)) is not None:
            return windows
    return None
