"""Run folders, changed at random: whoever reads them has the right answer, or says in one sentence what is damaged.

`forged` changes are those of somebody who writes the digests too: what a run would never have written is refused all
the same.
"""

import hashlib
import json
import shutil

import numpy as np
import pytest
import torch
from hostile import Told, altered, as_json, changed, fuzzed, fuzzed_folders, told_by, watched
from hypothesis import given
from hypothesis import strategies as st

from alexnet_ablations.declare.status import status_of
from alexnet_lab.data.preprocessing import Preprocessing
from alexnet_lab.data.scaling import Scaling
from alexnet_lab.data.views import Geometry
from alexnet_lab.diagnosis.examination import diagnose
from alexnet_lab.evaluation.trained import load_run
from alexnet_lab.instruments.flow import FlowWriter, Layout, Parameter, Site
from alexnet_lab.predictions_file import PartPredictions, read_predictions, write_predictions
from alexnet_lab.records import RunFolder, digest_of
from alexnet_lab.reports.inspection import inspect_run, page_of
from alexnet_lab.reports.run_tables import run_tables
from alexnet_lab.training import checkpoint
from alexnet_lab.training.recipe import Recipe
from alexnet_lab.training.trainer import network_of

CLASSES = ("cat", "dog", "cow")
RECIPE = Recipe(network="mobilenet_v3_small", width=1 / 16, image_size=32, epochs=2)
FIGURES = {"accuracy": 0.5, "auroc": None, "loss": 0.7, "images": 4, "recall": [0.5, 0.5, None]}
FIGURES["confusion"] = [[1, 0, 0], [0, 1, 0], [1, 1, 0]]
RESULT = {"tested_epoch": 2, "epochs": 2, "steps": 4, "train_seconds": 1.5, "validation": FIGURES, "test": FIGURES}
JSON_FILES = ("recipe.json", "provenance.json", "split.json", "state.json", "flow/layout.json", "checkpoints/best.json")
LINES = ("metrics.jsonl", "attempts.jsonl", "progress.json")
ARRAYS = ("predictions.npz", "flow/epoch-0001.npz", "flow/filters.npz")


def part(ids):
    probabilities = np.array([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1], [0.3, 0.4, 0.3], [0.2, 0.2, 0.6]])
    return PartPredictions(np.array(ids), np.array([0, 1, 2, 2]), probabilities, np.array(["p1", "p1", "p2", "p3"]))


def epoch_columns():
    one = np.ones(1)
    return {
        "steps": {"step": one.astype(int), "parameter": np.zeros(1, int), "weight_norm": one, "gradient_norm": one,
                  "update_norm": one},
        "windows": {"kind": np.array([0, 2]), "subject": np.zeros(2, int), "first_step": np.ones(2, int),
                    "last_step": np.full(2, 2), "tensors": np.ones(2, int), "stride": np.ones(2, int),
                    "underflow": np.zeros(2), "overflow": np.zeros(2), "signal_to_noise": np.ones(2)},
        "histograms": {"counts": np.ones((2, 2, 258), np.int64)},
        "units": {"site": np.zeros(2, int), "unit": np.arange(2), "split": np.zeros(2, int), "inputs": np.full(2, 8),
                  "off": np.array([8, 1]), "elements": np.full(2, 32), "elements_off": np.array([32, 5])},
        "cost": {"step": np.full(1, 2), "measuring_seconds": one, "total_seconds": 2 * one},
    }  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Write the folder of a run that ended well, without training it."""
    path = tmp_path_factory.mktemp("run")
    run = RunFolder(path)
    provenance = {"identity": "a", "data_fingerprint": "b", "classes": list(CLASSES), "notes": ["a note"]}
    provenance |= {"alexnet_lab": "0", "torch": "2", "python": "3", "machine": "m", "device": "cpu"}
    split = {"train": [0, 1, 2], "validation": [3, 4, 5, 6], "test": [7, 8, 9, 10], "notes": []}
    run.begin(RECIPE.to_json(), {**provenance, "started": "2026-11-24T18:30:04Z"}, json.dumps(split))
    (path / "copies.json").write_text("[]\n")
    for epoch in (1, 2):
        run.log(
            {"epoch": epoch, "step": 2 * epoch, "train_loss": 1 / epoch, "validation_accuracy": 0.5, "seconds": 1.0}
        )
    write_predictions(
        path / "predictions.npz", {"validation": part([3, 4, 5, 6]), "test": part([7, 8, 9, 10])}, CLASSES
    )
    writer = FlowWriter(path)
    writer.begin(
        Layout((Parameter("conv1.weight", "conv1", (2, 1, 3, 3)),), (Site("relu1", "conv1", "ReLU", "channel", 2),))
    )
    writer.write_epoch(1, epoch_columns())
    writer.write_filters(start=np.ones((2, 1, 3, 3), np.float32), end=np.ones((2, 1, 3, 3), np.float32))
    ones = torch.ones(1, 1, 1)
    images = Preprocessing(Geometry(32, 32, 32), 1, 1, 8, Scaling(ones, ones, np.zeros((1, 1))))
    network = network_of(RECIPE, len(CLASSES), 1)
    facts = {"epoch": 2, "metric": "accuracy", "value": 0.5, "preprocessing": images.facts()}
    checkpoint.save_best(path / "checkpoints", checkpoint.network_tensors(network), facts)
    (path / "attempts.jsonl").write_text(
        '{"started": "2026-11-24T18:30:04Z", "slot": "cpu 0"}\n'
        '{"ended": "2026-11-24T18:31:10Z", "state": "ok", "seconds": 66.1, "memory": 912261120}\n'
    )
    (path / "progress.json").write_text('{"epochs": 2, "epoch": 1, "steps": 4, "step": 3}')
    run.end("ok", result=RESULT)
    return path


READERS = {
    "status": lambda path: status_of(RunFolder(path), "cell", 0),
    "metrics": lambda path: list(RunFolder(path).metrics()),
    "split": lambda path: RunFolder(path).split(),
    "diagnosis": lambda path: diagnose(RunFolder(path)),
    "inspection": inspect_run,
    "tables": run_tables,
    "predictions": lambda path: read_predictions(path / "predictions.npz"),
    "network": lambda path: load_run(path).network(),
}


def read_all(path, data=None):
    """Let every reader read the folder; return what each said.

    Drawing a page takes ten times as long as all other readers. Where examples are few, one in four is drawn.
    """
    is_few = data is not None and fuzzed.derandomize
    left_out = "inspection" if is_few and data.draw(st.integers(0, 3)) else None
    with watched(path):
        return {
            name: told_by(lambda read=read: read(path), names=path)
            for name, read in READERS.items()
            if name != left_out
        }


def changing(finished, path, name, content):
    """Copy the run with another content of one file."""
    if not path.exists():
        shutil.copytree(finished, path)
    (path / name).write_bytes(content)


def restored(finished, path, name):
    shutil.copyfile(finished / name, path / name)
    shutil.copyfile(finished / "state.json", path / "state.json")


def test_an_undisturbed_folder_is_read(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    said = read_all(tmp_path / "run")
    assert not [name for name, what in said.items() if isinstance(what, Told)], said
    assert said["status"].state == "ok"
    assert "<html" in page_of_run(tmp_path / "run").html()


def page_of_run(path):
    from alexnet_lab.reports.measured import Measured

    return page_of(Measured(path))


@fuzzed_folders
@given(data=st.data())
def test_a_changed_file_is_noticed(finished, tmp_path, data):
    path = tmp_path / "run"
    names = (*JSON_FILES, *LINES, *ARRAYS, "checkpoints/best.safetensors")
    name = data.draw(st.sampled_from(names))
    valid = (finished / name).read_bytes()
    content = data.draw(changed(valid[:100_000])) + valid[100_000:]
    changing(finished, path, name, content)
    said = read_all(path, data)
    is_recorded = name in json.loads((finished / "state.json").read_text())["files"] or name == "state.json"
    is_same = content == valid or (name == "state.json" and not isinstance(told_by(RunFolder(path).verdict), Told))
    if is_recorded and not is_same:
        assert RunFolder(path).damages(weights=True) == (name,)
        assert said["status"].state == "damaged" or name.startswith("checkpoints/")
    restored(finished, path, name)


@fuzzed_folders
@given(data=st.data())
def test_a_forged_file_of_json(finished, tmp_path, data):
    path = tmp_path / "run"
    name = data.draw(st.sampled_from(JSON_FILES))
    value = json.loads((finished / name).read_text())
    if name == "state.json":
        value.pop("digest")
        value = {**value, "result": data.draw(altered(value["result"]))}
        changing(finished, path, name, as_json({**value, "digest": digest_of(value)}))
    elif name == "checkpoints/best.json":
        facts = {key: item for key, item in value.items() if key not in ("digest", "before")}
        facts = data.draw(altered(facts))
        if isinstance(facts, dict):
            content = checkpoint._blake_of(finished / "checkpoints/best.safetensors")
            facts["digest"] = checkpoint._digest(content, {k: v for k, v in facts.items() if k != "digest"})
        changing(finished, path, name, as_json(facts))
        sign(path, name)
    else:
        changing(finished, path, name, as_json(data.draw(altered(value))))
        sign(path, name)
    read_all(path, data)
    restored(finished, path, name)


@fuzzed_folders
@given(data=st.data())
def test_forged_lines(finished, tmp_path, data):
    path = tmp_path / "run"
    name = data.draw(st.sampled_from(LINES))
    rows = [json.loads(line) for line in (finished / name).read_text().splitlines()]
    rows = data.draw(altered(rows))
    lines = rows if isinstance(rows, list) else [rows]
    changing(finished, path, name, b"".join(as_json(row) + b"\n" for row in lines))
    if name == "metrics.jsonl":
        sign(path, name)
    (path / "state.json").unlink() if name == "progress.json" else None
    read_all(path, data)
    restored(finished, path, name)


NONSENSE = (
    lambda values: values[:0], lambda values: values[:1], lambda values: values[None], lambda values: values > 0,
    lambda values: values.astype(np.float64) * np.nan, lambda values: np.full_like(values, -1),
    lambda values: values.astype(str),
    lambda values: values.astype(np.uint64) + np.uint64(2**63), lambda values: np.zeros((2, 2, 2, 2, 2)),
    lambda values: np.array(7), lambda values: values.astype(complex), lambda values: np.full_like(values, 10**6),
    lambda values: values.astype("S9"), lambda values: np.repeat(values, 3, 0), lambda values: values * np.inf,
)  # fmt: skip


@fuzzed_folders
@given(data=st.data())
def test_forged_arrays(finished, tmp_path, data):
    path = tmp_path / "run"
    name = data.draw(st.sampled_from(ARRAYS))
    with np.load(finished / name) as arrays:
        columns = dict(arrays)
    for column in data.draw(st.lists(st.sampled_from(sorted(columns)), min_size=1, max_size=2, unique=True)):
        if data.draw(st.integers(0, 5)) == 0:
            del columns[column]
            continue
        with np.errstate(all="ignore"):
            try:
                columns[column] = data.draw(st.sampled_from(NONSENSE))(columns[column])
            except (TypeError, ValueError, OverflowError):  # such nonsense cannot be made of these values
                columns[column] = np.zeros(0)
    changing(finished, path, name, b"")
    np.savez(path / name, **columns)
    sign(path, name)
    read_all(path, data)
    restored(finished, path, name)


def sign(path, name):
    """Write the digest of a file into the verdict, as somebody would who forges it."""
    verdict = json.loads((path / "state.json").read_text())
    body = {key: value for key, value in verdict.items() if key != "digest"}
    body["files"][name] = hashlib.sha256((path / name).read_bytes()).hexdigest()
    (path / "state.json").write_text(json.dumps({**body, "digest": digest_of(body)}))
