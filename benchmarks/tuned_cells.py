"""Checks the verdicts on tuned cells over simulated studies whose truth is known, the search and its choice included.

    python benchmarks/tuned_cells.py                 # the table of docs/evidence.md: a minute or two on one core
    python benchmarks/tuned_cells.py --studies 200   # a first look

A curve says how good a cell is at each of eight values, in standard deviations of one run. Each search sees it with one
draw a value and chooses by the product's own rule; the comparison has draws of its own and goes through the product's
own test. Seeded: the same numbers every time.

    A/A        two cells with one curve: whatever is found is false
    planted    a cell that is behind at the common value and ahead at its best: how often it is found to be ahead
"""

import argparse
import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from alexnet_ablations.conclude.intervals import LEVEL, t_p_value
from alexnet_ablations.tune.choice import Tried, choose

Curve = NDArray[np.float64]
SEEDS = (3, 6, 10)
PLACES = np.linspace(-1, 1, 8)
CURVES: Mapping[str, Curve] = {
    "flat": np.zeros(8),
    "a hill": -10 * (PLACES - 0.13) ** 2,
    "a steep hill": -30 * (PLACES - 0.13) ** 2,
    "a slope and a cliff": np.array([-4.0, -3.0, -2.0, -1.0, 0.0, -50.0, -50.0, -50.0]),
}
# The first value is the common one. There the second cell is three standard deviations behind, at its best three ahead.
PLANTED = (np.array([0.0, -9, -4, -1, 0, -1, -4, -9]), np.array([-3.0, -9, -6, -3, 0, 3, 1, -9]))
_VALUES = {"learning_rate": 0.1}


def differences(rng: np.random.Generator, curves: Sequence[Curve], seeds: int, *, once: bool = False) -> Curve:
    """Tune both cells and return their paired differences under fresh seeds."""
    accuracies = []
    for curve in curves:
        measured = curve + rng.normal(size=(1 if once else seeds, len(curve)))
        chosen = [choose([Tried(_VALUES, "ok", value) for value in row]) for row in measured.tolist()]
        accuracies.append(curve[np.resize(chosen, seeds)] + rng.normal(size=seeds))
    paired: Curve = accuracies[1] - accuracies[0]
    return paired


def found_share(rng: np.random.Generator, curves: Sequence[Curve], seeds: int, studies: int, *, once: bool) -> str:
    """Return how often a difference is found, in percent with its standard error, and how often it is upwards."""
    hits, upwards = 0, 0
    for _ in range(studies):
        d = differences(rng, curves, seeds, once=once)
        p = t_p_value(d)
        if p is not None and p <= LEVEL:
            hits += 1
            upwards += bool(d.mean() > 0)
    share = hits / studies
    error = 100 * math.sqrt(share * (1 - share) / studies)
    tail = "" if curves[0] is curves[1] else f", upwards {100 * upwards / studies:.1f}"
    return f"{100 * share:.1f} ± {error:.1f}{tail}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=1000, help="simulated studies a row")
    studies = parser.parse_args().studies
    print("| cells | seeds | found, %, one search per seed | found, %, one search for all (`:once`) |")
    print("|---|---|---|---|")
    cases = {**{f"A/A, {name}": (curve, curve) for name, curve in CURVES.items()}, "planted": PLANTED}
    for number, (name, curves) in enumerate(cases.items()):
        for seeds in SEEDS:
            shares = [
                found_share(np.random.default_rng([2012, number, seeds, once]), curves, seeds, studies, once=once)
                for once in (False, True)
            ]
            print(f"| {name} | {seeds} | {shares[0]} | {shares[1]} |", flush=True)


if __name__ == "__main__":
    main()
