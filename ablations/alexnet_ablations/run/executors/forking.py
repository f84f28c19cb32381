"""Runs that start from a process which has imported everything already: the coordinator's end of it.

    server = ForkServer(threads=1, changed=wake.set)
    if server.is_ready:
        process = server.start(folder, output, lock)     # as subprocess.Popen would give it

alexnet_lab/training/forks.py is the other end, and says what holds of a forked run. The standard library's
multiprocessing has a fork server too, one for the whole interpreter: a notebook may use it for itself, its environment
is the notebook's, and its children import the notebook's main module again.
"""

import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from alexnet_lab.training.process import child_environment, python_command

# The code of a run that ended when nobody was there to see how.
UNSEEN = 256
# Seconds between looks at a process of which nobody would tell the end.
LOOK = 0.1
MOST_BYTES = 65_536  # of a message


class ServerLostError(Exception):
    """The server died before it said that it had started the run; it may have."""


def server_command() -> list[str]:
    """Return the command of the process that forks runs."""
    return python_command("alexnet_lab.training.forks")


class ForkedProcess:
    """A forked run, with those attributes and methods of subprocess.Popen that an attempt uses."""

    def __init__(self, stdin: int) -> None:
        self.pid = 0
        self.returncode: int | None = None
        self.stdin = os.fdopen(stdin, "wb")
        self._has_ended = threading.Event()

    def poll(self) -> int | None:
        """Return the exit code, or None while the process runs."""
        return self.returncode

    def wait(self) -> int | None:
        """Wait for the end of the process and return its exit code."""
        self._has_ended.wait()
        return self.returncode

    def terminate(self) -> None:
        """Ask the process to end."""
        if self.returncode is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)

    def end(self, code: int) -> None:
        """Take the exit code of a process that has ended."""
        self.returncode = code
        self._has_ended.set()


class ForkServer:
    """The process that forks runs of one number of threads; `changed` is called when it is ready, and at its end."""

    def __init__(self, threads: int, changed: Callable[[], None]) -> None:
        self.threads = threads
        self.is_ready = self.has_ended = False
        self._changed = changed
        self._running: dict[int, ForkedProcess] = {}
        self._starting: ForkedProcess | None = None
        self._why = ""
        self._answered = threading.Event()
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603  # our own interpreter, our own module
                server_command(),
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=environment_of(threads),
                start_new_session=True,  # Ctrl-C reaches the coordinator alone
            )
        threading.Thread(target=self._listen, daemon=True).start()

    def start(self, folder: Path, output: int, lock: int) -> ForkedProcess:
        """Fork the run of a folder, which gets the open files of its output and its lock.

        OSError says why no process could be made, ServerLostError that nobody knows.
        """
        theirs, ours = os.pipe()
        process = ForkedProcess(ours)
        self._starting, self._why = process, ""
        self._answered.clear()
        try:
            self._ask(folder, [theirs, output, lock])
            self._await_answer(process)
        except BaseException:
            process.stdin.close()  # should there be a run after all, it ends
            raise
        finally:
            os.close(theirs)
            self._starting = None
        return process

    def _ask(self, folder: Path, files: list[int]) -> None:
        try:
            socket.send_fds(self._socket, [json.dumps({"folder": str(folder)}).encode()], files)
        except OSError:
            raise ServerLostError from None

    def _await_answer(self, process: ForkedProcess) -> None:
        while not (self._answered.wait(LOOK) or self.has_ended):
            pass
        if not process.pid:
            raise OSError(None, self._why) if self._why else ServerLostError

    def close(self) -> None:
        """End the server; runs go on."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._process.kill()
        self._process.wait()

    def _listen(self) -> None:
        with self._socket:
            while not self.has_ended:
                try:
                    message = self._socket.recv(MOST_BYTES)
                except OSError:  # a connection that was reset
                    message = b""
                if message:
                    self._hear(json.loads(message))
                else:
                    self.is_ready, self.has_ended = False, True
        self._answered.set()
        self._changed()
        self._process.wait()
        while self._running:
            for pid in [pid for pid in self._running if not _is_alive(pid)]:
                self._running.pop(pid).end(UNSEEN)
            time.sleep(LOOK)

    def _hear(self, message: dict[str, Any]) -> None:
        if "ready" in message:
            self.is_ready = True
            self._changed()
        elif "ended" in message:
            self._running.pop(message["ended"]).end(message["code"])
        else:
            if "started" in message and self._starting is not None:
                self._starting.pid = message["started"]
                self._running[message["started"]] = self._starting
            self._why = message.get("failed", "")
            self._answered.set()


def environment_of(threads: int) -> dict[str, str]:
    """Return the environment of a run: libraries read the number of threads when they are loaded."""
    return {**child_environment(), "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}


def _is_alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False
