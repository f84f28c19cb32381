"""A study's report as a reader meets it, in a real browser: on a screen, on a phone, in the dark, by keyboard."""

import json

import pytest

from alexnet_ablations.declare.study import declare_study
from alexnet_ablations.report import write_report

EVIL = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def study(tmp_path_factory, write_run):
    """Eight cells of two seeds, of which one diverged, under a name that looks like markup; one run has a page."""
    factors = {"norm": ["bn"], "act": ["leaky"], "dropout": [0.3]}
    start = {"data": f"x/{EVIL.replace('/', '')}.zip", "epochs": 2, "threads": 1, "device": "cpu"}
    folder = tmp_path_factory.mktemp("seen") / "study"
    made = declare_study(factors, start, folder, seeds=2, about=f"What {EVIL} is worth").open_folder()
    for at, run in enumerate(made.runs()):
        path = run.folder.path
        state = "diverged" if at == 3 else "ok"
        write_run(path, epochs=2, state=state, classes=(EVIL, "</b>", "c", "d"), filters=False, fall=0.5 + at / 10)
        (path / "recipe.json").write_text(run.recipe.to_json())
        verdict = run.folder.verdict()
        if state == "ok":
            verdict["result"]["test"]["accuracy"] = 0.9 + 0.004 * (at * 7 % 11)
        run.folder.end(state, verdict["why"], verdict["result"])  # with the digests of what is there now
    page = made.runs()[0].folder.path / "report" / "index.html"
    page.parent.mkdir()
    page.write_text("<title>the run</title>")
    return write_report(made)


@pytest.fixture
def visit(chromium, study):
    contexts = []

    def open_page(width=1200, scheme="light"):
        context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.troubles = []
        page.on("console", lambda message: page.troubles.append(message.text))
        page.on("pageerror", lambda error: page.troubles.append(str(error)))
        page.on("dialog", lambda dialog: (page.troubles.append("dialog"), dialog.dismiss()))
        own = study.resolve().as_uri()
        page.on("request", lambda r: r.url.startswith((own, "data:")) or page.troubles.append(r.url))
        page.goto(own)
        return page

    yield open_page
    for context in contexts:
        context.close()


@pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (1200, "dark"), (390, "light")])
def test_nothing_goes_wrong_and_nothing_is_wider_than_the_screen(visit, width, scheme):
    page = visit(width, scheme)
    page.wait_for_timeout(200)
    assert page.troubles == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    figures = page.locator("figure")
    assert figures.count() >= 9
    for at in range(figures.count()):
        box = figures.nth(at).locator("svg").bounding_box()
        assert box["width"] >= 270
        assert box["height"] >= 100


def test_no_letter_of_a_figure_is_cut_off(visit):
    page = visit()
    cut = page.evaluate("""[...document.querySelectorAll('.canvas svg')].flatMap(svg => {
        const frame = svg.getBoundingClientRect();
        return [...svg.querySelectorAll('text')].map(text => [text.textContent, text.getBoundingClientRect()])
            .filter(([, box]) => box.left < frame.left - 1 || box.right > frame.right + 1
                || box.top < frame.top - 1 || box.bottom > frame.bottom + 1).map(([text]) => text)})""")
    assert cut == []


def test_the_names_in_a_figure_do_not_lie_on_each_other(visit):
    page = visit()
    overlaps = page.evaluate("""[...document.querySelectorAll('.canvas svg')].flatMap(svg => {
        const boxes = [...svg.querySelectorAll('text')].filter(text => text.textContent.trim())
            .map(text => [text.textContent, text.getBoundingClientRect()]);
        const found = [];
        boxes.forEach(([one, a], at) => boxes.slice(at + 1).forEach(([other, b]) => {
            const across = Math.min(a.right, b.right) - Math.max(a.left, b.left);
            const down = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
            if (across > 2 && down > 4) found.push(`${svg.closest('figure').id}: ${one} / ${other}`);
        }));
        return found})""")
    assert overlaps == []


def test_a_name_that_looks_like_markup_is_shown_as_it_is(visit):
    page = visit()
    assert page.locator("h1").inner_text() == f"What {EVIL} is worth"
    assert page.locator("main b").count() == 0


def test_the_verdicts_are_on_the_first_screen(visit):
    page = visit()
    for at in range(3):  # norm, act, dropout
        box = page.locator(".boxes .callout").nth(at).bounding_box()
        assert box["y"] + box["height"] <= 900


@pytest.mark.parametrize("name", ["effects", "seeds", "gradient-depth", "gradient-sizes", "off-rates"])
def test_hovering_tells_the_number_under_the_pointer(visit, name):
    page = visit()
    canvas = page.locator(f"#{name} .canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    width, height = map(float, canvas.get_attribute("data-size").split())
    layer = json.loads(page.locator(f"#{name} script").text_content())[-1]
    if "cells" in layer:
        row, column = next((r, c) for r, cells in enumerate(layer["cells"]) for c, cell in enumerate(cells) if cell)
        x = layer["left"] + (column + 0.5) / len(layer["columns"]) * (layer["right"] - layer["left"])
        y = layer["top"] + (row + 0.5) / len(layer["rows"]) * (layer["bottom"] - layer["top"])
        told = layer["cells"][row][column]
    else:
        x, y, told = layer["x"][0], layer["y"][0], layer["values"][0]
    page.mouse.move(box["x"] + x / width * box["width"], box["y"] + y / height * box["height"])
    assert told in page.locator("#tip").inner_text()


def test_the_arrow_keys_read_the_effects_aloud(visit):
    page = visit()
    page.locator("#effects .canvas").focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_timeout(100)
    assert "points" in page.locator("#live").inner_text()


def test_a_link_to_a_run_opens_its_page(visit):
    page = visit()
    link = page.locator("section a", has_text="inspection")
    assert link.count() == 1  # only where there is one
    page.troubles.clear()
    link.click()
    page.wait_for_url("**/seed-0/report/index.html")
    assert page.title() == "the run"
