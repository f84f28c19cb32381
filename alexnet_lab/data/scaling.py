"""The mean, spread and colours of the training images, which bring pixels to the scale that a network expects.

scale   unit         mean 0 and standard deviation 1, as modern initial values assume
        pixels       0 to 255 minus the mean of each channel, spread about 70, as the initial values of 2012 assume
        mean-image   0 to 255 minus the mean image, which has a value for each pixel, as was done in 2012 (paper, 2)

Means and spreads per channel are of the images as the network sees them in evaluation, enlarged if need be: enlarging
smooths, and so reduces the spread. The mean image is one of stored pixels and is subtracted before augmentation, so
that a crop loses the same crop of it, and a mirrored image the mirrored one. All later steps are linear in the pixels
with weights that sum to 1, so this is exact.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alexnet_lab.choices import unknown_choice
from alexnet_lab.data.views import Geometry, middle_weights

SCALES = ("unit", "pixels", "mean-image")
ENOUGH = 10_000  # images for these statistics; of more, as many evenly spaced ones are read
CHANNELS = ("auto", "grey", "rgb")
# Weights of red, green and blue in grey, by ITU-R BT.601, as in Pillow.
BRIGHTNESS = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Scaling:
    """Brings pixels to scale: (pixels - mean) / spread."""

    mean: Tensor  # C 1 1; C T T at scale "mean-image"
    spread: Tensor  # C 1 1; ones at every scale but "unit"
    colours: NDArray[np.float64]  # C C: column k is the k-th principal component times its standard deviation

    def to(self, device: str) -> "Scaling":
        """Return the same on a device."""
        return Scaling(self.mean.to(device), self.spread.to(device), self.colours)


def count_channels(choice: str, stored: int) -> int:
    """Return how many channels a network sees: as many as are stored, one for grey, three for rgb."""
    if choice not in CHANNELS:
        raise unknown_choice("choice of channels", choice, CHANNELS)
    return {"auto": stored, "grey": 1, "rgb": 3}[choice]


def with_channels(pixels: Tensor, channels: int) -> Tensor:
    """Return B C T T pixels with one channel or three."""
    if pixels.shape[1] == channels:
        return pixels
    if channels == 1:
        red, green, blue = pixels.unbind(1)
        return (BRIGHTNESS[0] * red + BRIGHTNESS[1] * green + BRIGHTNESS[2] * blue)[:, None]
    return pixels.repeat(1, channels, 1, 1)


def check_scale(scale: str) -> None:
    """Refuse an unknown scale."""
    if scale not in SCALES:
        raise unknown_choice("input scale", scale, SCALES)


def scaling_of(
    pixels: NDArray[np.uint8], train: NDArray[np.int64], geometry: Geometry, scale: str, channels: int
) -> Scaling:
    """Measure the training images, stored as N C T T, as the network sees them in that many channels."""
    spaced = train[np.linspace(0, len(train) - 1, min(len(train), ENOUGH)).astype(np.int64)]
    read, cross = middle_weights(geometry), torch.zeros(channels, channels, dtype=torch.float64)
    total, stored_total = torch.zeros(channels, dtype=torch.float64), torch.zeros(channels, dtype=torch.float64)
    squares = torch.zeros(channels, dtype=torch.float64)
    image = torch.zeros(channels, geometry.stored, geometry.stored, dtype=torch.float64)
    # A view is y = R x R'. The sum of its pixels is r' x r with r the column sums of R, and the sum of their squares is
    # that of x times G x G with G = R' R: exact, at the cost of the stored pixels, which are fewer.
    column_sums, gram = read.sum(0), read.T @ read
    cut = slice(geometry.middle, geometry.middle + geometry.seen) if geometry.stored == geometry.whole else None
    for start in range(0, len(spaced), 256):
        x = torch.from_numpy(np.asarray(pixels[spaced[start : start + 256]])).float()
        x = with_channels(x, channels)  # B C T T
        flat = x.transpose(0, 1).flatten(1)  # C BTT
        cross += (flat @ flat.T).double()
        stored_total += flat.sum(1).double()
        if scale == "mean-image":
            image += x.sum(0).double()  # of 256 images at 0 to 255 a sum that float32 holds exactly
        if cut:
            x = x[..., cut, cut]
            total += x.sum((0, 2, 3)).double()
            squares += (x * x).sum((0, 2, 3)).double()
        else:
            total += (x @ column_sums @ column_sums).sum(0).double()
            squares += (x * (gram @ x @ gram)).sum((0, 2, 3)).double()
    pixels_seen, pixels_stored = len(spaced) * geometry.seen**2, len(spaced) * geometry.stored**2
    mean = total / pixels_seen
    # As in torch.std: divided by one less than the count.
    deviation = ((squares - pixels_seen * mean**2) / max(pixels_seen - 1, 1)).clamp_min(0).sqrt()
    spread = deviation.clamp_min(1e-6) if scale == "unit" else torch.ones_like(mean)
    average = stored_total / pixels_stored
    colours = _components(cross / pixels_stored - average[:, None] * average)
    subtracted = image / len(spaced) if scale == "mean-image" else mean[:, None, None]
    return Scaling(subtracted.float(), spread.float()[:, None, None], colours.numpy())


def _components(covariance: Tensor) -> Tensor:
    """Return the principal components, each times its standard deviation; the largest entry of each is positive."""
    variances, directions = torch.linalg.eigh(covariance)
    # The sign of an eigenvector depends on the library; with a fixed sign a draw gives the same colour everywhere.
    largest = directions.gather(0, directions.abs().argmax(0, keepdim=True))
    components: Tensor = directions * largest.sign() * variances.clamp_min(0).sqrt()
    return components
