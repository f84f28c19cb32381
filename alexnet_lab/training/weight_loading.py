"""A recipe's initial weights, put into its network, and what a user must know of them."""

from pathlib import Path

import numpy as np
from torch import nn

from alexnet_lab.data.feed import Feed
from alexnet_lab.networks.pretrained import RUN_PREFIX, load_own, load_pretrained
from alexnet_lab.records import RunFolder
from alexnet_lab.training import checkpoint
from alexnet_lab.training.recipe import Recipe
from alexnet_lab.training.weight_sources import BUILT_BY, WeightSource, differences, values_of

# Settings under which the same weights compute something else.
TOLD = ("preset", "norm", "act", "input_scale", "image_size")


def load_weights(network: nn.Module, source: WeightSource, recipe: Recipe, feed: Feed) -> list[str]:
    """Load the weights of a source and return notes about them.

    The last layer stays as initialised where the classes are others. Raises ValueError, FileNotFoundError or
    ConnectionError, beginning with `weights: `.
    """
    if source.run is None or source.recipe is None:
        fresh = load_pretrained(network, source.text if source.file is None else source.file)
        return [f"weights from {source.text}; as initialised: {', '.join(fresh)}"] if fresh else []
    try:
        tensors = checkpoint.load_checkpoint(source.run / "checkpoints", checkpoint.BEST).tensors
    except ValueError as error:
        raise ValueError(f"weights: {error}") from None
    own = {name.removeprefix(RUN_PREFIX): tensor for name, tensor in tensors.items()}
    try:
        fresh = load_own(network, own, keep_head=source.classes == feed.classes)
    except ValueError as error:
        raise ValueError(f"weights: {_refusal(source.run, source.recipe, recipe, error)}") from None
    notes = [f"weights from {source.description}; as initialised: {', '.join(fresh) or 'nothing'}"]
    differing = differences(recipe, source.recipe, TOLD)
    if differing:
        theirs, ours = values_of(source.recipe, differing), values_of(recipe, differing)
        notes.append(f"the weights were trained with {theirs}, and this run has {ours}")
    overlap = _tested_after_training(source.run, feed)
    if overlap:
        notes.append(
            f"{overlap} of the {len(feed.split.test)} test images were training images of {source.run}, from which the "
            "weights come, so that the test accuracy is too high; train both with one split_seed and fold"
        )
    return notes


def _tested_after_training(run: Path, feed: Feed) -> int:
    """Count the test images that a run was trained on."""
    records = RunFolder(run)
    provenance, split = records.provenance(), records.split()
    if provenance is None or split is None or provenance.get("data_fingerprint") != feed.fingerprint:
        return 0
    return int(np.isin(feed.split.test, split["train"]).sum())


def _refusal(run: Path, trained: Recipe, recipe: Recipe, why: ValueError) -> str:
    """Say which settings of the recipe do not fit the run, or else which tensors."""
    differing = differences(recipe, trained, BUILT_BY)
    if not differing:
        return f"{run}: {why}"
    theirs, ours = values_of(trained, differing), values_of(recipe, differing)
    return f"{run} was trained with {theirs}, and this network has {ours}; take {theirs}, or weights that fit"
