"""A labelled set of images, decoded: what every source ends as."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Images:
    """A labelled set of images, decoded and whole; the pixels may be in memory or on disk."""

    name: str
    pixels: NDArray[np.uint8]  # N C H W
    labels: NDArray[np.int64]  # N; N K of 0 and 1 where images have findings (findings.py)
    classes: tuple[str, ...]
    parts: NDArray[np.str_] | None = None  # N: "train", "validation" or "test", where the source says so
    groups: NDArray[np.str_] | None = None  # N: the patient or slide, all of whose images belong to one part of a split
    names: NDArray[np.str_] | None = None  # N: the files they came from
    contents: NDArray[np.int64] | None = None  # N: the first image with the same bytes
    notes: tuple[str, ...] = ()  # what a user must be told
    unreadable: Mapping[int, str] = field(default_factory=dict)  # images whose pixels are blank, and why
    digest: str = ""  # a fingerprint taken where the images were read; empty: taken of the pixels
    near_copies: NDArray[np.int64] | None = None  # M 2: pairs of the same picture in other bytes, the smaller first
    deep_bits: int = 8  # of the brightest pixel; the upper 8 were kept
    sizes: NDArray[np.int32] | None = None  # N 2: width and height before they were stored; 0 where unreadable
    coloured: NDArray[np.bool_] | None = None  # N: the file has colour; where it has none, all channels are alike
    group_order: NDArray[np.int64] | None = None  # N: of groups that are pseudonyms, the order of their own names

    def name_of(self, index: int) -> str | int:
        """Return the file of an image, or its number where there are no files."""
        return index if self.names is None else str(self.names[index])

    @property
    def grouping(self) -> NDArray[np.str_] | NDArray[np.int64] | None:
        """Return what splits are made by: groups in the order of their own names, though these are not known here."""
        return self.groups if self.group_order is None else self.group_order

    @property
    def fingerprint(self) -> str:
        """Return a digest of the data: the same data has the same one wherever it is stored.

        For images in memory it covers every pixel and label; for image files the name, the label and every byte of
        each file. Official parts and groups are covered too.
        """
        if self.digest:
            return self.digest
        digest = hashlib.blake2b(digest_size=16)
        for array in (self.pixels, self.labels, self.parts, self.groups):
            if array is not None:
                digest.update(f"{array.dtype}{array.shape}".encode())
                digest.update(np.ascontiguousarray(array).data if array.dtype.kind != "U" else array.tobytes())
        return digest.hexdigest()


def first_alike(digests: list[bytes]) -> NDArray[np.int64]:
    """Return for each digest the number of the first that equals it; an empty one equals no other."""
    first: dict[bytes, int] = {}
    return np.array([first.setdefault(digest, at) if digest else at for at, digest in enumerate(digests)], np.int64)


def same_sizes(shape: tuple[int, ...]) -> NDArray[np.int32]:
    """Return the sizes of images in one array, N C H W: all have its width and height."""
    return np.tile(np.array([shape[3], shape[2]], np.int32), (shape[0], 1))
