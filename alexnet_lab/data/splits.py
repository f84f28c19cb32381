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
stands on one side only.
"""

import json
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


def stratified_split(labels: NDArray[np.int64], seed: int = 0, held_out: float = HELD_OUT) -> Split:
    """Hold out that share for validation and again for test, every class in its proportion."""
    count = round(held_out * len(labels))
    rest, test = _divide(np.arange(len(labels)), labels, None, count, seed, "test")
    train, validation = _divide(rest, labels, None, count, seed, "validation")
    return Split(train, validation, test)


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
        rest, test = _divide(every, labels, groups, _hold_out(len(every), len(classes)), seed, "test")
    if "test" in official and "validation" in official and not fold:
        return Split(official["train"], official["validation"], test, tuple(notes))
    # Without an official test set the two hold-outs are of one size, a share of the whole.
    whole = len(every) if not official and not fold else len(rest)
    _check_counts(labels[rest], classes, 2)
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


def _check_counts(labels: NDArray[np.int64], classes: tuple[str, ...], least: int) -> None:
    counts = np.bincount(labels, minlength=len(classes))
    few = [f"{name} ({count})" for name, count in zip(classes, counts, strict=True) if count < least]
    if few:
        raise ValueError(
            f"each class needs at least {least} images, one for each side of the split; too few in: {', '.join(few)}"
        )


def _divide(
    indices: Indices, labels: NDArray[np.int64], groups: NDArray[np.str_] | None, count: int, seed: int, purpose: str
) -> tuple[Indices, Indices]:
    """Take count images out, every class in its proportion, groups whole."""
    from sklearn.model_selection import train_test_split

    if groups is not None:
        return _fold(indices, labels, groups, 1, max(2, round(len(indices) / count)), seed, purpose)
    luck = derived_seed(seed, "split", purpose) % 2**32  # what scikit-learn accepts
    kept, taken = train_test_split(indices, test_size=count, random_state=luck, stratify=labels[indices])
    return np.sort(kept), np.sort(taken)


def _fold(
    indices: Indices,
    labels: NDArray[np.int64],
    groups: NDArray[np.str_] | None,
    number: int,
    folds: int,
    seed: int,
    purpose: str = "folds",
) -> tuple[Indices, Indices]:
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    luck = derived_seed(seed, "split", purpose) % 2**32
    if groups is None:
        parted = StratifiedKFold(folds, shuffle=True, random_state=luck).split(indices, labels[indices])
    else:
        there = len(np.unique(groups[indices]))
        if there < folds:
            raise ValueError(f"{there} groups cannot be dealt to {folds} folds; a group stands in one of them only")
        dealer = StratifiedGroupKFold(folds, shuffle=True, random_state=luck)
        parted = dealer.split(indices, labels[indices], groups[indices])
    kept, taken = list(parted)[number - 1]
    if not len(taken):
        raise ValueError(f"fold {number} of {folds} has no image; the groups are too few or too uneven")
    return indices[kept], indices[taken]


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
