"""Reads a run folder record by record: a damaged one costs the run that record, and is named."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from alexnet_lab.instruments.flow import KINDS, SPLITS, Columns, Flow, Layout, read_columns, read_layout
from alexnet_lab.records import RunFolder

PARTS = ("train", "validation", "test")
# The tables of an epoch's file, with the columns that stand for something in layout.json or in a list of names.
TABLES: Mapping[str, tuple[str, ...]] = {
    "steps": ("step", "parameter", "weight_norm", "gradient_norm", "update_norm"),
    "windows": ("kind", "subject", "first_step", "last_step", "underflow", "overflow", "signal_to_noise"),
    "histograms": ("counts",),
    "units": ("site", "unit", "split", "inputs", "off", "elements"),
    "cost": ("step", "measuring_seconds", "total_seconds"),
}
Record = TypeVar("Record")


class Records:
    """The records of one run. What cannot be read comes back empty, with a sentence in `damages` under its file."""

    def __init__(self, run: RunFolder) -> None:
        self.run = run
        self.damages: dict[str, str] = {}

    def recipe(self) -> dict[str, Any]:
        """Return recipe.json."""
        return self._whole("recipe.json", self.run.recipe) or {}

    def provenance(self) -> dict[str, Any]:
        """Return provenance.json, with `classes` and `notes`, where there are any, as lists of texts."""
        return self._whole("provenance.json", lambda: _checked_provenance(self.run)) or {}

    def verdict(self) -> dict[str, Any]:
        """Return state.json; empty until the run has ended."""
        return self._whole("state.json", lambda: _checked_verdict(self.run)) or {}

    def metrics(self) -> list[dict[str, Any]]:
        """Return the lines of metrics.jsonl up to the first that is damaged."""
        rows: list[dict[str, Any]] = []

        def read() -> None:
            for row in self.run.metrics():
                if type(row.get("epoch")) is not int:
                    raise ValueError(f"{self.run.path / 'metrics.jsonl'} is damaged: line {len(rows) + 1} has no epoch")
                rows.append(row)

        self._whole("metrics.jsonl", read)
        return rows

    def split(self) -> dict[str, int]:
        """Return how many images each part of split.json has."""
        path = self.run.path / "split.json"
        if not path.exists():
            return {}
        return self._whole("split.json", lambda: _sizes(path)) or {}

    def flow(self, last_epochs: int | None = None) -> Flow | None:
        """Return the whole files of flow/, or only so many of the last; None without a layout that can be read."""
        folder = self.run.path / "flow"
        if not (folder / "layout.json").exists():
            return None
        layout = self._whole("flow/layout.json", lambda: _checked_layout(folder / "layout.json"))
        if layout is None:
            return None
        epochs: dict[int, Columns] = {}
        for path in sorted(folder.glob("epoch-*.npz"))[-last_epochs if last_epochs else None :]:
            number = path.stem.removeprefix("epoch-")
            columns = self._whole(f"flow/{path.name}", lambda path=path: _checked_epoch(path, layout))
            if columns is not None and number.isdecimal():
                epochs[int(number)] = columns
        filters = folder / "filters.npz"
        kept = self._whole("flow/filters.npz", lambda: _checked_filters(filters)) if filters.exists() else None
        return Flow(layout, epochs, kept or {})

    def _whole(self, name: str, read: Callable[[], Record]) -> Record | None:
        """Return what `read` returns; where it raises a ValueError, keep the sentence and return None."""
        try:
            return read()
        except ValueError as error:
            self.damages[name] = str(error)
            return None


def _checked_provenance(run: RunFolder) -> dict[str, Any] | None:
    provenance = run.provenance()
    for name in ("classes", "notes"):
        texts = (provenance or {}).get(name, [])
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"{run.path / 'provenance.json'} is damaged: {name} should be a list of texts")
    return provenance


def _checked_verdict(run: RunFolder) -> dict[str, Any] | None:
    """Return the verdict, whose figures are numbers and whose confusion matrices are square."""
    verdict, path = run.verdict(), run.path / "state.json"
    if verdict is None:
        return None
    result = verdict.get("result") or {}
    if not isinstance(result, dict):
        raise ValueError(f"{path} is damaged: the result should be an object")
    for part in ("validation", "test"):
        figures = result.get(part) or {}
        if not isinstance(figures, dict):
            raise ValueError(f"{path} is damaged: the result for {part} should be an object")
        for name, value in figures.items():
            if name not in ("recall", "confusion") and not isinstance(value, int | float | None):
                raise ValueError(f"{path} is damaged: {part} {name} should be a number")
        _check_confusion(figures.get("confusion"), f"{path} is damaged: {part} confusion")
    return verdict


def _check_confusion(rows: object, where: str) -> None:
    if rows is None:
        return
    if not isinstance(rows, list) or not all(isinstance(row, list) and len(row) == len(rows) for row in rows):
        raise ValueError(f"{where} should be a square matrix")
    if not all(isinstance(count, int | float) and count >= 0 for row in rows for count in row):
        raise ValueError(f"{where} should hold counts")


def _sizes(path: Path) -> dict[str, int]:
    try:
        lists = json.loads(path.read_text())
        return {part: len(lists[part]) for part in PARTS if part in lists}
    except (ValueError, TypeError, KeyError, RecursionError, OSError) as error:
        raise ValueError(f"{path} is damaged: {type(error).__name__}, {error}") from None


def _checked_layout(path: Path) -> Layout:
    layout = read_layout(path)
    counts = [*(site.units for site in layout.sites), *(side for each in layout.parameters for side in each.shape)]
    counts += [layout.every, layout.window, layout.first_exponent]
    texts = [text for site in layout.sites for text in (site.name, site.fed_by, site.activation, site.unit)]
    texts += [text for each in layout.parameters for text in (each.name, each.layer)]
    texts += [layout.precision, layout.read_at, layout.probe, layout.cost_clock]
    if not all(type(count) is int for count in counts) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{path} is damaged: a name is no text, or a count no whole number")
    return layout


def _checked_epoch(path: Path, layout: Layout) -> Columns:
    """Read an epoch's columns: each table whole, its columns of one length, its indices within the layout."""
    columns = read_columns(path)
    limits = {
        "steps.parameter": len(layout.parameters),
        "windows.kind": len(KINDS),
        "units.site": len(layout.sites),
        "units.split": len(SPLITS),
    }
    lengths: dict[str, int] = {}
    for table, names in TABLES.items():
        mine = {name.partition(".")[2]: values for name, values in columns.items() if name.startswith(f"{table}.")}
        missing = [name for name in names if name not in mine] if mine else []
        if missing:
            raise ValueError(f"{path} is damaged: the table {table} lacks {', '.join(missing)}")
        if any(not values.ndim for values in mine.values()) or len({len(values) for values in mine.values()}) > 1:
            raise ValueError(f"{path} is damaged: the columns of the table {table} differ in length")
        lengths[table] = len(next(iter(mine.values()))) if mine else 0
    for name, limit in limits.items():
        _check_indices(path, name, columns.get(name, np.zeros(0, int)), limit)
    if lengths["histograms"]:
        if lengths["histograms"] != lengths["windows"] or columns["histograms.counts"].shape[1:2] != (2,):
            raise ValueError(f"{path} is damaged: its histograms are not those of its windows")
        of_parameters = columns["windows.kind"] < 2
        _check_indices(path, "windows.subject", columns["windows.subject"][of_parameters], len(layout.parameters))
        _check_indices(path, "windows.subject", columns["windows.subject"][~of_parameters], len(layout.sites))
    if lengths["units"]:
        units = np.array([site.units for site in layout.sites])[columns["units.site"]]
        if (columns["units.unit"] < 0).any() or (columns["units.unit"] >= units).any():
            raise ValueError(f"{path} is damaged: it counts units that its site does not have")
    return columns


def _check_indices(path: Path, name: str, values: np.ndarray[Any, Any], limit: int) -> None:
    if values.dtype.kind not in "iu" or (len(values) and not 0 <= values.min() <= values.max() < limit):
        raise ValueError(f"{path} is damaged: {name} should be an index below {limit}")


def _checked_filters(path: Path) -> Columns:
    """Read the filters kept: `end`, where there is one, has the shape of `start`."""
    filters = read_columns(path)
    shapes = {values.shape for values in filters.values()}
    if len(shapes) > 1 or any(values.dtype.kind != "f" for values in filters.values()):
        raise ValueError(f"{path} is damaged: its filters should be arrays of numbers in one shape")
    return filters
