"""Trackers get a copy of a study and can never cost it a run."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from alexnet_ablations.design import Cell
from alexnet_ablations.execution import Watcher
from alexnet_ablations.sinks import open_sink
from alexnet_ablations.study import PlannedRun
from alexnet_ablations.tracking import Mirror, mirrored
from alexnet_lab.records import RunFolder
from alexnet_lab.training.recipe import Recipe

MAIN = "from alexnet_ablations.cli import main; main()"
RESULT = {"steps": 20, "test": {"accuracy": 0.5, "auroc": None, "recall": [0.5, 0.5], "images": 4}}


def row(epoch):
    return {"epoch": epoch, "step": 10 * epoch, "train_loss": 1 / epoch, "validation_auroc": None, "seconds": 1.5}


@pytest.fixture
def planned(tmp_path):
    """Plan runs of a study in a folder of its own, by cell and seed."""

    def plan(norm="bn", seed=0, study="study"):
        cell = Cell((("norm", norm), ("dropout", None)))
        folder = RunFolder(tmp_path / study / "runs" / cell.name / f"seed-{seed}")
        return PlannedRun(cell, seed, Recipe(norm=norm, seed=seed), folder)

    return plan


def begin(run):
    run.folder.begin(run.recipe.to_json(), {"classes": ["a", "b"]}, "{}")


def make(run, mirror, epochs=2, state="ok"):
    """Play a run of so many epochs as a coordinator sees it."""
    mirror.run_started(run)
    begin(run)
    for epoch in range(1, epochs + 1):
        run.folder.log(row(epoch))
        mirror.epoch(run)
    run.folder.end(state, "" if state == "ok" else "the loss was nan", RESULT if state == "ok" else {})
    mirror.run_ended(run)


class Recorder:
    """Writes down what it is told."""

    def __init__(self):
        self.heard = []
        self.threads = set()

    def run_started(self, run):
        self.threads.add(threading.get_ident())
        self.heard.append(("started", run.name, run.recipe["norm"]))

    def epoch(self, run, row):
        self.heard.append(("epoch", run.name, row["epoch"]))

    def run_ended(self, run, verdict):
        self.heard.append(("ended", run.name, verdict["state"]))

    def close(self):
        self.heard.append(("closed",))


# --- the boundary -----------------------------------------------------------------------------------------------------


def test_a_sink_hears_each_run_once_and_in_order_from_another_thread(planned):
    sink, told = Recorder(), []
    mirror = Mirror(sink, "study", told.append)
    make(planned("bn"), mirror)
    make(planned("none", seed=1), mirror, epochs=1, state="diverged")
    mirror.close()
    assert sink.heard == [
        ("started", "norm=bn,dropout=published/seed-0", "bn"),
        ("epoch", "norm=bn,dropout=published/seed-0", 1),
        ("epoch", "norm=bn,dropout=published/seed-0", 2),
        ("ended", "norm=bn,dropout=published/seed-0", "ok"),
        ("started", "norm=none,dropout=published/seed-1", "none"),
        ("epoch", "norm=none,dropout=published/seed-1", 1),
        ("ended", "norm=none,dropout=published/seed-1", "diverged"),
        ("closed",),
    ]
    assert told == []
    assert sink.threads != {threading.get_ident()}


def test_what_an_earlier_attempt_left_is_not_told_when_a_run_starts(planned):
    run, sink = planned(), Recorder()
    begin(run)
    run.folder.log(row(7))
    mirror = Mirror(sink, "study", pytest.fail)
    mirror.run_started(run)
    time.sleep(0.2)
    assert [event[0] for event in sink.heard] == ["started"]
    make(run, mirror)
    mirror.close()
    assert [event[2] for event in sink.heard if event[0] == "epoch"] == [1, 2]


def test_a_run_that_is_started_again_and_repeats_epochs_is_told_each_once(planned):
    run, sink = planned(), Recorder()
    mirror = Mirror(sink, "study", pytest.fail)
    mirror.run_started(run)
    begin(run)
    run.folder.log(row(1))
    mirror.epoch(run)
    make(run, mirror)  # killed, and begun from the start
    mirror.close()
    assert [event[0] for event in sink.heard] == ["started", "epoch", "epoch", "ended", "closed"]


def test_a_run_without_a_verdict_is_told_as_lost(planned):
    run, sink = planned(), Recorder()
    mirror = Mirror(sink, "study", pytest.fail)
    mirror.run_started(run)
    begin(run)
    mirror.run_ended(run)
    (run.folder.path / "state.json").write_text("{torn")
    mirror.run_ended(run)
    mirror.close()
    assert [event[2] for event in sink.heard if event[0] == "ended"] == ["lost", "lost"]


@pytest.mark.parametrize("where", ["run_started", "epoch", "run_ended", "close"])
def test_a_sink_that_raises_is_switched_off_and_told_once(planned, where, monkeypatch):
    sink, told = Recorder(), []

    def fail(*_):
        sink.heard.append("failed")
        raise ConnectionError("no route to host\nsecond line")

    monkeypatch.setattr(sink, where, fail)
    mirror = Mirror(sink, "study", told.append)
    for seed in range(3):
        make(planned(seed=seed), mirror)
    mirror.close()
    assert sink.heard.count("failed") == 1
    assert sink.heard[-1] == "failed"
    assert told == [
        "tracking is switched off: ConnectionError: no route to host. The study goes on; its folder has everything"
    ]


def test_a_slow_sink_delays_nobody_and_gets_everything(planned, monkeypatch):
    sink = Recorder()
    heard = sink.epoch

    def slow(*arguments):
        time.sleep(0.2)
        heard(*arguments)

    monkeypatch.setattr(sink, "epoch", slow)
    mirror = Mirror(sink, "study", pytest.fail)
    began = time.monotonic()
    for seed in range(2):
        make(planned(seed=seed), mirror)
    assert time.monotonic() - began < 0.4  # the sink alone takes 0.8
    mirror.close()
    assert len([event for event in sink.heard if event[0] == "epoch"]) == 4
    assert sink.heard[-1] == ("closed",)


def test_a_sink_that_hangs_is_left_behind_after_its_time(planned, monkeypatch):
    sink, told, release = Recorder(), [], threading.Event()
    monkeypatch.setattr(sink, "epoch", lambda *_: release.wait(30))
    mirror = Mirror(sink, "study", told.append, patience=0.3)
    make(planned(), mirror)
    began = time.monotonic()
    mirror.close()
    assert time.monotonic() - began < 5
    assert len(told) == 1
    assert "it was not done 0.3 s after the study" in told[0]
    release.set()


class Listener(Watcher):
    """Writes down the names of what it is told."""

    def __init__(self):
        self.heard, self.notes = [], []

    def __getattribute__(self, name):
        if name in ("begin", "started", "moved", "died", "ended", "skipped", "tick", "close"):
            return lambda *_: self.heard.append(name)
        return super().__getattribute__(name)

    def note(self, text):
        self.notes.append(text)


def test_a_watcher_sees_all_that_it_would_without_a_tracker(planned, monkeypatch):
    sink, listener = Recorder(), Listener()
    done, coming = planned(seed=0), planned(seed=1)
    make(done, Mirror(Recorder(), "study", pytest.fail))
    study = SimpleNamespace(folder=Path("study"), runs=lambda: [done, coming])
    watcher = mirrored(listener, study, sink)
    watcher.begin([coming], 1)
    attempt = SimpleNamespace(run=coming, epochs=0)
    watcher.started(attempt)
    begin(coming)
    for epoch in (0, 1, 1, 2):
        if epoch > attempt.epochs:
            coming.folder.log(row(epoch))
        attempt.epochs = epoch
        watcher.moved(attempt)
    watcher.died(attempt)
    watcher.tick()
    coming.folder.end("ok", "", RESULT)
    watcher.ended(attempt)
    watcher.skipped(done)
    watcher.note("a note")
    watcher.close()
    moves = ["moved"] * 4
    assert listener.heard == ["begin", "started", *moves, "died", "tick", "ended", "skipped", "close"]
    assert listener.notes == ["a note"]
    first, second = (f"norm=bn,dropout=published/seed-{seed}" for seed in (0, 1))
    told = [event[:2] for event in sink.heard[:-1]]
    of_one = [("started", first), ("epoch", first), ("epoch", first), ("ended", first)]
    assert told == [*of_one, ("started", second), ("epoch", second), ("epoch", second), ("ended", second), *of_one]


def test_the_terminal_is_given_back_whatever_the_tracker_does(monkeypatch):
    listener = Listener()
    watcher = mirrored(listener, SimpleNamespace(folder=Path("study"), runs=list), Recorder())
    monkeypatch.setattr(watcher.mirror, "close", lambda: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        watcher.close()
    assert listener.heard == ["close"]


# --- what stands in the trackers --------------------------------------------------------------------------------------


def read_scalars(folder):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(folder))
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_tensorboard_has_a_folder_per_run_however_often_the_study_is_taken_up(planned, tmp_path):
    pytest.importorskip("tensorboard")
    (tmp_path / "tb" / "study").mkdir(parents=True)
    for _ in range(2):
        told = []
        mirror = Mirror(open_sink(f"tensorboard:{tmp_path / 'tb'}"), "study", told.append)
        make(planned("bn"), mirror)
        make(planned("none", seed=1), mirror, state="diverged")
        mirror.close()
        assert told == []
    place = tmp_path / "tb" / "study" / "norm=bn,dropout=published" / "seed-0"
    assert len(list(place.iterdir())) == 1
    assert read_scalars(place) == {
        "loss/train": [(10, 1.0), (20, 0.5)],
        "run/seconds": [(10, 1.5), (20, 1.5)],
        "accuracy/test": [(20, 0.5)],
        "images/test": [(20, 4.0)],
    }
    other = read_scalars(tmp_path / "tb" / "study" / "norm=none,dropout=published" / "seed-1")
    assert "accuracy/test" not in other


@pytest.fixture
def quiet_mlflow(monkeypatch):
    """Keep what the sink sets in the environment from the tests after it."""
    pytest.importorskip("mlflow")
    for name in (*("MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK"), "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"):
        monkeypatch.setenv(name, "true")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")


def test_mlflow_has_an_experiment_per_study_and_no_number_twice(planned, tmp_path, quiet_mlflow):
    from mlflow import MlflowClient

    address = (tmp_path / "mlruns").as_uri()
    told = []
    interrupted = Mirror(open_sink(f"mlflow:{address}"), "study", told.append)
    run = planned("bn")
    interrupted.run_started(run)
    begin(run)
    run.folder.log(row(1))
    interrupted.epoch(run)
    interrupted.close()
    client = MlflowClient(tracking_uri=address)
    experiment = client.get_experiment_by_name("study").experiment_id
    assert [found.info.status for found in client.search_runs([experiment])] == ["KILLED"]
    again = Mirror(open_sink(f"mlflow:{address}"), "study", told.append)
    make(run, again)
    make(planned("none", seed=1), again, state="diverged")
    again.close()
    twice = Mirror(open_sink(f"mlflow:{address}"), "study", told.append)
    make(run, twice)  # done long ago, and told once more
    twice.close()
    assert told == []
    found = {found.data.tags["mlflow.runName"]: found for found in client.search_runs([experiment])}
    assert set(found) == {"norm=bn,dropout=published/seed-0", "norm=none,dropout=published/seed-1"}
    first, second = (found[name] for name in sorted(found))
    assert (first.info.status, first.data.tags["state"]) == ("FINISHED", "ok")
    assert (second.info.status, second.data.tags["state"]) == ("FAILED", "diverged")
    assert second.data.tags["why"] == "the loss was nan"
    history = client.get_metric_history(first.info.run_id, "train_loss")
    assert [(metric.step, metric.value) for metric in history] == [(10, 1.0), (20, 0.5)]
    (tested,) = client.get_metric_history(first.info.run_id, "test_accuracy")
    assert (tested.step, tested.value) == (20, 0.5)
    assert first.data.params["norm"] == "bn"
    assert first.data.params == {name: str(value) for name, value in vars(run.recipe).items() if value != ""}


def test_mlflow_asks_nobody_outside_unless_the_address_is_there(tmp_path):
    pytest.importorskip("mlflow")
    watched = (
        "import socket, sys\n"
        "def refuse(self, address):\n"
        "    print('CONNECT', address, flush=True)\n"
        "    raise OSError('no network here')\n"
        "socket.socket.connect = refuse\n"
        "socket.getaddrinfo = lambda *a, **k: print('LOOKUP', a, flush=True) or refuse(None, a)\n"
        "from alexnet_ablations.sinks import TrackedRun, open_sink\n"
        "sink = open_sink('mlflow:' + sys.argv[1])\n"
        "import mlflow.telemetry\n"
        "assert mlflow.telemetry.get_telemetry_client() is None\n"
        "run = TrackedRun('study', 'norm=bn', 0, {'norm': 'bn'}, {'norm': 'bn'})\n"
        "sink.run_started(run)\n"
        "sink.epoch(run, {'epoch': 1, 'step': 1, 'train_loss': 1.0})\n"
        "sink.run_ended(run, {'state': 'ok', 'why': '', 'result': {}})\n"
        "sink.close()\n"
        "print('done')\n"
    )
    # Bare of what marks a test or CI, in which mlflow is silent by itself.
    bare = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        [sys.executable, "-c", watched, (tmp_path / "mlruns").as_uri()],
        capture_output=True,
        text=True,
        env=bare,
        cwd=tmp_path,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "done\n"


@pytest.mark.long
def test_a_study_ends_well_beside_one_tracker_that_works_and_one_that_is_not_there(tmp_path):
    pytest.importorskip("tensorboard")
    pytest.importorskip("mlflow")
    smallest = ["--norm", "bn", "--seeds", "1", "--epochs", "1", "--baseline", "width=0.0625"]
    trackers = ["--track", "tensorboard:tb", "--track", "mlflow:http://127.0.0.1:9"]
    for _ in range(2):  # the second time all is done, and told all the same
        done = subprocess.run(
            [sys.executable, "-c", MAIN, "ablate", *smallest, *trackers, "--out", "study"],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            check=False,
            timeout=500,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.count("tracking is switched off: MlflowException") == 1
        for cell in ("norm=lrn", "norm=bn"):
            folder = tmp_path / "tb" / "study" / cell / "seed-0"
            accuracy = json.loads((tmp_path / f"study/runs/{cell}/seed-0/state.json").read_text())["result"]["test"]
            assert [value for _, value in read_scalars(folder)["accuracy/test"]] == [
                pytest.approx(accuracy["accuracy"], rel=1e-6)
            ]
            shutil.rmtree(folder)


# --- what is refused before anything runs -----------------------------------------------------------------------------


def test_a_mistaken_tracker_ends_as_one_line_before_anything_is_written(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", MAIN, "ablate", "--norm", "bn", "--track", "tensorbord:x", "--out", "study"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
        timeout=120,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: unknown tracker 'tensorbord'. Did you mean 'tensorboard'")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tensorbord:x", "unknown tracker 'tensorbord'. Did you mean 'tensorboard'"),
        ("tensorboard", "a tracker is written tensorboard:FOLDER, as in tensorboard:runs/tb; got 'tensorboard'"),
        ("mlflow:", "a tracker is written mlflow:ADDRESS, as in"),
    ],
)
def test_what_is_no_tracker_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        open_sink(text)


def test_a_database_that_mlflow_skinny_cannot_open_is_refused(tmp_path, quiet_mlflow):
    with pytest.raises(ValueError, match="a database needs the whole of it: pip install mlflow"):
        open_sink(f"mlflow:nosuch:///{tmp_path}/x")


@pytest.mark.parametrize(("package", "text"), [("tensorboard", "tensorboard:x"), ("mlflow", "mlflow:file:///x")])
def test_without_the_package_one_sentence_says_what_to_install(package, text, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=r'not installed: pip install "alexnet-lab\[tracking\]"'):
        open_sink(text)
