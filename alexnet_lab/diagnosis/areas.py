"""AUROC with intervals of a run whose images have several findings, from the predictions that it kept."""

from collections.abc import Sequence
from dataclasses import dataclass

from alexnet_lab.diagnosis.evidence import Evidence
from alexnet_lab.evaluation.auroc import auroc, macro_auroc
from alexnet_lab.evaluation.estimates import Estimate
from alexnet_lab.predictions_file import FILE, read_predictions


@dataclass(frozen=True)
class Areas:
    """The AUROC of each finding on one part of the split, and their mean, by DeLong over images."""

    images: int
    mean: Estimate
    each: Sequence[tuple[str, int, Estimate]]  # name, how many images have it, area


def areas_of(evidence: Evidence, part: str) -> Areas | None:
    """Return the areas of a run on findings; None of classes, and without a result or predictions."""
    if not evidence.has_findings or not evidence.result or FILE in evidence.damages:
        return None
    try:
        predictions = read_predictions(evidence.run.path / FILE, [part])[part]
    except ValueError as error:
        evidence.damages[FILE] = str(error)
        return None
    if predictions.labels.ndim == 1:
        return None
    scores, positive = predictions.probabilities.astype(float), predictions.labels == 1
    names = [str(name) for name in evidence.provenance.get("classes", ())]
    names = names if len(names) == positive.shape[1] else [f"finding {k}" for k in range(positive.shape[1])]
    areas = [(name, int(positive[:, k].sum()), auroc(scores[:, k], positive[:, k])) for k, name in enumerate(names)]
    return Areas(len(predictions.ids), macro_auroc(scores, predictions.labels), areas)
