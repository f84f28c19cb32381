"""How long the report of 1,000 runs with 10,000 test images takes and how much memory: under 40 s and 2 GB.

    python benchmarks/report_scale.py                       # 12 cells x 84 seeds, 12 epochs, instruments on
    python benchmarks/report_scale.py --seeds 6 --keep DIR  # a smaller one, kept to look at

The run folders are made up but have the shape of AlexNet's at laptop width: every file that a run leaves, numbers with
effects planted in them. The report is then written by a fresh process, as `alexnet-lab report` does, whose processor
time, wall time and peak memory are printed. Exits 1 above a limit.
"""

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from alexnet_ablations.declare.study import PlannedRun, Study, declare_study
from alexnet_lab.instruments.flow import KINDS, FlowWriter, Layout, Parameter, Site
from alexnet_lab.predictions_file import FILE, PartPredictions, write_predictions

SECONDS, MEGABYTES = 40.0, 2048.0
SHAPES = {
    "conv1": (24, 1, 11, 11), "conv2": (64, 12, 5, 5), "conv3": (96, 64, 3, 3), "conv4": (96, 48, 3, 3),
    "conv5": (64, 48, 3, 3), "fc6": (1024, 64), "fc7": (1024, 1024), "fc8": (10, 1024),
}  # fmt: skip
STEPS = 33  # per epoch
DIGITS = [str(digit) for digit in range(10)]


def layout(activation: str) -> Layout:
    """Describe what an AlexNet of a quarter of the width records."""
    parameters = [
        Parameter(f"{name}.{part}", name, shape if part == "weight" else shape[:1])
        for name, shape in SHAPES.items()
        for part in ("weight", "bias")
    ]
    sites = [
        Site(f"act{at}", name, activation, "channel" if len(shape) == 4 else "neuron", shape[0])
        for at, (name, shape) in enumerate(list(SHAPES.items())[:-1], 1)
    ]
    return Layout(tuple(parameters), tuple(sites), every=10, window=4, probe="validation images")


def columns(epoch: int, fall: float, silent: float, rng: np.random.Generator) -> dict[str, dict[str, np.ndarray]]:
    """Return one epoch's tables; gradients fall by `fall` powers of two a layer, units are silent as often as said."""
    steps = np.repeat(np.arange(1, 5, dtype=np.int32) * 8 + (epoch - 1) * STEPS, 2 * len(SHAPES))
    parameter = np.tile(np.arange(2 * len(SHAPES), dtype=np.int16), 4)
    depth = len(SHAPES) - 1 - parameter // 2
    elements = np.array([np.prod(shape) for shape in SHAPES.values()])[parameter // 2]
    noise = np.exp(rng.normal(0, 0.2, len(steps)))
    windows, counts = [], []
    for kind in range(len(KINDS)):
        for subject in range(len(SHAPES) if kind < 2 else len(SHAPES) - 1):
            windows.append((kind, 2 * subject if kind < 2 else subject))
            middle = -6 - (fall * (len(SHAPES) - 1 - subject) if kind in (1, 3) else 0)
            powers = np.clip(np.round(rng.normal(middle, 2.5, 4000)), -126, 127).astype(int) + 128
            counts.append(np.stack([np.bincount(powers[half::2], minlength=258) for half in (0, 1)]))
    kinds, subjects = np.array(windows).T
    counts_of_units = [shape[0] for shape in SHAPES.values()][:-1]
    units = [(at, one, half) for half in (0, 1) for at, count in enumerate(counts_of_units) for one in range(count)]
    site, unit, split = np.array(units).T
    inputs = np.where(split == 0, 1056, 359)
    off = np.round(inputs * rng.beta(8 * silent, 8 * (1 - silent), len(units))).astype(np.int64)
    return {
        "steps": {
            "step": steps,
            "parameter": parameter,
            "weight_norm": np.full(len(steps), 3.0, np.float32),
            "gradient_norm": (2.0 ** (-6 - fall * depth) * np.sqrt(elements) * noise).astype(np.float32),
            "update_norm": (3e-3 * noise).astype(np.float32),
        },
        "windows": {
            "kind": kinds.astype(np.int8),
            "subject": subjects.astype(np.int16),
            "first_step": np.full(len(kinds), steps[0]),
            "last_step": np.full(len(kinds), steps[-1]),
            "tensors": np.full(len(kinds), 4, np.int32),
            "stride": np.ones(len(kinds), np.int32),
            "underflow": np.zeros(len(kinds), np.float32),
            "overflow": np.zeros(len(kinds), np.float32),
            "signal_to_noise": np.where(kinds == 1, 0.4, np.nan).astype(np.float32),
        },
        "histograms": {"counts": np.stack(counts).astype(np.int64)},
        "units": {
            "site": site.astype(np.int16),
            "unit": unit.astype(np.int32),
            "split": split.astype(np.int8),
            "inputs": inputs,
            "off": off,
            "elements": inputs * 9,
            "elements_off": off * 9,
        },
        "cost": {"step": steps[-1:], "measuring_seconds": np.array([0.2]), "total_seconds": np.array([4.0])},
    }


def write_run(run: PlannedRun, patterns: dict[str, Path], images: int) -> None:
    """Write everything that a run leaves; its instruments' epochs are copies of those of its pattern."""
    rng = np.random.default_rng([run.seed, 7])  # the seed's, shared by all cells
    own = np.random.default_rng([run.seed, *map(ord, run.cell.name)])
    recipe, path = run.recipe, run.folder.path
    gain = {"bn": 0.02, "none": -0.04}.get(recipe.norm or "", 0.0) + (0.004 if recipe.act else 0.0)
    gain -= 0.01 if recipe.norm == "bn" and recipe.act else 0.0
    best = min(0.94 + gain + rng.normal(0, 0.01) + own.normal(0, 0.004), 0.999)
    run.folder.begin(
        recipe.to_json(),
        {
            "identity": "0",
            "data_fingerprint": "18278abd",
            "classes": DIGITS,
            "notes": [],
            "alexnet_lab": "0.1.0",
            "torch": "2.13.0",
            "python": "3.12",
            "machine": "made up",
            "device": "cpu",
            "started": "2026-01-01T00:00:00Z",
        },
        json.dumps({name: list(range(n)) for name, n in (("train", 1056), ("validation", 359), ("test", images))}),
    )
    for epoch in range(1, recipe.epochs + 1):
        accuracy = best * (1 - 0.7 * 0.5**epoch)
        run.folder.log({
            "epoch": epoch, "step": STEPS * epoch, "train_loss": 2.3 * 0.6**epoch + 0.05, "train_accuracy": accuracy,
            "validation_loss": 2.2 * 0.65**epoch + 0.1, "validation_accuracy": accuracy, "learning_rate": 0.01 / epoch,
            "seconds": 4.0, "images_per_second": 260.0,
        })  # fmt: skip
    if recipe.norm == "none" and run.seed % 3 == 2:
        run.folder.end("diverged", f"the loss was nan at step {STEPS * recipe.epochs}")
    else:
        right = round(best * images)
        write_predictions_of(run, right, images, own)
        part = {"accuracy": right / images, "balanced_accuracy": best, "auroc": 0.99, "loss": 0.1, "images": images,
                "calibration_error": 0.02, "confusion": np.diag([36] * 10).tolist(), "recall": [best] * 10}  # fmt: skip
        run.folder.end("ok", result={
            "tested_epoch": recipe.epochs, "epochs": recipe.epochs, "steps": STEPS * recipe.epochs,
            "final_train_loss": float(0.05 * np.exp(own.normal(0, 0.1))), "train_seconds": 48.0 + own.normal(),
            "images_per_second": 260 + own.normal(0, 9), "peak_memory_bytes": 650e6, "measuring_share": 0.05,
            "validation": part, "test": part,
        })  # fmt: skip
    pattern = patterns[f"{recipe.norm}-{recipe.act}-{run.seed % 4}"]
    shutil.copytree(pattern / "flow", path / "flow")


def write_predictions_of(run: PlannedRun, right: int, images: int, rng: np.random.Generator) -> None:
    """Write predictions that are right on so many images, rather on those that are easy for all runs."""
    ease = np.random.default_rng(images).normal(size=images) + 0.5 * rng.normal(size=images)
    labels = np.arange(images) % len(DIGITS)
    answers = (labels + (ease < np.sort(ease)[images - right])) % len(DIGITS)
    probabilities = np.full((images, len(DIGITS)), 0.05, np.float32)
    probabilities[np.arange(images), answers] = 0.55
    part = PartPredictions(np.arange(images), labels, probabilities)
    write_predictions(run.folder.path / FILE, {"validation": part, "test": part}, DIGITS)


def write_pattern(folder: Path, norm: str | None, act: str | None, seed: int, epochs: int) -> Path:
    """Write one set of instruments' records, for many runs to share."""
    rng = np.random.default_rng(seed)
    fall = {"bn": 0.2, "none": 1.1}.get(norm or "", 0.7)
    path = folder / f"{norm}-{act}-{seed}"
    writer = FlowWriter(path)
    writer.begin(layout("LeakyReLU" if act else "ReLU"))
    for epoch in range(1, epochs + 1):
        writer.write_epoch(epoch, columns(epoch, fall, 0.75 if norm == "none" else 0.5, rng))
    return path


def make_study(folder: Path, seeds: int, epochs: int, images: int) -> Study:
    """Make a study with every run done."""
    factors = {"norm": ["bn", "none"], "act": ["leaky"], "dropout": [0.3]}
    study = declare_study(
        factors, {"data": "digits", "epochs": epochs, "threads": 1}, folder, design="factorial", seeds=seeds
    )
    study = study.open_folder()
    with tempfile.TemporaryDirectory() as scratch:
        patterns: dict[str, Path] = {}
        for run in study.runs():
            name = f"{run.recipe.norm}-{run.recipe.act}-{run.seed % 4}"
            if name not in patterns:
                patterns[name] = write_pattern(Path(scratch), run.recipe.norm, run.recipe.act, run.seed % 4, epochs)
            write_run(run, patterns, images)
    return study


def main() -> int:
    """Make the study, report it in a process of its own, and hold both limits."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=84, help="of each of the 12 cells")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--images", type=int, default=10_000, help="in the test")
    parser.add_argument("--keep", type=Path, help="make the study here and leave it")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.keep or Path(scratch) / "study"
        began = time.perf_counter()
        study = make_study(folder, arguments.seeds, arguments.epochs, arguments.images)
        count = len(study.runs())
        print(f"{count} runs of {arguments.epochs} epochs made in {time.perf_counter() - began:.0f} s")
        began = time.perf_counter()
        command = "import sys; from alexnet_ablations.cli import main; sys.argv[0] = 'alexnet-lab'; main()"
        subprocess.run([sys.executable, "-c", command, "report", str(folder)], check=True)
        wall = time.perf_counter() - began
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        page = folder / "report" / "index.html"
        peak = used.ru_maxrss / 1024
        print(f"wall {wall:.1f} s, processor {used.ru_utime + used.ru_stime:.1f} s, peak {peak:.0f} MB")
        print(f"page {page.stat().st_size / 1e6:.2f} MB; limits {SECONDS:.0f} s, {MEGABYTES:.0f} MB")
        return int(wall > SECONDS or peak > MEGABYTES)


if __name__ == "__main__":
    sys.exit(main())
