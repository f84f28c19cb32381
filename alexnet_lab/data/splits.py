"""Divide images into train, validation and test: stratified, and the same for all runs with one split seed.

The parts that a source gives are kept:

    train, validation, test      as given
    train, test                  validation is held out of train
    train, validation            the given validation images are the test, since figures published for such a set are
                                 for those images; validation is held out of train, since a figure is too good if the
                                 best epoch is chosen on the images that it is measured on
    nothing                      test is held out, then validation

With a fold, `2/5`, the test is the second fifth of all images outside an official test set, and validation is held out
of the rest. A hold-out is a fifth, but no more than 5,000 images. All images of a group (a patient) are in one part.
Every part has an image, and every class has one to train on; what cannot be divided so is refused.
"""

import json
import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from alexnet_lab.data.findings import strata_of
from alexnet_lab.data.images import Images
from alexnet_lab.data.lists import in_brief
from alexnet_lab.randomness import derived_seed

Indices = NDArray[np.int64]
Groups = NDArray[np.str_] | NDArray[np.int64]
PARTS = ("train", "validation", "test")
HELD_OUT = 0.2
MOST_HELD_OUT = 5000


@dataclass(frozen=True)
class Split:
    """Indices into a set of images; no index occurs twice."""

    train: Indices
    validation: Indices
    test: Indices
    notes: tuple[str, ...] = ()  # what a user must be told about how it was made

    def to_json(self) -> str:
        """Write the three lists."""
        lists = {name: getattr(self, name).tolist() for name in PARTS}
        return json.dumps({**lists, "notes": self.notes})

    @staticmethod
    def from_json(text: str) -> "Split":
        """Read what to_json wrote."""
        lists = json.loads(text)
        train, validation, test = (np.array(lists[name], np.int64) for name in PARTS)
        return Split(train, validation, test, tuple(lists["notes"]))


def drawn_split(images: Images, usable: Indices, seed: int, fold: str = "") -> Split:
    """Split the usable images of a set."""
    return split_images(images.labels, images.classes, images.parts, images.grouping, usable, seed, fold)


def split_images(
    labels: NDArray[np.int64],
    classes: tuple[str, ...],
    parts: NDArray[np.str_] | None = None,
    groups: Groups | None = None,
    usable: Indices | None = None,
    seed: int = 0,
    fold: str = "",
) -> Split:
    """Split as the text above says; usable are the indices that may be in it, all by default.

    Images with several findings, labels N K, are split in proportion to the rarest finding of each.
    """
    every = np.arange(len(labels)) if usable is None else usable
    labels, classes = _strata(labels, classes, parts, every, fold)
    official: dict[str, Indices] = {}
    if parts is not None:
        _refuse_lost_parts(parts, every)
        official = {name: every[parts[every] == name] for name in PARTS if name in parts[every]}
    if official and "train" not in official:
        raise ValueError(
            f"the data has images for {' and '.join(official)} and none for train; add a part called `train`"
        )
    if groups is not None and parts is not None:
        _refuse_shared_groups(parts[every], groups[every])
    notes = []
    if fold:
        number, folds = parse_fold(fold)
        pool = np.setdiff1d(every, official.get("test", np.empty(0, np.int64)))
        if "test" in official:
            notes.append("the folds are of the images outside the official test set, which is not used")
        if "validation" in official:
            notes.append("the folds are of the official training and validation images together")
        _check_counts(labels[pool], classes, folds)
        rest, test = _fold(pool, labels, groups, number, folds, seed)
    elif "test" in official:
        test = official["test"]
        rest = np.setdiff1d(every, test)
    elif "validation" in official:
        test, rest = official["validation"], official["train"]
        notes.append(
            f"the data has no test images: its {len(test)} validation images are the test, and validation is held out "
            "of the training images"
        )
    else:
        _check_counts(labels[every], classes, 3)
        _check_groups(every, groups, 3)
        rest, test = _divide(every, labels, groups, _hold_out(len(every), len(classes)), seed, "test")
    if "test" in official and "validation" in official and not fold:
        _refuse_untrained(labels[official["train"]], classes)
        return Split(official["train"], official["validation"], test, tuple(notes))
    # Without an official test set both hold-outs have the same size, a share of the whole.
    total = len(every) if not official and not fold else len(rest)
    _check_counts(labels[rest], classes, 2, " outside the test")
    _check_groups(rest, groups, 2, " outside the test")
    train, validation = _divide(rest, labels, groups, _hold_out(total, len(classes)), seed, "validation")
    return Split(train, validation, test, tuple(notes))


def _strata(
    labels: NDArray[np.int64], classes: tuple[str, ...], parts: NDArray[np.str_] | None, usable: Indices, fold: str
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Return the class of each image, or with findings its stratum: one for all where the split is given."""
    if labels.ndim == 1:
        return labels, classes
    if parts is not None:
        return np.zeros(len(labels), np.int64), ("stratum 0",)
    strata, count = strata_of(labels, usable, parse_fold(fold)[1] if fold else 0)
    return strata, tuple(f"stratum {number}" for number in range(count))


def parse_fold(text: str) -> tuple[int, int]:
    """Read `2/5`: the second of five folds."""
    number, slash, folds = text.partition("/")
    if not (slash and number.isdecimal() and folds.isdecimal() and 1 <= int(number) <= int(folds) >= 2):
        raise ValueError(f"a fold is written k/n, such as 2/5 for the second of five; got {text!r}")
    return int(number), int(folds)


def _hold_out(total: int, classes: int) -> int:
    return max(classes, min(round(HELD_OUT * total), MOST_HELD_OUT))


def _check_counts(labels: NDArray[np.int64], classes: tuple[str, ...], least: int, where: str = "") -> None:
    counts = np.bincount(labels, minlength=len(classes))
    few = [f"{name} ({count})" for name, count in zip(classes, counts, strict=True) if count < least]
    if few:
        raise ValueError(
            f"each class needs at least {least} images{where}, one for each part of the split; too few in: "
            f"{in_brief(few)}: add images of these classes, or leave the classes out"
        )


def _check_groups(indices: Indices, groups: Groups | None, least: int, where: str = "") -> None:
    if groups is None:
        return
    count = len(np.unique(groups[indices]))
    if count < least:
        raise ValueError(
            f"a split by group needs at least {least} groups{where}, since a group is in one part only; got {count}: "
            "add images of others, or remove the column `group`"
        )


def _divide(
    indices: Indices, labels: NDArray[np.int64], groups: Groups | None, count: int, seed: int, purpose: str
) -> tuple[Indices, Indices]:
    """Hold out so many images, with every class in proportion and groups kept whole; return the others and these."""
    from sklearn.model_selection import train_test_split

    if groups is not None:
        folds = max(2, min(round(len(indices) / count), len(np.unique(groups[indices]))))
        return _first_fair(_folds(indices, labels, groups, folds, seed, purpose), indices, labels, purpose)
    random_state = derived_seed(seed, "split", purpose) % 2**32  # what scikit-learn accepts
    rest, held_out = train_test_split(indices, test_size=count, random_state=random_state, stratify=labels[indices])
    return np.sort(rest), np.sort(held_out)


def _first_fair(
    folds: list[tuple[Indices, Indices]], indices: Indices, labels: NDArray[np.int64], purpose: str
) -> tuple[Indices, Indices]:
    """Return the first fold of groups that is not empty and has neither most images nor all images of a class."""
    present = np.unique(labels[indices])
    for rest, held_out in folds:
        if 0 < len(held_out) <= len(rest) and np.array_equal(np.unique(labels[rest]), present):
            return rest, held_out
    raise ValueError(
        f"no {purpose} images can be held out by group: every choice of whole groups has most of the images, or all of "
        "a class; add groups, or give the part of each image in a column `split`"
    )


def _fold(
    indices: Indices,
    labels: NDArray[np.int64],
    groups: Groups | None,
    number: int,
    folds: int,
    seed: int,
) -> tuple[Indices, Indices]:
    if groups is not None:
        count = len(np.unique(groups[indices]))
        if count < folds:
            raise ValueError(
                f"{count} groups cannot be divided into {folds} folds, since a group is in one fold only; ask for at "
                f"most {count}"
            )
    rest, in_fold = _folds(indices, labels, groups, folds, seed, "folds")[number - 1]
    if not len(in_fold):
        raise ValueError(
            f"fold {number} of {folds} has no image: the groups are too few or too uneven; ask for fewer folds"
        )
    return rest, in_fold


def _folds(
    indices: Indices, labels: NDArray[np.int64], groups: Groups | None, folds: int, seed: int, purpose: str
) -> list[tuple[Indices, Indices]]:
    """Divide the images into folds; return for each the indices outside it and those in it."""
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    random_state = derived_seed(seed, "split", purpose) % 2**32
    kind = StratifiedKFold if groups is None else StratifiedGroupKFold
    folder = kind(folds, shuffle=True, random_state=random_state)
    owners = None if groups is None else groups[indices]
    with warnings.catch_warnings():
        # A class may have fewer images than there are folds; the callers check that it is where it has to be.
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        divided = list(folder.split(indices, labels[indices], owners))
    return [(indices[outside], indices[inside]) for outside, inside in divided]


def _refuse_lost_parts(parts: NDArray[np.str_], usable: Indices) -> None:
    for name in PARTS:
        named = int((parts == name).sum())
        if named and name not in parts[usable]:
            raise ValueError(
                f"none of the {named} {name} images can be read; replace them, or remove them from the data, which is "
                "then split without them"
            )


def _refuse_untrained(labels: NDArray[np.int64], classes: tuple[str, ...]) -> None:
    untrained = [name for number, name in enumerate(classes) if number not in labels]
    if untrained:
        raise ValueError(
            f"these classes have no training images in the given split: {in_brief(untrained)}; move some of their "
            "images to `train`, or leave the classes out"
        )


def _refuse_shared_groups(parts: NDArray[np.str_], groups: Groups) -> None:
    parts_of: dict[object, set[str]] = {}
    for part, group in zip(parts.tolist(), groups.tolist(), strict=True):
        parts_of.setdefault(group, set()).add(part)
    shared = sum(len(several) > 1 for several in parts_of.values())
    if shared:  # counted, not named: what a table calls a patient must not reach a log
        raise ValueError(
            f"{shared} groups are in two parts of the given split (`alexnet-lab audit` lists their images), so a "
            "network would be tested on groups that it was trained on; leave their training images out with --group "
            "patient, correct the column `split`, or remove it to split the data by group"
        )
