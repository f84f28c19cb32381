"""Published sets: fetched from a server, whole or not at all; archives that are damaged or mean harm are refused."""

import contextlib
import gzip
import hashlib
import io
import os
import pickle
import struct
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alexnet_lab.data import published
from alexnet_lab.data.download import Published, fetched
from alexnet_lab.data.feed import open_feed
from alexnet_lab.data.medmnist import MEDMNIST, SIDES, published_set
from alexnet_lab.data.plain_pickle import read_plain_pickle
from alexnet_lab.data.sources import load_images

CIFAR_10_NAMES = [*published.CIFAR_FILES["cifar10"][0], "test_batch", "batches.meta"]
LUCK = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ALEXNET_LAB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


class Server(ThreadingHTTPServer):
    """Serves bytes by name on this machine, with ranges; breaks off where it is told to."""

    daemon_threads = True

    def __init__(self):
        self.files, self.asked, self.break_after, self.knows_ranges = {}, [], None, True
        super().__init__(("127.0.0.1", 0), Answer)

    def publish(self, name, content):
        self.files[name] = content
        return Published(f"http://127.0.0.1:{self.server_port}/{name}?download=1", hashlib.md5(content).hexdigest())  # noqa: S324


class Answer(BaseHTTPRequestHandler):
    def do_GET(self):
        name = self.path.strip("/").partition("?")[0]
        wanted = self.headers.get("Range")
        self.server.asked.append((name, wanted))
        if name not in self.server.files:
            self.send_error(404)
            return
        content = self.server.files[name]
        first = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.server.knows_ranges else 0
        if first >= len(content) > 0:
            self.send_error(416)
            return
        self.send_response(206 if first else 200)
        self.send_header("Content-Length", str(len(content) - first))
        self.end_headers()
        self.wfile.write(content[first:][: self.server.break_after])

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    running = Server()
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield running
    running.shutdown()
    thread.join()
    running.server_close()


def quiet(_what, _done, _total):
    pass


# --- downloads -------------------------------------------------------------------------------------------------------


def test_a_file_is_fetched_once_with_progress(server, own_cache):
    content = LUCK.bytes(3_000_000)
    file = server.publish("set.bin", content)
    told = []
    place = fetched(file, lambda *report: told.append(report))
    assert place.read_bytes() == content
    assert own_cache in place.parents
    assert told[-1] == ("downloading set.bin", 3_000_000, 3_000_000)
    assert [done for _, done, _ in told] == sorted({done for _, done, _ in told})
    assert fetched(file, quiet) == place
    assert server.asked == [("set.bin", None)]


@pytest.mark.parametrize("knows_ranges", [True, False])
def test_a_download_that_breaks_off_says_so_and_goes_on_next_time(server, knows_ranges):
    content = LUCK.bytes(50_000)
    file = server.publish("set.bin", content)
    server.break_after, server.knows_ranges = 20_000, knows_ranges
    with pytest.raises(ConnectionError, match="broke off after .*the next try goes on there"):
        fetched(file, quiet)
    assert not file.place.exists()
    server.break_after = None
    assert fetched(file, quiet).read_bytes() == content
    assert server.asked == [("set.bin", None), ("set.bin", "bytes=20000-")]


def test_a_download_killed_after_its_last_byte_is_complete(server):
    content = LUCK.bytes(5000)
    file = server.publish("set.bin", content)
    file.place.parent.mkdir(parents=True)
    file.place.with_name("set.bin.part").write_bytes(content)
    assert fetched(file, quiet).read_bytes() == content


def test_a_file_that_is_not_the_published_one_is_thrown_away(server):
    file = server.publish("set.bin", b"good")
    server.files["set.bin"] = b"evil"
    with pytest.raises(ValueError, match=f"has MD5 .*, its authors give {file.md5}; it was thrown away"):
        fetched(file, quiet)
    assert not [path for path in file.place.parent.iterdir() if path.suffix != ".lock"]
    server.files["set.bin"] = b"good"
    assert fetched(file, quiet).read_bytes() == b"good"


def test_without_a_network_the_error_says_where_to_put_a_copy(server):
    missing = Published(f"http://127.0.0.1:{server.server_port}/absent.bin", "0" * 32)
    with pytest.raises(
        ConnectionError, match="404 Not Found. Fetch it where there is a network and put it at .*absent.bin"
    ):
        fetched(missing, quiet)
    closed = Published("http://127.0.0.1:9/absent.bin", "0" * 32)
    with pytest.raises(ConnectionError, match="cannot download .* or give the path of a copy"):
        fetched(closed, quiet)


# --- CIFAR -----------------------------------------------------------------------------------------------------------


def tar_of(files):
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return content.getvalue()


def cifar_batch(count=20, labels="labels", classes=10):
    data = LUCK.integers(0, 256, (count, 3072)).astype(np.uint8)
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
    array = LUCK.integers(0, 256, (4, 3072)).astype(np.uint8)
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


# --- Fashion-MNIST ---------------------------------------------------------------------------------------------------


def idx(array):
    return gzip.compress(struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes())


def test_fashion_mnist_is_downloaded_and_read(server, monkeypatch, tmp_path):
    kept = {}
    for part, count in (("train", 60), ("test", 20)):
        images = LUCK.integers(0, 256, (count, 28, 28)).astype(np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        kept[part] = images
        pair = [server.publish(f"{part}-{k}.gz", idx(a)) for k, a in (("images", images), ("labels", labels))]
        monkeypatch.setitem(published.FASHION, part, tuple(pair))
    images = load_images("fashion-mnist")
    assert np.array_equal(images.pixels[:, 0], np.concatenate([kept["train"], kept["test"]]))
    assert images.labels[:12].tolist() == [*range(10), 0, 1]
    assert images.classes[9] == "ankle boot"
    assert (images.parts[-20:] == "test").all()
    for name, content in server.files.items():
        (tmp_path / name).write_bytes(content)
    again = load_images(f"fashion-mnist:{tmp_path}")
    assert again.fingerprint == images.fingerprint
    (tmp_path / "train-images.gz").write_bytes(gzip.compress(b"\0\0\x0d\x03" + bytes(20)))
    with pytest.raises(ValueError, match="cannot be read as fashion-mnist: it does not begin as an .idx file"):
        load_images(f"fashion-mnist:{tmp_path}")


# --- MedMNIST --------------------------------------------------------------------------------------------------------


def medical_arrays(side=28, colour=True, several=False):
    shape = (side, side, 3) if colour else (side, side)
    arrays = {}
    for part, count in (("train", 40), ("val", 16), ("test", 24)):
        arrays[f"{part}_images"] = LUCK.integers(0, 256, (count, *shape)).astype(np.uint8)
        arrays[f"{part}_labels"] = (np.arange(count) % 8).astype(np.uint8).reshape(-1, 1).repeat(2 if several else 1, 1)
    return arrays


def npz(arrays, save=np.savez_compressed):
    content = io.BytesIO()
    save(content, **arrays)
    return content.getvalue()


def test_a_medmnist_set_is_downloaded_and_keeps_its_parts(server, monkeypatch):
    arrays = medical_arrays(64)
    file = server.publish("bloodmnist_64.npz", npz(arrays))
    asked = []
    monkeypatch.setattr(published, "published_set", lambda text: asked.append(text) or ("bloodmnist", file))
    images = load_images("medmnist:bloodmnist@64")
    assert set(asked) == {"bloodmnist@64"}
    assert images.pixels.shape == (80, 3, 64, 64)
    for part, rows in (("train", slice(0, 40)), ("val", slice(40, 56)), ("test", slice(56, 80))):
        assert np.array_equal(images.pixels[rows].transpose(0, 2, 3, 1), arrays[f"{part}_images"])
    assert images.classes == MEDMNIST["bloodmnist"].classes
    feed = open_feed("medmnist:bloodmnist@64", image_size=32)
    assert [len(side) for side in (feed.split.train, feed.split.validation, feed.split.test)] == [40, 16, 24]
    assert feed.geometry.stored == 32


@pytest.mark.parametrize(("colour", "save"), [(True, np.savez), (False, np.savez_compressed)])
def test_a_medmnist_copy_is_read_a_block_at_a_time(tmp_path, colour, save, monkeypatch):
    arrays = medical_arrays(28, colour)
    (tmp_path / "own.npz").write_bytes(npz(arrays, save))
    original = published.ArchivedArray.blocks
    monkeypatch.setattr(published.ArchivedArray, "blocks", lambda self, rows=7: original(self, rows))
    images = load_images(f"medmnist:{tmp_path / 'own.npz'}")
    assert images.classes == tuple(map(str, range(8)))
    expected = np.concatenate([arrays[f"{part}_images"] for part in ("train", "val", "test")])
    assert np.array_equal(images.pixels.transpose(0, 2, 3, 1).squeeze(), expected)


def claiming(rows):
    """Return a file whose test images claim to be so many more than they are."""
    content = io.BytesIO(npz(without(medical_arrays(), "test_images")))
    with zipfile.ZipFile(content, "a") as archive, archive.open("test_images.npy", "w") as file:
        header = {"shape": (24 + rows, 28, 28, 3), "fortran_order": False, "descr": "|u1"}
        np.lib.format.write_array_header_1_0(file, header)
        file.write(bytes(24 * 28 * 28 * 3))
    return content.getvalue()


def without(arrays, name):
    return {key: value for key, value in arrays.items() if key != name}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda: npz(medical_arrays(several=True)), "several labels each"),
        (lambda: npz(medical_arrays())[:-3000], "was a download cut short"),
        (lambda: claiming(rows=3), "it ends too early"),
        (lambda: npz(without(medical_arrays(), "val_images")), "no item named 'val_images.npy'"),
        (lambda: npz({**medical_arrays(), "test_labels": np.array([[None]])}), "with objects is not read"),
        (lambda: npz({**medical_arrays(), "test_labels": np.zeros((3, 1), np.uint8)}), "80 images .* 59 labels"),
    ],
)
def test_a_medmnist_file_that_cannot_be_used_says_why(tmp_path, content, message):
    (tmp_path / "own.npz").write_bytes(content())
    with pytest.raises(ValueError, match=f"own.npz cannot be read as medmnist own: .*{message}"):
        load_images(f"medmnist:{tmp_path / 'own.npz'}")


def test_every_medmnist_set_has_an_address_and_a_checksum_of_its_own():
    files = [published_set(f"{name}@{side}")[1] for name in MEDMNIST for side in SIDES]
    assert len(files) == 44
    assert len({file.md5 for file in files}) == 44
    assert all(len(file.md5) == 32 and set(file.md5) <= set("0123456789abcdef") for file in files)
    assert files[0].name == "pathmnist.npz"
    assert published_set("bloodmnist@224")[1].address.endswith("/bloodmnist_224.npz?download=1")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("medmnist:bloodminst", "unknown MedMNIST set 'bloodminst'. Did you mean 'bloodmnist'"),
        ("medmnist:bloodmnist@32", "unknown side of bloodmnist '32'.*Choices: 28, 64, 128, 224"),
        (
            "medmnist:chestmnist",
            "up to fourteen labels an image.*take medmnist:pneumoniamnist, or a table",
        ),
        ("medmnist:chestmnist@64", "up to fourteen labels an image"),
        ("medmnist", "unknown MedMNIST set ''"),
    ],
)
def test_an_unknown_medmnist_set_says_which_are_known(data, message):
    with pytest.raises(ValueError, match=message):
        load_images(data)
