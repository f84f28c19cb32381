"""Checks the intervals of differences of AUROC, where images have several findings, on simulated studies.

    python benchmarks/finding_areas.py                # the table of docs/evidence.md, about ten minutes
    python benchmarks/finding_areas.py --studies 50   # a first look

A network scores a finding of an image by

    what the finding is worth to this run, if the image has it + how the image looks to all networks
        + what the cell makes of the image, or of its patient + the rest

all normal. Two cells are drawn alike, so over other seeds and other images they do not differ. Counted is how often the
95% interval for images (or patients) like these holds 0, beside that of the seeds alone. Seeded: the same numbers every
time; shares come with their Monte Carlo error, one standard error.
"""

import argparse
from dataclasses import dataclass

import numpy as np
from simulation_tables import share, table

from alexnet_ablations.conclude.answers import Answers, area_values
from alexnet_ablations.conclude.crossed import crossed
from alexnet_ablations.conclude.intervals import CONFIDENCE
from alexnet_lab.predictions_file import PartPredictions

SEEDS = (3, 5, 8)
CONTRAST = {"b": 1.0, "a": -1.0}


@dataclass(frozen=True)
class World:
    """How many images a test set has, the share that has each finding, and its patients, if it names any."""

    images: int
    shares: tuple[float, ...]
    patients: int = 0

    @property
    def name(self) -> str:
        """Say it in words."""
        shares = ", ".join(f"{100 * share:.0f}%" for share in self.shares)
        return f"{self.images} images{f' of {self.patients} patients' if self.patients else ''}, findings in {shares}"

    def study(self, generator: np.random.Generator, seeds: int) -> Answers:
        """Return what each image adds to the areas of two cells that are alike over all images."""
        shape = (self.images, len(self.shares))
        labels = (generator.random(shape) < self.shares).astype(int)
        labels[:2], labels[2:4] = 1, 0  # an area needs both
        group = np.arange(self.images)
        if self.patients:
            group = group // (self.images // self.patients)
        shared = 0.7 * generator.normal(size=shape)
        areas = {}
        for cell in CONTRAST:
            own = 0.7 * generator.normal(size=(group.max() + 1, shape[1]))[group]
            for seed in range(seeds):
                lift = 1.2 + 0.15 * generator.normal(size=shape[1])
                scores = labels * lift + shared + own + 0.4 * generator.normal(size=shape)
                part = PartPredictions(np.arange(self.images), labels, 1 / (1 + np.exp(-scores)))
                areas[cell, seed] = area_values(part)
        return Answers(labels, group, bool(self.patients), areas=areas)


WORLDS = (World(200, (0.3, 0.08)), World(400, (0.3, 0.1, 0.03)), World(200, (0.3, 0.15), patients=40))


def coverage(world: World, seeds: int, studies: int) -> list[list[bool]]:
    """Return, by study, whether intervals hold the truth: of the mean, of the rarest finding, over seeds alone."""
    from scipy import special

    generator = np.random.default_rng(1)
    tail = float(special.stdtrit(seeds - 1, (1 + CONFIDENCE) / 2))
    held: list[list[bool]] = [[], [], []]
    for _ in range(studies):
        answers = world.study(generator, seeds)
        for finding, counted in ((None, held[0]), (len(world.shares) - 1, held[1])):
            differences = answers.area_differences(CONTRAST, range(seeds), finding)
            squares = None if differences is None else crossed(differences)
            if squares is None:
                raise RuntimeError(f"a simulated study has no spread: {world.name}")
            interval = squares.interval()
            counted.append(interval.low <= 0 <= interval.high)
            if finding is None:
                alone = tail * (squares.between_seeds / (squares.seeds * squares.groups)) ** 0.5
                held[2].append(abs(squares.mean) <= alone)
    return held


def main() -> None:
    """Print how often intervals hold the truth."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=300, help="simulated studies a row")
    studies = parser.parse_args().studies
    rows = [
        [world.name, str(seeds), *map(share, coverage(world, seeds, studies))] for world in WORLDS for seeds in SEEDS
    ]
    header = ["test set", "seeds", "mean over findings", "the rarest finding", "mean, seeds alone"]
    table(f"How often 95% intervals hold the truth, %, {studies} studies a row", header, rows)


if __name__ == "__main__":
    main()
