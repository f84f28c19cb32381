"""Run folders and studies made to order, and a browser to look at their pages."""

import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from alexnet_lab.instruments.flow import FlowWriter, Layout, Parameter, Site
from alexnet_lab.records import RunFolder
from alexnet_lab.training.recipe import Recipe

sys.path.insert(0, str(Path(__file__).parent))
from planted_studies import page_of, planted, study_maker, text_of

LAYERS = ["features.conv1", "features.conv2", "features.conv3", "classifier.fc4", "classifier.fc5"]
SHAPES = [(8, 3, 5, 5), (12, 8, 3, 3), (12, 12, 3, 3), (20, 48), (4, 20)]
COLUMNS = 258
FIRST = -126


def histogram(generator, middle, count, zeros=0.0):
    """Counts of values whose power of two is normal around `middle`."""
    powers = np.clip(np.round(generator.normal(middle, 2.5, count)), FIRST, 127).astype(int)
    counts = np.zeros((2, COLUMNS), np.int64)
    np.add.at(counts, (generator.integers(0, 2, count), powers - FIRST + 2), 1)
    counts[0, 0] = int(zeros * count)
    return counts


def write_flow(path, epochs, layers, shapes, steps_per_epoch, dead, activation, fall, probe, filters):
    """Write records in which gradients fall by `fall` powers of two a layer, and `dead` units of site 0 never fire."""
    generator = np.random.default_rng(7)
    parameters = [
        Parameter(f"{name}.{part}", name, shape if part == "weight" else shape[:1])
        for name, shape in zip(layers, shapes, strict=True)
        for part in ("weight", "bias")
    ]
    units = [shape[0] for shape in shapes[:-1]]
    sites = [
        Site(f"{name}.act", name, activation, "channel" if len(shape) == 4 else "neuron", shape[0])
        for name, shape in zip(layers[:-1], shapes, strict=False)
    ]
    writer = FlowWriter(path)
    writer.begin(Layout(tuple(parameters), tuple(sites), every=2, window=5, probe="64 validation images"))
    for epoch in range(1, epochs + 1):
        steps = np.arange((epoch - 1) * steps_per_epoch + 1, epoch * steps_per_epoch + 1, dtype=np.int32)
        table = {"step": [], "parameter": [], "weight_norm": [], "gradient_norm": [], "update_norm": []}
        windows = {"kind": [], "subject": [], "first_step": [], "last_step": [], "tensors": [], "stride": [],
                   "underflow": [], "overflow": [], "signal_to_noise": []}  # fmt: skip
        counts = []
        for at, parameter in enumerate(parameters):
            depth = len(layers) - 1 - at // 2
            noise = np.exp(generator.normal(0, 0.3, len(steps)))
            table["step"].append(steps)
            table["parameter"].append(np.full(len(steps), at, np.int16))
            table["weight_norm"].append(np.full(len(steps), 2.0 + 0.01 * epoch, np.float32))
            table["gradient_norm"].append((2.0 ** (-fall * depth) * noise / epoch).astype(np.float32))
            table["update_norm"].append((1e-3 * noise).astype(np.float32))
            if parameter.name.endswith("weight"):
                for window in np.array_split(steps, 2):
                    for kind in (0, 1):
                        add_window(windows, counts, kind, at, window,
                                   histogram(generator, -5 if kind == 0 else -8 - fall * depth, 400))  # fmt: skip
        for at in range(len(sites)):
            for window in np.array_split(steps, 2):
                add_window(windows, counts, 2, at, window, histogram(generator, -1, 400))
                add_window(windows, counts, 3, at, window, histogram(generator, -12, 400, zeros=0.5))
        units_table = {name: [] for name in ("site", "unit", "split", "inputs", "off", "elements", "elements_off")}
        for at, count in enumerate(units):
            for split in (0, 1) if probe else (0,):
                inputs = 200 if split == 0 else 64
                off = generator.integers(10, inputs // 2, count)
                off[: dead if at == 0 else 0] = inputs
                for name, values in (("site", at), ("unit", np.arange(count)), ("split", split), ("inputs", inputs),
                                     ("off", off), ("elements", inputs * 9), ("elements_off", off * 9)):  # fmt: skip
                    units_table[name].append(np.broadcast_to(np.asarray(values), (count,)))
        writer.write_epoch(
            epoch,
            {
                "steps": {name: np.concatenate(values) for name, values in table.items()},
                "windows": {name: np.asarray(values) for name, values in windows.items()},
                "histograms": {"counts": np.stack(counts)},
                "units": {name: np.concatenate(values) for name, values in units_table.items()},
                "cost": {"step": steps[-1:], "measuring_seconds": np.array([0.25]), "total_seconds": np.array([10.0])},
            },
        )
    if filters:
        start = generator.normal(0, 0.1, shapes[0]).astype(np.float32)
        writer.write_filters(start=start)
        writer.write_filters(end=start + generator.normal(0, 0.05, shapes[0]).astype(np.float32))


def add_window(windows, counts, kind, subject, steps, found):
    for name, value in (("kind", kind), ("subject", subject), ("first_step", steps[0]), ("last_step", steps[-1]),
                        ("tensors", len(steps)), ("stride", 1), ("underflow", 0.0), ("overflow", 0.0),
                        ("signal_to_noise", 0.7 if kind == 1 else np.nan)):  # fmt: skip
        windows[name].append(value)
    counts.append(found)


def write_run(
    path,
    *,
    epochs=3,
    state="ok",
    classes=("cat", "dog", "horse", "newt"),
    flow=True,
    validation=True,
    layers=LAYERS,
    shapes=SHAPES,
    steps_per_epoch=10,
    dead=2,
    activation="ReLU",
    fall=1.5,
    probe=True,
    filters=True,
    **recipe,
):
    """Write a whole run folder, as a run of this length would leave it."""
    folder = RunFolder(path)
    chosen = Recipe(epochs=max(epochs, 1), **recipe)
    provenance = {"identity": "0", "classes": list(classes), "notes": ["made to order"], "alexnet_lab": "0.1.0"}
    folder.begin(chosen.to_json(), provenance, json.dumps({"train": [0], "validation": [1], "test": [2]}))
    for epoch in range(1, epochs + 1):
        row = {
            "epoch": epoch,
            "step": epoch * steps_per_epoch,
            "train_loss": 2 / epoch,
            "train_accuracy": 1 - 0.6 / epoch,
        }
        if validation:
            row |= {"validation_loss": 2.2 / epoch, "validation_accuracy": 1 - 0.7 / epoch}
        folder.log({**row, "learning_rate": 0.01 / epoch, "seconds": 10.0, "images_per_second": 20.0})
    count = len(classes)
    confusion = (np.eye(count, dtype=int) * 20 + np.arange(count * count).reshape(count, count) % 3).tolist()
    right, images = int(np.trace(confusion)), int(np.sum(confusion))
    part = {
        "loss": 0.5,
        "accuracy": right / images,
        "balanced_accuracy": 0.9,
        "auroc": None,
        "top5_accuracy": None,
        "calibration_error": 0.05,
        "recall": [row[at] / sum(row) for at, row in enumerate(confusion)],
        "confusion": confusion,
        "images": images,
    }
    if state == "ok":
        folder.end(
            "ok", result={"tested_epoch": epochs, "epochs": epochs, "steps": 10, "validation": part, "test": part}
        )
    elif state:
        folder.end(state, "the loss was nan at step 7")
    if flow:
        write_flow(path, epochs, layers, shapes, steps_per_epoch, dead, activation, fall, probe, filters)
    return path


@pytest.fixture(scope="session", name="write_run")
def give_write_run():
    return write_run


@pytest.fixture(scope="session")
def make_study(tmp_path_factory, write_run):
    return study_maker(tmp_path_factory.mktemp, write_run)


@pytest.fixture(scope="session")
def study(make_study):
    """Three seeds of the planted factorial, whole; for tests that change nothing in it."""
    return make_study(planted)


@pytest.fixture(scope="session")
def page(study):
    return page_of(study)


@pytest.fixture(scope="session")
def text(page):
    return text_of(page)


FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@pytest.fixture(scope="session")
def chromium():
    """A headless browser; without one, the tests that need it say so and are skipped."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs chromium, and playwright to drive it")
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("needs chromium: apt-get install chromium")
    environment = {**os.environ, "TZ": "UTC"}
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found, args=list(FLAGS), env=environment)
        yield browser
        browser.close()
