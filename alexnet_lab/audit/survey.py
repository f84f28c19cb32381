"""One pass over a dataset: what each image file is, and a small grey picture of it, 4 kB an image."""

import functools
import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from alexnet_lab.audit.candidates import SIDE
from alexnet_lab.data.decoding import UNREADABLE, Facts, quiet_decoders, reason, small_picture
from alexnet_lab.data.dicom import numbered, patient_of
from alexnet_lab.data.findings import sets_of
from alexnet_lab.data.images import Images, first_alike
from alexnet_lab.data.listings import Listing
from alexnet_lab.data.pseudonyms import order_of, pseudonyms

Progress = Callable[[str, int, int], None]  # what, done, total
Read = Callable[[str], AbstractContextManager[bytes]]
STRETCH = 1024


@dataclass(frozen=True)
class Survey:
    """All images of a dataset, in order."""

    name: str
    labels: NDArray[np.int64]  # N; N K of 0 and 1 where images have findings, which stand in the place of classes
    classes: tuple[str, ...]
    thumbs: NDArray[np.uint8] = field(repr=False)  # N S S, the whole picture in grey
    contents: NDArray[np.int64] = field(repr=False)  # N: the first image with the same bytes
    stored_side: int = SIDE  # of the smallest picture
    names: Sequence[str] | None = None  # N
    parts: NDArray[np.str_] | None = None
    groups: NDArray[np.str_] | None = None  # pseudonyms of patients
    grouping: NDArray[np.str_] | NDArray[np.int64] | None = None  # the same as splits take it (images.py)
    facts: Sequence[Facts | None] = ()  # N; empty where there are no files
    columns: Mapping[str, Sequence[str]] = field(default_factory=dict)
    unreadable: Mapping[int, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def has_findings(self) -> bool:
        """Return whether images have any number of findings, and not one class each."""
        return self.labels.ndim == 2

    @functools.cached_property
    def label_numbers(self) -> NDArray[np.int64]:
        """Return a number for the label of each image, N: for its class, or its whole set of findings."""
        return sets_of(self.labels)[0] if self.has_findings else self.labels

    @property
    def readable(self) -> NDArray[np.int64]:
        """Return the numbers of the images that could be read."""
        return np.setdiff1d(np.arange(len(self.labels)), np.array(list(self.unreadable), np.int64))

    def name_of(self, index: int) -> str:
        """Return how a user knows an image."""
        return f"image {index}" if self.names is None else self.names[index]


def survey_files(listing: Listing, progress: Progress) -> Survey:
    """Read every file once."""
    count = len(listing.paths)
    thumbs = np.zeros((count, SIDE, SIDE), np.uint8)
    digests, unreadable = [b""] * count, {}
    patients = [b""] * count
    facts: list[Facts | None] = [None] * count

    def look(index: int, read: Read) -> None:
        try:
            with read(listing.paths[index]) as content:
                facts[index], thumbs[index] = small_picture(content, SIDE)
                patients[index] = patient_of(content)
                digests[index] = hashlib.blake2b(content, digest_size=16).digest()
        except UNREADABLE as error:
            unreadable[index] = reason(error)

    with listing.reader() as read, ThreadPoolExecutor(os.cpu_count()) as pool, quiet_decoders():
        for start in range(0, count, STRETCH):  # a limited number of tasks waits at a time
            some = range(start, min(start + STRETCH, count))
            for done, _ in enumerate(pool.map(lambda index: look(index, read), some), start + 1):
                progress("looking at images", done, count)
    own = listing.groups
    groups = numbered(patients) if own is None else pseudonyms(own, listing.paths)
    smallest = min((min(seen.width, seen.height) for seen in facts if seen is not None), default=SIDE)
    return Survey(
        str(listing.root),
        listing.labels,
        listing.classes,
        thumbs,
        first_alike(digests),
        smallest,
        listing.paths,
        listing.parts,
        groups,
        groups if own is None else order_of(own),
        facts,
        listing.columns,
        dict(sorted(unreadable.items())),
        listing.notes,
    )


def survey_images(images: Images, progress: Progress) -> Survey:
    """Take images that are decoded already, as those of published sets."""
    count = len(images.labels)
    thumbs = np.empty((count, SIDE, SIDE), np.uint8)
    digests = []
    for index, pixels in enumerate(images.pixels):
        digests.append(hashlib.blake2b(np.ascontiguousarray(pixels).tobytes(), digest_size=16).digest())
        picture = Image.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0)))
        thumbs[index] = np.asarray(picture.convert("L").resize((SIDE, SIDE), Image.Resampling.BILINEAR))
        if index % STRETCH == 0:
            progress("looking at images", index + 1, count)
    return Survey(
        images.name,
        images.labels,
        images.classes,
        thumbs,
        first_alike(digests),
        min(images.pixels.shape[2:]),
        None if images.names is None else images.names.tolist(),
        images.parts,
        images.groups,
        images.grouping,
        unreadable=images.unreadable,
        notes=images.notes,
    )
