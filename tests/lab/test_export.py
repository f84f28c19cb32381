"""Exports read back as what the records hold: tables by pandas, event files by TensorBoard's own reader."""

import json
import subprocess
import sys

import numpy as np
import pytest
from commands import answered

from alexnet_kernels.statistics import exponent_histogram
from alexnet_lab.instruments.flow import FlowWriter, Layout, Parameter, Site
from alexnet_lab.predictions_file import PartPredictions, write_predictions
from alexnet_lab.records import RunFolder
from alexnet_lab.reports.export import export, raw_histogram
from alexnet_lab.reports.run_tables import run_tables

pandas = pytest.importorskip("pandas")
torch = pytest.importorskip("torch")

WEIGHTS = np.array([[0.75, -0.75, 3.0, 0.0], [-0.1, 5.0, np.inf, np.nan]], np.float32)  # one window each
GRADIENTS = np.array([[1e-40, -1e-40, 0.0, -8.0]] * 2, np.float32)
ACTIVATIONS = np.array([[0.0, 0.0, 0.0, 2.0]] * 2, np.float32)


def counted(values):
    return exponent_histogram(torch.from_numpy(values)).numpy()


def row(epoch):
    return {
        "epoch": epoch,
        "step": 10 * epoch,
        "train_loss": 1.0 / epoch,
        "validation_loss": 2.0 / epoch,
        "validation_auroc": None if epoch == 1 else 0.75,
        "learning_rate": 0.1,
        "seconds": 1.5,
    }


@pytest.fixture
def run(tmp_path):
    """Write the folder of a run of two epochs and two classes, with instruments."""
    folder = RunFolder(tmp_path / "run")
    provenance = {"classes": ["cat", "dog"], "started": "2026-01-02T03:04:05Z"}
    folder.begin(json.dumps({"network": "alexnet"}), provenance, "{}")
    for epoch in (1, 2):
        folder.log(row(epoch))
    part = {"accuracy": 0.75, "auroc": None, "recall": [1.0, None], "confusion": [[3, 0], [1, 0]], "images": 4}
    folder.end("ok", result={"tested_epoch": 2, "validation": part, "test": {**part, "accuracy": 0.5}})
    writer = FlowWriter(folder.path)
    parameter = Parameter("features.conv1.weight", "features.conv1", (2, 1, 1, 2))
    sites = (
        Site("features.relu1", "features.conv1", "ReLU", "channel", 2),
        Site("features.act2", "features.conv2", "LeakyReLU", "channel", 1),
    )
    writer.begin(Layout((parameter,), sites))
    for epoch in (1, 2):
        at = epoch - 1
        writer.write_epoch(
            epoch,
            {
                "steps": {
                    "step": np.array([10 * epoch - 5, 10 * epoch], np.int32),
                    "parameter": np.zeros(2, np.int16),
                    "weight_norm": np.array([1, 2], np.float32) * epoch,
                    "gradient_norm": np.array([0.1, 0.2], np.float32) * epoch,
                    "update_norm": np.array([0.01, 0.02], np.float32) * epoch,
                },
                "windows": {
                    "kind": np.array([0, 1, 2], np.int8),
                    "subject": np.array([0, 0, 1], np.int16),
                    "first_step": np.full(3, 10 * epoch - 9, np.int32),
                    "last_step": np.full(3, 10 * epoch, np.int32),
                    "tensors": np.full(3, 2, np.int32),
                    "stride": np.ones(3, np.int32),
                    "underflow": np.array([0, 0.25, 0], np.float32),
                    "overflow": np.zeros(3, np.float32),
                    "signal_to_noise": np.array([np.nan, 0.5, np.nan], np.float32),
                },
                "histograms": {"counts": np.stack([counted(x[at]) for x in (WEIGHTS, GRADIENTS, ACTIVATIONS)])},
                "units": {
                    "site": np.array([0, 0, 1], np.int16),
                    "unit": np.array([0, 1, 0], np.int32),
                    "split": np.zeros(3, np.int8),
                    "inputs": np.full(3, 32, np.int64),
                    "off": np.array([32, 8, 16 * epoch], np.int64),
                    "elements": np.full(3, 64, np.int64),
                    "elements_off": np.array([64, 20, 40], np.int64),
                },
                "cost": {
                    "step": np.array([10 * epoch], np.int32),
                    "measuring_seconds": np.array([0.25]),
                    "total_seconds": np.array([1.5]),
                },
            },
        )
    owners = np.array(["p2", "p1", "p2", "p1"])
    answers = np.array([[0.75, 0.25], [0.5, 0.5], [0.25, 0.75], [0.75, 0.25]])
    tested = PartPredictions(np.array([9, 4, 6, 7]), np.array([0, 0, 1, 1]), answers, owners)
    checked = PartPredictions(np.array([1, 2, 3, 5]), np.array([0, 0, 1, 1]), answers, owners)
    write_predictions(folder.path / "predictions.npz", {"validation": checked, "test": tested}, ("cat", "dog"))
    return folder.path


def test_predictions_have_a_row_per_image(run, monkeypatch):
    table = run_tables(run)["predictions"]
    assert table.drop(columns="probability of dog").to_numpy().tolist()[4:] == [
        ["test", 9, "cat", "cat", "p2", 0.75],
        ["test", 4, "cat", "cat", "p1", 0.5],
        ["test", 6, "dog", "dog", "p2", 0.25],
        ["test", 7, "dog", "cat", "p1", 0.75],
    ]
    assert (table["probability of cat"] + table["probability of dog"] == 1).all()
    monkeypatch.setattr("alexnet_lab.reports.run_tables.DENSE_UP_TO", 1)  # as with many classes
    few = run_tables(run)["predictions"]
    assert list(few)[5:] == ["probability of the true class", "probability of the predicted class"]
    assert few.iloc[-1].tolist()[5:] == [0.25, 0.75]


def test_tables_have_names_instead_of_indices(run):
    tables = run_tables(run)
    assert set(tables) == {
        *("metrics", "result", "confusion", "steps", "windows", "histograms", "units", "cost", "parameters", "sites"),
        "predictions",
    }
    assert tables["metrics"].to_dict("records")[1] == row(2)
    steps = tables["steps"]
    assert list(steps) == ["epoch", "parameter", "layer", "step", "weight_norm", "gradient_norm", "update_norm"]
    assert steps["parameter"].unique().tolist() == ["features.conv1.weight"]
    assert steps[["epoch", "step", "weight_norm"]].to_numpy().tolist() == [
        [1, 5, 1],
        [1, 10, 2],
        [2, 15, 2],
        [2, 20, 4],
    ]
    windows = tables["windows"]
    assert windows[["window", "kind", "subject", "layer"]].to_numpy().tolist()[3:] == [
        [3, "weight", "features.conv1.weight", "features.conv1"],
        [4, "gradient", "features.conv1.weight", "features.conv1"],
        [5, "activation", "features.act2", "features.conv2"],
    ]
    units = tables["units"]
    assert units[["epoch", "site", "unit", "split", "counted", "off"]].to_numpy().tolist()[3:] == [
        [2, "features.relu1", 0, "training", "off", 32],
        [2, "features.relu1", 1, "training", "off", 8],
        [2, "features.act2", 0, "training", "negative side", 32],
    ]
    recall = tables["result"].query("metric == 'recall' and part == 'test'")
    assert recall["class"].tolist() == ["cat", "dog"]
    assert recall["value"].iloc[0] == 1
    assert np.isnan(recall["value"].iloc[1])
    assert tables["confusion"].query("part == 'test' and count > 0")["count"].tolist() == [3, 1]


def test_histograms_in_long_form_count_the_values_themselves(run):
    table = run_tables(run)["histograms"]
    first = table.query("window == 0")  # 0.75, -0.75, 3, 0
    found = {(sign, name): count for sign, name, count in zip(first["sign"], first["bin"], first["count"], strict=True)}
    assert found == {(1, "zero"): 1, (1, "2^-1"): 1, (-1, "2^-1"): 1, (1, "2^1"): 1}
    assert first.query("bin == '2^1'")[["magnitude_from", "magnitude_below"]].to_numpy().tolist() == [[2, 4]]
    second = table.query("window == 3")  # -0.1, 5, inf, nan
    assert set(zip(second["bin"], second["sign"], strict=True)) == {
        ("2^-4", -1),
        ("2^2", 1),
        ("infinite", 1),
        ("nan", 1),
    }
    gradients = table.query("window == 1")
    assert set(zip(gradients["bin"], gradients["sign"], strict=True)) == {
        *(("subnormal", 1), ("subnormal", -1), ("zero", 1), ("2^3", -1))
    }
    assert table.groupby("window")["count"].sum().tolist() == [4] * 6


@pytest.mark.parametrize("to", ["csv", "parquet"])
def test_tables_read_back_as_they_were(run, tmp_path, to):
    if to == "parquet":
        pytest.importorskip("pyarrow")
    written = export(run, to, tmp_path / "out")
    tables = run_tables(run)
    assert {path.stem for path in written} == set(tables) == {path.stem for path in (tmp_path / "out").iterdir()}
    for path in written:
        if to == "parquet":
            read = pandas.read_parquet(path)
        else:
            read = pandas.read_csv(path, keep_default_na=False, na_values=[""])  # "nan" is the name of a bin
        pandas.testing.assert_frame_equal(read, tables[path.stem], check_dtype=to == "parquet", rtol=1e-6)


def test_a_run_in_progress_and_without_instruments_has_its_metrics(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.begin("{}", {}, "{}")
    folder.log(row(1))
    assert [path.name for path in export(folder.path, "csv", tmp_path / "out")] == ["metrics.csv"]


# --- TensorBoard ------------------------------------------------------------------------------------------------------


def read_events(folder):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0, "histograms": 0})
    events.Reload()
    return events


def test_event_files_hold_every_scalar_at_its_step(run, tmp_path):
    events = read_events((export(run, "tensorboard", tmp_path / "out"), tmp_path / "out")[1])
    scalars = {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    assert scalars["loss/train"] == [(10, 1.0), (20, 0.5)]
    assert scalars["loss/validation"] == [(10, 2.0), (20, 1.0)]
    assert scalars["auroc/validation"] == [(20, 0.75)]
    assert [step for step, _ in scalars["weight_norm/features.conv1.weight"]] == [5, 10, 15, 20]
    assert scalars["off rate/features.relu1 (training)"] == [(10, 0.625), (20, 0.625)]
    assert scalars["always off/features.relu1 (training)"] == [(10, 1), (20, 1)]
    assert scalars["always negative side/features.act2 (training)"] == [(10, 0), (20, 1)]
    assert scalars["nan weight/features.conv1.weight"] == [(20, 1)]
    assert scalars["infinite weight/features.conv1.weight"] == [(20, 1)]
    started = 1767323045  # 2026-01-02T03:04:05Z
    assert [e.wall_time - started for e in events.Scalars("loss/train")] == [1.5, 3.0]


def test_event_files_hold_the_histograms_bin_for_bin(run, tmp_path):
    export(run, "tensorboard", tmp_path / "out")
    events = read_events(tmp_path / "out")
    first, second = events.Histograms("weight/features.conv1.weight")
    assert (first.step, second.step) == (10, 20)
    value = first.histogram_value  # 0.75, -0.75, 3, 0
    assert (value.min, value.max, value.num) == (-1, 4, 4)
    edges = [value.min, *value.bucket_limit]
    filled = [(low, high, n) for low, high, n in zip(edges, edges[1:], value.bucket, strict=False) if n]
    tiny = float(np.nextafter(0, 1))
    assert filled == [(-1, -0.5, 1), (0, tiny, 1), (0.5, 1, 1), (2, 4, 1)]
    assert second.histogram_value.num == 2  # inf and NaN are no bucket


def test_exporting_twice_replaces_what_was_exported_and_nothing_else(run, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "events.out.tfevents.1.host.somebody").write_bytes(b"theirs")
    export(run, "tensorboard", out)
    (ours,) = export(run, "tensorboard", out)
    assert sorted(path.name for path in out.iterdir()) == sorted([ours.name, "events.out.tfevents.1.host.somebody"])


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_buckets_agree_with_numpy_on_any_values(scale):
    values = (np.random.default_rng(0).standard_normal(5000) * scale).astype(np.float32)
    values[:100] = 0
    raw = raw_histogram(counted(values), -126)
    edges = np.array([raw["min"], *raw["bucket_limits"]])
    assert (np.diff(edges) > 0).all()
    # numpy's bins are [left, right), as ours are for positive values; no value here is a power of two.
    assert np.histogram(values.astype(np.float64), edges)[0].tolist() == raw["bucket_counts"]
    assert raw["num"] == 5000
    # Of values from e to 2e the estimate has 7/3 e^2, and the squares themselves lie between e^2 and 4 e^2.
    assert 7 / 12 < raw["sum_squares"] / (values.astype(np.float64) ** 2).sum() < 7 / 3
    assert abs(raw["sum"]) < 0.1 * np.abs(values.astype(np.float64)).sum()


def test_a_histogram_of_nothing_finite_is_left_out():
    assert raw_histogram(counted(np.array([np.inf, np.nan], np.float32)), -126) is None


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_what_cannot_be_exported_is_refused_in_a_sentence(run, tmp_path):
    with pytest.raises(ValueError, match="unknown export format 'parqet'. Did you mean 'parquet'"):
        export(run, "parqet", tmp_path / "out")
    with pytest.raises(ValueError, match="absent is no run folder: it has no recipe.json$"):
        export(tmp_path / "absent", "csv", tmp_path / "out")
    study = tmp_path / "study"
    (study / "runs" / "bn").mkdir(parents=True)
    run.rename(study / "runs" / "bn" / "seed-0")
    with pytest.raises(ValueError, match="it holds runs, such as .*study/runs/bn/seed-0: name one of them"):
        export(study, "csv", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("package", "to", "extra"), [("pyarrow", "parquet", "parquet"), ("tensorboard", "tensorboard", "tracking")]
)
def test_without_an_optional_package_one_sentence_says_what_to_install(run, tmp_path, package, to, extra):
    without = (
        f"import sys; sys.modules['{package}'] = None\n"  # as Python has it for a package that is not there
        "from alexnet_ablations.cli import main\n"
        f"sys.argv = ['alexnet-lab', 'export', {str(run)!r}, '--to', {to!r}]\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", without], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 2
    assert f'not installed: pip install "alexnet-lab[{extra}]"' in done.stderr
    assert "Traceback" not in done.stderr
    assert not (run / "export").exists()


def test_the_command_writes_beside_the_records_and_names_the_files(run):
    done = answered("export", run, "--to", "csv", cwd=".")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == str(run / "export" / "metrics.csv")
    assert pandas.read_csv(run / "export" / "metrics.csv")["train_loss"].tolist() == [1.0, 0.5]
