"""Processes: several side by side, a death that takes nothing with it, no room, no time, no place."""

import time
from pathlib import Path

import pytest
from stand_ins import DEATHS, WELL, Listener, make, states_of, study_in, use

from alexnet_ablations.declare.history import read_history
from alexnet_ablations.declare.status import statuses
from alexnet_ablations.run import coordinator as execution
from alexnet_ablations.run import engines
from alexnet_ablations.run.coordinator import run_all
from alexnet_ablations.run.executors import local


def test_a_killed_run_is_started_once_more_and_goes_on(tmp_path, monkeypatch):
    use(
        monkeypatch,
        """
mark = folder.path / "killed-before"
if norm == "bn" and seed == 0 and not mark.exists():
    folder.log({"epoch": 1})
    mark.touch()
    os.kill(os.getpid(), signal.SIGKILL)
"""
        + WELL,
    )
    study = study_in(tmp_path)
    heard = make(study)
    assert states_of(study) == ["ok"] * 4
    assert heard.of("died") == [("norm=bn", 0)]
    assert heard.of("started").count(("norm=bn", 0)) == 2
    assert [row["epoch"] for row in study.runs()[1].folder.metrics()] == [1, 2]
    assert read_history(tmp_path / "runs" / "norm=bn" / "seed-0").attempts == 2


@pytest.mark.parametrize(
    ("death", "why"),
    [
        *DEATHS,
    ],
)
def test_a_run_that_dies_twice_is_lost_and_takes_no_other_with_it(death, why, tmp_path, monkeypatch):
    use(monkeypatch, f"if norm == 'bn' and seed == 0: {death}\n{WELL}")
    study = study_in(tmp_path)
    make(study)
    assert states_of(study) == ["ok", "lost", "ok", "ok"]
    told = study.runs()[1].folder.verdict()["why"]
    assert why in told
    assert told.endswith("2 times in a row")


def test_diverged_and_failed_runs_are_findings_and_are_not_started_again(tmp_path, monkeypatch):
    use(
        monkeypatch,
        """
if norm == "bn":
    folder.end("diverged" if seed else "error", "as planted")
    sys.exit(0 if seed else 1)
"""
        + WELL,
    )
    study = study_in(tmp_path)
    heard = make(study)
    assert states_of(study) == ["ok", "error", "ok", "diverged"]
    assert len(heard.of("started")) == 4
    verdicts = [run.folder.verdict() for run in study.runs() if run.cell.name == "norm=bn"]
    assert [(verdict["state"], verdict["why"]) for verdict in verdicts] == [
        ("error", "as planted"),
        ("diverged", "as planted"),
    ]


def test_a_run_over_its_time_is_asked_to_save_and_is_a_timeout(tmp_path, monkeypatch):
    use(
        monkeypatch,
        """
def save(*_):
    (folder.path / "saved").touch()
    sys.exit(130)
if norm == "bn":
    signal.signal(signal.SIGTERM, save)
    time.sleep(60)
"""
        + WELL,
    )
    study = study_in(tmp_path, seeds=1)
    make(study, timeout=1.0 / 60)
    assert states_of(study) == ["ok", "timeout"]
    late = study.runs()[1].folder
    assert (late.path / "saved").exists()
    assert "longer than 0.0166667 min and was stopped after 0 of 1 epochs" in late.verdict()["why"]


def test_a_run_over_its_time_that_does_not_listen_is_ended_with_all_it_started(tmp_path, monkeypatch):
    monkeypatch.setattr(local, "GRACE", 0.2)
    use(
        monkeypatch,
        """
import subprocess
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
(folder.path / "child").write_text(str(child.pid))
time.sleep(60)
""",
    )
    study = study_in(tmp_path, seeds=1)
    make(study, runs=study.runs()[:1], timeout=1.5 / 60)
    assert states_of(study)[0] == "timeout"
    child = int((study.runs()[0].folder.path / "child").read_text())
    deadline = time.monotonic() + 5
    while is_alive(child) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not is_alive(child)


def test_what_a_dead_run_leaves_behind_is_ended_and_does_not_hold_its_folder(tmp_path, monkeypatch):
    use(
        monkeypatch,
        """
child = os.fork()
if child == 0:
    time.sleep(60)
with (folder.path / "children").open("a") as file:
    file.write(f"{child}\\n")
os._exit(1)
""",
    )
    study, began = study_in(tmp_path, seeds=1), time.monotonic()
    make(study, runs=study.runs()[:1])
    assert states_of(study)[0] == "lost"
    children = [int(line) for line in (study.runs()[0].folder.path / "children").read_text().split()]
    assert len(children) == 2
    while any(map(is_alive, children)):
        assert time.monotonic() - began < 30
        time.sleep(0.02)


def is_alive(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_no_more_runs_stand_side_by_side_than_asked(tmp_path, monkeypatch):
    use(monkeypatch, "time.sleep(0.2)\n" + WELL)
    assert max(make(study_in(tmp_path, 3), jobs=2).side_by_side) == 2


def test_runs_start_seed_by_seed_so_that_what_is_there_is_balanced(tmp_path, monkeypatch):
    use(monkeypatch, WELL)
    started = make(study_in(tmp_path, 3), jobs=1).of("started")
    assert [seed for _, seed in started] == [0, 0, 1, 1, 2, 2]


def test_a_verdict_from_an_earlier_attempt_does_not_pass_for_this_one(tmp_path, monkeypatch):
    use(monkeypatch, "os._exit(1)")
    doomed = study_in(tmp_path).runs()[1]
    doomed.folder.begin(doomed.recipe.to_json(), {}, "{}")
    doomed.folder.end("ok", result={"test": {"accuracy": 1.0}})
    run_all(tmp_path, [doomed], 1, repeat=True)
    assert doomed.folder.verdict()["state"] == "lost"


def test_what_is_done_when_its_turn_comes_is_not_done_again(tmp_path, monkeypatch):
    use(monkeypatch, WELL)
    study = study_in(tmp_path)
    done = study.runs()[1]
    done.folder.begin(done.recipe.to_json(), {}, "{}")
    done.folder.end("ok", result={"test": {"accuracy": 1.0}})
    heard = make(study)
    assert heard.of("skipped") == [("norm=bn", 0)]
    assert done.folder.verdict()["result"]["test"]["accuracy"] == 1.0


def test_runs_that_all_fail_in_the_same_way_are_one_error(tmp_path, monkeypatch):
    use(monkeypatch, 'folder.end("error", f"no such data, says {folder.path}")')
    study, listener = study_in(tmp_path, 5), Listener()
    with pytest.raises(ValueError, match="the first 3 runs failed in the same way.*no such data"):
        run_all(study.folder, study.runs(), 1, listener)
    assert len(listener.processes) == 3


def test_failures_of_different_kinds_do_not_stop_a_study(tmp_path, monkeypatch):
    use(monkeypatch, 'folder.end("error", f"seed {seed}")')
    assert len(make(study_in(tmp_path, 4), jobs=1).of("error")) == 8


def test_a_full_disk_stops_the_study_with_one_sentence_and_lets_runs_in_progress_save(tmp_path, monkeypatch):
    use(monkeypatch, WELL)
    monkeypatch.setattr(local.shutil, "disk_usage", lambda _path: type("Usage", (), {"free": 5 * 2**20}))
    with pytest.raises(ValueError, match="no room for another run: 5 MiB are free.*64 must be; free some"):
        make(study_in(tmp_path))
    assert not list(tmp_path.glob("runs/*"))


def test_a_verdict_that_finds_no_room_is_said_and_ends_nothing_else(tmp_path, monkeypatch):
    use(monkeypatch, f"if norm == 'bn': os._exit(1)\n{WELL}")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("alexnet_lab.records.RunFolder.end", full)
    study = study_in(tmp_path, 1)
    heard = make(study)
    assert any("the verdict of norm=bn seed 0 cannot be written" in note for note in heard.notes)
    assert states_of(study) == ["ok", None]
    assert {run.cell.name: read_history(run.folder.path).state for run in study.runs()} == {
        "norm=bn": "lost",
        "norm=lrn": "ok",
    }


def test_a_folder_that_cannot_be_written_is_refused_with_one_sentence(tmp_path, monkeypatch):
    use(monkeypatch, WELL)
    (tmp_path / "taken").write_text("a file, not a folder")
    study = study_in(tmp_path / "taken")
    with pytest.raises(ValueError, match="taken must be a folder that can be written.*; choose another"):
        make(study)
    with pytest.raises(ValueError, match="taken must be a folder that can be written.*; choose another with --out"):
        study.open_folder()
    execution.refuse_if_coordinated(study.folder)
    (tmp_path / "study" / "runs").mkdir(parents=True)
    (tmp_path / "study" / "runs" / "norm=lrn").write_text("in the way")
    with pytest.raises(ValueError, match="seed-0 cannot be written.*the same command continues"):
        make(study_in(tmp_path / "study"))


def test_a_time_limit_must_be_above_zero(tmp_path):
    with pytest.raises(ValueError, match="above 0 minutes, got 0"):
        make(study_in(tmp_path), timeout=0)


def test_where_memory_is_short_fewer_runs_stand_side_by_side_and_it_is_said_once(tmp_path, monkeypatch):
    # Each run says that it took 3 GiB; 4 GiB stay free whatever runs, so a second one does not fit beside the first.
    use(
        monkeypatch,
        """
time.sleep(0.3)
folder.end("ok", result={"test": {"accuracy": 0.5}, "peak_memory_bytes": 3 * 2**30})
""",
    )
    monkeypatch.setattr(local, "free_memory", lambda: 4 * 2**30)
    study = study_in(tmp_path, 3)
    heard = make(study, jobs=1, runs=study.runs()[:1])
    assert heard.notes == []
    heard = make(study, jobs=3)
    assert max(heard.side_by_side) == 1
    assert heard.notes == ["fewer than 3 side by side: a run takes about 3.0 GiB of memory"]
    assert states_of(study) == ["ok"] * 6


def test_runs_are_placed_by_the_engine_of_that_name(tmp_path, monkeypatch):
    placed = []

    class Recording(local.LocalExecutor):
        def submit(self, run, number, is_done):
            placed.append((run.cell.name, run.seed))
            return super().submit(run, number, is_done)

    class Engine(local.Local):
        def open(self, order):
            return Recording(order.needs, order.jobs, order.say)

    monkeypatch.setitem(engines.ENGINES, "recording", Engine)
    use(monkeypatch, WELL)
    study = study_in(tmp_path, seeds=1)
    make(study, executor="recording")
    assert set(placed) == {("norm=lrn", 0), ("norm=bn", 0)}
    assert states_of(study) == ["ok", "ok"]
    with pytest.raises(ValueError, match="unknown executor 'recordin'. Did you mean 'recording'"):
        make(study, executor="recordin")


def test_what_a_run_left_that_was_killed_after_its_verdict_is_removed(tmp_path, monkeypatch):
    use(monkeypatch, WELL)
    study = study_in(tmp_path)
    make(study)
    checkpoints = study.runs()[0].folder.path / "checkpoints"
    checkpoints.mkdir(exist_ok=True)
    for name in ("step-0000010.json", "step-0000010.safetensors", "best.json"):
        (checkpoints / name).write_text("{}")
    make(study, runs=[])
    assert [path.name for path in checkpoints.iterdir()] == ["best.json"]


@pytest.mark.parametrize("damage", ["cut", "gone", "verdict"])
def test_a_run_whose_records_changed_after_it_ended_is_damaged_and_made_again(damage, tmp_path, monkeypatch):
    use(monkeypatch, WELL)
    study = study_in(tmp_path)
    make(study)
    folder = study.runs()[1].folder
    if damage == "cut":
        (folder.path / "metrics.jsonl").write_text("")
    elif damage == "gone":
        (folder.path / "metrics.jsonl").unlink()
    else:
        text = (folder.path / "state.json").read_text()
        (folder.path / "state.json").write_text(text.replace("0.5", "0.6"))
    assert [run.is_done for run in study.runs()] == [True, False, True, True]
    assert [status.state for status in statuses(study.runs())] == ["ok", "damaged", "ok", "ok"]
    heard = make(study, runs=[run for run in study.runs() if not run.is_done])
    assert heard.of("ok") == [("norm=bn", 0)]
    assert all(run.is_done for run in study.runs())
