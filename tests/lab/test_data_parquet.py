"""A Parquet table of paths and labels reads as the same table in CSV, whatever its columns are made of."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from alexnet_lab.data.sources import load_images

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")
pandas = pytest.importorskip("pandas")

NAMES = [f"{number}.png" for number in range(4)]


@pytest.fixture
def scans(tmp_path, monkeypatch):
    """Make a folder of four images to list."""
    monkeypatch.setenv("ALEXNET_LAB_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    (tmp_path / "scans").mkdir()
    for name in NAMES:
        Image.fromarray(rng.integers(0, 256, (8, 8)).astype(np.uint8)).save(tmp_path / "scans" / name)
    return tmp_path / "scans"


def table(scans, **columns):
    path = scans / "list.parquet"
    parquet.write_table(pyarrow.table(columns), path)
    return str(path)


def test_a_parquet_table_reads_as_the_same_table_in_csv(scans):
    frame = pandas.DataFrame(
        {
            "Path": NAMES,
            "age": [31.5, None, 60, 2],  # a column that no one asked for
            "label": ["sick", "well", "well", "sick"],
            "split": ["train", "Val", "test", "training"],
            "group": ["p1", "p2", "p3", "p1"],
        }
    )
    frame.to_parquet(scans / "list.parquet", index=False)
    frame.to_csv(scans / "list.csv", index=False)
    one, other = load_images(str(scans / "list.parquet")), load_images(str(scans / "list.csv"))
    assert one.classes == ("sick", "well")
    assert one.labels.tolist() == [0, 1, 1, 0]
    assert one.parts.tolist() == ["train", "validation", "test", "train"]
    assert one.groups.tolist() == other.groups.tolist()
    assert one.grouping.tolist() == [0, 1, 2, 0]
    assert one.names.tolist() == NAMES
    assert np.array_equal(one.pixels, other.pixels)
    assert one.fingerprint == other.fingerprint


@pytest.mark.parametrize(
    ("labels", "classes", "numbers"),
    [
        (pyarrow.array([10, 2, 10, 9]), ("2", "9", "10"), [2, 0, 2, 1]),
        (pyarrow.array([1, 0, 1, 0], pyarrow.uint8()), ("0", "1"), [1, 0, 1, 0]),
        (pyarrow.array([1.0, 0.0, 1.0, 0.0]), ("0", "1"), [1, 0, 1, 0]),  # what pandas makes of whole numbers and gaps
        (pyarrow.array([True, False, True, True]), ("False", "True"), [1, 0, 1, 1]),
        (pyarrow.array(["b", "a", "b", "c"]).dictionary_encode(), ("a", "b", "c"), [1, 0, 1, 2]),
        (pyarrow.array([7, 5, 7, 5]).dictionary_encode(), ("5", "7"), [1, 0, 1, 0]),
        (pyarrow.array([" b", "a", "b ", "a"], pyarrow.large_string()), ("a", "b"), [1, 0, 1, 0]),
    ],
)
def test_labels_may_be_text_whole_numbers_or_categories(scans, labels, classes, numbers):
    images = load_images(table(scans, path=NAMES, label=labels))
    assert images.classes == classes
    assert images.labels.tolist() == numbers


def test_groups_may_be_numbers(scans):
    images = load_images(table(scans, path=NAMES, label=["a", "b", "a", "b"], group=[40, 7, 40, 7]))
    assert images.grouping.tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"file": NAMES, "label": [1, 2, 1, 2]}, "must have the columns path,label.*; path is missing, it has: file, "),
        ({"path": [], "label": []}, "names no image; it has columns and no rows"),
        ({"path": NAMES, "label": ["a", None, "b", None]}, "has 2 rows .*:\n  row 2: no label for 1.png\n  row 4: no"),
        ({"path": NAMES, "label": [1.0, float("nan"), 2.0, 1.0]}, "row 2: no label for 1.png"),
        ({"path": [None, *NAMES[1:]], "label": [1, 2, 1, 2]}, "row 1: no path"),
        ({"path": ["9.png", *NAMES[1:]], "label": [1, 2, 1, 2]}, "row 1: no file at .*9.png"),
        ({"path": NAMES, "label": [1, 2, 1, 2], "split": ["tset"] * 4}, "row 1: split must be one of train, .*'tset'"),
        ({"path": NAMES, "label": [1, 2, 1, 2], "group": [1, None, 1, 1]}, "row 2: no group for 1.png"),
        ({"path": [NAMES[0]] * 2, "label": [1, 2]}, "names 1 images twice; keep one row of each:\n  0.png"),
        ({"path": NAMES, "label": [0.5, 1.0, 0.5, 1.0]}, "label must hold text, whole numbers or categories; row 1"),
        ({"path": NAMES, "label": [[1], [2], [1], [2]]}, r"row 1 has \[1\] \(list\): write it as text"),
        ({"path": NAMES, "label": [1, 2, 1, 2], "LABEL": [1, 2, 1, 2]}, "more than one column called label; rename"),
    ],
)
def test_a_table_that_cannot_be_used_says_which_rows(scans, columns, message):
    with pytest.raises(ValueError, match=message):
        load_images(table(scans, **columns))


def test_letters_that_are_no_unicode_are_refused_with_the_name_of_the_file(scans):
    broken = pyarrow.StringArray.from_buffers(
        1, pyarrow.py_buffer(np.array([0, 1], np.int32)), pyarrow.py_buffer(b"\x80")
    )
    with pytest.raises(ValueError, match=r"list\.parquet is no readable Parquet"):
        load_images(table(scans, path=pyarrow.array(["0.png"]), label=broken))


def test_a_file_that_is_no_whole_parquet_is_refused(scans):
    path = scans / "list.parquet"
    for content in (b"PAR1", b"path,label\n"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="is no readable Parquet .*was it written to its end"):
            load_images(str(path))


def test_without_pyarrow_one_sentence_says_what_to_install(scans):
    path = table(scans, path=NAMES, label=["a", "b", "a", "b"])
    without = (
        "import sys\n"
        "sys.modules['pyarrow'] = None\n"  # as Python has it for a package that is not there
        "from alexnet_ablations.cli import main\n"
        "sys.argv = ['alexnet-lab', 'train', '--data', sys.argv[1], '--device', 'cpu']\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", without, path], capture_output=True, text=True, cwd=scans, check=False, timeout=120
    )
    assert done.returncode == 2
    assert 'needs pyarrow, which is not installed: pip install "alexnet-lab[parquet]"' in done.stderr
    assert "Traceback" not in done.stderr
