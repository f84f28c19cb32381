"""One training run, from a recipe to a run folder.

    python -m alexnet_lab.training.run RUN_FOLDER

reads RUN_FOLDER/recipe.json, trains, and leaves metrics, weights and a verdict there. A run is a process of its own, so
that nothing it does to itself reaches another.
"""

import json
import math
import platform
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

import alexnet_lab
from alexnet_lab.data.feed import Feed, prepare
from alexnet_lab.data.sources import load_images
from alexnet_lab.data.splits import stratified_split
from alexnet_lab.networks import build_network
from alexnet_lab.networks.slots import Dropout
from alexnet_lab.randomness import derived_seed
from alexnet_lab.records import RunFolder, write_atomically
from alexnet_lab.training.recipe import Recipe, read_recipe


class DivergedError(Exception):
    """The loss is no longer a number: a finding, not a mistake of the program."""


def train(recipe: Recipe, folder: RunFolder) -> dict[str, Any]:
    """Train by the recipe, log each epoch, test once at the end, and return the result that the verdict carries."""
    torch.set_num_threads(recipe.threads)
    images = load_images(recipe.data)
    folder.begin(recipe.to_json(), _provenance(recipe, images.fingerprint))
    feed = prepare(images, stratified_split(images.labels, recipe.split_seed), recipe.image_size, recipe.input_scale)
    network = _network_of(recipe, classes=len(images.classes), in_channels=images.pixels.shape[1])
    optimiser = _optimiser_of(recipe, network)
    luck = _DropoutLuck(network, recipe.seed)

    steps_per_epoch = feed.steps_per_epoch(recipe.batch_size)
    last_step = recipe.epochs * steps_per_epoch
    step = 0
    validation: dict[str, float] = {}
    for epoch in range(1, recipe.epochs + 1):
        began, summed_loss = time.perf_counter(), 0.0
        network.train()
        for pixels, labels in feed.training_batches(recipe.batch_size, recipe.seed, epoch):
            for group in optimiser.param_groups:
                group["lr"] = recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * step / last_step))
            luck.deal(step)
            loss = F.cross_entropy(network(pixels), labels)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            step += 1
            now = float(loss.detach())
            summed_loss += now
            if not math.isfinite(now):
                raise DivergedError(f"the loss was {now} at step {step} of {last_step}, epoch {epoch}")
        validation = evaluate(network, feed, feed.split.validation)
        folder.log(
            {
                "epoch": epoch,
                "step": step,
                "train_loss": summed_loss / steps_per_epoch,
                "validation_loss": validation["loss"],
                "validation_accuracy": validation["accuracy"],
                "seconds": time.perf_counter() - began,
            }
        )
    weights = safetensors.torch.save(dict(network.state_dict()))
    write_atomically(folder.path / "checkpoints" / "final.safetensors", weights)
    test = evaluate(network, feed, feed.split.test)
    return {
        "validation_accuracy": validation["accuracy"],
        "test_accuracy": test["accuracy"],
        "test_loss": test["loss"],
        "test_images": len(feed.split.test),
    }


@torch.no_grad()
def evaluate(network: nn.Module, feed: Feed, indices: NDArray[np.int64]) -> dict[str, float]:
    """Return mean loss and accuracy over those images, in eval mode."""
    network.eval()
    loss, right = 0.0, 0
    for pixels, labels in feed.batches_of(indices):
        scores = network(pixels)
        loss += float(F.cross_entropy(scores, labels, reduction="sum"))
        right += int((scores.argmax(1) == labels).sum())
    return {"loss": loss / len(indices), "accuracy": right / len(indices)}


class _DropoutLuck:
    """Deals each dropout layer the mask stream of (seed, layer, step), whatever other layers the network has."""

    def __init__(self, network: nn.Module, seed: int) -> None:
        self.seed = seed
        self.layers = {name: layer for name, layer in network.named_modules() if isinstance(layer, Dropout)}
        for layer in self.layers.values():
            layer.generator = torch.Generator()

    def deal(self, step: int) -> None:
        for name, layer in self.layers.items():
            if layer.generator is not None:
                layer.generator.manual_seed(derived_seed(self.seed, "dropout", name, step))


def _network_of(recipe: Recipe, classes: int, in_channels: int) -> nn.Module:
    network: nn.Module = build_network(
        recipe.network,
        classes,
        preset=recipe.preset if recipe.network == "alexnet" else None,
        norm=recipe.norm,
        act=recipe.act,
        dropout=recipe.dropout,
        width=recipe.width,
        image_size=recipe.image_size,
        in_channels=in_channels,
        init=recipe.init,
        seed=recipe.seed,
    )
    return network


def _optimiser_of(recipe: Recipe, network: nn.Module) -> torch.optim.Optimizer:
    # No decay on biases, as in 2012, nor on the gains of norms: everything with one dimension.
    weights = [p for p in network.parameters() if p.dim() > 1]
    others = [p for p in network.parameters() if p.dim() <= 1]
    return torch.optim.SGD(
        [{"params": weights, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}],
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
    )


def _provenance(recipe: Recipe, fingerprint: str) -> dict[str, Any]:
    return {
        "identity": recipe.identity(fingerprint),
        "data_fingerprint": fingerprint,
        "alexnet_lab": alexnet_lab.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {platform.system()} {platform.release()}",
        "device": "cpu",
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def main(arguments: list[str]) -> int:
    """Run the recipe that stands in the folder named on the command line."""
    if len(arguments) != 1:
        print("usage: python -m alexnet_lab.training.run RUN_FOLDER", file=sys.stderr)  # noqa: T201  # a command prints
        return 2
    path = Path(arguments[0])
    folder = RunFolder(path)
    recipe = read_recipe(json.loads((path / "recipe.json").read_text()))
    try:
        result = train(recipe, folder)
    except DivergedError as finding:
        folder.end("diverged", str(finding))
    except Exception as error:  # noqa: BLE001  # the verdict must be written whatever went wrong; the trace goes with it
        folder.end("error", f"{type(error).__name__}: {error}", {"traceback": traceback.format_exc()})
        return 1
    else:
        folder.end("ok", result=result)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
