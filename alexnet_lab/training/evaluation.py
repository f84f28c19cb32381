"""A network's predictions on a set of images, and their metrics.

Shapes: B images of a batch, K classes, V views of one image.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from alexnet_lab.data.feed import Feed
from alexnet_lab.training.errors import DivergedError, first_bad_layer
from alexnet_lab.training.metrics import metrics_of


def evaluate(
    network: nn.Module, feed: Feed, indices: NDArray[np.int64], batch_size: int, ten_views: bool = False
) -> dict[str, Any]:
    """Return the metrics of a network in eval mode on those images of a feed.

    Raises DivergedError where `probabilities_of` does.
    """
    probabilities = probabilities_of(network, feed, indices, batch_size, ten_views)
    return metrics_of(probabilities, feed.labels.cpu().numpy()[indices])


@torch.no_grad()
def probabilities_of(
    network: nn.Module, feed: Feed, indices: NDArray[np.int64], batch_size: int, ten_views: bool = False
) -> NDArray[np.float64]:
    """Return the probability of every class, N K, in eval mode: by softmax, of each finding by a sigmoid.

    With ten views it is the mean over them (paper, 4.1).

    A network whose output is infinite or NaN for any image has none: DivergedError names the layer.
    """
    if not len(indices):
        raise ValueError("metrics are of at least one image, got none; name the images to evaluate on")
    was_training = network.training
    network.eval()
    parts: list[Tensor] = []  # B K each
    finite: list[Tensor] = []  # B each; read from the device once, after all
    batch = images_at_once(batch_size, ten_views)
    for pixels in _pixels_of(feed, indices, batch, ten_views):  # B V C S S
        scores = network(pixels.flatten(0, 1)).float()  # BV K
        outputs = scores.sigmoid() if feed.has_findings else scores.softmax(1)
        parts.append(outputs.unflatten(0, pixels.shape[:2]).mean(1) if ten_views else outputs)
        finite.append(scores.isfinite().all(1).unflatten(0, pixels.shape[:2]).all(1))
    bad = (~torch.cat(finite)).nonzero()[:, 0].tolist()
    if bad:
        first = bad[0] // batch * batch
        pixels = next(_pixels_of(feed, indices[first : first + batch], batch, ten_views))
        where = first_bad_layer(network, pixels.flatten(0, 1))
        raise DivergedError(f"the output for {len(bad)} of {len(indices)} images was infinite or NaN: {where}")
    network.train(was_training)
    probabilities = torch.cat(parts).double().cpu()
    if not feed.has_findings:
        probabilities /= probabilities.sum(1, keepdim=True)  # float32 sums miss 1 by more than scikit-learn accepts
    array: NDArray[np.float64] = probabilities.numpy()
    return array


def evaluation_batch(batch_size: int, parts: int) -> int:
    """Return the batch of an evaluation: four times a training part fits wherever that does, without gradients."""
    return 4 * (batch_size // parts)


def images_at_once(batch_size: int, ten_views: bool) -> int:
    """Return how many images make a batch of that size."""
    return max(1, batch_size // 10) if ten_views else batch_size


def _pixels_of(feed: Feed, indices: NDArray[np.int64], batch_size: int, ten_views: bool) -> Iterator[Tensor]:
    """Yield batches of images, B V C S S."""
    if ten_views:
        yield from (pixels for pixels, _ in feed.ten_views_of(indices, batch_size))
    else:
        yield from (pixels.unsqueeze(1) for pixels, _ in feed.batches_of(indices, batch_size))
