"""Decoded images on disk: decoded once, memory-mapped by every run and process, rebuilt when the source changes.

    $ALEXNET_LAB_CACHE or ~/.cache/alexnet-lab
      images/<key>/       pixels.npy (uint8, N C T T), labels.npy, about.json;
                          where known parts, groups, names, contents
      downloads/          archives as published

The key digests everything that the pixels depend on. An entry is built beside its place and renamed into it, whole; one
process builds while others that want the same wait. Deleting the folder costs nothing but the time to build it again.

Whoever maps an entry's pixels holds a shared lock on them for as long as the map lives, so that upkeep.py can tell what
is in use; the date of about.json is that of the last opening.
"""

import errno
import hashlib
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

FORMAT = 2  # of an entry; counts up when what stands in one changes its meaning
WHERE_KNOWN = ("parts", "groups", "names", "contents")

Allocate = Callable[[tuple[int, ...]], NDArray[np.uint8]]


def cache_folder() -> Path:
    """Return where decoded images and downloads live."""
    chosen = os.environ.get("ALEXNET_LAB_CACHE")
    return Path(chosen) if chosen else Path.home() / ".cache" / "alexnet-lab"


def cached_images(key: str, build: Callable[[Allocate], Images]) -> Images:
    """Return the entry of that key, built first where there is none.

    build is given a function that allocates pixels on disk, and returns images whose pixels are that array, a view of
    it, or an array of its own.
    """
    name = hashlib.blake2b(f"{FORMAT}\n{key}".encode(), digest_size=16).hexdigest()
    place = cache_folder() / "images" / name
    entry = _read(place)
    if entry is not None:
        with suppress(OSError):  # a cache that may only be read keeps the date it has
            os.utime(place / "about.json")
        return entry
    with out_of_room_says_where(place.parent):
        place.parent.mkdir(parents=True, exist_ok=True)
        with one_at_a_time(place.with_suffix(".lock")) as alone:
            entry = _read(place)  # another process may have built it while this one waited
            if entry is None:
                _build(place, build, alone)
                entry = _read(place)
    if entry is None:
        raise OSError(f"the cache entry {place} vanished as it was written; is something emptying that folder?")
    return entry


@contextmanager
def one_at_a_time(path: Path) -> Iterator[bool]:
    """Let one process at a time in, and say whether that could be had; the lock falls with its process.

    Some file systems have no locks. Two may build at once there: wasted work, but each renames a whole entry into
    place.
    """
    with path.open("w") as file:
        yield lock_file(file, shared=False)


@contextmanager
def out_of_room_says_where(folder: Path) -> Iterator[None]:
    """Name the folder, and the way out, in the error of a full disk."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise OSError(
            error.errno, f"no room left for decoded images in {folder}; free some, or set ALEXNET_LAB_CACHE elsewhere"
        ) from error


def _build(place: Path, build: Callable[[Allocate], Images], alone: bool) -> None:
    if alone:
        # What a killed process left half built, or a power cut torn.
        for old in (place, *place.parent.glob(f".{place.name}.*")):
            shutil.rmtree(old, ignore_errors=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{place.name}.", dir=place.parent))
    try:
        images = build(lambda shape: _allocate(scratch / "pixels.npy", shape))
        _write(scratch, images)
        if not place.exists():
            scratch.rename(place)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _allocate(path: Path, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    array: NDArray[np.uint8] = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
    # A mapped file that turns out not to fit kills the process by a signal; asking for the room now gives an error.
    if shutil.disk_usage(path.parent).free < array.nbytes:
        raise OSError(errno.ENOSPC, "no space left on device", str(path))
    if hasattr(os, "posix_fallocate"):  # another process may want the same room
        with path.open("r+b") as file:
            try:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # file systems that cannot promise room
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
    about = {
        "name": images.name,
        "classes": images.classes,
        "notes": images.notes,
        "unreadable": images.unreadable,
        "digest": images.fingerprint,
    }
    (folder / "about.json").write_text(json.dumps(about, indent=1))


def _read(place: Path) -> Images | None:
    """Return an entry, or None where there is none or a torn one."""
    try:
        return _read_whole(place)
    except (FileNotFoundError, EOFError, ValueError):  # no entry; numpy's for an empty file; numpy's and JSON's
        return None


def _read_whole(place: Path) -> Images:
    about: dict[str, Any] = json.loads((place / "about.json").read_text())
    known = {name: np.load(place / f"{name}.npy") for name in WHERE_KNOWN if (place / f"{name}.npy").exists()}
    images = Images(
        name=about["name"],
        pixels=_mapped(place / "pixels.npy"),
        labels=np.load(place / "labels.npy"),
        classes=tuple(about["classes"]),
        notes=tuple(about["notes"]),
        unreadable={int(index): why for index, why in about["unreadable"].items()},
        digest=about["digest"],
    )
    return replace(images, **known)


def _mapped(path: Path) -> NDArray[np.uint8]:
    """Map an array for reading, under a shared lock that falls with the map: a map keeps its file open."""
    with path.open("rb") as file:
        lock_file(file, shared=True)
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        return np.memmap(file, dtype, "r", file.tell(), shape)
