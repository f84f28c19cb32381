"""predictions.npz read back: by this package, by numpy alone, and when it is damaged."""

import io
import zipfile

import numpy as np
import pytest

from alexnet_lab import predictions_file
from alexnet_lab.predictions_file import PartPredictions, read_classes, read_predictions, write_predictions

CLASSES = ("cat", "dog", "eel")


def part(images=50, classes=3, groups=None, seed=0):
    generator = np.random.default_rng(seed)
    probabilities = generator.dirichlet(np.ones(classes), images)
    ids = generator.permutation(10 * images)[:images]
    return PartPredictions(ids, generator.integers(0, classes, images), probabilities, groups)


def write(path, **parts):
    write_predictions(path, {"validation": part(20, seed=1), "test": part(), **parts}, CLASSES)
    return path


def with_array(path, name, values):
    """Write the file again with one array in another form."""
    arrays = dict(np.load(path))
    arrays[name] = values
    np.savez(path, **arrays)


def test_what_is_written_reads_back_with_numpy_alone(tmp_path):
    owners = np.array(["p1", "p10", "p1"] * 10)
    mine = part(30, groups=owners)
    write(tmp_path / "predictions.npz", test=mine)
    arrays = np.load(tmp_path / "predictions.npz", allow_pickle=False)
    assert arrays["classes"].tolist() == list(CLASSES)
    assert arrays["test.ids"].tolist() == mine.ids.tolist()
    assert arrays["test.labels"].tolist() == mine.labels.tolist()
    assert arrays["test.probabilities"].dtype == np.float32
    assert np.array_equal(arrays["test.probabilities"], mine.probabilities.astype(np.float32))
    assert arrays["groups"][arrays["test.group"]].tolist() == owners.tolist()
    assert "validation.group" not in arrays


def test_what_is_written_reads_back(tmp_path):
    owners = np.array(["p1", "p10", "p1"] * 10)
    mine = part(30, groups=owners)
    path = write(tmp_path / "predictions.npz", test=mine)
    read = read_predictions(path)
    assert list(read) == ["validation", "test"]
    assert read["validation"].groups is None
    assert read["test"].groups.tolist() == owners.tolist()
    assert read["test"].probabilities.dtype == np.float32
    assert np.allclose(read["test"].probabilities, mine.probabilities, atol=1e-7)
    assert np.array_equal(read["test"].correct, mine.probabilities.argmax(1) == mine.labels)
    assert read_classes(path) == CLASSES
    assert list(read_predictions(path, ["test"])) == ["test"]


@pytest.mark.parametrize("most", [0, 2**24])
def test_rounding_changes_no_answer(most, tmp_path, monkeypatch):
    # Differences far below the precision of either format, with the larger one in every position.
    monkeypatch.setattr(predictions_file, "FLOAT32_UP_TO", most)
    monkeypatch.setattr(predictions_file, "ROWS_AT_ONCE", 7)  # several blocks
    close = 1 / 3 + 1e-10 * np.random.default_rng(0).permuted(np.tile(np.arange(3.0), (60, 1)), axis=1)
    probabilities = np.concatenate([close, [[0.4, 0.4, 0.2]], part().probabilities])
    answers = probabilities.argmax(1)
    kept = PartPredictions(np.arange(len(answers)), answers, probabilities)
    path = write(tmp_path / "predictions.npz", test=kept)
    assert np.load(path)["test.probabilities"].dtype == (np.float16 if most == 0 else np.float32)
    assert (close.astype(np.float32).argmax(1) != answers[:60]).any()  # plain rounding would change some
    assert read_predictions(path)["test"].correct.all()
    assert np.allclose(read_predictions(path)["test"].probabilities, probabilities, atol=1e-3)


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = write(tmp_path / "predictions.npz")
    before = path.read_bytes()
    with pytest.raises(ValueError, match="beyond the 3 there are"):
        write(path, test=PartPredictions(np.arange(2), np.array([0, 3]), np.full((2, 3), 1 / 3)))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    assert write(path).read_bytes() == before  # the same predictions are the same bytes


def test_a_missing_file_says_what_makes_it(tmp_path):
    with pytest.raises(ValueError, match=r"has no predictions\.npz.*train again"):
        read_predictions(tmp_path / "predictions.npz")


@pytest.mark.parametrize(
    ("name", "values", "why"),
    [
        ("test.labels", np.array([5] * 50), "class beyond"),
        ("test.labels", np.array([0.5] * 50), "another kind"),
        ("test.ids", np.arange(49), "do not fit"),
        ("test.ids", -np.arange(50), "below 0"),
        ("test.probabilities", np.full((50, 3), np.nan, np.float32), "outside 0 to 1"),
        ("test.probabilities", np.full((50, 2), 0.5, np.float32), "do not fit"),
        ("test.labels", np.array([None] * 50), "allow_pickle=False"),
        ("classes", np.array([None] * 3), "allow_pickle=False"),
        ("test.group", np.zeros(50, int), "groups"),
    ],
)
def test_a_damaged_array_is_one_sentence(name, values, why, tmp_path):
    path = write(tmp_path / "predictions.npz")
    with_array(path, name, values)
    with pytest.raises(ValueError, match=why) as caught:
        read_predictions(path)
    assert str(caught.value).startswith(f"{path} is damaged (")
    assert "\n" not in str(caught.value)


def test_groups_that_are_not_there_are_damage(tmp_path):
    path = write(tmp_path / "predictions.npz", test=part(3, groups=np.array(["a", "b", "a"])))
    with_array(path, "test.group", np.array([0, 2, 0]))
    with pytest.raises(ValueError, match="groups that are not there"):
        read_predictions(path)


def test_every_cut_of_a_file_is_damage(tmp_path):
    path = write(tmp_path / "predictions.npz")
    whole = path.read_bytes()
    for length in range(0, len(whole), 97):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="is damaged"):
            read_predictions(path)


def test_a_part_that_is_not_there_is_damage(tmp_path):
    path = tmp_path / "predictions.npz"
    content = io.BytesIO()
    np.savez(content, classes=np.array(CLASSES))
    path.write_bytes(content.getvalue())
    with pytest.raises(ValueError, match=r"lacks validation\.ids"):
        read_predictions(path)
    assert zipfile.is_zipfile(path)
