"""What a split hides is said before the first step."""

import shutil

import pytest
from pictures import make_folder, zip_of
from typer.testing import CliRunner

from alexnet_ablations.cli.application import application
from alexnet_lab.data.feed import open_feed

pytestmark = pytest.mark.usefixtures("own_cache")


def notes_of(data):
    return [note for note in open_feed(str(data), image_size=16).notes if "byte for byte" in note]


def test_copies_on_both_sides_of_an_official_split_are_counted_and_named(tmp_path):
    root = make_folder(tmp_path / "xrays", ("train", "val", "test"), each=4)
    shutil.copy(root / "train/cat/0.png", root / "test/cat/copy.png")
    shutil.copy(root / "train/dog/1.png", root / "test/dog/copy.png")
    shutil.copy(root / "train/dog/1.png", root / "val/dog/2.png")
    found = notes_of(root)
    assert len(found) == 2
    assert found[0].startswith("1 of 8 validation images are training images too, byte for byte (val/dog/2.png)")
    assert found[1].startswith("2 of 10 test images are training images too")
    assert "test/cat/copy.png, test/dog/copy.png" in found[1]
    assert notes_of(zip_of(root, tmp_path / "xrays.zip"))[1].startswith("2 of 10 test images")


def test_they_are_known_again_from_the_cache(tmp_path):
    root = make_folder(tmp_path / "xrays", ("train", "test"), each=4)
    shutil.copy(root / "train/cat/0.png", root / "test/cat/copy.png")
    assert notes_of(root) == notes_of(root) != []


def test_one_image_under_two_classes_is_said(tmp_path):
    root = make_folder(tmp_path / "xrays", each=6)
    shutil.copy(root / "cat/0.png", root / "dog/also.png")
    (note,) = [note for note in notes_of(root) if "class" in note]
    assert note.startswith("2 images stand under more than one class, byte for byte the same (cat/0.png, dog/also.png)")


def test_copies_on_one_side_and_files_that_cannot_be_read_are_no_matter(tmp_path):
    root = make_folder(tmp_path / "xrays", ("train", "test"), each=6)
    shutil.copy(root / "test/cat/0.png", root / "test/cat/again.png")
    for part in ("train", "test"):
        (root / part / "dog/torn.png").write_bytes(b"\x89PNG torn")
    notes = open_feed(str(root), image_size=16, skip_bad=True).notes
    assert any("2 images cannot be read" in note for note in notes)
    assert not any("byte for byte" in note for note in notes)


def test_train_says_it_before_the_first_step(tmp_path):
    root = make_folder(tmp_path / "xrays", ("train", "test"), each=6, side=80)
    shutil.copy(root / "train/cat/0.png", root / "test/cat/copy.png")
    options = ["--data", str(root), "--epochs", "1", "--batch-size", "4", "--out", str(tmp_path / "run")]
    said = CliRunner().invoke(application, ["train", *options])
    assert said.exit_code == 0, said.output
    flat = " ".join(said.output.split())
    assert "1 of 13 test images are training images too" in flat
    assert flat.index("training images too") < flat.index("epoch 1")
