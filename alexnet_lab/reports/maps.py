"""Figures made of cells: histograms over time, units by epoch, filters as images, confusions.

Hovering shows a cell's number. A cell is a pixel or a few, so ten thousand of them take a few kilobytes.
"""

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from alexnet_lab.diagnosis.numbers import raised
from alexnet_lab.reports.drawing import STYLE, Drawing, label
from alexnet_lab.reports.page import Figure, Table, number
from alexnet_lab.reports.palette import LIGHT
from alexnet_lab.training.metrics import read_confusion

Floats = NDArray[np.float64]

FAINTEST = 1e-4  # share of values; what is rarer leaves its cell empty
STRIP_HEIGHT = 66
MOST_ROWS = 96  # of a map of units; more share rows
DEAD = (0.84, 0.37, 0.0)
MOST_CLASSES = 30


@dataclass(frozen=True)
class Strip:
    """Histograms of one layer over time, by powers of two."""

    name: str
    exponents: Sequence[int]  # of the rows of `shares`: 2**e <= |x| < 2**(e + 1)
    shares: Floats  # (exponents, times): share of all values
    zero: Floats  # (times,): share that is zero or subnormal
    broken: Floats  # (times,): share that is infinite or NaN


def histograms_over_time(
    name: str,
    title: str,
    reading: str,
    strips: Sequence[Strip],
    times: Sequence[str],
    ends: tuple[str, str],
    span: tuple[int, int] | None = None,
) -> Figure:
    """Draw one strip per layer, the first on top: time to the right, powers of two upwards, colour for the share.

    `span` is the lowest and the highest power shown; figures with one span can be compared.
    """
    low, high = span or span_of(strips)
    is_broken = any(strip.broken.max(initial=0) > 0 for strip in strips)
    drawing = Drawing(height=STRIP_HEIGHT * len(strips) + 84)
    plots = drawing.stack(len(strips))
    norm = Normalize(math.log10(FAINTEST), 0)
    for axes, strip in zip(plots, strips, strict=True):
        shares, rows = _with_special_rows(strip, low, high, is_broken=is_broken)
        with np.errstate(divide="ignore"):
            image = mpl.colormaps["viridis"](norm(np.log10(shares)))
        image[shares < FAINTEST] = 0  # transparent: nothing there
        extent = (-0.5, len(times) - 0.5, -0.5, len(rows) - 0.5)
        with mpl.rc_context(STYLE):
            axes.imshow(image, extent=extent, aspect="auto", origin="lower")
        cells = [[_percent(share) if share > 0 else "" for share in row] for row in shares[::-1]]
        drawing.grid(axes, strip.name, extent, rows[::-1], times, cells)
        _mark_powers(axes, low, high, is_broken=is_broken)
        axes.set_title(label(strip.name), fontsize=10.5, loc="left", pad=3, color=LIGHT["ink"])
        axes.tick_params(axis="x", bottom=False)
    plots[-1].set_xticks([0, len(times) - 1] if len(times) > 1 else [0], ends if len(times) > 1 else ends[:1])
    if len(times) > 1:
        first, last = plots[-1].get_xticklabels()
        first.set_horizontalalignment("left")
        last.set_horizontalalignment("right")
    draw_key(drawing, plots, norm, ["0.01%", "0.1%", "1%", "10%", "100%"], "share of the values")
    return drawing.finish(name, title, reading, _quantile_table(strips, times))


def span_of(strips: Sequence[Strip]) -> tuple[int, int]:
    """Return the lowest and the highest power of two that holds a share of FAINTEST or more in some strip."""
    seen = [
        e for strip in strips for e, row in zip(strip.exponents, strip.shares, strict=True) if row.max() >= FAINTEST
    ]
    return (min(seen), max(seen)) if seen else (-1, 0)


def unit_map(
    name: str, title: str, reading: str, rates: Floats, epochs: Sequence[int], *, unit: str, word: str = "off"
) -> Figure:
    """Draw the off-rate of every unit (rows) in every epoch (columns); `rates` is (epochs, units).

    Units stand in the order of their mean off-rate, the highest on top. Dead, off-rate exactly 1, is crossed out.
    Where there are more units than rows, neighbours in that order share one, which is crossed out if all are dead.
    """
    order = np.argsort(-np.nan_to_num(rates).mean(0), kind="stable")
    groups = np.array_split(order, min(len(order), MOST_ROWS))
    mean = np.stack([rates[:, group].mean(1) for group in groups])  # rows, epochs
    dead = np.stack([(rates[:, group] == 1).sum(1) for group in groups])
    sizes = [len(group) for group in groups]
    height = float(np.clip(4.2 * len(groups) + 92, 190, 420))
    drawing = Drawing(height=height)
    axes = drawing.axes(grid=False)
    extent = (epochs[0] - 0.5, epochs[0] - 0.5 + len(epochs), len(groups) - 0.5, -0.5)
    with mpl.rc_context(STYLE):
        wide = round(320 / len(epochs) / ((height - 90) / len(groups)))  # how many times wider than tall a cell is
        picture = _unit_picture(mean, dead == np.asarray(sizes)[:, None], max(1, wide))
        axes.imshow(picture, extent=extent, aspect="auto")
    rows = [f"{unit} {group[0]}" if len(group) == 1 else f"{len(group)} {unit}s" for group in groups]
    cells = [
        [_unit_cell(mean[at, epoch], dead[at, epoch], size, word) for epoch in range(len(epochs))]
        for at, size in enumerate(sizes)
    ]
    drawing.grid(axes, "", (extent[0], extent[1], extent[2], extent[3]), rows, [f"epoch {e}" for e in epochs], cells)
    axes.set_xlabel("epoch")
    axes.set_ylabel(f"{unit}s")
    axes.set_yticks([])
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))
    draw_key(
        drawing,
        [axes],
        Normalize(0, 1),
        ["0%", "50%", "100%"],
        f"inputs it is {word} on; crossed: dead",
        colours="cividis_r",
    )
    columns = ["epoch", "dead", f"mean {word} rate", "highest below 1", "dead units, by number"]
    table = Table(columns, [_dead_row(epoch, rates[at]) for at, epoch in enumerate(epochs)])
    return drawing.finish(name, title, reading, table)


def filters(name: str, title: str, reading: str, weights: Floats, changes: Sequence[str], table: Table) -> Figure:
    """Draw first-layer filters (filters, channels, height, width) as images; grey stands for zero in each.

    Of one channel they are grey, of three in colour; of any other number their mean over channels is shown.
    """
    count, channels, tall, wide = weights.shape
    shown = weights if channels in (1, 3) else weights.mean(1, keepdims=True)
    across = min(count, max(4, math.ceil(math.sqrt(1.4 * count))))
    down = math.ceil(count / across)
    picture = np.zeros((down * (tall + 1), across * (wide + 1), 4))
    for at, kernel in enumerate(shown):
        largest = float(np.nanmax(np.abs(kernel))) if np.isfinite(kernel).any() else 0.0
        pixels = 0.5 + 0.5 * np.nan_to_num(kernel) / (largest or 1.0)
        top, left = (at // across) * (tall + 1), (at % across) * (wide + 1)
        picture[top : top + tall, left : left + wide, :3] = np.broadcast_to(pixels.transpose(1, 2, 0), (tall, wide, 3))
        picture[top : top + tall, left : left + wide, 3] = 1
    drawing = Drawing(height=max(60.0, 372 * down * (tall + 1) / (across * (wide + 1))) + 8)
    axes = drawing.axes(grid=False)
    axes.set_axis_off()
    extent = (0.0, float(across), float(down), 0.0)
    with mpl.rc_context(STYLE):
        axes.imshow(picture.clip(0, 1), extent=extent, aspect="auto")
    cells = [[changes[r * across + c] if r * across + c < count else "" for c in range(across)] for r in range(down)]
    drawing.grid(axes, "", extent, [""] * down, [""] * across, cells)
    return drawing.finish(name, title, reading, table)


def confusion(
    name: str, title: str, reading: str, counts: list[list[int]] | dict[str, Any], classes: Sequence[str]
) -> Figure:
    """Draw a confusion matrix, true classes in rows, predicted ones in columns; the colour is the share of the row.

    Of many classes those with the most mistakes are shown, and the rest together.
    """
    matrix, names = _worst_classes(read_confusion(counts).astype(np.int64), list(classes))
    totals = matrix.sum(1, keepdims=True)
    shares = np.divide(matrix, totals, out=np.zeros(matrix.shape), where=totals > 0)
    count = len(names)
    ticks = [label(word, 16) for word in names]
    step = 1 if count <= 20 else 2
    # Under few columns a name may have two lines; side by side under many they would touch, and stand upright.
    under = ["\n".join(textwrap.wrap(word, 11)) or word for word in ticks] if count <= 5 else ticks
    longest = max(len(line) for word in under for line in [*word.split("\n"), ""])
    upright = 6.5 * longest * count / step > 250
    below = 6.5 * longest if upright else 26.0
    side = float(np.clip(34 * count, 100, 300)) + 45 + below
    drawing = Drawing(height=side, width=380)
    axes = drawing.axes(grid=False)
    picture = np.zeros((*shares.shape, 4))
    picture[..., :3] = (0.0, 0.447, 0.698)  # series-0, as strong as the share
    picture[..., 3] = shares
    extent = (-0.5, count - 0.5, count - 0.5, -0.5)
    with mpl.rc_context(STYLE):
        axes.imshow(picture, extent=extent, aspect="auto")
    if count <= 12:
        for row, column in np.argwhere(matrix > 0):
            colour = LIGHT["on-image"] if shares[row, column] > 0.85 else LIGHT["ink"]
            axes.text(column, row, f"{matrix[row, column]}", ha="center", va="center", color=colour, fontsize=10.5)
    axes.set_xticks(range(0, count, step), under[::step], rotation=90 if upright else 0)
    axes.set_yticks(range(0, count, step), ticks[::step])
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    cells = [
        [f"{matrix[r, c]} of {totals[r, 0]} ({_percent(shares[r, c])})" for c in range(count)] for r in range(count)
    ]
    drawing.grid(axes, "", extent, [f"true: {word}" for word in names], [f"predicted: {word}" for word in names], cells)
    table = Table(
        ["true", *(f"as {word}" for word in names)],
        [[word, *(int(value) for value in row)] for word, row in zip(names, matrix, strict=True)],
    )
    return drawing.finish(name, title, reading, table)


def _with_special_rows(strip: Strip, low: int, high: int, *, is_broken: bool) -> tuple[Floats, list[str]]:
    """Return shares and names of the rows from the lowest: zero, a gap, the powers, and a gap and what is broken."""
    at = {exponent: row for row, exponent in enumerate(strip.exponents)}
    empty = np.zeros_like(strip.zero)
    rows = [strip.zero, empty]
    names = ["zero or subnormal", ""]
    for exponent in range(low, high + 1):
        rows.append(strip.shares[at[exponent]] if exponent in at else empty)
        names.append(f"size 2{raised(exponent)} to 2{raised(exponent + 1)}")
    if is_broken:
        rows += [empty, strip.broken]
        names += ["", "infinite or NaN"]
    return np.stack(rows), names


def _mark_powers(axes: Axes, low: int, high: int, *, is_broken: bool) -> None:
    step = next(step for step in (1, 2, 4, 8, 16, 32, 64, 128) if (high - low) / step <= 3)
    clear = (high - low) / 5  # a label below this would touch that of the zeros
    shown = [exponent for exponent in range(low, high + 1) if exponent % step == 0 and exponent - low >= clear]
    places, names = [0.0, *(exponent - low + 1.5 for exponent in shown)], ["0", *(f"2{raised(e)}" for e in shown)]
    if is_broken:
        places.append(high - low + 4.0)
        names.append("inf")
    axes.set_yticks(places, names, fontsize=9.5)


def draw_key(
    drawing: Drawing, plots: Sequence[Axes], norm: Normalize, names: Sequence[str], title: str, colours: str = "viridis"
) -> None:
    """Draw a colour bar below the plots."""
    with mpl.rc_context(STYLE):
        key = drawing.canvas.colorbar(
            ScalarMappable(norm, colours), ax=list(plots), location="bottom", aspect=45, pad=0.02, fraction=0.05
        )
        assert key.solids is not None  # noqa: S101  # of a mappable with colours it never is
        key.solids.remove()  # 256 rectangles; one picture does
        low, high = key.ax.get_xlim()
        key.ax.imshow(mpl.colormaps[colours](np.linspace(0, 1, 128))[None], extent=(low, high, 0, 1), aspect="auto")
    key.set_ticks(list(np.linspace(low, high, len(names))), labels=list(names))
    key.outline.set_visible(False)
    key.ax.tick_params(labelsize=9.5, length=2)
    key.set_label(title, fontsize=9.5)


def _quantile_table(strips: Sequence[Strip], times: Sequence[str]) -> Table:
    columns = ["layer", "when", "median size", "5% are below", "5% are above", "zero", "infinite or NaN"]
    rows: list[list[object]] = []
    for strip in strips:
        for at, when in enumerate(times):
            sizes = [_quantile(strip, at, share) for share in (0.5, 0.05, 0.95)]
            rows.append([strip.name, when, *sizes, _percent(strip.zero[at]), _percent(strip.broken[at])])
    return Table(columns, rows, "Sizes of the values: powers of two, zeros among them; every count is in flow/")


def _quantile(strip: Strip, time: int, share: float) -> str:
    """Name the power of two below which a share of the values lies, zeros counting as smallest."""
    summed = strip.zero[time] + np.cumsum(strip.shares[:, time])
    if not np.isfinite(summed).all() or summed[-1] <= 0:
        return "–"
    if strip.zero[time] >= share * summed[-1]:
        return "0"
    return f"2{raised(int(strip.exponents[int(np.searchsorted(summed, share * summed[-1]))]))}"


def _unit_picture(mean: Floats, dead: NDArray[np.bool_], wide: int) -> Floats:
    """Return a picture of 5 pixels a row: the rate as a colour, and crosses on another colour where dead.

    A cell that is `wide` times wider than tall has as many crosses, so that a cross stays a cross.
    """
    colours = np.asarray(mpl.colormaps["cividis_r"](np.nan_to_num(mean)))
    colours[np.isnan(mean)] = 0
    if not dead.any():
        return colours
    side = 5
    picture = colours.repeat(side, axis=0).repeat(side * wide, axis=1)
    ground = dead.repeat(side, axis=0).repeat(side * wide, axis=1)
    cross = np.eye(side, dtype=bool) | np.eye(side, dtype=bool)[::-1]
    picture[ground] = (*DEAD, 1)
    picture[ground & np.tile(cross, (mean.shape[0], mean.shape[1] * wide))] = 1
    return picture


def _unit_cell(mean: float, dead: int, size: int, word: str) -> str:
    if math.isnan(mean):
        return ""
    if size == 1:
        return "dead" if dead else f"{word} {_percent(mean)}"
    return f"{word} {_percent(mean)}" + (f", {dead} of {size} dead" if dead else "")


def _dead_row(epoch: int, rates: Floats) -> list[object]:
    dead = np.flatnonzero(rates == 1)
    alive = rates[rates < 1]
    listed = ", ".join(str(unit) for unit in dead[:40]) + (f" and {len(dead) - 40} more" if len(dead) > 40 else "")
    return [epoch, len(dead), _percent(rates.mean()), _percent(alive.max()) if len(alive) else "–", listed or "none"]


def _worst_classes(matrix: Any, names: list[str]) -> tuple[NDArray[np.int64], list[str]]:
    if len(names) <= MOST_CLASSES:
        return matrix, names
    mistakes = matrix.sum(1) + matrix.sum(0) - 2 * matrix.diagonal()
    worst = np.sort(np.argsort(-mistakes, kind="stable")[: MOST_CLASSES - 1])
    others = np.setdiff1d(np.arange(len(names)), worst)
    place = np.full(len(names), len(worst))
    place[worst] = np.arange(len(worst))
    summed = np.zeros((len(worst) + 1, len(worst) + 1), np.int64)
    true, answer = matrix.nonzero()
    np.add.at(summed, (place[true], place[answer]), matrix[true, answer])
    return summed, [*(names[at] for at in worst), f"the other {len(others)}"]


def _percent(share: float) -> str:
    return "–" if math.isnan(share) else f"{number(float(f'{100 * share:.3g}'))}%"
