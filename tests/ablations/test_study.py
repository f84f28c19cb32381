"""A study in its folder: recognised, grown, refused, and read back from a file."""

from pathlib import Path

import pytest

from alexnet_ablations.design import Factor
from alexnet_ablations.study import Study, collect
from alexnet_lab.training.recipe import Recipe

START = Recipe()
NORM = Factor("norm", ("lrn", "bn"))
ACT = Factor("act", ("relu", "leaky"))


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
    with pytest.raises(ValueError, match="holds another study, which differs in its factors.*choose another folder"):
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
