"""A page: sections of text, tables and figures in one HTML file that needs no other file and no network.

>>> page = Page("A run", "It learned.", [Section("Curves", [Paragraph("By epoch."), FigureGrid([loss, accuracy])])])
>>> page.write(Path("report"))  # report/index.html, report/figures/loss.svg, loss.png, ...

Every text is plain text and may hold anything; it is escaped here, once. By its Content-Security-Policy a page makes no
request and runs no script but its own. It follows the reader's light or dark setting, and fits a phone.
"""

import base64
import hashlib
import html
import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Literal, Protocol

from alexnet_lab.diagnosis.numbers import written
from alexnet_lab.records import write_atomically
from alexnet_lab.reports.palette import style_sheet

# A page may run its one script, known by its hash, use styles and show pictures that stand in it, and nothing else.
POLICY = (
    "default-src 'none'; script-src 'sha256-{script}'; style-src 'unsafe-inline'; img-src data:; "
    "base-uri 'none'; form-action 'none'"
)
FIGURE_FOLDER = "figures"


class Block(Protocol):
    """A part of a section."""

    def html(self) -> str:
        """Return its markup."""


@dataclass(frozen=True)
class Paragraph:
    """A paragraph of text."""

    text: str

    def html(self) -> str:
        """Return its markup."""
        return f"<p>{escape(self.text)}</p>"


@dataclass(frozen=True)
class Link:
    """A link to another file of the same report, by relative path, in a table or as a paragraph."""

    text: str
    target: str

    def html(self) -> str:
        """Return its markup."""
        if re.match(r"[a-zA-Z][\w+.-]*:|//", self.target):
            raise ValueError(f"a report links to files beside it, by relative path; got {self.target!r}")
        return f'<a href="{escape(self.target)}">{escape(self.text)}</a>'


@dataclass(frozen=True)
class Commands:
    """Lines to type into a terminal."""

    lines: Sequence[str]

    def html(self) -> str:
        """Return its markup."""
        return f'<pre tabindex="0"><code>{escape(chr(10).join(self.lines), keep_lines=True)}</code></pre>'


@dataclass(frozen=True)
class Facts:
    """Names and values side by side."""

    pairs: Sequence[tuple[str, object]]

    def html(self) -> str:
        """Return its markup."""
        long = ' class="long"'
        rows = (
            f"<div{long if isinstance(value, str) and len(value) > 32 else ''}>"
            f"<dt>{escape(name)}</dt><dd>{cell_html(value)}</dd></div>"
            for name, value in self.pairs
        )
        return f'<dl class="facts">{"".join(rows)}</dl>'


@dataclass(frozen=True)
class Remarks:
    """A list of remarks, each with a title and a text; neighbours with one title show it once."""

    title: str
    points: Sequence[tuple[str, str]]

    def html(self) -> str:
        """Return its markup."""
        before = ["", *(name for name, _ in self.points)]
        points = "".join(
            ("" if name == last else f"<dt>{escape(name)}</dt>") + f"<dd>{escape(text)}</dd>"
            for (name, text), last in zip(self.points, before, strict=False)
        )
        return f'<h3>{escape(self.title)}</h3><dl class="points">{points}</dl>'


@dataclass(frozen=True)
class Callout:
    """A finding or a message in a box: its level in words and colour, a text, and details."""

    level: Literal["serious", "warning", "note", "good"]
    title: str
    text: str
    details: Sequence[tuple[str, str]] = ()

    def html(self) -> str:
        """Return its markup."""
        rows = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in self.details)
        return (
            f'<div class="callout {self.level}"><p class="level">{self.level.capitalize()}</p>'
            f"<h3>{escape(self.title)}</h3><p>{escape(self.text)}</p>" + (f"<dl>{rows}</dl>" if rows else "") + "</div>"
        )


@dataclass(frozen=True)
class Table:
    """Rows under columns; numbers are aligned right. `folded` shows the caption alone until it is opened."""

    columns: Sequence[str]
    rows: Sequence[Sequence[object]]
    caption: str = ""
    folded: bool = False

    def html(self) -> str:
        """Return its markup."""
        numbers = [
            any(_is_number(row[at]) and row[at] is not None for row in self.rows)
            and all(_is_number(row[at]) for row in self.rows)
            for at in range(len(self.columns))
        ]
        kinds = [' class="number"' if number else "" for number in numbers]
        head = "".join(
            f'<th scope="col"{kind}>{escape(name)}</th>' for name, kind in zip(self.columns, kinds, strict=True)
        )
        body = "".join(
            "<tr>" + "".join(_table_cell(cell, kind) for cell, kind in zip(row, kinds, strict=True)) + "</tr>"
            for row in self.rows
        )
        label = self.caption or "table"
        caption = f"<caption>{escape(self.caption)}</caption>" if self.caption and not self.folded else ""
        table = (
            f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(label)}"><table>{caption}'
            f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
        )
        if not self.folded:
            return table
        count = "1 row" if len(self.rows) == 1 else f"{len(self.rows)} rows"
        return f"<details><summary>{escape(label)}, {count}</summary>{table}</details>"


@dataclass(frozen=True)
class Points:
    """What hovering shows at points in order, such as those of a line. Positions are in pixels of the drawing."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    labels: Sequence[str]  # where: "epoch 3"
    values: Sequence[str]  # what: "0.132"


@dataclass(frozen=True)
class Grid:
    """What hovering shows in equal cells, the first row at the top; an empty text shows nothing."""

    name: str
    left: float
    right: float
    top: float
    bottom: float
    rows: Sequence[str]
    columns: Sequence[str]
    cells: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Figure:
    """A drawing with its title, a sentence on how to read it, what hovering shows, and its numbers as a table.

    Drawing.finish makes it; `svg` is markup in the colours of the page.
    """

    name: str  # of its files, and of its element in the page
    title: str
    reading: str
    svg: str
    size: tuple[float, float]
    hover: Sequence[Points | Grid]
    table: Table
    render: Callable[[str], bytes] = field(repr=False)  # "svg" or "png" to a file's content

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", self.name):
            raise ValueError(f"a figure's name names its files: a-z, 0-9 and -; got {self.name!r}")

    def save(self, folder: Path) -> None:
        """Write NAME.svg and NAME.png."""
        folder.mkdir(parents=True, exist_ok=True)
        for kind in ("svg", "png"):
            write_atomically(folder / f"{self.name}.{kind}", self.render(kind))

    def html(self) -> str:
        """Return its markup."""
        width, height = self.size
        data = json.dumps([asdict(layer) for layer in self.hover], separators=(",", ":"), allow_nan=False)
        # Shown from 0.8 to 1.3 times its size, so that its letters stay letters; narrower boxes scroll.
        bounds = f"min-width:min({0.8 * width:.0f}px,17rem);max-width:{1.3 * width:.0f}px"
        if width > 450:
            bounds = f"min-width:{0.8 * width:.0f}px;max-width:{1.3 * width:.0f}px"
        return (
            f'<figure id="{self.name}"><figcaption><h3>{escape(self.title)}</h3>'
            f'<p id="{self.name}-reading">{escape(self.reading)}</p></figcaption>'
            f'<div class="plot"><div class="canvas" tabindex="0" role="application" style="{bounds}" '
            f'data-size="{width:g} {height:g}" aria-describedby="{self.name}-reading" '
            f'aria-label="{escape(self.title)}. The arrow keys read its values.">{self.svg}'
            f'<div class="hit"></div><div class="mark"></div></div>'
            f'<script type="application/json">{_inert(data)}</script></div>{self.table.html()}</figure>'
        )


@dataclass(frozen=True)
class FigureGrid:
    """Figures side by side, as many as the page is wide: small multiples."""

    figures: Sequence[Figure]

    def html(self) -> str:
        """Return its markup."""
        kind = "figures two" if len(self.figures) in (2, 4) else "figures"
        return f'<div class="{kind}">{"".join(figure.html() for figure in self.figures)}</div>'


@dataclass(frozen=True)
class Beside:
    """A figure with blocks under it, and other blocks beside both where the page is wide enough."""

    figure: Figure
    under: Sequence[Block]
    beside: Sequence[Block]

    def html(self) -> str:
        """Return its markup."""
        under, beside = ("".join(block.html() for block in blocks) for blocks in (self.under, self.beside))
        return f'<div class="beside"><div>{self.figure.html()}{under}</div><div>{beside}</div></div>'


@dataclass(frozen=True)
class Section:
    """A heading and the blocks under it."""

    title: str
    blocks: Sequence[Block]

    @property
    def id(self) -> str:
        """Return what the list of contents links to."""
        return "section-" + re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")

    def html(self) -> str:
        """Return its markup."""
        blocks = "".join(block.html() for block in self.blocks)
        return f'<section aria-labelledby="{self.id}"><h2 id="{self.id}">{escape(self.title)}</h2>{blocks}</section>'


@dataclass(frozen=True)
class Page:
    """A report: its title, its first sentence, and its sections."""

    title: str
    lead: str
    sections: Sequence[Section]
    footer: str = ""

    def figures(self) -> Iterator[Figure]:
        """Yield every figure, in reading order."""
        for section in self.sections:
            for block in section.blocks:
                if isinstance(block, Figure):
                    yield block
                elif isinstance(block, Beside):
                    yield block.figure
                elif isinstance(block, FigureGrid):
                    yield from block.figures

    def html(self) -> str:
        """Return the whole file."""
        return render_page(self.title, self.lead, self.sections, footer=self.footer)

    def write(self, folder: Path) -> Path:
        """Write index.html and every figure as SVG and PNG into figures/; return the path of the page."""
        text = self.html()
        folder.mkdir(parents=True, exist_ok=True)
        for figure in self.figures():
            figure.save(folder / FIGURE_FOLDER)
        write_atomically(folder / "index.html", text)
        return folder / "index.html"


def render_page(title: str, lead: str, sections: Sequence[Section], *, footer: str = "") -> str:
    """Return one HTML file. Raises ValueError where two figures or sections have one name."""
    names = [section.id for section in sections]
    names += [figure.name for figure in Page(title, lead, sections).figures()]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"the sections and figures of a page must differ in name; twice there: {', '.join(twice)}")
    resources = files("alexnet_lab.reports")
    script = resources.joinpath("page.js").read_text()
    policy = POLICY.format(script=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode())
    contents = "".join(f'<li><a href="#{section.id}">{escape(section.title)}</a></li>' for section in sections)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,">'
        f"<title>{escape(title)}</title>"
        f"<style>{style_sheet()}{resources.joinpath('page.css').read_text()}</style></head><body>"
        '<a class="skip" href="#main">Skip to the content</a>'
        f'<header><h1>{escape(title)}</h1><p class="lead">{escape(lead)}</p>'
        f'<nav aria-label="Contents"><ul>{contents}</ul></nav></header>'
        f'<main id="main">{"".join(section.html() for section in sections)}</main>'
        f"<footer>{escape(footer)}</footer>"
        '<div id="tip" aria-hidden="true"></div><div id="live" class="unseen" aria-live="polite"></div>'
        f"<script>{script}</script></body></html>\n"
    )


def escape(text: str, *, keep_lines: bool = False) -> str:
    """Escape a text for HTML and XML; control characters become spaces, and line breaks too unless `keep_lines`."""
    printable = "".join(letter if letter.isprintable() or (keep_lines and letter == "\n") else " " for letter in text)
    return html.escape(printable, quote=True)


def number(value: float | None) -> str:
    """Write a number with four significant digits at most, and a missing one as a dash."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}".replace("-", "−")
    return written(value)


def decimals(value: float | None, places: int = 4) -> str:
    """Write a metric with a fixed number of decimals; a whole number stays as it is."""
    if value is None or isinstance(value, int) or math.isnan(value):
        return number(value)
    return f"{value:.{places}f}".replace("-", "−")


def cell_html(value: object) -> str:
    """Return the markup of a value in a table or a list of facts: a text, a number, None, or a Link."""
    if isinstance(value, Link):
        return value.html()
    if value is None or isinstance(value, int | float):
        return number(value)
    return escape(str(value))


def _is_number(value: object) -> bool:
    """Say whether a cell reads as a number, such as 3, "4.7%" or a missing one; for alignment."""
    if isinstance(value, str):
        return re.fullmatch(r"[+−-]?[\d.,]+(×10[⁻⁰¹²³⁴-⁹]+)?%?|[+−-]?10[⁻⁰¹²³⁴-⁹]+%?|–", value) is not None
    return value is None or isinstance(value, int | float)


def _table_cell(value: object, kind: str) -> str:
    wide = ' class="wide"' if isinstance(value, str) and len(value) > 48 else kind
    return f"<td{wide}>{cell_html(value)}</td>"


def _inert(data: str) -> str:
    """Escape JSON so that it cannot end the script element that holds it."""
    return data.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026").replace("\u2028", "\\u2028")
