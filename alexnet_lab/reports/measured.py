"""The records of a run, arranged for figures: curves by epoch, layers in order, histograms by time."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexnet_lab.diagnosis.evidence import Evidence
from alexnet_lab.instruments.flow import KINDS, SPLITS, Columns, Site
from alexnet_lab.records import RunFolder
from alexnet_lab.reports.curves import Series
from alexnet_lab.reports.maps import Strip

Floats = NDArray[np.float64]

MOST_TIMES = 48  # columns of a histogram over time; windows next to each other share one beyond that
MOST_POINTS = 60  # of a curve over steps, whatever the length of the run


@dataclass(frozen=True)
class Layer:
    """One layer with weights, by the index of its weight among the measured parameters."""

    name: str
    parameter: int
    elements: int


class Measured:
    """One run's records. What was not recorded, or cannot be read, comes back empty."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.evidence = Evidence(RunFolder(path))
        self.recipe = self.evidence.recipe
        self.provenance = self.evidence.provenance
        self.verdict = self.evidence.verdict
        self.rows = self.evidence.rows
        self.flow = self.evidence.flow
        self.damages = self.evidence.damages  # by file: a sentence on what cannot be read
        self._tables: dict[str, Columns] = {}

    @property
    def result(self) -> dict[str, Any]:
        """Return what the verdict says of the tested weights; empty unless the run ended well."""
        return self.evidence.result

    @property
    def classes(self) -> list[str]:
        """Return the names of the classes."""
        return [str(name) for name in self.provenance.get("classes", [])]

    def curve(self, name: str, metric: str) -> Series:
        """Return one metric over the epochs; empty where it was never a number."""
        points = [(row["epoch"], row[metric]) for row in self.rows if isinstance(row.get(metric), int | float)]
        return Series(name, [epoch for epoch, _ in points], [float(value) for _, value in points])

    @property
    def is_of_panel(self) -> bool:
        """Return whether this is what a user's own Panel recorded, which knows of no recipe, data or result."""
        return self.flow is not None and not self.path.joinpath("recipe.json").exists()

    # Layers and time.

    @cached_property
    def layers(self) -> list[Layer]:
        """Return the layers with weights of two dimensions or more, in forward order, under their shortest names."""
        parameters = self.flow.layout.parameters if self.flow else ()
        weights = [(at, parameter) for at, parameter in enumerate(parameters) if len(parameter.shape) > 1]
        names = short_names([parameter.layer for _, parameter in weights])
        return [
            Layer(name, at, int(np.prod(parameter.shape))) for name, (at, parameter) in zip(names, weights, strict=True)
        ]  # fmt: skip

    @cached_property
    def site_keys(self) -> list[str]:
        """Return the full name of the layer that feeds each site, or the site's own where one layer feeds several."""
        sites = self.flow.layout.sites if self.flow else ()
        fed_by = [site.fed_by for site in sites]
        return [site.name if fed_by.count(site.fed_by) > 1 else site.fed_by for site in sites]

    @cached_property
    def sites(self) -> list[tuple[str, Site]]:
        """Return the places where units fire, in forward order, each under its shortest name."""
        sites = self.flow.layout.sites if self.flow else ()
        return list(zip(short_names(self.site_keys), sites, strict=True))

    def position(self, steps: NDArray[Any]) -> Floats:
        """Return how many epochs had passed after these steps."""
        epoch_of = {int(row["step"]): int(row["epoch"]) for row in self.rows if "step" in row}
        cost = self._table("cost")
        for step, epoch in zip(cost.get("step", ()), cost.get("epoch", ()), strict=True):
            epoch_of.setdefault(int(step), int(epoch))
        if not epoch_of:  # within the first epoch, whose length is not on record
            return np.asarray(steps, float) / max(1, int(np.max(steps, initial=1)))
        ends = [0, *sorted(epoch_of)]
        passed = [0, *(epoch_of[step] for step in ends[1:])]
        rate = passed[-1] / ends[-1]
        beyond = np.maximum(np.asarray(steps, float) - ends[-1], 0) * rate
        passed_at: Floats = np.interp(steps, ends, passed) + beyond
        return passed_at

    @property
    def last_epoch(self) -> int:
        """Return the last epoch of which anything is recorded; 0 if none."""
        measured = max(self.flow.epochs, default=0) if self.flow else 0
        return max([int(row["epoch"]) for row in self.rows] + [measured], default=0)

    # Steps.

    @cached_property
    def steps(self) -> Columns:
        """Return the table of measured steps."""
        return self._table("steps")

    def over_steps(self, layer: Layer, measure: Callable[[Columns], Floats]) -> Series:
        """Return the median of a measure over stretches of steps, between its 10% and 90% quantiles."""
        mine = {name: values[self.steps["parameter"] == layer.parameter] for name, values in self.steps.items()}
        values = np.asarray(measure(mine), float)
        x, middle, low, high = [], [], [], []
        for stretch in _stretches(mine["step"]):
            finite = values[stretch]
            finite = finite[np.isfinite(finite)]
            x.append(round(float(self.position(mine["step"][stretch][-1:])[0]), 3))
            quantiles = np.quantile(finite, (0.1, 0.5, 0.9)) if len(finite) else np.full(3, np.nan)
            low.append(float(quantiles[0]))
            middle.append(float(quantiles[1]))
            high.append(float(quantiles[2]))
        return Series(layer.name, x, middle, low, high)

    def by_epoch(self, layer: Layer, measure: Callable[[Columns], Floats]) -> dict[int, float]:
        """Return the median of a measure over each epoch's measured steps."""
        if not len(self.steps.get("step", ())):
            return {}
        mine = {name: values[self.steps["parameter"] == layer.parameter] for name, values in self.steps.items()}
        values = np.asarray(measure(mine), float)
        medians = {}
        for epoch in np.unique(mine["epoch"]):
            finite = values[(mine["epoch"] == epoch) & np.isfinite(values)]
            medians[int(epoch)] = float(np.median(finite)) if len(finite) else float("nan")
        return medians

    # Histograms.

    @cached_property
    def windows(self) -> Columns:
        """Return the table of windows, with the histograms as the column `counts`."""
        counts = self._table("histograms").get("counts")
        return {**self._table("windows"), "counts": counts} if counts is not None else {}

    def subjects(self, kind: str) -> list[tuple[str, int]]:
        """Return the layers or sites that a kind of histogram was taken of, by name and index, in forward order."""
        if not self.windows:
            return []
        of_kind = np.unique(self.windows["subject"][self.windows["kind"] == KINDS.index(kind)])
        if kind in ("weight", "gradient"):
            present = [(layer.name, layer.parameter) for layer in self.layers]
        else:
            present = [(name, at) for at, (name, _) in enumerate(self.sites)]
        return [(name, at) for name, at in present if at in of_kind]

    def strips(self, kind: str, subjects: Sequence[tuple[str, int]]) -> tuple[list[Strip], list[str]]:
        """Return the histograms of these subjects over time, and a label for each time."""
        rows = self.windows["kind"] == KINDS.index(kind)
        ends = np.unique(self.windows["last_step"][rows])
        groups = np.array_split(ends, min(MOST_TIMES, len(ends)))
        passed = [float(self.position(group[-1:])[0]) for group in groups]
        times = [f"epoch {at:.3g}, to step {group[-1]}" for at, group in zip(passed, groups, strict=True)]
        strips = []
        for name, subject in subjects:
            mine = rows & (self.windows["subject"] == subject)
            counts = [self._counts(mine & np.isin(self.windows["last_step"], group)) for group in groups]
            strips.append(strip_of(name, np.stack(counts, axis=-1), self.first_exponent))
        return strips, times

    def histogram(self, kind: str, subject: int, epoch: int) -> Floats:
        """Return the counts of one epoch, (2, columns) as exponent_histogram lays them out."""
        mine = (self.windows["kind"] == KINDS.index(kind)) & (self.windows["subject"] == subject)
        counts: Floats = self.windows["counts"][mine & (self.windows["epoch"] == epoch)].sum(0).astype(float)
        return counts

    def over_windows(self, column: str, layer: Layer) -> Series:
        """Return a column of the windows of a layer's gradient, such as signal_to_noise, over epochs."""
        if not self.windows or column not in self.windows:
            return Series(layer.name, [], [])
        mine = (self.windows["kind"] == KINDS.index("gradient")) & (self.windows["subject"] == layer.parameter)
        steps, values = self.windows["last_step"][mine], np.asarray(self.windows[column][mine], float)
        x, y = [], []
        for stretch in _stretches(steps):
            finite = values[stretch][np.isfinite(values[stretch])]
            x.append(round(float(self.position(steps[stretch][-1:])[0]), 3))
            y.append(float(np.median(finite)) if len(finite) else float("nan"))
        return Series(layer.name, x, y)

    def largest(self, kind: str, subject: int, column: str) -> float:
        """Return the largest number of a column over all windows of a subject; 0 where there is none."""
        mine = (self.windows["kind"] == KINDS.index(kind)) & (self.windows["subject"] == subject)
        values = np.asarray(self.windows[column][mine], float)
        values = values[np.isfinite(values)]
        return float(values.max()) if len(values) else 0.0

    def cost(self) -> tuple[float, float]:
        """Return the seconds that the instruments took, and those of the epochs they were taken from."""
        costs = self._table("cost")
        return float(np.sum(costs.get("measuring_seconds", 0.0))), float(np.sum(costs.get("total_seconds", 0.0)))

    @property
    def first_exponent(self) -> int:
        """Return the power of two of a histogram's column 2."""
        return self.flow.layout.first_exponent if self.flow else -126

    def _counts(self, rows: NDArray[np.bool_]) -> Floats:
        counts: Floats = self.windows["counts"][rows].sum(axis=(0, 1)).astype(float)
        return counts

    # Units.

    def rates(self, split: str, site: int) -> tuple[list[int], Floats, list[int]]:
        """Return epochs, off-rates (epochs, units), and N of each epoch, of one site on one split."""
        table = self._table("units")
        if "site" not in table:
            return [], np.zeros((0, 0)), []
        mine = (table["site"] == site) & (table["split"] == SPLITS.index(split)) & (table["inputs"] > 0)
        epoch, unit, inputs, off = (table[name][mine] for name in ("epoch", "unit", "inputs", "off"))
        epochs = np.unique(epoch)
        units = self.flow.layout.sites[site].units if self.flow else 0
        rates = np.full((len(epochs), units), np.nan)
        rates[np.searchsorted(epochs, epoch), unit] = off / inputs
        counted = [int(inputs[epoch == number].max()) for number in epochs]
        return [int(number) for number in epochs], rates, counted

    def _table(self, name: str) -> Columns:
        if name not in self._tables:
            self._tables[name] = self.flow.table(name) if self.flow else {}
        return self._tables[name]


def strip_of(name: str, counts: Floats, first_exponent: int) -> Strip:
    """Turn counts (columns, times), laid out as exponent_histogram does, into shares of all values."""
    totals = counts.sum(0)
    shares = np.divide(counts, totals, out=np.zeros_like(counts), where=totals > 0)
    powers = shares[2:-2]
    held = np.flatnonzero(powers.any(1))
    first, last = (int(held[0]), int(held[-1])) if len(held) else (0, 0)
    exponents = [first_exponent + at for at in range(first, last + 1)]
    return Strip(name, exponents, powers[first : last + 1], shares[:2].sum(0), shares[-2:].sum(0))


def short_names(names: Sequence[str]) -> list[str]:
    """Shorten layer names: conv1 for features.conv1, and without a word that nearly every name has.

    >>> short_names(["stem.conv", "stage1.first.conv", "stage1.second.conv"])
    ['stem', 'stage1.first', 'stage1.second']
    """
    tails = [name.rpartition(".")[2] for name in names]
    if _tell_apart(tails):
        return tails
    parts = [name.split(".") for name in names]
    for word in dict.fromkeys(part for pieces in reversed(parts) for part in reversed(pieces)):
        if sum(word in pieces for pieces in parts) >= 2 / 3 * len(parts):
            without = [[part for part in pieces if part != word] for pieces in parts]
            if _tell_apart([".".join(pieces) for pieces in without]):
                parts = without
    return [".".join(pieces) for pieces in parts]


def _tell_apart(names: Sequence[str]) -> bool:
    """Say whether all names differ and none is numbers alone."""
    return len(set(names)) == len(names) and all(re.search("[^0-9.]", name) for name in names)


def spaced(count: int, most: int) -> list[int]:
    """Return at most `most` of `count` indices: the first, the last, and evenly between."""
    return sorted({round(at) for at in np.linspace(0, count - 1, min(count, most))}) if count else []


def _stretches(steps: NDArray[Any]) -> list[NDArray[Any]]:
    """Split the indices of steps, in order, into at most MOST_POINTS runs of neighbours."""
    order = np.argsort(steps, kind="stable")
    return np.array_split(order, min(MOST_POINTS, len(order))) if len(order) else []
