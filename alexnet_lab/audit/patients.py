"""Patients, slides, scanners: groups whose images stand on two sides of a split, or under two classes."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from alexnet_lab.data.findings import positives


@dataclass(frozen=True)
class Groups:
    """What is known of the groups of a dataset."""

    count: int
    largest: int  # images
    on_two_sides: tuple[str, ...]
    of_two_classes: tuple[str, ...]  # none where images have findings: those of a patient change
    single_classes: tuple[str, ...]  # classes, or findings, all of whose images are of one group


def examine_groups(
    groups: NDArray[np.str_],
    labels: NDArray[np.int64],
    classes: Sequence[str],
    parts: NDArray[np.str_],
    indices: NDArray[np.int64],
) -> Groups:
    """Return what the groups of those images say; `parts` names the part of each image, or is empty for none."""
    sides: dict[str, set[str]] = defaultdict(set)
    labelled: dict[str, set[int]] = defaultdict(set)
    for index in indices.tolist():
        group = str(groups[index])
        if parts[index]:
            sides[group].add(str(parts[index]))
        if labels.ndim == 1:
            labelled[group].add(int(labels[index]))
    positive = positives(labels[indices], len(classes))
    owners = [np.unique(groups[indices[members]]) for members in positive.T]
    counts = np.unique(groups[indices], return_counts=True)[1]
    return Groups(
        len(counts),
        int(counts.max()) if len(counts) else 0,
        tuple(sorted(group for group, several in sides.items() if len(several) > 1)),
        tuple(sorted(group for group, several in labelled.items() if len(several) > 1)),
        tuple(name for name, patients in zip(classes, owners, strict=True) if len(patients) == 1),
    )
