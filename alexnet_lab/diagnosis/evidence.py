"""The records of one run as numbers for the rules: curves, gradients, signal levels, units.

What was not recorded, or cannot be read, comes back empty or None, and the rules that need it find nothing. `damages`
names what cannot be read.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexnet_lab.data.medmnist import has_findings
from alexnet_lab.diagnosis.reading import Records
from alexnet_lab.instruments.flow import KINDS, SPLITS, Columns, Parameter, Site
from alexnet_lab.records import RunFolder

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Level:
    """How large the values of one tensor are, from a histogram by powers of two.

    The root mean square takes the values of a bin as spread evenly over the powers within it, which is right to a
    factor of 1.5. The geometric mean would not do: behind LRN most gradients are faint echoes of their neighbours', and
    it follows these.
    """

    rms: float  # of all finite values, zeros included; NaN where there is none
    zero_share: float
    not_finite: int  # infinite and NaN values
    values: int  # how many were counted


@dataclass(frozen=True)
class Silence:
    """On how many of N inputs each unit of one site was off, in one epoch and split."""

    site: Site
    epoch: int
    split: str
    inputs: int  # N
    rate: Floats  # off-rate by unit
    positions: int = 1  # at how many places a unit looks at one input

    @property
    def dead(self) -> tuple[int, ...]:
        """Return the units whose off-rate is exactly 1: dead over this set, and nothing is said beyond it."""
        return tuple(int(unit) for unit in np.flatnonzero(self.rate == 1))

    @property
    def bound(self) -> float:
        """Return the share of inputs on which a unit dead over N may still fire, at most, with 95% confidence: 3/N."""
        return 3 / self.inputs if self.inputs else float("nan")


class Evidence:
    """The records that a rule may look at, read once; `last_epochs` bounds how many epochs of flow/ are opened."""

    def __init__(self, run: RunFolder, last_epochs: int | None = None) -> None:
        self.run = run
        # Those who read a thousand runs read little of each, and digests would read all of it.
        records = Records(run, check_digests=last_epochs is None)
        self.recipe: dict[str, Any] = records.recipe()
        self.provenance: dict[str, Any] = records.provenance()
        self.verdict: dict[str, Any] = records.verdict()
        self.rows = records.metrics()
        self.images = records.split()  # how many images each part of the split has
        self.flow = records.flow(last_epochs)
        self.damages: dict[str, str] = records.damages  # by file: a sentence on what cannot be read
        self.classes = len(self.provenance.get("classes", ()))

    @property
    def has_findings(self) -> bool:
        """Return whether images have several findings: then no image is right or wrong, and no class is guessed."""
        return bool(self.recipe.get("findings")) or has_findings(str(self.recipe.get("data", "")))

    @property
    def result(self) -> dict[str, Any]:
        """Return what the verdict says of the tested weights; empty unless the run ended well."""
        result: dict[str, Any] = self.verdict.get("result") or {}
        return result if self.verdict.get("state") == "ok" else {}

    # Curves: one value per epoch.

    def curve(self, name: str) -> Floats:
        """Return one metric over the epochs, NaN where it was not defined."""
        return np.array([_number(row.get(name)) for row in self.rows], float)

    @property
    def epochs(self) -> tuple[int, ...]:
        """Return the epochs that metrics stand for."""
        return tuple(int(row["epoch"]) for row in self.rows)

    # Steps: what each parameter did.

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """Return the measured parameters in the order of the forward pass; none without instruments."""
        return self.flow.layout.parameters if self.flow else ()

    @property
    def sites(self) -> tuple[Site, ...]:
        """Return the places where units fire or stay silent; none without instruments."""
        return self.flow.layout.sites if self.flow else ()

    def table_in(self, epoch: int, name: str) -> Columns:
        """Return one table's columns in one epoch; a long run's tables are never joined, which would take seconds."""
        return self._tables.get(epoch, {}).get(name, {})

    @cached_property
    def _tables(self) -> dict[int, dict[str, Columns]]:
        tables: dict[int, dict[str, Columns]] = {}
        for epoch, columns in (self.flow.epochs if self.flow else {}).items():
            of_epoch = tables.setdefault(epoch, {})
            for key, values in columns.items():
                table, _, column = key.partition(".")
                of_epoch.setdefault(table, {})[column] = values
        return tables

    @cached_property
    def measured_epochs(self) -> tuple[int, ...]:
        """Return the epochs in which steps were measured."""
        epochs = self.flow.epochs if self.flow else {}
        return tuple(epoch for epoch in epochs if len(self.table_in(epoch, "steps").get("step", ())))

    @cached_property
    def weights(self) -> tuple[int, ...]:
        """Return the indices of weight matrices and kernels: no biases, no gains of norms."""
        return tuple(index for index, parameter in enumerate(self.parameters) if len(parameter.shape) >= 2)

    def of(self, epoch: int, parameter: int, column: str) -> Floats:
        """Return one column over the measured steps of an epoch, for one parameter."""
        steps = self.table_in(epoch, "steps")
        values: Floats = steps[column][steps["parameter"] == parameter].astype(float)
        return values

    def update_ratio(self, epoch: int, parameter: int) -> float:
        """Return the median over an epoch's steps of the norm of the update over the norm of the weights."""
        update, weight = self.of(epoch, parameter, "update_norm"), self.of(epoch, parameter, "weight_norm")
        return _median(update[weight > 0] / weight[weight > 0])

    def gradient_size(self, epoch: int, parameter: int) -> float:
        """Return the median over an epoch's steps of the root mean square of the gradient's elements."""
        elements = float(np.prod(self.parameters[parameter].shape))
        return _median(self.of(epoch, parameter, "gradient_norm")) / float(elements**0.5)

    def whole_gradient(self) -> Floats:
        """Return the norm of the gradient over all parameters, step by step."""
        squared: list[Floats] = []
        for epoch in self.measured_epochs:
            table = self.table_in(epoch, "steps")
            steps = np.unique(table["step"])
            squares = table["gradient_norm"].astype(float) ** 2
            squared.append(np.bincount(np.searchsorted(steps, table["step"]), squares, len(steps)).astype(float))
        norms: Floats = np.sqrt(np.concatenate(squared))
        return norms

    @cached_property
    def trained(self) -> tuple[int, ...]:
        """Return the indices of the weight matrices and kernels that may move."""
        return tuple(index for index in self.weights if self.parameters[index].trainable)

    def first_to_last(self, epoch: int) -> float | None:
        """Return the size of the gradient in the first trained weight layer over that in the last."""
        if len(self.trained) < 2:
            return None
        first, last = self.gradient_size(epoch, self.trained[0]), self.gradient_size(epoch, self.trained[-1])
        return first / last if last > 0 and np.isfinite([first, last]).all() else None

    def typical_update_ratio(self, epoch: int) -> float | None:
        """Return the median of the update ratio over the weight layers that may move."""
        return median_of(self.update_ratio(epoch, index) for index in self.trained)

    # Windows: histograms, and what the precision cannot hold.

    @cached_property
    def windows(self) -> Columns:
        """Return the table of windows over all epochs, each with its histogram as the column `counts`: may be large."""
        if self.flow is None:
            return {}
        return {**self.flow.table("windows"), "counts": self.flow.table("histograms").get("counts", np.empty(0))}

    def windows_of(self, kind: str, subject: int | None = None, epoch: int | None = None) -> NDArray[np.bool_]:
        """Return which rows of the table of windows are of this kind, subject and epoch."""
        if not self.windows or "kind" not in self.windows:
            return np.zeros(0, bool)
        chosen: NDArray[np.bool_] = self.windows["kind"] == KINDS.index(kind)
        if subject is not None:
            chosen = chosen & (self.windows["subject"] == subject)
        return chosen if epoch is None else chosen & (self.windows["epoch"] == epoch)

    def level(self, kind: str, subject: int, epoch: int, first_window: bool = False) -> Level | None:
        """Return how large the values are of one tensor in one epoch, or in its first window; None if not counted."""
        table, histograms = self.table_in(epoch, "windows"), self.table_in(epoch, "histograms")
        if not self.flow or "kind" not in table or "counts" not in histograms:
            return None
        rows = np.flatnonzero((table["kind"] == KINDS.index(kind)) & (table["subject"] == subject))
        if not len(rows):
            return None
        if first_window:
            rows = rows[[np.argmin(table["first_step"][rows])]]
        counts = histograms["counts"][rows].sum(axis=(0, 1)).astype(float)
        return _level(counts, self.flow.layout.first_exponent)

    def counted_ends(self, kind: str, epoch: int) -> tuple[int, int] | None:
        """Return the first and the last site at which this kind was counted; no gradient goes below what is frozen."""
        table = self.table_in(epoch, "windows")
        if "kind" not in table:
            return None
        subjects = np.unique(table["subject"][table["kind"] == KINDS.index(kind)])
        return (int(subjects[0]), int(subjects[-1])) if len(subjects) > 1 else None

    def depth_ratio(self, kind: str, epoch: int) -> float | None:
        """Return the size of values at the first site over that at the last of those at which they were counted."""
        ends = self.counted_ends(kind, epoch)
        if ends is None:
            return None
        first, last = (self.level(kind, site, epoch) for site in ends)
        if first is None or last is None or not last.rms > 0 or not np.isfinite(first.rms):
            return None
        return first.rms / last.rms

    # Units: who fires.

    def silence(self, split: str, site: int, epoch: int) -> Silence | None:
        """Return the off-rates of one site's units in one epoch and split; None where they were not counted."""
        table = self.table_in(epoch, "units")
        if "site" not in table:
            return None
        mine = (table["site"] == site) & (table["split"] == SPLITS.index(split))
        inputs = table["inputs"][mine].astype(float)
        if not len(inputs) or not inputs.max():
            return None
        order = np.argsort(table["unit"][mine])
        rate = (table["off"][mine] / np.maximum(inputs, 1))[order]
        positions = int((table["elements"][mine] / np.maximum(inputs, 1)).max())
        return Silence(self.sites[site], epoch, split, int(inputs.max()), rate, positions)

    def epochs_counted(self, split: str) -> tuple[int, ...]:
        """Return the epochs in which units were counted on this split."""
        splits = {
            epoch: self.table_in(epoch, "units").get("split") for epoch in (self.flow.epochs if self.flow else ())
        }
        number = SPLITS.index(split)
        return tuple(epoch for epoch, column in splits.items() if column is not None and (column == number).any())


def _level(counts: Floats, first_exponent: int) -> Level:
    total, finite = counts.sum(), counts[:-2].sum()
    middle = counts[2:-2]  # powers of two; before them zero and subnormal, after them infinite and NaN
    used = np.flatnonzero(middle)
    rms = 0.0 if finite else float("nan")
    if len(used):
        # The mean of x squared over [1, 2), with log x even, is 3 / (2 log 2); relative to the top, nothing overflows.
        squares = (middle[used] * 4.0 ** (used - used[-1])).sum() * 3 / (2 * np.log(2))
        rms = float(np.ldexp((squares / finite) ** 0.5, first_exponent + int(used[-1])))
    zero_share = float(counts[0] / total) if total else float("nan")
    return Level(rms, zero_share, int(counts[-2:].sum()), int(total))


def median_of(values: Iterable[float | None]) -> float | None:
    """Return the median of what is a number, or None where nothing is."""
    numbers = [value for value in values if value is not None and np.isfinite(value)]
    return float(np.median(numbers)) if numbers else None


def _median(values: Floats) -> float:
    finite = values[np.isfinite(values)]  # a run that diverges has steps that are not
    return float(np.median(finite)) if len(finite) else float("nan")


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else float("nan")
