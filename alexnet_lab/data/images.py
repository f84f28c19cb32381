"""A labelled set of images, decoded: what every source ends as."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Images:
    """A labelled set of images, decoded and whole; the pixels may lie in memory or on disk."""

    name: str
    pixels: NDArray[np.uint8]  # N C H W
    labels: NDArray[np.int64]  # N
    classes: tuple[str, ...]
    parts: NDArray[np.str_] | None = None  # N: "train", "validation" or "test", where the source says so
    groups: NDArray[np.str_] | None = None  # N: the patient, the slide: what must not stand on two sides of a split
    names: NDArray[np.str_] | None = None  # N: the files they came from
    contents: NDArray[np.int64] | None = None  # N: the first image of the same bytes, of files
    notes: tuple[str, ...] = ()  # what a user must be told
    unreadable: Mapping[int, str] = field(default_factory=dict)  # images whose pixels are blank, and why
    digest: str = ""  # a fingerprint taken where the images were read; empty: taken of the pixels

    @property
    def fingerprint(self) -> str:
        """Return a digest of the data: the same data, wherever it lies, has the same one.

        Of images in memory it covers every pixel and label. Of image files it covers the name, the label and every byte
        of each, read once when they were decoded. Where a source says which image serves what, it covers that too.
        """
        if self.digest:
            return self.digest
        digest = hashlib.blake2b(digest_size=16)
        for array in (self.pixels, self.labels, self.parts, self.groups):
            if array is not None:
                digest.update(f"{array.dtype}{array.shape}".encode())
                digest.update(np.ascontiguousarray(array).data if array.dtype.kind != "U" else array.tobytes())
        return digest.hexdigest()
