"""alexnet-lab evaluate, explain and export --to onnx as a user meets them."""

import json

import pytest
from commands import answered
from PIL import Image

from alexnet_lab.data.sources import load_images
from alexnet_lab.records import RunFolder


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a run on digits in RUN."""
    root = tmp_path_factory.mktemp("place")
    words = ("--width", "0.0625", "--norm", "bn", "--epochs", "1", "--batch-size", "256", "--threads", "1", "--quiet")
    done = answered("train", "--out", "RUN", *words, cwd=root)
    assert done.returncode == 0, done.stderr
    return root


@pytest.mark.long
def test_a_run_is_evaluated_explained_and_handed_over(place):
    done = answered("evaluate", "RUN", "--data", "digits", "--replicates", "200", cwd=place)
    assert done.returncode == 0, done.stderr
    assert "Macro AUROC" in done.stdout
    assert "note: no patient is known for the external images" in done.stderr
    facts = json.loads((place / "RUN" / "evaluation" / "evaluation.json").read_text())
    accuracy = RunFolder(place / "RUN").verdict()["result"]["test"]["accuracy"]
    assert facts["test"]["figures"]["accuracy"]["value"] == accuracy
    Image.fromarray(load_images("digits").pixels[0, 0]).save(place / "digit.png")
    done = answered("explain", "RUN", "digit.png", "--maps", "grad-cam,occlusion", "--random", "2", cwd=place)
    assert done.returncode == 0, done.stderr
    assert "2 maps of 1 image" in done.stdout
    assert (place / "RUN" / "explanation" / "index.html").exists()
    assert len(list((place / "RUN" / "explanation" / "maps").iterdir())) == 5


def test_mistakes_are_one_sentence(place):
    for words, message in (
        (("evaluate", "RUN", "--threshold", "best"), "unknown rule for thresholds 'best'"),
        (("evaluate", "RUN", "--replicates", "3"), "at least 200 replicates"),
        (("evaluate", "nowhere"), "nowhere holds no run"),
        (("explain", "RUN", "absent.png"), "absent.png is not: there is no such file"),
        (("explain", "RUN", "absent.png", "--maps", ","), "--maps names at least one map"),
    ):
        done = answered(*words, cwd=place)
        assert done.returncode == 2, (words, done.stderr)
        assert message in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize("word", ["evaluate", "explain", "export"])
def test_help_shows_an_example(word, tmp_path):
    assert f"alexnet-lab {word} RUN" in answered(word, "--help", cwd=tmp_path).stdout
