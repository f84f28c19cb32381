"""Runs that several processes share: the numbers of one, and one sentence whatever ends them."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from quick_runs import SMALL, run_in, start_process, wait_for_epochs

from alexnet_lab.records import RunFolder
from alexnet_lab.training.recipe import read_recipe
from alexnet_lab.training.run import check_gpu
from alexnet_lab.training.single import recipe_on_this_machine

TWO = replace(SMALL, norm="lrn", dropout=0.5, processes=2)


def companion_of(process):
    """Wait for the process that a run has started for its share of the work."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        for child in map(int, children):
            if b"--companion" in Path(f"/proc/{child}/cmdline").read_bytes():
                return child
        time.sleep(0.05)
    raise AssertionError("no companion came")


def is_there(pid):
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2][:3]
    except FileNotFoundError:
        return False


@pytest.mark.long
def test_two_processes_of_a_recipe_have_the_numbers_of_one_up_to_rounding(tmp_path, undisturbed):
    one = undisturbed(replace(TWO, processes=1))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    (tmp_path / "recipe.json").write_text(TWO.to_json())
    command = [sys.executable, "-m", "alexnet_lab.training.run", str(tmp_path)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    rows = list(RunFolder(tmp_path).metrics())
    assert len(rows) == TWO.epochs
    for row, other in zip(RunFolder(one).metrics(), rows, strict=True):
        assert other["train_loss"] == pytest.approx(row["train_loss"], rel=1e-4)
        assert other["validation_loss"] == pytest.approx(row["validation_loss"], rel=1e-3)


@pytest.mark.long
def test_a_run_whose_other_process_is_killed_ends_with_a_verdict_that_names_it(tmp_path):
    _, process = start_process(tmp_path / "run", replace(TWO, epochs=400))
    companion = companion_of(process)
    wait_for_epochs(tmp_path / "run", 2)
    os.kill(companion, signal.SIGKILL)
    process.communicate(timeout=300)
    verdict = RunFolder(tmp_path / "run").verdict()
    assert process.returncode == 1
    assert verdict["state"] == "error"
    assert verdict["why"] == "process 2 of the 2 that share the run ended with signal 9"


@pytest.mark.long
def test_a_run_that_is_stopped_goes_on_and_one_that_is_killed_takes_its_other_process_along(tmp_path):
    command, process = start_process(tmp_path / "run", replace(TWO, epochs=400))
    wait_for_epochs(tmp_path / "run", 2)
    process.terminate()
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 130
    assert "the same command goes on from there" in said
    before = len(list(RunFolder(tmp_path / "run").metrics()))
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    companion = companion_of(process)
    wait_for_epochs(tmp_path / "run", before + 1)
    process.kill()
    said, _ = process.communicate()
    assert "going on at epoch" in said
    deadline = time.monotonic() + 60
    while is_there(companion):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert RunFolder(tmp_path / "run").verdict() is None


@pytest.mark.long
def test_a_mistake_that_all_processes_meet_is_told_once(tmp_path):
    assert run_in(tmp_path, replace(TWO, image_size=20)) == 1
    verdict = RunFolder(tmp_path).verdict()
    assert (verdict["state"], "the smallest that works is" in verdict["why"]) == ("error", True)
    assert "WORLD_SIZE" not in os.environ


def test_processes_of_one_machine_share_its_threads():
    every = recipe_on_this_machine({"device": "cpu"}).threads
    assert recipe_on_this_machine({"device": "cpu", "processes": 2}).threads == max(every // 2, 1)


def test_what_cannot_be_shared_is_refused_before_anything_runs(tmp_path, monkeypatch):
    with pytest.raises(
        ValueError, match=r"batch_size 32 does not split into 3 equal parts \(processes 3 x accumulate 1"
    ):
        read_recipe({"processes": 3})
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(ValueError, match="processes 2 takes a GPU for each, and there is 1 here; take processes 1"):
        check_gpu(replace(TWO, device="cuda"))
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert run_in(tmp_path, TWO) == 1
    assert "torchrun has started 2; leave one of the two out" in RunFolder(tmp_path).verdict()["why"]
