"""Images per second of whole runs beside a bare loop, and peak memory: presets x precision x eager or compiled.

    python benchmarks/training_throughput.py --device cuda --csv FILE [--batch 128] [--steps 30]

A run is the feed with crops and flips, the trainer and its bookkeeping; the bare loop has the same network and
optimiser on one random batch. Each pair is interleaved: epoch, loop, epoch, loop. Rows are written as they come.
"""

import argparse
import itertools
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from timing import MACHINE, append_rows, machine, synchronise

from alexnet_lab.data.feed import Feed, open_feed
from alexnet_lab.networks import build_network
from alexnet_lab.records import RunFolder
from alexnet_lab.training.optim import build_optimiser
from alexnet_lab.training.parallel import Ranks
from alexnet_lab.training.recipe import Recipe
from alexnet_lab.training.trainer import Trainer

ROUNDS = 3  # after one that compiles and warms up
HEADER = ["preset", "precision", "compiled", "run_images_s", "bare_images_s", "run_over_bare", "peak_gib", "batch"]
HEADER += MACHINE


def bare_step(recipe: Recipe, image_size: int) -> Any:
    """Return a function that takes one step on one random batch."""
    network: Any = build_network("alexnet", 10, preset=recipe.preset, image_size=image_size, seed=0).to(recipe.device)
    optimiser = build_optimiser(recipe, network)
    forward = torch.compile(network) if recipe.compile else network
    x = torch.randn(recipe.batch_size, 3, image_size, image_size, device=recipe.device)
    y = torch.arange(recipe.batch_size, device=recipe.device) % 10

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        with torch.autocast(recipe.device, torch.bfloat16, enabled=recipe.precision == "bf16"):
            loss = F.cross_entropy(forward(x), y)
        loss.backward()
        optimiser.step()

    return step


def measure(recipe: Recipe, feed: Feed, steps: int) -> tuple[float, float, float]:
    """Return images per second of the run and of the bare loop, medians over rounds, and peak memory in GiB."""
    cuda = recipe.device == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    step, runs, loops = bare_step(recipe, recipe.image_size), [], []
    peaks: list[float] = []

    def after_epoch(kind: str, facts: dict[str, Any]) -> None:
        if kind != "epoch":
            return
        if cuda:
            peaks.append(torch.cuda.max_memory_allocated() / 2**30)
        synchronise(recipe.device)
        began = time.perf_counter()
        for _ in range(steps):
            step()
        synchronise(recipe.device)
        if facts["epoch"] > 1:
            loops.append(steps * recipe.batch_size / (time.perf_counter() - began))
            runs.append(facts["images_per_second"])

    with tempfile.TemporaryDirectory() as scratch:
        folder = RunFolder(Path(scratch))
        folder.begin(recipe.to_json(), {}, "{}")
        Trainer(recipe, folder, feed, Ranks(), after_epoch).run()
    torch._dynamo.reset()
    return statistics.median(runs), statistics.median(loops), max(peaks, default=float("nan"))


def main() -> int:
    """Measure every combination and write its row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=30, help="steps in an epoch, and in a bare loop")
    parser.add_argument("--image-size", type=int, default=227)
    parser.add_argument("--csv", type=Path, required=True)
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        print("no GPU that torch can use: nothing was run")
        return 0
    count = round(arguments.batch * arguments.steps / 0.6) + 10  # three fifths of the images are trained on
    feed = open_feed(
        f"synthetic:classes=10,side=64,count={count}",
        image_size=arguments.image_size,
        augment="flip,crop",
        device=arguments.device,
    )
    arguments.csv.unlink(missing_ok=True)
    for preset, precision, compiled in itertools.product(
        ("paper", "review", "torchvision"), ("fp32", "bf16"), (False, True)
    ):
        recipe = Recipe(
            preset=preset,
            width=1.0,
            image_size=arguments.image_size,
            init="published",
            learning_rate=1e-6,  # the numbers do not matter here, as long as they stay finite
            batch_size=arguments.batch,
            epochs=ROUNDS + 1,
            precision=precision,
            compile=compiled,
            device=arguments.device,
            threads=os.cpu_count() or 1,
        )
        run, bare, peak = measure(recipe, feed, arguments.steps)
        rates = [f"{run:.1f}", f"{bare:.1f}", f"{run / bare:.3f}", f"{peak:.2f}"]
        row = [preset, precision, compiled, *rates, arguments.batch, *machine(arguments.device)]
        append_rows(arguments.csv, HEADER, [row])
        print(f"{preset:12} {precision} compiled={compiled!s:5} run {run:9.1f}  bare {bare:9.1f}  {run / bare:.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
