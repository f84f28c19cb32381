"""What the cache holds, and taking out of it what nobody uses.

An entry in use is one whose pixels some process has mapped, under a shared lock on them, or that is being made, under
a lock beside it (cache.py): an entry is removed only by who gets both for himself. Where a file system knows no locks,
nothing can be told and nothing is removed: empty the folder by hand there.
"""

import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

import numpy as np

from alexnet_lab.data.cache import cache_folder
from alexnet_lab.locks import lock_file

Kind = Literal["images", "download", "unfinished"]
SECONDS = {"h": 3600.0, "d": 86400.0, "w": 604800.0}


@dataclass(frozen=True)
class Entry:
    """One thing in the cache."""

    kind: Kind  # decoded images; an archive as published; what a build or a download that broke off has left
    path: Path
    source: str  # where its images come from
    bytes: int
    used: float  # seconds since 1970; of a download and of what broke off, when it was last written
    shape: tuple[int, ...] = ()  # N C T T of decoded images

    @property
    def locks(self) -> tuple[Path, ...]:
        """Return the files whose locks stand for the use of this entry: by who makes it, and by who reads it."""
        if self.path.parent.name == "images":
            made = self.path.with_name(self.path.name.lstrip(".").partition(".")[0] + ".lock")
        else:
            made = self.path.with_name(self.path.name.removesuffix(".part") + ".lock")
        read = {"images": (self.path / "pixels.npy",), "download": (self.path,), "unfinished": ()}
        return made, *read[self.kind]


def cache_entries() -> list[Entry]:
    """Return what the cache holds, the longest unused first."""
    images, downloads = cache_folder() / "images", cache_folder() / "downloads"
    found = [entry for path in _below(images) if path.is_dir() and (entry := _images_entry(path))]
    found += [_file_entry(path) for folder in _below(downloads) for path in _below(folder) if path.suffix != ".lock"]
    return sorted(found, key=lambda entry: entry.used)


def remove(entry: Entry) -> bool:
    """Remove an entry, or leave it and return False where a process uses it."""
    with ExitStack() as held:
        if not all(held.enter_context(_alone_with(path)) for path in entry.locks):
            return False
        # Renamed first: who looks for it meanwhile finds none of it rather than a half. The name is one that a later
        # build of the same entry clears, should this process be killed now.
        gone = entry.path.with_name(f".{entry.path.name.lstrip('.')}.{os.getpid()}")
        try:
            entry.path.rename(gone)
        except FileNotFoundError:
            return True  # another process removed it before
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
    try:
        status = path.stat()
        size = sum(file.stat().st_size for file in path.iterdir())
        if path.name.startswith("."):
            return Entry("unfinished", path, "a build that broke off, or is under way", size, status.st_mtime)
        about = json.loads((path / "about.json").read_text())
        shape = np.load(path / "pixels.npy", mmap_mode="r").shape
        return Entry("images", path, about["name"], size, (path / "about.json").stat().st_mtime, shape)
    except FileNotFoundError:  # removed as we looked, or a torn entry, which the next build of it replaces
        return None
    except (EOFError, ValueError):
        return Entry("unfinished", path, "an entry that cannot be read", size, status.st_mtime)


def _file_entry(path: Path) -> Entry:
    status = path.stat()
    kind: Kind = "unfinished" if path.suffix == ".part" else "download"
    return Entry(kind, path, path.name, status.st_size, status.st_mtime)


@contextmanager
def _alone_with(path: Path) -> Iterator[bool]:
    """Say whether no other process uses what that file stands for; while this lasts, none can begin to."""
    try:
        # For writing, though nothing is written: over NFS only such a file can be locked for oneself.
        file: IO[bytes] = path.open("ab" if path.suffix == ".lock" else "r+b")
    except FileNotFoundError:
        yield True  # removed before
        return
    with file:
        yield lock_file(file, shared=False, wait=False)
