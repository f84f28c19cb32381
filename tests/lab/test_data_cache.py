"""The cache of decoded images: built once, whole or not at all, and again when the source changes."""

import errno
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from alexnet_lab.data import cache, sources
from alexnet_lab.data.cache import cached_images
from alexnet_lab.data.images import Images
from alexnet_lab.data.sources import load_images

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ALEXNET_LAB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def write(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(RNG.integers(0, 256, (16, 16, 3)).astype(np.uint8)).save(path)


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
    with pytest.raises(OSError, match=f"no space left for decoded images in {own_cache}.*ALEXNET_LAB_CACHE") as refusal:
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


def test_a_file_system_without_locks_or_reserved_space_will_do(own_cache, monkeypatch):
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


def test_a_disk_that_failed_for_a_while_is_read_again(tmp_path, monkeypatch):
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


def entry_of(own_cache):
    (entry,) = [path for path in (own_cache / "images").iterdir() if path.is_dir()]
    return entry


def many_images(count=40):
    pixels = np.random.default_rng(1).integers(0, 256, (count, 3, 128, 128)).astype(np.uint8)  # 2 MB
    names = np.array([f"{number}.png" for number in range(count)])
    return Images("x", pixels, np.arange(count) % 2, ("a", "b"), names=names, unreadable={3: "torn"}, notes=("n",))


def same(one, other):
    arrays = [(one.pixels, other.pixels), (one.labels, other.labels), (one.names, other.names)]
    return all(np.array_equal(*pair) for pair in arrays) and one.fingerprint == other.fingerprint


def flip(path, at):
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["pixels.npy", "labels.npy", "names.npy", "about.json"])
@pytest.mark.parametrize("where", [0.0, 0.3, 0.7, 0.999])
def test_one_flipped_bit_is_noticed_and_the_entry_made_again(own_cache, name, where):
    whole = many_images()
    cached_images("key", lambda _: whole)
    path = entry_of(own_cache) / name
    flip(path, int(where * path.stat().st_size))
    read = cached_images("key", lambda _: whole)
    assert same(read, whole)
    assert read.notes[0] == "n"
    assert f"decoded images in the cache were damaged ({path}" in read.notes[1]
    again = cached_images("key", lambda _: pytest.fail("it should be whole"))
    assert again.notes == ("n",)
    assert again.unreadable == {3: "torn"}


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "[]",
        "null",
        "3",
        "",
        "{",
        '{"content": {}}',
        '{"content": 3, "digest": ""}',
        "[" * 100_000,
        "\0",
        '"\\ud800"',
    ],
)
def test_any_other_about_json_is_no_error_but_a_reason_to_build(own_cache, text):
    cached_images("key", lambda _: many_images(4))
    (entry_of(own_cache) / "about.json").write_text(text)
    assert same(cached_images("key", lambda _: many_images(4)), many_images(4))


@pytest.mark.parametrize("name", ["pixels.npy", "labels.npy", "names.npy", "about.json"])
def test_a_missing_file_is_made_again(own_cache, name):
    cached_images("key", lambda _: many_images(4))
    (entry_of(own_cache) / name).unlink()
    assert same(cached_images("key", lambda _: many_images(4)), many_images(4))


def test_of_a_large_file_a_sample_is_read_at_each_opening_and_damage_is_found_in_the_end(own_cache, monkeypatch):
    monkeypatch.setattr(cache, "BLOCK", 2**14)
    cached_images("key", lambda _: many_images())
    path = entry_of(own_cache) / "pixels.npy"
    assert path.stat().st_size // 2**14 > 5 * cache.SAMPLED
    read = []
    original = cache._digests
    monkeypatch.setattr(cache, "_digests", lambda path, numbers=None: read.append(numbers) or original(path, numbers))
    cached_images("key", lambda _: pytest.fail("it should be whole"))
    cached_images("key", lambda _: pytest.fail("it should be whole"))
    sampled = [numbers for numbers in read if numbers]
    assert [len(numbers) for numbers in sampled] == [cache.SAMPLED] * 2
    assert sampled[0] != sampled[1]
    flip(path, 10**6)
    assert cache.is_damaged(entry_of(own_cache))
    for _ in range(200):
        if cached_images("key", lambda _: many_images()).notes != ("n",):
            break
    assert not cache.is_damaged(entry_of(own_cache))


def test_an_entry_is_checked_when_it_is_built(own_cache, monkeypatch):
    original = cache._write

    def write_badly(folder, images):
        original(folder, images)
        flip(folder / "labels.npy", 150)

    monkeypatch.setattr(cache, "_write", write_badly)
    with pytest.raises(ValueError, match="labels.npy differs from what was written"):
        cached_images("key", lambda _: many_images(4))
    assert not [path for path in (own_cache / "images").iterdir() if path.is_dir()]


def test_without_locks_a_damaged_entry_is_made_again_too(own_cache, monkeypatch):
    def unknown(*_):
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", unknown)
    cached_images("key", lambda _: many_images(4))
    flip(entry_of(own_cache) / "labels.npy", 150)
    assert same(cached_images("key", lambda _: many_images(4)), many_images(4))
    assert not cache.is_damaged(entry_of(own_cache))


def test_an_entry_that_is_removed_while_it_is_opened_is_not_called_damaged(own_cache, monkeypatch):
    cached_images("key", lambda _: many_images(4))
    original = cache.about
    removals = []

    def removed_after_reading(place):
        content = original(place)
        if not removals:
            removals.append(place.rename(place.with_name(".gone")))
        return content

    monkeypatch.setattr(cache, "about", removed_after_reading)
    assert cached_images("key", lambda _: many_images(4)).notes == ("n",)
