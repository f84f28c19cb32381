"""Checks what is said of images nobody has seen, and of studies that are extended, on simulated studies.

    python benchmarks/populations.py                 # the tables of docs/evidence.md
    python benchmarks/populations.py --studies 200   # a first look

A network answers an image right where

    level of the cell + how easy the image is + what the cell makes of the image + what the seed makes of it
        + what the seed makes of the cell + the rest

is above 0, all normal. So the share that it gets right of all images and under all seeds is known exactly, and so is
the true difference of two cells. The intervals, p-values and levels are the product's own. Shares come with their
Monte Carlo error, one standard error. Seeded: the same numbers every time.

    coverage    how often the interval for images like these holds the true difference, beside that of the seeds alone
    A/A         how often cells that are equal over all images are told apart
    power       how often a difference is found of the size that a study is said to show four times in five
    looks       how often equal cells are told apart at any of the looks after 3, 6 and 9 seeds
"""

import argparse
import itertools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from simulation_tables import share, table

from alexnet_ablations.conclude.conclusions import infer
from alexnet_ablations.conclude.crossed import Crossed, crossed
from alexnet_ablations.conclude.intervals import LEVEL
from alexnet_ablations.conclude.looks import level_of_look
from alexnet_ablations.conclude.seeds import half_width
from alexnet_ablations.conclude.sensitivity import Spread

SEEDS, IMAGES = (3, 6, 10), (66, 360, 2000, 10_000)
LOOKS = (3, 6, 9)
CHECKED = 5  # studies of each world that also go through the product's own inference


@dataclass(frozen=True)
class World:
    """Two cells, by the share of all images that each gets right, and standard deviations beside the rest's of 1."""

    name: str
    right: tuple[float, float]
    image: float = 1.0  # how easy an image is, for both
    cell_image: float = 0.0  # what a cell makes of an image, under every seed
    seed_image: float = 0.5  # what a seed makes of an image, in both cells
    seed_cell: float = 0.05  # what a seed makes of a cell, on every image

    def table(self, generator: np.random.Generator, seeds: int, images: int) -> NDArray[np.float64]:
        """Return the differences of a simulated study by seed and image, in points."""

        def normal(*shape: int) -> NDArray[np.float32]:
            return generator.standard_normal(shape, dtype=np.float32)

        total = math.sqrt(1 + self.image**2 + self.cell_image**2 + self.seed_image**2 + self.seed_cell**2)
        shared = self.image * normal(images) + self.seed_image * normal(seeds, images)
        answers = []
        for right in self.right:
            own = self.cell_image * normal(images) + self.seed_cell * normal(seeds, 1)
            answers.append(normal(seeds, images) + shared + own > -total * _normal_quantile(right))
        return 100.0 * (answers[1].astype(float) - answers[0])

    @property
    def difference(self) -> float:
        """Return the true difference, over all seeds and images, in points."""
        return 100 * (self.right[1] - self.right[0])


WORLDS = (
    World("equal cells, images alike to both", (0.95, 0.95)),
    World("equal, 0.3 between cells on an image", (0.95, 0.95), cell_image=0.3),
    World("equal, 1 between cells on an image", (0.95, 0.95), cell_image=1.0),
    World("equal at 80%, 2 between cells on an image", (0.8, 0.8), cell_image=2.0),
    World("equal at 99%, 1 between cells on an image", (0.99, 0.99), cell_image=1.0),
    World("equal, seeds differ much", (0.95, 0.95), cell_image=0.5, seed_cell=0.3),
    World("7 points apart, 1 between cells on an image", (0.9, 0.97), cell_image=1.0),
)


def corner(values: NDArray[np.float64], seeds: int, images: int) -> Crossed:
    """Return the mean squares of the first seeds and images of a study."""
    squares = crossed(values[:seeds, :images])
    # Without any difference there is nothing to find: an interval that is the point 0.
    return squares or Crossed(seeds, images, 0.0, 0.0, 0.0, 0.0, 1.0)


def check_against_infer(values: NDArray[np.float64], expected: Crossed) -> None:
    """Hold the short cut taken here to what the product concludes from the same differences."""
    part = values[: expected.seeds, : expected.groups]
    result = infer(part.mean(1).tolist(), images=crossed(part))
    if result.t is not None and (result.t, result.t_p) != (expected.interval(), expected.p_value()):
        raise SystemExit(f"the product infers {result} where these tables have {expected}; they are not right")


def of_images(studies: int) -> None:
    """Count how often intervals hold the true difference, and how often equal cells are told apart.

    The smaller studies are corners of the largest, so that rows of one world share their draws.
    """
    rows, at_looks = [], []
    for at, world in enumerate(WORLDS):
        generator = np.random.default_rng([21, at])
        held, alone, is_found, halves = (np.zeros((studies, len(SEEDS), len(IMAGES))) for _ in range(4))
        spent, unspent, seeds_only = (np.zeros((studies, len(IMAGES)), bool) for _ in range(3))
        for study in range(studies):
            values = world.table(generator, SEEDS[-1], IMAGES[-1])
            for (a, seeds), (b, images) in itertools.product(enumerate(SEEDS), enumerate(IMAGES)):
                result = corner(values, seeds, images)
                if study < CHECKED:
                    check_against_infer(values, result)
                half = result.half_width()
                held[study, a, b] = abs(result.mean - world.difference) <= half
                alone[study, a, b] = abs(result.mean - world.difference) <= _half_of_seeds(result)
                is_found[study, a, b] = abs(result.mean) > half
                halves[study, a, b] = half
            for b, images in enumerate(IMAGES):
                looks = [corner(values, seeds, images) for seeds in LOOKS]
                levels = [level_of_look(seeds, LOOKS[:number]) for number, seeds in enumerate(LOOKS)]
                p_values = [one.p_value() if one.variance else 1.0 for one in looks]
                spent[study, b] = any(p <= level for p, level in zip(p_values, levels, strict=True))
                unspent[study, b] = any(p <= LEVEL for p in p_values)
                seeds_only[study, b] = any(abs(one.mean) > _half_of_seeds(one) for one in looks)
        is_equal = world.difference == 0
        for (a, seeds), (b, images) in itertools.product(enumerate(SEEDS), enumerate(IMAGES)):
            told_apart = share(is_found[:, a, b]) if is_equal else "-"
            measured = [share(held[:, a, b]), share(alone[:, a, b]), told_apart, f"{np.median(halves[:, a, b]):.2g}"]
            rows.append([world.name, str(seeds), f"{images:,}", *measured])
        if is_equal:
            at_looks += [
                [world.name, f"{images:,}", share(spent[:, b]), share(unspent[:, b]), share(seeds_only[:, b])]
                for b, images in enumerate(IMAGES)
            ]
    header = ["cells", "seeds", "images", "images like these", "seeds alone", "equal cells told apart", "± points"]
    table(f"How often a 95% interval holds the difference over all images, % ({studies} studies a row)", header, rows)
    header = ["cells", "images", "spent over the looks", "5% at each look", "5% at each look, seeds alone"]
    table(
        f"Equal cells told apart at any of three looks, 3, 6 and 9 seeds, % ({studies} studies a row)", header, at_looks
    )


def planned(studies: int) -> None:
    """Count how often a difference is found that is as large as such a study shows four times in five."""
    rows = []
    for at, between_images in enumerate((0.0, 20.0)):
        generator = np.random.default_rng([22, at])
        spread = Spread(seeds=0.7, images=between_images, rest=20.0)
        cases = list(itertools.product(SEEDS, IMAGES))
        effects = [spread.detectable(seeds, images, LEVEL) for seeds, images in cases]
        is_found = np.zeros((studies, len(cases)), bool)
        for study in range(studies):
            values = spread.seeds * generator.standard_normal((SEEDS[-1], 1))
            values = values + spread.images * generator.standard_normal(IMAGES[-1])
            values = values + spread.rest * generator.standard_normal((SEEDS[-1], IMAGES[-1]))
            is_found[study] = [
                corner(values + effect, seeds, images).p_value() <= LEVEL
                for effect, (seeds, images) in zip(effects, cases, strict=True)
            ]
        rows += [
            [f"{between_images:.0f}", str(seeds), f"{images:,}", f"{effect:.2f}", share(is_found[:, case])]
            for case, (effect, (seeds, images)) in enumerate(zip(effects, cases, strict=True))
        ]
    header = ["between images, points", "seeds", "images", "said to show, points", "found, %"]
    table(
        f"A difference of the size that is said to be found four times in five ({studies} studies a row)", header, rows
    )


def _half_of_seeds(result: Crossed) -> float:
    """Return half the width of Student's interval over the seeds alone."""
    return half_width(result.seeds, math.sqrt(result.between_seeds / result.groups))


def _normal_quantile(share_right: float) -> float:
    from scipy import special

    return float(special.ndtri(share_right))


def main() -> None:
    """Print every table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sections = {"images": of_images, "power": planned}
    parser.add_argument("--studies", type=int, default=1000, help="simulated studies per row")
    parser.add_argument("--only", choices=sections, help="one section")
    arguments = parser.parse_args()
    for name, section in sections.items():
        if arguments.only in (None, name):
            section(arguments.studies)


if __name__ == "__main__":
    main()
