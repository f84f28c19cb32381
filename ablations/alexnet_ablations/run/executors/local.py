"""Runs on this machine: each a process of its own, several side by side while cores, GPUs and memory allow.

Runs are forked from a process that has imported everything (forking.py), which saves each of them seconds. A run is
started by itself where forking is not safe, on GPUs and other systems than Linux; where ALEXNET_LAB_START=plain asks
for it; and once the forking process has died. Both ways end in the same numbers, to the last bit.

A process gets the lock of its folder from the start, and a pipe whose other end dies with the coordinator (see
alexnet_lab/training/process.py). It leads a process group, so that whatever it started ends with it, and Ctrl-C reaches
the coordinator alone, which then asks every run to save.
"""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from alexnet_ablations.declare.status import Sighting
from alexnet_ablations.declare.study import PlannedRun
from alexnet_ablations.run.attempt import Attempt
from alexnet_ablations.run.executors import Needs, Order, Refusal
from alexnet_ablations.run.executors.forking import UNSEEN, ForkedProcess, ForkServer, ServerLostError, environment_of
from alexnet_ablations.run.slots import Slot, find_slots, free_memory, memory_allows, resident_memory
from alexnet_lab.locks import Lock
from alexnet_lab.records import write_atomically
from alexnet_lab.training.process import last_line, run_command
from alexnet_lab.training.recipe import Recipe

# Seconds that a run has to save itself after it was asked to stop.
GRACE = 30.0
# Bytes that must be free on the disk for another run to start.
LEAST_DISK = 64 * 2**20
# The environment variable that says how runs are started, if its value is PLAIN.
HOW, PLAIN = "ALEXNET_LAB_START", "plain"


def is_forked(recipe: Recipe) -> bool:
    """Return whether runs of this recipe start from a process that has imported everything already."""
    return os.environ.get(HOW) != PLAIN and sys.platform == "linux" and recipe.device == "cpu"


class LocalAttempt(Attempt):
    """An attempt that is a process on this machine."""

    def __init__(
        self,
        run: PlannedRun,
        number: int,
        slot: Slot,
        lock: Lock,
        wake: threading.Event,
        server: ForkServer | None = None,
    ) -> None:
        super().__init__(run, number, slot.name)
        self.taken = slot
        self._wake = wake
        self._asked_at: float | None = None
        self._ended_at: float | None = None
        self._began = time.monotonic()
        try:
            self.process = _start_process(run, slot, lock, server)
            lock.sign(self.process.pid)
        except OSError as error:
            raise ValueError(
                f"{run.folder.path} cannot be written, or no process started there ({error.strerror}); correct that, "
                "and the same command continues"
            ) from None
        finally:
            lock.release()  # from here on the process holds it alone
        self.pid = self.process.pid
        # A thread waits for each process, so that its end is noticed at once and its slot is filled again.
        threading.Thread(target=self._wait_for_end, daemon=True).start()

    def look(self) -> bool:
        """Read progress, memory and seconds; say whether the process has ended."""
        has_ended = self.process.poll() is not None
        self.seconds = (self._ended_at or time.monotonic()) - self._began
        # The processes of a run take about the same.
        self.memory = max(self.memory, self.run.recipe.processes * resident_memory(self.process.pid))
        self.read_progress()
        return has_ended

    def ask_to_stop(self) -> None:
        """Ask the process to save and end; kill one that was asked longer than GRACE ago."""
        now = time.monotonic()
        if self._asked_at is None:
            self._asked_at = now
            self.process.terminate()
        elif now - self._asked_at > GRACE:
            self.kill()

    def kill(self) -> None:
        """End the process and whatever it started."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):  # all have ended by themselves; macOS says the latter
            return

    def how_it_died(self) -> str:
        """Say how a process without a verdict ended."""
        code = self.process.returncode
        if code is None or code == UNSEEN:
            return "its process ended together with the one that had started it, and left no verdict"
        if code == -signal.SIGKILL:
            return "its process was killed (SIGKILL), which is also what a system does when memory runs out"
        if code < 0:
            return f"its process was ended by {signal.Signals(-code).name}"
        last_words = last_line(self.run.folder.path / "output.txt")
        return f"its process ended with status {code} and no verdict" + (f": {last_words}" if last_words else "")

    def _wait_for_end(self) -> None:
        self.process.wait()
        self._ended_at = time.monotonic()
        self._wake.set()


@dataclass(frozen=True)
class Local:
    """This machine, as an engine."""

    outlives: ClassVar[bool] = False
    is_here: ClassVar[bool] = True

    def open(self, order: Order) -> "LocalExecutor":
        """Return an executor for one study."""
        needs = order.needs
        return LocalExecutor(needs, order.jobs, order.say)

    @staticmethod
    def sightings(_study: Path) -> Mapping[Path, Sighting]:
        """Return nothing: here the lock of a run's folder says whether it is at work."""
        return {}


class LocalExecutor:
    """Places runs on this machine: see Executor."""

    def __init__(self, needs: Needs, jobs: int | None, say: Callable[[str], None]) -> None:
        self.slots = find_slots(needs.threads, needs.gpus, jobs)
        if needs.gpus > max(len(self.slots.gpus), 1):
            raise ValueError(
                f"processes {needs.gpus} takes {needs.gpus} GPUs for each run, and {len(self.slots.gpus)} can be used "
                "here; take fewer processes, or another executor"
            )
        self.count = self.slots.count
        self.wake = threading.Event()
        self.largest = needs.memory  # bytes that a run of this study is known to have taken
        self.say = say
        self.active: list[LocalAttempt] = []
        self._server: ForkServer | None = None

    def submit(self, run: PlannedRun, number: int, is_done: Callable[[PlannedRun], bool]) -> LocalAttempt | Refusal:
        """Start a run in a free slot, if memory holds it and its folder is not in use."""
        slot = self.slots.free(attempt.taken for attempt in self.active)
        if slot is None or not self._memory_allows():
            return Refusal.FULL
        server = self._server_for(run)
        if server is not None and not server.is_ready:
            return Refusal.FULL
        lock = self._lock_folder(run)
        if lock is None:
            return Refusal.HELD
        if is_done(run):
            lock.release()
            return Refusal.DONE
        try:
            attempt = LocalAttempt(run, number, slot, lock, self.wake, server)
        except ServerLostError:  # the folder is locked as long as a run is at work there after all
            return Refusal.HELD
        self.active.append(attempt)
        return attempt

    def poll(self, attempt: LocalAttempt) -> bool:
        """Update an attempt; say whether it has ended."""
        return attempt.look()

    def stop(self, attempt: LocalAttempt) -> None:
        """Ask a run to save and end, or end it if it was asked too long ago."""
        attempt.ask_to_stop()

    def stop_all(self) -> None:
        """Let the runs in progress save, and end those that do not; a second interrupt ends all at once."""
        deadline = time.monotonic() + GRACE
        try:
            for attempt in self.active:
                attempt.ask_to_stop()
            while any(attempt.process.poll() is None for attempt in self.active) and time.monotonic() < deadline:
                time.sleep(0.05)
        finally:
            for attempt in self.active:
                if attempt.process.poll() is None:
                    attempt.kill()
                    attempt.process.wait()
                attempt.look()
            if self._server is not None:
                self._server.close()

    def close(self, attempt: LocalAttempt) -> None:
        """Close the pipe to a process that has ended, and end what it started and left."""
        attempt.kill()
        if attempt.process.stdin is not None:
            attempt.process.stdin.close()
        self.largest = max(self.largest, attempt.memory)
        self.active.remove(attempt)

    def write_verdict(self, attempt: LocalAttempt) -> None:
        """Write the verdict in the folder of a dead run, whose lock it no longer holds."""
        lock = Lock(attempt.run.folder.lock)
        try:
            if lock.take():
                attempt.run.folder.end("timeout" if attempt.is_over_time else "lost", attempt.why)
        finally:
            lock.release()

    def _server_for(self, run: PlannedRun) -> ForkServer | None:
        """Return the process that is to fork this run; None for a run that is started by itself."""
        recipe = run.recipe
        if not is_forked(recipe) or command_of(run.folder.path) != run_command(run.folder.path):
            return None
        if self._server is None:
            self._server = ForkServer(recipe.threads, self.wake.set)
        if self._server.has_ended:
            self.say("the process that forks runs has died; each run is started by itself, some seconds slower")
            return None
        return self._server if self._server.threads == recipe.threads else None

    def _lock_folder(self, run: PlannedRun) -> Lock | None:
        folder = run.folder.path
        lock = Lock(run.folder.lock)
        try:
            self._require_disk(folder)
            folder.mkdir(parents=True, exist_ok=True)
            if lock.take(patience=0.0):
                return lock
        except OSError as error:
            raise ValueError(
                f"{folder} cannot be written ({error.strerror}); correct that, and the same command continues"
            ) from None
        holder = lock.holder()
        if holder:
            self.say(f"{run.cell.name} seed {run.seed} is still in use by {holder}; waiting for it to end")
        return None

    def _memory_allows(self) -> bool:
        taken = [attempt.memory for attempt in self.active]
        if memory_allows(taken, self.largest, free_memory()):
            return True
        need = max(self.largest, *taken) / 2**30
        self.say(f"fewer than {self.count} side by side: a run takes about {need:.1f} GiB of memory")
        return False

    def _require_disk(self, folder: Path) -> None:
        existing = next(path for path in (folder, *folder.parents) if path.exists())
        free = shutil.disk_usage(existing).free
        if free < LEAST_DISK:
            raise ValueError(
                f"no room for another run: {free / 2**20:.0f} MiB are free on the disk of {existing}, and "
                f"{LEAST_DISK / 2**20:.0f} must be; free some, and the same command continues"
            )


def command_of(folder: Path) -> list[str]:
    """Return the command that makes the run of a folder."""
    return run_command(folder)


def _start_process(
    run: PlannedRun, slot: Slot, lock: Lock, server: ForkServer | None
) -> "subprocess.Popen[bytes] | ForkedProcess":
    folder = run.folder.path
    # The verdict of an earlier attempt must not pass for this one's, should this one die before it begins.
    (folder / "state.json").unlink(missing_ok=True)
    run.folder.forget_progress()
    write_atomically(folder / "recipe.json", run.recipe.to_json())
    with (folder / "output.txt").open("wb") as output:
        if server is not None:
            return server.start(folder, output.fileno(), lock.descriptor)
        return subprocess.Popen(  # noqa: S603  # our own interpreter, our own module, a path we made
            command_of(folder),
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**environment_of(run.recipe.threads), **slot.environment},
            pass_fds=(lock.descriptor,),
            start_new_session=True,
        )
