"""Locks on files, which the kernel releases when their holder dies, however it dies.

    lock = Lock(folder / "run.lock")
    if not lock.take():
        print(lock.holder())     # process 4711 on ward-3 since 2026-11-21 14:02:09 UTC

    with path.open("rb") as file:
        lock_file(file, shared=True)     # until the file is closed, or the last map of it

The file stays behind and means nothing by itself: what counts is whether somebody has locked it. So a kill -9 leaves
nothing to remove. A lock belongs to the open file: a process that is started with its descriptor (`pass_fds`) holds it
too, and keeps it when the starter releases it.
"""

import errno
import fcntl
import json
import os
import platform
import time
from pathlib import Path
from typing import IO, Any

# Whoever only looks holds a lock for microseconds; `take` tries for this many seconds.
PATIENCE = 0.5
# What a file system answers that has no locks, such as some network mounts.
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


def lock_file(file: IO[Any], *, shared: bool, wait: bool = True) -> bool:
    """Lock an open file until it is closed, among others' shared locks or alone.

    False if another holds it and `wait` is off, and where the file system has no locks.
    """
    try:
        return _lock(file.fileno(), fcntl.LOCK_SH if shared else fcntl.LOCK_EX, wait)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        return False


class Lock:
    """An exclusive lock on one file, signed by its holder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    @property
    def descriptor(self) -> int:
        """Return the open file that carries the lock, to pass it to another process."""
        if self._descriptor is None:
            raise ValueError(f"{self.path} is not held here; take it first")
        return self._descriptor

    def take(self, patience: float = PATIENCE) -> bool:
        """Take the lock and sign with this process; False if another holds it."""
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        deadline = time.monotonic() + patience
        try:
            while not _lock(descriptor, fcntl.LOCK_EX, wait=False):
                if time.monotonic() >= deadline:
                    os.close(descriptor)
                    return False
                time.sleep(0.02)
        except OSError:  # a file system without locks
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        self.sign(os.getpid())
        return True

    def sign(self, process: int) -> None:
        """Write down which process holds the lock, for those who ask."""
        since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
        text = json.dumps({"process": process, "machine": platform.node(), "since": since})
        os.ftruncate(self.descriptor, 0)
        os.pwrite(self.descriptor, text.encode(), 0)

    def release(self) -> None:
        """Release the lock here; a process that got the descriptor still holds it."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def holder(self) -> str | None:
        """Return who holds the lock, in any process; None if nobody does, and where the file system has no locks."""
        try:
            descriptor = os.open(self.path, os.O_RDONLY)
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            if _lock(descriptor, fcntl.LOCK_SH, wait=False):
                return None
            return _name_of(os.pread(descriptor, 1000, 0))
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            return None
        finally:
            os.close(descriptor)


def _lock(descriptor: int, kind: int, wait: bool) -> bool:
    try:
        fcntl.flock(descriptor, kind if wait else kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _name_of(signature: bytes) -> str:
    try:
        facts = json.loads(signature)
        return f"process {facts['process']} on {facts['machine']} since {facts['since']}"
    except (ValueError, KeyError, TypeError):  # it has the lock and has not signed yet
        return "a process that is just starting"
