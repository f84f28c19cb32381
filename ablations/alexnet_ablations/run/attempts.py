"""One attempt at a run: a process of its own, in a slot, watched until it ends.

The process gets its folder's lock from the start, and a pipe whose other end dies with the coordinator (see
alexnet_lab/training/process.py). It leads a process group, so that whatever it started ends with it, and Ctrl-C reaches
the coordinator alone, which then asks every run to save.
"""

import os
import signal
import subprocess
import threading
import time
from pathlib import Path

from alexnet_ablations.declare.status import share_done
from alexnet_ablations.declare.study import PlannedRun
from alexnet_ablations.run.slots import Slot, resident_memory
from alexnet_lab.locks import Lock
from alexnet_lab.records import write_atomically
from alexnet_lab.training.process import child_environment, python_command

# Seconds that a run has to save itself after it was asked to stop.
GRACE = 30.0


class Attempt:
    """A run in progress, and after that what became of it."""

    def __init__(self, run: PlannedRun, number: int, slot: Slot, lock: Lock, wake: threading.Event) -> None:
        self.run, self.number, self.slot = run, number, slot
        self.epochs = 0
        self.share = 0.0
        self.accuracy: float | None = None
        self.memory = 0
        self.state, self.why = "running", ""
        self.is_over_time = False
        self._asked_at: float | None = None
        self._ended_at: float | None = None
        self._read_until = -1
        self.began = time.monotonic()
        self.seconds = 0.0
        try:
            self.process = _start(run, slot, lock)
            lock.sign(self.process.pid)
        except OSError as error:
            raise ValueError(
                f"{run.folder.path} cannot be written, or no process started there ({error.strerror}); mend that, "
                "and the same command goes on"
            ) from None
        finally:
            lock.release()  # from here on the process holds it alone
        # Somebody waits for each process, so that its end is noticed at once and its slot never stands empty.
        threading.Thread(target=self._wait_for_end, args=(wake,), daemon=True).start()

    @property
    def name(self) -> str:
        """Name the run as people see it."""
        return f"{self.run.cell.name} seed {self.run.seed}"

    def look(self) -> bool:
        """Read how far the run is; say whether there is news."""
        before = (self.epochs, self.share)
        self.seconds = (self._ended_at or time.monotonic()) - self.began
        self.memory = max(self.memory, resident_memory(self.process.pid))
        metrics = self.run.folder.path / "metrics.jsonl"
        size = metrics.stat().st_size if metrics.exists() else 0
        if size != self._read_until:
            rows = list(self.run.folder.metrics())
            self._read_until, self.epochs = size, len(rows)
            self.accuracy = rows[-1].get("validation_accuracy") if rows else None
        self.share = share_done(self.run.folder.progress() or {}, self.epochs, self.run.recipe.epochs)
        return before != (self.epochs, self.share)

    def ask_to_stop(self) -> None:
        """Ask the run to save and end; one that does not is ended."""
        now = time.monotonic()
        if self._asked_at is None:
            self._asked_at = now
            self.process.terminate()
        elif now - self._asked_at > GRACE:
            self.kill()

    def kill(self) -> None:
        """End the run and whatever it started."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):  # all have ended by themselves; macOS says the latter
            return

    def close(self) -> None:
        """Let go of the pipe to a process that has ended."""
        if self.process.stdin is not None:
            self.process.stdin.close()

    def how_it_died(self) -> str:
        """Say how a process without a verdict ended."""
        code = self.process.returncode
        if code == -signal.SIGKILL:
            return "its process was killed (SIGKILL), which is also what a system does when memory runs out"
        if code < 0:
            return f"its process was ended by {signal.Signals(-code).name}"
        said = _last_line(self.run.folder.path / "output.txt")
        return f"its process ended with status {code} and no verdict" + (f": {said}" if said else "")

    def _wait_for_end(self, wake: threading.Event) -> None:
        self.process.wait()
        self._ended_at = time.monotonic()
        wake.set()


def command_of(folder: Path) -> list[str]:
    """Return the command that makes the run of a folder."""
    return python_command("alexnet_lab.training.run", "--coordinated", str(folder))


def _start(run: PlannedRun, slot: Slot, lock: Lock) -> subprocess.Popen[bytes]:
    folder = run.folder.path
    # The verdict of an earlier attempt must not pass for this one's, should this one die before it begins.
    (folder / "state.json").unlink(missing_ok=True)
    run.folder.forget_progress()
    write_atomically(folder / "recipe.json", run.recipe.to_json())
    threads = str(run.recipe.threads)
    environment = {**child_environment(), "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, **slot.environment}
    with (folder / "output.txt").open("wb") as output:
        return subprocess.Popen(  # noqa: S603  # our own interpreter, our own module, a path we made
            command_of(folder),
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            pass_fds=(lock.descriptor,),
            start_new_session=True,
        )


def _last_line(path: Path) -> str:
    try:
        lines = path.read_text(errors="replace").strip().splitlines()
    except OSError:
        return ""
    return lines[-1][:300] if lines else ""
