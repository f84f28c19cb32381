"""Pages and figures, as their bytes tell; test_browser.py has what only a browser can tell."""

import json
import math
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet_lab.reports.curves import Interval, Series, curves, intervals, power_of_ten, profile
from alexnet_lab.reports.drawing import Drawing, label
from alexnet_lab.reports.page import (
    Callout,
    Commands,
    Facts,
    FigureGrid,
    Link,
    Page,
    Paragraph,
    Remarks,
    Section,
    Table,
    decimals,
    number,
    render_page,
)
from alexnet_lab.reports.palette import COLOURS, SERIES

EVIL = '"</script><script>alert(1)</script ><!-- <script<img src=x onerror=alert(1)> $x^2$ &amp; \x00\x1b[31m\nœ 猫'
SVG = "{http://www.w3.org/2000/svg}"


def simple(name="loss", **options):
    return curves(
        name, "Loss", "Lower is better.", [Series("training", [1, 2, 3], [3.0, 1.0, 2.0])], y_label="loss", **options
    )


class Reader(HTMLParser):
    """What a browser's parser would see: elements, attributes, and the text outside scripts."""

    def __init__(self):
        super().__init__()
        self.elements, self.attributes, self.text, self.scripts, self._inside = [], [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.elements.append(tag)
        self.attributes += attrs
        if tag == "script":
            self.scripts.append("")
        if tag in ("script", "style"):
            self._inside.append(tag)

    def handle_endtag(self, tag):
        if tag in ("script", "style"):
            self._inside.pop()

    def handle_data(self, data):
        if self._inside[-1:] == ["script"]:
            self.scripts[-1] += data
        elif not self._inside:
            self.text.append(data)


def read(text):
    reader = Reader()
    reader.feed(text)
    return reader


def evil_sections():
    series = [Series(EVIL, [1, 2], [0.5, 0.7], [0.4, 0.6], [0.6, 0.8]), Series("b", [1, 2], [0.1, 0.2])]
    figures = [
        curves("a", EVIL, EVIL, series, y_label=EVIL, x_label=EVIL, marks=[(0.3, EVIL)]),
        profile("b", EVIL, EVIL, [EVIL, "fc8"], [Series(EVIL, [0, 1], [1.0, 2.0])], y_label=EVIL),
        intervals("c", EVIL, EVIL, [Interval(EVIL, 1.0, 0.5, 1.5, EVIL)], unit=EVIL),
    ]
    return [
        Section(EVIL, [Paragraph(EVIL), Facts([(EVIL, EVIL)]), Callout("note", EVIL, EVIL, [(EVIL, EVIL)])]),
        Section("More", [Table([EVIL], [[EVIL], [Link(EVIL, "runs/<b>/x.html")]], EVIL), Commands([EVIL])]),
        Section("Figures", [FigureGrid(figures)]),
    ]


def test_no_text_becomes_markup():
    found = read(render_page(EVIL, EVIL, evil_sections(), footer=EVIL))
    assert found.elements.count("script") == 4  # one for each figure's data, one of the page
    assert "img" not in found.elements
    assert not [name for name, _ in found.attributes if name.startswith("on")]
    shown = EVIL.replace("\x00", " ").replace("\x1b", " ").replace("\n", " ")
    assert found.text.count(shown) >= 12  # whole and unchanged wherever it was given


def test_figure_data_is_json_that_holds_any_text():
    text = render_page("t", "l", evil_sections())
    data = re.findall(r'<script type="application/json">(.*?)</script>', text, re.DOTALL)
    assert len(data) == 3
    assert not [each for each in data if "<" in each]  # nothing in it can end its element
    layers = json.loads(data[0])
    assert layers[0]["name"] == EVIL
    assert layers[0]["values"] == ["0.5 (0.4 to 0.6)", "0.7 (0.6 to 0.8)"]


def test_a_page_forbids_itself_every_request():
    text = render_page("t", "l", evil_sections())
    assert "default-src 'none'" in text
    addresses = [v for name, v in read(text).attributes if name in ("src", "href", "xlink:href", "action", "srcset")]
    assert [each for each in addresses if not each.startswith(("#", "data:"))] == ["runs/<b>/x.html"]
    assert not re.search(r"url\((?!#)", text)


def test_every_page_is_made_where_its_policy_is():
    # Pages of runs, studies, comparisons, audits, evaluations and explanations alike: nothing else writes a document.
    root = Path(__file__).parents[2]
    sources = [*(root / "alexnet_lab").rglob("*.py"), *(root / "ablations" / "alexnet_ablations").rglob("*.py")]
    texts = {path.name: path.read_text().lower() for path in sources}
    assert [name for name, text in texts.items() if "<!doctype" in text or "<html" in text] == ["page.py"]
    assert [name for name, text in texts.items() if '/ "index.html",' in text] == ["page.py"]
    kinds = {name for name, text in texts.items() if re.search(r"(return|page =) page\(", text)}
    assert kinds - {"page.py"} == {
        *("inspection.py", "comparison.py", "audited.py", "evaluation_page.py", "explanation_page.py", "writing.py"),
    }


def test_a_link_out_of_the_report_is_refused():
    for target in ("https://example.org", "javascript:alert(1)", "//example.org/x"):
        with pytest.raises(ValueError, match="relative path; got"):
            Link("x", target).html()


def test_two_figures_of_one_name_are_refused():
    with pytest.raises(ValueError, match="twice there: loss"):
        render_page("t", "l", [Section("s", [simple(), simple()])])


def test_a_figure_name_that_is_no_file_name_is_refused():
    with pytest.raises(ValueError, match=r"a-z, 0-9 and -; got '\.\./x'"):
        simple("../x")


def test_ids_differ_throughout_a_page():
    ids = [value for name, value in read(render_page("t", "l", evil_sections())).attributes if name == "id"]
    assert len(ids) == len(set(ids))


def test_the_same_drawing_is_the_same_bytes():
    assert simple().render("svg") == simple().render("svg")
    assert simple().html() == simple().html()


def test_hovering_points_lie_on_the_line_that_was_drawn():
    drawing = Drawing(height=200)
    axes = drawing.axes()
    x, y = [1, 2, 5], [10.0, 1000.0, 100.0]
    axes.plot(x, y, color=SERIES[1], gid="line")
    axes.set_yscale("log")
    axes.set_yticks([], minor=True)
    axes.set_yticks([10, 100, 1000], ["10", "100", "1000"])
    drawing.points(axes, "n", x, y, ["a", "b", "c"], ["1", "2", "3"])
    figure = drawing.finish("f", "t", "r", Table(["x"], [[1]]))
    path = next(e for e in ET.fromstring(figure.svg).iter() if e.get("id") == "f-line")[0].get("d")
    drawn = [(float(a), float(b)) for a, b in re.findall(r"[ML] ([\d.]+) ([\d.]+)", path)]
    hover = figure.hover[0]
    np.testing.assert_allclose(list(zip(hover.x, hover.y, strict=True)), drawn, atol=0.06)


def test_hovering_passes_over_what_is_not_drawn():
    series = [Series("a", [1, 2, 3, 4], [1.0, math.nan, math.inf, 0.0])]
    assert curves("f", "t", "r", series, y_label="y").hover[0].labels == ["epoch 1", "epoch 4"]
    assert curves("f", "t", "r", series, y_label="y", scale="log").hover[0].labels == ["epoch 1"]


def test_the_table_has_every_number_of_the_figure():
    series = [Series("a", [1, 2], [0.5, math.nan]), Series("b", [2, 3], [0.25, 4.0], [0.0, 3.0], [1.0, 5.0])]
    table = curves("f", "t", "r", series, y_label="y").table
    assert list(table.columns) == ["epoch", "a", "b", "b, low", "b, high"]
    assert table.rows[0] == [1, 0.5, None, None, None]
    assert table.rows[2] == [3, None, 4.0, 3.0, 5.0]
    assert table.folded


def test_figures_without_a_finite_number_say_so():
    figure = curves("f", "t", "r", [Series("a", [1], [math.nan]), Series("b", [1], [math.inf])], y_label="y")
    assert "no finite numbers" in figure.svg


def test_a_mark_far_from_the_only_point_is_drawn_with_it():
    series = [Series("validation", [1], [0.76])]
    figure = curves("f", "t", "r", series, y_label="y", scale="percent", marks=[(0.1, "chance")])
    assert "chance" in figure.svg
    assert figure.hover[0].y[0] < 100  # the point stands high in a plot that reaches down to the mark


def test_colours_that_would_not_follow_light_and_dark_are_refused():
    drawing = Drawing()
    drawing.axes().plot([1, 2], color="#123456")
    with pytest.raises(ValueError, match="#123456"):
        drawing.finish("f", "t", "r", Table(["x"], [[1]]))


def test_in_a_page_no_colour_is_fixed():
    for block in evil_sections()[2].blocks[0].figures:
        assert not re.search(r'(style|fill|stroke)="[^"]*#[0-9a-f]{6}', block.svg)


def test_columns_of_numbers_stand_right_and_texts_left():
    rows = [["conv1", "4.7%", None, "2 of 8"], ["7", "–", 3.0, "-"]]
    cells = re.findall(r"<td( class=\"number\")?>", Table(["a", "b", "c", "d"], rows).html())
    assert [bool(cell) for cell in cells] == [False, True, True, False] * 2


def test_a_page_is_written_with_its_figures(tmp_path):
    page = Page("t", "l", [Section("s", [FigureGrid([simple("one"), simple("two")]), simple("three")])])
    assert page.write(tmp_path / "report") == tmp_path / "report" / "index.html"
    names = sorted(path.name for path in (tmp_path / "report" / "figures").iterdir())
    assert names == ["one.png", "one.svg", "three.png", "three.svg", "two.png", "two.svg"]
    image = Image.open(tmp_path / "report" / "figures" / "one.png")
    assert image.size == (950, 650)
    assert len(image.convert("RGB").getcolors(100_000)) > 5
    root = ET.parse(tmp_path / "report" / "figures" / "one.svg").getroot()
    assert "epoch" in [element.text for element in root.iter(f"{SVG}text")]


def test_a_saved_svg_is_valid_whatever_the_texts(tmp_path):
    for figure in evil_sections()[2].blocks[0].figures:
        figure.save(tmp_path)
        ET.parse(tmp_path / f"{figure.name}.svg")


def luminance(colour):
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    """By the definition in WCAG 2.2."""
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize(
    "name", [name for name in COLOURS if name not in ("paper", "panel", "grid", "edge", "on-image")]
)
@pytest.mark.parametrize("theme", [0, 1])
def test_every_colour_stands_out_from_its_background(name, theme):
    least = 3 if name.startswith(("series", "depth")) else 4.5
    for ground in ("paper", "panel"):
        if ground == "paper" or least == 4.5:
            assert contrast(COLOURS[name][theme], COLOURS[ground][theme]) >= least


def test_each_colour_has_one_light_value_so_that_each_can_be_told_in_a_drawing():
    lights = [light for light, _ in COLOURS.values()]
    assert len(lights) == len(set(lights))


def drawn(figure):
    """Return where the markers and lines of a plot are, in pixels of its drawing; a legend is outside the plot."""
    root = ET.fromstring(figure.svg)
    plot = next(e for e in root.iter(f"{SVG}g") if e.get("id", "").endswith("-axes_1"))
    marks, ends = [], []
    for group in plot.findall(f"{SVG}g"):
        if "-line2d_" not in group.get("id"):
            continue
        marks += [(float(e.get("x")), float(e.get("y"))) for e in group.iter(f"{SVG}use")]
        for path in group.findall(f"{SVG}path"):
            places = re.findall(r"[ML] ([\d.-]+) ([\d.-]+)", path.get("d"))
            ends.append([(float(x), float(y)) for x, y in places])
    return marks, ends


NEAR = [
    Series("a", [1, 2, 3], [0.0, 0.1, 0.0]),
    Series("b", [1, 2], [0.0, 0.3]),
    Series("c", [1, 2, 3], [0.0, 0.0, 0.0]),
]


@pytest.mark.parametrize("in_order", [True, False])
@pytest.mark.parametrize("draw", ["curves", "profile"])
def test_every_marker_and_every_end_of_a_line_is_a_measured_point(draw, in_order):
    if draw == "curves":
        figure = curves("f", "t", "r", NEAR, y_label="y", in_order=in_order)
    else:
        series = [Series(each.name, [x - 1 for x in each.x], each.y) for each in NEAR]
        figure = profile("f", "t", "r", ["l", "m", "n"], series, y_label="y", scale="linear", in_order=in_order)
    measured = sorted((x, y) for layer in figure.hover for x, y in zip(layer.x, layer.y, strict=True))
    marks, lines = drawn(figure)
    np.testing.assert_allclose(sorted(marks), measured, atol=0.06)
    np.testing.assert_allclose(sorted(place for line in lines for place in line), measured, atol=0.06)


def legend_of(figure):
    root = ET.fromstring(figure.svg)
    legend = next(e for e in root.iter(f"{SVG}g") if "-legend_" in e.get("id", ""))
    texts = [(float(re.search(r"translate\(([\d.]+) ([\d.]+)\)|$", e.get("transform", ""))[2] or e.get("y")), e.text)
             for e in legend.iter(f"{SVG}text")]  # fmt: skip
    return [text.strip() for _, text in sorted(texts)]


def test_a_legend_stands_in_the_order_of_its_lines():
    series = [Series(f"conv{at}", [1, 2], [1.0, 3.0 - at % 3]) for at in range(1, 9)]
    assert legend_of(curves("f", "t", "r", series, y_label="y")) == [each.name for each in series]
    places = [Series(each.name, [0, 1], each.y) for each in series]
    assert legend_of(profile("f", "t", "r", ["a", "b"], places, y_label="y")) == [each.name for each in series]
    many = [Series(f"l{at}", [1, 2], [1.0, float(at)]) for at in range(1, 54)]
    named = legend_of(curves("f", "t", "r", many, y_label="y"))
    assert (named[0], named[-1], len(named)) == ("l1", "l53", 9)
    assert named == sorted(named, key=lambda name: int(name[1:]))


def test_one_line_needs_no_legend():
    assert "-legend_" not in simple().svg


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (-0.000012, "−1.2×10⁻⁵"), (1e-5, "10⁻⁵"), (-1e-5, "−10⁻⁵"), (123456.0, "1.235×10⁵"), (-0.5, "−0.5"), (0.0, "0"),
        (-1234, "−1,234"), (None, "–"), (math.nan, "–"), (-math.inf, "−inf"), (True, "yes"),
    ],
)  # fmt: skip
def test_numbers_are_written_as_people_write_them(value, text):
    assert number(value) == text


def test_a_metric_has_as_many_decimals_as_its_neighbours():
    assert [decimals(value) for value in (0.96, -0.06061, 66, None)] == ["0.9600", "−0.0606", "66", "–"]


def test_no_figure_has_a_hyphen_for_a_minus_or_an_exponent_of_a_programmer():
    figures = [
        curves("a", "t", "r", [Series("a", [1, 2], [-3e-6, 4e-6])], y_label="y"),
        curves("b", "t", "r", [Series("a", [1, 2], [2e-7, 4e-3])], y_label="y", scale="log"),
        curves("c", "t", "r", [Series("a", [1, 2], [-0.5, 0.5])], y_label="y", scale="percent"),
        intervals("d", "t", "r", [Interval("a", -1e-5, -2e-5, 1e-6)], unit="points"),
    ]
    for figure in figures:
        told = [text for layer in figure.hover for text in layer.values]
        shown = [element.text for element in ET.fromstring(figure.svg).iter(f"{SVG}text")]
        assert not [
            text for text in told + shown + read(figure.table.html()).text if re.search(r"-\d|\de[+-]?\d", text)
        ]


def test_columns_of_numbers_with_exponents_stand_right():
    cells = re.findall(r"<td( class=\"number\")?>", Table(["a"], [["1.2×10⁻⁵"], ["10⁻⁷%"], ["−3"]]).html())
    assert all(cells)


def test_remarks_of_one_kind_share_their_words():
    words = Remarks("Against it", [("Note", "One."), ("Note", EVIL), ("Size", "Three."), ("Note", "Four.")]).html()
    assert read(words).elements.count("dt") == 3
    assert read(words).elements.count("dd") == 4
    assert "script" not in read(words).elements


def test_long_texts_lose_their_middle_and_long_layer_names_their_head():
    assert label("features.12.block.0.conv", 11) == "…ock.0.conv"
    assert label("viral pneumonia", 11) == "viral…monia"
    assert label("a\nb\x00c") == "a b c"


def test_ticks_of_a_logarithmic_scale_are_text():
    assert [power_of_ten(value) for value in (1e-7, 0.01, 1, 200, 1e6, 2e-5)] == [
        "10⁻⁷",
        "0.01",
        "1",
        "200",
        "10⁶",
        "2×10⁻⁵",
    ]


def test_an_effect_whose_interval_leaves_zero_out_has_a_full_dot_and_others_a_hollow_one():
    def fills(low, high):
        figure = intervals("f", "t", "r", [Interval("a", 1.0, low, high)], unit="points")
        return re.findall(r"fill: (var\(--(?:series-0|paper)\)); stroke: var\(--series-0\)", figure.svg)

    assert "var(--paper)" not in fills(0.5, 1.5)
    assert "var(--paper)" in fills(-0.5, 2.5)
    assert "var(--paper)" in fills(math.nan, math.nan)
