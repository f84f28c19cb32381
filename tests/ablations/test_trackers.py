"""What stands in TensorBoard and MLflow, and which trackers are refused before anything runs."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from commands import answered, command
from tracked import begin, make, read_scalars, row

from alexnet_ablations.run.trackers import open_sink
from alexnet_ablations.run.tracking import Mirror

MAIN = "from alexnet_ablations.cli import main; main()"


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
        "from alexnet_ablations.run.trackers import TrackedRun, open_sink\n"
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
def test_a_study_ends_well_beside_one_tracker_that_works_and_one_that_is_not_there(tmp_path, quiet_mlflow):
    pytest.importorskip("tensorboard")
    smallest = ["--norm", "bn", "--seeds", "1", "--epochs", "1", "--baseline", "batch_size=256"]
    trackers = ["--track", "tensorboard:tb", "--track", "mlflow:http://127.0.0.1:9"]
    for give in (command, answered):  # the second time all is done, and told all the same
        done = give("ablate", *smallest, *trackers, "--out", "study", cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.count("tracking is switched off: MlflowException") == 1
        for cell in ("norm=lrn", "norm=bn"):
            folder = tmp_path / "tb" / "study" / cell / "seed-0"
            accuracy = json.loads((tmp_path / f"study/runs/{cell}/seed-0/state.json").read_text())["result"]["test"]
            assert [value for _, value in read_scalars(folder)["accuracy/test"]] == [
                pytest.approx(accuracy["accuracy"], rel=1e-6)
            ]
            shutil.rmtree(folder)


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
