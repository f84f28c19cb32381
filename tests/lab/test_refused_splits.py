"""Data that cannot give every side of a split its images is refused before the first step, by every command."""

import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from alexnet_ablations.cli import main
from alexnet_lab.data.feed import open_feed, prepare
from alexnet_lab.data.images import Images
from alexnet_lab.data.splits import Split, split_images
from alexnet_lab.networks import build_network
from alexnet_lab.training.evaluation import evaluate

TINY = ("--width", "0.0625", "--epochs", "1", "--batch-size", "2", "--threads", "1")
STUDY = """
[factors]
norm = ["bn"]

[recipe]
data = "images.csv"
width = 0.0625
epochs = 1
"""


def picture(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (16, 16), np.uint8)).save(path)


def class_folders(root, each):
    for name in "ab":
        for number in range(each):
            picture(root / name / f"{number}.png", number)


def table(root, columns, rows, unreadable=()):
    for number, _ in enumerate(rows):
        picture(root / f"{number}.png", number)
    for number in unreadable:
        (root / f"{number}.png").write_bytes(b"no picture")
    lines = [",".join([f"{number}.png", *row]) for number, row in enumerate(rows)]
    (root / "images.csv").write_text("\n".join([columns, *lines]))


def letters(count):
    return ["ab"[number % 2] for number in range(count)]


def two_in_each_class(root):
    class_folders(root / "images", 2)
    return "images"


def one_training_image_of_each_class(root):
    table(root, "path,label,split", [(label, "train" if n < 2 else "test") for n, label in enumerate(letters(12))])
    return "images.csv"


def nothing_to_train_on(root):
    table(root, "path,label,split", [(label, "val") for label in letters(12)])
    return "images.csv"


def a_class_that_is_only_tested(root):
    parts = ["train"] * 8 + ["val"] * 4
    table(root, "path,label,split", [*zip(letters(12), parts, strict=True), ("c", "test"), ("a", "test")])
    return "images.csv"


def two_patients(root):
    table(root, "path,label,group", [(label, f"p{n // 6}") for n, label in enumerate(letters(12))])
    return "images.csv"


def a_patient_who_has_a_class_alone(root):
    rows = [(label, "p" if label == "b" else f"q{n // 6}") for n, label in enumerate(letters(12))]
    table(root, "path,label,group", rows)
    return "images.csv"


def unreadable_validation(root):
    parts = ["train"] * 8 + ["val"] * 2 + ["test"] * 2
    table(root, "path,label,split", list(zip(letters(12), parts, strict=True)), unreadable=(8, 9))
    return "images.csv"


REFUSED = {
    two_in_each_class: "each class needs at least 3 images, one for each part of the split; too few in: a (2), b (2): "
    "add images",
    one_training_image_of_each_class: "each class needs at least 2 images outside the test, one for each part of the "
    "split; too few in: a (1), b (1): add images",
    nothing_to_train_on: "the data has images for validation and none for train; add a part called `train`",
    a_class_that_is_only_tested: "these classes have no training images in the given split: c; move some",
    two_patients: "a split by group needs at least 3 groups, since a group is in one part only; got 2: "
    "add images of others",
    a_patient_who_has_a_class_alone: "no validation images can be held out by group: every choice of whole groups "
    "has most of the images, or all of a class; add groups",
    unreadable_validation: "none of the 2 validation images can be read; replace them",
}


def refused(monkeypatch, capsys, *arguments):
    """Run a command that is refused with status 2; return the one line it says."""
    monkeypatch.setattr(sys, "argv", ["alexnet-lab", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("error: ")
    assert "\n" not in said
    return said


@pytest.mark.parametrize("plant", REFUSED, ids=lambda plant: plant.__name__)
@pytest.mark.parametrize("command", ["train", "ablate"])
def test_a_side_without_images_is_refused_before_anything_is_written(command, plant, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ALEXNET_LAB_CACHE", str(tmp_path / "cache"))
    chosen = ["--norm", "bn", "--seeds", "1"] if command == "ablate" else []
    said = refused(monkeypatch, capsys, command, "--data", plant(tmp_path), "--skip-bad", *TINY, *chosen)
    assert REFUSED[plant] in said
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").rglob("*.*"))


def test_a_study_from_a_file_is_refused_the_same(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ALEXNET_LAB_CACHE", str(tmp_path / "cache"))
    two_patients(tmp_path)
    (tmp_path / "mine.toml").write_text(STUDY)
    assert REFUSED[two_patients] in refused(monkeypatch, capsys, "study", "mine.toml")


def test_more_folds_than_images_of_a_class_are_refused_on_the_digits_too(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    said = refused(monkeypatch, capsys, "ablate", "--norm", "bn", "--seeds", "1", "--epochs", "1", "--fold", "1/500")
    assert "each class needs at least 500 images" in said


def test_four_patients_are_enough_though_a_fifth_of_the_images_would_take_five(tmp_path, monkeypatch):
    monkeypatch.setenv("ALEXNET_LAB_CACHE", str(tmp_path / "cache"))
    table(tmp_path, "path,label,group", [("ab"[n // 2 % 2], f"p{n % 4}") for n in range(40)])
    feed = open_feed(str(tmp_path / "images.csv"), image_size=16)
    owners = [set(feed.groups[side].tolist()) for side in (feed.split.train, feed.split.validation, feed.split.test)]
    assert sorted(map(len, owners)) == [1, 1, 2]
    assert len(set.union(*owners)) == 4


@pytest.mark.parametrize("seed", range(8))
def test_a_patient_with_most_images_is_never_held_out(seed):
    labels = np.arange(60) % 2
    groups = np.array(["p"] * 44 + [f"q{n // 4}" for n in range(16)])
    split = split_images(labels, ("a", "b"), groups=groups, seed=seed)
    assert set(groups[split.validation]) | set(groups[split.test]) < {"q0", "q1", "q2", "q3"}
    assert len(split.validation)
    assert len(split.test)


def test_a_feed_whose_split_has_an_empty_side_is_refused():
    labels = np.arange(12) % 2
    images = Images("x", np.zeros((12, 1, 8, 8), np.uint8), labels, ("a", "b"))
    whole = split_images(labels, images.classes)
    nothing = np.empty(0, np.int64)
    for part in ("train", "validation", "test"):
        with pytest.raises(ValueError, match=f"this one has none for {part}: add some"):
            prepare(images, replace(whole, **{part: nothing}), 8, "unit")
    with pytest.raises(ValueError, match="none for validation and test"):
        prepare(images, Split(np.arange(12), nothing, nothing), 8, "unit")
    feed = prepare(images, whole, 67, "unit")
    with pytest.raises(ValueError, match="metrics are of at least one image, got none"):
        evaluate(build_network("alexnet", 2, width=1 / 16, image_size=67, in_channels=1), feed, nothing, 4)
