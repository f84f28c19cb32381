"""A study in its folder: recognised, grown, refused, and read back from a file."""

import json
import re

import pytest
import torch

from alexnet_ablations.conclude.outcomes import read_results
from alexnet_ablations.declare.declaration import find_study, packaged_studies
from alexnet_ablations.declare.design import Factor
from alexnet_ablations.declare.status import COORDINATOR_LOCK
from alexnet_ablations.declare.study import Study, declare_study, read_study
from alexnet_ablations.run.study import run_study
from alexnet_lab.locks import Lock
from alexnet_lab.networks import build_network
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
    longer = Study(Recipe(epochs=3), (NORM,), 2, tmp_path).runs()
    assert not any(run.is_done for run in longer)


@pytest.mark.long
def test_a_study_runs_from_python_and_the_second_time_nothing_is_made(tmp_path):
    start = {"width": 0.0625, "epochs": 1, "data": "synthetic:classes=2,side=16,count=120"}
    study = declare_study({"norm": "bn"}, start, tmp_path, seeds=2)
    results = run_study(study, jobs=2)
    assert results[["norm", "seed", "state"]].to_numpy().tolist() == [
        ["lrn", 0, "ok"],
        ["bn", 0, "ok"],
        ["lrn", 1, "ok"],
        ["bn", 1, "ok"],
    ]
    assert results["test_accuracy"].between(0, 1).all()
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/*/*/state.json")}
    again = run_study(study, jobs=2)
    assert again["test_accuracy"].tolist() == results["test_accuracy"].tolist()
    assert stamps == {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/*/*/state.json")}


def test_new_levels_and_seeds_extend_a_study_and_what_it_holds_is_never_lost(tmp_path):
    first = declare_study({"norm": "bn"}, {}, tmp_path, seeds=3).open_folder()
    wider = declare_study({"norm": "none"}, {}, tmp_path, seeds=2).open_folder()
    assert wider.factors == (Factor("norm", ("lrn", "bn", "none")),)
    assert wider.seeds == 3
    assert read_study(tmp_path / "study.toml", tmp_path) == wider
    # The cells that were there keep their names, so nothing is made twice.
    assert {run.folder.path for run in first.runs()} < {run.folder.path for run in wider.runs()}


def test_a_study_that_grows_keeps_its_design_unless_another_is_named(tmp_path):
    declare_study({"norm": "bn", "act": "leaky"}, {}, tmp_path).open_folder()
    many = {"norm": "bn,none,gn", "act": "leaky,prelu"}
    assert declare_study(many, {}, tmp_path / "other").design == "one-at-a-time"
    assert declare_study(many, {}, tmp_path).design == "factorial"
    assert declare_study(many, {}, tmp_path, design="one-at-a-time").design == "one-at-a-time"


def test_what_makes_another_study_is_said(tmp_path):
    declare_study({"norm": "bn"}, {"epochs": 4}, tmp_path).open_folder()
    with pytest.raises(ValueError, match=r"differs in epochs \(4, asked for 10\)"):
        declare_study({"norm": "bn"}, {}, tmp_path).open_folder()
    with pytest.raises(ValueError, match=r"differs in norm \(lrn, asked for none\)"):
        declare_study({"norm": "bn"}, {"epochs": 4, "norm": "none"}, tmp_path).open_folder()
    with pytest.raises(ValueError, match=r"differs in its factors \(norm\)"):
        declare_study({"act": "leaky"}, {"epochs": 4}, tmp_path).open_folder()


@pytest.mark.parametrize("whole", [True, False])
def test_a_study_comes_back_from_its_file_as_it_was(tmp_path, whole):
    study = declare_study(
        {"network": "resnet18", "norm": ["lrn:k=1,alpha=2"], "augment": "flip,crop;", "ten_views": "true"},
        {"data": 'a "quoted" \\ folder é \x1b\x7f\t', "epochs": 3, "learning_rate": 1e-05},
        tmp_path,
        design="fractional",
        seeds=5,
        about="Does it “work” 🩻?",
    )
    path = tmp_path / "mine.toml"
    path.write_text(study.to_toml(whole=whole))
    assert read_study(path, tmp_path) == study
    assert ("momentum" in path.read_text()) == whole


def test_a_field_that_is_younger_than_a_run_does_not_make_it_undone(tmp_path):
    study = Study(START, (NORM,), 1, tmp_path)
    first, second = study.runs()
    for run, change in ((first, {}), (second, {"momentum": 0.5})):
        recorded = {**json.loads(run.recipe.to_json()), **change}
        del recorded["ema"]  # as if the run had been made before there was such a field
        run.folder.begin(json.dumps(recorded), {}, "{}")
        run.folder.end("ok", result={"test": {"accuracy": 0.9}})
    assert [run.is_done for run in (first, second)] == [True, False]
    unknown = {**json.loads(first.recipe.to_json()), "field_of_tomorrow": 1}
    first.folder.begin(json.dumps(unknown), {}, "{}")
    first.folder.end("ok")
    assert not first.is_done


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[factors", "is not TOML"),
        ("", "it has no factor; add a table [factors]"),
        ("[factors]\nnrom = ['bn']", "unknown factor 'nrom'. Did you mean 'norm'"),
        ("[factors]\nnorm = ['bm']", "unknown norm level 'bm'. Did you mean 'bn'"),
        ("[factors]\nnorm = ['bn', 'bn']", "norm: names bn twice"),
        ("[factors]\nbatch_size = 16", "batch_size must be a list of levels or text as a flag has it, got 16"),
        ("seed = 3\n[factors]\nnorm = ['bn']", "unknown word 'seed'. Did you mean 'seeds'"),
        ("seeds = '3'\n[factors]\nnorm = ['bn']", "seeds must be a whole number, got '3'"),
        ("seeds = true\n[factors]\nnorm = ['bn']", "seeds must be a whole number, got True"),
        ("seeds = 0\n[factors]\nnorm = ['bn']", "seeds must be at least 1, got 0"),
        ("design = 'fractal'\n[factors]\nnorm = ['bn']", "Did you mean 'fractional'"),
        ("factors = 3", "factors must be a table"),
        ("[recipe]\nepoch = 3\n[factors]\nnorm = ['bn']", "unknown recipe field 'epoch'. Did you mean 'epochs'"),
        ("[recipe]\nrecipe = 'papper'\n[factors]\nnorm = ['bn']", "Did you mean 'paper'"),
    ],
)
def test_a_mistake_in_a_study_file_is_one_sentence(tmp_path, text, message):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=re.escape(message)):
        read_study(path, tmp_path)


def test_a_study_file_may_start_from_a_recipe_and_write_words_as_flags_do(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(
        "[baseline]\nnorm = 'none'\n[factors]\nnorm = 'bn,lrn:k=1,alpha=2'\nbatch-size = [64]\n"
        "[recipe]\nrecipe = 'paper'\n"
    )
    study = read_study(path, tmp_path)
    assert study.factors == (
        Factor("norm", ("none", "bn", "lrn:alpha=2.0,k=1.0")),
        Factor("batch_size", (128, 64)),
    )
    assert study.start.optimiser == "krizhevsky"
    assert study.design == "factorial"
    assert study.seeds == 3


PACKAGED = packaged_studies()


@pytest.mark.parametrize("name", PACKAGED)
def test_every_packaged_study_asks_a_question_and_every_network_of_it_can_be_built(name, tmp_path):
    study = read_study(PACKAGED[name], tmp_path)
    assert study.about
    assert PACKAGED[name].read_text().startswith("# "), "a comment says which claim it tests"
    assert len(study.runs()) <= 200
    assert study.contrasts()
    for cell in study.cells:
        recipe = cell.recipe(study.start, 0)
        assert recipe.data == "digits"
        with torch.device("meta"):
            build_network(
                recipe.network,
                10,
                preset=recipe.preset,
                norm=recipe.norm,
                act=recipe.act,
                dropout=recipe.dropout,
                width=recipe.width,
                image_size=recipe.image_size,
            )


def test_packaged_studies_are_found_by_name_and_files_by_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_study("lrn-or-bn") == PACKAGED["lrn-or-bn"]
    with pytest.raises(ValueError, match="unknown study 'lrn-or-nb'. Did you mean 'lrn-or-bn'"):
        find_study("lrn-or-nb")
    with pytest.raises(ValueError, match="there is no study file mine.toml"):
        find_study("mine.toml")
    Study(START, (NORM,), 1, tmp_path / "made").open_folder()
    assert find_study("made").resolve() == tmp_path / "made" / "study.toml"


def test_cells_that_are_one_network_and_cells_that_will_hardly_train_are_named(tmp_path):
    study = declare_study({"network": "resnet18", "norm": "bn"}, {}, tmp_path)
    same = "network=resnet18,norm=published, network=resnet18,norm=bn are one and the same: they differ by nothing"
    assert study.warnings() == [same]
    gaussian = declare_study({"init": "published"}, {}, tmp_path).warnings()
    assert all(text.startswith("in init=published: the 2012 initial values") for text in gaussian)
    assert len(gaussian) == 2


def test_levels_that_stand_for_nothing_written_have_words_in_the_results(tmp_path):
    study = declare_study(
        {"network": "resnet18", "norm": "bn", "weights": "imagenet"}, {}, tmp_path, design="only", seeds=1
    )
    results = read_results(study.runs())
    assert results[["network", "norm", "weights"]].to_numpy().tolist() == [
        ["alexnet", "published", "none"],
        ["resnet18", "bn", "imagenet"],
    ]


def test_a_study_that_another_process_works_on_is_not_grown_from_python(tmp_path):
    study = declare_study({"norm": "bn"}, {}, tmp_path)
    lock = Lock(tmp_path / COORDINATOR_LOCK)
    assert lock.take()
    try:
        with pytest.raises(ValueError, match="is in use by"):
            run_study(study)
    finally:
        lock.release()
    assert not (tmp_path / "study.toml").exists()
