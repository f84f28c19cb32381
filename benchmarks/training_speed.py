"""What a run costs beside the bare arithmetic: AlexNet `review` at 227 pixels, batch 32, float32.

    python benchmarks/training_speed.py [--threads 2] [--rounds 6] [--device cpu] [--csv FILE]

Prints ratios of images per second, each pair interleaved in one process, as medians over rounds with 20/80 quantiles:

* a run (feed, augmentation, bookkeeping) over a bare loop on one random batch with the same network: at least 0.95
* the network with LRN over the same network without, both bare: at least 0.9
* the feed alone (32-pixel images, flipped, cropped, brought to 227) over the run: at least 10

Exits 1 where one is missed.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from timing import MACHINE, SPREAD, append_rows, machine, ratios, spread, synchronise

from alexnet_lab.data.feed import open_feed
from alexnet_lab.networks import AlexNet
from alexnet_lab.records import RunFolder
from alexnet_lab.training.optim import build_optimiser
from alexnet_lab.training.parallel import Ranks
from alexnet_lab.training.recipe import Recipe, read_recipe
from alexnet_lab.training.trainer import Trainer

LIMITS = {"run / bare loop": 0.95, "LRN / no norm": 0.9, "feed / run": 10.0}
STEPS = 4


def bare_loop(recipe: Recipe, norm: str) -> Callable[[], float]:
    """Return a function that takes STEPS steps on one random batch and says how many images a second that was."""
    network = AlexNet(10, preset="review", norm=norm, seed=0).to(recipe.device).train()
    optimiser = build_optimiser(recipe, network)
    x = torch.randn(recipe.batch_size, 3, 227, 227, device=recipe.device)
    y = torch.arange(recipe.batch_size, device=recipe.device) % 10

    def measure() -> float:
        synchronise(recipe.device)
        began = time.perf_counter()
        for _ in range(STEPS):
            optimiser.zero_grad(set_to_none=True)
            F.cross_entropy(network(x), y).backward()
            optimiser.step()
        synchronise(recipe.device)
        return STEPS * recipe.batch_size / (time.perf_counter() - began)

    return measure


def measure(recipe: Recipe, rounds: int) -> dict[str, list[float]]:
    """Interleave a run's epochs with everything it is held against."""
    torch.set_num_threads(recipe.threads)
    feed = open_feed(recipe.data, image_size=227, augment=recipe.augment, device=recipe.device)
    with_lrn, without = bare_loop(recipe, "lrn"), bare_loop(recipe, "none")
    rates: dict[str, list[float]] = {"run": [], "bare loop": [], "no norm": [], "feed": []}

    def feed_alone(epoch: int) -> float:
        began, images = time.perf_counter(), 0
        for pixels, _ in feed.training_batches(recipe.batch_size, seed=0, epoch=epoch):
            images += len(pixels)
        synchronise(recipe.device)
        return images / (time.perf_counter() - began)

    def after_epoch(kind: str, facts: dict[str, Any]) -> None:
        if kind != "epoch":
            return
        measured = {
            "run": facts["images_per_second"],
            "bare loop": with_lrn(),
            "no norm": without(),
            "feed": feed_alone(facts["epoch"]),
        }
        if facts["epoch"] > 1:  # the first round warms caches and allocators
            for name, rate in measured.items():
                rates[name].append(rate)
            print(f"round {facts['epoch'] - 1}: " + ", ".join(f"{n} {r:.1f}" for n, r in measured.items()), flush=True)

    with tempfile.TemporaryDirectory() as scratch:
        folder = RunFolder(Path(scratch))
        folder.begin(recipe.to_json(), {}, "{}")
        Trainer(read_recipe({**vars(recipe), "epochs": rounds + 1}), folder, feed, Ranks(), after_epoch).run()
    return rates


def main() -> int:
    """Measure, print, and say whether the limits hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--csv", type=Path, help="append one row per ratio")
    arguments = parser.parse_args()
    recipe = Recipe(
        preset="review",
        width=1.0,
        image_size=227,
        data=f"synthetic:classes=10,side=32,count={STEPS * 32 * 2}",
        augment="flip,crop",
        threads=arguments.threads,
        device=arguments.device,
        init="published",
        learning_rate=1e-5,  # the numbers do not matter here, as long as they stay finite
    )
    rates = measure(recipe, arguments.rounds)
    pairs = {
        "run / bare loop": ("run", "bare loop"),
        "LRN / no norm": ("bare loop", "no norm"),
        "feed / run": ("feed", "run"),
    }
    rows, missed = [], False
    for name, (above, below) in pairs.items():
        ratio = spread(ratios(rates[above], rates[below]))
        missed |= ratio.median < LIMITS[name]
        print(f"{name:16} {ratio.text()}  at least {LIMITS[name]}")
        rows.append([name, *ratio, arguments.threads, *machine(arguments.device)])
    if arguments.csv:
        append_rows(arguments.csv, ["ratio", *SPREAD, "threads", *MACHINE], rows)
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
