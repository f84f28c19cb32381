"""From stored pixels to batches: order, augmentation, size and scale.

    feed = open_feed("path/to/images", image_size=227, augment="crop,flip")
    for pixels, labels in feed.training_batches(batch_size=128, seed=0, epoch=1): ...

Stored pixels are uint8 and small; everything else happens to a whole batch on the device. If a GPU has enough memory,
it keeps the stored pixels too.

With `crop` a network sees a window of a larger image, in evaluation the one in the middle, so that training and
evaluation show objects at one size. Without it, it sees all of the image.

Shapes: N images, B of them in a batch, C channels, S the side the network sees, T the stored side.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alexnet_lab.data.audit import Audit, audit_copies
from alexnet_lab.data.augment import Augmentation, draw, parse_augmentation
from alexnet_lab.data.decoding import shrink
from alexnet_lab.data.findings import as_classes, check_trained, positives, untested
from alexnet_lab.data.images import Images
from alexnet_lab.data.leaks import Dropped, leaking, refuse_leaks, usable_images
from alexnet_lab.data.lists import in_brief
from alexnet_lab.data.scaling import SCALES, Scaling, check_scale, count_channels, scaling_of, with_channels
from alexnet_lab.data.sources import Progress, is_published, load_images
from alexnet_lab.data.splits import PARTS, Split, drawn_split
from alexnet_lab.data.views import Geometry, middle_view, ten_views, view
from alexnet_lab.randomness import stream

__all__ = ["SCALES", "Feed", "open_feed", "prepare"]

Indices = NDArray[np.int64]
T = TypeVar("T")
Batches = Iterator[tuple[Tensor, Tensor]]  # pixels float32, B C S S; labels, B

# Of a GPU's free memory; the rest is for the network, its gradients and its activations.
SHARE_OF_GPU_MEMORY = 0.3
# Batches that are read from the disk before they are asked for.
READ_AHEAD = 3
TEN_VIEW_MARGIN = 1 / 7  # 224 out of 256 (paper, 4.1)


@dataclass(frozen=True)
class Feed:
    """The images of one run, in batches, at the side and scale that its network sees."""

    classes: tuple[str, ...]
    channels: int
    labels: Tensor  # N, on the device; N K of 0 and 1 where images have findings
    split: Split
    fingerprint: str
    notes: tuple[str, ...]  # what a user must be told
    names: NDArray[np.str_] | None  # N: the files they came from, if they came from files
    groups: NDArray[np.str_] | None  # N: the patient or slide, where known
    augmentation: Augmentation
    geometry: Geometry
    scaling: Scaling
    device: str
    stored: NDArray[np.uint8] = field(repr=False)  # N C T T, in memory or on disk
    resident: Tensor | None = field(default=None, repr=False)  # the same on the device, if they fit
    audit: Audit = field(default_factory=Audit, repr=False)  # copies that the split has on both sides
    deep_bits: int = 8  # of the brightest pixel in the files; the upper 8 are stored
    sizes: NDArray[np.int32] | None = field(default=None, repr=False)  # N 2: width and height of the files
    dropped: tuple[Dropped, ...] = field(default=(), repr=False)  # left out, so that the split does not leak

    @property
    def has_findings(self) -> bool:
        """Return whether images have any number of findings, and not one class each."""
        return self.labels.ndim == 2

    def training_batches(
        self,
        batch_size: int,
        seed: int,
        epoch: int,
        start: int = 0,
        share: tuple[int, int] = (0, 1),
        sampling: str = "uniform",
    ) -> Batches:
        """Yield the training images in an order that depends on (seed, epoch) alone; a short last batch is left out.

        start skips that many batches without reading them, for a run that is resumed. share (k, n) yields the k-th of n
        equal parts of each batch, for one of n processes. How an image is augmented depends on (seed, epoch, image),
        not on the batch size, start or share.

        With sampling "balanced" an epoch has as many images as the training set and every class equally often, give or
        take one: images of rare classes come several times, augmented anew, and some of frequent classes not at all.
        """
        train, shown = self.split.train, np.zeros(len(self.split.train), np.int64)
        if sampling == "balanced":
            train, shown = self._balanced(seed, epoch)
        taken = torch.randperm(len(train), generator=stream(seed, "order", epoch)).numpy()
        taken = taken[start * batch_size : self.steps_per_epoch(batch_size) * batch_size]
        part, parts = share
        size = batch_size // parts
        taken = np.ascontiguousarray(taken.reshape(-1, batch_size)[:, part * size : (part + 1) * size]).ravel()
        order = train[taken]
        device_order = torch.from_numpy(order).to(self.device)
        # An image that comes again is another one to the draws.
        draws = self._draws(order + shown[taken] * len(self.labels), seed, epoch)
        for first, raw in zip(range(0, len(order), size), self._raw_batches(order, device_order, size), strict=True):
            batch = slice(first, first + size)
            batch_draws = {name: values[batch] for name, values in draws.items()}
            yield self._augmented(self._at_scale(raw), **batch_draws), self.labels[device_order[batch]]

    def batches_of(self, indices: Indices, batch_size: int = 256) -> Batches:
        """Yield those images as evaluation sees them, in the given order, all of them."""
        for batch in _cut(indices, batch_size):
            on_device = torch.from_numpy(batch).to(self.device)
            with _full_precision(self.device):
                seen = middle_view(self._at_scale(self._raw(batch, on_device)), self.geometry).contiguous()
            yield seen, self.labels[on_device]

    def ten_views_of(self, indices: Indices, batch_size: int = 32) -> Batches:
        """Yield ten views of each image, B 10 C S S: corners and middle, then mirrored (paper, 4.1)."""
        geometry = ten_view_geometry(self.geometry)
        for batch in _cut(indices, batch_size):
            on_device = torch.from_numpy(batch).to(self.device)
            with _full_precision(self.device):
                seen = ten_views(self._at_scale(self._raw(batch, on_device)), geometry)
            yield seen, self.labels[on_device]

    def steps_per_epoch(self, batch_size: int) -> int:
        """Return the number of batches in one epoch; refuse a batch that is larger than the training set."""
        if batch_size > len(self.split.train):
            count = len(self.split.train)
            raise ValueError(
                f"batch size {batch_size} is larger than the {count} training images; take {count} or fewer"
            )
        return len(self.split.train) // batch_size

    def balanced_class_weights(self) -> Tensor:
        """Return a weight per class, K: images of every class that was trained on weigh the same, and 1 on average.

        Of a finding: how many images lack it for each that has it, so that both weigh the same.
        """
        if self.has_findings:
            trained = self.labels[torch.from_numpy(self.split.train)].float()
            return (1 - trained).sum(0) / trained.sum(0)
        counts = torch.bincount(self.labels[torch.from_numpy(self.split.train)], minlength=len(self.classes))
        weights = len(self.split.train) / ((counts > 0).sum() * counts.clamp(min=1))
        return weights.float()

    def _balanced(self, seed: int, epoch: int) -> tuple[Indices, Indices]:
        """Return as many training images as there are, every class equally often, and how often each came before."""
        labels = self.labels.cpu().numpy()[self.split.train]
        classes = np.unique(labels)
        # Which classes have one image more than the others is drawn anew in every epoch.
        turn = torch.randperm(len(classes), generator=stream(seed, "sampling", epoch)).tolist()
        taken, before = [], []
        for rank, at in enumerate(turn):
            members = self.split.train[labels == classes[at]]
            count = len(labels) // len(classes) + (rank < len(labels) % len(classes))
            order = torch.randperm(len(members), generator=stream(seed, "sampling", epoch, int(classes[at]))).numpy()
            taken.append(np.resize(members[order], count))
            before.append(np.arange(count) // len(members))
        return np.concatenate(taken), np.concatenate(before)

    @property
    def images(self) -> Tensor:
        """Return every image as evaluation sees it, N C S S at once: for small sets, and for tests."""
        return torch.cat([pixels for pixels, _ in self.batches_of(np.arange(len(self.labels)))])

    def _at_scale(self, raw: Tensor) -> Tensor:
        """Return stored pixels at the scale of the network, B C T T."""
        # On the stored pixels, which are fewer: bilinear weights sum to 1, so the order does not matter.
        return with_channels(raw.float(), self.channels).sub_(self.scaling.mean).div_(self.scaling.spread)

    def _raw(self, indices: Indices, on_device: Tensor) -> Tensor:
        """Return stored pixels on the device, uint8; on_device is the same indices there."""
        if self.resident is not None:
            return self.resident[on_device]
        return self._read(indices).to(self.device)

    def _raw_batches(self, order: Indices, on_device: Tensor, size: int) -> Iterator[Tensor]:
        """Yield stored pixels of an epoch on the device, batch by batch.

        Where a GPU does not hold them, a thread reads the next batches meanwhile, into pinned memory, from which the
        copy to the GPU runs beside its computations.
        """
        if self.resident is None and self.device.startswith("cuda"):
            for read in read_ahead(partial(self._read, batch, pinned=True) for batch in _cut(order, size)):
                yield read.to(self.device, non_blocking=True)
            return
        for start in range(0, len(order), size):
            yield self._raw(order[start : start + size], on_device[start : start + size])

    def _read(self, indices: Indices, pinned: bool = False) -> Tensor:
        """Return stored pixels in memory, in ascending order of reading, which spares a disk the jumps."""
        ascending = np.argsort(indices, kind="stable")
        read = torch.empty((len(indices), *self.stored.shape[1:]), dtype=torch.uint8, pin_memory=pinned)
        # A copy in any case, since torch takes no read-only map.
        read.numpy()[ascending] = self.stored[indices[ascending]]
        return read

    def _draws(self, order: Indices, seed: int, epoch: int) -> dict[str, Tensor]:
        """Draw the augmentation of each image of an epoch on the processor, and move all of it to the device."""
        wanted = self.augmentation
        drawn = draw(wanted, order, seed, epoch, self.geometry.whole - self.geometry.seen, self.channels)
        draws = {}
        if wanted.moves:
            draws["offset"], draws["flip"] = torch.from_numpy(drawn.offset), torch.from_numpy(drawn.flip)
        if wanted.rotate:
            draws["angle"] = torch.from_numpy(drawn.angle).float()
        if wanted.scale:
            draws["zoom"] = torch.from_numpy(drawn.zoom).float()
        if wanted.colour:
            draws["light"] = torch.from_numpy(drawn.colour @ self.scaling.colours.T).float()  # N C, in grey levels
        return {name: values.to(self.device) for name, values in draws.items()}

    def _augmented(self, pixels: Tensor, light: Tensor | None = None, **placing: Tensor) -> Tensor:
        if light is not None:
            pixels.add_(light[:, :, None, None] / self.scaling.spread)
            # As the 2012 source does, in training only; it keeps the spread of the pixels.
            pixels.div_(1 + self.augmentation.colour)
        with _full_precision(self.device):
            if not placing:
                return middle_view(pixels, self.geometry).contiguous()
            return view(pixels, self.geometry, **placing)


def ten_view_geometry(geometry: Geometry) -> Geometry:
    """Return the geometry of ten views: where evaluation sees all of an image, they are cut from an enlarged one."""
    if geometry.whole > geometry.seen:
        return geometry
    return replace(geometry, whole=geometry.seen + round(geometry.seen * TEN_VIEW_MARGIN))


def open_feed(
    data: str,
    *,
    image_size: int,
    scale: str = "unit",
    split_seed: int = 0,
    fold: str = "",
    augment: str = "none",
    fit: str = "crop",
    channels: str = "auto",
    device: str = "cpu",
    skip_bad: bool = False,
    group: str = "",
    patient_from: str = "",
    findings: str = "",
    drop_duplicates: bool = False,
    allow_leaks: bool = False,
    progress: Progress | None = None,
) -> Feed:
    """Open a data source (sources.py lists them) for a network of that image size.

    channels is auto (one if all images are grey, else three), grey or rgb. fold `2/5` makes the second of five folds
    the test. progress is called with (what, done, total).

    group and patient_from say which images are of one patient (listings.py); images of patients in two given parts are
    left out of the training images. drop_duplicates leaves out all but one of the images that show one picture. A split
    of image files that still has copies in two parts is refused unless allow_leaks.
    """
    check_scale(scale)
    augmentation = parse_augmentation(augment)
    whole = image_size + augmentation.margin(image_size)
    images = load_images(
        data,
        whole,
        fit,
        skip_bad=skip_bad,
        progress=progress,
        group=group,
        patient_from=patient_from,
        findings=findings,
    )
    seen = count_channels(channels, images.pixels.shape[1])
    usable = usable_images(images, drop_duplicates=drop_duplicates, by_group=bool(group or patient_from))
    split = drawn_split(images, usable.indices, split_seed, fold)
    geometry = Geometry(image_size, images.pixels.shape[3], whole)
    feed = _feed(images, split, geometry, scale, augmentation, seen, device)
    notes = [*feed.notes, *usable.notes]
    if not is_published(data):
        if not allow_leaks:
            refuse_leaks(feed.audit, data)
        elif leaking(feed.audit):
            notes.append("the split leaks, which --allow-leaks permits: results are better than on new images")
    return replace(feed, notes=tuple(notes), dropped=usable.dropped)


def prepare(images: Images, split: Split, side: int, scale: str) -> Feed:
    """Return a feed of images in memory."""
    images = replace(images, pixels=shrink(images.pixels, side, "crop"), digest=images.fingerprint)
    return _feed(images, split, Geometry(side, images.pixels.shape[3], side), scale, Augmentation())


def _feed(
    images: Images,
    split: Split,
    geometry: Geometry,
    scale: str,
    augmentation: Augmentation,
    channels: int = 0,
    device: str = "cpu",
) -> Feed:
    empty = [name for name in PARTS if not len(getattr(split, name))]
    if empty:
        raise ValueError(
            f"a split needs images for train, validation and test; this one has none for {' and '.join(empty)}: add "
            "some, or let split_images hold them out"
        )
    channels = channels or images.pixels.shape[1]
    notes = [*images.notes, *_on_colour(images, channels), *split.notes]
    if images.unreadable:
        listed = in_brief(list(images.unreadable.values()))
        left_out = "1 image" if len(images.unreadable) == 1 else f"{len(images.unreadable)} images"
        was = "was" if len(images.unreadable) == 1 else "were"
        notes.append(f"{left_out} cannot be read and {was} left out: {listed}")
    if images.labels.ndim == 2:
        check_trained(images.labels[split.train], images.classes)
    for part in ("validation", "test"):
        labels = images.labels[getattr(split, part)]
        if labels.ndim == 2:
            absent = untested(labels, images.classes)
            if absent:
                notes.append(f"all images of the {part} part have or lack {in_brief(absent)}: no AUROC of them")
            continue
        absent = [images.classes[number] for number in np.setdiff1d(np.arange(len(images.classes)), np.unique(labels))]
        if absent:
            notes.append(f"the {part} part has no images of {in_brief(absent)}")
    audit = audit_copies(as_classes(images), split)
    notes += audit.remarks
    if geometry.stored < geometry.whole:
        notes.append(f"images are stored with {geometry.stored} pixels a side and enlarged to {geometry.whole}")
    return Feed(
        classes=images.classes,
        channels=channels,
        labels=torch.from_numpy(images.labels).to(device),
        split=split,
        fingerprint=images.fingerprint,
        notes=tuple(notes),
        names=images.names,
        groups=images.groups,
        augmentation=augmentation,
        geometry=geometry,
        scaling=scaling_of(images.pixels, split.train, geometry, scale, channels).to(device),
        device=device,
        stored=images.pixels,
        resident=_resident(images.pixels, device),
        audit=audit,
        deep_bits=images.deep_bits,
        sizes=images.sizes,
    )


def _on_colour(images: Images, channels: int) -> list[str]:
    """Say that some images have colour and others none, and what a network of so many channels makes of it."""
    if images.coloured is None:
        return []
    count, coloured = len(images.labels) - len(images.unreadable), int(images.coloured.sum())
    if coloured in (0, count):
        return []
    counts = positives(images.labels[images.coloured], len(images.classes)).sum(0)
    where = ", ".join(f"{name} {number}" for name, number in zip(images.classes, counts, strict=True) if number)
    effect = (
        "three channels. If the tint depends on the class, a network learns the tint; channels=grey removes it"
        if channels > 1
        else "brightness alone is used"
    )
    return [f"{coloured} of {count} images are coloured ({where}), the others grey: {effect}"]


def _resident(stored: NDArray[np.uint8], device: str) -> Tensor | None:
    if not device.startswith("cuda"):
        return None
    free, _ = torch.cuda.mem_get_info(device)
    if stored.nbytes > SHARE_OF_GPU_MEMORY * free:
        return None
    resident = torch.empty(stored.shape, dtype=torch.uint8, device=device)
    for start in range(0, len(stored), 1024):  # in slices, so that only one at a time is copied into memory
        resident[start : start + 1024] = torch.from_numpy(np.array(stored[start : start + 1024]))
    return resident


def _full_precision(device: str) -> torch.autocast:
    """Switch off a trainer's autocast: its low precision is for the network, not for the images."""
    return torch.autocast(torch.device(device).type, enabled=False)


def read_ahead(jobs: Iterable[Callable[[], T]], depth: int = READ_AHEAD) -> Iterator[T]:
    """Yield what each job returns, in order; a thread does up to `depth` of them before they are asked for."""
    with ThreadPoolExecutor(1) as thread:
        waiting: deque[Future[T]] = deque()
        try:
            for job in jobs:
                waiting.append(thread.submit(job))
                if len(waiting) > depth:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _cut(indices: Indices, size: int) -> Iterator[Indices]:
    for start in range(0, len(indices), size):
        yield indices[start : start + size]
