"""Lowers the severity of findings on the inside of a network that solves its task all the same.

Silent units, a faint gradient or inputs of an odd size matter if they keep the network from learning. A network that is
nearly always right on unseen images of every class has learned, so such a finding becomes a note. What is wrong
whatever the outcome (values that overflow, a layer that does not train, a gap between training and validation) keeps
its severity.
"""

from collections.abc import Sequence
from dataclasses import replace

from alexnet_lab.diagnosis.evidence import Evidence
from alexnet_lab.diagnosis.findings import Finding
from alexnet_lab.diagnosis.thresholds import limit


def weighed(findings: Sequence[Finding], evidence: Evidence) -> list[Finding]:
    """Return the findings, those on the inside of a network that solves its task as notes."""
    solved = task_solved(evidence)
    return [_eased(finding, solved) if finding.is_inside and solved else finding for finding in findings]


def task_solved(evidence: Evidence) -> str:
    """Say how well the task is solved, by balanced accuracy; an empty text if it is not."""
    balanced = evidence.curve("validation_balanced_accuracy")
    test = ((evidence.verdict.get("result") or {}).get("test") or {}).get("balanced_accuracy")
    unseen = [*balanced[-1:].tolist(), *([] if test is None else [float(test)])]
    # Not by training accuracy: it is taken with dropout and augmentation on, which hold it down.
    if evidence.verdict.get("state") == "diverged" or not len(balanced) or not min(unseen) >= limit("solved").value:
        return ""
    count = evidence.images.get("validation")
    accuracies = [f"{unseen[0]:.3f} on {count if count else 'the'} validation images"]
    accuracies += [f"{unseen[1]:.3f} on test" for _ in unseen[1:]]
    training = evidence.curve("train_accuracy")[-1]
    return (
        f"The task is solved all the same, so this did not prevent learning: balanced accuracy "
        f"{' and '.join(accuracies)} (limit {limit('solved').value:g}); training accuracy {training:.3f}, taken while "
        "weights move and dropout is on."
    )


def _eased(finding: Finding, solved: str) -> Finding:
    rest = finding.contrary.replace("None: ", "Nothing else does: ", 1)
    return replace(
        finding,
        severity="note",
        contrary=f"{solved} {rest}",
        remedy=f"Nothing needs to change for this task. For a harder one: {finding.remedy}",
    )
