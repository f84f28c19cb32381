"""What pairing by seed is worth: how many seeds unpaired cells need for the interval that paired cells give.

    alexnet-lab ablate --norm bn,none --act leaky --seeds 20 --out runs/pairing
    python benchmarks/pairing.py runs/pairing

Two cells under one seed share every weight, batch and mask that they have in common. Taken as pairs, their difference
varies by var(a - b); had each had seeds of its own, by var(a) + var(b). The quotient is the factor in seeds, since the
width of an interval goes with the root of variance over n. Its 95% interval comes from 4,000 resamples of the seeds,
percentile; a factor below 1 would say that pairing costs seeds.
"""

import argparse
import itertools
import math
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from alexnet_ablations.conclude.outcomes import HEADLINE, OUTCOMES, outcome_named
from alexnet_ablations.conclude.seeds import seeds_for_half_width

RESAMPLES = 4_000
Values = NDArray[np.float64]  # seeds x cells, or resamples x seeds x cells


def factor(values: Values, pairs: list[tuple[int, int]]) -> Values:
    """Return var(a) + var(b) over var(a - b), each summed over these pairs of cells."""
    unpaired, paired = variances(values, pairs)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(unpaired.sum(-1) / paired.sum(-1))


def variances(values: Values, pairs: list[tuple[int, int]]) -> tuple[Values, Values]:
    """Return for every pair of cells the variance of their difference, had each its own seeds, and as pairs."""
    one, other = [list(side) for side in zip(*pairs, strict=True)]
    a, b = values[..., one], values[..., other]
    return a.var(-2, ddof=1) + b.var(-2, ddof=1), (a - b).var(-2, ddof=1)


def seeds_unpaired(variance: float, target: float) -> int:
    """Return the fewest seeds per cell whose unpaired t interval, of 2(n - 1) degrees, is the target either way."""
    seeds = 2
    while stats.t.ppf(0.975, 2 * (seeds - 1)) * math.sqrt(variance / seeds) > target:
        seeds += 1
    return seeds


def by_what_differs(results: pd.DataFrame, cells: list[str]) -> dict[str, list[tuple[int, int]]]:
    """Group the pairs of cells by the factors in which they differ."""
    columns = list(results.columns)
    levels = results.drop_duplicates("cell").set_index("cell")[
        columns[columns.index("cell") + 1 : columns.index("seed")]
    ]
    groups: dict[str, list[tuple[int, int]]] = {}
    for a, b in itertools.combinations(range(len(cells)), 2):
        differing = levels.columns[levels.loc[cells[a]].astype(str) != levels.loc[cells[b]].astype(str)]
        groups.setdefault(" and ".join(differing), []).append((a, b))
    return groups


def main() -> None:
    """Print the factor of every pair of cells, and of all together."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="a study folder with a results.csv")
    parser.add_argument("--outcome", default=HEADLINE.name, choices=[outcome.name for outcome in OUTCOMES])
    arguments = parser.parse_args()
    outcome = outcome_named(arguments.outcome)
    results = pd.read_csv(arguments.study / "results.csv")
    values_of = results.assign(value=outcome.compared(results)).pivot(index="seed", columns="cell", values="value")
    wide = values_of[list(dict.fromkeys(results["cell"]))].dropna()  # a seed counts where every cell has a number
    values, cells = wide.to_numpy(), list(wide.columns)
    if len(cells) < 2 or len(values) < 3:
        raise SystemExit(
            f"two cells and three whole seeds at least; {arguments.study} has {len(cells)} and {len(values)}"
        )
    groups = by_what_differs(results, cells)
    groups |= {f"{cells[a]} and {cells[b]}": [(a, b)] for pairs in list(groups.values()) for a, b in pairs}
    if len(cells) > 2:
        groups["any: all pairs of cells"] = list(itertools.combinations(range(len(cells)), 2))
    chosen = np.random.default_rng(2012).integers(0, len(values), (RESAMPLES, len(values)))
    target = outcome.compared_margin() or 1.0
    print(f"{outcome.label}, {len(values)} seeds under which all {len(cells)} cells have a number\n")
    columns = ["what differs", "sd unpaired", "sd paired", "factor in seeds (95%)"]
    print("| " + " | ".join([*columns, f"seeds for ±{target:.3g}: unpaired", "paired"]) + " |")
    print("|---|---|---|---|---|---|")
    for name, pairs in groups.items():
        # Without interpolation: a resample in which no pair differs has an infinite factor.
        low, high = np.nanpercentile(factor(values[chosen], pairs), [2.5, 97.5], method="inverted_cdf")
        unpaired, paired = (float(variance.mean()) for variance in variances(values, pairs))
        print(
            f"| {name} | {math.sqrt(unpaired):.2f} | {math.sqrt(paired):.2f} | "
            f"{float(factor(values, pairs)):.2f} ({low:.2f} to {high:.2f}) | "
            f"{seeds_unpaired(unpaired, target)} | {seeds_for_half_width(math.sqrt(paired), target)} |"
        )


if __name__ == "__main__":
    main()
