"""How many runs of each cell ended well, and which comparisons are left where a cell never does.

A cell that diverges is a result, with an interval like any other. In a factorial it is part of every average over its
levels; `over_survivors` takes these averages over the other levels instead.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import pandas as pd

from alexnet_ablations.conclude.intervals import Interval, share_interval
from alexnet_ablations.declare.contrasts import Contrast

ENDED = ("ok", "diverged", "oom", "error", "timeout")  # a run in another state says nothing about its cell yet
MOST_PLACES = 3  # combinations of levels that a name lists


@dataclass(frozen=True)
class Survival:
    """The runs of one cell by how they ended; the interval is that of the share that ended well."""

    cell: str
    states: Mapping[str, int]
    interval: Interval
    against_baseline: float | None  # exact McNemar p: seeds under which one of the two ended well and the other did not

    @property
    def ended(self) -> int:
        """Count the runs that came to an end, well or not."""
        return sum(self.states.get(state, 0) for state in ENDED)

    @property
    def well(self) -> int:
        """Count the runs that ended well."""
        return self.states.get("ok", 0)

    @property
    def share(self) -> float:
        """Return the share of ended runs that ended well; NaN where none has ended."""
        return self.well / self.ended if self.ended else float("nan")


def survivals(results: pd.DataFrame) -> tuple[Survival, ...]:
    """Return one Survival per cell, in the order of the table; the first cell is the baseline."""
    return tuple(
        Survival(
            str(cell),
            {str(state): int(count) for state, count in rows["state"].value_counts(sort=False).items()},
            share_interval(int((rows["state"] == "ok").sum()), int(rows["state"].isin(ENDED).sum())),
            _mcnemar(results, str(results["cell"].iloc[0]), str(cell)),
        )
        for cell, rows in results.groupby("cell", sort=False)
    )


def lost_cells(results: pd.DataFrame) -> frozenset[str]:
    """Return the cells all of whose runs have ended, and none of them well."""
    return frozenset(
        str(cell)
        for cell, states in results.groupby("cell", sort=False)["state"]
        if states.isin(ENDED).all() and not states.eq("ok").any()
    )


def over_survivors(contrast: Contrast, results: pd.DataFrame, lost: frozenset[str]) -> Contrast:
    """Return the contrast without the levels of the other factors at which it needs a cell that is lost.

    The name says at which levels it is taken then. Unchanged where it needs no lost cell, where no level is left, or
    where the cells at one level are no comparison by themselves, as in a fractional design.
    """
    if not lost & contrast.weights.keys() or not contrast.over:
        return contrast
    others = list(contrast.over)
    levels = results.drop_duplicates("cell").set_index("cell").reindex(columns=others)
    blocks: dict[tuple[str, ...], dict[str, float]] = {}
    for cell, weight in contrast.weights.items():
        at = tuple(str(level) for level in levels.loc[cell]) if cell in levels.index else ()
        blocks.setdefault(at, {})[cell] = weight
    surviving = {at: block for at, block in blocks.items() if not lost & block.keys()}
    if not surviving or any(abs(sum(block.values())) > 1e-9 for block in blocks.values()):
        return contrast
    weights = {
        cell: weight * len(blocks) / len(surviving) for block in surviving.values() for cell, weight in block.items()
    }
    places = [", ".join(f"{field} {level}" for field, level in zip(others, at, strict=True)) for at in surviving]
    where = " or ".join(places) if len(places) <= MOST_PLACES else f"{len(surviving)} of {len(blocks)} other settings"
    return replace(contrast, name=f"{contrast.name}, at {where}", weights=weights, over={})


def _mcnemar(results: pd.DataFrame, baseline: str, cell: str) -> float | None:
    if cell == baseline:
        return None
    ended = results[results["state"].isin(ENDED)]
    well = [ended.loc[ended["cell"] == name].set_index("seed")["state"].eq("ok") for name in (baseline, cell)]
    both = pd.concat(well, axis=1, join="inner")
    only_baseline = int((both.iloc[:, 0] & ~both.iloc[:, 1]).sum())
    only_cell = int((~both.iloc[:, 0] & both.iloc[:, 1]).sum())
    if only_baseline + only_cell == 0:
        return None
    from scipy import stats  # takes as long to import as the rest of the conclusions together

    return float(stats.binomtest(only_cell, only_baseline + only_cell).pvalue)
