"""alexnet-lab predict as a user meets it."""

import csv
import json

import numpy as np
import pytest
from commands import answered, command
from PIL import Image

from alexnet_lab import load_run
from alexnet_lab.data.sources import load_images
from alexnet_lab.records import RunFolder


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a run on digits in RUN and five of its images in scans."""
    root = tmp_path_factory.mktemp("place")
    words = ("--width", "0.0625", "--norm", "bn", "--epochs", "1", "--batch-size", "256", "--threads", "1", "--quiet")
    done = answered("train", "--out", "RUN", *words, cwd=root)
    assert done.returncode == 0, done.stderr
    (root / "scans").mkdir()
    for number, pixels in enumerate(load_images("digits").pixels[:5, 0]):
        Image.fromarray(pixels).save(root / "scans" / f"{number}.png")
    return root


def test_the_table_shows_each_file_and_its_most_probable_classes(place):
    done = answered("predict", "RUN", "scans", cwd=place)
    assert done.returncode == 0, done.stderr
    predictions = load_run(place / "RUN").predict(place / "scans")
    for number, (best, row) in enumerate(zip(predictions.most_probable, predictions.probabilities, strict=True)):
        line = next(line for line in done.stdout.splitlines() if f"scans/{number}.png" in line)
        assert line.split()[1:3] == [best, f"{row.max():.4f}"]


def test_json_and_csv_hold_every_probability_in_full(place, tmp_path):
    predictions = load_run(place / "RUN").predict(place / "scans")
    lines = answered("predict", "RUN", "scans", "--json", cwd=place).stdout.splitlines()
    for number, line in enumerate(map(json.loads, lines)):
        assert line["file"] == f"scans/{number}.png"
        assert line["predicted"] == predictions.most_probable[number]
        assert list(line["probabilities"].values()) == predictions.probabilities[number].tolist()
    done = answered("predict", "RUN", "scans", "--csv", tmp_path / "out.csv", cwd=place)
    assert done.returncode == 0, done.stderr
    with (tmp_path / "out.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == [f"scans/{number}.png" for number in range(5)]
    assert [
        [float(row[f"probability of {k}"]) for k in range(10)] for row in rows
    ] == predictions.probabilities.tolist()


def test_an_image_unlike_those_of_the_run_has_its_warning_in_table_csv_and_json(place, tmp_path):
    Image.fromarray(np.full((8, 64), 250, np.uint8)).save(tmp_path / "strange.png")
    words = ("predict", "RUN", "scans/0.png", tmp_path / "strange.png")
    done = answered(*words, cwd=place)
    assert done.returncode == 0, done.stderr
    assert "warning" in done.stdout
    assert "1 of 2 images is unlike those that the network was trained and chosen on" in done.stderr
    own, other = map(json.loads, answered(*words, "--json", cwd=place).stdout.splitlines())
    assert own["warnings"] == {}
    assert other["warnings"]["size"] == "64 x 8 pixels, expected sides of 6 to 12"
    assert "expected" in other["warnings"]["grey level"]
    answered(*words, "--csv", tmp_path / "out.csv", cwd=place)
    with (tmp_path / "out.csv").open() as file:
        assert [row["warning"] for row in csv.DictReader(file)] == ["", "; ".join(other["warnings"].values())]
    assert "warning" not in answered("predict", "RUN", "scans/0.png", cwd=place).stdout


def test_an_image_that_cannot_be_read_is_named_and_the_others_are_predicted(place, tmp_path):
    bad = tmp_path / "torn\x1b[31m.png"
    bad.write_bytes(b"no image")
    done = answered("predict", "RUN", "scans/0.png", bad, "absent.png", cwd=place)
    assert done.returncode == 1
    assert "scans/0.png" in done.stdout
    assert "torn\\x1b[31m.png: it is no image" in done.stderr
    assert "absent.png: there is no such file" in done.stderr
    assert "\x1b" not in done.stdout + done.stderr
    lines = answered("predict", "RUN", "scans/0.png", bad, "--json", cwd=place).stdout.splitlines()
    assert [json.loads(line).get("error", "")[:14] for line in lines] == ["", "it is no image"]


@pytest.mark.parametrize(
    ("way", "give"), [((), command), (("--json",), answered), (("--csv", "strange.csv"), answered)]
)
def test_names_of_any_bytes_are_written(way, give, place, tmp_path):
    strange = bytes(tmp_path) + b"/\xff[bold] .png"
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "plain.png")
    (tmp_path / "plain.png").rename(strange.decode("utf-8", "surrogateescape"))
    done = give("predict", place / "RUN", ".", *way, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    if not way:
        assert "\\xff[bold] .png" in done.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["scans", "RUN"], "scans holds no run"),
        (["RUN", "empty"], "empty holds no images; expected files such as .png"),
        (["RUN", "scans", "--json", "--csv", "out.csv"], "give one of them"),
        (["RUN", "scans", "--csv", "nowhere/out.csv"], "--csv must name a file in a folder that exists"),
        (["RUN", "scans", "--device", "tpu"], "device must be cpu or cuda, got 'tpu'"),
        (["RUN"], "missing argument 'images'"),
    ],
)
def test_a_mistake_ends_as_one_clear_line(words, message, place):
    (place / "empty").mkdir(exist_ok=True)
    done = answered("predict", *words, cwd=place)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_run_that_never_finished_and_damaged_weights_are_refused(place, tmp_path):
    RunFolder(tmp_path / "begun").begin("{}", {}, "{}")
    done = answered("predict", tmp_path / "begun", "scans", cwd=place)
    assert done.returncode == 2
    assert "has not finished" in done.stderr
    weights = place / "RUN" / "checkpoints" / "best.safetensors"
    content = weights.read_bytes()
    try:
        weights.write_bytes(content[:-1])
        done = answered("predict", "RUN", "scans", cwd=place)
    finally:
        weights.write_bytes(content)
    assert done.returncode == 2
    assert "checkpoints/best.safetensors in RUN changed after the run ended" in done.stderr


def test_help_shows_examples(place):
    text = answered("predict", "--help", cwd=place).stdout
    assert "alexnet-lab predict RUN scans/ more.zip --csv predictions.csv" in text
