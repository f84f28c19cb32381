"""Splits that leak: copies or patients on two sides are refused, or left out and listed, or allowed and said."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from alexnet_lab.data.audit import Audit, Copy
from alexnet_lab.data.findings import as_classes
from alexnet_lab.data.images import Images
from alexnet_lab.data.lists import in_brief

Indices = NDArray[np.int64]

LIST = "dropped.json"  # in the folder of a run
# Of copies, the one in the part named first is kept: figures on a published test set stay comparable.
KEPT_FIRST = ("test", "validation", "train")
OTHER_CLASS = "a copy of it has another class"


@dataclass(frozen=True)
class Dropped:
    """An image that was left out, and why."""

    image: str | int
    why: str
    kept: str | int | None = None  # the copy that stays


@dataclass(frozen=True)
class Usable:
    """The images that are used, and those that were left out to make a split that does not leak."""

    indices: Indices
    dropped: tuple[Dropped, ...] = ()
    notes: tuple[str, ...] = ()


def dropped_as_json(dropped: Sequence[Dropped]) -> str:
    """Write every image that was left out, one a line."""
    lines = ",\n".join(json.dumps(asdict(one)) for one in dropped)
    return f"[\n{lines}\n]\n" if lines else "[]\n"


def usable_images(images: Images, *, drop_duplicates: bool = False, by_group: bool = False) -> Usable:
    """Return the images that can be read, less copies if asked, and less patients who are in two given parts."""
    usable = Usable(np.setdiff1d(np.arange(len(images.labels)), np.array(list(images.unreadable), np.int64)))
    if drop_duplicates:
        usable = without_duplicates(as_classes(images), usable)
    return without_shared_groups(images, usable) if by_group else usable


def without_duplicates(images: Images, usable: Usable) -> Usable:
    """Leave out all but one of the images that show one picture, and all of them where their classes differ."""
    if images.contents is None:
        return usable
    clusters = _clusters(images)
    members: dict[int, list[int]] = {}
    for index in usable.indices.tolist():
        members.setdefault(int(clusters[index]), []).append(index)
    dropped: dict[int, Dropped] = {}
    for cluster in members.values():
        if len(cluster) == 1:
            continue
        if len({int(images.labels[index]) for index in cluster}) > 1:
            dropped |= {index: Dropped(images.name_of(index), OTHER_CLASS) for index in cluster}
            continue
        ordered = sorted(cluster, key=lambda index: (_rank(images, index), index))
        kept = images.name_of(ordered[0])
        dropped |= {index: Dropped(images.name_of(index), "a copy", kept) for index in ordered[1:]}
    return _less(usable, dropped, "as copies of others, or as copies with other classes")


def without_shared_groups(images: Images, usable: Usable) -> Usable:
    """Leave out training images of patients who are in a held-out part of a given split, and so on downwards."""
    if images.groups is None or images.parts is None:
        return usable
    best: dict[str, int] = {}
    for index in usable.indices.tolist():
        group = str(images.groups[index])
        best[group] = min(best.get(group, len(KEPT_FIRST)), _rank(images, index))
    dropped = {
        index: Dropped(images.name_of(index), f"its patient is in {KEPT_FIRST[rank]} too")
        for index in usable.indices.tolist()
        if (rank := best[str(images.groups[index])]) < _rank(images, index)
    }
    return _less(usable, dropped, "since their patients are in a held-out part too")


def refuse_leaks(audit: Audit, data: str) -> None:
    """Raise ValueError for a split that has copies on two sides."""
    leaks = leaking(audit)
    if leaks:
        raise ValueError(
            f"the split of {data} leaks: {len({copy.image for copy in leaks})} held-out images are copies of images in "
            f"another part ({in_brief([f'{copy.image} of {copy.of[0]}' for copy in leaks], 3)}), so results would be "
            "better than on new images. Leave copies out with --drop-duplicates, look at them with `alexnet-lab "
            "audit`, or go on with --allow-leaks, which every report repeats"
        )


def leaking(audit: Audit) -> list[Copy]:
    """Return the copies that are in two parts of a split."""
    return [copy for copy in audit.copies if copy.is_in_two_parts]


def _clusters(images: Images) -> Indices:
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    assert images.contents is not None  # noqa: S101  # for the type checker: the caller has looked
    count = len(images.labels)
    joined = [np.stack([images.contents, np.arange(count)], 1)]
    if images.near_copies is not None:
        joined.append(images.near_copies.reshape(-1, 2))
    rows, columns = np.concatenate(joined).T
    graph = coo_array((np.ones(len(rows)), (rows, columns)), shape=(count, count))
    clusters: Indices = connected_components(graph, directed=False)[1].astype(np.int64)
    return clusters


def _rank(images: Images, index: int) -> int:
    return 0 if images.parts is None else KEPT_FIRST.index(str(images.parts[index]))


def _less(usable: Usable, dropped: dict[int, Dropped], why: str) -> Usable:
    if not dropped:
        return usable
    left = np.setdiff1d(usable.indices, np.array(sorted(dropped), np.int64))
    count = len(dropped)
    note = f"{count} image{' was' if count == 1 else 's were'} left out {why}; {LIST} in the run's folder lists all"
    return Usable(left, (*usable.dropped, *(dropped[index] for index in sorted(dropped))), (*usable.notes, note))
