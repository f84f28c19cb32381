"""What speaks against any finding on the inside of a network: that the network solves its task all the same.

Units that are silent, a gradient that is faint, inputs of an odd size: each is true of the network, and each matters as
far as it keeps the network from learning. Where unseen images of every class are answered nearly always right, it did
not; then the finding is a note, and there is nothing to mend. What is wrong whatever the outcome (values that overflow,
a layer that was left out of the training, a gap between training and validation) keeps its severity.
"""

from collections.abc import Sequence
from dataclasses import replace

from alexnet_lab.diagnosis.evidence import Evidence
from alexnet_lab.diagnosis.findings import Finding
from alexnet_lab.diagnosis.thresholds import limit


def weighed(findings: Sequence[Finding], evidence: Evidence) -> list[Finding]:
    """Hold each finding against the outcome of the run."""
    solved = task_solved(evidence)
    return [_eased(finding, solved) if finding.is_inside and solved else finding for finding in findings]


def task_solved(evidence: Evidence) -> str:
    """Say how well the task is solved, if it is: by balanced accuracy, which no large class can buy; else nothing."""
    balanced = evidence.curve("validation_balanced_accuracy")
    test = ((evidence.verdict.get("result") or {}).get("test") or {}).get("balanced_accuracy")
    unseen = [*balanced[-1:].tolist(), *([] if test is None else [float(test)])]
    # Not by training accuracy: it is taken with dropout and augmentation on, which hold it down.
    if evidence.verdict.get("state") == "diverged" or not len(balanced) or not min(unseen) >= limit("solved").value:
        return ""
    count = evidence.images.get("validation")
    said = [f"{unseen[0]:.3f} on {count if count else 'the'} validation images"]
    said += [f"{unseen[1]:.3f} on test" for _ in unseen[1:]]
    training = evidence.curve("train_accuracy")[-1]
    return (
        f"The task is solved all the same, so this kept nothing from being learned: balanced accuracy "
        f"{' and '.join(said)} (limit {limit('solved').value:g}); training accuracy {training:.3f}, taken while "
        "weights move and dropout is on."
    )


def _eased(finding: Finding, solved: str) -> Finding:
    rest = finding.contrary.replace("None: ", "Nothing else does: ", 1)
    return replace(
        finding,
        severity="note",
        contrary=f"{solved} {rest}",
        remedy=f"Nothing needs mending for this task. For a harder one: {finding.remedy}",
    )
