"""From stored pixels to batches: size, scale and order.

Shapes: N images, B of them in a batch, C channels, S the side the network sees.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from alexnet_lab.data.sources import Images
from alexnet_lab.data.splits import Split
from alexnet_lab.randomness import stream

# Input scales. The 2012 initial values assume "pixels": 0 to 255 less the mean, standard deviation about 70. Modern
# ones assume "unit": mean 0, standard deviation 1. Mean and deviation are those of the training images.
SCALES = ("unit", "pixels")


@dataclass(frozen=True)
class Feed:
    """The images of one run, at the side and scale that its network sees."""

    images: Tensor  # N C S S, float32
    labels: Tensor  # N
    split: Split

    def training_batches(self, batch_size: int, seed: int, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the training images in an order that depends on (seed, epoch) alone; a short last batch is left out."""
        train = torch.from_numpy(self.split.train)
        order = train[torch.randperm(len(train), generator=stream(seed, "order", epoch))]
        for batch in torch.split(order, batch_size):
            if len(batch) == batch_size:
                yield self.images[batch], self.labels[batch]

    def batches_of(self, indices: NDArray[np.int64], batch_size: int = 256) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield those images in their stored order, all of them."""
        for batch in torch.split(torch.from_numpy(indices), batch_size):
            yield self.images[batch], self.labels[batch]

    def steps_per_epoch(self, batch_size: int) -> int:
        """Count the batches of one epoch; a batch larger than the training set would leave none."""
        if batch_size > len(self.split.train):
            raise ValueError(f"batch size {batch_size} is larger than the {len(self.split.train)} training images")
        return len(self.split.train) // batch_size


def prepare(images: Images, split: Split, side: int, scale: str) -> Feed:
    """Resize to side x side (bilinear, antialiased when shrinking) and bring to scale."""
    pixels = torch.from_numpy(images.pixels)
    # Resized in slices: a float copy of a whole set at 227 would need four times the room of the result's peak.
    resized = torch.cat(
        [
            F.interpolate(part.float(), (side, side), mode="bilinear", align_corners=False, antialias=True)
            for part in torch.split(pixels, 512)
        ]
    )
    seen = resized[torch.from_numpy(split.train)]
    resized -= seen.mean((0, 2, 3), keepdim=True)
    if scale == "unit":
        resized /= seen.std((0, 2, 3), keepdim=True).clamp_min(1e-6)
    return Feed(resized, torch.from_numpy(images.labels), split)
