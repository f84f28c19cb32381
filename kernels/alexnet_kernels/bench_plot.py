"""The figure of a benchmark: the useful memory traffic of each rival, beside that of a copy.

Normalisation does so little arithmetic that memory bandwidth limits it. Useful traffic counts every value that must be
read or written once; a rival that reads or writes values several times reaches less of it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

COLOURS = {"ours": "#c2410c", "separate": "#7c3aed", "compile": "#2563eb", "eager": "#6b7280"}
MARKERS = {"ours": "o", "separate": "D", "compile": "s", "eager": "v"}
NAMES = {
    "ours": "alexnet_kernels",
    "separate": "relu_lrn, then max_pool2d",
    "compile": "torch.compile",
    "eager": "torch",
}


def draw(rows: list[dict[str, Any]], least_values: Mapping[tuple[str, str], float], path: Path) -> None:
    """Draw the rows of one run of the benchmark.

    `least_values` holds, by operation and direction, the fewest values that must be moved for each one of the input.
    """
    keys = ("operation", "shape", "batch", "dtype", "layout", "direction")
    cases = list(dict.fromkeys(tuple(row[key] for key in keys) for row in rows))
    copies = [_copy_bandwidth(row, least_values) for row in rows if row["rival"] == "copy"]
    with mpl.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(9.5, 1.6 + 0.3 * len(cases)), layout="constrained")
        axes = figure.subplots()
        for rival, colour in COLOURS.items():
            points = [
                (row["useful_gigabytes_per_second"], cases.index(tuple(row[key] for key in keys)))
                for row in rows
                if row["rival"] == rival
            ]
            if points:
                speeds, places = zip(*points, strict=True)
                axes.scatter(speeds, places, color=colour, marker=MARKERS[rival], s=34, label=NAMES[rival], zorder=3)
        for place, copy in enumerate(copies):
            axes.plot([copy, copy], [place - 0.4, place + 0.4], color="black", linewidth=2, zorder=2)
        axes.plot([], [], color="black", linewidth=2, label="a copy (the limit)")
        axes.set_yticks(range(len(cases)), [_title(*case) for case in cases])
        axes.set_ylim(len(cases) - 0.4, -0.6)  # the first case on top
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.grid(axis="x", which="both", color="#e5e7eb", linewidth=0.6)
        axes.set_xlabel("useful memory traffic, GB/s (further right is faster; logarithmic)")
        one = rows[0]
        axes.set_title(
            f"{one['hardware']}, {one['device']}, {one['threads']} thread{'s' * (one['threads'] != 1)}, "
            f"torch {one['torch']}, {one['date']}",
            loc="left",
            fontsize=9,
        )
        figure.legend(loc="outside lower center", ncols=5, frameon=False)
        figure.savefig(path, dpi=110)


def _copy_bandwidth(row: dict[str, Any], least_values: Mapping[tuple[str, str], float]) -> float:
    """Return a copy's bandwidth: it moves two values per element, not the useful traffic of the case."""
    moved = 2.0 if row["direction"] == "forward" else 4.0
    useful: float = row["useful_gigabytes_per_second"]
    return useful / least_values[row["operation"], row["direction"]] * moved


def _title(operation: str, shape: str, batch: int, dtype: str, layout: str, direction: str) -> str:
    what = "LRN" if operation == "lrn" else "ReLU+LRN+pool"
    memory = "NCHW" if layout == "channels_first" else "NHWC"
    way = "forward" if direction == "forward" else "fwd+bwd"
    return f"{what} {shape} N={batch} {dtype.replace('bfloat', 'bf').replace('float', 'fp')} {memory} {way}"
