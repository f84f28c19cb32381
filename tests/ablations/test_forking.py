"""Runs that are forked: they start, die, listen and end as those do that are started by themselves."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from stand_ins import (
    BEGINNING,
    DEATHS,
    SAVING,
    SERVER,
    WELL,
    Interrupting,
    Listener,
    make,
    states_of,
    study_in,
    use_forked,
)

from alexnet_ablations.run.coordinator import run_all
from alexnet_ablations.run.executors import local
from alexnet_ablations.run.executors.forking import ForkedProcess
from alexnet_lab.locks import Lock

# What a run can tell of itself: its parent, its group, and what each of its open files is.
SELF = """
import json
files = {}
for name in os.listdir("/proc/self/fd"):
    try:
        files[name] = os.readlink(f"/proc/self/fd/{name}")
    except FileNotFoundError:  # the list itself
        pass
facts = {"pid": os.getpid(), "parent": os.getppid(), "session": os.getsid(0), "files": files,
         "threads": os.environ["OMP_NUM_THREADS"], "words": sys.argv[1:]}
(folder.path / "self.json").write_text(json.dumps(facts))
"""


def of_itself(study):
    return [json.loads((run.folder.path / "self.json").read_text()) for run in study.runs()]


def is_alive(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until(holds):
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_one_process_forks_all_runs_and_each_leads_a_session_with_files_of_its_own(tmp_path, monkeypatch):
    use_forked(monkeypatch, SELF + "print('said')\n" + WELL)
    study = study_in(tmp_path)
    heard = make(study)
    assert states_of(study) == ["ok"] * 4
    assert all(isinstance(process, ForkedProcess) for process in heard.processes)
    told = of_itself(study)
    assert len({facts["parent"] for facts in told}) == 1
    for run, facts in zip(study.runs(), told, strict=True):
        path = run.folder.path
        assert facts["pid"] == facts["session"]
        assert facts["words"] == ["--coordinated", str(path)]
        assert facts["threads"] == str(run.recipe.threads)
        others = {name: target for name, target in facts["files"].items() if name not in ("0", "1", "2")}
        assert facts["files"]["0"].startswith("pipe:")
        assert facts["files"]["1"] == facts["files"]["2"] == str(path / "output.txt")
        assert list(others.values()).count(str(path / "run.lock")) == 1
        # Nothing of another run, and no end of what the server and the coordinator say to each other.
        assert [target for target in others.values() if target.startswith(("socket:", "pipe:"))] == []
        assert (path / "output.txt").read_text() == "said\n"
    assert not is_alive(told[0]["parent"])


@pytest.mark.parametrize(
    ("death", "why"),
    [
        *DEATHS,
        ("raise RuntimeError('not caught')", "ended with status 1 and no verdict: RuntimeError: not caught"),
        ("raise KeyboardInterrupt", "ended by SIGINT"),
    ],
)
def test_a_forked_run_that_dies_twice_is_lost_and_takes_no_other_with_it(death, why, tmp_path, monkeypatch):
    use_forked(monkeypatch, f"if norm == 'bn' and seed == 0: {death}\n{WELL}")
    study = study_in(tmp_path)
    make(study)
    assert states_of(study) == ["ok", "lost", "ok", "ok"]
    told = study.runs()[1].folder.verdict()["why"]
    assert why in told
    assert told.endswith("2 times in a row")


def test_a_forked_run_saves_when_it_is_asked_to_stop(tmp_path, monkeypatch):
    use_forked(monkeypatch, SAVING)
    study = study_in(tmp_path)
    listener = Interrupting(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run_all(study.folder, study.runs(), 2, listener)
    assert [process.returncode for process in listener.processes] == [130, 130]
    assert len(list(tmp_path.glob("runs/*/*/saved"))) == 2


def test_what_a_dead_forked_run_leaves_behind_is_ended(tmp_path, monkeypatch):
    use_forked(
        monkeypatch,
        """
child = os.fork()
if child == 0:
    time.sleep(60)
(folder.path / "child").write_text(str(child))
os._exit(1)
""",
    )
    study = study_in(tmp_path, seeds=1)
    make(study, runs=study.runs()[:1])
    assert states_of(study)[0] == "lost"
    child = int((study.runs()[0].folder.path / "child").read_text())
    wait_until(lambda: not is_alive(child))


def test_runs_outlive_the_process_that_forked_them_and_later_ones_start_by_themselves(tmp_path, monkeypatch):
    use_forked(
        monkeypatch,
        SELF
        + """
if seed == 0:
    while os.getppid() == facts["parent"]:
        time.sleep(0.02)
    time.sleep(0.3)
"""
        + WELL,
    )
    study = study_in(tmp_path)

    class Killing(Listener):
        def tick(self):
            written = [*tmp_path.glob("runs/*/seed-0/self.json")]
            if len(written) == 2 and "killed" not in self.heard:
                wait_until(lambda: all(path.read_text() for path in written))
                os.kill(json.loads(written[0].read_text())["parent"], signal.SIGKILL)
                self.heard.append("killed")

    listener = Killing()
    run_all(study.folder, study.runs(), 2, listener)
    assert states_of(study) == ["ok"] * 4
    assert [isinstance(process, ForkedProcess) for process in listener.processes] == [True, True, False, False]
    assert listener.notes == [
        "the process that forks runs has died; each run is started by itself, some seconds slower"
    ]


def test_a_run_that_dies_after_the_process_that_forked_it_is_told_so(tmp_path, monkeypatch):
    use_forked(
        monkeypatch,
        """
if not (folder.path / "before").exists():
    (folder.path / "before").touch()
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(0.3)
os._exit(1)
""",
    )
    study = study_in(tmp_path, seeds=1)

    class Dying(Listener):
        def died(self, attempt):
            self.notes.append(attempt.why)

    listener = Dying()
    run_all(study.folder, study.runs()[:1], 1, listener)
    assert listener.notes[0] == "its process ended together with the one that had started it, and left no verdict"
    assert states_of(study)[0] == "lost"


def test_a_server_that_cannot_start_costs_a_note_and_no_run(tmp_path, monkeypatch):
    use_forked(monkeypatch, WELL)
    monkeypatch.setattr("alexnet_ablations.run.executors.forking.server_command", lambda: [sys.executable, "-c", "x"])
    study = study_in(tmp_path)
    assert len(make(study).notes) == 1
    assert states_of(study) == ["ok"] * 4


@pytest.mark.parametrize("setting", ["plain", "other threads"])
def test_a_run_that_cannot_be_forked_is_started_by_itself(setting, tmp_path, monkeypatch):
    use_forked(monkeypatch, SELF + WELL)
    study = study_in(tmp_path, seeds=1)
    runs = study.runs()
    if setting == "plain":
        monkeypatch.setenv(local.HOW, local.PLAIN)
    else:  # the libraries of the server have read another number when they were loaded
        object.__setattr__(runs[1].recipe, "threads", 2)
    processes = make(study, runs=runs).processes
    assert [isinstance(process, ForkedProcess) for process in processes] == [setting != "plain", False]
    assert of_itself(study)[1]["threads"] == str(runs[1].recipe.threads)


def test_forked_runs_and_their_server_end_when_the_coordinator_is_killed(tmp_path):
    # The run is the real watch for a dead coordinator.
    program = f"""{BEGINNING}
import signal
{SELF}
from alexnet_lab.training import process
process.end_with(0, signal.SIGTERM)
(folder.path / "ready").touch()
time.sleep(60)
"""
    server = f"PROGRAM = {program!r}\n{SERVER}"
    coordinator = f"""
import sys
from pathlib import Path
from alexnet_ablations.run.executors import forking
from alexnet_ablations.declare.design import Factor
from alexnet_ablations.run.coordinator import run_all
from alexnet_ablations.declare.study import Study
from alexnet_lab.training.recipe import Recipe
forking.server_command = lambda: [sys.executable, "-c", {server!r}]
study = Study(Recipe(epochs=1), (Factor("norm", ("lrn", "bn")),), 1, Path({str(tmp_path)!r}))
run_all(study.folder, study.runs(), 2)
"""
    process = subprocess.Popen([sys.executable, "-c", coordinator])
    study = study_in(tmp_path, 1)
    folders = [run.folder for run in study.runs()]
    wait_until(lambda: all((folder.path / "ready").exists() for folder in folders))
    assert all(Lock(folder.lock).holder() for folder in folders)
    signed = [json.loads(folder.lock.read_text())["process"] for folder in folders]
    assert signed == [facts["pid"] for facts in of_itself(study)]
    process.kill()
    process.wait()
    wait_until(lambda: not any(Lock(folder.lock).holder() for folder in folders))
    wait_until(lambda: not is_alive(of_itself(study)[0]["parent"]))
