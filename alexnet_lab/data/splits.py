"""Which image serves which purpose: stratified, and the same for every run that shares a split seed.

What a source says is respected:

    train, validation, test      as they stand
    train, test                  validation is held out of train
    train, validation            the given validation images are the test; validation is held out of train. Numbers
                                 published for such a set are numbers on those images, and whoever picks the best epoch
                                 on the images that the figure is taken from reports too good a figure
    nothing                      test is held out, then validation

A fold, `2/5`, makes the second fifth of what is not an official test set the test, and holds validation out of the
rest. A hold-out is a fifth, but no more than 5,000 images. Where groups are known (the images of one patient), a group
stands on one side only. Every side has an image, and every class one to train on: what cannot be split so is refused.
"""

import json
import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from alexnet_lab.randomness import derived_seed

Indices = NDArray[np.int64]
PARTS = ("train", "validation", "test")
HELD_OUT = 0.2
MOST_HELD_OUT = 5000


@dataclass(frozen=True)
class Split:
    """Indices into a set of images; no index stands twice."""

    train: Indices
    validation: Indices
    test: Indices
    notes: tuple[str, ...] = ()  # what a user must be told of how it came about

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


def split_images(
    labels: NDArray[np.int64],
    classes: tuple[str, ...],
    parts: NDArray[np.str_] | None = None,
    groups: NDArray[np.str_] | None = None,
    usable: Indices | None = None,
    seed: int = 0,
    fold: str = "",
) -> Split:
    """Split as the text above says; usable are the indices that may stand in it, all by default."""
    every = np.arange(len(labels)) if usable is None else usable
    official: dict[str, Indices] = {}
    if parts is not None:
        _refuse_lost_parts(parts, every)
        official = {name: every[parts[every] == name] for name in PARTS if name in parts[every]}
    if official and "train" not in official:
        raise ValueError(f"the data has images for {' and '.join(official)} but none to train on; name a part `train`")
    if groups is not None and parts is not None:
        _refuse_shared_groups(parts[every], groups[every])
    notes = []
    if fold:
        number, folds = parse_fold(fold)
        pool = np.setdiff1d(every, official.get("test", np.empty(0, np.int64)))
        if "test" in official:
            notes.append("the folds are of the images outside the official test set, which is left out altogether")
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
    # Without an official test set the two hold-outs are of one size, a share of the whole.
    whole = len(every) if not official and not fold else len(rest)
    _check_counts(labels[rest], classes, 2, " outside the test")
    _check_groups(rest, groups, 2, " outside the test")
    train, validation = _divide(rest, labels, groups, _hold_out(whole, len(classes)), seed, "validation")
    return Split(train, validation, test, tuple(notes))


def parse_fold(text: str) -> tuple[int, int]:
    """Read `2/5`: the second of five folds."""
    number, slash, folds = text.partition("/")
    if not (slash and number.isdecimal() and folds.isdecimal() and 1 <= int(number) <= int(folds) >= 2):
        raise ValueError(f"a fold is written k/n, such as 2/5 for the second of five, got {text!r}")
    return int(number), int(folds)


def _hold_out(whole: int, classes: int) -> int:
    return max(classes, min(round(HELD_OUT * whole), MOST_HELD_OUT))


def _check_counts(labels: NDArray[np.int64], classes: tuple[str, ...], least: int, where: str = "") -> None:
    counts = np.bincount(labels, minlength=len(classes))
    few = [f"{name} ({count})" for name, count in zip(classes, counts, strict=True) if count < least]
    if few:
        raise ValueError(
            f"each class needs at least {least} images{where}, one for each side of the split; too few in: "
            f"{', '.join(few)}: add images of these classes, or leave the classes out"
        )


def _check_groups(indices: Indices, groups: NDArray[np.str_] | None, least: int, where: str = "") -> None:
    if groups is None:
        return
    there = np.unique(groups[indices])
    if len(there) < least:
        shown = ", ".join(there.tolist())
        raise ValueError(
            f"a split by group needs at least {least} groups{where}, since a group stands on one side only; there "
            f"{'is' if len(there) == 1 else 'are'} {len(there)} ({shown}): add images of others, or leave the column "
            "`group` out"
        )


def _divide(
    indices: Indices, labels: NDArray[np.int64], groups: NDArray[np.str_] | None, count: int, seed: int, purpose: str
) -> tuple[Indices, Indices]:
    """Take count images out, every class in its proportion, groups whole."""
    from sklearn.model_selection import train_test_split

    if groups is not None:
        folds = max(2, min(round(len(indices) / count), len(np.unique(groups[indices]))))
        return _first_fair(_folds(indices, labels, groups, folds, seed, purpose), indices, labels, purpose)
    luck = derived_seed(seed, "split", purpose) % 2**32  # what scikit-learn accepts
    kept, taken = train_test_split(indices, test_size=count, random_state=luck, stratify=labels[indices])
    return np.sort(kept), np.sort(taken)


def _first_fair(
    folds: list[tuple[Indices, Indices]], indices: Indices, labels: NDArray[np.int64], purpose: str
) -> tuple[Indices, Indices]:
    """Return the first fold of groups that is not empty, nor most of the images, nor all there is of a class."""
    present = np.unique(labels[indices])
    for kept, taken in folds:
        if 0 < len(taken) <= len(kept) and np.array_equal(np.unique(labels[kept]), present):
            return kept, taken
    raise ValueError(
        f"no {purpose} images can be held out by group: every choice of whole groups takes most of the images, or a "
        "class as a whole; add groups, or say in a column `split` which image serves what"
    )


def _fold(
    indices: Indices,
    labels: NDArray[np.int64],
    groups: NDArray[np.str_] | None,
    number: int,
    folds: int,
    seed: int,
) -> tuple[Indices, Indices]:
    if groups is not None:
        there = len(np.unique(groups[indices]))
        if there < folds:
            raise ValueError(
                f"{there} groups cannot be dealt to {folds} folds, since a group stands in one of them only; ask for "
                f"at most {there}"
            )
    kept, taken = _folds(indices, labels, groups, folds, seed, "folds")[number - 1]
    if not len(taken):
        raise ValueError(
            f"fold {number} of {folds} has no image: the groups are too few or too uneven; ask for fewer folds"
        )
    return kept, taken


def _folds(
    indices: Indices, labels: NDArray[np.int64], groups: NDArray[np.str_] | None, folds: int, seed: int, purpose: str
) -> list[tuple[Indices, Indices]]:
    """Deal the images to folds; return for each what is outside it, and what is in it."""
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    luck = derived_seed(seed, "split", purpose) % 2**32
    dealer = (StratifiedKFold if groups is None else StratifiedGroupKFold)(folds, shuffle=True, random_state=luck)
    owners = None if groups is None else groups[indices]
    with warnings.catch_warnings():
        # That a class has fewer images than there are folds; what it has to stand in is checked here, in the outcome.
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        parted = list(dealer.split(indices, labels[indices], owners))
    return [(indices[kept], indices[taken]) for kept, taken in parted]


def _refuse_lost_parts(parts: NDArray[np.str_], usable: Indices) -> None:
    for name in PARTS:
        given = int((parts == name).sum())
        if given and name not in parts[usable]:
            raise ValueError(
                f"none of the {given} {name} images that the data names can be read; mend them, or take them out, and "
                "the split is made without them"
            )


def _refuse_untrained(labels: NDArray[np.int64], classes: tuple[str, ...]) -> None:
    untrained = [name for number, name in enumerate(classes) if number not in labels]
    if untrained:
        raise ValueError(
            f"these classes have no training images in the given split: {', '.join(untrained)}; move some of their "
            "images to `train`, or leave the classes out"
        )


def _refuse_shared_groups(parts: NDArray[np.str_], groups: NDArray[np.str_]) -> None:
    sides: dict[str, set[str]] = {}
    for part, group in zip(parts.tolist(), groups.tolist(), strict=True):
        sides.setdefault(group, set()).add(part)
    shared = sorted(group for group, where in sides.items() if len(where) > 1)
    if shared:
        shown = ", ".join(shared[:10]) + (", ..." if len(shared) > 10 else "")
        raise ValueError(
            f"{len(shared)} groups stand on two sides of the given split ({shown}), so its test would count images of "
            "groups it was trained on; mend the split column, or leave it out and have the data split by group"
        )
