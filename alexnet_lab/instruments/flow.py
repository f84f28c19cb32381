"""The records of the instruments: columns in a run folder's flow/, readable with numpy or pandas alone.

    flow/layout.json        what the indices in the columns stand for, where and how often things were read
    flow/epoch-0001.npz     the columns of one epoch, written whole at its end (or where the run ended within it)
    flow/filters.npz        the first layer's weights: `start`, before the first step, and `end`, after the last

An epoch file has four tables; a column is an array named table.column, e.g. np.load(file)["steps.gradient_norm"].

    steps       one row per measured step and parameter
        step (int32, from 1), parameter (int16, index into layout "parameters"),
        weight_norm, gradient_norm, update_norm (float32; norms over all elements; the update is the one really applied)
    windows     one row per window of measured steps, kind and subject
        kind (int8, index into KINDS), subject (int16: into "parameters" for weights and their gradients, into "sites"
        for activations and theirs), first_step, last_step (int32), tensors (int32, how many were added up),
        stride (int32; 1: every element was counted, k: every k-th), underflow, overflow (float32, share of values that
        the run's precision cannot hold), signal_to_noise (float32, of the gradient over the window; NaN elsewhere)
    histograms  one row per row of windows, same order: the column `counts` is (rows, 2, columns) of int64, laid out as
        alexnet_kernels.exponent_histogram does: by sign, then zero, subnormal, powers of two, infinite, NaN
    units       one row per site, unit and split
        site (int16, into "sites"), unit (int32), split (int8, index into SPLITS), inputs (int64, N), off (int64, inputs
        on which the unit's pre-activation was <= 0 at every position), elements, elements_off (int64)
    cost        one row: step (int32, the last of the epoch), measuring_seconds, total_seconds (float64): what the
        instruments took of the epoch's wall time, as clocked in this very run
"""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexnet_lab.npz import UNREADABLE_NPZ, opened_npz
from alexnet_lab.records import parse_json, read_text, write_atomically

Columns = dict[str, NDArray[Any]]  # name of a column to its values, all of one length

KINDS = ("weight", "gradient", "activation", "activation gradient")
SPLITS = ("training", "probe")  # while weights move and dropout is on; and the fixed set in eval mode at an epoch's end
VERSION = 1
MOST_UNITS = 2**24  # of one layer, or along one side of its weights
MOST_EXPONENT = 1022  # of the smallest normal number of 64 bits
# Of each table that an epoch file has; those of `histograms` and `windows` are of one length.
COLUMNS = {
    "steps": ("step", "parameter", "weight_norm", "gradient_norm", "update_norm"),
    "windows": ("kind", "subject", "first_step", "last_step", "underflow", "overflow", "signal_to_noise"),
    "units": ("site", "unit", "split", "inputs", "off", "elements"),
    "cost": ("step", "measuring_seconds", "total_seconds"),
}


@dataclass(frozen=True)
class Parameter:
    """One measured parameter, in the order of the forward pass."""

    name: str  # features.conv1.weight
    layer: str  # features.conv1
    shape: tuple[int, ...]
    trainable: bool = True


@dataclass(frozen=True)
class Site:
    """One place where units fire or stay silent: the input of an activation function, in forward order."""

    name: str  # the activation's name, with #2 for its second use in one pass
    fed_by: str  # the layer with weights that computes it: features.conv1
    activation: str  # ReLU
    unit: str  # channel or neuron
    units: int

    @property
    def word(self) -> str:
        """Name what is counted: only a ReLU is off; any other activation is on its negative side."""
        return "off" if self.activation in ("ReLU", "ReLU6") else "negative side"


@dataclass(frozen=True)
class Layout:
    """What the indices in the columns stand for, and how the run was measured."""

    parameters: tuple[Parameter, ...]
    sites: tuple[Site, ...]
    precision: str = "fp32"
    first_exponent: int = -126  # the power of two of a histogram's column 2
    read_at: str = "gradients after unscaling and averaging over processes, before clipping; weights before the update"
    every: int = 1  # steps between two measured ones
    window: int = 1  # measured steps that one histogram adds up, at most
    probe: str = ""  # which images the probe set is, in words
    cost_clock: str = "processor time inside the instruments"  # how measuring_seconds was taken
    version: int = VERSION


class FlowWriter:
    """Writes the records; the run that owns the folder is the only one to do so."""

    def __init__(self, run: Path) -> None:
        self.folder = run / "flow"

    def begin(self, layout: Layout) -> None:
        """Start afresh."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for stale in self.folder.glob("*.npz"):
            stale.unlink()
        self.write_layout(layout)

    def write_layout(self, layout: Layout) -> None:
        """Describe the columns; other files of the folder are kept."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self.folder / "layout.json", json.dumps(asdict(layout), indent=2))

    def write_epoch(self, epoch: int, tables: Mapping[str, Columns]) -> None:
        """Write the columns of one epoch; written again, they replace the earlier ones."""
        columns = {f"{table}.{name}": values for table, part in tables.items() for name, values in part.items()}
        self._write(f"epoch-{epoch:04}.npz", columns)

    def write_filters(self, **filters: NDArray[np.float32]) -> None:
        """Keep the first layer's weights under these names, beside those already kept."""
        path = self.folder / "filters.npz"
        present = read_columns(path) if path.exists() else {}
        self._write("filters.npz", {**present, **filters})

    def _write(self, name: str, columns: Columns) -> None:
        content = io.BytesIO()
        np.savez_compressed(content, **columns)  # type: ignore[arg-type]  # numpy's stub takes `allow_pickle` for one
        write_atomically(self.folder / name, content.getvalue())


@dataclass
class Flow:
    """The records of one run, read back. Tables are joined over epochs, with the column `epoch` added."""

    layout: Layout
    epochs: dict[int, Columns] = field(repr=False)
    filters: Columns = field(repr=False, default_factory=dict)

    @classmethod
    def read(cls, run: Path, last: int | None = None) -> "Flow | None":
        """Read a run folder, or only so many of its last epochs; None where the run carried no instruments."""
        if not has_records(run):
            return None
        folder = run / "flow"
        paths = sorted(folder.glob("epoch-*.npz"))[-last if last else None :]
        layout = read_layout(folder / "layout.json")
        epochs = {int(path.stem.removeprefix("epoch-")): read_epoch(path, layout) for path in paths}
        filters = folder / "filters.npz"
        return cls(layout, epochs, read_columns(filters) if filters.exists() else {})

    def table(self, name: str) -> Columns:
        """Return one table's columns over all epochs; empty arrays where nothing was measured yet."""
        parts: dict[str, list[NDArray[Any]]] = {}
        for epoch, columns in self.epochs.items():
            mine = {key.partition(".")[2]: values for key, values in columns.items() if key.startswith(name + ".")}
            length = len(next(iter(mine.values()))) if mine else 0
            for column, values in {**mine, "epoch": np.full(length, epoch, np.int32)}.items():
                parts.setdefault(column, []).append(values)
        return {column: np.concatenate(of_epochs) for column, of_epochs in parts.items()}


def has_records(folder: Path) -> bool:
    """Say whether a folder has records of instruments: that of a run, or of a Panel."""
    return (folder / "flow" / "layout.json").exists()


def read_layout(path: Path) -> Layout:
    """Read layout.json; ValueError if it is damaged, or of a later version."""
    try:
        values = parse_json(read_text(path))
        if values["version"] == VERSION:
            parameters = tuple(
                Parameter(**{**entry, "shape": tuple(entry["shape"])}) for entry in values.pop("parameters")
            )
            layout = Layout(parameters, tuple(Site(**entry) for entry in values.pop("sites")), **values)
            _check_layout(layout)
            return layout
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged; move {path.parent} away to read the run without it ({error})") from None
    raise ValueError(f"{path} is of version {values['version']}, and this alexnet-lab reads {VERSION}; update it")


def _check_layout(layout: Layout) -> None:
    """Refuse names that are no text and counts that no network has: whoever reads them makes arrays as long."""
    texts = [text for site in layout.sites for text in (site.name, site.fed_by, site.activation, site.unit)]
    texts += [text for parameter in layout.parameters for text in (parameter.name, parameter.layer)]
    texts += [layout.precision, layout.read_at, layout.probe, layout.cost_clock]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("a name is no text")
    counts = [site.units for site in layout.sites]
    counts += [side for parameter in layout.parameters for side in parameter.shape]
    if not all(type(count) is int and 0 <= count <= MOST_UNITS for count in (*counts, layout.every, layout.window)):
        raise ValueError(f"a count is no whole number up to {MOST_UNITS:,}")
    if type(layout.first_exponent) is not int or abs(layout.first_exponent) > MOST_EXPONENT:
        raise ValueError(f"first_exponent is no whole number up to {MOST_EXPONENT:,}")


def read_columns(path: Path, names: Sequence[str] | None = None) -> Columns:
    """Read the arrays of one npz file, or those of them that `names` has; ValueError if it is damaged."""
    try:
        with opened_npz(path) as arrays:
            return {name: arrays[name] for name in arrays if names is None or name in names}
    except UNREADABLE_NPZ as error:
        raise _damaged(path, str(error)) from None


def read_epoch(path: Path, layout: Layout) -> Columns:
    """Read one epoch's columns; ValueError if it is damaged, or if they do not fit each other and the layout."""
    columns = read_columns(path)
    rows: dict[str, int] = {}
    for name, values in columns.items():
        table = "windows" if name.startswith("histograms.") else name.partition(".")[0]
        if values.dtype.kind not in "iuf" or values.ndim < 1 or rows.setdefault(table, len(values)) != len(values):
            raise _damaged(path, f"{name} is no column of numbers as long as the others")
        if name.startswith("histograms.") and values.dtype.kind == "f":
            raise _damaged(path, f"{name} is no column of whole numbers")
    missing = [
        f"{table}.{name}" for table in rows for name in COLUMNS.get(table, ()) if f"{table}.{name}" not in columns
    ]
    if missing:
        raise _damaged(path, f"it lacks {', '.join(missing)}")
    parameters, sites = len(layout.parameters), len(layout.sites)
    limits = {
        "steps.parameter": parameters,
        "windows.kind": len(KINDS),
        "units.site": sites,
        "units.split": len(SPLITS),
    }
    for name, limit in limits.items():
        _check_indices(path, name, columns.get(name), limit)
    if rows.get("windows"):
        of_parameters = columns["windows.kind"] < KINDS.index("activation")
        _check_indices(path, "windows.subject", columns["windows.subject"][of_parameters], parameters)
        _check_indices(path, "windows.subject", columns["windows.subject"][~of_parameters], sites)
        if columns.get("histograms.counts", np.zeros((0, 2))).shape[1:2] != (2,):
            raise _damaged(path, "its histograms have no column for each sign")
    if rows.get("units"):
        units = np.array([site.units for site in layout.sites])[columns["units.site"]]
        if (columns["units.unit"] < 0).any() or (columns["units.unit"] >= units).any():
            raise _damaged(path, "units.unit names what layout.json does not")
    return columns


def _check_indices(path: Path, name: str, values: NDArray[Any] | None, limit: int) -> None:
    if values is None or not len(values):
        return
    if values.dtype.kind not in "iu" or not 0 <= values.min() <= values.max() < limit:
        raise _damaged(path, f"{name} names what layout.json does not")


def _damaged(path: Path, why: str) -> ValueError:
    return ValueError(f"{path} is damaged; move it away to read the run without it ({why})")
