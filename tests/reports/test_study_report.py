"""The report of a study in every state it can be in: whole, cut off, of one seed, with a cell that never survives."""

import html
import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest

from alexnet_ablations.outcomes import read_results
from alexnet_ablations.report import inside, words, write_report
from alexnet_ablations.report.multiples import lines_by_cell
from alexnet_ablations.report.readings import labels_of, read_cells
from alexnet_ablations.report.writing import study_page
from alexnet_ablations.statistics import conclude
from alexnet_ablations.study import declare
from alexnet_lab.reports.curves import Series

EVIL = "<script>alert(1)</script>"
CROSSED = {"norm": ["bn"], "act": ["leaky"]}


@pytest.fixture(scope="module")
def make_study(tmp_path_factory, write_run):
    """Make a study whose runs ended as `outcome` says: an accuracy, a state, or None for a run that never began."""

    def make(outcome, factors=CROSSED, seeds=3, about="", flow=True, data="digits", **options):
        start = {"data": data, "epochs": 3, "threads": 1, "device": "cpu"}
        study = declare(factors, start, tmp_path_factory.mktemp("study"), seeds=seeds, about=about, **options)
        study = study.open_folder()
        for run in study.runs():
            settings = dict(run.cell.settings)
            found = outcome(run.seed, **settings)
            if found is None:
                continue
            accurate = not isinstance(found, str)
            write_run(
                run.folder.path,
                state="ok" if accurate else found,
                flow=flow,
                filters=False,
                activation="LeakyReLU" if settings.get("act") == "leaky" else "ReLU",
                fall=(0.2 if settings.get("norm") == "bn" else 2.0) + 0.02 * run.seed,  # seeds differ
                dead=0 if settings.get("norm") == "bn" else 3,
            )
            (run.folder.path / "recipe.json").write_text(run.recipe.to_json())
            if accurate:
                verdict = run.folder.verdict()
                verdict["result"]["test"]["accuracy"] = found
                verdict["result"]["measuring_share"] = 0.025
                run.folder.end("ok", result=verdict["result"])
        return study

    return make


def planted(seed, norm, act):
    """BN is worth three points under every seed, give or take a tenth; leaky nothing that three seeds can tell."""
    luck = (0.0, 0.05, -0.03)[seed % 3]
    return (
        0.9 + luck + (0.03 + 0.001 * (seed - 1) if norm == "bn" else 0) + (0.002 * (seed - 1) if act == "leaky" else 0)
    )


def page_of(study):
    results = read_results(study.runs())
    return study_page(study, results, conclude(results, study.contrasts()))


def text_of(page):
    """All that a reader sees, without what only hovering tells."""
    markup = re.sub(r"<(script|style|svg)\b.*?</\1>", " ", page.html(), flags=re.S)
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", markup)))


@pytest.fixture(scope="module")
def study(make_study):
    """Three seeds of the planted factorial, whole; for tests that change nothing in it."""
    return make_study(planted)


@pytest.fixture(scope="module")
def page(study):
    return page_of(study)


@pytest.fixture(scope="module")
def text(page):
    return text_of(page)


def figures_of(page):
    return {figure.name: figure for figure in page.figures()}


def test_a_planted_difference_comes_first_with_its_number_interval_and_pairs(page, text):
    # By hand: the pairs differ by 2.9, 3.0 and 3.1 points, and t(.975, 2) x 0.1 / sqrt(3) is 0.248.
    assert "norm lrn → bn +3.0 points [+2.8, +3.2], n=3" in page.lead
    assert text.index("Difference, for the better") < text.index("Effects on test accuracy, points")
    assert "cannot go below p = 0.25" in text
    assert "act relu → leaky" in page.lead.partition("Open:")[2]


def test_the_report_stands_beside_its_tables_rows_and_figures(study):
    page = write_report(study)
    assert page == study.folder / "report" / "index.html"
    names = {path.name for path in page.parent.iterdir()}
    assert names == {"index.html", "tables.md", "tables.tex", "results.csv", "figures"}
    figures = {path.name for path in (page.parent / "figures").iterdir()}
    for name in (
        "effects",
        "seeds",
        "interaction-norm-act",
        "learning-loss",
        "gradient-depth",
        "off-rates",
        "dead-units",
    ):
        assert {f"{name}.svg", f"{name}.png"} <= figures
    assert len((page.parent / "results.csv").read_text().splitlines()) == 1 + 12


def test_a_figure_of_an_earlier_report_does_not_outlive_it(make_study):
    study = make_study(lambda seed, norm: None, {"norm": ["bn"]}, seeds=1)
    stale = study.folder / "report" / "figures" / "gradient-depth-9.svg"
    stale.parent.mkdir(parents=True)
    stale.write_text("old")
    write_report(study)
    assert not stale.exists()


def test_a_study_half_done_says_so_before_anything_else(make_study):
    study = make_study(lambda seed, norm, act: planted(seed, norm, act) if norm == "lrn" or seed == 0 else None)
    shutil.rmtree(study.runs()[0].folder.path / "checkpoints")
    (study.runs()[0].folder.path / "state.json").unlink()  # it was cut off
    page = page_of(study)
    assert page.lead.startswith("Unfinished: 7 of 12 runs have ended (4 not begun, 1 cut off)")
    assert "This study is not finished" in text_of(page)


def test_a_finished_study_does_not_say_that_it_is_unfinished(page, text):
    assert "Unfinished" not in page.lead
    assert "not finished" not in text


def test_a_study_of_which_nothing_has_run_is_a_page_that_says_so(make_study):
    page = page_of(make_study(lambda seed, **_: None))
    assert "0 of 12 runs have ended (12 not begun)" in page.lead
    assert "nothing can be said yet" in page.lead
    assert not figures_of(page)


def test_one_seed_has_no_interval_and_no_verdict_and_the_page_says_why(make_study):
    page = page_of(make_study(planted, seeds=1, flow=False))
    text = text_of(page)
    assert "One pair of runs per comparison, so there is no interval and no verdict" in page.lead
    assert "One seed: there are no intervals and no verdicts" in text
    assert "Difference," not in text
    assert not re.search(r"points \[", text)
    assert "n=1" in text


def test_a_cell_that_always_diverges_is_reported_with_its_survival_and_never_dropped(make_study):
    study = make_study(lambda seed, norm: "diverged" if norm == "none" else planted(seed, norm, "relu"),
                       {"norm": ["bn", "none"]})  # fmt: skip
    page = page_of(study)
    text = text_of(page)
    assert "norm none: 0 of 3 runs ended well" in text
    assert "No seed has every run that this needs (n=0)" in text
    assert "the loss was nan at step 7" in text
    assert "norm lrn → bn +3.0 points" in page.lead
    rows = {row[0]: row for row in figures_of(page)["seeds"].table.rows}
    assert rows["seed 0"][3] is None  # drawn as a gap, under its name


def test_a_study_of_two_cells_is_not_empty(make_study):
    page = page_of(make_study(lambda seed, norm: planted(seed, norm, "relu"), {"norm": ["bn"]}))
    assert {"effects", "seeds", "learning-loss", "gradient-depth", "off-rates"} <= set(figures_of(page))
    assert "interaction" not in " ".join(figures_of(page))


def test_runs_without_instruments_leave_a_page_that_says_what_is_missing(make_study):
    page = page_of(make_study(lambda seed, norm: 0.9, {"norm": ["bn"]}, 1, flow=False))
    assert "gradient-depth" not in figures_of(page)
    assert text_of(page).count("No run has recorded this yet.") == 2


def test_names_that_look_like_markup_stay_text(make_study):
    study = make_study(
        lambda seed, norm: 0.9, {"norm": ["bn"]}, 1, about=f"What {EVIL} does", data=f"x/{EVIL.replace('/', '')}.zip"
    )
    markup = page_of(study).html()
    assert "<script>alert" not in markup
    assert "&lt;script&gt;alert(1)" in markup


def test_levels_that_look_like_markup_stay_text(make_study):
    evil = {"weights": [f"{EVIL}.pth"]}
    study = make_study(lambda seed, weights: 0.9 + seed / 100, evil, seeds=2)
    page = page_of(study)
    assert "<script>alert" not in page.html()
    assert "weights <script>alert(1)</script>.pth" in text_of(page)


def test_the_effect_plot_shows_every_pair_the_interval_and_what_is_too_small_to_matter(page):
    figure = figures_of(page)["effects"]
    rings = next(each for each in figure.hover if each.labels and each.labels[0] == "seed 0")
    assert rings.name == "norm: lrn → bn"
    assert rings.values == ["+2.9 points", "+3.0 points", "+3.1 points"]
    assert "norm=lrn, act=relu" in figure.reading  # the baseline has a name
    assert "less than 0.5 points either way" in figure.reading
    assert list(figure.table.rows[0][1:3]) == pytest.approx([3.0, 3.0 - 4.302652730 * 0.1 / 3**0.5])
    assert figure.table.rows[0][4] == 3
    # Three pairs are too few for a sign flip to reject anything, and one resample in nine is without spread.
    assert list(figure.table.rows[0][6:8]) == ["−", "[−∞, +∞]"]


def test_the_rings_of_the_effect_plot_lie_where_their_numbers_are(page):
    figure = figures_of(page)["effects"]
    bar = next(each for each in figure.hover if len(each.values) == 3 and "[" in each.values[0])
    rings = next(each for each in figure.hover if each.labels[:1] == ["seed 0"])
    # The mean of the rings lies on the dot of the mean, in pixels.
    assert np.mean(rings.x) == pytest.approx(bar.x[1], abs=0.1)
    assert rings.y[0] > bar.y[0]


def test_an_interaction_is_drawn_from_the_means_of_its_cells(page):
    figure = figures_of(page)["interaction-norm-act"]
    rows = {(row[0], row[1]): row[2:] for row in figure.table.rows}
    luck = np.mean([0.0, 0.05, -0.03])
    assert rows["norm bn", "act leaky"] == pytest.approx([100 * (0.9 + luck + 0.03), 3])
    assert rows["norm lrn", "act relu"] == pytest.approx([100 * (0.9 + luck), 3])


def test_no_interaction_is_drawn_where_the_design_has_none(make_study):
    page = page_of(make_study(planted, design="one-at-a-time", flow=False))
    assert not [name for name in figures_of(page) if name.startswith("interaction")]
    assert "Interactions cannot be estimated" in text_of(page)


def test_gradients_through_depth_are_those_of_the_records_cell_beside_cell(study):
    cells = read_cells(study)
    layers = cells[0].runs[0].layers
    assert layers == ("conv1", "conv2", "conv3", "fc4", "fc5")
    baseline, bn = cells[0].gradients(layers), cells[2].gradients(layers)
    # The records fall by 2 powers of two a layer without BN and by 0.2 with it, in norms; per weight they are divided
    # by the root of the number of weights: 600 in conv1 and 80 in fc5.
    assert baseline.y[0] / baseline.y[4] == pytest.approx(2.0**-8 * (80 / 600) ** 0.5, rel=0.3)
    assert bn.y[0] / bn.y[4] == pytest.approx(2.0**-0.8 * (80 / 600) ** 0.5, rel=0.3)
    assert bn.low[0] < bn.y[0] < bn.high[0]


def test_dead_units_are_counted_by_cell_and_layer_with_their_n_and_bound(page):
    rows = figures_of(page)["dead-units"].table.rows
    found = {(row[0], row[1]): row[2:] for row in rows}
    assert found["baseline", "conv1"] == ["off", 8, "3 3 3", "64", "4.7%"]  # 3/64
    assert found["act leaky", "conv1"][:3] == ["negative side", 8, "3 3 3"]
    assert found["norm bn", "conv1"][2] == "0 0 0"


def test_a_finding_says_in_how_many_seeds_of_which_cells_it_is(text):
    found = text.partition(" Failures None")[0]
    assert re.search(r"Dead at start These ReLUs .* baseline in 3 of 3 seeds\. Seed 0: ", found)
    assert re.search(r"Without any finding: .*norm bn; norm bn, act leaky\.", found)
    assert "baseline" not in found.partition("Without any finding")[2]


def test_a_finding_of_some_seeds_is_not_one_of_all(make_study):
    study = make_study(lambda seed, norm: "diverged" if norm == "bn" and seed else 0.9, {"norm": ["bn"]}, flow=False)
    assert re.search(r"Diverged The loss .* norm bn in 2 of 3 seeds\. Seed 1: ", text_of(page_of(study)))


def test_what_stands_out_beside_accuracy_is_said_in_plain_words(text):
    number = r"×\d[\d.]*"
    said = rf"norm lrn → bn: more gradient reaches the first layer, {number} \[{number}, {number}\], n=3 pairs"
    assert re.search(said, text)
    assert "Exploratory" in text


def test_an_outcome_that_only_some_cells_have_is_named_as_not_compared(text):
    # A leaky unit cannot die, so every comparison of this factorial lacks a side.
    assert "Not compared, since no comparison has a number on both sides: dead units." in text


def test_silent_units_come_with_their_n_and_its_bound(text):
    assert "N = 64 inputs: a unit that is silent on all of them may still fire on fewer than 4.7% of inputs" in text


def test_a_run_is_linked_only_where_its_page_exists(make_study):
    study = make_study(lambda seed, norm: 0.9, {"norm": ["bn"]}, seeds=1, flow=False)
    assert "report/index.html" not in page_of(study).html()
    page = study.runs()[1].folder.path / "report" / "index.html"
    page.parent.mkdir()
    page.write_text("x")
    links = re.findall(r'href="(\.\./[^"]+)"', page_of(study).html())
    assert links == ["../runs/norm%3Dbn/seed-0/report/index.html"]


def test_a_damaged_run_is_named_and_the_others_are_reported(make_study):
    study = make_study(planted)
    (study.runs()[0].folder.path / "provenance.json").write_text("{")
    page = page_of(study)
    assert "provenance.json is damaged" in text_of(page)
    assert "effects" in figures_of(page)


def test_what_the_study_is_can_be_read_back_from_its_page(study, page):
    text = page.html()
    shown = html.unescape(re.findall(r"<pre[^>]*><code>(design.*?)</code>", text, flags=re.S)[0])
    path = study.folder / "again.toml"
    path.write_text(shown)
    from alexnet_ablations.study import read_study

    assert read_study(path, study.folder) == study


def test_the_cost_of_measuring_is_the_one_that_the_runs_clocked(text):
    assert "Measuring took 2.5% of the time of training, as clocked in these runs (2.5% to 2.5%, n=12 runs)." in text


def test_of_many_cells_the_baseline_and_the_farthest_are_drawn_and_the_page_says_so(make_study):
    levels = [f"0.{at:02}" for at in range(1, 16)]
    far = {0.07, 0.09}
    study = make_study(lambda seed, dropout: 0.7 if dropout in far else 0.9 + seed / 100, {"dropout": levels}, seeds=2,
                       flow=False)  # fmt: skip
    results = read_results(study.runs())
    drawn = inside.drawn_cells(read_cells(study), results)
    assert len(drawn) == inside.MOST_CELLS
    names = [each.label for each in drawn]
    assert names[0] == "baseline"
    assert {"dropout 0.07", "dropout 0.09"} <= set(names)
    said = text_of(page_of(study))
    assert "12 of 16 cells: the baseline and those farthest from it" in said


def test_cells_are_named_by_what_they_change(study):
    assert list(labels_of(study.cells).values()) == ["baseline", "act leaky", "norm bn", "norm bn, act leaky"]


def test_cells_with_long_names_have_a_number_that_keeps_them_apart_in_figures(make_study):
    factors = {"norm": ["bn:after"], "act": ["leaky"], "learning_rate": [0.003]}
    study = make_study(lambda seed, **_: None, factors, seeds=1)
    names = list(labels_of(study.cells).values())
    assert names[0] == "1. baseline"
    assert names[7] == "8. norm bn:after, act leaky, learning_rate 0.003"
    assert page_of(study).title == "Norm, act and learning rate: what they are worth on digits"


def test_of_a_fraction_each_shared_number_has_its_names(make_study):
    levels = {"norm": ["bn"], "act": ["leaky"], "dropout": [0.3], "batch_size": [64]}
    study = make_study(lambda seed, **_: 0.9 + seed / 100, levels, seeds=2, design="fractional", flow=False)
    text = text_of(page_of(study))
    aliased = [each for each in study.contrasts() if each.aliases]
    assert aliased
    assert (
        f"{aliased[0].name} cannot be told from {', '.join(aliased[0].aliases)} in this design.".casefold()
        in text.casefold()
    )


def test_the_band_of_a_curve_is_the_range_of_its_seeds(make_study):
    study = make_study(planted)
    run = study.runs()[0].folder
    lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    (run.path / "metrics.jsonl").write_text(
        "".join(json.dumps({**line, "train_loss": 9.0}) + "\n" for line in lines[:2])
    )
    curve = read_cells(study)[0].curve("train_loss")
    # The others lost 2, 1, 2/3; this one 9, 9, and then nothing.
    assert curve.y == pytest.approx([(9 + 2 + 2) / 3, (9 + 1 + 1) / 3, 2 / 3])
    assert curve.high == pytest.approx([9, 9, 2 / 3])
    assert curve.low == pytest.approx([2, 1, 2 / 3])
    assert curve.details[2] == "lowest to highest of 2 seeds"


def test_verdicts_say_how_many_seeds_would_tell_as_the_terminal_does(make_study):
    study = make_study(lambda seed, norm: 0.9 + (0.01 * (seed - 1) if norm == "bn" else 0), {"norm": ["bn"]})
    results = read_results(study.runs())
    found = conclude(results, study.contrasts()).headline[0]
    assert found.verdict == "open"
    assert found.seeds_needed > 3
    assert f"About {found.seeds_needed} seeds would narrow it to 0.5 points either way." in words.verdict_text(found)
    assert f"about {found.seeds_needed} seeds would narrow it to 0.5 points either way" in found.sentence


def test_what_is_too_small_to_matter_is_the_readers_to_say(make_study):
    study = make_study(lambda seed, norm: 0.9 + (0.001 * (seed - 1) if norm == "bn" else 0), {"norm": ["bn"]})
    told = {margin: write_report(study, margin=margin).read_text() for margin in (0.05, 3.0)}
    assert "pairs: less than 3 points either way." in told[3.0]
    assert "pairs: less than" not in told[0.05]


def test_a_figure_of_lines_tells_seeds_and_range_on_hovering():
    series = [Series("a", [1, 2], [0.5, 0.7], [0.4, 0.6], [0.6, 0.8], ["3 seeds", "3 seeds"])]
    figure = lines_by_cell("f", "t", "r", series, y_label="y", scale="percent")
    assert figure.hover[0].values == ["50% (40% to 60%, 3 seeds)", "70% (60% to 80%, 3 seeds)"]


@pytest.mark.parametrize("cells", [5, 6])
def test_both_columns_of_small_multiples_name_their_layers(cells):
    layers = ("first", "second")
    heights = ([0.1, 0.2], [0.1, 0.2], [0.1, 0.2], ["", ""])
    series = [Series(f"cell {at}", [0, 1], *heights) for at in range(cells)]
    drawn = lines_by_cell("f", "t", "r", series, y_label="y", layers=layers).svg
    for layer in layers:
        assert drawn.count(f">{layer}</text>") == 2


@pytest.mark.parametrize("count", [1, 2, 5, 8])
def test_lines_by_cell_without_a_finite_number_say_so(count):
    series = [Series(str(at), [1], [float("nan")], [float("nan")], [float("nan")], ["0"]) for at in range(count)]
    assert "no finite numbers" in lines_by_cell("f", "t", "r", series, y_label="y").svg


def test_units_that_never_fire_are_followed_through_the_epochs(study, page):
    # Of 8 + 12 + 12 + 20 units 3 are dead in every epoch without BN, and none with it.
    rows = figures_of(page)["silent-by-epoch"].table.rows
    assert [row[0] for row in rows] == [1, 2, 3]
    assert [row[1] for row in rows] == pytest.approx([3 / 52] * 3)
    assert [row[7] for row in rows] == [0, 0, 0]  # norm bn


def test_one_more_cell_is_one_cell():
    assert [words.counted(number, "more cell") for number in (1, 2)] == ["1 more cell", "2 more cells"]


def test_cells_whose_runs_have_only_not_ended_yet_are_no_failures(make_study):
    study = make_study(lambda seed, norm: 0.9 if seed < 2 else None, {"norm": ["bn"]}, flow=False)
    text = text_of(page_of(study))
    assert "Runs that did not end well" not in text
    assert "None: all 4 runs that ended, ended well." in text


def test_health_that_was_read_with_the_rest_is_the_health_that_a_run_has(study):
    health = {(each.cell, run.seed): run.health for each in read_cells(study) for run in each.runs}
    apart, together = read_results(study.runs()), read_results(study.runs(), health=health)
    assert apart["gradient_first_to_last"].notna().all()
    pd.testing.assert_frame_equal(apart, together)


def test_networks_with_layers_of_their_own_get_figures_of_their_own(make_study, write_run):
    study = make_study(lambda seed, network: 0.9 + seed / 100, {"network": ["vgg11"]}, seeds=2)
    for run in study.runs():
        if run.recipe.network == "vgg11":
            verdict = run.folder.verdict()
            layers = ["stem.conv", "head.fc"]
            shutil.rmtree(run.folder.path / "flow")
            write_run(run.folder.path, layers=layers, shapes=[(6, 3, 3, 3), (4, 24)], filters=False)
            (run.folder.path / "recipe.json").write_text(run.recipe.to_json())
            run.folder.end("ok", result=verdict["result"])
    figures = figures_of(page_of(study))
    assert [row[0] for row in figures["gradient-depth"].table.rows] == ["conv1", "conv2", "conv3", "fc4", "fc5"]
    assert [row[0] for row in figures["gradient-depth-2"].table.rows] == ["conv", "fc"]
    assert {row[0] for row in figures["off-rates-2"].table.rows} == {"network vgg11"}
    assert figures["silent-by-epoch"].table.columns[1::3] == ["baseline", "network vgg11"]


def test_of_a_run_that_diverged_the_curves_are_shown_as_far_as_they_go(make_study):
    study = make_study(lambda seed, norm: "diverged", {"norm": ["bn"]}, seeds=2)
    page = page_of(study)
    assert figures_of(page)["learning-loss"].table.rows[0][1] == 2.0
    assert "gradient-depth" in figures_of(page)
    assert "effects" not in figures_of(page)
    assert "nothing can be said yet" in page.lead
