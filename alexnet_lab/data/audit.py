"""What a split hides: images that are in two of its parts, and images that have more than one class."""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain, islice

import numpy as np
from numpy.typing import NDArray

from alexnet_lab.data.images import Images
from alexnet_lab.data.lists import in_brief
from alexnet_lab.data.splits import PARTS, Split

Indices = NDArray[np.int64]

BYTES = "byte-identical"
PICTURE = "the same picture with other contrast or size"
LIST = "copies.json"  # in the folder of a run
SHOWN = 3  # examples in a remark
MOST_TWINS = 10  # listed for one image


@dataclass(frozen=True)
class Copy:
    """An image that others repeat; images are known by their file, or by their number where there are no files."""

    image: str | int
    part: str
    label: str
    why: str  # "in train too", "in validation too", "under another class too"
    kind: str  # BYTES, PICTURE
    of: tuple[str | int, ...]  # at most MOST_TWINS


@dataclass(frozen=True)
class Audit:
    """What was found: in words with a few examples, and every copy."""

    remarks: tuple[str, ...] = ()
    copies: tuple[Copy, ...] = ()

    def to_json(self) -> str:
        """Write every copy, one a line."""
        lines = ",\n".join(json.dumps(asdict(copy)) for copy in self.copies)
        return f"[\n{lines}\n]\n" if lines else "[]\n"


def audit_copies(images: Images, split: Split) -> Audit:
    """Return which held-out images are in another part too, and which images have more than one class."""
    if images.contents is None:
        return Audit()
    contents = images.contents  # of an image: its number for what it shows, the same for equal bytes
    near: dict[int, set[int]] = defaultdict(set)
    if images.near_copies is not None:
        for one, other in contents[images.near_copies].tolist():
            near[one].add(other)
            near[other].add(one)
    used = np.sort(np.concatenate([getattr(split, part) for part in PARTS]))
    present, counts = np.unique(contents[used], return_counts=True)
    repeated = np.union1d(present[counts > 1], np.array(list(near), np.int64))
    part_of = {index: part for part in PARTS for index in _among(getattr(split, part), contents, repeated)}
    parts: dict[str, dict[int, list[int]]] = {part: defaultdict(list) for part in PARTS}
    classes: dict[int, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    for index in _among(used, contents, repeated):
        classes[int(contents[index])][int(images.labels[index])].append(index)
        parts[part_of[index]][int(contents[index])].append(index)

    def in_part(part: str, _index: int, content: int) -> Iterable[int]:
        return parts[part].get(content, ())

    def of_other_class(index: int, content: int) -> Iterator[int]:
        own = images.labels[index]
        return chain.from_iterable(same for label, same in classes.get(content, {}).items() if label != own)

    def copies_among(held: Indices, twins: Callable[[int, int], Iterable[int]], why: str) -> list[Copy]:
        copies = []
        for index in _among(held, contents, repeated):
            own = int(contents[index])
            equal = list(islice(twins(index, own), MOST_TWINS))
            similar = (twin for content in sorted(near.get(own, ())) for twin in twins(index, content))
            of = equal or list(islice(similar, MOST_TWINS))
            if of:
                name, *others = (_name(images, number) for number in (index, *of))
                label = images.classes[images.labels[index]]
                copies.append(Copy(name, part_of[index], label, why, BYTES if equal else PICTURE, tuple(others)))
        return copies

    remarks, every = [], []
    for part, other, effect in (
        ("validation", "train", "A network can have learned them by heart"),
        ("test", "train", "A network can have learned them by heart"),
        ("test", "validation", "The best epoch is chosen by images that are tested"),
    ):
        held = getattr(split, part)
        copies = copies_among(held, partial(in_part, other), f"in {other} too")
        every += copies
        if copies:
            name = "training" if other == "train" else other
            remarks.append(
                f"{len(copies)} of {len(held)} {part} images are {name} images too: {_counted(copies)}. {effect}: take "
                f"them out of one part; {LIST} in the run's folder lists all"
            )
    copies = copies_among(used, of_other_class, "under another class too")
    every += copies
    if copies:
        remarks.append(
            f"{len(copies)} images have more than one class: {_counted(copies)}. No network can be right about all of "
            f"them: leave them out; {LIST} in the run's folder lists all"
        )
    return Audit(tuple(remarks), tuple(every))


def _among(indices: Indices, contents: Indices, repeated: Indices) -> list[int]:
    """Return those of the indices whose content is repeated."""
    among: list[int] = indices[np.isin(contents[indices], repeated)].tolist()
    return among


def _counted(copies: list[Copy]) -> str:
    """Say how many there are of either kind, with examples."""
    named = {kind: [str(copy.image) for copy in copies if copy.kind == kind] for kind in (BYTES, PICTURE)}
    return ", and ".join(f"{len(names)} {kind} ({in_brief(names, SHOWN)})" for kind, names in named.items() if names)


def _name(images: Images, index: int) -> str | int:
    return index if images.names is None else str(images.names[index])
