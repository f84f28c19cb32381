"""Runs on other machines: attempts in folders of their own, and what a machine does for one of them."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from stand_ins import BEGINNING, SAVING, WELL, study_in

from alexnet_ablations.declare.history import read_history
from alexnet_ablations.declare.status import Sighting, statuses
from alexnet_ablations.run import node
from alexnet_ablations.run.elsewhere import RemoteAttempt, end_in_place, make_way, task_of
from alexnet_ablations.run.executors import Refusal
from alexnet_lab.locks import Lock
from alexnet_lab.records import RunFolder
from alexnet_lab.training.handover import attempts_of, new_attempt, publish, set_aside


@pytest.fixture
def run(tmp_path):
    return study_in(tmp_path, 1).runs()[0]


def use(monkeypatch, program):
    monkeypatch.setattr(node, "command_of", lambda folder: [sys.executable, "-c", BEGINNING + program, str(folder)])


def never(_run):
    return False


def started(run, program, place):
    """Start an attempt at a run, with this program in its place, and wait until it is ready."""
    starter = f"""
import sys
from alexnet_ablations.run import node
node.command_of = lambda folder: [sys.executable, "-c", {program!r}, str(folder)]
sys.exit(node.main(sys.argv[1:]))
"""
    task = place / "task.json"
    task.write_text(task_of(run).to_json())
    process = subprocess.Popen([sys.executable, "-c", starter, str(task), "here"])
    while not list(place.glob("runs/*/*/ready")):
        assert process.poll() is None
        time.sleep(0.02)
    return process


def test_an_attempt_that_ends_well_is_the_run_and_nothing_else_is_left(run, monkeypatch):
    use(monkeypatch, "print('at work', os.environ['OMP_NUM_THREADS'])\n" + WELL)
    assert node.make_attempt(task_of(run), "here") == 0
    assert run.folder.verdict()["state"] == "ok"
    assert [path.name for path in run.folder.path.parent.iterdir()] == ["seed-0"]
    assert (run.folder.path / "output.txt").read_text() == "at work 1\n"
    history = read_history(run.folder.path)
    assert (history.attempts, history.slot, history.state) == (1, "here", "ok")
    assert not run.folder.damages()


def test_of_two_attempts_the_first_to_end_is_the_run_and_the_second_deletes_its_own(run, monkeypatch):
    use(
        monkeypatch,
        """
mine = len(list(folder.path.parent.glob("first"))) + 1
(folder.path.parent / "first").touch()
while mine == 1 and not (folder.path.parent / "go").exists():
    time.sleep(0.02)
folder.end("ok", result={"test": {"accuracy": mine / 4}})
""",
    )
    slow = threading.Thread(target=node.make_attempt, args=(task_of(run), "slow"))
    slow.start()
    beside = run.folder.path.parent
    while not (beside / "first").exists():
        time.sleep(0.02)
    assert node.make_attempt(task_of(run), "fast") == 0
    before = (run.folder.path / "state.json").read_bytes()
    (beside / "go").touch()
    slow.join()
    assert (run.folder.path / "state.json").read_bytes() == before
    assert run.folder.verdict()["result"]["test"]["accuracy"] == 0.5
    assert attempts_of(run.folder.path) == []
    # A third one finds the run there and trains nothing.
    assert node.make_attempt(task_of(run), "late") == 0
    assert (run.folder.path / "state.json").read_bytes() == before


def test_an_attempt_without_a_verdict_stays_for_its_checkpoints(run, monkeypatch):
    use(monkeypatch, "folder.log({'epoch': 1})\nprint('no more', flush=True)\nos.kill(os.getpid(), signal.SIGKILL)")
    assert node.make_attempt(task_of(run), "here") == -signal.SIGKILL
    assert not run.folder.path.exists()
    (left,) = attempts_of(run.folder.path)
    assert read_history(left).state == "lost"
    attempt = RemoteAttempt(run, 1, "here")
    attempt.look()
    assert (attempt.folder.path, attempt.epochs, attempt.said()) == (left, 1, "no more")
    assert not attempt.is_published()


def test_an_attempt_whose_machine_died_after_the_verdict_is_published_by_the_coordinator(run):
    left = RunFolder(new_attempt(run.folder.path))
    left.begin(run.recipe.to_json(), {}, "{}")
    left.end("ok", result={"test": {"accuracy": 0.5}})
    assert RemoteAttempt(run, 1, "here").is_published()
    assert run.folder.verdict()["state"] == "ok"
    assert not left.path.exists()


def test_when_the_process_that_started_it_is_killed_the_run_saves_and_ends(run, tmp_path):
    program = """
import signal, sys, time
from pathlib import Path
from alexnet_lab.training import process
process.end_with(0, signal.SIGTERM)
Path(sys.argv[-1], "ready").touch()
time.sleep(60)
"""
    process = started(run, program, tmp_path)
    (attempt,) = attempts_of(run.folder.path)

    def at_work():
        return [
            entry
            for entry in Path("/proc").glob("[0-9]*")
            if str(attempt).encode() in _command_line(entry) and "Z" not in _state(entry)
        ]

    assert at_work()
    process.kill()
    process.wait()
    deadline = time.monotonic() + 10
    while at_work():
        assert time.monotonic() < deadline, "a run outlives what started it"
        time.sleep(0.02)


def _command_line(entry):
    try:
        return (entry / "cmdline").read_bytes()
    except OSError:
        return b""


def _state(entry):
    try:
        return (entry / "stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


def test_a_signal_to_the_node_lets_the_run_save(run, tmp_path):
    process = started(run, BEGINNING + SAVING, tmp_path)
    process.terminate()
    assert process.wait(10) == 130
    assert len(list(tmp_path.glob("runs/*/*.attempt-*/saved"))) == 1


def test_what_a_local_run_left_becomes_an_attempt_and_its_name_is_free(run):
    run.folder.begin(run.recipe.to_json(), {}, "{}")
    run.folder.log({"epoch": 1})
    lock = Lock(run.folder.lock)
    assert lock.take()
    assert make_way(run, never) is Refusal.HELD  # a local process works there
    lock.release()
    assert make_way(run, never) is None
    assert not run.folder.path.exists()
    (left,) = attempts_of(run.folder.path)
    assert (left / "metrics.jsonl").read_text() == '{"epoch": 1}\n'


def test_a_run_that_is_done_is_refused_and_what_is_left_beside_it_removed(run):
    run.folder.begin(run.recipe.to_json(), {}, "{}")
    run.folder.end("ok", result={"test": {"accuracy": 0.5}})
    new_attempt(run.folder.path).mkdir()
    assert make_way(run, lambda one: one.is_done) is Refusal.DONE
    assert attempts_of(run.folder.path) == []


def test_a_failed_run_that_is_made_again_keeps_its_failure_out_of_the_way(run, monkeypatch):
    run.folder.begin(run.recipe.to_json(), {}, "{}")
    run.folder.end("error", "as planted")
    assert make_way(run, lambda one: one.is_done) is None
    assert not run.folder.path.exists()
    use(monkeypatch, WELL)
    node.make_attempt(task_of(run), "here")
    assert run.folder.verdict()["state"] == "ok"


@pytest.mark.parametrize("began", [False, True])
def test_a_run_whose_attempts_left_no_verdict_gets_one(began, run):
    if began:
        left = RunFolder(new_attempt(run.folder.path))
        left.begin(run.recipe.to_json(), {}, "{}")
        left.log({"epoch": 1})
    attempt = RemoteAttempt(run, 1, "here")
    attempt.why = "its machine went away"
    end_in_place(attempt, "lost")
    assert run.folder.verdict()["why"] == "its machine went away"
    assert len(list(run.folder.metrics())) == began
    assert attempts_of(run.folder.path) == []


def test_publishing_leaves_what_stands_under_the_name_as_it_is(run):
    path = new_attempt(run.folder.path)
    path.mkdir(parents=True)
    (path / "state.json").write_text("mine")
    run.folder.path.mkdir()
    (run.folder.path / "state.json").write_text("theirs")
    assert not publish(path)
    assert (run.folder.path / "state.json").read_text() == "theirs"
    assert not path.exists()
    assert not publish(path)  # somebody has published it already
    assert set_aside(run.folder.path) is not None
    assert set_aside(run.folder.path) is None


def test_status_shows_attempts_and_what_a_scheduler_says_of_them(run, tmp_path):
    runs = study_in(tmp_path, 2).runs()
    left = RunFolder(new_attempt(run.folder.path))
    left.begin(run.recipe.to_json(), {}, "{}")
    left.log({"epoch": 1, "validation_accuracy": 0.5})
    node.note_start(left.path, "ray 10.0.0.7")
    running = {run.folder.path.absolute(): Sighting("slurm job 1_0: RUNNING on n1", is_running=True)}
    queued = {run.folder.path.absolute(): Sighting("slurm job 1_0: PENDING (Resources)", is_running=False)}
    seen = {
        "nobody": statuses(runs)[0],
        "running": statuses(runs, running)[0],
        "queued": statuses(runs, queued)[0],
        "coordinated": statuses(runs, is_coordinated=True)[0],
    }
    assert {name: one.state for name, one in seen.items()} == {
        "nobody": "lost",
        "running": "running",
        "queued": "waiting",
        "coordinated": "running",
    }
    assert {one.accuracy for one in seen.values()} == {0.5}
    assert seen["queued"].scheduler == "slurm job 1_0: PENDING (Resources)"
    assert seen["coordinated"].holder == "ray 10.0.0.7"
    assert statuses(runs)[1].state == "waiting"


def test_decoded_images_are_kept_on_a_disk_of_the_machine_in_a_folder_of_ones_own(tmp_path, monkeypatch):
    monkeypatch.setattr(node.tempfile, "tempdir", str(tmp_path))
    first = node.images_here()
    assert first == node.images_here()
    assert Path(first).stat().st_mode & 0o077 == 0
    Path(first).chmod(0o777)  # another user could have put anything there
    other = node.images_here()
    assert other != first
    Path(first).rmdir()
    Path(first).symlink_to(other)
    assert node.images_here() not in (first, other)


def test_the_image_cache_of_a_node_holds_no_downloads(monkeypatch, tmp_path):
    from alexnet_lab.data.cache import cache_folder, images_folder

    monkeypatch.setenv("ALEXNET_LAB_CACHE", str(tmp_path / "shared"))
    monkeypatch.setenv("ALEXNET_LAB_IMAGES", str(tmp_path / "here"))
    assert (cache_folder(), images_folder()) == (tmp_path / "shared", tmp_path / "here")
    monkeypatch.delenv("ALEXNET_LAB_IMAGES")
    assert images_folder() == tmp_path / "shared" / "images"
    assert os.environ["ALEXNET_LAB_CACHE"]
