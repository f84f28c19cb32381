"""What a study knows of its splits where each seed draws its own: how many images there are, and how splits overlap."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from alexnet_ablations.declare.study import PlannedRun


@dataclass(frozen=True)
class Resplits:
    """Splits of one set of images, one for each seed."""

    images: int  # in all parts together
    splits: int
    overlap: float  # test images over training images, the mean of all splits

    @property
    def population(self) -> str:
        """Name what a conclusion over splits is about, as the end of a sentence."""
        return "for training and test images like these"

    @property
    def tested_on(self) -> str:
        """Name what was seen, as the end of a sentence."""
        return f"on {self.splits} splits of these {self.images:,} images"


def read_resplits(runs: Sequence[PlannedRun], ended_well: Iterable[tuple[str, int]]) -> Resplits | None:
    """Read the split of each seed from the first of its runs that ended well; None where no run has."""
    included = set(ended_well)
    sizes: dict[int, tuple[int, int, int]] = {}
    for run in runs:
        if run.seed in sizes or run.key not in included:
            continue
        split = run.folder.split() or {}
        train, validation, test = (len(split.get(part, ())) for part in ("train", "validation", "test"))
        if train and test:
            sizes[run.seed] = train, validation, test
    if not sizes:
        return None
    overlap = sum(test / train for train, _, test in sizes.values()) / len(sizes)
    return Resplits(max(map(sum, sizes.values())), len(sizes), overlap)
