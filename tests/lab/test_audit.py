"""What a split hides is said before the first step."""

import json
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import make_folder, write, zip_of
from PIL import Image
from typer.testing import CliRunner

from alexnet_ablations.cli.application import application
from alexnet_lab.data.audit import BYTES, LIST, PICTURE, audit_copies
from alexnet_lab.data.feed import open_feed
from alexnet_lab.data.images import Images, first_alike
from alexnet_lab.data.splits import Split

pytestmark = pytest.mark.usefixtures("own_cache")


def notes_of(data):
    return [note for note in open_feed(str(data), image_size=16, allow_leaks=True).notes if "copies.json" in note]


def test_copies_on_both_sides_of_an_official_split_are_counted_and_named(tmp_path):
    root = make_folder(tmp_path / "xrays", ("train", "val", "test"), each=4)
    shutil.copy(root / "train/cat/0.png", root / "test/cat/copy.png")
    shutil.copy(root / "train/dog/1.png", root / "test/dog/copy.png")
    shutil.copy(root / "train/dog/1.png", root / "val/dog/2.png")
    notes = notes_of(root)
    assert len(notes) == 3
    assert notes[2].startswith(
        "1 of 10 test images are validation images too: 1 byte-identical (test/dog/copy.png). The "
    )
    assert notes[0].startswith("1 of 8 validation images are training images too: 1 byte-identical (val/dog/2.png).")
    assert notes[1].startswith("2 of 10 test images are training images too")
    assert "test/cat/copy.png, test/dog/copy.png" in notes[1]
    assert notes_of(zip_of(root, tmp_path / "xrays.zip"))[1].startswith("2 of 10 test images")


def test_they_are_known_again_from_the_cache(tmp_path):
    root = make_folder(tmp_path / "xrays", ("train", "test"), each=4)
    shutil.copy(root / "train/cat/0.png", root / "test/cat/copy.png")
    assert notes_of(root) == notes_of(root) != []


def test_one_image_under_two_classes_is_said(tmp_path):
    root = make_folder(tmp_path / "xrays", each=6)
    shutil.copy(root / "cat/0.png", root / "dog/also.png")
    (note,) = [note for note in notes_of(root) if "class" in note]
    assert note.startswith("2 images have more than one class: 2 byte-identical (cat/0.png, dog/also.png).")


def test_copies_on_one_side_and_files_that_cannot_be_read_are_no_matter(tmp_path):
    root = make_folder(tmp_path / "xrays", ("train", "test"), each=6)
    shutil.copy(root / "test/cat/0.png", root / "test/cat/again.png")
    for part in ("train", "test"):
        (root / part / "dog/torn.png").write_bytes(b"\x89PNG torn")
    notes = open_feed(str(root), image_size=16, skip_bad=True).notes
    assert any(note.startswith("2 images cannot be read and were left out: ") for note in notes)
    assert not any("copies.json" in note for note in notes)
    (root / "test/dog/torn.png").unlink()
    notes = open_feed(str(root), image_size=16, skip_bad=True).notes
    assert any(note.startswith("1 image cannot be read and was left out: train/dog/torn.png") for note in notes)


def trained(data, out):
    """Train for one epoch in spite of copies across the split."""
    words = ["train", "--data", str(data), "--epochs", "1", "--batch-size", "4", "--out", str(out), "--allow-leaks"]
    said = CliRunner().invoke(application, words)
    assert said.exit_code == 0, said.output
    return said


def test_train_says_it_before_the_first_step(tmp_path):
    root = make_folder(tmp_path / "xrays", ("train", "test"), each=6, side=80)
    shutil.copy(root / "train/cat/0.png", root / "test/cat/copy.png")
    said = trained(root, tmp_path / "run")
    flat = " ".join(said.output.split())
    assert "1 of 13 test images are training images too" in flat
    assert flat.index("training images too") < flat.index("epoch 1")


def smooth(number, side=64):
    """Return a picture with structure at several scales, which survives compression as a photograph does."""
    rng = np.random.default_rng(number)
    layers = [Image.fromarray(rng.integers(0, 256, (cells, cells)).astype(np.uint8)) for cells in (6, 12, 24)]
    sizes = [np.asarray(layer.resize((side, side), Image.Resampling.BICUBIC), float) for layer in layers]
    return np.mean(sizes, 0).astype(np.uint8)


def make_smooth_folder(root, each=6):
    for part_number, part in enumerate(("train", "test")):
        for class_number, name in enumerate(("cat", "dog")):
            for number in range(each):
                write(root / part / name / f"{number}.png", smooth(1000 * part_number + 100 * class_number + number))
    return root


def test_copies_in_other_contrast_or_size_are_told_apart_from_equal_bytes_and_all_are_listed(tmp_path):
    root = make_smooth_folder(tmp_path / "xrays")
    shutil.copy(root / "train/cat/0.png", root / "test/cat/same.png")
    for number in range(5):
        original = Image.open(root / f"train/dog/{number}.png")
        original.point(lambda value: value * 0.5 + 60).resize((90, 90)).save(root / f"test/dog/paler{number}.jpg")
    feed = open_feed(str(root), image_size=64, allow_leaks=True)
    (note,) = [note for note in feed.notes if "training images too" in note]
    assert note.startswith("6 of 18 test images are training images too: 1 byte-identical (test/cat/same.png), and 5 ")
    assert (
        "the same picture with other contrast or size "
        "(test/dog/paler0.jpg, test/dog/paler1.jpg, test/dog/paler2.jpg and 2 more)" in note
    )
    assert [(copy.image, copy.kind, copy.of) for copy in feed.audit.copies] == [
        ("test/cat/same.png", BYTES, ("train/cat/0.png",)),
        *((f"test/dog/paler{k}.jpg", PICTURE, (f"train/dog/{k}.png",)) for k in range(5)),
    ]


def test_one_picture_under_two_classes_is_seen_in_other_contrast_too(tmp_path):
    root = make_smooth_folder(tmp_path / "xrays")
    Image.open(root / "train/cat/1.png").point(lambda value: value * 0.5).save(root / "train/dog/darker.png")
    (note,) = [note for note in open_feed(str(root), image_size=64, allow_leaks=True).notes if "class" in note]
    assert note.startswith(
        "2 images have more than one class: 2 the same picture with other contrast or size (train/cat/1.png, "
    )


def test_the_folder_of_a_run_lists_every_copy(tmp_path):
    root = make_folder(tmp_path / "xrays", ("train", "val", "test"), each=6, side=80)
    for number in range(5):
        shutil.copy(root / f"train/cat/{number}.png", root / f"test/cat/copy{number}.png")
    said = trained(root, tmp_path / "run")
    assert "copies.json in the run's folder lists all" in " ".join(said.output.split())
    listed = json.loads((tmp_path / "run" / LIST).read_text())
    assert listed == [
        {
            "image": f"test/cat/copy{number}.png",
            "part": "test",
            "label": "cat",
            "why": "in train too",
            "kind": "byte-identical",
            "of": [f"train/cat/{number}.png"],
        }
        for number in range(5)
    ]


@given(seed=st.integers(0, 2**32))
@settings(max_examples=100, deadline=None)
def test_every_copy_and_no_other_image_is_listed(seed):
    rng = np.random.default_rng(seed)
    count = 24
    contents = first_alike([bytes([which]) for which in rng.integers(0, 16, count)])
    pairs = rng.choice(np.unique(contents), (2, 2), replace=False)
    labels = rng.integers(0, 2, count)
    order = rng.permutation(count)
    split = Split(order[:12], order[12:18], order[18:22])
    images = Images(
        "x", np.zeros((count, 1, 8, 8), np.uint8), labels, ("a", "b"), contents=contents, near_copies=np.sort(pairs, 1)
    )
    audit = audit_copies(images, split)

    def same(one, other):
        return contents[one] == contents[other] or {contents[one], contents[other]} in [set(pair) for pair in pairs]

    held = {i for i in order[12:22] if any(same(i, j) for j in order[:12])}
    assert {copy.image for copy in audit.copies if copy.why == "in train too"} == held
    tested = {i for i in order[18:22] if any(same(i, j) for j in order[12:18])}
    assert {copy.image for copy in audit.copies if copy.why == "in validation too"} == tested
    torn = {i for i in order[:22] if any(same(i, j) and labels[i] != labels[j] for j in order[:22])}
    assert {copy.image for copy in audit.copies if copy.why == "under another class too"} == torn
    assert bool(held or tested or torn) == bool(audit.remarks)


def test_a_split_of_files_that_leaks_is_refused_and_the_ways_out_are_named(tmp_path):
    root = make_folder(tmp_path / "xrays", ("train", "test"), each=6)
    shutil.copy(root / "train/cat/0.png", root / "test/cat/copy.png")
    with pytest.raises(ValueError, match="leaks: 1 held-out images are copies.*test/cat/copy.png of train/cat/0.png"):
        open_feed(str(root), image_size=16)
    with pytest.raises(ValueError, match="--drop-duplicates.*alexnet-lab audit.*--allow-leaks"):
        open_feed(str(root), image_size=16)
    allowed = open_feed(str(root), image_size=16, allow_leaks=True)
    assert any("--allow-leaks permits" in note for note in allowed.notes)


def test_of_copies_the_one_that_is_tested_stays(tmp_path):
    root = make_folder(tmp_path / "xrays", ("train", "test"), each=6)
    shutil.copy(root / "train/cat/0.png", root / "test/cat/copy.png")
    shutil.copy(root / "train/dog/1.png", root / "train/dog/again.png")
    shutil.copy(root / "train/dog/2.png", root / "train/cat/other.png")
    feed = open_feed(str(root), image_size=16, drop_duplicates=True)
    assert [(one.image, one.why, one.kept) for one in feed.dropped] == [
        ("train/cat/0.png", "a copy", "test/cat/copy.png"),
        ("train/cat/other.png", "a copy of it has another class", None),
        ("train/dog/2.png", "a copy of it has another class", None),
        ("train/dog/again.png", "a copy", "train/dog/1.png"),
    ]
    used = set(feed.names[np.concatenate([feed.split.train, feed.split.validation, feed.split.test])])
    assert len(used) == 27 - 4
    assert "test/cat/copy.png" in used
    assert not {one.image for one in feed.dropped} & used
    assert any(note.startswith("4 images were left out as copies") for note in feed.notes)


def test_patients_in_the_paths_are_kept_on_one_side(tmp_path):
    root = tmp_path / "xrays"
    for number in range(30):
        for view in range(2):
            write(root / ("cat", "dog")[number % 2] / f"person{number}_{view}.png", smooth(2 * number + view, 16))
    feed = open_feed(str(root), image_size=16, patient_from=r"person(\d+)")
    parts = [set(feed.groups[getattr(feed.split, part)]) for part in ("train", "validation", "test")]
    assert sum(map(len, parts)) == 30 == len(set.union(*parts))
    with pytest.raises(ValueError, match="'subject' is found in none of the 60 paths, such as cat/person0_0.png"):
        open_feed(str(root), image_size=16, patient_from="subject")
    with pytest.raises(ValueError, match="must be a regular expression"):
        open_feed(str(root), image_size=16, patient_from="person(")


def test_training_images_of_patients_who_are_tested_are_left_out(tmp_path):
    root = tmp_path / "xrays"
    for part, numbers in (("train", range(16)), ("test", range(14, 22))):
        for number in numbers:
            seed = number + 100 * (part == "test")
            write(root / part / ("cat", "dog")[number % 2] / f"person{number}.png", smooth(seed, 16))
    feed = open_feed(str(root), image_size=16, patient_from=r"person(\d+)")
    assert [(one.image, one.why) for one in feed.dropped] == [
        ("train/cat/person14.png", "its patient is in test too"),
        ("train/dog/person15.png", "its patient is in test too"),
    ]


def test_a_column_of_a_table_names_the_patient(tmp_path):
    rows = ["path,label,Patient ID"]
    for number in range(40):
        write(tmp_path / f"{number}.png", smooth(number, 16))
        rows.append(f"{number}.png,{'ab'[number % 2]},p{number // 4 * 2 + number % 2}")
    (tmp_path / "set.csv").write_text("\n".join(rows))
    feed = open_feed(str(tmp_path / "set.csv"), image_size=16, group="patient")
    assert len(set(feed.groups)) == 20
    assert not set(feed.groups[feed.split.train]) & set(feed.groups[feed.split.test])
    assert open_feed(str(tmp_path / "set.csv"), image_size=16).groups is None  # as before, where nobody asks
    with pytest.raises(ValueError, match="group slide is not known.*it has: Patient ID"):
        open_feed(str(tmp_path / "set.csv"), image_size=16, group="slide")
    with pytest.raises(ValueError, match="digits has none"):
        open_feed("digits", image_size=8, group="patient")


def test_a_run_lists_what_was_left_out(tmp_path):
    root = make_folder(tmp_path / "xrays", ("train", "test"), each=8, side=80)
    shutil.copy(root / "train/cat/0.png", root / "test/cat/copy.png")
    options = ["--data", str(root), "--epochs", "1", "--batch-size", "4", "--out", str(tmp_path / "run")]
    refused = CliRunner().invoke(application, ["train", *options])
    assert isinstance(refused.exception, ValueError)
    assert not (tmp_path / "run").exists()
    done = CliRunner().invoke(application, ["train", *options, "--drop-duplicates"])
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "run" / "dropped.json").read_text()) == [
        {"image": "train/cat/0.png", "why": "a copy", "kept": "test/cat/copy.png"}
    ]
