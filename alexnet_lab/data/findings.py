"""Several findings an image: read from a table, and brought to what splits and audits know, one class an image.

    Finding Labels             one column that joins findings by |: "Effusion|Mass"; "No Finding" or nothing for none
    Effusion|Mass|Nodule       these columns, each 0 or 1

Labels are then a matrix, N images x K findings, of 0 and 1, and the findings stand in the place of the classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from alexnet_lab.choices import unknown_choice
from alexnet_lab.data.images import Images
from alexnet_lab.data.lists import in_brief, line_by_line

JOIN = "|"
NONE = frozenset({"", "no finding"})  # in lower case
ENOUGH = 10  # images of a stratum; smaller ones are put together
FLAGS: Mapping[str, int] = {"0": 0, "0.0": 0, "false": 0, "1": 1, "1.0": 1, "true": 1}


def read_findings(
    columns: Mapping[str, Sequence[str]], wanted: str, where: str, first: int, counted: str
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Return labels, N K, and the names of the findings, from the columns of a table.

    `first` is the number of the first row as `counted` ("line") counts them. Raises ValueError, one sentence.
    """
    names = [_column(columns, name.strip(), where) for name in wanted.split(JOIN)]
    values = [[value.strip() for value in columns[name]] for name in names]
    if len(names) == 1 and not all(value.lower() in FLAGS for value in values[0]):
        return _joined(values[0], names[0], where)
    wrong = [
        f"{counted} {number}: {name} is {value!r}"
        for name, column in zip(names, values, strict=True)
        for number, value in enumerate(column, first)
        if value.lower() not in FLAGS
    ]
    if wrong:
        raise ValueError(
            line_by_line(
                f"findings in columns of their own must be 0 or 1; {where} has {len(wrong)} other values; decide what "
                "an unknown or uncertain finding is, or leave the image out",
                wrong,
            )
        )
    labels = np.array([[FLAGS[value.lower()] for value in column] for column in values], np.int64).T
    return _checked(labels, names, where)


def names_column(wanted: str, name: str) -> bool:
    """Return whether a column is one of those that hold the findings."""
    return name.strip().lower() in [part.strip().lower() for part in wanted.split(JOIN)] if wanted else False


def _column(columns: Mapping[str, Sequence[str]], wanted: str, where: str) -> str:
    plain = {name.strip().lower(): name for name in columns}
    if wanted in columns:
        return wanted
    if wanted.lower() not in plain:
        raise unknown_choice(f"column of findings in {where}", wanted, tuple(columns))
    return plain[wanted.lower()]


def _joined(values: Sequence[str], column: str, where: str) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    rows = [{part.strip() for part in value.split(JOIN)} for value in values]
    rows = [{name for name in row if name.lower() not in NONE} for row in rows]
    names = sorted(set().union(*rows))
    if len(names) < 2:
        raise ValueError(
            f"the column {column} of {where} must name at least two findings, joined by {JOIN}; it names "
            f"{in_brief(names) or 'none'}"
        )
    place = {name: at for at, name in enumerate(names)}
    labels = np.zeros((len(rows), len(names)), np.int64)
    for at, row in enumerate(rows):
        labels[at, [place[name] for name in row]] = 1
    return _checked(labels, names, where)


def _checked(labels: NDArray[np.int64], names: Sequence[str], where: str) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    if len(names) < 2 or len(set(names)) < len(names):
        raise ValueError(
            f"findings must name two different columns or more, got {in_brief(list(names))}; for one finding take a "
            "column `label` with two classes"
        )
    alike = [f"{name} in {count} of {len(labels)}" for name, count in zip(names, labels.sum(0), strict=True)
             if count in (0, len(labels))]  # fmt: skip
    if alike:
        raise ValueError(
            f"each finding needs images with it and without it; in {where} they are {in_brief(alike)}: leave these out"
        )
    return labels, tuple(names)


def text_of(row: NDArray[np.int64], names: Sequence[str]) -> str:
    """Return the findings of one image as text."""
    return JOIN.join(name for name, present in zip(names, row, strict=True) if present) or "none"


def as_classes(images: Images) -> Images:
    """Return images whose class is their whole set of findings: what compares labels can take those."""
    if images.labels.ndim == 1:
        return images
    labels, rows = sets_of(images.labels)
    classes = tuple(text_of(row, images.classes) for row in rows)
    return replace(images, labels=labels, classes=classes, digest=images.fingerprint)


def sets_of(labels: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the number of each image's set of findings, N, and the sets, each a row of 0 and 1."""
    rows, numbers = np.unique(labels, axis=0, return_inverse=True)
    return numbers.reshape(-1).astype(np.int64), rows


def strata_of(labels: NDArray[np.int64], usable: NDArray[np.int64], least: int) -> tuple[NDArray[np.int64], int]:
    """Return a stratum for each image, N, and how many there are: its rarest finding, or none.

    A split in proportion to these has rare findings in every part. Strata of fewer than `least` usable images are one.
    """
    order = np.argsort(labels[usable].sum(0), kind="stable")
    rarest = np.where(labels.any(1), labels[:, order].argmax(1), labels.shape[1])
    counts = np.bincount(rarest[usable], minlength=labels.shape[1] + 1)
    kept = np.flatnonzero(counts >= max(least, ENOUGH))
    strata = np.searchsorted(kept, rarest)
    strata[~np.isin(rarest, kept)] = len(kept)
    if np.sum(strata[usable] == len(kept)) < max(least, ENOUGH) and len(kept):  # too few even together
        strata[strata == len(kept)] = len(kept) - 1
    present, strata = np.unique(strata, return_inverse=True)
    return strata.reshape(-1).astype(np.int64), len(present)


def check_trained(labels: NDArray[np.int64], names: Sequence[str]) -> None:
    """Refuse training images, N K, that all have a finding, or all lack it."""
    counts = labels.sum(0)
    wrong = [f"{name} ({count} of {len(labels)})" for name, count in zip(names, counts, strict=True)
             if count in (0, len(labels))]  # fmt: skip
    if wrong:
        raise ValueError(
            f"training needs images with and without each finding, and has not for: {in_brief(wrong)}; leave these "
            "findings out, or take another split_seed"
        )


def positives(labels: NDArray[np.int64], count: int) -> NDArray[np.bool_]:
    """Return whether each image is of each of K classes, or has each of K findings, N K."""
    found: NDArray[np.bool_] = labels == 1 if labels.ndim == 2 else labels[:, None] == np.arange(count)
    return found


def untested(labels: NDArray[np.int64], names: Sequence[str]) -> list[str]:
    """Return the findings that all images of a part, N K, have or lack: they have no AUROC there."""
    counts = labels.sum(0)
    return [name for name, count in zip(names, counts, strict=True) if count in (0, len(labels))]
