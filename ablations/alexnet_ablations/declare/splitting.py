"""Which images a run is trained and tested on: one split for all seeds, folds that a seed draws, or a split per seed.

    as it is      every run has the same training, validation and test images
    folds         a seed draws its own K folds, and a cell has K runs under it, each tested on one of them
    resplit       a seed draws its own training, validation and test images

A seed's draws are those of `split_seed` + seed in the recipe of its runs, so that all cells share them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from alexnet_ablations.declare.design import Cell
from alexnet_lab.training.recipe import Recipe, read_recipe

FOLD = "fold"  # the field of the recipe
MOST_FOLDS = 1_000
WORDS = ("folds", "resplit")  # of a study file


@dataclass(frozen=True)
class Splitting:
    """How the seeds of a study divide the images."""

    folds: int = 0  # 0: none
    resplit: bool = False

    @property
    def parts(self) -> tuple[str, ...]:
        """Return the folds as recipes name them, 1/5 to 5/5; one empty text without folds."""
        return tuple(f"{number}/{self.folds}" for number in range(1, self.folds + 1)) or ("",)

    @property
    def is_by_seed(self) -> bool:
        """Return whether seeds are trained and tested on images of their own."""
        return bool(self.folds) or self.resplit

    def start_of(self, start: Recipe, seed: int) -> Recipe:
        """Return what all cells start from under a seed."""
        if not self.is_by_seed:
            return start
        return read_recipe({**vars(start), "split_seed": start.split_seed + seed})

    def sentence(self) -> str:
        """Say what the seeds draw; empty where all have the same images."""
        if self.folds:
            return (
                f"each seed divides the images into {self.folds} folds of its own, the same for all cells, and a cell "
                "is tested once on every image"
            )
        if self.resplit:
            return "each seed draws its own training, validation and test images, the same for all cells"
        return ""

    def words(self) -> dict[str, Any]:
        """Return what a study file says of it."""
        settings = {"folds": self.folds, "resplit": self.resplit}
        return {name: value for name, value in settings.items() if value}


def cell_in_fold(cell: Cell, fold: str) -> Cell:
    """Return a cell as it is trained to be tested on a fold; the cell itself without folds."""
    return Cell((*cell.settings, (FOLD, fold))) if fold else cell


def read_splitting(words: Mapping[str, Any], start: Recipe) -> Splitting:
    """Read `folds` and `resplit` as flags and study files have them; raise ValueError for any mistake in them."""
    folds, resplit = words.get("folds"), bool(words.get("resplit"))
    if folds is None:
        if resplit and start.fold:
            raise ValueError(
                f"resplit draws the test images anew for each seed, and the recipe names the fold {start.fold}; leave "
                "one of them out"
            )
        return Splitting(0, resplit)
    if not 2 <= folds <= MOST_FOLDS:
        raise ValueError(f"folds must be 2 to {MOST_FOLDS:,}, got {folds}; for example --folds 5")
    if resplit:
        raise ValueError("folds and resplit both say how seeds divide the images; name one of them")
    if start.fold:
        raise ValueError(
            f"a study with folds makes each of them, and the recipe names the fold {start.fold}; leave one of them out"
        )
    return Splitting(folds)
