"""kill -9 of coordinators and runs at any moment: the same call goes on, and the numbers are the same to the bit."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from alexnet_ablations.declare.design import Factor
from alexnet_ablations.declare.history import read_history
from alexnet_ablations.declare.status import statuses
from alexnet_ablations.declare.study import Study
from alexnet_lab.training.recipe import Recipe

START = Recipe(width=1 / 16, epochs=4, init="he", dropout=0.5)
# Epochs so short that a study ends on a slow machine too, and so many that there is something to disturb on a fast one.
SMALL = replace(START, data="synthetic:classes=3,side=16,count=107", batch_size=16, epochs=24)
FACTORS = (Factor("norm", ("lrn", "bn")),)
PATIENCE = 1800  # seconds: whether a study ends is asked here, and not how fast the machine is
# What learning produced; how fast it went is another matter.
LEARNT = ("epoch", "step", "train_loss", "train_accuracy", "validation_loss", "validation_accuracy", "learning_rate")

# The same as a user's command does, with a checkpoint at the end of every epoch instead of every ten seconds.
OFTEN = """
import sys
from alexnet_lab.training import forks, run, trainer
trainer.BETWEEN_EPOCHS = 0.0
"""
RUN, SERVER = OFTEN + "sys.exit(run.main(sys.argv[1:]))", OFTEN + "sys.exit(forks.main())"
COORDINATOR = f"""
import sys
from pathlib import Path
from alexnet_ablations.run.executors import forking, local
from alexnet_ablations.declare.design import Factor
from alexnet_ablations.run.coordinator import run_all
from alexnet_ablations.declare.study import Study
from alexnet_lab.training.recipe import Recipe
forking.server_command = lambda: [sys.executable, "-c", {SERVER!r}]
local.command_of = lambda folder: [sys.executable, "-c", {RUN!r}, "--coordinated", str(folder)]
if sys.argv[2] == "forked":
    local.run_command = local.command_of
study = Study({SMALL!r}, {FACTORS!r}, 2, Path(sys.argv[1]))
run_all(study.folder, [run for run in study.runs() if not run.is_done], 2)
"""


def study_in(path):
    return Study(SMALL, FACTORS, 2, path)


def coordinate(path, how):
    path.mkdir(exist_ok=True)
    with (path / "stderr.txt").open("a") as said:
        return subprocess.Popen([sys.executable, "-c", COORDINATOR, str(path), how], stderr=said)


def runs_at_work(path):
    """Return process by run folder, from the system's own list, one entry per process: who writes its output.txt."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            output = (entry / "fd" / "1").readlink()
        except OSError:  # it has ended meanwhile
            continue
        if output.name == "output.txt" and path in output.parents:
            found.append((str(output.parent), int(entry.name)))
    return found


def parent_of(process):
    try:
        return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return None


def learnt_in(study):
    found = {}
    for run in study.runs():
        verdict = run.folder.verdict()
        result = {name: verdict["result"][name] for name in ("tested_epoch", "epochs", "steps", "validation", "test")}
        rows = [[row[name] for name in LEARNT] for row in run.folder.metrics()]
        found[run.cell.name, run.seed] = (verdict["state"], json.dumps(result), rows)
    return found


def assert_same_arrays(one, other):
    """Every array of the instruments is the same to the bit, NaN included; what a clock measured is not compared."""
    with np.load(one) as a, np.load(other) as b:
        assert set(a) == set(b)
        for name in a:
            if not name.startswith("cost."):
                assert a[name].tobytes() == b[name].tobytes(), f"{one}: {name}"


@pytest.mark.campaign
@pytest.mark.parametrize(("seed", "undisturbed", "disturbed"), [(0, "plain", "forked"), (1, "forked", "plain")])
def test_kill_9_at_any_moment_loses_nothing_repeats_nothing_and_changes_nothing(seed, undisturbed, disturbed, tmp_path):
    """Runs that are forked, and runs that are started by themselves, have the same numbers too."""
    whole, broken = study_in(tmp_path / "whole"), study_in(tmp_path / "broken")
    process = coordinate(whole.folder, undisturbed)
    assert process.wait(timeout=PATIENCE) == 0, (whole.folder / "stderr.txt").read_text()

    moments = random.Random(seed)  # noqa: S311  # moments to kill at, not secrets
    stamps, kills = {}, Counter()
    for attempt in range(60):
        process = coordinate(broken.folder, disturbed)
        is_last = kills["coordinator"] >= 5 and kills["run"] >= 2
        # Every third coordinator is killed while it starts, the others once a run is at work: how long a start takes
        # differs from machine to machine.
        deadline = time.monotonic() + (moments.uniform(0.5, 3.0) if attempt % 3 == 1 and not is_last else PATIENCE)
        has_begun = is_last or attempt % 3 == 1
        while process.poll() is None and time.monotonic() < deadline:
            at_work = runs_at_work(broken.folder)
            if at_work and not has_begun:
                has_begun, deadline = True, time.monotonic() + moments.uniform(0.0, 3.0)
            assert max(Counter(folder for folder, _ in at_work).values(), default=0) <= 1, "two processes in one folder"
            if at_work and not is_last and kills["run"] < 2 and moments.random() < 0.05:
                with suppress(ProcessLookupError):  # it has ended meanwhile
                    os.kill(moments.choice(at_work)[1], signal.SIGKILL)
                    kills["run"] += 1
            server = parent_of(at_work[0][1]) if at_work and disturbed == "forked" else None
            # An orphan's parent is process 1; whose runs are forked has a server between it and them.
            if server and parent_of(server) == process.pid and kills["server"] < 2 and moments.random() < 0.05:
                os.kill(server, signal.SIGKILL)
                kills["server"] += 1
            time.sleep(0.05)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills["coordinator"] += 1
        status = process.wait()
        for path in broken.folder.glob("runs/*/*/state.json"):
            verdict = json.loads(path.read_text())
            if verdict["state"] == "ok":
                assert stamps.setdefault(path, path.stat().st_mtime_ns) == path.stat().st_mtime_ns, "done twice"
        assert set(stamps) <= set(broken.folder.glob("runs/*/*/state.json")), "a verdict was lost"
        assert status in (0, -signal.SIGKILL), (broken.folder / "stderr.txt").read_text()
        if status == 0:
            break
    assert status == 0
    assert kills["coordinator"] > 2
    assert kills["server"] > 0 or disturbed == "plain"
    await_ends(broken.folder)
    assert coordinate(broken.folder, disturbed).wait(timeout=PATIENCE) == 0
    assert_same(whole, broken)


def await_ends(path):
    # The last orphan of a killed coordinator may have written its verdict and still be on its way out, holding its
    # folder; the same call once more has nothing left to make.
    deadline = time.monotonic() + PATIENCE
    while runs_at_work(path):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def assert_same(whole, broken):
    assert learnt_in(broken) == learnt_in(whole)
    for one, other in zip(whole.runs(), broken.runs(), strict=True):
        a, b = (
            safetensors.torch.load_file(run.folder.path / "checkpoints" / "best.safetensors") for run in (one, other)
        )
        assert a.keys() == b.keys()
        assert all(torch.equal(a[name], b[name]) for name in a)
        assert {path.name for path in (one.folder.path / "flow").iterdir()} == {
            path.name for path in (other.folder.path / "flow").iterdir()
        }
        for path in (one.folder.path / "flow").glob("*.npz"):
            assert_same_arrays(path, other.folder.path / "flow" / path.name)
    assert {run_status.state for run_status in statuses(broken.runs())} == {"ok"}
    histories = [read_history(run.folder.path) for run in broken.runs()]
    assert all(history.attempts for history in histories)
    # An attempt that outlived its coordinator has nobody who notes its end; its verdict says how it ended.
    assert {history.state for history in histories} <= {"ok", None}
    assert not runs_at_work(broken.folder)
