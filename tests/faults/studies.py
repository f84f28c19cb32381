"""A small study as a user starts it, from outside: its command, its processes, its results."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from alexnet_lab.locks import Lock
from alexnet_lab.records import RunFolder

CELLS, SEEDS, EPOCHS = 2, 2, 2
BASELINE = "width=0.0625,epochs=2,dropout=0.5,image_size=63,batch_size=24"
DATA = "synthetic:count=240,side=32,classes=3,difficulty=0.5"
WORDS = ("ablate", "--norm", "bn", "--baseline", BASELINE, "--seeds", "2", "--data", DATA, "--jobs", "2")
# What learning produced; how fast it went is another matter.
LEARNT = ("epoch", "step", "train_loss", "train_accuracy", "validation_loss", "validation_accuracy", "learning_rate")
PROGRAM = "from alexnet_ablations.cli import main; main()"
# Times that the same command may be given until the study is complete: more would mean that it makes no progress.
CALLS = 4
SECONDS = 300


class SmallStudy:
    """Four runs of two epochs in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.outputs = folder.with_name(folder.name + "-outputs")
        self.outputs.mkdir(parents=True)
        self.calls = 0
        self.started: list[subprocess.Popen[bytes]] = []

    def start(self, *words: str, largest_file: int | None = None) -> subprocess.Popen[bytes]:
        """Start the study's command, or another one; `largest_file` in bytes makes longer files fail to be written."""
        self.calls += 1
        program = PROGRAM
        if largest_file is not None:
            limit = f"resource.setrlimit(resource.RLIMIT_FSIZE, ({largest_file}, {largest_file}))"
            program = f"import resource; {limit}; {PROGRAM}"
        environment = {**os.environ, "ALEXNET_LAB_CACHE": str(self.outputs / "cache"), "OMP_NUM_THREADS": "1"}
        with (self.outputs / f"{self.calls}.txt").open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-c", program, *(words or (*WORDS, "--out", str(self.folder)))],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd=self.outputs,
            )
        self.started.append(process)
        return process

    def run(self, *words: str) -> tuple[int, str]:
        """Give a command and wait for it; return its status and what it printed."""
        process = self.start(*words)
        output = self.outputs / f"{self.calls}.txt"
        status = process.wait(timeout=SECONDS)
        return status, output.read_text(errors="replace")

    def run_folders(self) -> list[Path]:
        """Return the folders of the runs that have begun."""
        return sorted(path.parent for path in self.folder.glob("runs/*/*/recipe.json"))

    def runs_at_work(self) -> list[tuple[Path, int]]:
        """Return folder and process of every run whose lock is held."""
        found = []
        for folder in self.run_folders():
            holder = re.match(r"process (\d+) ", Lock(folder / "run.lock").holder() or "")
            if holder and self._is_ours(int(holder[1])):
                found.append((folder, int(holder[1])))
        return found

    def wait_for_a_run(self, process: subprocess.Popen[bytes]) -> list[tuple[Path, int]]:
        """Wait until a run is at work, or the command has ended."""
        deadline = time.monotonic() + SECONDS
        while process.poll() is None and time.monotonic() < deadline:
            at_work = self.runs_at_work()
            if at_work:
                return at_work
            time.sleep(0.02)
        return []

    def recover(self) -> None:
        """Give the same command until it ends well; each end must be one that a user understands."""
        self._wait_for_orphans()
        for _ in range(CALLS):
            status, output = self.run()
            if status == 0:
                return
            self._follow_advice(output)
        raise AssertionError(f"not complete after {CALLS} calls; the last said:\n{output[-2000:]}")

    def check(self, expected: dict[str, Any]) -> None:
        """Compare with an undisturbed study, and look for anything half-written."""
        for path in self.outputs.glob("*.txt"):
            text = path.read_text(errors="replace")
            assert "Traceback" not in text, f"a traceback reached the user:\n{text[-3000:]}"
        results = results_of(self.folder)
        assert results.keys() == expected.keys(), f"runs {sorted(results)} instead of {sorted(expected)}"
        for name, values in expected.items():
            assert results[name] == values, f"{name} has other numbers than undisturbed"
        with (self.folder / "results.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == CELLS * SEEDS, f"results.csv has {len(rows)} rows"
        half = [path for path in self.folder.rglob(".*") if re.fullmatch(r"\..+\.\d+", path.name)]
        half += [path for folder in self.run_folders() for path in RunFolder(folder).leftovers()]
        assert not half, f"left behind: {half}"
        damaged = {str(folder): RunFolder(folder).damages(weights=True) for folder in self.run_folders()}
        assert not any(damaged.values()), f"damaged: {damaged}"

    def remove(self) -> None:
        """End what is still running, and remove the study."""
        for process in self.started:
            if process.poll() is None:
                process.kill()
                process.wait()
        for _, pid in self.runs_at_work():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if os.path.ismount(self.folder):
            subprocess.run(["umount", "--lazy", str(self.folder)], check=True)  # noqa: S607
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.rmtree(self.outputs, ignore_errors=True)

    def _is_ours(self, pid: int) -> bool:
        """Return whether a process works in this study; a number that is used anew must not be signalled."""
        try:
            return str(self.folder) in "".join(str(path.readlink()) for path in Path(f"/proc/{pid}/fd").iterdir())
        except OSError:  # it has ended meanwhile
            return False

    def _wait_for_orphans(self) -> None:
        """Wait for runs whose coordinator was killed: they save and end."""
        deadline = time.monotonic() + SECONDS
        while self.runs_at_work():
            assert time.monotonic() < deadline, "a run went on without its coordinator"
            time.sleep(0.05)

    def _follow_advice(self, output: str) -> None:
        """Delete a study.toml that an error names, since the command writes it again; anything else is for the command.

        An error names it where it cannot be read, and where a change makes it that of another study.
        """
        declaration = self.folder / "study.toml"
        if re.search(rf"error: .*{re.escape(str(declaration))}", output.replace("\n", " ")):
            declaration.unlink(missing_ok=True)


def undisturbed_results(folder: Path) -> dict[str, Any]:
    """Make the study without a fault and return its results."""
    study = SmallStudy(folder)
    status, output = study.run()
    assert status == 0, output
    results = results_of(folder)
    assert len(results) == CELLS * SEEDS
    return results


def results_of(folder: Path) -> dict[str, Any]:
    """Return what every run learnt, by its place in the study: verdict, epochs, weights, and records, to the bit."""
    results = {}
    for path in sorted(folder.glob("runs/*/*")):
        records = RunFolder(path)
        verdict = records.verdict()
        if verdict is None:
            continue
        result = verdict["result"]
        results[path.relative_to(folder).as_posix()] = {
            "state": verdict["state"],
            "result": {name: result.get(name) for name in ("tested_epoch", "epochs", "steps", "validation", "test")},
            "epochs": [[row[name] for name in LEARNT] for row in records.metrics()],
            "weights": _weights(path / "checkpoints" / "best.safetensors"),
            "records": _arrays(path),
        }
    return json.loads(json.dumps(results))


def _weights(path: Path) -> dict[str, str]:
    return {name: value.tobytes().hex()[:4096] for name, value in safetensors.numpy.load_file(path).items()}


def _arrays(folder: Path) -> dict[str, str]:
    """Return every array of the instruments and predictions as bytes; what a clock measured is left out."""
    found = {}
    for path in sorted([*folder.glob("flow/*.npz"), *folder.glob("*.npz")]):
        with np.load(path) as arrays:
            for name in arrays:
                if not name.startswith("cost."):
                    found[f"{path.name}/{name}"] = arrays[name].tobytes().hex()[:4096]
    return found
