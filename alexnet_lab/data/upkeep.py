"""List and check what the cache holds, and remove what no process uses.

An entry is in use while a process has its pixels mapped, under a shared lock on them, or builds it, under a lock next
to it (cache.py). It is removed only with both locks held exclusively. On a file system without locks nothing is
removed: empty the folder by hand there.
"""

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

import numpy as np

from alexnet_lab.data.cache import DamagedEntryError, about, cache_folder, check_entry, images_folder
from alexnet_lab.data.download import md5_of
from alexnet_lab.locks import lock_file

Kind = Literal["images", "download", "unfinished", "unreadable"]
SECONDS = {"h": 3600.0, "d": 86400.0, "w": 604800.0}


@dataclass(frozen=True)
class Entry:
    """An entry of the cache."""

    kind: Kind  # decoded images; an archive as published; left by a build or download that broke off; damaged or older
    path: Path
    source: str  # where its images come from
    bytes: int
    used: float  # last use in seconds since 1970; last change, unless these are decoded images
    shape: tuple[int, ...] = ()  # N C T T of decoded images

    @property
    def locks(self) -> tuple[Path, ...]:
        """Return the files whose locks are held by a process that builds or reads this entry."""
        if self.path.parent == images_folder():
            built = self.path.with_name(self.path.name.lstrip(".").partition(".")[0] + ".lock")
        else:
            built = self.path.with_name(self.path.name.removesuffix(".part") + ".lock")
        pixels = (self.path / "pixels.npy",)
        read = {"images": pixels, "download": (self.path,), "unfinished": (), "unreadable": pixels}
        return built, *read[self.kind]


def cache_entries() -> list[Entry]:
    """Return what the cache holds, the longest unused first."""
    images, downloads = images_folder(), cache_folder() / "downloads"
    entries = [entry for path in _below(images) if path.is_dir() and (entry := _images_entry(path))]
    entries += [_file_entry(path) for folder in _below(downloads) for path in _below(folder) if path.suffix != ".lock"]
    return sorted(entries, key=lambda entry: entry.used)


def damage(entry: Entry) -> str:
    """Read all of an entry and return how it differs from what was written or published; empty if it does not."""
    if entry.kind == "download" and not md5_of(entry.path).startswith(entry.path.parent.name):
        return f"{entry.path} does not have the MD5 that its authors give"
    if entry.kind in ("images", "unreadable"):
        try:
            check_entry(entry.path)
        except DamagedEntryError as error:
            return str(error)
        except FileNotFoundError:
            return f"{entry.path} has no about.json" if entry.path.exists() else ""  # or was removed meanwhile
    return ""


def remove(entry: Entry) -> bool:
    """Remove an entry, or leave it and return False where a process uses it."""
    with ExitStack() as held:
        if not all(held.enter_context(_alone_with(path)) for path in entry.locks):
            return False
        # Renamed first, so that no process finds half of it. A later build of the same entry removes this name, should
        # this process be killed now.
        gone = entry.path.with_name(f".{entry.path.name.lstrip('.')}.{os.getpid()}")
        try:
            entry.path.rename(gone)
        except FileNotFoundError:
            return True  # another process removed it
        if gone.is_dir():
            shutil.rmtree(gone)
        else:
            gone.unlink()
    return True


def age_of(text: str) -> float:
    """Read `30d`, `12h` or `2w` as seconds."""
    number, unit = text[:-1], text[-1:]
    if unit not in SECONDS or not number.isdecimal():
        raise ValueError(f"an age is a whole number of hours, days or weeks, such as 12h, 30d or 2w; got {text!r}")
    return int(number) * SECONDS[unit]


def unused_for(seconds: float, entries: list[Entry]) -> list[Entry]:
    """Return the entries whose last use is at least that long ago."""
    now = time.time()
    return [entry for entry in entries if now - entry.used >= seconds]


def _below(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _images_entry(path: Path) -> Entry | None:
    """Return what a folder of decoded images is; None if it was removed meanwhile."""
    try:
        status = path.stat()
        size = sum(file.stat().st_size for file in path.iterdir())
    except FileNotFoundError:
        return None
    if path.name.startswith("."):
        return Entry("unfinished", path, "a build that broke off, or is under way", size, status.st_mtime)
    try:
        content = about(path)
        shape = np.load(path / "pixels.npy", mmap_mode="r").shape
        return Entry("images", path, content["name"], size, (path / "about.json").stat().st_mtime, shape)
    except (FileNotFoundError, EOFError, ValueError):
        if not path.exists():
            return None
        return Entry("unreadable", path, "damaged, or of an earlier version", size, status.st_mtime)


def _file_entry(path: Path) -> Entry:
    status = path.stat()
    kind: Kind = "unfinished" if path.suffix == ".part" else "download"
    return Entry(kind, path, path.name, status.st_size, status.st_mtime)


@contextmanager
def _alone_with(path: Path) -> Iterator[bool]:
    """Hold an exclusive lock on a file, and give whether that was possible: whether no other process uses it."""
    try:
        # Open for writing, though nothing is written: NFS gives an exclusive lock only on such a file.
        file: IO[bytes] = path.open("ab" if path.suffix == ".lock" else "r+b")
    except FileNotFoundError:
        yield True  # another process removed it
        return
    with file:
        yield lock_file(file, shared=False, wait=False)
