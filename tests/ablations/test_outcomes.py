"""One tidy table of runs: what each left, what became of it, and numbers that older runs lack."""

import csv
import json
import math
import time

import numpy as np
import pytest

from alexnet_ablations.conclude.outcomes import (
    HEADLINE,
    OUTCOMES,
    outcome_named,
    population_of,
    read_results,
    write_results,
)
from alexnet_ablations.declare.design import Cell
from alexnet_ablations.declare.study import PlannedRun
from alexnet_lab.instruments.flow import FlowWriter, Layout, Parameter, Site
from alexnet_lab.records import RunFolder
from alexnet_lab.training.recipe import Recipe

RESULT = {
    "test": {"accuracy": 0.9, "balanced_accuracy": 0.88, "auroc": 0.97, "calibration_error": 0.02},
    "validation": {"accuracy": 0.93},
    "final_train_loss": 0.25,
    "train_seconds": 12.5,
    "images_per_second": 800.0,
    "peak_memory_bytes": 3 * 2**20,
    "measuring_share": 0.03,
}


def planned(path, norm="lrn", seed=0):
    cell = Cell((("norm", norm),))
    return PlannedRun(cell, seed, Recipe(norm=norm, seed=seed), RunFolder(path / cell.name / f"seed-{seed}"))


def ended(path, norm="lrn", seed=0, state="ok", why="", result=RESULT, curve=()):
    run = planned(path, norm, seed)
    run.folder.path.mkdir(parents=True)
    (run.folder.path / "recipe.json").write_text("{}")
    for epoch, accuracy in enumerate(curve, 1):
        run.folder.log({"epoch": epoch, "train_loss": 1 / epoch, "validation_accuracy": accuracy})
    if state:
        run.folder.end(state, why, result)
    return run


def test_a_run_is_a_row_with_its_factors_state_and_outcomes(tmp_path):
    table = read_results([ended(tmp_path, curve=[0.5, 0.93])])
    (row,) = table.to_dict("records")
    assert list(table.columns)[:6] == ["cell", "norm", "seed", "state", "why", "level"]
    assert (row["cell"], row["norm"], row["seed"], row["state"]) == ("norm=lrn", "lrn", 0, "ok")
    assert row["test_accuracy"] == 0.9
    assert row["balanced_accuracy"] == 0.88
    assert row["auroc"] == 0.97
    assert row["validation_accuracy"] == 0.93
    assert row["first_epoch_accuracy"] == 0.5
    assert row["calibration_error"] == 0.02
    assert row["final_train_loss"] == 0.25
    assert row["images_per_second"] == 800
    assert row["peak_memory_mb"] == 3
    assert row["train_seconds"] == 12.5
    assert row["measuring_share"] == 0.03
    assert math.isnan(row["dead_share"])  # no instruments


def test_whatever_became_of_a_run_it_has_a_row(tmp_path):
    runs = [
        ended(tmp_path, seed=0),
        ended(tmp_path, seed=1, state="diverged", why="the loss was nan", result={}),
        ended(tmp_path, seed=2, state="oom", why="32 images do not fit", result={}),
        ended(tmp_path, seed=3, state="error", why="no such file", result={"traceback": "..."}),
        ended(tmp_path, seed=4, state=""),
        planned(tmp_path, seed=5),
        ended(tmp_path, seed=6, state="timeout", why="it took longer than 5 min", result={}),
        ended(tmp_path, seed=7),
    ]
    (runs[7].folder.path / "state.json").write_text('{"state": "o')
    table = read_results(runs)
    assert table["state"].tolist() == [
        "ok",
        "diverged",
        "oom",
        "error",
        "lost",
        "waiting",
        "timeout",
        "damaged",
    ]
    assert table["why"].tolist()[1] == "the loss was nan"
    assert table[[outcome.name for outcome in OUTCOMES]].iloc[1:].isna().all(axis=None)


@pytest.mark.parametrize(
    "result", [{}, {"test": None}, {"test": {"accuracy": None}}, {"test": {"accuracy": "0.9"}}, None]
)
def test_what_an_older_run_lacks_is_missing(tmp_path, result):
    (row,) = read_results([ended(tmp_path, result=result)]).to_dict("records")
    assert row["state"] == "ok"
    assert math.isnan(row["test_accuracy"])
    assert math.isnan(row["images_per_second"])


def test_the_final_loss_of_an_older_run_is_its_last_line_of_metrics(tmp_path):
    older = {key: value for key, value in RESULT.items() if key != "final_train_loss"}
    (row,) = read_results([ended(tmp_path, result=older, curve=[0.1, 0.2, 0.3, 0.4])]).to_dict("records")
    assert row["final_train_loss"] == 0.25


def test_the_level_is_nine_tenths_of_the_baselines_median_best(tmp_path):
    runs = [
        ended(tmp_path, "lrn", 0, curve=[0.2, 0.8, 0.7]),
        ended(tmp_path, "lrn", 1, curve=[0.75, 0.9, 1.0]),
        ended(tmp_path, "bn", 0, curve=[0.1, 0.2, 0.3]),
        ended(tmp_path, "bn", 1, curve=[0.82, 0.2, 0.95]),
    ]
    table = read_results(runs)
    assert table["level"].tolist() == [pytest.approx(0.81)] * 4
    assert table["epochs_to_level"].tolist() == [
        4,
        2,
        4,
        1,
    ]  # not reached in three epochs: it would have taken four or more
    assert table["never_reached"].tolist() == [1, 0, 1, 0]


def test_a_level_can_be_named_and_must_be_an_accuracy(tmp_path):
    run = ended(tmp_path, curve=[0.5, 0.7, 0.9])
    assert read_results([run], level=0.7)["epochs_to_level"].tolist() == [2]
    with pytest.raises(ValueError, match="a level is a validation accuracy above 0 and up to 1; got 70"):
        read_results([run], level=70)


def test_without_a_baseline_that_ended_there_is_no_level(tmp_path):
    runs = [ended(tmp_path, "lrn", state="diverged"), ended(tmp_path, "bn", curve=[0.9])]
    table = read_results(runs)
    assert table["level"].isna().all()
    assert table["epochs_to_level"].isna().all()


def write_flow(run, off):
    """Two units on four probe inputs, and one step whose gradients are 3 and 4 over 9 and 4 elements."""
    parameters = (Parameter("conv1.weight", "conv1", (9, 1)), Parameter("fc8.weight", "fc8", (4, 1)))
    writer = FlowWriter(run.folder.path)
    writer.begin(Layout(parameters, (Site("relu1", "conv1", "ReLU", "channel", 2),)))
    steps = {
        "step": np.array([1, 1], np.int32),
        "parameter": np.array([0, 1], np.int16),
        "weight_norm": np.array([10, 20], np.float32),
        "gradient_norm": np.array([3, 4], np.float32),
        "update_norm": np.array([0.01, 0.02], np.float32),
    }
    units = {
        "site": np.zeros(2, np.int16),
        "unit": np.arange(2, dtype=np.int32),
        "split": np.ones(2, np.int8),
        "inputs": np.full(2, 4),
        "off": np.array(off),
        "elements": np.full(2, 4),
        "elements_off": np.array(off),
    }
    writer.write_epoch(1, {"steps": steps, "units": units})


def test_gradient_health_comes_from_the_instruments(tmp_path):
    run = ended(tmp_path)
    write_flow(run, off=[4, 1])
    (row,) = read_results([run]).to_dict("records")
    assert row["dead_share"] == 0.5
    assert row["negative_side_rate"] == pytest.approx(5 / 8)
    assert row["gradient_first_to_last"] == pytest.approx((3 / 3) / (4 / 2))
    assert row["update_ratio"] == pytest.approx(1e-3)


def test_results_are_written_as_plain_rows(tmp_path):
    table = read_results([ended(tmp_path, why='a "why", with commas'), planned(tmp_path, "bn")])
    write_results(table, tmp_path / "results.csv")
    with (tmp_path / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["state"] for row in rows] == ["ok", "waiting"]
    assert rows[0]["why"] == 'a "why", with commas'
    assert float(rows[0]["test_accuracy"]) == 0.9
    assert rows[1]["test_accuracy"] == ""


def test_a_thousand_run_folders_are_read_within_ten_seconds(tmp_path):
    # One folder two hundred times: what is measured is the reading, of what instruments left as well.
    first = ended(tmp_path, curve=[0.5] * 30)
    write_flow(first, off=[4, 1])
    cells = [Cell((("norm", norm),)) for norm in ("lrn", "bn", "gn", "none")]
    runs = [PlannedRun(cell, seed, first.recipe, first.folder) for seed in range(50) for cell in cells]
    began = time.process_time()
    assert len(read_results(runs)) == 200
    assert 5 * (time.process_time() - began) < 10


def test_outcomes_have_names_of_their_own_and_the_headline_is_test_accuracy():
    names = [outcome.name for outcome in OUTCOMES]
    assert len(set(names)) == len(names)
    assert HEADLINE.name == "test_accuracy"
    assert outcome_named("auroc").label == "AUROC"
    with pytest.raises(ValueError, match="unknown outcome 'auc'; there are test_accuracy, "):
        outcome_named("auc")


@pytest.mark.parametrize(
    ("name", "compared", "text"),
    [
        ("test_accuracy", 3.14, "+3.1"),
        ("test_accuracy", -0.04, "+0.0"),
        ("test_accuracy", math.nan, "-"),
        ("update_ratio", math.log(1.8), "×1.8"),
        ("update_ratio", 1000.0, "×1.01e+304"),
        ("epochs_to_level", -2.44, "-2.4"),
        ("auroc", 0.01234, "+0.0123"),
    ],
)
def test_effects_are_written_in_the_outcomes_own_units(name, compared, text):
    assert outcome_named(name).show_effect(compared) == text


def test_run_folders_are_left_as_they_were(tmp_path):
    run = ended(tmp_path, curve=[0.5])
    write_flow(run, off=[0, 1])
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    read_results([run])
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    assert json.loads((run.folder.path / "state.json").read_text())["state"] == "ok"


def test_no_text_of_the_rows_is_a_formula_to_a_spreadsheet_and_numbers_stay_numbers(tmp_path):
    texts = ['=HYPERLINK("x")', "+1+2", "-2+3", "@SUM(A1)", "-0.5", "a=b", ""]
    table = read_results([planned(tmp_path, seed=seed) for seed in range(len(texts))]).assign(why=texts)
    table["test_accuracy"] = -0.25
    write_results(table, tmp_path / "results.csv")
    with (tmp_path / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["why"] for row in rows] == ["'" + text for text in texts[:4]] + texts[4:]
    assert {row["test_accuracy"] for row in rows} == {"-0.25"}


def test_the_number_of_test_images_is_known_where_all_runs_agree(tmp_path):
    tested = {**RESULT, "test": {**RESULT["test"], "confusion": [[3, 1], [0, 6]]}}
    runs = [ended(tmp_path, seed=seed, result=tested) for seed in range(2)]
    assert read_results(runs).attrs["test_images"] == 10
    assert population_of(read_results(runs), HEADLINE) == "on these 10 test images"
    other = ended(tmp_path, seed=2)
    assert read_results([*runs, other]).attrs["test_images"] is None
    assert population_of(read_results([*runs, other]), HEADLINE) == "on these test images"
    assert population_of(read_results(runs), outcome_named("images_per_second")) == ""


def test_large_numbers_are_written_out():
    speed = outcome_named("images_per_second")
    assert [speed.show(value) for value in (1311.2, 98.76, 2.5e7, 3.21e-5)] == ["1310", "98.8", "2.5e+07", "3.21e-05"]
