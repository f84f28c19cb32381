"""The faults: each disturbs one study, while it runs or after it has ended."""

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tests.faults.studies import SECONDS, SmallStudy

Fault = Callable[[SmallStudy, random.Random], None]
FAULTS: dict[str, Fault] = {}


class UnavailableError(Exception):
    """This machine does not let the fault be made."""


def fault(name: str) -> Callable[[Fault], Fault]:
    """Enter a fault under its name."""

    def enter(function: Fault) -> Fault:
        FAULTS[name] = function
        return function

    return enter


def _begin(study: SmallStudy, draws: random.Random) -> tuple[subprocess.Popen[bytes], list[tuple[Path, int]]]:
    """Start the study and let it work for a while."""
    process = study.start()
    study.wait_for_a_run(process)
    time.sleep(draws.uniform(0, 3))
    return process, study.runs_at_work()


def _kill(pid: int, number: signal.Signals = signal.SIGKILL) -> None:
    with suppress(ProcessLookupError):  # it has ended meanwhile
        os.kill(pid, number)


# --- while it runs ----------------------------------------------------------------------------------------------------


@fault("kill -9 of the coordinator")
def kill_coordinator(study: SmallStudy, draws: random.Random) -> None:
    process, _ = _begin(study, draws)
    process.kill()
    process.wait()


@fault("kill -9 of the coordinator, and of its runs")
def kill_all(study: SmallStudy, draws: random.Random) -> None:
    process, at_work = _begin(study, draws)
    process.kill()
    for _, pid in at_work:
        _kill(pid)
    process.wait()


@fault("kill -9 of one run")
def kill_run(study: SmallStudy, draws: random.Random) -> None:
    process, at_work = _begin(study, draws)
    if at_work:
        _kill(draws.choice(at_work)[1])
    process.wait(timeout=SECONDS)


@fault("kill -9 of the coordinator, three times")
def kill_often(study: SmallStudy, draws: random.Random) -> None:
    for _ in range(3):
        kill_coordinator(study, draws)


@fault("SIGINT, SIGTERM or SIGHUP to the coordinator")
def interrupt(study: SmallStudy, draws: random.Random) -> None:
    process, _ = _begin(study, draws)
    _kill(process.pid, draws.choice([signal.SIGINT, signal.SIGTERM, signal.SIGHUP]))
    process.wait(timeout=SECONDS)


@fault("SIGSTOP of a run, and SIGCONT")
def stop_run(study: SmallStudy, draws: random.Random) -> None:
    process, at_work = _begin(study, draws)
    pids = [draws.choice(at_work)[1]] if at_work else []
    _pause(pids, draws)
    process.wait(timeout=SECONDS)


@fault("SIGSTOP of the coordinator, and SIGCONT")
def stop_coordinator(study: SmallStudy, draws: random.Random) -> None:
    process, _ = _begin(study, draws)
    _pause([process.pid], draws)
    process.wait(timeout=SECONDS)


def _pause(pids: list[int], draws: random.Random) -> None:
    for pid in pids:
        _kill(pid, signal.SIGSTOP)
    time.sleep(draws.uniform(0.5, 3))
    for pid in pids:
        _kill(pid, signal.SIGCONT)


@fault("a second coordinator")
def two_coordinators(study: SmallStudy, draws: random.Random) -> None:
    first, _ = _begin(study, draws)
    status, output = study.run()
    if first.poll() is None:  # the first still worked when the second had ended
        assert status == 2, f"the second coordinator ended with {status}:\n{output}"
        assert "in use by process" in output.replace("\n", " ")
    assert first.wait(timeout=SECONDS) == 0


@fault("the folder of a run removed while it works")
def remove_run(study: SmallStudy, draws: random.Random) -> None:
    process, at_work = _begin(study, draws)
    if at_work:
        shutil.rmtree(draws.choice(at_work)[0], ignore_errors=True)
    process.wait(timeout=SECONDS)


@fault("no file may grow beyond a limit (ulimit -f)")
def small_files(study: SmallStudy, draws: random.Random) -> None:
    process = study.start(largest_file=draws.choice([1, 4, 20, 100, 400]) * 1024)
    process.wait(timeout=SECONDS)


@fault("a full disk")
def full_disk(study: SmallStudy, draws: random.Random) -> None:
    study.folder.mkdir()
    size = draws.randint(66, 72)  # MiB; a run does not start with fewer than 64 free
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}m", "tmpfs", str(study.folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        raise UnavailableError("mounting a small disk needs root")
    (study.folder / "ballast").write_bytes(bytes((size - 65) * 2**20))
    process = study.start()
    study.wait_for_a_run(process)
    with suppress(OSError), (study.folder / "more").open("wb") as file:  # until the disk is full
        while True:
            file.write(bytes(2**16))
            file.flush()
    process.wait(timeout=SECONDS)
    (study.folder / "ballast").unlink()
    (study.folder / "more").unlink()


# --- to what it left --------------------------------------------------------------------------------------------------


def _halved(path: Path, _: random.Random) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _emptied(path: Path, _: random.Random) -> None:
    os.truncate(path, 0)


def _flipped(path: Path, draws: random.Random) -> None:
    content = bytearray(path.read_bytes())
    if content:
        content[draws.randrange(len(content))] ^= 1 << draws.randrange(8)
    path.write_bytes(content)


def _overwritten(path: Path, draws: random.Random) -> None:
    path.write_bytes(draws.randbytes(max(path.stat().st_size, 1)))


def _removed(path: Path, _: random.Random) -> None:
    path.unlink()


DAMAGES = {
    "cut in half": _halved,
    "emptied": _emptied,
    "with a bit flipped": _flipped,
    "overwritten": _overwritten,
    "removed": _removed,
}


def _damage(study: SmallStudy, draws: random.Random, harm: Callable[[Path, random.Random], None]) -> None:
    """Damage a file of each kind that the study holds, one after the other; `status` and `report` still answer."""
    kinds: dict[str, list[Path]] = {}
    for path in sorted(path for path in study.folder.rglob("*") if path.is_file() and path.stat().st_size):
        kinds.setdefault(path.name, []).append(path)
    for name in draws.sample(sorted(kinds), min(3, len(kinds))):
        harm(draws.choice(kinds[name]), draws)
    for command in ("status", "report"):
        status, output = study.run(command, str(study.folder))
        assert status in (0, 1, 2), f"{command} ended with {status}:\n{output}"


def _after_its_end(harm: Callable[[Path, random.Random], None]) -> Fault:
    def disturb(study: SmallStudy, draws: random.Random) -> None:
        status, output = study.run()
        assert status == 0, output
        _damage(study, draws, harm)

    return disturb


def _midway(harm: Callable[[Path, random.Random], None]) -> Fault:
    def disturb(study: SmallStudy, draws: random.Random) -> None:
        kill_all(study, draws)
        _damage(study, draws, harm)

    return disturb


for _name, _harm in DAMAGES.items():
    FAULTS[f"files of a finished study {_name}"] = _after_its_end(_harm)
    FAULTS[f"files of a killed study {_name}"] = _midway(_harm)


@fault("a run's folder removed after its end")
def remove_finished(study: SmallStudy, draws: random.Random) -> None:
    status, output = study.run()
    assert status == 0, output
    shutil.rmtree(draws.choice(study.run_folders()))
