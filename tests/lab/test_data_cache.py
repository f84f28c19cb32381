"""The cache of decoded images: built once, whole or not at all, and again when the source changes."""

import errno
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from alexnet_lab.data import sources
from alexnet_lab.data.cache import cached_images
from alexnet_lab.data.images import Images
from alexnet_lab.data.sources import load_images

LUCK = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ALEXNET_LAB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def write(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(LUCK.integers(0, 256, (16, 16, 3)).astype(np.uint8)).save(path)


def make_folder(root):
    for name in ("cat", "dog"):
        for number in range(4):
            write(root / name / f"{number}.png")
    return root


@pytest.fixture
def decodings(monkeypatch):
    """Count the images that are decoded."""
    counted = []
    original = sources.decode
    monkeypatch.setattr(sources, "decode", lambda *arguments: counted.append(1) or original(*arguments))
    return counted


def test_images_are_decoded_once_and_again_when_the_source_changes(tmp_path, decodings):
    root = make_folder(tmp_path / "pets")
    first = load_images(str(root))
    again = load_images(str(root))
    assert len(decodings) == 8
    assert isinstance(again.pixels, np.memmap)
    assert not again.pixels.flags.writeable
    assert again.fingerprint == first.fingerprint
    write(root / "cat" / "2.png")
    os.utime(root / "cat" / "2.png", ns=(1, 1))
    changed = load_images(str(root))
    assert len(decodings) == 16
    assert changed.fingerprint != first.fingerprint
    (root / "cat" / "2.png").rename(root / "dog" / "9.png")
    assert load_images(str(root)).labels.tolist() == [0] * 3 + [1] * 5
    load_images(str(root), 8)
    assert len(decodings) == 32


def test_a_fingerprint_is_of_content_not_of_dates_or_places(tmp_path):
    root = make_folder(tmp_path / "pets")
    before = load_images(str(root)).fingerprint
    os.utime(root / "cat" / "0.png", ns=(1, 1))
    assert load_images(str(root)).fingerprint == before
    assert load_images(str(root.rename(tmp_path / "moved"))).fingerprint == before


def test_progress_is_told_to_the_last_image(tmp_path):
    told = []
    root = make_folder(tmp_path / "pets")
    load_images(str(root), progress=lambda *report: told.append(report))
    assert told[0] == ("looking at images", 1, 8)
    assert told[-1] == ("decoding images", 8, 8)
    load_images(str(root), progress=lambda *_: pytest.fail("nothing to do"))


def images_with(pixels):
    return Images("x", pixels, np.zeros(len(pixels), np.int64), ("a", "b"))


def test_a_build_that_fails_leaves_nothing_behind(own_cache):
    def fail(allocate):
        allocate((4, 1, 8, 8))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached_images("key", fail)
    assert [path.suffix for path in (own_cache / "images").iterdir()] == [".lock"]
    whole = np.ones((4, 1, 8, 8), np.uint8)
    assert np.array_equal(cached_images("key", lambda _: images_with(whole)).pixels, whole)


def test_what_a_killed_build_left_is_cleared(own_cache):
    cached_images("key", lambda _: images_with(np.ones((2, 1, 4, 4), np.uint8)))
    (entry,) = [path for path in (own_cache / "images").iterdir() if path.is_dir()]
    entry.rename(entry.with_name(f".{entry.name}.stale"))
    cached_images("key", lambda _: images_with(np.zeros((2, 1, 4, 4), np.uint8)))
    assert [path.name for path in (own_cache / "images").iterdir() if path.is_dir()] == [entry.name]


def test_a_full_disk_is_an_error_that_names_the_place(own_cache, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match=f"no room left for decoded images in {own_cache}.*ALEXNET_LAB_CACHE") as refusal:
        cached_images("key", lambda allocate: images_with(allocate((4, 1, 8, 8))))
    assert refusal.value.errno == errno.ENOSPC
    assert not [path for path in (own_cache / "images").iterdir() if path.is_dir()]


def test_other_errors_of_a_build_stay_what_they_are():
    def refuse(_):
        raise PermissionError(errno.EACCES, "not yours")

    with pytest.raises(PermissionError, match="not yours"):
        cached_images("key", refuse)


BUILDER = """
import sys, time
import numpy as np
from alexnet_lab.data.cache import cached_images
from alexnet_lab.data.images import Images

def build(allocate):
    with open(sys.argv[1], "a") as log:
        log.write("built\\n")
    pixels = allocate((8, 1, 16, 16))
    for row in range(8):
        pixels[row] = row
        time.sleep(0.05)
    return Images("x", pixels, np.zeros(8, np.int64), ("a", "b"))

assert cached_images("key", build).pixels[:, 0, 0, 0].tolist() == list(range(8))
"""


def test_of_processes_that_want_the_same_one_builds_and_all_have_it_whole(tmp_path):
    log = tmp_path / "log"
    running = [subprocess.Popen([sys.executable, "-c", BUILDER, str(log)]) for _ in range(3)]
    assert [process.wait(60) for process in running] == [0, 0, 0]
    assert log.read_text() == "built\n"


def test_a_torn_entry_is_built_again(own_cache):
    pixels = np.arange(2 * 3 * 64, dtype=np.uint8).reshape(2, 3, 8, 8)
    for name in ("pixels.npy", "labels.npy", "about.json"):
        cached_images("key", lambda _: images_with(pixels))
        (path,) = (own_cache / "images").glob(f"*/{name}")
        for left in (path.stat().st_size // 2, 0):
            os.truncate(path, left)
            assert np.array_equal(cached_images("key", lambda _: images_with(pixels)).pixels, pixels)


def test_a_file_system_without_locks_or_promises_of_room_will_do(own_cache, monkeypatch):
    def unknown(*_):
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", unknown)
    monkeypatch.setattr(os, "posix_fallocate", unknown)

    def build(allocate):
        pixels = allocate((2, 1, 4, 4))
        pixels[:] = 7
        return images_with(pixels)

    (own_cache / "images").mkdir(parents=True)
    assert (cached_images("key", build).pixels == 7).all()


def test_a_disk_that_failed_for_a_while_leaves_no_trace(tmp_path, monkeypatch):
    root = make_folder(tmp_path / "pets")

    def fail(*_):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as while_broken, pytest.raises(ValueError, match="8 of 8 images cannot be read"):
        while_broken.setattr(sources, "decode", fail)
        load_images(str(root))
    assert not load_images(str(root)).unreadable


def test_a_file_that_could_not_be_read_for_a_while_is_read_when_it_can_be(tmp_path):
    root = make_folder(tmp_path / "pets")
    (root / "cat" / "3.png").rename(tmp_path / "away.png")
    (root / "cat" / "3.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(ValueError, match="1 of 8 images cannot be read.*\n  cat/3.png: .*No such file"):
        load_images(str(root))
    assert list(load_images(str(root), skip_bad=True).unreadable) == [3]
    (tmp_path / "away.png").rename(tmp_path / "nowhere.png")
    assert not load_images(str(root)).unreadable
