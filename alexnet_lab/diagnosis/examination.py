"""Every rule over one run, the most serious finding first."""

from collections.abc import Callable

from alexnet_lab.diagnosis import constant_answer, gradients, learning, pace, precision, units
from alexnet_lab.diagnosis.evidence import Evidence
from alexnet_lab.diagnosis.findings import Finding, ranked
from alexnet_lab.diagnosis.outcome import weighed
from alexnet_lab.records import RunFolder

Rule = Callable[[Evidence], list[Finding]]

# Causes before consequences: among findings of one severity this order stands.
RULES: tuple[Rule, ...] = (
    learning.diverged,
    precision.not_finite,
    pace.wrong_scale,
    pace.rate_too_high,
    gradients.vanishing,
    gradients.exploding,
    units.silent_units,
    gradients.frozen,
    precision.overflow,
    precision.underflow,
    pace.rate_too_low,
    pace.misplaced_norm,
    learning.class_collapse,
    learning.no_learning,
    constant_answer.constant_answer,
    learning.overfitting,
)


def diagnose(run: RunFolder) -> list[Finding]:
    """Judge a run by its records and return the findings, most serious first.

    Works on whatever there is: an unfinished run, one that diverged, one of a single epoch, one without instruments.
    What was not recorded is not judged; blind_spots() names it.

    >>> for finding in diagnose(RunFolder(Path("runs/digits-alexnet"))):
    ...     print(finding.severity, finding.title)
    """
    return examine(Evidence(run))


def examine(evidence: Evidence) -> list[Finding]:
    """Apply every rule to records that were read already."""
    return ranked(weighed([finding for rule in RULES for finding in rule(evidence)], evidence))


def blind_spots(run: RunFolder) -> list[str]:
    """Say what these records cannot tell, as `what: why`, damaged files first."""
    return unexamined(Evidence(run))


def unexamined(evidence: Evidence) -> list[str]:
    """Return what blind_spots does, for records that were read already."""
    missing = [f"{name}: {why}" for name, why in evidence.damages.items()]
    if evidence.has_findings:
        missing.append("guessing, one answer for all, overfitting: these rules judge one class an image")
    if not evidence.rows:
        missing.append("learning curves: no epoch has ended")
    if evidence.flow is None:
        why = "the run carried no instruments"
        if "flow/layout.json" in evidence.damages:
            why = "flow/layout.json is damaged"
        return [*missing, f"gradients, updates, units and precision: {why}"]
    if not evidence.measured_epochs:
        missing.append("gradients and updates: no step was measured yet")
    if not any(len(evidence.table_in(epoch, "windows").get("kind", ())) for epoch in evidence.flow.epochs):
        missing.append("sizes of values and what the precision loses: no histogram was taken")
    if evidence.sites and not evidence.epochs_counted("probe"):
        missing.append("units on a fixed probe set in eval mode: none was counted")
    return missing
