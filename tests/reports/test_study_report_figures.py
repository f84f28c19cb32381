"""The figures of a study's report: what is drawn is what the records say, cell beside cell, under names that differ."""

import json
import shutil

import numpy as np
import pytest
from planted_studies import figures_of, page_of, planted, text_of

from alexnet_ablations.conclude.outcomes import read_results
from alexnet_ablations.report import training
from alexnet_ablations.report.multiples import lines_by_cell
from alexnet_ablations.report.readings import labels_of, read_cells
from alexnet_lab.reports.curves import Series
from alexnet_lab.reports.drawing import Drawing, in_rows

EVIL = "<script>alert(1)</script>"


def test_the_effect_plot_shows_every_pair_the_interval_and_what_is_too_small_to_matter(page):
    figure = figures_of(page)["effects"]
    rings = next(each for each in figure.hover if each.labels and each.labels[0] == "seed 0")
    assert rings.name == "norm: lrn → bn"
    assert rings.values == ["+2.9 points", "+3.0 points", "+3.1 points"]
    assert "norm over act (relu, leaky); act over norm (lrn, bn)" in figure.reading
    assert "0 is the baseline" not in figure.reading
    assert "less than 0.5 points either way" in figure.reading
    assert list(figure.table.rows[0][1:3]) == pytest.approx([3.0, 3.0 - 4.302652730 * 0.1 / 3**0.5])
    assert figure.table.rows[0][4] == 3
    assert figure.table.rows[0][6] == "-"  # three pairs are too few for a sign flip to reject anything


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
    shared = np.mean([0.0, 0.05, -0.03])
    assert rows["norm bn", "act leaky"] == pytest.approx([100 * (0.9 + shared + 0.03), 3])
    assert rows["norm lrn", "act relu"] == pytest.approx([100 * (0.9 + shared), 3])


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
    assert found["lrn, relu (baseline)", "conv1"] == ["off", 8, "3 3 3", "64", "4.7%"]  # 3/64
    assert found["act leaky", "conv1"][:3] == ["negative side", 8, "3 3 3"]
    assert found["norm bn", "conv1"][2] == "0 0 0"


def test_of_many_cells_the_baseline_and_the_farthest_are_drawn_and_the_page_says_so(make_study):
    levels = [f"0.{at:02}" for at in range(1, 16)]
    far = {0.07, 0.09}
    study = make_study(lambda seed, dropout: 0.7 if dropout in far else 0.9 + seed / 100, {"dropout": levels}, seeds=2,
                       flow=False)  # fmt: skip
    results = read_results(study.runs())
    drawn = training.drawn_cells(read_cells(study), results)
    assert len(drawn) == training.MOST_CELLS
    names = [each.label for each in drawn]
    assert names[0] == "dropout 0.5 (baseline)"
    assert {"dropout 0.07", "dropout 0.09"} <= set(names)
    said = text_of(page_of(study))
    assert "12 of 16 cells: the baseline and those farthest from it" in said


def test_cells_with_long_names_have_a_number_that_keeps_them_apart_in_figures(make_study):
    factors = {"norm": ["bn:after"], "act": ["leaky"], "learning_rate": [0.003]}
    study = make_study(lambda seed, **_: None, factors, seeds=1)
    names = list(labels_of(study.cells).values())
    assert names[0] == "1. lrn, relu, 0.01 (baseline)"
    assert names[7] == "8. norm bn:after, act leaky, learning_rate 0.003"
    assert page_of(study).title == "Norm, act and learning rate: what they are worth on digits"


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
    page = page_of(study)
    assert "2 cells of alexnet, vgg11 on " in page.lead
    figures = figures_of(page)
    assert [row[0] for row in figures["gradient-depth"].table.rows] == ["conv1", "conv2", "conv3", "fc4", "fc5"]
    assert [row[0] for row in figures["gradient-depth-2"].table.rows] == ["conv", "fc"]
    assert {row[0] for row in figures["off-rates-2"].table.rows} == {"vgg11"}
    assert figures["silent-by-epoch"].table.columns[1::3] == ["alexnet (baseline)", "vgg11"]


def test_of_a_run_that_diverged_the_curves_are_shown_as_far_as_they_go(make_study):
    study = make_study(lambda seed, norm: "diverged", {"norm": ["bn"]}, seeds=2)
    page = page_of(study)
    assert figures_of(page)["learning-loss"].table.rows[0][1] == 2.0
    assert "gradient-depth" in figures_of(page)
    assert "effects" not in figures_of(page)
    assert "nothing can be said yet" in page.lead


@pytest.mark.parametrize("count", [2, 3, 4, 5])
def test_a_legend_of_two_columns_is_read_row_by_row(count):
    drawing = Drawing()
    axes = drawing.axes()
    names = [f"cell {at}" for at in range(count)]
    lines = [axes.plot([0, 1], [at, at])[0] for at in range(count)]
    legend = drawing.canvas.legend(in_rows(lines), in_rows(names), ncols=2)
    drawing.canvas.canvas.draw()
    boxes = {text.get_text(): text.get_window_extent() for text in legend.get_texts()}
    assert sorted(names, key=lambda name: (-round(boxes[name].y0), boxes[name].x0)) == names
