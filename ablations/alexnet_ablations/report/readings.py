"""What the report needs of each run beside its outcomes: curves, gradients through depth, silent units.

A damaged record costs its run that record, and is named in `damages`.

Of the instruments' records only the last epoch is opened, so that a thousand runs are read in seconds; of the first
runs also the counts of units of every epoch, so that dying can be seen as it happens.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexnet_ablations.conclude.outcomes import Health
from alexnet_ablations.declare.design import Cell, level_text
from alexnet_ablations.declare.study import PlannedRun, Study
from alexnet_lab.diagnosis.evidence import Evidence
from alexnet_lab.diagnosis.health import health_from, last_evidence
from alexnet_lab.instruments.flow import SPLITS, Columns, read_columns
from alexnet_lab.reports.curves import Series
from alexnet_lab.reports.maps import Strip
from alexnet_lab.reports.measured import short_names, strip_of

Floats = NDArray[np.float64]
MOST_TRACED = 600  # epochs whose counts of units are opened, over all runs
LONGEST_LABEL = 27  # letters of a cell's name that fit its place in a figure
CURVES = ("train_loss", "validation_loss", "train_accuracy", "validation_accuracy", "validation_auroc")
COUNTS = ("units.split", "units.inputs", "units.off")


@dataclass(frozen=True)
class Silent:
    """The units of one site in one run's last counted epoch."""

    word: str  # off, or negative side
    units: int
    rate: float  # mean over units of the share of inputs on which a unit is off
    dead: int  # units that were off on every input
    inputs: int  # N


@dataclass(frozen=True)
class Reading:
    """One run, as far as it got."""

    seed: int
    curves: dict[str, list[float]]
    layers: tuple[str, ...] = ()  # with weights, in forward order; none without instruments
    gradients: tuple[float, ...] = ()  # the typical gradient of one weight, by layer
    histograms: tuple[Floats | None, ...] = field(default=(), repr=False)  # of the gradient, by layer
    first_exponent: int = -126
    sites: tuple[str, ...] = ()
    fed_by: tuple[str, ...] = ()  # the layer that feeds each site
    silent: tuple[Silent | None, ...] = ()
    split: str = ""  # what the units were counted on: probe or training
    silent_share: tuple[float, ...] = ()  # of all units, silent on all N inputs, by epoch; empty where not traced
    read_at: str = ""
    health: Health = field(default_factory=dict)
    has_begun: bool = False
    damages: Mapping[str, str] = field(default_factory=dict)  # by file: a sentence on why it cannot be read
    key: tuple[str, int] = ("", 0)  # PlannedRun.key


@dataclass(frozen=True)
class CellReadings:
    """One cell with all of its runs: one for each seed, or for each seed and fold."""

    cell: str  # its folder
    label: str  # the levels that it changes, or those of the baseline
    runs: tuple[Reading, ...]

    def curve(self, metric: str) -> Series:
        """Return the mean over seeds by epoch, and the lowest and highest seed as its band."""
        return self._over_epochs([run.curves[metric] for run in self.runs if run.curves.get(metric)])

    def _over_epochs(self, curves: Sequence[Sequence[float]]) -> Series:
        length = max(map(len, curves), default=0)
        table = np.full((len(curves), length), math.nan)
        for row, curve in zip(table, curves, strict=True):
            row[: len(curve)] = curve
        return banded(self.label, list(range(1, length + 1)), table, geometric=False)

    def silent_by_epoch(self) -> Series:
        """Return the share of units that are silent on every input, over the epochs."""
        return self._over_epochs([run.silent_share for run in self.runs if run.silent_share])

    def gradients(self, layers: Sequence[str]) -> Series:
        """Return the geometric mean over seeds of the gradient by layer, and the range of seeds as its band."""
        rows = [run.gradients for run in self.runs if run.layers == tuple(layers)]
        table = np.asarray(rows, float).reshape(len(rows), len(layers))
        return banded(self.label, list(range(len(layers))), np.where(table > 0, table, math.nan), geometric=True)

    def sizes(self, layers: Sequence[str]) -> list[Strip]:
        """Return how the sizes of the gradient's elements are spread, by layer, over the runs of the cell."""
        strips = []
        for at, layer in enumerate(layers):
            shares = []
            first_exponent = -126
            for run in self.runs:
                counts = run.histograms[at] if run.layers == tuple(layers) else None
                if counts is not None and counts.sum() > 0:
                    shares.append(counts / counts.sum())
                    first_exponent = run.first_exponent
            if shares:
                strips.append(strip_of(layer, np.mean(shares, axis=0)[:, None], first_exponent))
            else:
                strips.append(Strip(layer, [], np.zeros((0, 1)), np.zeros(1), np.zeros(1)))
        return strips

    def silent(self, sites: Sequence[str]) -> list[list[Silent]]:
        """Return, by site, what was counted in each run of the cell."""
        runs = [run for run in self.runs if run.sites == tuple(sites)]
        return [[count for run in runs if (count := run.silent[at]) is not None] for at in range(len(sites))]


def banded(name: str, x: list[int], table: Floats, *, geometric: bool) -> Series:
    """Join rows (one per seed) into a line with the range of its seeds; places without a finite number stay NaN."""
    low, middle, high, details = [], [], [], []
    for column in table.T:
        values = column[np.isfinite(column)]
        count = len(values)
        details.append(f"lowest to highest of {count} seeds" if count > 1 else f"{count} seed")
        low.append(float(values.min()) if count else math.nan)
        high.append(float(values.max()) if count else math.nan)
        mean = math.nan
        if count:
            mean = float(np.exp(np.log(values).mean()) if geometric else values.mean())
        middle.append(mean)
    return Series(name, x, middle, low, high, details)


def labels_of(cells: Sequence[Cell]) -> dict[str, str]:
    """Label each cell by the levels that it changes, and the baseline by all of its own.

    `norm bn, act leaky` and `lrn, relu (baseline)`; networks go without the word network. Long labels get a number too.
    """
    if not cells:
        return {}
    baseline = dict(cells[0].settings)
    labels = {cells[0].name: _baseline_label(baseline)}
    for cell in cells[1:]:
        changed = [_setting(name, level) for name, level in cell.settings if level != baseline[name]]
        labels[cell.name] = ", ".join(changed)
    if max(map(len, labels.values())) > LONGEST_LABEL:  # figures leave out their middle, where they may differ
        labels = {name: f"{at}. {label}" for at, (name, label) in enumerate(labels.items(), 1)}
    return labels


def _baseline_label(settings: Mapping[str, Any]) -> str:
    if len(settings) == 1:
        levels = [_setting(*next(iter(settings.items())))]
    else:
        levels = [level_text(level) for level in settings.values()]
    label = f"{', '.join(levels)} (baseline)"
    return label if len(label) <= LONGEST_LABEL else "baseline"


def _setting(name: str, level: Any) -> str:
    return level_text(level) if name == "network" else f"{name} {level_text(level)}"


def read_cells(study: Study) -> list[CellReadings]:
    """Read every run of a study, cell by cell in the order of the design, the baseline first."""
    labels = labels_of(study.cells)
    readings: dict[str, list[Reading]] = {name: [] for name in labels}
    traced = MOST_TRACED // max(study.start.epochs, 1)
    for at, run in enumerate(study.runs()):  # seed by seed, so that the first seeds of every cell are traced
        readings[run.compared.name].append(read_run(run, trace=at < traced))
    return [CellReadings(name, labels[name], tuple(runs)) for name, runs in readings.items()]


def read_run(run: PlannedRun, *, trace: bool = True) -> Reading:
    """Read one run folder; what was not recorded comes back empty, and so does what cannot be read."""
    evidence = last_evidence(run.folder)
    curves = {name: [float(value) for value in evidence.curve(name)] for name in CURVES}
    damages = dict(evidence.damages)
    if evidence.flow is None:
        return Reading(run.seed, curves, has_begun=bool(evidence.recipe), damages=damages, key=run.key)
    weights, epochs = evidence.weights, evidence.measured_epochs
    names = short_names([evidence.parameters[at].layer for at in weights])
    split = next((part for part in ("probe", "training") if evidence.epochs_counted(part)), "")
    counted = evidence.epochs_counted(split)[-1] if split else 0
    layout = evidence.flow.layout
    shares = _silent_shares(run.folder.path / "flow", split, damages) if trace and split else ()
    return Reading(
        run.seed,
        curves,
        layers=tuple(names),
        gradients=tuple(evidence.gradient_size(epochs[-1], at) if epochs else math.nan for at in weights),
        histograms=tuple(_histogram(evidence, at) for at in weights),
        first_exponent=layout.first_exponent,
        sites=tuple(site.name for site in evidence.sites),
        fed_by=tuple(short_names([site.fed_by for site in evidence.sites])),
        silent=tuple(_silent(evidence, split, at, counted) if split else None for at in range(len(evidence.sites))),
        split=split,
        silent_share=shares,
        read_at=layout.read_at,
        health=health_from(evidence),
        has_begun=True,
        damages=damages,
        key=run.key,
    )


def _histogram(evidence: Evidence, parameter: int) -> Floats | None:
    """Return the counts by column, both signs together, of the last epoch that has any."""
    rows = evidence.windows_of("gradient", parameter)
    if not rows.any():
        return None
    rows = rows & (evidence.windows["epoch"] == evidence.windows["epoch"][rows].max())
    counts: Floats = evidence.windows["counts"][rows].sum(axis=(0, 1)).astype(float)
    return counts


def _silent_shares(flow: Path, split: str, damages: dict[str, str]) -> tuple[float, ...]:
    """Return, epoch by epoch, the share of units off on every input; NaN where the file of an epoch is damaged.

    What cannot be read is added to `damages`, by file.
    """
    shares = []
    for path in sorted(flow.glob("epoch-*.npz")):
        name = f"flow/{path.name}"
        try:
            columns = {} if name in damages else read_columns(path, COUNTS)
        except ValueError as error:
            damages[name], columns = str(error), {}
        shares.append(_silent_share(columns, split))
    return tuple(shares)


def _silent_share(columns: Columns, split: str) -> float:
    if not all(name in columns for name in COUNTS):
        return math.nan
    mine = (columns["units.split"] == SPLITS.index(split)) & (columns["units.inputs"] > 0)
    silent = columns["units.off"][mine] == columns["units.inputs"][mine]
    return float(silent.mean()) if len(silent) else math.nan


def _silent(evidence: Evidence, split: str, site: int, epoch: int) -> Silent | None:
    silence = evidence.silence(split, site, epoch)
    if silence is None:
        return None
    return Silent(silence.site.word, len(silence.rate), float(silence.rate.mean()), len(silence.dead), silence.inputs)
