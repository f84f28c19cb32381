"""A drawing made with matplotlib: the figure in the page, what hovering shows, the table and the files come from it.

>>> drawing = Drawing(height=240)
>>> axes = drawing.axes()
>>> axes.plot(epochs, losses, color=SERIES[0])
>>> drawing.points(axes, "loss", epochs, losses, [f"epoch {e}" for e in epochs], [number(x) for x in losses])
>>> figure = drawing.finish("loss", "Loss", "Lower is better.", table)

The same drawing gives the same bytes. Text stays text, in the reader's font. Colours must come from the palette: in a
page each becomes a variable that is light or dark.
"""

import io
import re
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure as Canvas
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from alexnet_lab.reports.page import Figure, Grid, Points, Table
from alexnet_lab.reports.palette import LIGHT, VARIABLES

# Pixels. A panel fits a phone at its own size; wider drawings scroll there, in a box of their own.
PANEL_WIDTH = 380
WIDE_WIDTH = 640
PIXELS_PER_INCH = 72  # one SVG pixel is one point
PNG_SCALE = 2.5
LONGEST_LABEL = 28  # letters

_SVG = "http://www.w3.org/2000/svg"
_XLINK = "http://www.w3.org/1999/xlink"
_COLOURED = ("style", "fill", "stroke")
ET.register_namespace("", _SVG)
ET.register_namespace("xlink", _XLINK)

STYLE: Any = {  # Any: matplotlib's stub would have each key as a literal
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "alexnet-lab",  # same drawing, same bytes
    "font.family": ["DejaVu Sans"],  # comes with matplotlib; in a page the reader's own font takes its place
    "font.size": 11.0,
    "axes.labelsize": 11.0,
    "xtick.labelsize": 10.5,
    "ytick.labelsize": 10.5,
    "axes.edgecolor": LIGHT["edge"],
    "axes.labelcolor": LIGHT["muted"],
    "axes.facecolor": "none",
    "figure.facecolor": LIGHT["paper"],
    "figure.dpi": PIXELS_PER_INCH,
    "xtick.color": LIGHT["edge"],
    "ytick.color": LIGHT["edge"],
    "xtick.labelcolor": LIGHT["muted"],
    "ytick.labelcolor": LIGHT["muted"],
    "text.color": LIGHT["ink"],
    "axes.grid": False,
    "grid.color": LIGHT["grid"],
    "grid.linewidth": 1.0,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 1.8,
    "image.interpolation": "none",  # one number, one cell; nothing is smoothed
    "image.composite_image": False,
}


class Drawing:
    """A figure that is being drawn. Sizes are in pixels."""

    def __init__(self, *, height: float = 250, width: float = PANEL_WIDTH) -> None:
        with mpl.rc_context(STYLE):
            self.canvas = Canvas(figsize=(width / PIXELS_PER_INCH, height / PIXELS_PER_INCH), layout="constrained")
        self.canvas.get_layout_engine().set(w_pad=0.03, h_pad=0.03)  # type: ignore[union-attr, call-arg]  # stub knows the base class only
        self.size = (float(width), float(height))
        self._found: list[tuple[Axes, Any]] = []
        self._drawn = b""  # the finished drawing as SVG

    def axes(self, *, grid: bool = True) -> Axes:
        """Return the only plot of this drawing; `grid` adds horizontal lines."""
        axes: Axes = self.stack(1, grid=grid)[0]
        return axes

    def stack(self, count: int, *, grid: bool = False, heights: Sequence[float] | None = None) -> list[Axes]:
        """Return plots one below the other with a common horizontal axis."""
        with mpl.rc_context(STYLE):
            ratios = {"height_ratios": heights} if heights else None
            grid_of_plots = self.canvas.subplots(count, 1, sharex=True, squeeze=False, gridspec_kw=ratios)
        plots: list[Axes] = list(grid_of_plots[:, 0])
        for axes in plots:
            if grid:
                axes.grid(visible=True, axis="y")
        return plots

    def points(
        self, axes: Axes, name: str, x: ArrayLike, y: ArrayLike, labels: Sequence[str], values: Sequence[str]
    ) -> None:
        """Show `values` on hovering at these places, in the plot's coordinates; places that are NaN are left out."""
        self._found.append((axes, (name, np.asarray(x, float), np.asarray(y, float), list(labels), list(values))))

    def grid(
        self,
        axes: Axes,
        name: str,
        extent: tuple[float, float, float, float],
        rows: Sequence[str],
        columns: Sequence[str],
        cells: Sequence[Sequence[str]],
    ) -> None:
        """Show `cells` on hovering, the first row at the top; they fill extent (left, right, bottom, top)."""
        self._found.append((axes, (name, extent, list(rows), list(columns), [list(row) for row in cells])))

    def finish(self, name: str, title: str, reading: str, table: Table) -> Figure:
        """Return the figure, with its title, a sentence on how to read it, and the table of its numbers."""
        with mpl.rc_context(STYLE), _unknown_letters_allowed():
            for text in self.canvas.findobj(Text):
                text.set_parse_math(False)  # a class may be called $x^2$
                if text.get_color() == "black":  # matplotlib's own default
                    text.set_color(LIGHT["ink"])
            layout = self.canvas.get_layout_engine()
            if layout is not None:
                layout.execute(self.canvas)
            self.canvas.set_layout_engine("none")  # drawn as it was measured
            hover = [self._in_pixels(axes, *place) for axes, place in self._found]
        drawn = self._drawn = self.render("svg")
        folded = Table(table.columns, table.rows, table.caption or f"Numbers: {title}", folded=True)
        return Figure(name, title, reading, _inline(drawn, name, title, reading), self.size, hover, folded, self.render)

    def render(self, kind: str) -> bytes:
        """Return the content of a file of this kind, svg or png, in light colours."""
        if kind == "svg" and self._drawn:
            return self._drawn
        content = io.BytesIO()
        # A format's own canvas draws once. savefig draws twice, first without ink for the layout, which is done here.
        with mpl.rc_context(STYLE), _unknown_letters_allowed():
            if kind == "svg":
                about = {"Date": None, "Creator": "alexnet-lab"}
                FigureCanvasSVG(self.canvas).print_svg(content, metadata=about)  # type: ignore[no-untyped-call]
            else:
                self.canvas.set_dpi(PIXELS_PER_INCH * PNG_SCALE)
                FigureCanvasAgg(self.canvas).print_png(content)  # type: ignore[no-untyped-call]
                self.canvas.set_dpi(PIXELS_PER_INCH)
        return content.getvalue()

    def _in_pixels(self, axes: Axes, name: str, *place: Any) -> Points | Grid:
        if len(place) == 4 and isinstance(place[0], tuple):
            extent, rows, columns, cells = place
            left, right, bottom, top = extent
            (x0, y0), (x1, y1) = (self._pixel(axes, left, bottom), self._pixel(axes, right, top))
            return Grid(name, x0, x1, y1, y0, rows, columns, cells)
        x, y, labels, values = place
        places = [self._pixel(axes, *place) for place in zip(x, y, strict=True)]
        finite = [at for at, place in enumerate(places) if np.isfinite(place).all()]
        return Points(
            name,
            [places[at][0] for at in finite],
            [places[at][1] for at in finite],
            [labels[at] for at in finite],
            [values[at] for at in finite],
        )

    def _pixel(self, axes: Axes, x: float, y: float) -> tuple[float, float]:
        right, up = axes.transData.transform((x, y))
        return round(float(right), 1), round(self.size[1] - float(up), 1)


def label(text: str, longest: int = LONGEST_LABEL) -> str:
    """Shorten a text to one line without control characters, for a drawing.

    A dotted name, such as a layer's, loses its beginning, any other text its middle.
    """
    flat = "".join(letter if letter.isprintable() else " " for letter in text)
    if len(flat) <= longest:
        return flat
    head = 0 if "." in flat and " " not in flat else (longest - 1) // 2
    return f"{flat[:head]}…{flat[len(flat) - (longest - 1 - head) :].lstrip('.')}"


def in_rows(entries: Sequence[Any]) -> list[Any]:
    """Return what a legend of two columns must be given to be read row by row: matplotlib fills the first one first."""
    return [*entries[::2], *entries[1::2]]


def whole_epochs(axes: Axes, epochs: Sequence[float]) -> None:
    """Set the ticks of a horizontal axis to whole epochs."""
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))
    first, last = min(epochs), max(epochs)
    margin = 0.02 * (last - first) or 0.5
    axes.set_xlim(first - margin, last + margin)


class _unknown_letters_allowed(warnings.catch_warnings):  # noqa: N801  # reads as a statement
    """Ignore warnings about letters that the font lacks: boxes in the PNG, text in the reader's font in the SVG."""

    def __enter__(self) -> None:
        super().__enter__()
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")


def _variable(colour: re.Match[str]) -> str:
    """Return the CSS variable of a colour; one outside the palette, which has no dark version, is refused."""
    if colour[0] not in VARIABLES:
        raise ValueError(f"figures are drawn in the colours of alexnet_lab.reports.palette, got {colour[0]}")
    return VARIABLES[colour[0]]


def _inline(drawn: bytes, name: str, title: str, reading: str) -> str:
    """Turn an SVG file into markup for a page: colours become CSS variables, and ids begin with the figure's name."""
    root = ET.fromstring(drawn)  # noqa: S314  # matplotlib wrote it a moment ago
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{{{_SVG}}}metadata", f"{{{_SVG}}}style"):
                parent.remove(child)
    for element in root.iter():
        for key, value in list(element.attrib.items()):
            if key == "id":
                element.set(key, f"{name}-{value}")
            elif key == f"{{{_XLINK}}}href" and value.startswith("#"):
                element.set(key, f"#{name}-{value[1:]}")
            else:
                within = re.sub(r"url\(#", f"url(#{name}-", value)
                element.set(key, re.sub(r"#[0-9a-f]{6}\b", _variable, within) if key in _COLOURED else within)
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    root.set("role", "img")
    root.set("aria-labelledby", f"{name}-title {name}-desc")
    for at, (tag, text) in enumerate((("title", title), ("desc", reading))):
        element = ET.Element(f"{{{_SVG}}}{tag}", {"id": f"{name}-{tag}"})
        element.text = label(text, 2000)
        root.insert(at, element)
    return ET.tostring(root, encoding="unicode")
