"""Where images come from, by one line of text.

digits                        scikit-learn's handwritten digits: real, small, offline; the default
synthetic:classes=4,side=32   generated pictures (synthetic.py)
cifar10, cifar100, fashion-mnist, medmnist:bloodmnist@64
                              published sets, downloaded once; `cifar10:PATH` reads a copy (published.py)
a folder, .zip, .csv, .parquet
                              your own images (listings.py)
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from alexnet_lab.choices import unknown_choice
from alexnet_lab.data.cache import Allocate, cached_images
from alexnet_lab.data.decoding import (
    UNREADABLE,
    Look,
    bits_for,
    check_fit,
    decode,
    look_at,
    quiet_decoders,
    reason,
    shrink,
)
from alexnet_lab.data.dicom import numbered, patient_of
from alexnet_lab.data.findings import text_of
from alexnet_lab.data.images import Images, first_alike, same_sizes
from alexnet_lab.data.listings import Listing, list_archive, list_folder, list_table, with_patients
from alexnet_lab.data.lists import line_by_line
from alexnet_lab.data.near_copies import near_copies
from alexnet_lab.data.pseudonyms import order_of, pseudonyms
from alexnet_lab.data.published import PUBLISHED, check_published, load_published
from alexnet_lab.data.reading import check_regular
from alexnet_lab.data.synthetic import parse_pictures
from alexnet_lab.data.tables import MOST_TABLE_BYTES

__all__ = ["SOURCES", "Images", "check_source", "is_published", "listing_of", "load_images"]

Progress = Callable[[str, int, int], None]  # what, done, total
Result = TypeVar("Result")

SOURCES: Mapping[str, str] = {
    "digits": "scikit-learn's 1,797 handwritten digits, 8x8, grey",
    "synthetic": "gratings in noise, generated: synthetic:classes=4,side=32,count=1000,difficulty=0.5,seed=0",
    **PUBLISHED,
}
LISTINGS: Mapping[str, Callable[[Path], Listing]] = {
    ".zip": list_archive,
    ".csv": list_table,
    ".parquet": list_table,
}
TABLES = (".csv", ".parquet")
MOST_ARCHIVE_BYTES = 2**42  # 4 TB; each file in it has a limit of its own
STRETCH = 4096
LARGEST_SIDE = 2**14  # of a stored image: no network sees more


def is_published(data: str) -> bool:
    """Return whether data is a named set, whose split is taken as it is, and said to have copies."""
    return data.partition(":")[0] in SOURCES


def load_images(
    data: str,
    side: int = LARGEST_SIDE,
    fit: str = "crop",
    *,
    skip_bad: bool = False,
    progress: Progress | None = None,
    group: str = "",
    patient_from: str = "",
    findings: str = "",
) -> Images:
    """Load a source at no more than that side: images are stored no larger than they are, nor than they are needed.

    Unreadable files are listed in one error, or left out and noted with skip_bad.
    """
    check_fit(fit)
    told = progress or (lambda _what, _done, _total: None)
    images = _loaded(data, side, fit, skip_bad, told, listing_of(data, group, patient_from, findings))
    _check_readable(images.unreadable, len(images.labels), skip_bad)
    if len(images.classes) < 2:
        raise ValueError(
            f"{data} has one class, {images.classes[0]!r}; a network needs at least two: add images of another class"
        )
    return images


def _check_readable(unreadable: Mapping[int, str], count: int, skip_bad: bool) -> None:
    if not unreadable:
        return
    listed = [unreadable[index] for index in sorted(unreadable)]
    bad = f"{len(unreadable)} of {count} images cannot be read"
    if not skip_bad:
        raise ValueError(line_by_line(f"{bad}; replace or remove them, or leave them out with --skip-bad", listed))
    if len(unreadable) == count:
        raise ValueError(f"{bad}, so none is left; the first is {listed[0]}")


def check_source(data: str) -> None:
    """Refuse what cannot be a source, before any image is read; opens and downloads nothing."""
    name, colon, argument = data.partition(":")
    if name == "synthetic":
        parse_pictures(argument)
        return
    if name in PUBLISHED:
        check_published(name, argument)
        return
    if name == "digits" and not colon:
        return
    path = Path(data).expanduser()
    expected = f"it must be a folder, a .zip, a .csv or a .parquet, or one of: {', '.join(SOURCES)}"
    if not data:
        raise ValueError(f"data names no images; {expected}")
    if not path.exists():
        if path.suffix or len(path.parts) > 1:
            raise FileNotFoundError(f"no data at {path}; {expected}")
        raise ValueError(f"{unknown_choice('data source', data, SOURCES)} No folder or file has that name either.")
    if not path.is_dir():
        check_regular(path, MOST_ARCHIVE_BYTES if path.suffix.lower() == ".zip" else MOST_TABLE_BYTES)
        if path.suffix.lower() not in LISTINGS:
            raise ValueError(f"cannot read {path} as data; {expected}")


def listing_of(data: str, group: str = "", patient_from: str = "", findings: str = "") -> Listing | None:
    """Return the image files of a source with their labels and patients; None for one that is not made of files."""
    check_source(data)
    if findings and Path(data).suffix.lower() not in TABLES:
        raise ValueError(f"findings are columns of a table, a .csv or a .parquet; {data} is none: leave out findings")
    if data.partition(":")[0] in SOURCES:
        if group or patient_from:
            raise ValueError(
                f"patients are known of images in files; {data} has none: leave out group and patient_from"
            )
        return None
    path = Path(data).expanduser()
    if findings:
        listing = list_table(path, findings)
    else:
        listing = list_folder(path) if path.is_dir() else LISTINGS[path.suffix.lower()](path)
    return with_patients(listing, group, patient_from)


def _loaded(data: str, side: int, fit: str, skip_bad: bool, progress: Progress, listing: Listing | None) -> Images:
    name, _, argument = data.partition(":")
    if listing is not None:
        return _decoded(listing, side, fit, skip_bad, progress)
    if name == "digits":
        return _fitted(_digits(), side, fit)
    if name == "synthetic":
        pictures = parse_pictures(argument)
        classes = tuple(f"grating {number}" for number in range(pictures.classes))
        return _fitted(Images(str(pictures), pictures.pixels(), pictures.labels, classes), side, fit)
    return load_published(name, argument, side, fit, progress)


def _digits() -> Images:
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    return Images("digits", pixels[:, None], digits.target.astype(np.int64), tuple("0123456789"))


def _fitted(images: Images, side: int, fit: str) -> Images:
    sizes = same_sizes(images.pixels.shape)
    small = shrink(images.pixels, side, fit)
    if small is images.pixels:
        return replace(images, sizes=sizes)
    # The fingerprint is that of the whole images, whatever side is asked for.
    return replace(images, pixels=small, digest=images.fingerprint, sizes=sizes)


def _decoded(listing: Listing, side: int, fit: str, skip_bad: bool, progress: Progress) -> Images:
    def build(allocate: Allocate) -> Images:
        images = _decode_all(listing, side, fit, allocate, progress)
        # Before the entry is kept: a file that cannot be read now, for want of a permission, may be readable next time.
        _check_readable(images.unreadable, len(images.labels), skip_bad)
        return images

    images = cached_images(f"files {listing.state} at most {side}, {fit}", build)
    if listing.groups is None:
        return images
    # Not from the cache, which would keep what the table calls its patients, or their order.
    return replace(images, groups=pseudonyms(listing.groups, listing.paths), group_order=order_of(listing.groups))


def _decode_all(listing: Listing, side: int, fit: str, allocate: Allocate, progress: Progress) -> Images:
    """Read every file twice: the headers decide size and channels, so that no pixel is stored that no one needs."""
    count = len(listing.paths)
    unreadable: dict[int, str] = {}
    digests = [b""] * count
    # Pillow releases the interpreter's lock while it decodes and resizes, so threads use every core; they share one
    # open archive.
    patients = [b""] * count
    sizes = np.zeros((count, 2), np.int32)
    with listing.reader() as read, ThreadPoolExecutor(os.cpu_count()) as pool, quiet_decoders():

        def look(index: int) -> Look | None:
            try:
                with read(listing.paths[index]) as content:
                    digests[index] = hashlib.blake2b(content, digest_size=16).digest()
                    patients[index] = patient_of(content)
                    seen = look_at(content)
                    sizes[index] = seen.width, seen.height
                    return seen
            except UNREADABLE as error:
                unreadable[index] = f"{listing.paths[index]}: {reason(error)}"
                return None

        looks: list[Look] = []
        for done, seen in enumerate(_worked(pool, look, count), 1):
            progress("looking at images", done, count)
            looks += [seen] if seen else []
        stored = min([side, *([max(seen.side(fit) for seen in looks)] if looks else [])])
        grey = all(seen.grey for seen in looks)
        bits = bits_for(max((seen.brightest for seen in looks), default=0))
        pixels = allocate((count, 1 if grey else 3, stored, stored))
        coloured = np.zeros(count, np.bool_)

        def store(index: int) -> None:
            if index in unreadable:
                return
            try:
                with read(listing.paths[index]) as content:
                    image = decode(content, stored, fit, grey, bits)
            except UNREADABLE as error:
                unreadable[index] = f"{listing.paths[index]}: {reason(error)}"
                return
            pixels[index] = image
            coloured[index] = not grey and bool((image != image[:1]).any())

        for done, _ in enumerate(_worked(pool, store, count), 1):
            progress("decoding images", done, count)

    if not coloured.any():
        pixels = pixels[:, :1]
    contents = first_alike(digests)
    different = np.setdiff1d(contents, np.array(list(unreadable), np.int64))
    notes = [*listing.notes, *_remarks(looks, stored, side, fit, bits)]
    if not coloured.any():
        notes.append(f"all {count - len(unreadable)} images are grey: one channel")
    return Images(
        str(listing.root),
        pixels,
        listing.labels,
        listing.classes,
        listing.parts,
        numbered(patients) if listing.groups is None else None,
        np.array(listing.paths),
        contents,
        tuple(notes),
        dict(sorted(unreadable.items())),
        _content_digest(listing, digests),
        near_copies(pixels, different, lambda done, total: progress("looking for copies", done, total)),
        deep_bits=bits,
        sizes=sizes,
        coloured=coloured,
    )


def _worked(pool: ThreadPoolExecutor, work: Callable[[int], Result], count: int) -> Iterator[Result]:
    """Yield the results for 0 to count - 1; a limited number of tasks waits at a time, to bound the memory."""
    for start in range(0, count, STRETCH):
        yield from pool.map(work, range(start, min(start + STRETCH, count)))


def _remarks(looks: list[Look], stored: int, side: int, fit: str, bits: int) -> list[str]:
    remarks = []
    deep = sum(seen.brightest > 0 for seen in looks)
    if bits > 8:
        remarks.append(
            f"{deep} images have more than 8 bits: the brightest needs {bits}, of which the upper 8 were kept"
        )
        if deep < len(looks):
            remarks.append(f"{len(looks) - deep} images have 8 bits and the others more: compare their brightness")
    smaller = sum(min(seen.width, seen.height) < stored for seen in looks)
    if smaller and stored <= side:
        remarks.append(f"{smaller} images have fewer than the {stored} pixels a side that are stored: enlarged")
    uneven = sum(max(seen.width, seen.height) > 1.25 * min(seen.width, seen.height) for seen in looks)
    if uneven:
        remarks.append(f"{uneven} images are far from square (5:4 or more) and were made square by fit={fit!r}")
    return remarks


def _content_digest(listing: Listing, digests: list[bytes]) -> str:
    whole = hashlib.blake2b(digest_size=16)
    for index, (path, digest) in enumerate(zip(listing.paths, digests, strict=True)):
        part = "" if listing.parts is None else listing.parts[index]
        group = "" if listing.groups is None else listing.groups[index]
        own = listing.labels[index]
        label = text_of(own, listing.classes) if own.ndim else listing.classes[own]
        name = "\x1f".join([path, label, part, group])
        whole.update(name.encode(errors="surrogateescape") + b"\n" + digest)
    return whole.hexdigest()
