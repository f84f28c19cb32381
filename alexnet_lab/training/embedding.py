"""An image as a network sees it: mean and spread of every channel of its convolutions, over all positions.

Up to eight convolutions count, evenly spaced, the first and the last among them. Noise shows in the early ones, and an
unfamiliar picture in the later ones. The last hidden layer alone tells less: it keeps what separates the classes.

Shapes: B images, F features of an image.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from alexnet_lab.data.feed import Feed
from alexnet_lab.networks.layers import layers_of

MOST_CONVOLUTIONS = 8


class Embedding:
    """Collects the features of the images that pass through a network."""

    def __init__(self, convolutions: list[nn.Conv2d]) -> None:
        self.channels = [module.out_channels for module in convolutions]
        self._parts: list[list[Tensor]] = [[] for _ in convolutions]  # of each, batch by batch

    @property
    def groups(self) -> NDArray[np.int64]:
        """Return for each feature, F, which layer's mean or spread it belongs to."""
        return np.repeat(np.arange(2 * len(self.channels)), np.repeat(self.channels, 2))

    def add(self, place: int, output: Tensor) -> None:
        """Take the output, B C H W, of the convolution at that place."""
        flat = output.detach().float().flatten(2)
        self._parts[place].append(torch.cat([flat.mean(2), flat.std(2, correction=0)], 1))

    def take(self) -> NDArray[np.float64]:
        """Return the features of all images since the last call, B F."""
        features: NDArray[np.float64] = torch.cat([torch.cat(parts) for parts in self._parts], 1).double().cpu().numpy()
        for parts in self._parts:
            parts.clear()
        return features


@contextmanager
def embedding_of(network: nn.Module) -> Iterator[Embedding]:
    """Collect features of the images that pass through a network within a block; its output stays the same."""
    firsts = [layer.modules[0] for layer in layers_of(network)]
    every = [module for module in firsts if isinstance(module, nn.Conv2d)]
    places = np.linspace(0, len(every) - 1, min(len(every), MOST_CONVOLUTIONS)).round().astype(int)
    chosen = [every[place] for place in places]
    embedding = Embedding(chosen)
    hooks = [
        module.register_forward_hook(partial(_give_output, embedding, place)) for place, module in enumerate(chosen)
    ]
    try:
        yield embedding
    finally:
        for hook in hooks:
            hook.remove()


def _give_output(embedding: Embedding, place: int, _module: nn.Module, _inputs: Any, output: Tensor) -> None:
    embedding.add(place, output)


@torch.no_grad()
def features_of(network: nn.Module, feed: Feed, indices: NDArray[np.int64], batch_size: int) -> NDArray[np.float64]:
    """Return the features of those images of a feed, N F, in eval mode and in the view of the middle."""
    was_training = network.training
    network.eval()
    with embedding_of(network) as embedding:
        for pixels, _ in feed.batches_of(indices, batch_size):
            network(pixels)
        features = embedding.take()
    network.train(was_training)
    return features
