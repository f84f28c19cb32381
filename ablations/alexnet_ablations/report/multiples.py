"""Figures that set cells side by side on the same axes: small multiples of lines, of pictures, and tables in colour."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from numpy.typing import NDArray

from alexnet_lab.reports.curves import DASHES, MARKERS, Scale, Series, drawable, set_scale
from alexnet_lab.reports.drawing import STYLE, Drawing, in_rows, label, whole_epochs
from alexnet_lab.reports.maps import FAINTEST, Strip, draw_key
from alexnet_lab.reports.page import Figure, Table, number
from alexnet_lab.reports.palette import LIGHT, SERIES

Floats = NDArray[np.float64]

MOST_TOGETHER = 4  # lines with bands in one plot; more would cover each other, and get a plot each
PLOT_HEIGHT = 112


def lines_by_cell(
    name: str,
    title: str,
    reading: str,
    series: Sequence[Series],
    *,
    y_label: str,
    scale: Scale = "linear",
    layers: Sequence[str] = (),
) -> Figure:
    """Draw one line with its band per cell, over epochs or through `layers`; the first is the baseline.

    A few share one plot. More get a plot each, on the same axes, with the baseline as a grey line in every one.
    """
    together = len(series) <= MOST_TOGETHER
    rows = 1 if together else math.ceil(len(series) / 2)
    # Names of layers stand upright below the last row.
    foot = 30 + (6.5 * max(len(label(layer, 14)) for layer in layers) if layers else 12)
    drawing = Drawing(height=250 + foot if together else PLOT_HEIGHT * rows + foot + 20)
    with _styled():
        plots = (
            drawing.canvas.subplots(rows, 1 if together else 2, sharex=True, sharey=True, squeeze=False)
            .ravel()
            .tolist()
        )
    for axes in plots:
        axes.grid(visible=True, axis="y")
    if not together and len(series) % 2:
        _leave_empty(plots[-1])
    for at, one in enumerate(series):
        axes = plots[0] if together else plots[at]
        colour = SERIES[at % len(SERIES)] if together else SERIES[0]
        if not together:
            axes.set_title(label(one.name, 27), fontsize=10, loc="left", pad=3, color=LIGHT["ink"])
            if at:
                _line(axes, series[0], scale, LIGHT["muted"], 2)
        _line(axes, one, scale, colour, at if together else 0)
        places = [layers[int(x)] for x in one.x] if layers else [f"epoch {int(x)}" for x in one.x]
        drawing.points(axes, one.name, one.x, drawable(one.y, scale), places, _told(one, scale))
    set_scale(plots[0], scale, [drawable([*one.y, *one.low, *one.high], scale) for one in series])
    _finish_across(plots, series, layers, together=together)
    drawing.canvas.supylabel(label(y_label, 40), fontsize=11, color=LIGHT["muted"])
    if together and len(series) > 1:
        handles = [line for line in plots[0].get_lines() if not line.get_label().startswith("_")]
        names = [label(one.name, 25) for one in series]
        columns = 1 if max(len(one.name) for one in series) > 17 else 2
        if columns == 2:
            handles, names = in_rows(handles), in_rows(names)
        with _styled():
            drawing.canvas.legend(
                handles, names, loc="outside upper left", ncols=columns, frameon=False, fontsize=10,
                handlelength=2.6, borderaxespad=0.1, labelspacing=0.3,
            )  # fmt: skip
    return drawing.finish(name, title, reading, _lines_table(series, layers))


def depth_pictures(
    name: str, title: str, reading: str, cells: Sequence[tuple[str, Sequence[Strip]]], layers: Sequence[str]
) -> Figure:
    """Draw, for each cell, how the sizes of values are spread (upwards) in each layer (to the right)."""
    every = [strip for _, strips in cells for strip in strips]
    powers = [e for s in every for e, row in zip(s.exponents, s.shares, strict=True) if row.max() >= FAINTEST]
    low, high = (min(powers), max(powers)) if powers else (-1, 0)
    rows = math.ceil(len(cells) / 2)
    upright = 6.5 * max(len(label(layer, 14)) for layer in layers)
    drawing = Drawing(height=(PLOT_HEIGHT + 18) * rows + upright + 88)
    with _styled():
        plots = (
            drawing.canvas.subplots(rows, min(2, len(cells)), sharex=True, sharey=True, squeeze=False).ravel().tolist()
        )
    norm = Normalize(math.log10(FAINTEST), 0)
    names = ["zero", *(f"2{_raised(e)} to 2{_raised(e + 1)}" for e in range(low, high + 1)), "infinite or NaN"]
    extent = (-0.5, len(layers) - 0.5, -0.5, len(names) - 0.5)
    for axes, (cell, strips) in zip(plots, cells, strict=False):
        shares = np.stack([_column(strip, low, high) for strip in strips], axis=1)
        with np.errstate(divide="ignore"):
            picture = mpl.colormaps["viridis"](norm(np.log10(shares)))
        picture[shares < FAINTEST] = 0
        with _styled():
            axes.imshow(picture, extent=extent, aspect="auto", origin="lower")
        axes.set_title(label(cell, 27), fontsize=10, loc="left", pad=3, color=LIGHT["ink"])
        details = [[f"{100 * share:.3g}%" if share > 0 else "" for share in row] for row in shares[::-1]]
        drawing.grid(axes, cell, extent, names[::-1], list(layers), details)
    for axes in plots[len(cells) :]:
        _leave_empty(axes)
    step = next(step for step in (1, 2, 4, 8, 16, 32, 64) if (high - low) / step <= 4)
    ticks = [e for e in range(low, high + 1) if e % step == 0 and e - low > (high - low) / 6]
    plots[0].set_yticks([0, *(e - low + 1.5 for e in ticks)], ["0", *(f"2{_raised(e)}" for e in ticks)])
    _name_layers(plots, layers)
    draw_key(drawing, plots, norm, ["0.01%", "0.1%", "1%", "10%", "100%"], "share of the values")
    return drawing.finish(name, title, reading, _sizes_table(cells))


def matrix(
    name: str,
    title: str,
    reading: str,
    rows: Sequence[str],
    columns: Sequence[str],
    strength: Floats,
    texts: Sequence[Sequence[str]],
    details: Sequence[Sequence[str]],
    table: Table,
) -> Figure:
    """Draw a table in colour: one row per cell, one column per layer, the text of each in it; NaN is left blank."""
    upright = 6.5 * max(len(label(column, 14)) for column in columns)
    drawing = Drawing(height=27 * len(rows) + upright + 30)
    axes = drawing.axes(grid=False)
    picture = np.zeros((*strength.shape, 4))
    picture[..., :3] = (0.0, 0.447, 0.698)  # series-0, as strong as the number
    picture[..., 3] = np.clip(np.nan_to_num(strength), 0, 1)
    extent = (-0.5, len(columns) - 0.5, len(rows) - 0.5, -0.5)
    with _styled():
        axes.imshow(picture, extent=extent, aspect="auto")
    small = 10.0 if len(columns) <= 8 else 8.5
    if len(columns) <= 12:
        for row, column in np.argwhere(np.isfinite(strength)):
            colour = LIGHT["on-image"] if strength[row, column] > 0.72 else LIGHT["ink"]
            axes.text(column, row, texts[row][column], ha="center", va="center", color=colour, fontsize=small)
    axes.set_yticks(range(len(rows)), [label(row, 20) for row in rows])
    axes.tick_params(axis="both", length=0)
    _name_layers([axes], columns)
    drawing.grid(axes, "", extent, list(rows), list(columns), [list(row) for row in details])
    return drawing.finish(name, title, reading, table)


@contextmanager
def _styled() -> Iterator[None]:
    with mpl.rc_context(STYLE):
        yield


def _line(axes: Axes, series: Series, scale: Scale, colour: str, style: int) -> None:
    x, y = np.asarray(series.x, float), drawable(series.y, scale)
    dash, marker = DASHES[style % len(DASHES)], MARKERS[style % len(MARKERS)] if len(x) <= 15 else ""
    axes.plot(x, y, color=colour, linestyle=dash, marker=marker, markersize=3.5, label=series.name or " ")
    if len(series.low) and colour != LIGHT["muted"]:
        axes.fill_between(x, drawable(series.low, scale), drawable(series.high, scale), color=colour, alpha=0.2, lw=0)


def _finish_across(plots: Sequence[Axes], series: Sequence[Series], layers: Sequence[str], *, together: bool) -> None:
    if layers:
        _name_layers(plots, layers)
        return
    every = [x for one in series for x in one.x]
    whole_epochs(plots[0], every or [0.0])
    for axes in plots[-1:] if together else plots[-2:]:
        axes.set_xlabel("epoch")


def _leave_empty(axes: Axes) -> None:
    """Show nothing of a plot but the names below it, which those above it in its column have no other place for."""
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.tick_params(which="both", length=0)


def _name_layers(plots: Sequence[Axes], layers: Sequence[str]) -> None:
    every = max(1, math.ceil(len(layers) / 20))
    ticks = list(range(0, len(layers), every))
    for axes in plots:
        axes.set_xticks(ticks, [label(layers[at], 14) for at in ticks], rotation=90)
    plots[0].set_xlim(-0.5, len(layers) - 0.5)


def _told(series: Series, scale: Scale) -> list[str]:
    write = _share if scale == "percent" else number
    return [
        f"{write(y)} ({write(low)} to {write(high)}, {detail})"
        for y, low, high, detail in zip(series.y, series.low, series.high, series.details, strict=True)
    ]


def _share(value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else f"{100 * value:.4g}%"


def _raised(exponent: int) -> str:
    return str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def _column(strip: Strip, low: int, high: int) -> Floats:
    """Return one layer's shares from the smallest up: zero, the powers, and what is infinite or NaN."""
    at = {exponent: row for row, exponent in enumerate(strip.exponents)}
    powers = [float(strip.shares[at[e]].sum()) if e in at else 0.0 for e in range(low, high + 1)]
    return np.asarray([float(strip.zero.sum()), *powers, float(strip.broken.sum())])


def _lines_table(series: Sequence[Series], layers: Sequence[str]) -> Table:
    columns = ["layer" if layers else "epoch"]
    for one in series:
        columns += [one.name, "lowest", "highest"]
    heights = [
        {int(x): (y, low, high) for x, y, low, high in zip(s.x, s.y, s.low, s.high, strict=True)} for s in series
    ]
    places = sorted({at for one in heights for at in one})
    rows: list[list[object]] = []
    for at in places:
        row: list[object] = [layers[at] if layers else at]
        for of_series in heights:
            row += of_series.get(at, (None, None, None))
        rows.append(row)
    return Table(columns, rows)


def _sizes_table(cells: Sequence[tuple[str, Sequence[Strip]]]) -> Table:
    rows: list[list[object]] = []
    for cell, strips in cells:
        for strip in strips:
            total = float(strip.shares.sum()) + float(strip.zero.sum()) + float(strip.broken.sum())
            if not total:
                rows.append([cell, strip.name, "–", "–", "–"])
                continue
            summed = float(strip.zero.sum()) + np.cumsum(strip.shares.sum(1))
            at = int(np.searchsorted(summed, 0.5 * total))
            median = "0" if strip.zero.sum() >= 0.5 * total or not len(summed) else _power(strip, at)
            rows.append([cell, strip.name, median, _share(float(strip.zero.sum())), _share(float(strip.broken.sum()))])
    columns = ["cell", "layer", "median size", "zero", "infinite or NaN"]
    return Table(columns, rows, "Sizes of the gradient's elements, mean over seeds")


def _power(strip: Strip, at: int) -> str:
    return f"2{_raised(int(strip.exponents[min(at, len(strip.exponents) - 1)]))}"
