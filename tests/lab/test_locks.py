"""Locks: one holder, named to whoever asks, and none left behind by a kill -9."""

import os
import platform
import subprocess
import sys

import pytest

from alexnet_lab.locks import Lock
from alexnet_lab.records import RunFolder
from alexnet_lab.training import process
from alexnet_lab.training.process import Tracker, hold, run_folder
from alexnet_lab.training.recipe import Recipe

HOLDER = """
import sys, time
from pathlib import Path
from alexnet_lab.locks import Lock
assert Lock(Path(sys.argv[1])).take()
print("taken", flush=True)
time.sleep(60)
"""


def another_holder(path):
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "taken\n"
    return holder


def end(holder):
    holder.kill()
    holder.communicate()


def test_a_lock_has_one_holder_and_names_it(tmp_path):
    lock, other = Lock(tmp_path / "lock"), Lock(tmp_path / "lock")
    assert lock.holder() is None
    assert lock.take()
    assert not other.take()
    assert other.holder().startswith(f"process {os.getpid()} on {platform.node()} since 2")
    lock.release()
    assert other.holder() is None
    assert other.take()
    other.release()


def test_a_killed_holder_leaves_no_lock(tmp_path):
    holder = another_holder(tmp_path / "lock")
    lock = Lock(tmp_path / "lock")
    assert lock.holder().startswith(f"process {holder.pid} ")
    assert not lock.take(patience=0.0)
    end(holder)
    assert (tmp_path / "lock").exists()
    assert lock.holder() is None
    assert lock.take(patience=0.0)
    lock.release()


def test_a_process_that_is_given_the_lock_holds_it_when_the_giver_lets_go(tmp_path):
    lock = Lock(tmp_path / "lock")
    assert lock.take()
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=(lock.descriptor,))
    lock.sign(child.pid)
    lock.release()
    assert lock.holder().startswith(f"process {child.pid} ")
    assert not Lock(tmp_path / "lock").take(patience=0.0)
    child.communicate(b"\n")
    assert lock.holder() is None


def test_a_lock_that_is_not_held_cannot_be_handed_over(tmp_path):
    with pytest.raises(ValueError, match="is not held here; take it first"):
        Lock(tmp_path / "lock").descriptor  # noqa: B018  # reading it is the act


def test_a_second_run_in_a_folder_is_refused_and_the_first_is_named(tmp_path, capsys):
    (tmp_path / "recipe.json").write_text(Recipe().to_json())
    holder = another_holder(RunFolder(tmp_path).lock)
    assert run_folder([str(tmp_path)], pytest.fail) == 2
    assert f"is being written by process {holder.pid} on " in capsys.readouterr().err
    with pytest.raises(ValueError, match="wait for it, or choose another folder"):
        hold(RunFolder(tmp_path))
    end(holder)


@pytest.mark.parametrize(("arguments", "said"), [([], "usage: "), (["--help"], "usage: "), (["a", "b"], "usage: ")])
def test_a_run_process_says_how_it_is_used(arguments, said, capsys):
    assert run_folder(arguments, pytest.fail) == 2
    assert said in capsys.readouterr().err


def test_a_folder_without_a_recipe_or_with_a_damaged_one_is_not_trained(tmp_path, capsys):
    assert run_folder([str(tmp_path)], pytest.fail) == 2
    assert "has no recipe.json" in capsys.readouterr().err
    (tmp_path / "recipe.json").write_text('{"epochs": ')
    assert run_folder([str(tmp_path)], pytest.fail) == 2
    assert "recipe.json is damaged" in capsys.readouterr().err


def test_the_folder_says_how_far_its_run_is_while_it_trains_and_not_after(tmp_path, monkeypatch):
    monkeypatch.setattr(process, "BETWEEN_NOTES", 0.0)
    (tmp_path / "recipe.json").write_text(Recipe().to_json())
    seen = []

    def train(recipe, folder, report):
        assert recipe == Recipe()
        report("begin", {"epochs": 3, "steps_per_epoch": 10, "done": 12})
        seen.append(folder.progress())
        report("step", {"epoch": 2, "step": 13, "loss": 0.5})
        seen.append(folder.progress())
        return 0

    assert run_folder([str(tmp_path)], train) == 0
    assert [(note["step"], note["steps"]) for note in seen] == [(12, 30), (13, 30)]
    assert RunFolder(tmp_path).progress() is None


def test_progress_is_noted_twice_a_second_at_most(tmp_path):
    tracker = Tracker(RunFolder(tmp_path))
    for step in range(1000):
        tracker("step", {"epoch": 1, "step": step})
    assert RunFolder(tmp_path).progress()["step"] == 0


def test_progress_that_a_power_cut_left_empty_is_none(tmp_path):
    (tmp_path / "progress.json").write_text("")
    assert RunFolder(tmp_path).progress() is None
