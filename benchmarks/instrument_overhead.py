"""What instruments cost: a full AlexNet training step with instruments, as a ratio to the same step without.

    python benchmarks/instrument_overhead.py [--scale 227,laptop] [--rounds 20] [--threads 1] [--device cpu] [--csv F]

A round takes a few steps (forward, backward, optimiser) of each kind, interleaved in one process and in an order that
changes from round to round; ratios are taken within a round, and printed as medians with 20/80 quantiles:

* units: what every step of a run pays
* norms: with norms of weights, gradients and updates; everything: with histograms of all of them too
* default: the three put together as the schedule does, of 80 steps 76, 3 and 1
* TensorBoard: add_histogram of weights, gradients and activations at a step; on schedule, at one of 20; left out, by
  name, where tensorboard is not installed

What the end of an epoch takes (draining, writing) is not in a step; `alexnet-lab inspect` prints a whole run's share.
First it checks that the watched network learns exactly what the bare one does. Exits 1 where a limit is missed.
"""

import argparse
import importlib.util
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from timing import MACHINE, SPREAD, append_rows, machine, spread
from torch import nn

from alexnet_lab.instruments.panel import Panel
from alexnet_lab.instruments.schedule import DEFAULT_EVERY, LEAST_PER_WINDOW
from alexnet_lab.networks import AlexNet
from alexnet_lab.training.optim import build_optimiser
from alexnet_lab.training.recipe import Recipe

# Width, side, channels of the input: AlexNet as the review has it, and the recipe's default.
SCALES = {"227": (1.0, 227, 3), "laptop": (0.25, 67, 1)}
BATCH = 32
LIMITS = {
    "cpu": {("227", "default"): 1.02, ("laptop", "default"): 1.05, ("227", "everything"): 1.15},
    "cuda": {("227", "default"): 1.01, ("227", "everything"): 1.05},
}
NEVER = 10**9  # steps: only the first of them all is measured, which is not timed
# Steps of each kind at a time. At 227 pixels one is long enough to be timed by itself.
TURN = {"227": 2, "laptop": 20}


class Contender:
    """One network in training, alone or watched."""

    def __init__(self, scale: str, device: str) -> None:
        width, side, channels = SCALES[scale]
        preset = "review" if scale == "227" else "paper"
        network = AlexNet(10, preset=preset, width=width, image_size=side, in_channels=channels, init="he", seed=0)
        self.network = network.to(device).train()
        self.optimiser = build_optimiser(Recipe(learning_rate=1e-3), self.network)
        draw = torch.Generator().manual_seed(0)
        self.x = torch.randn(BATCH, channels, side, side, generator=draw).to(device)
        self.y = (torch.arange(BATCH) % 10).to(device)
        self.taken = 0

    def backward(self) -> None:
        """Compute gradients."""
        torch.manual_seed(self.taken)  # the same dropout masks for every contender
        self.taken += 1
        self.optimiser.zero_grad(set_to_none=True)
        F.cross_entropy(self.network(self.x), self.y).backward()

    def step(self) -> None:
        """Take one step without instruments."""
        self.backward()
        self.optimiser.step()

    def end(self) -> None:
        """End the contender; nothing watches this one."""


class Watched(Contender):
    """With a panel that measures one of `every` steps, and counts histograms at the first of a window of those."""

    def __init__(self, scale: str, device: str, every: int, window: int) -> None:
        super().__init__(scale, device)
        self.panel = Panel(self.network, self.optimiser, every=every, window=window, each=False)
        self.panel.__enter__()

    def step(self) -> None:
        """Take one step and look at it."""
        self.backward()
        self.panel.gradients_ready()
        self.optimiser.step()
        self.panel.step()

    def end(self) -> None:
        """Take the hooks away."""
        self.panel.__exit__(None, None, None)


class Logged(Contender):
    """With TensorBoard's histograms of weights, gradients and activations."""

    def __init__(self, scale: str, device: str, folder: str) -> None:
        from torch.utils.tensorboard import SummaryWriter

        super().__init__(scale, device)
        self.writer = SummaryWriter(folder)  # type: ignore[no-untyped-call]
        for name, module in self.network.named_modules():
            if isinstance(module, nn.ReLU):
                module.register_forward_hook(self._writing(name))

    def _writing(self, name: str) -> Callable[..., None]:
        def write(_module: nn.Module, _inputs: object, output: torch.Tensor) -> None:
            self._write(f"activation/{name}", output)

        return write

    def _write(self, name: str, values: torch.Tensor) -> None:
        self.writer.add_histogram(name, values.detach(), self.taken)  # type: ignore[no-untyped-call]

    def step(self) -> None:
        """Take one step and log it."""
        self.backward()
        for name, parameter in self.network.named_parameters():
            if parameter.grad is not None:
                self._write(f"weight/{name}", parameter)
                self._write(f"gradient/{name}", parameter.grad)
        self.optimiser.step()

    def end(self) -> None:
        """Close the log."""
        self.writer.close()  # type: ignore[no-untyped-call]


def check(scale: str, device: str) -> None:
    """Two steps with everything and two without must leave the same weights; ValueError if not."""
    bare, watched = Contender(scale, device), Watched(scale, device, 1, 1)
    for contender in (bare, watched):
        for _ in range(2):
            contender.step()
    watched.end()
    pairs = zip(bare.network.state_dict().items(), watched.network.state_dict().values(), strict=True)
    # A GPU adds up in an order of its own; a processor does not.
    near = {"rtol": 1e-4, "atol": 1e-6} if device == "cuda" else {"rtol": 0.0, "atol": 0.0}
    for (name, one), other in pairs:
        if not torch.allclose(one, other, **near):
            raise ValueError(f"{name} differs after two watched steps at scale {scale}: nothing was timed")


def timed(contender: Contender, steps: int, device: str) -> float:
    """Return the seconds that some steps take."""
    if device == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(steps):
        contender.step()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def measure(scale: str, device: str, rounds: int, log: str) -> tuple[dict[str, list[float]], float]:
    """Return ratios to the bare step by kind, one a round, and the bare step's median seconds."""
    contenders: dict[str, Contender] = {
        "bare": Contender(scale, device),
        "units": Watched(scale, device, NEVER, 1),
        "norms": Watched(scale, device, 1, NEVER),
        "everything": Watched(scale, device, 1, 1),
    }
    if importlib.util.find_spec("tensorboard") is None:
        print("TensorBoard: left out, it is not installed")
    else:
        contenders["TensorBoard"] = Logged(scale, device, log)
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    order = list(contenders)
    for turn in range(rounds + 1):
        for name in order:
            elapsed = timed(contenders[name], TURN[scale], device) / TURN[scale]
            if turn:  # the first round warms caches and allocators
                seconds[name].append(elapsed)
        order = order[1:] + order[:1]
    for contender in contenders.values():
        contender.end()
    bare = seconds.pop("bare")
    ratios = {name: [a / b for a, b in zip(s, bare, strict=True)] for name, s in seconds.items()}
    return {**_on_schedule(ratios), **ratios}, statistics.median(bare)


def _on_schedule(ratios: dict[str, list[float]]) -> dict[str, list[float]]:
    """Put the kinds of steps together as a run of the default schedule does, round by round."""
    every, window = DEFAULT_EVERY, LEAST_PER_WINDOW
    period = every * window
    of_kinds = zip(ratios["units"], ratios["norms"], ratios["everything"], strict=True)
    scheduled = {"default": [((period - window) * u + (window - 1) * n + e) / period for u, n, e in of_kinds]}
    if "TensorBoard" in ratios:
        scheduled["TensorBoard on schedule"] = [(every - 1 + ratio) / every for ratio in ratios["TensorBoard"]]
    return scheduled


def rows_of(scale: str, device: str, rounds: int) -> tuple[list[list[Any]], bool]:
    """Measure one scale, print it, and return its rows and whether a limit was missed."""
    check(scale, device)
    with tempfile.TemporaryDirectory() as log:
        ratios, bare = measure(scale, device, rounds, log)
    print(f"{scale}: a bare step takes {bare * 1e3:.1f} ms; the watched network learned the same, to the last bit")
    rows, missed = [], False
    for name, values in ratios.items():
        ratio, limit = spread(values), LIMITS[device].get((scale, name))
        missed |= limit is not None and ratio.median > limit
        print(f"  {name:26} {ratio.text(3)}" + (f"  at most {limit}" if limit else ""))
        rows.append([scale, name, *ratio, bare])
    return rows, missed


def main() -> int:
    """Measure, print, and say whether the limits hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", default=",".join(SCALES), help="227, laptop, or both")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--csv", type=Path, help="append one row per ratio")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    measured, any_missed = [], False
    for scale in arguments.scale.split(","):
        if scale not in SCALES:
            parser.error(f"--scale takes 227 or laptop, got {scale!r}")
        rows, missed = rows_of(scale, arguments.device, arguments.rounds)
        measured += rows
        any_missed |= missed
    if arguments.csv:
        header = ["scale", "instruments", *SPREAD, "bare_seconds", "threads", *MACHINE]
        append_rows(arguments.csv, header, [[*row, arguments.threads, *machine(arguments.device)] for row in measured])
    return int(any_missed)


if __name__ == "__main__":
    sys.exit(main())
