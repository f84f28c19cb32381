"""What every run of a study answered on each test image, from its predictions.npz; one bit per run and image.

Images with several findings are not right or wrong. What an image adds to the AUROC of each finding takes the place of
that bit: the area and the image's DeLong influence on it, N times, so that the mean over images is the area. These are
the pseudovalues of multi-reader studies (Dorfman, Berbaum and Metz 1992), with seeds for readers; they may be averaged
over findings, subtracted and summed over patients as right answers may.

A conclusion about other images needs all runs of a contrast on the same test images. Where a seed divides the images
into folds, its runs answer together: every image once. Runs without predictions, as those of earlier versions, and runs
that were tested on other images than the first are named; what needs them is about these test images alone.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from alexnet_ablations.declare.study import PlannedRun
from alexnet_lab.evaluation.auroc import influences
from alexnet_lab.predictions_file import FILE, PartPredictions, read_predictions

Key = tuple[str, int]  # cell and seed
T = TypeVar("T", bound=np.floating[Any])


@dataclass(frozen=True)
class Answers:
    """Which test images each run got right; G groups are the patients of N images, or the images themselves."""

    labels: NDArray[np.int64] = field(repr=False)  # N; N K of findings
    group: NDArray[np.int64] = field(repr=False)  # N: its row among the G groups
    are_grouped: bool = False  # by patient or slide, as the data says
    right: Mapping[Key, NDArray[np.uint8]] = field(default_factory=dict, repr=False)  # N bits of each run, packed
    areas: Mapping[Key, NDArray[np.float32]] = field(default_factory=dict, repr=False)  # of findings, N K each
    lacking: tuple[Key, ...] = ()  # runs that ended well and kept no predictions, or whose file cannot be read
    elsewhere: tuple[Key, ...] = ()  # runs that were tested on other images
    folds: int = 0  # in which each seed tested the images; 0 without folds

    @property
    def images(self) -> int:
        """Count the test images."""
        return len(self.labels)

    @property
    def groups(self) -> int:
        """Count the patients; the images where the data names none."""
        return int(self.group.max()) + 1 if len(self.group) else 0

    @property
    def population(self) -> str:
        """Name what a conclusion over seeds and groups is about, as the end of a sentence."""
        return "for patients like these" if self.are_grouped else "for images like these"

    def of(self, cell: str, seed: int) -> NDArray[np.float32] | None:
        """Return 1 for each image that a run got right and 0 for the others; None where nothing is known."""
        packed = self.right.get((cell, seed))
        return None if packed is None else np.unpackbits(packed, count=self.images).astype(np.float32)

    def area_of(self, cell: str, seed: int, finding: int | None) -> NDArray[np.float64] | None:
        """Return what each image adds to the AUROC of a finding, or to the mean over those that have one."""
        areas = self.areas.get((cell, seed))
        if areas is None:
            return None
        if finding is not None:
            return areas[:, finding].astype(np.float64)
        means: NDArray[np.float64] = areas[:, self.ranked].mean(1, dtype=np.float64)
        return means

    @property
    def ranked(self) -> NDArray[np.int64]:
        """Return the findings that some test images have and others lack: only these have an AUROC."""
        counts = self.labels.sum(0)
        return np.flatnonzero((counts > 0) & (counts < len(self.labels))).astype(np.int64)

    @property
    def rare(self) -> NDArray[np.int64]:
        """Return the findings that a single test image has, or lacks: nothing shows how their AUROC varies."""
        counts = self.labels.sum(0)
        return np.flatnonzero((counts == 1) | (counts == len(self.labels) - 1)).astype(np.int64)

    def differences(self, weights: Mapping[str, float], seeds: Iterable[int]) -> NDArray[np.float32] | None:
        """Return a weighted sum over cells by seed and image; None where any run that it needs is missing."""
        return _weighted(weights, seeds, self.of)

    def area_differences(
        self, weights: Mapping[str, float], seeds: Iterable[int], finding: int | None
    ) -> NDArray[np.float64] | None:
        """Return the same of what each image, or patient, adds to an AUROC: by seed and group.

        The mean over groups of a row is that seed's own difference. None also where an AUROC shows no spread.
        """
        table = _weighted(weights, seeds, lambda cell, seed: self.area_of(cell, seed, finding))
        if table is None or not np.isfinite(table).all():
            return None
        if not self.are_grouped:
            return table
        means = table.mean(1, keepdims=True)
        shares = (table - means) / self.images
        summed = np.stack([np.bincount(self.group, row, minlength=self.groups) for row in shares])
        return np.asarray(means + self.groups * summed, np.float64)


def read_answers(runs: Sequence[PlannedRun], ended_well: Iterable[Key]) -> Answers | None:
    """Read the test answers of the runs that ended well, one file at a time; None where no run kept any."""
    included = set(ended_well)
    first: PartPredictions | None = None
    right: dict[Key, NDArray[np.uint8]] = {}
    areas: dict[Key, NDArray[np.float32]] = {}
    lacking, elsewhere = [], []
    by_run = by_cell_and_seed(runs)
    for key, together in by_run.items():
        if key not in included:
            continue
        try:
            test = read_tested(together)
        except ValueError:  # named in `lacking`; a damaged file has made its run `damaged` already
            lacking.append(key)
            continue
        first = test if first is None else first
        if not (np.array_equal(test.ids, first.ids) and np.array_equal(test.labels, first.labels)):
            elsewhere.append(key)
            continue
        if test.labels.ndim == 2:
            areas[key] = area_values(test)
        else:
            right[key] = np.packbits(test.correct)
    if first is None:
        return None
    group = np.arange(len(first.ids))
    if first.groups is not None:
        group = np.unique(first.groups, return_inverse=True)[1].astype(np.int64)
    folds = max((len(together) for together in by_run.values() if together[0].whole is not None), default=0)
    return Answers(first.labels, group, first.groups is not None, right, areas, tuple(lacking), tuple(elsewhere), folds)


def area_values(test: PartPredictions) -> NDArray[np.float32]:
    """Return what each image adds to the AUROC of each finding, N K: their mean over images is the AUROC.

    NaN where an AUROC is not defined, or where a single image has the finding, or lacks it.
    """
    values = np.full(test.labels.shape, np.nan, np.float32)
    for k in range(test.labels.shape[1]):
        area, influence = influences(test.probabilities[:, k].astype(np.float64), test.labels[:, k] == 1)
        if area is not None:
            values[:, k] = area + len(influence) * influence
    return values


def _weighted(
    weights: Mapping[str, float], seeds: Iterable[int], of: Callable[[str, int], NDArray[T] | None]
) -> NDArray[T] | None:
    rows = []
    for seed in seeds:
        row: NDArray[T] | None = None
        for cell, weight in weights.items():
            answered = of(cell, seed)
            if answered is None:
                return None
            part = answered * answered.dtype.type(weight)
            row = part if row is None else row + part
        if row is not None:
            rows.append(row)
    return np.stack(rows) if rows else None


def by_cell_and_seed(runs: Sequence[PlannedRun]) -> dict[Key, list[PlannedRun]]:
    """Return the runs of each cell under each seed: one, or one for each fold."""
    together: dict[Key, list[PlannedRun]] = {}
    for run in runs:
        together.setdefault((run.compared.name, run.seed), []).append(run)
    return together


def read_tested(folds: Sequence[PlannedRun]) -> PartPredictions:
    """Return what the runs of one cell and seed say of their test images, those of several folds in order of the image.

    Raises ValueError where predictions are missing or damaged, or an image is in two folds.
    """
    parts = [read_predictions(run.folder.path / FILE, ["test"])["test"] for run in folds]
    if len(parts) == 1:
        return parts[0]
    ids = np.concatenate([part.ids for part in parts])
    order = np.argsort(ids, kind="stable")
    if (np.diff(ids[order]) == 0).any():
        raise ValueError(f"an image is tested in two folds of {folds[0].compared.name} under seed {folds[0].seed}")
    groups = [part.groups for part in parts if part.groups is not None]
    return PartPredictions(
        ids[order],
        np.concatenate([part.labels for part in parts])[order],
        np.concatenate([part.probabilities for part in parts])[order],
        np.concatenate(groups)[order] if len(groups) == len(parts) else None,
    )


def image_values(differences: NDArray[Any], answers: Answers, *, by_class: bool = False) -> NDArray[np.float64]:
    """Return what each image, or each patient, adds to a mean over images, as differences by seed and group (n G).

    The mean over groups of a row is that seed's own difference. `by_class` is for a mean over classes of means over
    images, balanced accuracy. Groups of different sizes have the linear part of a ratio of sums (Taylor).
    """
    images = answers.images
    weight = np.full(images, 1 / images)
    centre = np.full(images, float(differences.mean()))
    if by_class:
        counts = np.bincount(answers.labels)
        present = np.flatnonzero(counts)
        weight = 1 / (len(present) * counts[answers.labels])
        means = np.bincount(answers.labels, differences.mean(0)) / np.maximum(counts, 1)
        centre = means[answers.labels]
    total = float(differences.mean(0) @ weight)
    added = (differences - centre) * weight
    if answers.groups < images or answers.are_grouped:
        added = np.stack([np.bincount(answers.group, row, minlength=answers.groups) for row in added])
    return total + answers.groups * np.asarray(added, np.float64)
