"""Which image stands on which side: by class, by group, by fold, and as the source says where it says so."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alexnet_lab.data.splits import Split, parse_fold, split_images

LETTERS = ("a", "b", "c")


def three_classes(count=120):
    return np.arange(count) % 3


def labelled(text):
    return np.array([{"t": "train", "v": "validation", "e": "test"}[letter] for letter in text])


def sides(split):
    return split.train, split.validation, split.test


def test_without_official_parts_test_and_validation_are_held_out_by_class():
    split = split_images(three_classes(), LETTERS)
    assert [len(side) for side in sides(split)] == [72, 24, 24]
    assert np.array_equal(np.sort(np.concatenate(sides(split))), np.arange(120))
    assert all(np.bincount(three_classes()[side]).tolist() == [len(side) // 3] * 3 for side in sides(split))
    other = split_images(three_classes(), LETTERS, seed=1)
    assert not np.array_equal(other.test, split.test)


def test_official_parts_stand_as_they_are():
    parts = labelled("tve" * 40)
    split = split_images(np.arange(120) // 40, LETTERS, parts)
    for name, side in zip(("train", "validation", "test"), sides(split), strict=True):
        assert np.array_equal(side, np.flatnonzero(parts == name))
    assert not split.notes


def test_an_official_test_set_stays_whole_and_validation_comes_out_of_training():
    parts = labelled("t" * 90 + "e" * 30)
    split = split_images(three_classes(), LETTERS, parts)
    assert split.test.tolist() == list(range(90, 120))
    assert len(split.validation) == 18
    assert len(split.train) == 72


def test_given_validation_images_become_the_test_and_this_is_said():
    split = split_images(three_classes(), LETTERS, labelled("t" * 90 + "v" * 30))
    assert split.test.tolist() == list(range(90, 120))
    assert len(split.validation) == 18
    assert "its 30 validation images are the test" in split.notes[0]


def test_no_more_than_5000_are_held_out():
    split = split_images(three_classes(60_000), LETTERS, labelled("t" * 50_000 + "e" * 10_000))
    assert [len(side) for side in sides(split)] == [45_000, 5_000, 10_000]


@pytest.mark.parametrize("folds", [2, 5])
def test_folds_test_every_image_once(folds):
    splits = [split_images(three_classes(), LETTERS, fold=f"{number}/{folds}") for number in range(1, folds + 1)]
    assert np.array_equal(np.sort(np.concatenate([split.test for split in splits])), np.arange(120))
    for split in splits:
        assert np.array_equal(np.sort(np.concatenate(sides(split))), np.arange(120))
        assert len(split.validation) == round(0.2 * (120 - len(split.test)))


def test_an_official_test_set_is_in_no_fold():
    split = split_images(three_classes(), LETTERS, labelled("t" * 60 + "v" * 30 + "e" * 30), fold="1/3")
    assert np.array_equal(np.sort(np.concatenate(sides(split))), np.arange(90))
    assert "which is not used" in split.notes[0]


@given(seed=st.integers(0, 10_000), fold=st.sampled_from(["", "1/3", "3/3"]))
@settings(max_examples=25, deadline=None)
def test_a_group_stands_on_one_side_only(seed, fold):
    rng = np.random.default_rng(seed)
    owner = np.sort(rng.integers(0, 30, 120))
    labels = (owner % 3).astype(np.int64)
    groups = np.array([f"patient {number}" for number in owner])
    split = split_images(labels, LETTERS, groups=groups, seed=seed, fold=fold)
    assert np.array_equal(np.sort(np.concatenate(sides(split))), np.arange(120))
    owners = [set(groups[side]) for side in sides(split)]
    assert not (owners[0] & owners[1] or owners[0] & owners[2] or owners[1] & owners[2])
    assert all(owners)


def test_a_given_split_that_tears_a_group_is_refused():
    groups = np.array([f"p{number // 8}" for number in range(120)])
    with pytest.raises(ValueError, match="^1 groups are in two parts of the given split .*correct the column `split`"):
        split_images(three_classes(), LETTERS, labelled("t" * 90 + "e" * 30), groups)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"labels": np.array([0, 0, 0, 0, 1, 1])}, r"at least 3 images, .*too few in: b \(2\), c \(0\)"),
        ({"labels": three_classes(9), "fold": "1/5"}, "at least 5 images"),
        ({"labels": three_classes(), "parts": labelled("e" * 120)}, "and none for train"),
        (
            {"labels": three_classes(), "groups": np.array(["x", "y"] * 60), "fold": "1/3"},
            "2 groups cannot be divided into 3",
        ),
    ],
)
def test_too_little_to_split_is_said_with_its_counts(settings, message):
    with pytest.raises(ValueError, match=message):
        split_images(classes=LETTERS, **settings)


@pytest.mark.parametrize("text", ["2", "0/5", "6/5", "1/1", "a/b", "2/", "-1/5"])
def test_a_fold_is_k_of_n(text):
    with pytest.raises(ValueError, match="a fold is written k/n"):
        parse_fold(text)


def test_a_split_survives_its_file():
    split = split_images(three_classes(), LETTERS, labelled("t" * 90 + "v" * 30))
    text = split.to_json()
    assert json.loads(text)["test"] == split.test.tolist()
    again = Split.from_json(text)
    assert all(np.array_equal(a, b) for a, b in zip(sides(split), sides(again), strict=True))
    assert again.notes == split.notes
