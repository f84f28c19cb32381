"""Where images come from. Every source ends as uint8 pixels, N C H W, with labels and a fingerprint of both."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from alexnet_lab.choices import unknown_choice


@dataclass(frozen=True)
class Images:
    """A labelled set of images, decoded and whole."""

    name: str
    pixels: NDArray[np.uint8]  # N C H W
    labels: NDArray[np.int64]  # N
    classes: tuple[str, ...]

    @property
    def fingerprint(self) -> str:
        """Return a digest of every pixel and label: the same data, wherever it came from, has the same one."""
        digest = hashlib.blake2b(digest_size=16)
        for array in (self.pixels, self.labels):
            digest.update(f"{array.dtype}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()


def _digits() -> Images:
    """Read scikit-learn's 1,797 handwritten digits, 8x8 in 17 greys: real, small, installed with it."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    return Images("digits", pixels[:, None], digits.target.astype(np.int64), tuple("0123456789"))


SOURCES: Mapping[str, Callable[[], Images]] = {"digits": _digits}


def load_images(name: str) -> Images:
    """Load a source by name."""
    if name not in SOURCES:
        raise unknown_choice("data source", name, SOURCES)
    return SOURCES[name]()
