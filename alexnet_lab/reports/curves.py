"""Figures made of lines and points: curves over epochs, profiles through depth, effects with their intervals.

>>> curves("loss", "Loss", "Lower is better.", [Series("training", epochs, losses)], y_label="cross-entropy")
"""

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray

from alexnet_lab.diagnosis.numbers import raised, written
from alexnet_lab.reports.drawing import STYLE, Drawing, label, whole_epochs
from alexnet_lab.reports.page import Figure, Table, number
from alexnet_lab.reports.palette import LIGHT, SERIES, along

Scale = Literal["linear", "log", "percent"]

DASHES = ("-", (0, (5, 1.6)), (0, (1.2, 1.4)), (0, (6, 1.5, 1.2, 1.5)))  # lines differ by more than colour
MARKERS = "osD^vPX"
MOST_MARKED = 15  # points of a line; with more, its markers would touch
MANY = 12  # lines; more are thin, and few of them named
MOST_NAMED = 9
LINE_OF_TEXT = 13.5  # pixels
RINGS_BELOW = 9  # pixels from an interval to the rings of its points


@dataclass(frozen=True)
class Series:
    """One line: its name, its points, and the lower and upper edge of its band, if it has one."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = field(default=())
    high: Sequence[float] = field(default=())
    details: Sequence[str] = field(default=())  # shown on hovering, after the number


@dataclass(frozen=True)
class Interval:
    """One estimate with its interval, in the unit of the plot; bounds are NaN where there is no interval."""

    name: str
    estimate: float
    low: float
    high: float
    detail: str = ""  # such as "6 pairs"
    text: str = ""  # stands under the name in place of the numbers; hovering tells the detail alone then
    points: Sequence[tuple[str, float, str]] = ()  # what the estimate is the mean of: label, place, text


def curves(
    name: str,
    title: str,
    reading: str,
    series: Sequence[Series],
    *,
    y_label: str,
    x_label: str = "epoch",
    scale: Scale = "linear",
    in_order: bool = False,
    marks: Sequence[tuple[float, str]] = (),
    height: float = 260,
) -> Figure:
    """Draw lines over epochs or steps; `in_order` gives them colours in sequence, as for layers.

    `marks` are heights with a dashed line and a word, such as a threshold.
    """
    drawing = Drawing(height=height)
    axes = drawing.axes()
    lines = []
    for at, line in enumerate(series):
        x, y = np.asarray(line.x, float), drawable(line.y, scale)
        colour = along(at, len(series)) if in_order else SERIES[at % len(SERIES)]
        marker = MARKERS[at % len(MARKERS)] if len(x) <= MOST_MARKED else ""
        lines += axes.plot(x, y, color=colour, marker=marker, markersize=4, **_stroke(at, len(series)))
        if len(line.low):
            axes.fill_between(x, drawable(line.low, scale), drawable(line.high, scale), color=colour, alpha=0.2, lw=0)
        labels = [f"{x_label} {number(_whole(value))}" for value in line.x]
        details = [_told(line, place, scale) for place in range(len(x))]
        drawing.points(axes, line.name, x, y, labels, details)
    for mark, word in marks:
        axes.axhline(mark, color=LIGHT["muted"], linewidth=1, linestyle=(0, (4, 3)))
        axes.annotate(
            label(word), (1, mark), (-2, 3), xycoords=("axes fraction", "data"), textcoords="offset points", size=9.5,
            color=LIGHT["muted"], ha="right",
        )  # fmt: skip
    every = [value for line in series for value in line.x]
    if every:
        whole_epochs(axes, every)
    heights = [drawable(line.y, scale) for line in series]
    if any(np.isfinite(line).any() for line in heights):  # a mark must be within the axis, with its word
        heights.append(drawable([mark for mark, _ in marks], scale))
    set_scale(axes, scale, heights)
    axes.set_xlabel(label(x_label))
    axes.set_ylabel(label(y_label, 36))
    _add_legend(drawing, lines, [line.name for line in series])
    return drawing.finish(name, title, reading, _table_of(series, x_label))


def profile(
    name: str,
    title: str,
    reading: str,
    layers: Sequence[str],
    series: Sequence[Series],
    *,
    y_label: str,
    scale: Scale = "log",
    height: float = 300,
    in_order: bool = True,
) -> Figure:
    """Draw heights through depth: `x` of the series are places in `layers`, the first layer on the left."""
    names = [label(layer, 20) for layer in layers]
    longest = 6.3 * max((len(name) for name in names), default=0)
    # Side by side they would touch; names beside the plot leave it less room.
    upright = longest * len(layers) > (210 if len(series) > 1 else 240)
    below = longest if upright else 12.0
    drawing = Drawing(height=height + max(0.0, below - 40))
    axes = drawing.axes()
    lines = []
    for at, line in enumerate(series):
        x, y = np.asarray(line.x, float), drawable(line.y, scale)
        colour = along(at, len(series)) if in_order else SERIES[at % len(SERIES)]
        marker = MARKERS[at % len(MARKERS)] if len(layers) <= MOST_MARKED else ""
        lines += axes.plot(x, y, color=colour, linestyle=DASHES[at % len(DASHES)], marker=marker, markersize=4)
        details = [_told(line, place, scale) for place in range(len(x))]
        drawing.points(axes, line.name, x, y, [layers[int(place)] for place in line.x], details)
    every = max(1, math.ceil(len(layers) / 20))
    ticks = list(range(0, len(layers), every))
    axes.set_xticks(
        ticks,
        [names[at] for at in ticks],
        rotation=90 if upright else 0,
    )
    axes.set_xlim(-0.4, max(len(layers) - 0.6, 0.4))
    set_scale(axes, scale, [drawable(line.y, scale) for line in series])
    axes.set_ylabel(label(y_label, 36))
    _add_legend(drawing, lines, [line.name for line in series])
    heights = [dict(zip((int(x) for x in line.x), line.y, strict=True)) for line in series]
    rows = [[layer, *(mine.get(at) for mine in heights)] for at, layer in enumerate(layers)]
    return drawing.finish(name, title, reading, Table(["layer", *(line.name for line in series)], rows))


def intervals(
    name: str,
    title: str,
    reading: str,
    rows: Sequence[Interval],
    *,
    unit: str,
    zero: float = 0.0,
    negligible: float = 0.0,
    signed: bool = True,
    marks: Sequence[tuple[float, str]] = (),
    table: Table | None = None,
    span: tuple[float, float] | None = None,
) -> Figure:
    """Draw estimates with their intervals, one below the other, against a line at `zero`.

    A full dot: the interval excludes zero. A hollow dot: it does not, or there is no interval. Estimates that are no
    differences (`signed` false) have no such line. Where `negligible` is given, effects within it of zero are too
    small to matter: that range is tinted. `marks` are places with a dashed line and a word. The points of a row are
    small rings below its estimate. `span` is the range of the axis, and `table` holds the numbers, if not those of the
    rows.
    """
    lines = [[*textwrap.wrap(label(row.name, 80), 26), _interval_text(row, signed=signed)] for row in rows]
    gap = 12.0
    if len(rows) > MANY:  # a line each; their numbers are told on hovering and in the table
        lines, gap = [[label(row.name)] for row in rows], 6.0
    heights = [
        max(len(text) * LINE_OF_TEXT, 2 * RINGS_BELOW + 8 if row.points else 0) + gap
        for text, row in zip(lines, rows, strict=True)
    ]
    drawing = Drawing(height=sum(heights) + 52)
    axes = drawing.axes(grid=False)
    places = -(np.cumsum(heights) - np.asarray(heights) / 2)
    if negligible:
        axes.axvspan(zero - negligible, zero + negligible, color=LIGHT["grid"], lw=0)
    if signed:
        axes.axvline(zero, color=LIGHT["muted"], linewidth=1)
    for mark, word in marks:
        axes.axvline(mark, color=LIGHT["muted"], linewidth=1, linestyle=(0, (4, 3)))
        drawing.points(axes, label(word), [mark], [-sum(heights) / 2], [""], [written(mark, 3)])
    for row, place in zip(rows, places, strict=True):
        _draw_interval(drawing, axes, row, place, zero if signed else None)
    axes.set_yticks(places, ["\n".join(text) for text in lines])
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="y", labelcolor=LIGHT["ink"])
    axes.set_ylim(-sum(heights), 0)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.spines["left"].set_visible(False)
    if signed:
        axes.xaxis.set_major_formatter(
            FuncFormatter(lambda value, _: f"{value:+g}".replace("-", "−") if value else "0")
        )
    axes.margins(x=0.08)
    if span is not None:
        axes.set_xlim(*span)
    axes.set_xlabel(label(unit, 40))
    if table is not None:
        return drawing.finish(name, title, reading, table)
    columns = ["change", f"effect, {unit}", "low", "high", "from"] if signed else ["", unit, "low", "high", "from"]
    numbers = [[row.name, row.estimate, row.low, row.high, row.detail] for row in rows]
    return drawing.finish(name, title, reading, Table(columns, numbers))


def _draw_interval(drawing: Drawing, axes: Axes, row: Interval, place: float, zero: float | None) -> None:
    """Draw one row at height `place`; the dot is hollow where the interval holds `zero`."""
    has_interval = math.isfinite(row.low) and math.isfinite(row.high)
    is_apart = has_interval and not (zero is not None and row.low <= zero <= row.high)
    if has_interval:
        axes.plot([row.low, row.high], [place, place], color=SERIES[0], linewidth=2.4, solid_capstyle="butt")
    filling = SERIES[0] if is_apart else LIGHT["paper"]
    axes.plot([row.estimate], [place], "o", markersize=8, color=SERIES[0], markerfacecolor=filling)
    text = _interval_text(row, signed=zero is not None)
    detail = row.detail if row.text else ", ".join(filter(None, (text, row.detail)))
    ends = [row.low, row.estimate, row.high] if has_interval else [row.estimate]
    drawing.points(axes, row.name, ends, [place] * len(ends), [""] * len(ends), [detail] * len(ends))
    if row.points:
        labels, values, texts = zip(*row.points, strict=True)
        below = [place - RINGS_BELOW] * len(values)
        axes.plot(values, below, "o", markersize=3.6, color=LIGHT["muted"], markerfacecolor="none", mew=1)
        drawing.points(axes, row.name, values, below, labels, texts)


def power_of_ten(value: float, _place: object = None) -> str:
    """Write a tick of a logarithmic scale as text; matplotlib would write it as a formula."""
    if value <= 0 or 0.0099 < value < 10001:
        return f"{value:g}"
    exponent = math.floor(math.log10(value) + 1e-9)
    head = round(value / 10**exponent)
    power = f"10{raised(exponent)}"
    return power if head == 1 else f"{head}×{power}"


def drawable(values: Sequence[float], scale: Scale) -> NDArray[np.float64]:
    """Return the numbers, with NaN in place of what the scale cannot show: infinite values; on "log", 0 and less."""
    numbers = np.asarray([math.nan if value is None else value for value in values], float)
    fine = np.isfinite(numbers) & (numbers > 0) if scale == "log" else np.isfinite(numbers)
    return np.where(fine, numbers, math.nan)


def set_scale(axes: Axes, scale: Scale, heights: Sequence[NDArray[np.float64]]) -> None:
    """Set scale and ticks of an axis for the heights drawn; without a finite number the plot says so."""
    every = np.concatenate([*heights, np.zeros(0)])
    every = every[np.isfinite(every)]
    if not len(every):
        axes.text(0.5, 0.5, "no finite numbers", transform=axes.transAxes, ha="center", color=LIGHT["muted"])
        axes.set_yticks([])
        return
    if scale == "log":
        axes.set_yscale("log")
        narrow = every.max() / every.min() < 30
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if narrow else (1,), numticks=7))
        axes.yaxis.set_major_formatter(FuncFormatter(power_of_ten))
        axes.yaxis.set_minor_formatter(NullFormatter())
        if narrow:
            middle = math.sqrt(every.max() * every.min())
            axes.set_ylim(min(every.min() / 1.2, middle / 3), max(every.max() * 1.2, middle * 3))
    else:
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
        if not 1e-3 <= np.abs(every).max() < 1e5:  # where matplotlib would write 1e-5 above the axis
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: written(value)))
    if scale == "percent":
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{written(100 * value)}%"))
        if every.max() - every.min() < 0.02:  # a tiny difference must not fill the plot
            low = max((every.max() + every.min()) / 2 - 0.01, -0.001)
            axes.set_ylim(low, low + 0.021)


def _add_legend(drawing: Drawing, lines: Sequence[Line2D], names: Sequence[str]) -> None:
    """Name the lines beside the plot, in their order from top to bottom; of too many, some that are evenly chosen."""
    if len(lines) < 2:
        return
    most = MOST_NAMED if len(lines) > MANY else MANY
    named = sorted({round(at) for at in np.linspace(0, len(lines) - 1, min(len(lines), most))})
    # A space behind each: browsers set some pairs of letters two pixels wider than was measured here.
    labels = [label(names[at], 17) + "\N{NO-BREAK SPACE}" for at in named]
    with mpl.rc_context(STYLE):
        drawing.canvas.legend(
            [lines[at] for at in named], labels, loc="outside right upper", frameon=False, fontsize=10,
            handlelength=2.2, handletextpad=0.5, borderaxespad=0.1, labelspacing=0.35,
        )  # fmt: skip


def _stroke(at: int, count: int) -> dict[str, Any]:
    """Return the stroke of a line: its own dashes, or thin where many lines share a plot."""
    if count > MANY:
        return {"linewidth": 0.9, "linestyle": "-"}
    return {"linewidth": 1.8, "linestyle": DASHES[at % len(DASHES)]}


def _told(series: Series, place: int, scale: Scale) -> str:
    value = series.y[place]
    text = _share(value) if scale == "percent" else number(value)
    if len(series.low):
        ends = [_share(end) if scale == "percent" else number(end) for end in (series.low[place], series.high[place])]
        text += f" ({ends[0]} to {ends[1]})"
    detail = series.details[place] if len(series.details) else ""
    return f"{text}, {detail}" if detail else text


def _share(value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else f"{written(100 * value)}%"


def _whole(value: float) -> float:
    return int(value) if float(value).is_integer() else value


def _interval_text(row: Interval, *, signed: bool) -> str:
    if row.text:
        return row.text

    def write(value: float) -> str:
        return written(value, 3, signed=signed)

    if math.isnan(row.low) or math.isnan(row.high):
        return f"{write(row.estimate)}, no interval"
    return f"{write(row.estimate)} [{write(row.low)}, {write(row.high)}]"


def _table_of(series: Sequence[Series], x_label: str) -> Table:
    by_series = [dict(zip(line.x, line.y, strict=True)) for line in series]
    bands = [dict(zip(line.x, zip(line.low, line.high, strict=True), strict=True)) if len(line.low) else None
             for line in series]  # fmt: skip
    columns = [x_label]
    for line, band in zip(series, bands, strict=True):
        columns += [line.name] if band is None else [line.name, f"{line.name}, low", f"{line.name}, high"]
    rows = []
    for x in sorted({x for line in by_series for x in line}):
        row: list[object] = [_whole(x)]
        for heights, band in zip(by_series, bands, strict=True):
            row.append(heights.get(x))
            if band is not None:
                row += band.get(x, (None, None))
        rows.append(row)
    return Table(columns, rows)
