"""Reads a run folder record by record: a damaged one costs the run that record, and is named."""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from alexnet_lab.instruments.flow import Columns, Flow, has_records, read_columns, read_epoch, read_layout
from alexnet_lab.levels import parse_level
from alexnet_lab.records import RunFolder
from alexnet_lab.training.metrics import read_confusion

Record = TypeVar("Record")


class Records:
    """The records of one run. What cannot be read comes back empty, with a sentence in `damages` under its file.

    With `check_digests` that holds for files too that are missing or changed since the verdict was written.
    """

    def __init__(self, run: RunFolder, *, check_digests: bool = True) -> None:
        self.run = run
        self.damages: dict[str, str] = {}
        if check_digests:
            for name in run.damages():
                self.damages[name] = f"{run.path / name} is missing, or not what the run wrote"

    def recipe(self) -> dict[str, Any]:
        """Return recipe.json."""
        return self._whole("recipe.json", partial(_checked_recipe, self.run)) or {}

    def provenance(self) -> dict[str, Any]:
        """Return provenance.json."""
        return self._whole("provenance.json", self.run.provenance) or {}

    def verdict(self) -> dict[str, Any]:
        """Return state.json; empty until the run has ended."""
        self.damages.pop("state.json", None)  # its reader knows why
        return self._whole("state.json", partial(checked_verdict, self.run)) or {}

    def metrics(self) -> list[dict[str, Any]]:
        """Return the rows of metrics.jsonl."""
        return self._whole("metrics.jsonl", lambda: list(self.run.metrics())) or []

    def split(self) -> dict[str, int]:
        """Return how many images each part of split.json has."""
        lists = self._whole("split.json", self.run.split) or {}
        return {part: len(indices) for part, indices in lists.items()}

    def flow(self, last_epochs: int | None = None) -> Flow | None:
        """Return the whole files of flow/, or only so many of the last; None without a layout that can be read."""
        folder = self.run.path / "flow"
        if not has_records(self.run.path):
            return None
        layout = self._whole("flow/layout.json", partial(read_layout, folder / "layout.json"))
        if layout is None:
            return None
        epochs: dict[int, Columns] = {}
        for path in sorted(folder.glob("epoch-*.npz"))[-last_epochs if last_epochs else None :]:
            number = path.stem.removeprefix("epoch-")
            columns = self._whole(f"flow/{path.name}", partial(read_epoch, path, layout))
            if columns is not None and number.isdecimal():
                epochs[int(number)] = columns
        filters = folder / "filters.npz"
        kernels = self._whole("flow/filters.npz", partial(_checked_filters, filters)) if filters.exists() else None
        return Flow(layout, epochs, kernels or {})

    def _whole(self, name: str, read: Callable[[], Record]) -> Record | None:
        """Return what `read` returns; None, with a sentence in `damages`, where it raises a ValueError."""
        if name in self.damages:
            return None
        try:
            return read()
        except ValueError as error:
            self.damages[name] = str(error)
            return None


def _checked_recipe(run: RunFolder) -> dict[str, Any] | None:
    """Return the recipe: texts, numbers and switches, and a norm, where it has one, that is a level."""
    recipe = run.recipe()
    for name, value in (recipe or {}).items():
        if not isinstance(value, str | int | float | None):
            raise _damaged(run.path / "recipe.json", f"{name} is no text, number or switch")
        if name in ("learning_rate", "epochs") and not isinstance(value, int | float | None):
            raise _damaged(run.path / "recipe.json", f"{name} is no number")
    norm = (recipe or {}).get("norm")
    if norm is not None:
        parse_level("norm", str(norm))
    return recipe


def checked_verdict(run: RunFolder) -> dict[str, Any] | None:
    """Return the verdict, whose figures are numbers and whose confusion matrices are square."""
    verdict, path = run.verdict(), run.path / "state.json"
    if verdict is None:
        return None
    result = verdict["result"]
    for name in ("tested_epoch", "epochs"):
        if type(result.get(name, 0)) is not int:
            raise _damaged(path, f"{name} is no whole number")
    for part in ("validation", "test"):
        _check_figures(path, part, result.get(part) or {})
    return verdict


def _check_figures(path: Path, part: str, figures: Any) -> None:
    if not isinstance(figures, dict):
        raise _damaged(path, f"the result for {part} is no object")
    for name, value in figures.items():
        if name not in ("recall", "finding_auroc", "confusion") and not isinstance(value, int | float | None):
            raise _damaged(path, f"{part} {name} is no number")
    images = figures.get("images")
    if images is not None and (type(images) is not int or images < 0):
        raise _damaged(path, f"{part} images is no count")
    for name in ("recall", "finding_auroc"):
        values = figures.get(name) or []
        if not isinstance(values, list) or not all(isinstance(value, int | float | None) for value in values):
            raise _damaged(path, f"{part} {name} is no list of numbers")
    if not _is_confusion(figures.get("confusion")):
        raise _damaged(path, f"the confusion for {part} holds no counts")


def _is_confusion(stored: Any) -> bool:
    """Say whether a stored confusion matrix is empty or holds counts; ValueError if it is no matrix."""
    if not stored:
        return True
    matrix = read_confusion(stored)
    return bool(math.isfinite(matrix.sum()) and matrix.min() >= 0)


def _checked_filters(path: Path) -> Columns:
    """Read the filters that were kept, all of one shape."""
    filters = read_columns(path)
    shapes = {values.shape for values in filters.values()}
    if len(shapes) > 1 or any(values.dtype.kind != "f" for values in filters.values()):
        raise _damaged(path, "its filters should be arrays of numbers in one shape")
    return filters


def _damaged(path: Path, why: str) -> ValueError:
    return ValueError(f"{path} is damaged: {why}")
