"""What a split hides: images that are in two of its parts, and images that have more than one class."""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable
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
OTHER_CLASS = "under another class too"
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

    @property
    def is_in_two_parts(self) -> bool:
        """Return whether it makes the split leak; else it has another class elsewhere."""
        return self.why != OTHER_CLASS


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
    search = _Search(images, images.contents, split)
    remarks, every = [], []
    for part, other, effect in (
        ("validation", "train", "A network can have learned them by heart"),
        ("test", "train", "A network can have learned them by heart"),
        ("test", "validation", "The best epoch is chosen by images that are tested"),
    ):
        held = getattr(split, part)
        copies = search.copies_among(held, partial(search.twins_in, other), f"in {other} too")
        every += copies
        if copies:
            name = "training" if other == "train" else other
            remarks.append(
                f"{len(copies)} of {len(held)} {part} images are {name} images too: {_counted(copies)}. {effect}: take "
                f"them out of one part; {LIST} in the run's folder lists all"
            )
    copies = search.copies_among(search.used, search.twins_of_another_class, OTHER_CLASS)
    every += copies
    if copies:
        remarks.append(
            f"{len(copies)} images have more than one class: {_counted(copies)}. No network can be right about all of "
            f"them: leave them out; {LIST} in the run's folder lists all"
        )
    return Audit(tuple(remarks), tuple(every))


class _Search:
    """The images of a split by what they show, so that the copies of each are found at once.

    `contents` holds for each image a number for what it shows, the same for equal bytes.
    """

    def __init__(self, images: Images, contents: Indices, split: Split) -> None:
        self.images, self.contents = images, contents
        self.near: dict[int, set[int]] = defaultdict(set)
        if images.near_copies is not None:
            for one, other in contents[images.near_copies].tolist():
                self.near[one].add(other)
                self.near[other].add(one)
        self.used = np.sort(np.concatenate([getattr(split, part) for part in PARTS]))
        present, counts = np.unique(contents[self.used], return_counts=True)
        self.repeated = np.union1d(present[counts > 1], np.array(list(self.near), np.int64))
        self.part_of = {i: part for part in PARTS for i in _among(getattr(split, part), contents, self.repeated)}
        self.parts: dict[str, dict[int, list[int]]] = {part: defaultdict(list) for part in PARTS}
        self.classes: dict[int, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
        for index in _among(self.used, contents, self.repeated):
            self.classes[int(contents[index])][int(images.labels[index])].append(index)
            self.parts[self.part_of[index]][int(contents[index])].append(index)

    def twins_in(self, part: str, _index: int, content: int) -> Iterable[int]:
        """Return the images of a part that show a content."""
        return self.parts[part].get(content, ())

    def twins_of_another_class(self, index: int, content: int) -> Iterable[int]:
        """Return the images that show a content under another class than that of `index`."""
        own = self.images.labels[index]
        return chain.from_iterable(same for label, same in self.classes.get(content, {}).items() if label != own)

    def copies_among(self, held: Indices, twins: Callable[[int, int], Iterable[int]], why: str) -> list[Copy]:
        """Return the held images that `twins` has others for: of equal bytes, or else near copies."""
        copies = []
        for index in _among(held, self.contents, self.repeated):
            own = int(self.contents[index])
            equal = list(islice(twins(index, own), MOST_TWINS))
            similar = (twin for content in sorted(self.near.get(own, ())) for twin in twins(index, content))
            of = equal or list(islice(similar, MOST_TWINS))
            if of:
                name, *others = (self.images.name_of(number) for number in (index, *of))
                label = self.images.classes[self.images.labels[index]]
                kind = BYTES if equal else PICTURE
                copies.append(Copy(name, self.part_of[index], label, why, kind, tuple(others)))
        return copies


def _among(indices: Indices, contents: Indices, repeated: Indices) -> list[int]:
    """Return those of the indices whose content is repeated."""
    among: list[int] = indices[np.isin(contents[indices], repeated)].tolist()
    return among


def _counted(copies: list[Copy]) -> str:
    """Say how many there are of either kind, with examples."""
    named = {kind: [str(copy.image) for copy in copies if copy.kind == kind] for kind in (BYTES, PICTURE)}
    return ", and ".join(f"{len(names)} {kind} ({in_brief(names, SHOWN)})" for kind, names in named.items() if names)
