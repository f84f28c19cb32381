"""The splits that the seeds of a study draw, made before its first run, so that one that cannot be is refused here."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from alexnet_ablations.declare.study import Study

if TYPE_CHECKING:
    from alexnet_lab.data.images import Images
    from alexnet_lab.data.sources import Progress

MOST_CHECKED = 200  # splits; a run of a later one says itself why it cannot be


@dataclass(frozen=True)
class Tested:
    """What each seed is tested on."""

    images: int  # of all folds together
    overlap: float = 0.0  # test over training images, where each seed draws its own split


def check_splits(study: Study, progress: "Progress | None" = None) -> Tested:
    """Make the splits of a study whose seeds draw their own; raise ValueError for the first that cannot be."""
    from alexnet_lab.data.audit import audit_copies
    from alexnet_lab.data.augment import parse_augmentation
    from alexnet_lab.data.findings import as_classes
    from alexnet_lab.data.leaks import refuse_leaks, usable_images
    from alexnet_lab.data.sources import is_published, load_images
    from alexnet_lab.data.splits import drawn_split

    start, splitting = study.start, study.splitting
    side = start.image_size + parse_augmentation(start.augment).margin(start.image_size)
    images = load_images(
        start.data,
        side,
        start.fit,
        skip_bad=start.skip_bad,
        progress=progress,
        group=start.group,
        patient_from=start.patient_from,
        findings=start.findings,
    )
    _refuse_given_parts(study, images)
    by_group = bool(start.group or start.patient_from)
    usable = usable_images(images, drop_duplicates=start.drop_duplicates, by_group=by_group).indices
    _refuse_few_groups(splitting.folds, images, usable)
    tested, overlap = 0, 0.0
    for seed, fold in [(seed, fold) for seed in range(study.seeds) for fold in splitting.parts][:MOST_CHECKED]:
        drawn = splitting.start_of(start, seed).split_seed
        split = drawn_split(images, usable, drawn, fold)
        if not (start.allow_leaks or is_published(start.data)):
            refuse_leaks(audit_copies(as_classes(images), split), start.data)
        if seed == 0:
            tested += len(split.test)
            overlap = len(split.test) / len(split.train) if splitting.resplit else 0.0
    return Tested(tested, overlap)


def _refuse_given_parts(study: Study, images: "Images") -> None:
    """Refuse data whose test images are given, and for resplit any given parts: every seed would be tested on them."""
    given_parts = [] if images.parts is None else [part for part in ("validation", "test") if part in images.parts]
    if "test" in given_parts:
        word = "folds" if study.splitting.folds else "resplit"
        raise ValueError(
            f"{study.start.data} has test images of its own, which {word} would leave unused or test under every seed; "
            f"leave {word} out, or give the data without its parts"
        )
    if given_parts and study.splitting.resplit:
        raise ValueError(
            f"{study.start.data} has validation images of its own, on which every seed would be tested, so that "
            "resplit has nothing to draw; take --folds 5, which divides all its images, or give the data without parts"
        )


def _refuse_few_groups(folds: int, images: "Images", usable: NDArray[np.int64]) -> None:
    """Refuse more folds than a class has patients, since one of them could not test it."""
    if not folds or images.groups is None:
        return
    labels, groups = images.labels[usable], images.groups[usable]
    of_class = labels.T == 1 if labels.ndim == 2 else [labels == number for number in range(len(images.classes))]
    counts = [len(np.unique(groups[members])) for members in of_class]
    least = int(np.argmin(counts))
    if counts[least] < folds:
        name, count = images.classes[least], counts[least]
        more = f"take at most {count} folds" if count > 1 else "leave the class out, or add patients"
        raise ValueError(
            f"{folds} folds need {folds} patients of each class, since a patient is in one fold only, and {name} has "
            f"{count}; {more}"
        )
