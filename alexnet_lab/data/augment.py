"""Augmentation of training images: its description as text, and the random draws for each image.

    none                    the image as it is
    flip                    left and right exchanged with probability one half
    crop    crop:0.125      a window of the chosen side out of a larger image; the argument is the margin as a share of
                            that side. 1/7 by default: 224 out of 256, offsets 0 to 32, as in 2012 (paper, 4.1)
    colour  colour:0.05     light and colour along the principal components of the training pixels (paper, 4.1)
    rotate  rotate:7        rotated by up to so many degrees either way, 10 by default
    scale   scale:0.05      larger or smaller by up to that share, a tenth by default
    paper   xray            named sets: `crop,flip,colour`, and `rotate:7,scale:0.1`

`xray` does not mirror: the heart is on the left, and a mirrored chest is a rare finding.

Every draw is a hash of (seed, epoch, image, purpose). It does not depend on the batch, the number of workers, the
device, or the other augmentations. This module does not import torch.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from alexnet_lab.choices import unknown_choice
from alexnet_lab.randomness import derived_seed

# name -> (default, largest) of its argument; flip takes none.
ARGUMENTS: Mapping[str, tuple[float, float]] = {
    "crop": (1 / 7, 1.0),
    "flip": (1.0, 1.0),
    "colour": (0.1, 1.0),
    "rotate": (10.0, 180.0),
    "scale": (0.1, 0.5),
}
NAMED: Mapping[str, str] = {"none": "", "paper": "crop,flip,colour", "xray": "rotate:7,scale:0.1"}


@dataclass(frozen=True)
class Augmentation:
    """The strength of each augmentation; 0 leaves it out."""

    crop: float = 0.0
    flip: float = 0.0
    colour: float = 0.0
    rotate: float = 0.0
    scale: float = 0.0

    def __str__(self) -> str:
        parts = []
        for field in fields(self):
            strength = getattr(self, field.name)
            if strength:
                plain = strength == ARGUMENTS[field.name][0]
                parts.append(field.name if plain else f"{field.name}:{strength:g}")
        return ",".join(parts) or "none"

    @property
    def moves(self) -> bool:
        """Return whether the augmentation moves pixels."""
        return any((self.crop, self.flip, self.rotate, self.scale))

    def margin(self, side: int) -> int:
        """Return by how many pixels the image is larger than the window that the network sees."""
        return round(side * self.crop)


def parse_augmentation(text: str) -> Augmentation:
    """Read `crop,flip`, `rotate:5,scale`, `paper`; an error says what is possible."""
    strengths: dict[str, float] = {}
    pieces = [piece.strip() for piece in text.split(",")]
    for piece in ",".join(NAMED.get(piece, piece) for piece in pieces).split(","):
        if not piece:
            continue
        name, colon, argument = piece.partition(":")
        if name not in ARGUMENTS:
            raise unknown_choice("augmentation", name, [*ARGUMENTS, *NAMED])
        default, largest = ARGUMENTS[name]
        if name in strengths:
            raise ValueError(f"augmentation {text!r} names {name} twice; keep one of them")
        if colon and name == "flip":
            raise ValueError(f"in augmentation {text!r}, flip takes no argument, got {argument!r}")
        strengths[name] = _strength(text, name, argument, largest) if colon else default
    return Augmentation(**strengths)


def _strength(text: str, name: str, argument: str, largest: float) -> float:
    try:
        strength = float(argument)
    except ValueError:
        strength = math.nan
    if not 0 < strength <= largest:
        raise ValueError(
            f"in augmentation {text!r}, {name} takes a number above 0 and up to {largest:g}, got {argument!r}"
        )
    return strength


@dataclass(frozen=True)
class Draws:
    """The random draws for B images in one epoch."""

    offset: NDArray[np.int64]  # B 2: rows above the window, columns left of it
    flip: NDArray[np.bool_]  # B
    angle: NDArray[np.float64]  # B, radians
    zoom: NDArray[np.float64]  # B; 1 leaves the size
    colour: NDArray[np.float64]  # B C, standard normal draws times the strength


def draw(
    augmentation: Augmentation, indices: NDArray[np.int64], seed: int, epoch: int, margin: int, channels: int
) -> Draws:
    """Return the draws for the images with those indices in that epoch; each depends on its own index alone."""
    key = derived_seed(seed, "augment", epoch)

    def uniform(purpose: int) -> NDArray[np.float64]:
        return uniform_of(key, indices, purpose)

    def either_way(purpose: int, reach: float) -> NDArray[np.float64]:
        return reach * (2 * uniform(purpose) - 1)

    # Each purpose has a number of its own, so that the draws of one do not depend on whether another is switched on.
    offset = np.stack([np.floor(uniform(purpose) * (margin + 1)) for purpose in (0, 1)], 1).astype(np.int64)
    normal = [
        np.sqrt(-2 * np.log1p(-uniform(8 + 2 * channel))) * np.cos(2 * np.pi * uniform(9 + 2 * channel))  # Box-Muller
        for channel in range(channels)
    ]
    return Draws(
        offset,
        (uniform(2) < 0.5) & (augmentation.flip > 0),
        np.radians(either_way(3, augmentation.rotate)),
        1 + either_way(4, augmentation.scale),
        augmentation.colour * np.stack(normal, 1),
    )


def uniform_of(key: int, indices: NDArray[np.int64], purpose: int) -> NDArray[np.float64]:
    """Return a number in [0, 1) for each index: 53 bits of a hash of (key, purpose, index)."""
    start = _mixed(np.full(1, (key + purpose * 0x9E3779B97F4A7C15) % 2**64, np.uint64))
    bits = _mixed(_mixed(indices.astype(np.uint64) + start))
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mixed(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Mix 64 bits by the finaliser of SplitMix64 (Steele, Lea, Flood 2014): each input bit flips half the output."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
