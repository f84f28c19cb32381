"""CIFAR: fetched, read and split as published; archives that are damaged or mean harm are refused and run nothing."""

import contextlib
import io
import os
import pickle
import struct
import tarfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alexnet_lab.data import published
from alexnet_lab.data.feed import open_feed
from alexnet_lab.data.plain_pickle import read_plain_pickle
from alexnet_lab.data.sources import load_images

pytestmark = pytest.mark.usefixtures("own_cache")

CIFAR_10_NAMES = [*published.CIFAR_FILES["cifar10"][0], "test_batch", "batches.meta"]
RNG = np.random.default_rng(0)


def tar_of(files):
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return content.getvalue()


def cifar_batch(count=20, labels="labels", classes=10):
    data = RNG.integers(0, 256, (count, 3072)).astype(np.uint8)
    return {"data": data, labels: [number % classes for number in range(count)], "batch_label": "made up"}


def small_cifar(name="cifar10"):
    """Return an archive as the published one, with 20 images a batch, and the batches."""
    files, test, meta, labels, names = published.CIFAR_FILES[name]
    batches = {file: cifar_batch(labels=labels) for file in (*files, test)}
    content = {**batches, meta: {names: [f"class {k}" for k in range(10)]}}
    return tar_of({f"cifar/{file}": pickle.dumps(value, 2) for file, value in content.items()}), batches


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_is_downloaded_read_and_split_as_published(server, monkeypatch, name):
    archive, batches = small_cifar(name)
    monkeypatch.setitem(published.CIFAR, name, server.publish("cifar.tar.gz", archive))
    images = load_images(name)
    files, test, *_ = published.CIFAR_FILES[name]
    expected = np.concatenate([batches[file]["data"] for file in (*files, test)])
    assert np.array_equal(images.pixels.reshape(len(expected), -1), expected)
    assert images.labels[:20].tolist() == [k % 10 for k in range(20)]
    assert images.classes[:2] == ("class 0", "class 1")
    assert (images.parts == "test").sum() == 20
    assert (images.parts[-20:] == "test").all()
    assert not images.notes
    feed = open_feed(name, image_size=40, augment="crop,flip")
    assert feed.geometry.stored == 32
    assert len(feed.split.test) == 20
    assert len(server.asked) == 1


def test_a_copy_at_hand_is_read_without_a_network_and_its_difference_is_noted(tmp_path):
    (tmp_path / "copy.tar.gz").write_bytes(small_cifar()[0])
    images = load_images(f"cifar10:{tmp_path / 'copy.tar.gz'}")
    assert images.pixels.shape == (120, 3, 32, 32)
    assert "by its MD5 not the published file" in images.notes[0]
    with pytest.raises(FileNotFoundError, match="no copy at .*absent"):
        load_images(f"cifar10:{tmp_path / 'absent'}")


def python_2_pickle(array, labels):
    """Write by hand what Python 2 wrote at protocol 2: byte strings, and numpy's names of that time."""

    def text(content):
        return b"U" + bytes([len(content)]) + content

    values = array.tobytes()
    state = b"(K\x01(K" + bytes([array.shape[0]]) + b"M" + struct.pack("<H", array.shape[1]) + b"t"
    kind = (
        b"cnumpy\ndtype\n("
        + text(b"u1")
        + b"K\x00K\x01tR(K\x03"
        + text(b"|")
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )
    made = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00t" + text(b"b") + b"tR"
    content = made + state + kind + b"\x89T" + struct.pack("<i", len(values)) + values + b"tb"
    listed = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    return b"\x80\x02}(" + text(b"data") + content + text(b"labels") + listed + b"u."


def test_what_python_2_wrote_is_read():
    array = RNG.integers(0, 256, (4, 3072)).astype(np.uint8)
    read = read_plain_pickle(python_2_pickle(array, [3, 1, 4, 1]))
    assert np.array_equal(read["data"], array)
    assert read["labels"] == [3, 1, 4, 1]


class Harmful:
    def __reduce__(self):
        return os.system, ("touch harmed",)


@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps(Harmful(), 2),
        pickle.dumps({"data": [Harmful()]}),
        b"\x80\x02cbuiltins\neval\n(U\x011tR.",
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR.",
        b"\x80\x02(U\x01a(ios\nsystem\n.",
        b"\x80\x02]K",
        b"",
        b"\x80\x02cnumpy\nload\n(U\x01xtR.",
        b"\x80\x04\x8c\x05numpy\x8c\x0aoriginally\x93.",
        b"\x80\x04\x8c\x05numpy\x8c\x10ndarray.__class__\x93.",
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n(c_codecs\nencode\n(K\x00tU\x01btR.",
        b"\x80\x02c_codecs\nencode\n(X\x01\x00\x00\x00aX\x05\x00\x00\x00rot13tR.",
        b"\x80\x02cnumpy\ndtype\n(U\x01OK\x00K\x01tR.",
        b"\x82\x01.",
    ],
)
def test_a_pickle_that_asks_for_more_than_data_is_refused_and_runs_nothing(content, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError):
        read_plain_pickle(content)
    assert not (tmp_path / "harmed").exists()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the standard library's, of escapes in damaged text
@given(cuts=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=6))
@settings(max_examples=200, deadline=None)
def test_a_damaged_pickle_is_refused_or_read_as_data(cuts):
    damaged = bytearray(python_2_pickle(np.zeros((1, 300), np.uint8), range(20)))
    for place, value in cuts:
        damaged[place % len(damaged)] = value
    with contextlib.suppress(ValueError):
        read_plain_pickle(bytes(damaged))


def test_a_harmful_archive_is_refused_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    harm = {f"../../{name}": pickle.dumps(Harmful(), 2) for name in CIFAR_10_NAMES}
    (tmp_path / "bad.tar.gz").write_bytes(tar_of(harm))
    with pytest.raises(
        ValueError, match=r"bad.tar.gz cannot be read as cifar10: its pickle asks for (posix|nt).system"
    ):
        load_images("cifar10:bad.tar.gz")
    assert not (tmp_path / "harmed").exists()
    assert not list(tmp_path.parent.glob("data_batch*"))


def truncated(content):
    return content[: len(content) // 2]


def another_class(content):
    files = {file: cifar_batch(classes=11) for file in (*published.CIFAR_FILES["cifar10"][0], "test_batch")}
    files["batches.meta"] = {"label_names": [f"class {k}" for k in range(10)]}
    return tar_of({name: pickle.dumps(value, 2) for name, value in files.items()})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (truncated, "was a download cut short"),
        (lambda _: b"nothing", "cannot be read as cifar10"),
        (lambda _: tar_of({"a": b""}), "it does not hold batches.meta, data_batch_1"),
        (lambda _: tar_of(dict.fromkeys(CIFAR_10_NAMES, pickle.dumps([1], 2))), "do not hold what CIFAR's do"),
        (another_class, "label 10 is none of its 10 classes"),
    ],
)
def test_a_damaged_archive_is_an_error_that_names_it(tmp_path, spoil, message):
    (tmp_path / "copy.tar.gz").write_bytes(spoil(small_cifar()[0]))
    with pytest.raises(ValueError, match=f"copy.tar.gz cannot be read as cifar10.*{message}|{message}"):
        load_images(f"cifar10:{tmp_path / 'copy.tar.gz'}")
