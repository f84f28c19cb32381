"""Studies that compare starts: weights as a factor, a folder for several networks, the packaged study from own runs."""

import json

import pytest
import torch
from typer.testing import CliRunner

from alexnet_ablations.cli.application import application
from alexnet_ablations.conclude.conclusions import conclusions_of
from alexnet_ablations.conclude.outcomes import outcome_named, read_results
from alexnet_ablations.declare.study import declare_study, read_study
from alexnet_ablations.report import write_report
from alexnet_ablations.run.study import run_study
from alexnet_lab.records import RunFolder
from alexnet_lab.training.recipe import read_recipe
from alexnet_lab.training.run import train_with_verdict

SMALL = {
    "width": 0.0625,
    "preset": "torchvision",
    "norm": "bn",
    "image_size": 64,
    "epochs": 1,
    "batch_size": 8,
    "instruments": "off",
    "threads": 1,
    "device": "cpu",
}
PRETRAINING = "synthetic:classes=4,side=16,count=60"
IMAGES = "synthetic:classes=3,side=16,count=60,seed=1"


@pytest.fixture(autouse=True)
def own_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ALEXNET_LAB_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def one_thread():
    """Give back the threads that a run sets for its whole process."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def made_run(path, weights=b"weights", **fields):
    """Write a run that ended well, without training it."""
    folder = RunFolder(path)
    folder.begin(read_recipe({**SMALL, **fields}).to_json(), {"classes": ["a", "b"]}, json.dumps({"train": [0]}))
    (path / "checkpoints" / "best.safetensors").write_bytes(weights)
    part = {"accuracy": 0.5, "images": 4}
    folder.end("ok", result={"test": part, "validation": part})
    return folder


def call(*words):
    return CliRunner().invoke(application, list(map(str, words)), terminal_width=200)


def test_a_run_is_done_until_the_weights_that_it_began_with_are_made_anew(tmp_path):
    made_run(tmp_path / "pre", b"first")
    study = declare_study({"weights": ["pre"]}, {**SMALL, "data": IMAGES}, tmp_path / "study", seeds=1)
    scratch, transferred = study.runs()
    digest = RunFolder(tmp_path / "pre").verdict()["files"]["checkpoints/best.safetensors"]
    for run, facts in ((scratch, {}), (transferred, {"weights_digest": digest})):
        run.folder.begin(run.recipe.to_json(), facts, "{}")
        run.folder.end("ok", result={})
    assert scratch.is_done
    assert transferred.is_done
    made_run(tmp_path / "pre", b"second")
    assert scratch.is_done
    assert not transferred.is_done
    (tmp_path / "pre").rename(tmp_path / "elsewhere")  # what was made with them stays
    assert transferred.is_done


@pytest.mark.parametrize("weights", ["absent", "unfinished", "of-vgg11"])
def test_weights_that_cannot_serve_are_refused_before_anything_runs(tmp_path, weights):
    made_run(tmp_path / "of-vgg11", network="vgg11")
    made_run(tmp_path / "unfinished").path.joinpath("state.json").unlink()
    told = call("ablate", "--weights", weights, "--data", IMAGES, "--out", "study")
    assert isinstance(told.exception, FileNotFoundError if weights == "absent" else ValueError)
    assert str(told.exception).startswith("weights: ")
    study = declare_study({"weights": [weights]}, {**SMALL, "data": IMAGES}, tmp_path / "study")
    with pytest.raises(type(told.exception), match=r"^weights: "):
        run_study(study)
    assert not (tmp_path / "study").exists()


def test_the_packaged_study_builds_its_networks_as_the_runs_that_it_starts_from(tmp_path):
    for network in ("alexnet", "resnet18"):
        made_run(tmp_path / "pre" / network, network=network)
    told = call("study", "transfer", "--weights", "pre", "--save", "saved.toml", "--plan", "--data", "absent.zip")
    assert "no data at absent.zip" in str(told.exception)  # after it was declared and saved
    saved = read_study(tmp_path / "saved.toml", tmp_path / "study")
    assert {factor.field: factor.levels for factor in saved.factors} == {
        "network": ("alexnet", "resnet18"),
        "weights": ("", "pre"),
    }
    start = saved.start
    assert (start.width, start.image_size, start.preset, start.norm) == (0.0625, 64, "torchvision", "bn")
    assert (start.learning_rate, start.epochs) == (0.001, 10)  # the study's own
    call("study", "transfer", "--weights", "pre", "--baseline", "norm=gn", "--save", "own.toml", "--data", "absent.zip")
    assert read_study(tmp_path / "own.toml", tmp_path / "study").start.norm == "gn"


@pytest.mark.long
@pytest.mark.usefixtures("one_thread")
def test_networks_and_weights_are_compared_from_the_first_epoch_on(tmp_path):
    pretraining = declare_study({"network": ["resnet18"]}, {**SMALL, "data": PRETRAINING}, tmp_path / "pre", seeds=1)
    start = {**SMALL, "data": IMAGES}
    study = declare_study({"network": "resnet18", "weights": "none,pre"}, start, tmp_path / "study", seeds=2)
    for planned in (pretraining.open_folder(), study.open_folder()):
        assert [train_with_verdict(run.recipe, run.folder) for run in planned.runs()] == [0] * planned.size
    for run in study.runs():
        weights = run.folder.provenance().get("weights", "")
        assert bool(weights) == bool(run.recipe.weights)
        if weights:
            assert weights.startswith(f"pre/runs/network={run.recipe.network}/seed-0 ({run.recipe.network} trained on")
    results = read_results(study.runs())
    (first,) = {next(iter(run.folder.metrics()))["validation_accuracy"] for run in study.runs()[:1]}
    assert results["first_epoch_accuracy"].iloc[0] == first
    page = write_report(study, results, conclusions_of(results, study.contrasts())).read_text()
    for name in ("first_epoch_accuracy", "test_accuracy"):
        assert outcome_named(name).label in page
