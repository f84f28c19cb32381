"""Decoded images on disk: decoded once, memory-mapped by every run and process, rebuilt when the source changes.

    $ALEXNET_LAB_CACHE or ~/.cache/alexnet-lab
      images/<key>/       pixels.npy (uint8, N C T T), labels.npy, about.json;
                          where known parts, groups, names, contents, near_copies, sizes, coloured
      downloads/          archives as published
    $ALEXNET_LAB_IMAGES   in place of images/, where it is set: a disk of the machine's own

The key digests everything that the pixels depend on. An entry is built in a folder next to its own and renamed when it
is complete; one process builds while others that want the same wait. Deleting the folder costs only the time to build
it again.

about.json has a digest of each MiB of the other files, and one of itself. An entry is checked whole when it is built
and by `alexnet-lab cache --check`; whenever it is opened, SAMPLED blocks of each file are. A damaged entry is built
again, and a note says so.

Whoever maps an entry's pixels holds a shared lock on them for as long as the map exists, so that upkeep.py can tell
what is in use; the date of about.json is that of the last opening.
"""

import errno
import hashlib
import itertools
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexnet_lab.data.images import Images
from alexnet_lab.locks import lock_file

FORMAT = 6  # of an entry; increased when the meaning of its contents changes
WHERE_KNOWN = ("parts", "groups", "names", "contents", "near_copies", "sizes", "coloured")
BLOCK = 2**20  # bytes with a digest of their own
SAMPLED = 16  # blocks of each file that are checked when an entry is opened

Allocate = Callable[[tuple[int, ...]], NDArray[np.uint8]]


class DamagedEntryError(ValueError):
    """An entry's files are not what was written."""


def cache_folder() -> Path:
    """Return the folder of decoded images and downloads."""
    chosen = os.environ.get("ALEXNET_LAB_CACHE")
    return Path(chosen) if chosen else Path.home() / ".cache" / "alexnet-lab"


def images_folder() -> Path:
    """Return the folder of decoded images, which may be on a disk of this machine while downloads are shared."""
    chosen = os.environ.get("ALEXNET_LAB_IMAGES")
    return Path(chosen) if chosen else cache_folder() / "images"


def cached_images(key: str, build: Callable[[Allocate], Images]) -> Images:
    """Return the entry of that key; build it first if there is none or if it is damaged.

    build is given a function that allocates pixels on disk, and returns images whose pixels are that array, a view of
    it, or an array of its own.
    """
    name = hashlib.blake2b(f"{FORMAT}\n{key}".encode(), digest_size=16).hexdigest()
    place = images_folder() / name
    damage = ""
    try:
        entry = _read(place)
    except DamagedEntryError as error:
        entry, damage = None, str(error)
    if entry is not None:
        with suppress(OSError):  # a cache that may only be read keeps the date it has
            os.utime(place / "about.json")
        return entry
    with full_disk_names_folder(place.parent):
        place.parent.mkdir(parents=True, exist_ok=True)
        with one_at_a_time(place.with_suffix(".lock")) as alone:
            # Another process may have built it, or built it again, while this one waited. Blocks are sampled at random:
            # known damage is looked for in all of them.
            if not (damage and is_damaged(place)):
                entry = _read(place)
            if entry is None:
                _build(place, build, alone)
                entry = _read(place)
    if entry is None:
        raise OSError(
            f"the cache entry {place} was removed as soon as it was written; does something empty that folder?"
        )
    if damage:
        text = (
            f"decoded images in the cache were damaged ({damage}) and were made again; earlier runs may have used them"
        )
        entry = replace(entry, notes=(*entry.notes, text))
    return entry


@contextmanager
def one_at_a_time(path: Path) -> Iterator[bool]:
    """Hold a lock that one process at a time can have; False if there are no locks. It ends with its process.

    Some file systems have no such locks. Two processes may then build the same entry: wasted work, but each renames a
    complete one.
    """
    with path.open("w") as file:
        yield lock_file(file, shared=False)


@contextmanager
def full_disk_names_folder(folder: Path) -> Iterator[None]:
    """Name the folder, and what to do, in the error of a full disk."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise OSError(
            error.errno,
            f"no space left for decoded images in {folder}; free some, or set ALEXNET_LAB_CACHE to another folder",
        ) from error


def _build(place: Path, build: Callable[[Allocate], Images], alone: bool) -> None:
    if alone:
        # What a killed process left, or what is damaged.
        for old in (place, *place.parent.glob(f".{place.name}.*")):
            shutil.rmtree(old, ignore_errors=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{place.name}.", dir=place.parent))
    try:
        images = build(lambda shape: _allocate(scratch / "pixels.npy", shape))
        _write(scratch, images)
        check_entry(scratch)
        if not alone and is_damaged(place):
            shutil.rmtree(place, ignore_errors=True)
        if not place.exists():
            scratch.rename(place)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _allocate(path: Path, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    array: NDArray[np.uint8] = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
    # A mapped file that does not fit on the disk ends the process by a signal; reserving the space gives an error.
    if shutil.disk_usage(path.parent).free < array.nbytes:
        raise OSError(errno.ENOSPC, "no space left on device", str(path))
    if hasattr(os, "posix_fallocate"):  # another process may need the same space
        with path.open("r+b") as file:
            try:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # file systems that cannot reserve space
                    raise
    return array


def _write(folder: Path, images: Images) -> None:
    pixels = folder / "pixels.npy"
    if (
        isinstance(images.pixels, np.memmap)
        and pixels.exists()
        and images.pixels.shape == np.load(pixels, mmap_mode="r").shape
    ):
        images.pixels.flush()
    else:  # a part of what was allocated (one channel of three), or an array of its own
        np.save(folder / "whole.npy", images.pixels)
        (folder / "whole.npy").replace(pixels)
    for name in ("labels", *WHERE_KNOWN):
        if getattr(images, name) is not None:
            np.save(folder / f"{name}.npy", getattr(images, name))
    content: dict[str, Any] = {
        "name": images.name,
        "classes": images.classes,
        "notes": images.notes,
        "unreadable": {str(index): why for index, why in images.unreadable.items()},
        "digest": images.fingerprint,
        "deep_bits": images.deep_bits,
        "blocks": {file.name: [block for _, block in _digests(file)] for file in sorted(folder.glob("*.npy"))},
    }
    (folder / "about.json").write_text(json.dumps({"content": content, "digest": _digest_of_text(content)}, indent=1))


def about(place: Path) -> dict[str, Any]:
    """Return what about.json says of an entry; raise FileNotFoundError, or DamagedEntryError for any other content."""
    damaged = DamagedEntryError(f"{place / 'about.json'} differs from what was written")
    try:
        record = json.loads((place / "about.json").read_text())
    except (ValueError, RecursionError):
        raise damaged from None
    if not (isinstance(record, dict) and isinstance(record.get("content"), dict)):
        raise damaged
    content: dict[str, Any] = record["content"]
    if record.get("digest") != _digest_of_text(content):
        raise damaged
    return content


def check_entry(place: Path, sampled: int | None = None) -> None:
    """Compare an entry's files with their digests, or so many blocks of each; raise DamagedEntryError at a difference.

    Raises FileNotFoundError where there is no entry.
    """
    blocks: dict[str, list[str]] = about(place)["blocks"]
    for name, expected in blocks.items():
        path = place / name
        if not path.exists():
            about(place)  # unless all of it was removed meanwhile
            raise DamagedEntryError(f"{path} is missing")
        numbers = None
        if sampled is not None and sampled < len(expected):
            numbers = np.sort(np.random.default_rng().choice(len(expected), sampled, replace=False)).tolist()
        count = -(-path.stat().st_size // BLOCK)
        if count != len(expected):
            raise DamagedEntryError(f"{path} has {count} MiB, rounded up, and was written with {len(expected)}")
        for number, digest in _digests(path, numbers):
            if digest != expected[number]:
                raise DamagedEntryError(f"{path} differs from what was written, in MiB {number + 1} of {count}")


def is_damaged(place: Path) -> bool:
    """Return whether an entry exists whose files differ from what was written; all of them are read."""
    try:
        check_entry(place)
    except FileNotFoundError:
        return False
    except DamagedEntryError:
        return True
    return False


def _digests(path: Path, numbers: list[int] | None = None) -> Iterator[tuple[int, str]]:
    """Yield the number and the digest of each block of a file, or of those blocks."""
    with path.open("rb") as file:
        for number in itertools.count() if numbers is None else numbers:
            if numbers is not None:
                file.seek(number * BLOCK)
            block = file.read(BLOCK)
            if not block and numbers is None:
                return
            yield number, _digest(block)


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=8).hexdigest()


def _digest_of_text(content: dict[str, Any]) -> str:
    return _digest(json.dumps(content, sort_keys=True).encode())


def _read(place: Path) -> Images | None:
    """Return an entry, or None if there is none; raise DamagedEntryError if it is not as it was written."""
    try:
        check_entry(place, SAMPLED)
        return _read_whole(place)
    except FileNotFoundError:
        return None


def _read_whole(place: Path) -> Images:
    content = about(place)
    arrays = {name: np.load(place / f"{name}.npy") for name in WHERE_KNOWN if f"{name}.npy" in content["blocks"]}
    images = Images(
        name=content["name"],
        pixels=_mapped(place / "pixels.npy"),
        labels=np.load(place / "labels.npy"),
        classes=tuple(content["classes"]),
        notes=tuple(content["notes"]),
        unreadable={int(index): why for index, why in content["unreadable"].items()},
        digest=content["digest"],
        deep_bits=content["deep_bits"],
    )
    return replace(images, **arrays)


def _mapped(path: Path) -> NDArray[np.uint8]:
    """Map an array for reading, under a shared lock that ends with the map, which keeps its file open."""
    with path.open("rb") as file:
        lock_file(file, shared=True)
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        return np.memmap(file, dtype, "r", file.tell(), shape)
