"""From an image file to the input of a trained network: the steps of its run's evaluation, with the same numbers.

Decoding depends on the set that the run was trained on: its images were stored with one side, one or three channels,
and the upper 8 of as many bits as its brightest pixel needed. A new image is brought to the same form. Then follow the
scale, with the mean and spread of the training images, and the window that evaluation sees, both in feed.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from alexnet_lab.data.augment import Augmentation
from alexnet_lab.data.decoding import bits_for, decode, look_at
from alexnet_lab.data.feed import Feed
from alexnet_lab.data.scaling import Scaling
from alexnet_lab.data.splits import Split
from alexnet_lab.data.views import Geometry

# The facts of a preprocessing: lengths in pixels, counts, and lists of numbers.
SIDES, COUNTS, SCALES = (
    ("seen", "stored", "whole"),
    ("stored_channels", "channels", "deep_bits"),
    ("mean", "spread", "colours"),
)
LARGEST_WHOLE = 2**15  # twice the largest image_size of a recipe


@dataclass(frozen=True)
class Decoded:
    """An image file as the run's own images were stored."""

    pixels: NDArray[np.uint8]  # C T T
    size: tuple[int, int]  # width and height of the file
    is_coloured: bool
    is_greyed: bool  # it lost its colours


@dataclass(frozen=True)
class Preprocessing:
    """What a run's evaluation does to an image. `facts` hold all of it; `restored` reads them."""

    geometry: Geometry
    stored_channels: int  # 1 where all images of the run were grey
    channels: int  # that the network sees
    deep_bits: int
    scaling: Scaling

    def facts(self) -> dict[str, Any]:
        """Return numbers and lists for JSON, which keeps them to the last bit."""
        geometry, scaling = self.geometry, self.scaling
        return {
            "seen": geometry.seen,
            "stored": geometry.stored,
            "whole": geometry.whole,
            "stored_channels": self.stored_channels,
            "channels": self.channels,
            "deep_bits": self.deep_bits,
            "mean": scaling.mean.tolist(),
            "spread": scaling.spread.tolist(),
            "colours": scaling.colours.tolist(),
        }

    def decoded(self, content: bytes, fit: str) -> Decoded:
        """Return an image as the run's own were stored.

        Raises one of decoding.UNREADABLE.
        """
        look = look_at(content)
        size, bits = (look.width, look.height), bits_for(look.brightest)
        if bits > self.deep_bits:
            raise ValueError(
                f"its brightest pixel needs {bits} bits, and the images of the run had {self.deep_bits}; save it with "
                f"{self.deep_bits}"
            )
        pixels = decode(content, self.geometry.stored, fit, grey=False, deep_bits=self.deep_bits)
        is_grey = bool((pixels == pixels[:1]).all())
        if self.stored_channels == 3:
            return Decoded(pixels, size, not is_grey, is_greyed=False)
        if is_grey:
            return Decoded(pixels[:1], size, is_coloured=False, is_greyed=False)
        grey = decode(content, self.geometry.stored, fit, grey=True, deep_bits=self.deep_bits)
        return Decoded(grey, size, is_coloured=True, is_greyed=True)

    def feed_of(
        self, pixels: NDArray[np.uint8], classes: tuple[str, ...], device: str, *, has_findings: bool = False
    ) -> Feed:
        """Return decoded images, N C T T, as a feed without labels: every label is 0, and no part has an image."""
        none = np.empty(0, np.int64)
        shape = (len(pixels), len(classes)) if has_findings else (len(pixels),)
        return Feed(
            classes=classes,
            channels=self.channels,
            labels=torch.zeros(shape, dtype=torch.long, device=device),
            split=Split(none, none, none),
            fingerprint="",
            notes=(),
            names=None,
            groups=None,
            augmentation=Augmentation(),
            geometry=self.geometry,
            scaling=self.scaling.to(device),
            device=device,
            stored=pixels,
            deep_bits=self.deep_bits,
        )


def preprocessing_of(feed: Feed) -> Preprocessing:
    """Return what the evaluation of a feed does to an image."""
    return Preprocessing(feed.geometry, feed.stored.shape[1], feed.channels, feed.deep_bits, feed.scaling.to("cpu"))


def restored(facts: Any) -> Preprocessing:
    """Return the preprocessing with these facts; ValueError for facts of another kind."""
    if not isinstance(facts, Mapping) or not facts.keys() >= {*SIDES, *COUNTS, *SCALES}:
        raise ValueError(f"the preprocessing must have {', '.join((*SIDES, *COUNTS, *SCALES))}")
    limits = {**dict.fromkeys(SIDES, LARGEST_WHOLE), "stored_channels": 3, "channels": 3, "deep_bits": 16}
    for name, most in limits.items():
        if type(facts[name]) is not int or not 1 <= facts[name] <= most:
            raise ValueError(f"{name} of the preprocessing must be 1 to {most:,}, got {facts[name]!r:.40}")
    try:
        mean, spread = (torch.tensor(facts[name], dtype=torch.float32) for name in ("mean", "spread"))
        colours = np.array(facts["colours"], np.float64)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise ValueError(f"{', '.join(SCALES)} of the preprocessing must be lists of numbers") from None
    if mean.ndim != 3 or spread.ndim != 3:
        raise ValueError("mean and spread of the preprocessing must have three axes: channels, rows, columns")
    return Preprocessing(
        Geometry(facts["seen"], facts["stored"], facts["whole"]),
        facts["stored_channels"],
        facts["channels"],
        facts["deep_bits"],
        Scaling(mean, spread, colours),
    )
