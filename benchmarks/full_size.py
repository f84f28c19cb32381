"""Norms, activations and dropout at full size: CIFAR-10 at 227 pixels, full width, bf16, in calls of some minutes each.

    benchmarks/on_gpu.sh full_size                        one call of nine minutes; the same command again goes on
    python benchmarks/full_size.py OUT --data cifar10:cifar-10-python.tar.gz --seconds 520
    python benchmarks/full_size.py OUT --device cpu --data digits --baseline width=0.0625,image_size=67,precision=fp32

Three studies, one after another, each with its report at the end: norms (LRN, BN, none), activations (ReLU, LeakyReLU,
PReLU), dropout (0.5, 0.3, 0). When its time is over a call saves and ends, and the same command goes on, on this
machine or on another that has been given OUT: a call keeps its studies there in a few files below 16 MB.

    OUT/norms.json                what the pack consists of, and how many of its runs have ended
    OUT/norms-7.00, norms-7.01    the study folder: cat OUT/norms-7.* | tar xz

A run that has ended is packed without its weights. One that was cut off is packed with its checkpoints if they fit;
at full size they do not, and elsewhere it begins again. The same machine goes on from them. A pack of a complete study
need not be carried along: its norms.json alone says that nothing is left to do.

Give --data as a path that is the same on every machine: it is part of what identifies a study.
"""

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alexnet_ablations.declare.status import found_runs
from alexnet_ablations.declare.study import read_study
from alexnet_lab.records import RunFolder, write_atomically

# What each study varies; the first level of each is the published one, which the others are compared with.
STUDIES = {
    "norms": ("--norm", "bn,none"),
    "activations": ("--act", "leaky:0.1,prelu"),
    "dropout": ("--dropout", "0.3,0"),
}
# Everything else is the laptop recipe, as in ablations/results.
FULL_SIZE = {"width": "1", "image_size": "227", "batch_size": "128", "precision": "bf16"}
PART = 15 * 10**6  # bytes of a file of a pack
MOST = 60 * 10**6  # bytes of a pack
SAVING = 30.0  # seconds before the end of a call, in which a run saves and the pack is written
BETWEEN_LOOKS = 0.5  # seconds
MARK = ".generation"  # the file in a study folder that says which pack is the same
# Pythons before 3.11.4 know of no filter; a pack is our own, and its digest was checked.
SAFELY: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}


@dataclass(frozen=True)
class Asked:
    """What the command line asks for."""

    out: Path
    work: Path
    data: str
    seeds: int
    epochs: int
    device: str
    threads: int
    baseline: str
    seconds: float
    most: int


def command_of(name: str, arguments: Asked) -> list[str]:
    """Return the command that makes a study, or what is missing of it."""
    values = {**FULL_SIZE, **dict(pair.split("=", 1) for pair in arguments.baseline.split(",") if pair)}
    lines = "import sys; from alexnet_ablations.cli import main; sys.exit(main())"
    words = ["--data", arguments.data, "--seeds", arguments.seeds, "--epochs", arguments.epochs]
    words += ["--device", arguments.device]
    words += ["--threads", arguments.threads, "--out", arguments.work / name]
    words += ["--baseline", ",".join(f"{field}={value}" for field, value in values.items())]
    return [sys.executable, "-c", lines, "ablate", *STUDIES[name], *map(str, words)]


def index_of(out: Path, name: str) -> dict[str, Any]:
    """Read what a pack consists of; where there is none, an empty one."""
    path = out / f"{name}.json"
    if not path.exists():
        return {"generation": 0, "complete": False, "parts": {}}
    try:
        index: dict[str, Any] = json.loads(path.read_text())
    except ValueError:
        raise ValueError(f"{path} is damaged; take the one from before, with the files that it names") from None
    return index


def unpack(out: Path, name: str, folder: Path) -> None:
    """Make the study folder from its pack, if there is a pack and no folder."""
    index = index_of(out, name)
    parts, mark = index["parts"], folder / MARK
    if folder.exists():
        if index["generation"] > (int(mark.read_text()) if mark.exists() else 0):
            raise ValueError(f"{out / name}.json is newer than {folder}; remove that folder, or take another --work")
        return
    if not parts:
        return
    for part, digest in parts.items():
        path = out / part
        if not path.exists() or hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            raise ValueError(
                f"{path} is missing or damaged; bring it again, or remove {out / name}.json to begin again"
            )
    archive_path = folder.with_name(f".{folder.name}.tar")
    folder.mkdir(parents=True)  # a call that was cut off before its first run packs nothing
    try:
        archive_path.write_bytes(b"".join((out / part).read_bytes() for part in parts))
        with tarfile.open(archive_path) as archive:
            archive.extractall(folder, **SAFELY)  # noqa: S202  # ours: see SAFELY
        mark.write_text(str(index["generation"]))
    finally:
        archive_path.unlink(missing_ok=True)


def pack(folder: Path, out: Path, name: str, *, is_complete: bool, at_rest: bool, most: int = MOST) -> None:
    """Write the study folder as a new pack, and remove the one before it; a kill at any moment leaves one of the two.

    While runs are in progress only those that have ended are packed.
    """
    before = index_of(out, name)
    generation = before["generation"] + 1
    out.mkdir(parents=True, exist_ok=True)
    archive_path = out / f".{name}.tar"
    with tarfile.open(archive_path, "w:gz", compresslevel=6) as archive:
        for path in _packed(folder, at_rest, most):
            archive.add(path, path.relative_to(folder), recursive=False)
    parts = {}
    with archive_path.open("rb") as file:
        while block := file.read(PART):
            part = f"{name}-{generation}.{len(parts):02}"
            write_atomically(out / part, block)
            parts[part] = hashlib.sha256(block).hexdigest()
    size = archive_path.stat().st_size
    archive_path.unlink()
    ended, planned = progress_of(folder)
    facts = {"generation": generation, "complete": is_complete, "ended": ended, "planned": planned, "parts": parts}
    write_atomically(out / f"{name}.json", json.dumps(facts, indent=2))
    if folder.exists():
        (folder / MARK).write_text(str(generation))
    for part in before["parts"]:
        (out / part).unlink(missing_ok=True)
    if size > most:
        print(f"{name}: its pack has {size / 1e6:.0f} MB, more than {most / 1e6:.0f}; take fewer seeds or epochs")


def _packed(folder: Path, at_rest: bool, most: int) -> Iterator[Path]:
    """Yield the files of a pack: of the study, of runs that have ended, and of others with checkpoints that fit."""
    runs = {run.path: run for _, _, run in found_runs(folder)}
    room = most - sum(path.stat().st_size for run in runs.values() if _has_ended(run) for path in _light(run.path))
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and _is_kept(path)):
        # A report may be in the writing while runs are in progress.
        if not any(parent in runs for parent in path.parents) and (at_rest or path.name == "study.toml"):
            yield path
    for run in runs.values():
        files = [path for path in run.path.rglob("*") if path.is_file() and _is_kept(path)]
        if _has_ended(run):
            yield from sorted(_light(run.path))
        elif at_rest and (needed := sum(path.stat().st_size for path in files)) <= room:
            room -= needed
            yield from sorted(files)


def _light(run: Path) -> list[Path]:
    """Return the files of a run without weights and checkpoints."""
    files = (path for path in run.rglob("*") if path.is_file() and _is_kept(path))
    return [path for path in files if path.parent != run / "checkpoints"]


def _is_kept(path: Path) -> bool:
    return not path.name.startswith(".") and path.suffix != ".lock" and path.name != "progress.json"


def _has_ended(run: RunFolder) -> bool:
    try:
        return run.verdict() is not None
    except ValueError:  # damaged: it is made again
        return False


def progress_of(folder: Path) -> tuple[int, int]:
    """Return how many runs of a study have ended, and how many it has."""
    path = folder / "study.toml"
    if not path.exists():
        return 0, 0
    runs = read_study(path, folder).runs()
    return sum(run.is_done for run in runs), len(runs)


class Stop:
    """When a call is to end: at its time, or at once if it is told to."""

    def __init__(self, seconds: float) -> None:
        self.at = time.monotonic() + seconds
        self.told = threading.Event()

    def __call__(self, *_signal: object) -> None:
        """Take a signal."""
        self.told.set()

    @property
    def is_due(self) -> bool:
        """Return whether no more work is to be begun."""
        return self.told.is_set() or time.monotonic() > self.at


def make(name: str, arguments: Asked, stop: Stop, command: Callable[[str, Asked], list[str]] = command_of) -> int:
    """Work on a study until it is complete or the call is to end; return its status, 130 if it was stopped."""
    folder = arguments.work / name
    unpack(arguments.out, name, folder)
    packed = 0
    # In a session of its own, so that Ctrl-C reaches it once: a second one would end its runs unsaved.
    process = subprocess.Popen(command(name, arguments), start_new_session=True)
    asked_to_stop = 0.0
    while process.poll() is None:
        time.sleep(BETWEEN_LOOKS)
        if stop.is_due and not asked_to_stop:
            process.send_signal(signal.SIGINT)
            asked_to_stop = time.monotonic()
        elif asked_to_stop and time.monotonic() - asked_to_stop > SAVING:
            process.kill()
        ended = len(list(folder.glob("runs/*/seed-*/state.json")))
        if ended > packed and not asked_to_stop:
            pack(folder, arguments.out, name, is_complete=False, at_rest=False, most=arguments.most)
            packed = ended
    ended, planned = progress_of(folder)
    is_complete = process.returncode == 0 and ended == planned > 0
    pack(folder, arguments.out, name, is_complete=is_complete, at_rest=True, most=arguments.most)
    print(f"{name}: {ended} of {planned} runs have ended")
    if asked_to_stop:
        return 130
    return process.returncode or int(not is_complete)


def work(arguments: Asked, stop: Stop, command: Callable[[str, Asked], list[str]] = command_of) -> int:
    """Work on one study after another until all are complete or the call is to end."""
    for name in STUDIES:
        if index_of(arguments.out, name)["complete"]:
            print(f"{name}: complete")
            continue
        if stop.is_due:
            break
        status = make(name, arguments, stop, command)
        if status == 130:
            break
        if status:
            print(f"{name}: failed (status {status}); what it says stands above, and the same command tries again")
            return 1
    else:
        print("all studies are complete")
        return 0
    print("the time of this call is over; the same command goes on")
    return 0


def main() -> int:
    """Work for so many seconds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder of the packs")
    parser.add_argument(
        "--work", type=Path, default=Path("runs/full_size"), help="where the study folders lie unpacked"
    )
    parser.add_argument("--data", default="cifar10", help="as alexnet-lab takes it: cifar10:COPY, a folder, a .zip")
    parser.add_argument("--seeds", type=int, default=6, help="of each cell")
    parser.add_argument("--epochs", type=int, default=10, help="of each run")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--threads", type=int, default=4, help="of each run; the same on every machine")
    parser.add_argument("--baseline", default="", help="other values for all cells: width=0.5,batch_size=64")
    parser.add_argument("--seconds", type=float, default=520.0, help="of this call")
    parser.add_argument("--most", type=float, default=MOST / 1e6, help="MB of a pack")
    options = vars(parser.parse_args())
    arguments = Asked(**{**options, "most": int(options["most"] * 1e6)})
    stop = Stop(max(arguments.seconds - SAVING, arguments.seconds / 2))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    try:
        return work(arguments, stop)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    sys.exit(main())
