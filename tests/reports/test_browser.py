"""Pages as a reader meets them, in a real browser: drawn, hovered over, by keyboard, on a phone, in the dark."""

import io
import itertools
import json

import pytest
from PIL import Image

from alexnet_lab.reports.comparison import compare_runs
from alexnet_lab.reports.inspection import inspect_run

EVIL = "<script>alert(1)</script>"
EVIL_LAYERS = [f"features.{EVIL}1", f"classifier.{EVIL}$x$", "classifier.fc3"]
SHAPES = [(8, 3, 5, 5), (20, 48), (4, 20)]


@pytest.fixture(scope="module")
def report(tmp_path_factory, write_run):
    run = write_run(
        tmp_path_factory.mktemp("evil") / f"run {EVIL.replace('/', '')}",
        epochs=4,
        classes=(f'"{EVIL}', "</title><b>x", "猫", "newt"),
        layers=EVIL_LAYERS,
        shapes=SHAPES,
        data=f"pictures/{EVIL}.zip",
    )
    path = run / "index.html"
    path.write_text(inspect_run(run).html())
    return path


class Visit:
    """A page in the browser, and what it did that it should not have done."""

    def __init__(self, chromium, path, width, scheme):
        self.context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.page = self.context.new_page()
        self.troubles = []
        self.page.on("console", lambda message: self.troubles.append(f"console: {message.text}"))
        self.page.on("pageerror", lambda error: self.troubles.append(f"error: {error}"))
        self.page.on("dialog", lambda dialog: (self.troubles.append("dialog"), dialog.dismiss()))
        own = path.resolve().as_uri()
        self.page.on("request", lambda r: r.url in (own,) or r.url.startswith("data:") or self.troubles.append(r.url))
        self.page.goto(own)


@pytest.fixture(scope="module")
def visits(chromium, report):
    found = {
        name: Visit(chromium, report, width, scheme)
        for name, width, scheme in (("light", 1200, "light"), ("dark", 1200, "dark"), ("phone", 390, "light"))
    }
    yield found
    for each in found.values():
        each.context.close()


@pytest.fixture
def visit(request, visits):
    return visits[getattr(request, "param", "light")]


def met(*ways):
    """Run a test once for each way of meeting the page: light and wide, dark, on a phone."""
    return pytest.mark.parametrize("visit", ways, indirect=True)


def layers_of(page, name):
    return json.loads(page.locator(f"#{name} script").text_content())


def tip(page):
    return page.locator("#tip").inner_text()


@met("light", "dark", "phone")
def test_nothing_goes_wrong_and_no_request_leaves_the_page(visit):
    visit.page.wait_for_timeout(200)
    assert visit.troubles == []
    assert (
        visit.page.evaluate("performance.getEntriesByType('resource').filter(e => !e.name.startsWith('data:'))") == []
    )


def test_a_request_would_have_been_noticed_and_refused(chromium, report):
    visit = Visit(chromium, report, 1200, "light")
    visit.page.evaluate("document.body.append(Object.assign(new Image(), {src: 'https://example.org/x.png'}))")
    visit.page.evaluate("fetch('https://example.org/y').catch(() => null)")
    visit.page.wait_for_timeout(200)
    assert sum("Content Security Policy" in trouble for trouble in visit.troubles) >= 2
    visit.context.close()


def test_a_script_that_came_into_the_page_would_not_run(chromium, report, tmp_path):
    text = report.read_text()
    assert "unsafe-eval" not in text
    for at, injected in enumerate(
        ("<script>document.title = 'run'</script>", "<img src=x onerror=\"document.title='run'\">")
    ):
        path = tmp_path / f"{at}.html"
        path.write_text(text.replace("<main", f"{injected}<main", 1))
        visit = Visit(chromium, path, 1200, "light")
        visit.page.wait_for_timeout(100)
        assert visit.page.title() != "run"
        assert any("Content Security Policy" in trouble for trouble in visit.troubles)
        visit.context.close()


def test_names_with_markup_are_shown_as_they_are(visit):
    assert "run <script>alert(1)<script>" in visit.page.locator("h1").inner_text()
    assert EVIL in visit.page.locator("main").inner_text()
    assert "&lt;scrip…/script&gt;" in visit.page.locator("#confusion-test svg").inner_html()
    assert visit.page.locator("main b, main title:not(svg title)").count() == 0


@met("light", "dark")
def test_every_figure_is_drawn(visit):
    figures = visit.page.locator("figure")
    assert figures.count() >= 20
    for at in range(figures.count()):
        svg = figures.nth(at).locator("svg")
        box = svg.bounding_box()
        assert box["width"] > 250
        assert box["height"] > 40
        picture = Image.open(io.BytesIO(svg.screenshot())).convert("RGB")
        colours = picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.NEAREST).getcolors(
            1_000_000
        )
        assert len(colours) > 5, figures.nth(at).get_attribute("id")


@met("light", "phone")
def test_hovering_tells_the_number_under_the_pointer(visit):
    page = visit.page
    for name in page.locator("figure").evaluate_all("all => all.map(each => each.id)"):
        canvas = page.locator(f"#{name} .canvas")
        canvas.scroll_into_view_if_needed()
        box = canvas.bounding_box()
        width, height = map(float, canvas.get_attribute("data-size").split())
        layer = layers_of(page, name)[-1]
        if "cells" in layer:
            row, column = next(
                (r, c) for r, cells in enumerate(layer["cells"]) for c, cell in enumerate(cells) if cell != ""
            )
            x = layer["left"] + (column + 0.5) / len(layer["columns"]) * (layer["right"] - layer["left"])
            y = layer["top"] + (row + 0.5) / len(layer["rows"]) * (layer["bottom"] - layer["top"])
            told, where = layer["cells"][row][column], layer["columns"][column]
        else:
            x, y = layer["x"][0], layer["y"][0]
            told, where = layer["values"][0], layer["labels"][0]
        page.mouse.move(box["x"] + x / width * box["width"], box["y"] + y / height * box["height"])
        shown = tip(page)
        if "cells" in layer:
            assert told in shown, name
            assert where in shown
        else:  # another line may lie on the same spot
            same = {v for each in layers_of(page, name) for v in each.get("values", ())}
            assert shown.split("\n")[0] in same, name
        edges = page.locator("#tip").bounding_box()
        assert edges["x"] >= 0
        assert edges["x"] + edges["width"] <= page.viewport_size["width"]
    page.mouse.move(1, 1)
    assert not page.locator("#tip").is_visible()


def test_the_arrow_keys_read_the_values_aloud(visit):
    page = visit.page
    page.locator("#loss .canvas").focus()
    training, validation = layers_of(page, "loss")
    page.keyboard.press("ArrowRight")
    assert tip(page).startswith(training["values"][0])
    page.keyboard.press("ArrowRight")
    assert tip(page).startswith(training["values"][1])
    page.keyboard.press("ArrowDown")
    assert tip(page).startswith(validation["values"][1])
    page.keyboard.press("End")
    assert page.locator("#live").inner_text() == f"validation, epoch 4: {validation['values'][-1]}"
    page.keyboard.press("Escape")
    assert not page.locator("#tip").is_visible()
    page.locator("#gradient-sizes .canvas").focus()
    strips = layers_of(page, "gradient-sizes")
    page.keyboard.press("ArrowDown")
    for _ in range(len(strips[0]["rows"])):
        page.keyboard.press("ArrowDown")
    assert strips[1]["name"] in tip(page)  # past the last row of a strip comes the first of the next


def test_every_figure_can_be_reached_by_tab_and_has_a_name(visit):
    page = visit.page
    names = page.locator(".canvas").evaluate_all("all => all.map(e => [e.tabIndex, e.getAttribute('aria-label')])")
    assert all(index == 0 and name for index, name in names)
    assert page.locator("svg[role=img] > title").count() == len(names)


@met("light", "phone")
def test_nothing_is_wider_than_the_window(visit):
    page = visit.page
    assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]
    opened = page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    assert opened is None
    assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]
    page.evaluate("document.querySelectorAll('details').forEach(each => each.open = false)")


def test_a_table_opens_and_has_the_numbers(visit):
    details = visit.page.locator("#loss details")
    assert not details.locator("table").is_visible()
    details.locator("summary").click()
    assert details.locator("tbody tr").count() == 4
    assert details.locator("tbody tr").first.inner_text().split() == ["1", "2", "2.2"]
    details.locator("summary").click()


TEXT_BOXES = """svg => [...svg.querySelectorAll('text')].map(text => {
  const box = text.getBoundingClientRect(), whole = svg.getBoundingClientRect();
  const size = parseFloat(getComputedStyle(text).fontSize) * whole.width / svg.viewBox.baseVal.width;
  return [box.left - whole.left, box.top - whole.top, box.right - whole.left, box.bottom - whole.top,
          whole.width, whole.height, size, text.textContent];
})"""


@met("light", "phone")
def test_no_text_of_a_figure_is_cut_tiny_or_on_top_of_another(visit):
    check_texts(visit)


def check_texts(visit):
    for name in visit.page.locator("figure").evaluate_all("all => all.map(each => each.id)"):
        boxes = visit.page.locator(f"#{name} svg").evaluate(TEXT_BOXES)
        for left, top, right, bottom, width, height, size, text in boxes:
            assert size >= 8, (name, text, size)
            assert min(left, top, width - right, height - bottom) >= -2, (name, text)
        for one, other in itertools.combinations(boxes, 2):
            across = min(one[2], other[2]) - max(one[0], other[0])
            down = min(one[3], other[3]) - max(one[1], other[1])
            assert across < 2 or down < 4, (name, one[7], other[7])


CONTRASTS = """() => {
  const numbers = colour => colour.match(/[\\d.]+/g).slice(0, 3).map(Number);
  const luminance = colour => {
    const [r, g, b] = numbers(colour).map(c => c / 255).map(c => c <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4);
    return .2126 * r + .7152 * g + .0722 * b;
  };
  const ground = element => {
    for (; element; element = element.parentElement) {
      const colour = getComputedStyle(element).backgroundColor;
      if (!/rgba\\(.*, 0\\)/.test(colour)) return colour;
    }
    return 'rgb(255, 255, 255)';
  };
  const found = [];
  for (const element of document.querySelectorAll('h1, h2, h3, p, a, dt, dd, td, th, summary, svg text')) {
    const style = getComputedStyle(element), isDrawn = element.tagName === 'text';
    if (isDrawn && element.closest('#confusion-test')) continue;  // stands on a picture
    const [one, two] = [luminance(isDrawn ? style.fill : style.color), luminance(ground(element))];
    found.push([(Math.max(one, two) + .05) / (Math.min(one, two) + .05), element.textContent.slice(0, 40)]);
  }
  return found;
}"""


@met("light", "dark")
def test_every_text_stands_out_from_its_background(visit):
    found = visit.page.evaluate(CONTRASTS)
    assert len(found) > 300
    assert min(found)[0] >= 4.5, min(found)


def test_dark_is_dark_and_light_is_light(chromium, report):
    for scheme, low, high in (("light", 240, 255), ("dark", 0, 40)):
        visit = Visit(chromium, report, 1200, scheme)
        assert (
            low <= int(visit.page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0]")) <= high
        )
        ground = visit.page.locator("#loss svg").screenshot()
        corner = Image.open(io.BytesIO(ground)).convert("RGB").getpixel((3, 3))
        assert all(low <= part <= high for part in corner)
        visit.context.close()


def test_a_comparison_is_fit_for_a_phone_too(chromium, write_run, tmp_path):
    shapes = [(8, 1, 3, 3), (4, 72)]
    runs = [
        write_run(tmp_path / f"{EVIL.replace('/', '')}{at}", layers=["conv1", "fc2"], shapes=shapes, seed=at)
        for at in (0, 1)
    ]
    path = tmp_path / "index.html"
    path.write_text(compare_runs(runs).html())
    visit = Visit(chromium, path, 390, "dark")
    assert visit.page.locator("svg").count() >= 10
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= 390
    check_texts(visit)
    assert visit.troubles == []
    visit.context.close()
