"""From flags to cells, and from cells to a study folder."""

import re
from pathlib import Path

import pytest

from alexnet_ablations.design import Cell, Factor, factorial, read_factor
from alexnet_ablations.study import Study, collect
from alexnet_lab.levels import NETWORKS, published_level
from alexnet_lab.networks import build_network
from alexnet_lab.training.recipe import Recipe

START = Recipe()
NORM = Factor("norm", ("lrn", "bn"))
ACT = Factor("act", ("relu", "leaky"))


def test_the_baseline_is_always_in_and_first():
    assert read_factor("norm", "bn", START) == NORM
    assert read_factor("norm", "none,lrn,bn:after", START).levels == ("lrn", "none", "bn:after")
    assert read_factor("dropout", "0.3,0", START).levels == (0.5, 0.3, 0.0)
    assert read_factor("batch_size", "16, 64", START).levels == (32, 16, 64)
    assert read_factor("preset", "review", START).levels == ("paper", "review")


@pytest.mark.parametrize(
    ("name", "preset"), [*((name, None) for name in NETWORKS), ("alexnet", "caffe"), ("alexnet", "torchvision")]
)
def test_the_published_levels_are_what_the_networks_are_built_with(name, preset):
    size = {"width": 1 / 8, "image_size": 67, "preset": preset}
    slots = {field: published_level(name, preset, field) for field in ("norm", "act", "dropout")}
    assert str(build_network(name, 4, **size)) == str(build_network(name, 4, **size, **slots))


def test_a_recipe_that_says_otherwise_moves_the_baseline():
    assert read_factor("norm", "lrn", Recipe(norm="bn")).levels == ("bn", "lrn")
    assert read_factor("norm", "lrn", Recipe(preset="torchvision")).levels == ("none", "lrn")
    assert read_factor("act", "leaky", Recipe(network="mobilenet_v2", preset=None)).levels == ("relu6", "leaky")
    with pytest.raises(ValueError, match="mobilenet_v3_small has no single published act"):
        read_factor("act", "leaky", Recipe(network="mobilenet_v3_small", preset=None))


@pytest.mark.parametrize(
    ("field", "text", "message"),
    [
        ("norm", "bm", "Did you mean 'bn'"),
        ("norm", "lrn", "--norm lrn is the baseline itself; name another level, for example bn,none"),
        ("norm", "bn,bn", "--norm names bn twice"),
        ("norm", "lrn:k=1,lrn:k=1.0", "--norm names lrn:k=1.0 twice"),
        ("norm", "", "--norm names no level; for example --norm bn,none"),
        ("dropout", "a third", "--dropout takes numbers, for example 0.3; got 'a third'"),
        ("dropout", "1.5", "dropout: must be less than 1 (got 1.5)"),
        ("preset", "cafe", "Did you mean 'caffe'"),
        ("batch_size", "0", "batch_size: must be greater than or equal to 1"),
    ],
)
def test_wrong_levels_are_refused_before_anything_runs(field, text, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        read_factor(field, text, START)


def test_a_factorial_crosses_every_level_with_every_other():
    cells = factorial([NORM, ACT, Factor("dropout", (0.5, 0.3, 0.0))])
    assert len(cells) == len(set(cells)) == 12
    assert cells[0] == Cell((("norm", "lrn"), ("act", "relu"), ("dropout", 0.5)))
    assert cells[0].name == "norm=lrn,act=relu,dropout=0.5"
    assert Cell((("norm", "lrn:k=1.0,window=sum"),)).name == "norm=lrn_k=1.0,window=sum"


def test_runs_go_seed_by_seed_so_that_an_interrupted_study_is_balanced(tmp_path):
    study = Study(START, (NORM, ACT), 2, tmp_path)
    runs = study.runs()
    assert [run.seed for run in runs] == [0, 0, 0, 0, 1, 1, 1, 1]
    assert [run.recipe.norm for run in runs[:4]] == ["lrn", "lrn", "bn", "bn"]
    assert len({run.folder.path for run in runs}) == 8
    assert all(run.recipe.seed == run.seed for run in runs)


def test_a_folder_holds_one_study_and_more_seeds_extend_it(tmp_path):
    Study(START, (NORM,), 2, tmp_path).open_folder()
    Study(START, (NORM,), 5, tmp_path).open_folder()
    with pytest.raises(ValueError, match="holds another study .*choose another folder with --out"):
        Study(START, (NORM, ACT), 2, tmp_path).open_folder()
    with pytest.raises(ValueError, match="holds another study"):
        Study(Recipe(epochs=3), (NORM,), 2, tmp_path).open_folder()


def finish(run, state, accuracy=None):
    run.folder.begin(run.recipe.to_json(), {}, "{}")
    run.folder.end(state, "why", {"test": {"accuracy": accuracy}} if accuracy is not None else {})


def test_a_run_is_done_when_this_very_recipe_ended_with_a_finding(tmp_path):
    study = Study(START, (NORM,), 2, tmp_path)
    ok, diverged, failed, lost = study.runs()
    finish(ok, "ok", 0.9)
    finish(diverged, "diverged")
    finish(failed, "error")
    assert [run.is_done for run in (ok, diverged, failed, lost)] == [True, True, False, False]
    assert [row["state"] for row in collect(study.runs())] == ["ok", "diverged", "error", "lost"]
    longer = Study(Recipe(epochs=3), (NORM,), 2, tmp_path).runs()
    assert not any(run.is_done for run in longer)


def test_results_are_written_one_row_per_run(tmp_path):
    study = Study(START, (NORM,), 1, tmp_path)
    for run in study.runs():
        finish(run, "ok", 0.5)
    path = study.write_results(collect(study.runs()))
    assert isinstance(path, Path)
    assert path.read_text().splitlines() == [
        "norm,seed,state,test_accuracy,validation_accuracy,why",
        "lrn,0,ok,0.5,,why",
        "bn,0,ok,0.5,,why",
    ]
