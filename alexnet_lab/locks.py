"""One writer at a time: a lock on a file that the kernel lets go of when its holder dies, however it dies.

    lock = Lock(folder / "run.lock")
    if not lock.take():
        print(lock.holder())     # process 4711 on ward-3 since 2026-11-21 14:02:09 UTC

The file stays behind and means nothing by itself: what counts is whether somebody holds it, and that is for the kernel
to know. So a kill -9 leaves no lock that a person would have to remove. The lock belongs to the open file: a process
that is started with its descriptor (`pass_fds`) holds it too, and keeps it when the starter lets go.
"""

import fcntl
import json
import os
import platform
import time
from pathlib import Path

# Somebody who only looks holds a lock for microseconds; one who wants it tries for this long.
PATIENCE = 0.5


class Lock:
    """A lock on one file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    @property
    def descriptor(self) -> int:
        """Return the open file that carries the lock, to hand it to another process."""
        if self._descriptor is None:
            raise ValueError(f"{self.path} is not held here; take it first")
        return self._descriptor

    def take(self, patience: float = PATIENCE) -> bool:
        """Take the lock and sign with this process; False if another holds it."""
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        deadline = time.monotonic() + patience
        while not _try(descriptor, fcntl.LOCK_EX):
            if time.monotonic() >= deadline:
                os.close(descriptor)
                return False
            time.sleep(0.02)
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
        """Let go; a process that got the descriptor goes on holding it."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def holder(self) -> str | None:
        """Say who holds the lock, anywhere; None if nobody does."""
        try:
            descriptor = os.open(self.path, os.O_RDONLY)
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            if _try(descriptor, fcntl.LOCK_SH):
                return None
            return _name_of(os.pread(descriptor, 1000, 0))
        finally:
            os.close(descriptor)


def _try(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _name_of(signature: bytes) -> str:
    try:
        facts = json.loads(signature)
        return f"process {facts['process']} on {facts['machine']} since {facts['since']}"
    except (ValueError, KeyError, TypeError):  # it has taken the lock and not signed yet
        return "a process that is just starting"
