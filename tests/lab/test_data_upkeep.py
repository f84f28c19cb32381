"""Upkeep of the cache: what is listed is what is there, what is removed is what nobody uses."""

import errno
import os
import subprocess
import sys
import time

import numpy as np
import pytest
from commands import answered, command

from alexnet_lab.data import cache
from alexnet_lab.data.cache import cached_images
from alexnet_lab.data.images import Images
from alexnet_lab.data.upkeep import age_of, cache_entries, remove, unused_for
from alexnet_lab.locks import lock_file

DAY = 86400


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ALEXNET_LAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "1000")  # no path is cut at the end of a line
    return tmp_path / "cache"


def store(name, count=4):
    """Put an entry into the cache; the caller holds what is returned, or lets it go."""
    pixels = np.full((count, 3, 8, 8), 7, np.uint8)
    return cached_images(name, lambda _: Images(name, pixels, np.zeros(count, np.int64), ("a", "b")))


def age(entry, seconds):
    os.utime(entry.path / "about.json", (time.time() - seconds,) * 2)


def test_an_empty_cache_has_no_entries_and_is_not_made(own_cache):
    assert cache_entries() == []
    assert not own_cache.exists()


def test_entries_are_listed_with_source_size_shape_and_last_use(own_cache):
    store("xrays", 4)
    store("faces", 2)
    by_source = {entry.source: entry for entry in cache_entries()}
    age(by_source["faces"], 3 * DAY)
    first, second = cache_entries()
    assert [(first.source, first.shape), (second.source, second.shape)] == [
        ("faces", (2, 3, 8, 8)),
        ("xrays", (4, 3, 8, 8)),
    ]
    assert second.bytes == sum(file.stat().st_size for file in second.path.iterdir())
    assert second.bytes > 4 * 3 * 8 * 8
    assert first.used == pytest.approx(time.time() - 3 * DAY, abs=60)
    assert [entry.source for entry in unused_for(2 * DAY, cache_entries())] == ["faces"]
    assert unused_for(4 * DAY, cache_entries()) == []


def test_opening_an_entry_is_its_last_use():
    store("xrays")
    (entry,) = cache_entries()
    age(entry, 50 * DAY)
    assert cache_entries()[0].used < time.time() - 49 * DAY
    store("xrays")
    assert cache_entries()[0].used == pytest.approx(time.time(), abs=60)


def test_an_entry_is_removed_only_when_its_last_map_is_gone(own_cache):
    images = store("xrays")
    window = images.pixels[1:, :1]  # a view keeps the map as the whole does
    (entry,) = cache_entries()
    assert not remove(entry)
    del images
    assert not remove(entry)
    assert (window == 7).all()
    del window
    assert remove(entry)
    assert cache_entries() == []
    assert not [path for path in (own_cache / "images").iterdir() if path.is_dir()]
    assert (store("xrays").pixels == 7).all()


HOLDER = """
import sys
import numpy as np
from alexnet_lab.data import cache
from alexnet_lab.data.cache import cached_images
images = cached_images("xrays", lambda _: sys.exit("it should be there"))
print("mapped", flush=True)
sys.stdin.read()
"""


def test_an_entry_that_another_process_has_open_stays_until_that_is_killed():
    store("xrays")
    (entry,) = cache_entries()
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout.readline() == "mapped\n"
        assert not remove(entry)
        holder.kill()
        holder.wait()
    assert remove(entry)


def test_what_broke_off_is_listed_and_removed_but_not_while_it_is_built(own_cache):
    def build(allocate):
        pixels = allocate((4, 3, 8, 8))
        (under_way,) = cache_entries()
        assert under_way.kind == "unfinished"
        assert not remove(under_way)
        pixels[:] = 7
        return Images("xrays", pixels, np.zeros(4, np.int64), ("a", "b"))

    assert (cached_images("xrays", build).pixels == 7).all()
    (entry,) = cache_entries()
    left = entry.path.rename(entry.path.with_name(f".{entry.path.name}.abc"))
    assert [(entry.kind, entry.path) for entry in cache_entries()] == [("unfinished", left)]
    assert remove(cache_entries()[0])
    assert cache_entries() == []


def test_between_building_an_entry_and_opening_it_nobody_removes_it(monkeypatch):
    opened, attempts = cache._read, []

    def interfere(place):
        attempts.extend(remove(entry) for entry in cache_entries())
        return opened(place)

    monkeypatch.setattr(cache, "_read", interfere)
    assert (store("xrays").pixels == 7).all()
    assert attempts == [False]


def test_a_torn_entry_is_listed_as_what_cannot_be_read():
    store("xrays")
    (entry,) = cache_entries()
    os.truncate(entry.path / "pixels.npy", 10)
    (torn,) = cache_entries()
    assert torn.kind == "unreadable"
    assert remove(torn)
    assert cache_entries() == []


def test_an_entry_that_was_removed_and_built_anew_meanwhile_is_not_the_one_that_was_listed():
    store("xrays")
    (entry,) = cache_entries()
    assert remove(entry)
    assert remove(entry)  # gone is gone
    kept = store("xrays")
    assert not remove(entry)
    assert (kept.pixels == 7).all()


def test_where_there_are_no_locks_nothing_is_removed(monkeypatch):
    def unknown(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    store("xrays")
    (entry,) = cache_entries()
    monkeypatch.setattr("fcntl.flock", unknown)
    assert not remove(entry)
    assert cache_entries() == [entry]


def test_a_download_that_is_being_read_stays(own_cache):
    archive = own_cache / "downloads" / "c58f3010" / "cifar-10-python.tar.gz"
    archive.parent.mkdir(parents=True)
    archive.write_bytes(bytes(1500))
    (entry,) = cache_entries()
    with archive.open("rb") as reader:
        lock_file(reader, shared=True)
        assert not remove(entry)
    assert remove(entry)
    assert not archive.exists()


@pytest.mark.parametrize(("text", "seconds"), [("12h", 43200), ("30d", 30 * DAY), ("2w", 14 * DAY), ("0d", 0)])
def test_ages_are_read(text, seconds):
    assert age_of(text) == seconds


@pytest.mark.parametrize("text", ["30", "d", "-3d", "1.5d", "30 days", ""])
def test_what_is_no_age_is_refused(text):
    with pytest.raises(ValueError, match="whole number of hours, days or weeks, such as 12h, 30d or 2w; got"):
        age_of(text)


def test_the_command_lists_prunes_and_clears(own_cache, tmp_path):
    for name in ("old[1]", "new"):
        store(name)
    by_source = {entry.source: entry for entry in cache_entries()}
    age(by_source["old[1]"], 40 * DAY)
    archive = own_cache / "downloads" / "c58f3010" / "cifar-10-python.tar.gz"
    archive.parent.mkdir(parents=True)
    archive.write_bytes(bytes(1500))
    listed = command("cache", cwd=tmp_path)
    assert listed.returncode == 0, listed.stderr
    lines = {line.split()[0]: line for line in listed.stdout.splitlines() if line.strip()}
    assert "40 days ago" in lines["old[1]"]
    assert "3x8x8" in lines["new"]
    assert lines["new"].rstrip().endswith("now")
    assert "1.5 kB" in lines["cifar-10-python.tar.gz"]
    assert "3 entries" in listed.stdout
    pruned = answered("cache", "--prune", "30d", cwd=tmp_path)
    assert "removed 1 entry" in pruned.stdout
    assert {entry.source for entry in cache_entries()} == {"new", "cifar-10-python.tar.gz"}
    held = store("new")
    cleared = answered("cache", "--clear", "--downloads", cwd=tmp_path)
    assert cleared.returncode == 0, cleared.stderr
    assert "kept, in use: new" in cleared.stdout
    assert "removed 1 entry, 1.5 kB" in cleared.stdout
    assert [entry.source for entry in cache_entries()] == ["new"]
    assert (held.pixels == 7).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prune", "30d", "--clear"], "error: --prune AGE removes what is old and --clear everything; give one"),
        (["--prune", "soon"], "got 'soon'"),
        (["--downloads"], "give it with --prune AGE or --clear"),
        (["--check", "--clear"], "error: --check removes what is damaged"),
    ],
)
def test_a_mistake_on_the_command_line_removes_nothing(arguments, message, tmp_path):
    store("xrays")
    refused = answered("cache", *arguments, cwd=tmp_path)
    assert refused.returncode == 2
    assert message in refused.stderr
    assert len(cache_entries()) == 1


def test_the_command_checks_every_byte_and_removes_what_is_damaged(own_cache, tmp_path):
    for name in ("whole", "torn", "odd", "held"):
        store(name)
    places = {entry.source: entry.path for entry in cache_entries()}
    for name in ("torn", "held"):
        content = bytearray((places[name] / "pixels.npy").read_bytes())
        content[-1] ^= 1
        (places[name] / "pixels.npy").write_bytes(content)
    (places["odd"] / "about.json").write_text("{}")
    archive = own_cache / "downloads" / "c58f3010" / "cifar-10-python.tar.gz"
    archive.parent.mkdir(parents=True)
    archive.write_bytes(bytes(1500))
    with (places["held"] / "pixels.npy").open("rb") as reader:
        lock_file(reader, shared=True)
        checked = answered("cache", "--check", cwd=tmp_path)
    assert checked.returncode == 1, checked.stderr
    said = " ".join(checked.stdout.split())
    assert (
        f"damaged: {places['torn']}/pixels.npy differs from what was written, in MiB 1 of 1; removed, and made" in said
    )
    assert f"damaged: {places['odd']}/about.json differs from what was written; removed" in said
    assert f"damaged: {places['held']}/pixels.npy differs from what was written, in MiB 1 of 1; in use, so not" in said
    assert f"damaged: {archive} does not have the MD5 that its authors give; removed" in said
    assert "checked 5 entries" in said
    assert "4 damaged" in said
    assert {entry.source for entry in cache_entries()} == {"whole", "held"}
    again = answered("cache", "--check", cwd=tmp_path)
    assert again.returncode == 1
    assert "1 damaged" in again.stdout
    store("held")
    assert answered("cache", "--check", cwd=tmp_path).returncode == 0
    assert "2 entries" in answered("cache", "--check", cwd=tmp_path).stdout


def test_a_listing_names_entries_that_cannot_be_read(tmp_path):
    store("odd")
    (entry,) = cache_entries()
    for text in ("{}", "[]", "{", '{"name": "odd"}'):
        (entry.path / "about.json").write_text(text)
        assert [(listed.kind, listed.source) for listed in cache_entries()] == [
            ("unreadable", "damaged, or of an earlier version")
        ]
    listed = answered("cache", cwd=tmp_path)
    assert listed.returncode == 0, listed.stderr
    (entry.path / "pixels.npy").unlink()
    (unreadable,) = cache_entries()
    assert remove(unreadable)
    assert cache_entries() == []
