"""A network's predictions on a set of images, and what they are worth.

Shapes: B images of a batch, K classes, V views of one image.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from alexnet_lab.data.feed import Feed
from alexnet_lab.training.metrics import classification_metrics


@torch.no_grad()
def evaluate(
    network: nn.Module, feed: Feed, indices: NDArray[np.int64], batch_size: int, ten_views: bool = False
) -> dict[str, Any]:
    """Return the metrics of a network in eval mode; with ten views, of the mean of their softmaxes (paper, 4.1)."""
    if not len(indices):
        raise ValueError("metrics are of at least one image, got none; name the images to evaluate on")
    was_training = network.training
    network.eval()
    found = []
    if ten_views:
        for pixels, _ in feed.ten_views_of(indices, max(1, batch_size // 10)):  # B V C S S
            scores = network(pixels.flatten(0, 1)).float().softmax(1)
            found.append(scores.unflatten(0, pixels.shape[:2]).mean(1))
    else:
        for pixels, _ in feed.batches_of(indices, batch_size):
            found.append(network(pixels).float().softmax(1))
    network.train(was_training)
    probabilities = torch.cat(found).double().cpu()
    probabilities /= probabilities.sum(1, keepdim=True)  # float32 sums miss 1 by more than scikit-learn accepts
    return classification_metrics(probabilities.numpy(), feed.labels.cpu().numpy()[indices])
