"""A run in formats of other tools: its records as Parquet, CSV or event files, its network as ONNX or torch.export."""

import calendar
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from alexnet_lab.choices import unknown_choice
from alexnet_lab.instruments.flow import KINDS, SPLITS, Flow
from alexnet_lab.records import RunFolder, write_atomically
from alexnet_lab.reports.run_tables import OF_PARAMETERS, SUBNORMAL, ZERO, bin_edges, open_run, read_flow, run_tables

if TYPE_CHECKING:
    import pandas as pd
    from torch.utils.tensorboard import SummaryWriter

# In the names of our event files, so that an export replaces its own and leaves those of others.
OURS = ".alexnet-lab-export"


def export(run: Path, to: str, out: Path) -> list[Path]:
    """Write a run's records into a folder in that format; return the files."""
    if to not in FORMATS:
        raise unknown_choice("export format", to, FORMATS)
    open_run(run)
    return FORMATS[to](run, out)


def _to_parquet(run: Path, out: Path) -> list[Path]:
    try:
        import pyarrow  # noqa: F401  # pandas writes through it, and would say so in a paragraph
    except ImportError:
        raise ValueError(
            'Parquet needs pyarrow, which is not installed: pip install "alexnet-lab[parquet]", or take --to csv'
        ) from None
    return _written(out, {f"{name}.parquet": frame.to_parquet(index=False) for name, frame in run_tables(run).items()})


def _to_csv(run: Path, out: Path) -> list[Path]:
    return _written(out, {f"{name}.csv": csv_text(frame) for name, frame in run_tables(run).items()})


def csv_text(table: "pd.DataFrame") -> str:
    """Write a table as CSV in which no text is a formula: a spreadsheet would run what begins with =, +, - or @.

    Such a text gets an apostrophe before it. Numbers, also those written as text, stay as they are.
    """
    from pandas.api.types import is_numeric_dtype

    inert = table.apply(lambda column: column if is_numeric_dtype(column) else column.map(_inert)).rename(
        columns=_inert
    )
    return str(inert.to_csv(index=False, lineterminator="\n"))


def _inert(value: object) -> object:
    if not isinstance(value, str) or not value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value


def _written(out: Path, contents: Mapping[str, str | bytes]) -> list[Path]:
    out.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        write_atomically(out / name, content)
    return [out / name for name in contents]


def _to_tensorboard(run: Path, out: Path) -> list[Path]:
    try:
        import tensorboard  # noqa: F401  # torch's writer needs it
    except ImportError:
        raise ValueError(
            'event files need tensorboard, which is not installed: pip install "alexnet-lab[tracking]"'
        ) from None
    from torch.utils.tensorboard import SummaryWriter

    out.mkdir(parents=True, exist_ok=True)
    for stale in out.glob(f"events.out.tfevents.*{OURS}"):
        stale.unlink()
    with SummaryWriter(str(out), filename_suffix=OURS) as writer:
        clock = _write_metrics(writer, run)
        flow = read_flow(run)
        if flow is not None:
            _write_norms(writer, flow, clock)
            _write_histograms(writer, flow, clock)
            _write_units(writer, flow, clock)
    return sorted(out.glob(f"events.out.tfevents.*{OURS}"))


def scalar_tag(metric: str) -> str:
    """Name a metric as TensorBoard groups it: train_loss and validation_loss stand side by side under `loss`."""
    for part in ("train", "validation", "test"):
        if metric.startswith(part + "_"):
            return f"{metric.removeprefix(part + '_')}/{part}"
    return f"run/{metric}"


def _write_metrics(writer: "SummaryWriter", run: Path) -> dict[int, float]:
    """Write a scalar per metric and epoch, at the epoch's last step; return when each epoch ended."""
    folder = open_run(run)
    started = (folder.provenance() or {}).get("started")
    now = time.time() if started is None else _seconds_of(started, folder)
    clock = {}
    for row in folder.metrics():
        now += row["seconds"]  # of training alone: records hold no other clock
        clock[row["epoch"]] = now
        for name, value in row.items():
            if name not in ("epoch", "step") and value is not None:
                writer.add_scalar(scalar_tag(name), value, row["step"], walltime=now)
    return clock


def _seconds_of(started: str, folder: RunFolder) -> float:
    try:
        return float(calendar.timegm(time.strptime(started, "%Y-%m-%dT%H:%M:%SZ")))
    except ValueError as error:
        raise ValueError(f"{folder.path / 'provenance.json'} is damaged: {error}") from None


def _write_norms(writer: "SummaryWriter", flow: Flow, clock: dict[int, float]) -> None:
    steps = flow.table("steps")
    for name in ("weight_norm", "gradient_norm", "update_norm"):
        for epoch, step, at, value in zip(
            steps.get("epoch", ()), steps.get("step", ()), steps.get("parameter", ()), steps.get(name, ()), strict=True
        ):
            tag = f"{name}/{flow.layout.parameters[at].name}"
            writer.add_scalar(tag, value, step, walltime=clock.get(int(epoch)))


def _write_histograms(writer: "SummaryWriter", flow: Flow, clock: dict[int, float]) -> None:
    windows, histograms = flow.table("windows"), flow.table("histograms")
    for row, counts in enumerate(histograms.get("counts", ())):
        kind, subject = windows["kind"][row], windows["subject"][row]
        among = flow.layout.parameters if kind in OF_PARAMETERS else flow.layout.sites
        tag = f"{KINDS[kind]}/{among[subject].name}"
        step, when = int(windows["last_step"][row]), clock.get(int(windows["epoch"][row]))
        for name, column in (("infinite", -2), ("nan", -1)):  # which no bucket of an event file can hold
            if counts[:, column].any():
                writer.add_scalar(f"{name} {tag}", counts[:, column].sum(), step, walltime=when)
        raw = raw_histogram(counts, flow.layout.first_exponent)
        if raw is not None:
            writer.add_histogram_raw(tag, **raw, global_step=step, walltime=when)


def _write_units(writer: "SummaryWriter", flow: Flow, clock: dict[int, float]) -> None:
    units, cost = flow.table("units"), flow.table("cost")
    ends = dict(zip(cost.get("epoch", ()), cost.get("step", ()), strict=True))
    if not units:
        return
    for epoch, step in ends.items():
        for number, site in enumerate(flow.layout.sites):
            for split, name in enumerate(SPLITS):
                mine = (units["epoch"] == epoch) & (units["site"] == number) & (units["split"] == split)
                inputs, off = units["inputs"][mine], units["off"][mine]
                if not inputs.sum():
                    continue
                where, word = f"{site.name} ({name})", site.word
                facts = {
                    f"{word} rate/{where}": off.sum() / inputs.sum(),
                    f"always {word}/{where}": (off == inputs).sum(),
                }
                for tag, value in facts.items():
                    writer.add_scalar(tag, value, int(step), walltime=clock.get(int(epoch)))


def raw_histogram(counts: NDArray[np.int64], first_exponent: int) -> dict[str, Any] | None:
    """Turn counts by sign and power of two into TensorBoard's buckets; None where no finite value was counted.

    A bucket goes from the right edge of the one before to its own; zeros have the narrowest that a float can bound.
    Sum and sum of squares are estimates, as if values lay evenly in their bins.
    """
    columns = counts.shape[1]
    finite = range(ZERO, columns - 2)
    edges = {column: bin_edges(column, columns, first_exponent)[1:] for column in finite}
    zeros = int(counts[:, ZERO].sum())
    negative = [(-low, -high, int(counts[1, c])) for c, (low, high) in edges.items() if c >= SUBNORMAL]
    positive = [(high, low, int(counts[0, c])) for c, (low, high) in edges.items() if c >= SUBNORMAL]
    buckets = [
        *reversed(negative),
        (float(np.nextafter(0, 1)), 0.0, zeros),
        *positive,
    ]  # right edge, left edge, count; ascending
    filled = [index for index, (_, _, count) in enumerate(buckets) if count]
    if not filled:
        return None
    buckets = buckets[filled[0] : filled[-1] + 1]
    number = np.array([count for _, _, count in buckets], float)
    right, left = (np.array([bucket[side] for bucket in buckets]) for side in (0, 1))
    return {
        "min": left[0],
        "max": right[-1],
        "num": number.sum(),
        "sum": float((number * (left + right) / 2).sum()),
        "sum_squares": float((number * (left**2 + left * right + right**2) / 3).sum()),
        "bucket_limits": right.tolist(),
        "bucket_counts": number.tolist(),
    }


def _to_onnx(run: Path, out: Path) -> list[Path]:
    from alexnet_lab.evaluation.onnx_model import export_onnx

    return export_onnx(run, out)


def _to_program(run: Path, out: Path) -> list[Path]:
    from alexnet_lab.evaluation.exported_program import export_program

    return export_program(run, out)


FORMATS: Mapping[str, Callable[[Path, Path], list[Path]]] = {
    "parquet": _to_parquet,
    "csv": _to_csv,
    "tensorboard": _to_tensorboard,
    "onnx": _to_onnx,
    "torch-export": _to_program,
}
