"""What a notebook shows of a run and a panel: the figures of their pages, and nothing that could run or reach out."""

import base64
import re
from html.parser import HTMLParser

import pytest
import torch
from torch import nn

from alexnet_lab import Panel, Recipe
from alexnet_lab.instruments.flow import has_records
from alexnet_lab.records import RunFolder
from alexnet_lab.reports.comparison import compare_runs
from alexnet_lab.reports.display import fragment
from alexnet_lab.reports.export import export
from alexnet_lab.reports.inspection import inspect_run
from alexnet_lab.reports.page import Table
from alexnet_lab.training.run import train_with_verdict

NASTY = "<script>alert(1)</script>&\"'"
HARMLESS = {
    *("div", "p", "pre", "b", "br", "span", "ul", "li", "figure", "figcaption", "img"),
    *("table", "caption", "thead", "tbody", "tr", "th", "td"),
}


class Elements(HTMLParser):
    """Collects the names of elements, their attributes, and the text."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.attributes, self.text = set(), [], ""
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.attributes += attributes

    def handle_data(self, data):
        self.text += data


def assert_harmless(html):
    elements = Elements(html)
    assert elements.tags <= HARMLESS
    assert {name for name, _ in elements.attributes} <= {"style", "class", "width", "height", "alt", "src"}
    for name, value in elements.attributes:
        if name == "src":
            head, _, content = value.partition(",")
            assert head == "data:image/svg+xml;base64"
            drawing = base64.b64decode(content).decode()
            assert not re.search(r"<script|https?://(?!www\.w3\.org|purl\.org|creativecommons)|href=\"(?!#)", drawing)
    return elements


def measure(folder=None, names=("first", "second"), epochs=2):
    torch.manual_seed(0)
    model = nn.Sequential()
    model.add_module(names[0], nn.Linear(4, 6))
    model.add_module("relu", nn.ReLU())
    model.add_module(names[1], nn.Linear(6, 2))
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = torch.randn(16, 4), torch.randint(2, (16,))
    with Panel(model, optimiser, every=1, folder=folder) as panel:
        for _ in range(epochs):
            for _ in range(3):
                optimiser.zero_grad()
                nn.functional.cross_entropy(model(x), y).backward()
                optimiser.step()
                panel.step()
            panel.end_epoch()
    return panel


def pictures(html):
    return re.findall(r"<b>([^<]*)</b><br>", html)


def test_a_panel_shows_its_table_and_figures_whatever_its_layers_are_called():
    html = measure(names=(NASTY, "b"))._repr_html_()
    elements = assert_harmless(html)
    drawn = [base64.b64decode(value.partition(",")[2]) for name, value in elements.attributes if name == "src"]
    assert sum(b"&lt;script&gt;" in drawing for drawing in drawn) >= 2  # long names are cut in the middle
    assert pictures(html) == [
        "Gradient through depth",
        "Update ratio by layer",
        "Inputs a unit is off on, while training",
        "Units dead, while training",
    ]


def test_a_panel_that_measured_nothing_says_so():
    html = Panel(nn.Linear(2, 2))._repr_html_()
    assert_harmless(html)
    assert "nothing was measured yet" in html


def test_a_panel_with_a_folder_shows_all_epochs_and_says_how_to_look_further(tmp_path):
    panel = measure(str(tmp_path / "kept"), epochs=3)
    assert list(panel.tables) == [3]
    html = panel._repr_html_()
    assert html.count("<img") == measure(epochs=3)._repr_html_().count("<img")
    assert f"alexnet-lab inspect {tmp_path / 'kept'}" in html


def test_records_of_a_panel_open_in_inspect_compare_and_export(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    measure(one)
    measure(two, epochs=3)
    page = inspect_run(one)
    assert page.lead.startswith("Records of a Panel: 2 epochs of 2 layers with weights and 1 activation.")
    titles = [section.title for section in page.sections]
    assert "Gradient flow" in titles
    assert not {"Result", "Learning", "Predictions", "Recipe and provenance"} & set(titles)
    assert "Recipe" not in page.html()
    side = compare_runs([one, two])
    assert [section.title for section in side.sections] == ["Through depth", "Distances", "Histograms"]
    assert "no result" in side.lead
    written = {path.name for path in export(one, "csv", tmp_path / "tables")}
    assert {"steps.csv", "units.csv", "histograms.csv"} <= written
    assert "metrics.csv" not in written


def test_a_folder_without_records_is_refused_and_both_kinds_are_named(tmp_path):
    assert not has_records(tmp_path)
    with pytest.raises(ValueError, match=r"a run has a recipe\.json.* the folder of a Panel a flow/layout\.json"):
        inspect_run(tmp_path)


@pytest.mark.long
def test_a_run_shows_what_its_page_says_first(tmp_path):
    from alexnet_lab import load_run

    recipe = Recipe(
        data="synthetic:classes=3,side=16,count=90", norm="bn", width=1 / 16, epochs=2, batch_size=16, threads=1
    )
    threads = torch.get_num_threads()
    assert train_with_verdict(recipe, RunFolder(tmp_path)) == 0
    torch.set_num_threads(threads)
    html = load_run(tmp_path)._repr_html_()
    elements = assert_harmless(html)
    page = inspect_run(tmp_path)
    assert page.lead in elements.text
    assert set(pictures(html)) <= {figure.title for figure in page.figures()}
    assert pictures(html)[:3] == ["Images right", "Loss", "Accuracy"]
    drawn = {base64.b64encode(figure.render("svg")).decode() for figure in page.figures()}
    assert set(re.findall(r'base64,([^"]*)"', html)) <= drawn


def test_texts_of_a_fragment_are_escaped():
    table = Table([NASTY], [[NASTY]], NASTY)
    html = fragment(NASTY, [], [(NASTY, NASTY)], NASTY, tables=[table], text=NASTY)
    assert assert_harmless(html).text.count(NASTY) == 8
