"""Locks: one holder, named to whoever asks, and none left behind by a kill -9."""

import errno
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from alexnet_lab.locks import Lock, lock_file
from alexnet_lab.records import RunFolder
from alexnet_lab.training import process
from alexnet_lab.training.process import Tracker, child_environment, hold, python_command, run_folder
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


def test_shared_locks_stand_side_by_side_and_keep_out_whoever_wants_the_file_alone(tmp_path):
    path = tmp_path / "pixels"
    path.touch()
    with path.open("rb") as one, path.open("rb") as other, path.open("r+b") as alone:
        assert lock_file(one, shared=True)
        assert lock_file(other, shared=True)
        assert not lock_file(alone, shared=False, wait=False)
        one.close()
        other.close()
        assert lock_file(alone, shared=False, wait=False)
        with path.open("rb") as late:
            assert not lock_file(late, shared=True, wait=False)


@pytest.mark.parametrize(("number", "is_known"), [(errno.ENOLCK, True), (errno.EIO, False)])
def test_a_file_system_without_locks_gives_none_and_another_error_is_raised(tmp_path, monkeypatch, number, is_known):
    def refuse(_descriptor, _kind):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", refuse)
    with (tmp_path / "file").open("w") as file:
        if is_known:
            assert not lock_file(file, shared=False)
        else:
            with pytest.raises(OSError, match="put"):
                lock_file(file, shared=False)
    with pytest.raises(OSError, match=os.strerror(number)):
        Lock(tmp_path / "lock").take()


def plant(folder):
    """Modules under names of the standard library and of torch, that leave a trace when they are imported."""
    for name in ("random", "statistics", "torch", "alexnet_lab"):
        (folder / f"{name}.py").write_text(f"open({str(folder / 'executed')!r}, 'a').write({name!r})\n")


def test_a_process_of_ours_imports_nothing_from_the_folder_where_it_is_started(tmp_path):
    plant(tmp_path)
    (tmp_path / "run").mkdir()
    recipe = Recipe(data="synthetic:classes=3,side=16,count=107", width=1 / 16, epochs=1, norm="bn")
    (tmp_path / "run" / "recipe.json").write_text(recipe.to_json())
    unsafe = {**os.environ, "PYTHONPATH": os.pathsep.join(["", ".", os.environ.get("PYTHONPATH", "")])}
    plain = [sys.executable, "-m", "alexnet_lab.training.run"]
    subprocess.run(plain, cwd=tmp_path, check=False, capture_output=True)
    assert (tmp_path / "executed").exists()  # so the planted modules do what they are planted for
    (tmp_path / "executed").unlink()
    script = "import os, subprocess, sys; sys.path.pop(0); os.environ.update(eval(sys.argv[1]))\n" + (
        "from alexnet_lab.training.process import *\n"
        "command = python_command('alexnet_lab.training.run', 'run')\n"
        "sys.exit(subprocess.run(command, env=child_environment()).returncode)"
    )
    command = [sys.executable, "-c", script, repr(unsafe)]
    done = subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert RunFolder(tmp_path / "run").verdict()["state"] == "ok"
    assert not (tmp_path / "executed").exists()


def test_the_environment_of_a_child_keeps_absolute_folders_only(monkeypatch, tmp_path):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["", ".", "relative", str(tmp_path)]))
    entries = child_environment()["PYTHONPATH"].split(os.pathsep)
    assert entries[0] == str(tmp_path)
    assert all(os.path.isabs(entry) for entry in entries)  # noqa: PTH117  # it is text that is looked at
    assert child_environment()["PYTHONSAFEPATH"] == "1"


def test_a_checkout_that_is_not_installed_is_found_by_its_processes(tmp_path):
    """An interpreter without the packages is told of them by relative folders, as in a checkout."""
    root = Path(process.__file__).parents[2]
    links = tmp_path / "checkout"
    links.mkdir()
    for name, place in (
        ("alexnet_lab", root),
        ("alexnet_kernels", root / "kernels"),
        ("alexnet_ablations", root / "ablations"),
    ):
        (links / name).symlink_to(place / name)
    script = (
        "import os, sys\nfrom alexnet_lab.training import process\nprocess.site.getsitepackages = lambda: []\n"
        "print(process.child_environment()['PYTHONPATH'])"
    )
    environment = {**os.environ, "PYTHONPATH": "."}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=links, env=environment, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert str(links) in done.stdout.strip().split(os.pathsep)


def test_a_command_of_ours_names_this_interpreter_and_leaves_the_working_folder_out():
    assert python_command("a.b", "--flag", "x") == [sys.executable, "-P", "-m", "a.b", "--flag", "x"]
