"""Coordinators: one a study, whose end, by Ctrl-C or by kill -9, leaves no process and no lie in the index."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from stand_ins import SAVING, WELL, Interrupting, Listener, states_of, study_in, use

from alexnet_ablations.declare.history import read_history
from alexnet_ablations.run import coordinator as execution
from alexnet_ablations.run.coordinator import run_all
from alexnet_lab.locks import Lock


def test_an_interrupt_lets_runs_save_and_leaves_no_process_behind(tmp_path, monkeypatch):
    use(monkeypatch, SAVING)
    study = study_in(tmp_path)
    listener = Interrupting(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run_all(study.folder, study.runs(), 2, listener)
    assert len(listener.processes) == 2
    assert all(process.poll() is not None for process in listener.processes)
    assert len(list(tmp_path.glob("runs/*/*/saved"))) == 2
    assert listener.notes == ["2 runs are saved before this ends; once more Ctrl-C ends them at once"]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_second_coordinator_is_told_in_one_sentence_and_does_no_harm(tmp_path, monkeypatch):
    use(monkeypatch, "(folder.path / 'ready').touch(); time.sleep(1)\n" + WELL)
    study = study_in(tmp_path, 1)
    first = threading.Thread(target=run_all, args=(study.folder, study.runs(), 2))
    first.start()
    while not list(tmp_path.glob("runs/*/*/ready")):
        time.sleep(0.02)
    with pytest.raises(ValueError, match=rf"is in use by process {os.getpid()} on \S+ since 2\d.*status"):
        run_all(study.folder, study.runs(), 2)
    with pytest.raises(ValueError, match="is in use"):
        execution.refuse_if_coordinated(study.folder)
    first.join()
    execution.refuse_if_coordinated(study.folder)
    assert states_of(study) == ["ok", "ok"]
    assert [read_history(run.folder.path).attempts for run in study.runs()] == [1, 1]


def test_a_run_in_the_hands_of_an_orphan_is_not_started_a_second_time(tmp_path, monkeypatch):
    use(monkeypatch, WELL)
    study = study_in(tmp_path, 1)
    orphaned = study.runs()[0]
    orphaned.folder.begin(orphaned.recipe.to_json(), {}, "{}")
    lock = Lock(orphaned.folder.lock)
    assert lock.take()
    listener = Listener()

    def finish():
        orphaned.folder.end("ok", result={"test": {"accuracy": 0.75}})
        lock.release()

    threading.Timer(1.0, finish).start()
    run_all(study.folder, study.runs(), 2, listener)
    assert listener.of("started") == [("norm=bn", 0)]
    assert listener.of("skipped") == [("norm=lrn", 0)]
    assert orphaned.folder.verdict()["result"]["test"]["accuracy"] == 0.75
    assert [note for note in listener.notes if "still in use by process" in note] == listener.notes


def test_a_run_ends_when_its_coordinator_is_killed(tmp_path):
    # The coordinator's program is a stand-in for a study; the run's is the real watch for a dead coordinator.
    run = """
import signal, sys, time
from pathlib import Path
from alexnet_lab.training import process
process.end_with(0, signal.SIGTERM)
Path(sys.argv[-1], "ready").touch()
time.sleep(60)
"""
    coordinator = f"""
import sys
from pathlib import Path
from alexnet_ablations.run.executors import local
from alexnet_ablations.declare.design import Factor
from alexnet_ablations.run.coordinator import run_all
from alexnet_ablations.declare.study import Study
from alexnet_lab.training.recipe import Recipe
local.command_of = lambda folder: [sys.executable, "-c", {run!r}, str(folder)]
study = Study(Recipe(epochs=1), (Factor("norm", ("lrn", "bn")),), 1, Path({str(tmp_path)!r}))
run_all(study.folder, study.runs(), 2)
"""
    process = subprocess.Popen([sys.executable, "-c", coordinator])
    folders = [run.folder for run in study_in(tmp_path, 1).runs()]
    while not all((folder.path / "ready").exists() for folder in folders):
        assert process.poll() is None
        time.sleep(0.05)
    assert all(Lock(folder.lock).holder() for folder in folders)
    process.kill()
    process.wait()
    assert Lock(tmp_path / "coordinator.lock").holder() is None
    deadline = time.monotonic() + 10
    while any(Lock(folder.lock).holder() for folder in folders):
        assert time.monotonic() < deadline, "a run outlives its coordinator"
        time.sleep(0.02)
