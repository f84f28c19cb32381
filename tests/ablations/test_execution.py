"""Processes: several side by side, a death that takes nothing with it, an interrupt that leaves none behind."""

import subprocess
import sys
import time

import pytest

from alexnet_ablations import execution
from alexnet_ablations.design import Factor
from alexnet_ablations.study import Study, collect
from alexnet_lab.training.recipe import Recipe

# Stands in for a run: leaves a verdict after a moment, or dies as it is told.
STAND_IN = """
import os, signal, sys, time
from pathlib import Path
from alexnet_lab.records import RunFolder
folder = RunFolder(Path(sys.argv[-1]))
recipe = folder.recipe()
if recipe["norm"] == "bn" and recipe["seed"] == 0:
    os.kill(os.getpid(), signal.SIGKILL)
time.sleep({seconds})
folder.log({{"epoch": 1}})
folder.end("ok", result={{"test": {{"accuracy": 0.5}}}})
"""


@pytest.fixture
def stand_in(monkeypatch):
    started = []

    def use(seconds):
        original = subprocess.Popen

        def popen(command, **options):
            process = original([sys.executable, "-c", STAND_IN.format(seconds=seconds), command[-1]], **options)
            started.append((time.monotonic(), process))
            return process

        monkeypatch.setattr(execution.subprocess, "Popen", popen)
        return started

    return use


def study_in(path, seeds=2):
    return Study(Recipe(epochs=1), (Factor("norm", ("lrn", "bn")),), seeds, path)


def test_a_killed_run_is_lost_and_the_others_go_on(tmp_path, stand_in):
    stand_in(0.1)
    study, events = study_in(tmp_path), []
    execution.run_all(study.runs(), 2, lambda run, event, _n: events.append((run.cell.name, run.seed, event)), 0.05)
    assert [row["state"] for row in collect(study.runs())] == ["ok", "lost", "ok", "ok"]
    assert sum(event == "ended" for *_, event in events) == 4
    assert ("norm=lrn", 0, "epoch") in events


def test_no_more_runs_stand_side_by_side_than_asked(tmp_path, stand_in):
    started = stand_in(0.3)
    alive = []
    execution.run_all(
        study_in(tmp_path, 3).runs(),
        2,
        lambda *_: alive.append(sum(process.poll() is None for _, process in started)),
        0.02,
    )
    assert max(alive) == 2


def test_an_interrupt_leaves_no_process_behind(tmp_path, stand_in):
    started = stand_in(60)

    def interrupt(_run, event, _epochs):
        if event == "started" and len(started) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        execution.run_all(study_in(tmp_path).runs(), 2, interrupt, 0.02)
    assert all(process.poll() is not None for _, process in started)


def test_a_verdict_from_an_earlier_attempt_does_not_pass_for_this_one(tmp_path, stand_in):
    stand_in(0)
    runs = study_in(tmp_path).runs()
    doomed = runs[1]
    doomed.folder.begin(doomed.recipe.to_json(), {}, "{}")
    doomed.folder.end("ok", result={"test": {"accuracy": 1.0}})
    execution.run_all([doomed], 1, lambda *_: None, 0.02)
    assert doomed.folder.verdict() is None


def test_runs_that_all_fail_in_the_same_way_are_one_error(tmp_path, monkeypatch):
    original = subprocess.Popen
    program = """
import sys
from pathlib import Path
from alexnet_lab.records import RunFolder
RunFolder(Path(sys.argv[-1])).end("error", "no such data")
"""
    monkeypatch.setattr(
        execution.subprocess, "Popen", lambda command, **o: original([sys.executable, "-c", program, command[-1]], **o)
    )
    study, started = study_in(tmp_path, 5), []
    with pytest.raises(ValueError, match="the first 3 runs failed in the same way.*no such data"):
        execution.run_all(
            study.runs(), 1, lambda run, event, _n: started.append(run) if event == "started" else None, 0.02
        )
    assert len(started) == 3
