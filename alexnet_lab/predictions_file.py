"""predictions.npz: what a run's tested weights say of every validation and test image. NumPy alone reads it.

    classes                   K    names
    groups                    G    names of patients or slides, where the data names them
    PART.ids                  N    the image, as split.json numbers it
    PART.labels               N    its class; N K of 0 and 1 where images have findings
    PART.probabilities        N K  float32; float16 above 2^24 numbers
    PART.group                N    its patient, a row of `groups`, where known

PART is `validation` or `test`. The class of highest probability, the first of equals, is the one that the run's metrics
counted: where rounding to the stored precision would make another class the first, the counted one is kept ahead.
"""

import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexnet_lab.npz import UNREADABLE_NPZ, opened_npz
from alexnet_lab.records import atomically

FILE = "predictions.npz"
PARTS = ("validation", "test")
FLOAT32_UP_TO = 2**24  # numbers, 64 MiB; a float16 is half as large, and its AUROC and loss are rounded
ROWS_AT_ONCE = 2**20  # numbers converted at once, so that a large part is never held twice


@dataclass(frozen=True)
class PartPredictions:
    """The predictions of one part, a row per image, in the order of split.json."""

    ids: NDArray[np.int64]  # N
    labels: NDArray[np.int64]  # N; N K where images have findings
    probabilities: NDArray[np.floating[Any]] = field(repr=False)  # N K; float32 as they are read
    groups: NDArray[np.str_] | None = None  # N: the patient or slide

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Return whether the most probable class is the image's own; the mean is the accuracy that the run recorded."""
        if self.labels.ndim == 2:
            raise ValueError("images with findings are not right or wrong as a whole")
        right: NDArray[np.bool_] = self.probabilities.argmax(1) == self.labels
        return right


def write_predictions(path: Path, parts: Mapping[str, PartPredictions], classes: Sequence[str]) -> None:
    """Write the predictions of `validation` and `test`, whole or not at all."""
    groups = [part.groups for part in parts.values() if part.groups is not None]
    names = np.unique(np.concatenate(groups)) if groups else None
    with atomically(path) as file, zipfile.ZipFile(file, "w", allowZip64=True) as archive:
        _write(archive, "classes", [np.array(classes, dtype=np.str_)])
        if names is not None:
            _write(archive, "groups", [names])
        for name, part in parts.items():
            _check(part.ids, part.labels, part.probabilities, len(classes), name)
            _write(archive, f"{name}.ids", [part.ids.astype(np.int64)])
            _write(archive, f"{name}.labels", [part.labels.astype(np.int32)])
            precision = np.float32 if part.probabilities.size <= FLOAT32_UP_TO else np.float16
            step = max(1, ROWS_AT_ONCE // len(classes))
            blocks = (part.probabilities[at : at + step] for at in range(0, len(part.ids), step))
            rounded = (b.astype(precision) if part.labels.ndim == 2 else _rounded(b, precision) for b in blocks)
            _write(archive, f"{name}.probabilities", rounded, part.probabilities.shape)
            if names is not None and part.groups is not None:
                _write(archive, f"{name}.group", [np.searchsorted(names, part.groups).astype(np.int32)])


def read_predictions(path: Path, parts: Sequence[str] = PARTS) -> dict[str, PartPredictions]:
    """Read the predictions of a run by part; ValueError, one sentence, where the file is missing or damaged."""
    if not path.exists():
        raise ValueError(f"{path.parent} has no {path.name}: runs of earlier versions kept no predictions; train again")
    with _opened(path) as arrays:
        return {part: _read_part(arrays, part) for part in parts}


def read_classes(path: Path) -> tuple[str, ...]:
    """Return the names of the classes, in the order of the probabilities."""
    with _opened(path) as arrays:
        return tuple(arrays["classes"].tolist())


@contextmanager
def _opened(path: Path) -> Iterator[Mapping[str, NDArray[Any]]]:
    """Open the arrays of a file; whatever cannot be read within is one ValueError with the name of the file."""
    try:
        with opened_npz(path) as arrays:
            yield arrays
    except UNREADABLE_NPZ as error:
        text = str(error).partition("\n")[0]
        raise ValueError(f"{path} is damaged ({text}); the command that made the run makes it again") from None


def _read_part(arrays: Mapping[str, NDArray[Any]], part: str) -> PartPredictions:
    lacking = [name for name in ("ids", "labels", "probabilities") if f"{part}.{name}" not in arrays]
    if lacking:
        raise ValueError(f"it lacks {part}.{lacking[0]}")
    ids, labels, probabilities = (arrays[f"{part}.{name}"] for name in ("ids", "labels", "probabilities"))
    if ids.dtype.kind not in "iu" or labels.dtype.kind not in "iu" or probabilities.dtype.kind != "f":
        raise ValueError(f"the numbers of {part} are of another kind than they were written in")
    _check(ids, labels, probabilities, len(arrays["classes"]), part)
    groups = None
    if f"{part}.group" in arrays:
        names, at = arrays["groups"], arrays[f"{part}.group"]
        if names.dtype.kind != "U" or at.dtype.kind not in "iu" or at.shape != ids.shape:
            raise ValueError(f"the groups of {part} do not fit its images")
        if len(at) and not 0 <= at.min() <= at.max() < len(names):
            raise ValueError(f"{part}.group names groups that are not there")
        groups = names[at]
    return PartPredictions(ids.astype(np.int64), labels.astype(np.int64), probabilities.astype(np.float32), groups)


def _check(ids: Any, labels: Any, probabilities: Any, classes: int, part: str) -> None:
    fits = labels.shape in (ids.shape, (len(ids), classes))
    if ids.ndim != 1 or not fits or probabilities.shape != (len(ids), classes):
        raise ValueError(
            f"{part} has {ids.shape} ids, {labels.shape} labels and {probabilities.shape} probabilities of {classes} "
            "classes, which do not fit each other"
        )
    most = 1 if labels.ndim == 2 else classes - 1
    if len(ids) and (ids.min() < 0 or labels.min() < 0 or labels.max() > most):
        raise ValueError(f"{part} has an image or a class below 0, or a class beyond the {classes} there are")
    # One pass without a copy: NaN fails both comparisons. A tie that was broken upwards may stand above 1 by a hair.
    if len(ids) and not (probabilities.min() >= 0 and probabilities.max() <= 1 + 1e-3):
        raise ValueError(f"{part} has probabilities outside 0 to 1")


def _rounded(probabilities: NDArray[Any], precision: type[np.floating[Any]]) -> NDArray[Any]:
    """Round probabilities, and keep the class ahead that was ahead."""
    stored = probabilities.astype(precision)
    counted = probabilities.argmax(1)
    moved = np.flatnonzero(stored.argmax(1) != counted)
    stored[moved, counted[moved]] = np.nextafter(stored[moved].max(1), precision(2))
    return stored


def _write(
    archive: zipfile.ZipFile, name: str, blocks: Iterable[NDArray[Any]], shape: tuple[int, ...] | None = None
) -> None:
    """Write one array, given in blocks of rows, as numpy's format has it."""
    with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
        is_first = True
        for block in blocks:
            if is_first:
                header = np.lib.format.header_data_from_array_1_0(block)
                np.lib.format.write_array_header_1_0(member, {**header, "shape": shape or block.shape})
                is_first = False
            member.write(np.ascontiguousarray(block).data if block.dtype.kind != "U" else block.tobytes())
