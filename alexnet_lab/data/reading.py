"""Read files made by others in bounded time and memory: regular files only, and no more bytes than a stated limit."""

import errno
import io
import os
import stat
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

PIECE = 2**20
# Python inflates bzip2 and LZMA in one go, even to gigabytes, and deflate to as many bytes as are asked for.
BOUNDED_COMPRESSION = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


class Readable(Protocol):
    """What can be read."""

    def read(self, size: int = -1, /) -> bytes:
        """Return at most so many bytes; none at the end."""
        ...


def check_regular(path: Path, most: int) -> None:
    """Refuse a path that is no regular file (a device, pipe, socket or folder) or has more than so many bytes."""
    _check(str(path), path.stat(), most)


def read_regular(path: Path, most: int) -> bytes:
    """Return the bytes of a regular file with at most so many; the errors call it `it`."""
    _check("it", path.stat(), most)
    # O_NONBLOCK: should the path have become a pipe meanwhile, opening it must not wait for a writer.
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:  # noqa: PTH123  # a descriptor
        _check("it", os.fstat(file.fileno()), most)
        return read_whole(file, most)


def check_member(member: zipfile.ZipInfo) -> None:
    """Refuse a member of a .zip that cannot be inflated in pieces, or is encrypted."""
    if member.flag_bits & 1:
        raise ValueError(f"{member.filename} is encrypted; decrypt it first")
    if member.compress_type not in BOUNDED_COMPRESSION:
        raise ValueError(f"{member.filename} is compressed by another method than deflate; pack it again with that")


def is_of_content(error: OSError) -> bool:
    """Return whether the system refused to go where a damaged archive points: before its own beginning."""
    return error.errno == errno.EINVAL


def read_whole(file: Readable, most: int) -> bytes:
    """Return all that is left in a file, read in pieces; refuse more than so many bytes."""
    content = bytearray()
    while block := file.read(PIECE):
        content += block
        if len(content) > most:
            raise ValueError(f"it has more than {most:,} bytes, and no more are read")
    return bytes(content)


def _check(name: str, status: os.stat_result, most: int) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{name} is a {_kind(status.st_mode)}; only regular files are read")
    if status.st_size > most:
        raise ValueError(f"{name} has {status.st_size:,} bytes; at most {most:,} are read")


def _kind(mode: int) -> str:
    kinds = {stat.S_IFDIR: "folder", stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket"}
    return kinds.get(stat.S_IFMT(mode), "device")


class Limited(io.RawIOBase):
    """A readable stream that raises a ValueError once more than so many bytes have been read from it."""

    def __init__(self, source: Readable, most: int) -> None:
        self._source, self._most, self._left = source, most, most

    def readable(self) -> bool:
        """Return True."""
        return True

    def read(self, size: int = -1, /) -> bytes:
        """Return at most that many bytes, and at most PIECE; fewer do not mean the end."""
        content = self._source.read(PIECE if size < 0 else min(size, PIECE))
        self._left -= len(content)
        if self._left < 0:
            raise ValueError(f"inflated it has more than {self._most:,} bytes, and no more are read")
        return content


class Budget:
    """Bounds what several threads hold at once; an amount above the limit is admitted when nothing else is held."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._held = 0
        self._changed = threading.Condition()

    @contextmanager
    def hold(self, amount: int) -> Iterator[None]:
        """Wait until the amount fits, and hold it for the duration of the block."""
        with self._changed:
            self._changed.wait_for(lambda: not self._held or self._held + amount <= self.limit)
            self._held += amount
        try:
            yield
        finally:
            with self._changed:
                self._held -= amount
                self._changed.notify_all()
