"""Checks the error rates of the statistics on thousands of simulated studies whose truth is known.

    python benchmarks/believe.py                     # the tables of docs/evidence.md: minutes on one core
    python benchmarks/believe.py --studies 400       # a first look
    python benchmarks/believe.py --real STUDY        # A/A comparisons among the runs of a real study folder

The p-values and intervals are the product's own, one study at a time. The first studies of each row also go through
`conclusions_of`, table of results and all, which must come to the same verdicts, or the script ends. Shares come with
their Monte Carlo error, one standard error. Seeded: the same numbers every time.

    A/A         identical cells under different names: whatever is found is false
    coverage    how often an interval holds the true mean
    margins     how often "less than the margin either way" is claimed where the truth is exactly the margin
    power       how often a planted effect is found, beside the predicted power
"""

import argparse
import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from simulation_tables import share, table

from alexnet_ablations.conclude.conclusions import conclusions_of
from alexnet_ablations.conclude.intervals import (
    LEVEL,
    equivalence_p_value,
    sign_flip_interval,
    sign_flip_p_value,
    t_interval,
    t_p_value,
)
from alexnet_ablations.conclude.looks import level_of_look
from alexnet_ablations.conclude.multiplicity import holm
from alexnet_ablations.conclude.outcomes import HEADLINE
from alexnet_ablations.conclude.seeds import power
from alexnet_ablations.conclude.sentences import sentence_of
from alexnet_ablations.declare.contrasts import Contrast

SEEDS = (3, 5, 6, 10)
LEVELS = ("a", "b", "c", "d", "e", "f")  # of one factor: five contrasts against the first, which they share
SHARED, OWN = 0.01, 0.01  # standard deviations of what the cells of a seed share, and of what each has by itself
IMAGES = 360  # a small test set: accuracies are multiples of 1/360
MISSING = 0.1  # share of runs that left no number
MARGIN = 0.5  # points
CHECKED = 10  # studies of each row that also go through conclusions_of
SPLITS = 2000  # of a real cell's seeds into two groups
ASYMMETRIC = "exponential differences"

Draw = Callable[[np.random.Generator, tuple[int, ...]], NDArray[np.float64]]


def _normal(generator: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float64]:
    return generator.normal(size=shape)


def _skewed(generator: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Mostly a little better than the mean, now and then far worse, as accuracies are near their ceiling."""
    return 1 - generator.exponential(size=shape)


def _heavy(generator: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float64]:
    return generator.standard_t(3, size=shape) / math.sqrt(3)


SHAPES: dict[str, Draw] = {"normal": _normal, "skewed": _skewed, "heavy-tailed": _heavy}


def simulated_accuracies(
    generator: np.random.Generator,
    seeds: int,
    draw: Draw,
    effects: Sequence[float] = (0.0,) * len(LEVELS),
    *,
    counted: bool = False,
    missing: float = 0.0,
) -> NDArray[np.float64]:
    """Return accuracies by cell and seed: what the cells of a seed share, what each has alone, effects in points."""
    shape = (len(effects), seeds)
    accuracy = (
        0.95 + np.array(effects)[:, None] / 100 + SHARED * draw(generator, (1, seeds)) + OWN * draw(generator, shape)
    )
    if counted:  # of so many images, so many are right
        accuracy = generator.binomial(IMAGES, np.clip(accuracy, 0, 1)) / IMAGES
    accuracy[generator.random(shape) < missing] = math.nan
    return accuracy


def differences(accuracies: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """Return each cell less the first, in points, under the seeds that have both."""
    # Rounded far below anything real: of counted accuracies, equal differences must be equal.
    paired = np.round(100 * (accuracies[1:] - accuracies[0]), 9)
    return [row[~np.isnan(row)] for row in paired]


def check_against_conclude(accuracies: NDArray[np.float64], p_values: list[float | None]) -> None:
    """Hold the short cut taken here to the product's whole way from a table of results to verdicts."""
    cells, seeds = accuracies.shape
    rows = pd.DataFrame(list(itertools.product(LEVELS[:cells], range(seeds))), columns=["cell", "seed"])
    state = np.where(np.isnan(accuracies.ravel()), "diverged", "ok")
    contrasts = [Contrast(f"a → {level}", "effect", {level: 1.0, "a": -1.0}, ("x",)) for level in LEVELS[1:cells]]
    headline = conclusions_of(
        rows.assign(test_accuracy=accuracies.ravel(), state=state), contrasts, [HEADLINE]
    ).headline
    level = level_of_look(seeds)  # these tables test at 5%, the product at what a first look may spend
    for conclusion, p, q in zip(headline, p_values, holm(p_values), strict=True):
        t_p = conclusion.inference.t_p
        same = t_p is p or (t_p is not None and p is not None and math.isclose(t_p, p, rel_tol=1e-6))
        if not same or conclusion.verdict.startswith("difference") != _is_found(q, level):
            raise SystemExit(
                f"conclusions_of says {sentence_of(conclusion)!r} at p {p} and adjusted {q}; these tables are wrong"
            )


def _is_found(p: float | None, level: float = LEVEL) -> bool:
    return p is not None and p <= level


def same_under_other_names(studies: int) -> None:
    """A/A: count the false findings of one comparison, and of a family of five with and without Holm's rule."""
    rows = []
    cases = [(shape, False, 0.0) for shape in SHAPES]
    cases += [("normal", True, 0.0), ("skewed", True, 0.0), ("normal", True, MISSING)]
    for (shape, counted, missing), seeds in itertools.product(cases, SEEDS):
        generator = np.random.default_rng([1, seeds, len(rows)])
        single, flipped, unadjusted, family, equal = [], [], [], [], []
        for study in range(studies):
            accuracies = simulated_accuracies(generator, seeds, SHAPES[shape], counted=counted, missing=missing)
            d = differences(accuracies)
            p_values = [t_p_value(row) for row in d]
            if study < CHECKED:
                check_against_conclude(accuracies, p_values)
            single.append(_is_found(p_values[0]))
            flipped.append(_is_found(sign_flip_p_value(d[0])))
            unadjusted.append(any(map(_is_found, p_values)))
            family.append(any(map(_is_found, holm(p_values))))
            equal.append(_is_found(equivalence_p_value(d[0], MARGIN)))
        name = shape + (f", k/{IMAGES}" if counted else "") + (f", {missing:.0%} missing" if missing else "")
        rows.append([name, str(seeds), *map(share, (single, flipped, unadjusted, family, equal))])
    header = [
        "accuracies",
        "seeds",
        "one, t",
        "one, sign flip",
        "any of five",
        "any of five, Holm",
        "one, called equal",
    ]
    table(f"A/A: studies with a finding, % ({studies} studies a row; nominal 5)", header, rows)


def coverage(studies: int) -> None:
    """Count how often each interval holds the true mean difference."""
    rows = []
    methods = (t_interval, sign_flip_interval)
    for shape, seeds in itertools.product((*SHAPES, ASYMMETRIC), SEEDS):
        generator = np.random.default_rng([2, seeds, len(rows)])
        held: list[list[bool]] = [[] for _ in methods]
        for _ in range(studies):
            if shape == ASYMMETRIC:  # which pairing like with like does not make: the mean is 1
                d, truth = generator.exponential(size=seeds), 1.0
            else:
                d, truth = SHAPES[shape](generator, (seeds,)) - SHAPES[shape](generator, (seeds,)), 0.0
            for hits, method in zip(held, methods, strict=True):
                interval = method(d)
                if interval is not None:
                    hits.append(interval.low <= truth <= interval.high)
        rows.append([shape, str(seeds), *map(share, held)])
    header = ["differences of", "pairs", "t", "sign flip"]
    table(f"Coverage of 95% intervals, % ({studies} studies a row)", header, rows)


def at_the_margin(studies: int) -> None:
    """Count false claims of equivalence where the true difference is the margin itself, the hardest case."""
    rows = []
    for shape, seeds in itertools.product(SHAPES, SEEDS):
        generator = np.random.default_rng([3, seeds, len(rows)])
        one, family = [], []
        for _ in range(studies):
            # Every cell but the first is the margin away from it; the spread is a third, or nothing could be claimed.
            deviations = simulated_accuracies(generator, seeds, SHAPES[shape]) - 0.95
            accuracies = deviations / 3 + 0.95 + np.array([0.0] + [MARGIN / 100] * 5)[:, None]
            p_values = [equivalence_p_value(d, MARGIN) for d in differences(accuracies)]
            one.append(_is_found(p_values[0]))
            family.append(any(map(_is_found, holm(p_values))))
        rows.append([shape, str(seeds), share(one), share(family)])
    header = ["accuracies", "seeds", "one comparison", "any of five, Holm"]
    table(f"Equivalence claimed where the truth is the margin, % ({studies} studies a row; at most 5)", header, rows)


def planted(studies: int) -> None:
    """Count how often a planted effect is found, beside the power predicted for normal differences."""
    rows = []
    spread = 100 * OWN * math.sqrt(2)  # of a paired difference, in points: what the seed shares is gone
    for shape, effect, seeds in itertools.product(SHAPES, (1.0, 2.0, 4.0), SEEDS):
        generator = np.random.default_rng([4, seeds, len(rows)])
        hits, right, means = [], [], []
        for study in range(studies):
            accuracies = simulated_accuracies(generator, seeds, SHAPES[shape], (0.0, effect))
            (d,) = differences(accuracies)
            p = t_p_value(d)
            if study < CHECKED:
                check_against_conclude(accuracies, [p])
            hits.append(_is_found(p))
            means.append(float(d.mean()))
            if hits[-1]:
                right.append(means[-1] > 0)
        mean = f"{np.mean(means):+.2f} ± {np.std(means) / math.sqrt(studies):.2f}"
        predicted = f"{100 * power(seeds, effect, spread):.1f}"
        rows.append([shape, f"{effect:+.0f}", str(seeds), mean, share(hits), predicted, share(right)])
    header = ["accuracies", "planted", "seeds", "mean estimate", "found, %", "predicted (normal), %", "right sign, %"]
    table(f"Planted effects, points ({studies} studies a row; a difference spreads {spread:.1f} points)", header, rows)


def among_real_runs(folder: Path) -> None:
    """A/A on real runs: a cell's seeds under one name against other seeds of the same cell under another."""
    runs = pd.read_csv(folder / "results.csv")
    cells = {
        str(cell): mine.sort_values("seed") for cell, mine in runs[runs["state"] == "ok"].groupby("cell", sort=False)
    }
    for seeds in (3, 5):
        rows, of_all, untouched = [], [], []
        for cell, mine in cells.items():
            values = mine["test_accuracy"].to_numpy()
            generator = np.random.default_rng(5)
            by_t, flipped, held = [], [], []
            for _ in range(SPLITS):
                drawn = 100 * generator.permutation(values)
                d = np.round(drawn[:seeds] - drawn[seeds : 2 * seeds], 9)
                interval = t_interval(d)
                by_t.append(_is_found(t_p_value(d)))
                flipped.append(_is_found(sign_flip_p_value(d)))
                held.append(interval is None or interval.low <= 0 <= interval.high)
            of_all += by_t
            as_they_come = np.round(100 * (values[:seeds] - values[seeds : 2 * seeds]), 9)
            untouched.append(_is_found(t_p_value(as_they_come)))
            shares = [f"{100 * np.mean(hits):.1f}" for hits in (by_t, flipped, held)]
            rows.append([cell, str(len(values)), *shares])
        rows.append(["all", str(sum(map(len, cells.values()))), f"{100 * np.mean(of_all):.1f}", "", ""])
        header = ["cell", "runs", "found, t, %", "found, sign flip, %", "interval holds 0, %"]
        # The splits of one cell share its runs, so that no Monte Carlo error describes them.
        table(f"A/A among real runs: {seeds} seeds against {seeds} others, {SPLITS} splits a cell", header, rows)
        print(f"\nThe first {seeds} seeds against the next {seeds}: {sum(untouched)} of {len(untouched)} cells found.")


def main() -> None:
    """Print every table, or the one of a real study."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=2000, help="simulated studies per row")
    parser.add_argument("--real", type=Path, help="a study folder with a results.csv")
    arguments = parser.parse_args()
    if arguments.real:
        among_real_runs(arguments.real)
        return
    for section in (same_under_other_names, coverage, at_the_margin, planted):
        section(arguments.studies)


if __name__ == "__main__":
    main()
