"""How many runs of each cell ended well. A cell that diverges is a finding, with an interval like any other."""

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from alexnet_ablations.conclude.intervals import Interval, share_interval

ENDED = ("ok", "diverged", "oom", "error", "timeout")  # anything else has yet to end, and says nothing about its cell


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

    @property
    def sentence(self) -> str:
        """Say it in a sentence, with its n."""
        others = [f"{n} {state}" for state, n in self.states.items() if state != "ok"]
        tail = f"; {', '.join(others)}" if others else ""
        if not self.ended:
            return f"{self.cell}: no run has ended{tail}"
        text = f"{self.cell}: {self.well} of {self.ended} runs ended well"
        text += f" ({self.share:.0%}, 95% interval {self.interval.low:.0%} to {self.interval.high:.0%}){tail}"
        if self.against_baseline is not None and self.against_baseline < 1:
            text += f"; against the baseline, by seed, p = {self.against_baseline:.2g}"
        return text


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


def _mcnemar(results: pd.DataFrame, baseline: str, cell: str) -> float | None:
    from scipy import stats

    if cell == baseline:
        return None
    ended = results[results["state"].isin(ENDED)]
    well = [ended.loc[ended["cell"] == name].set_index("seed")["state"].eq("ok") for name in (baseline, cell)]
    both = pd.concat(well, axis=1, join="inner")
    only_baseline = int((both.iloc[:, 0] & ~both.iloc[:, 1]).sum())
    only_cell = int((~both.iloc[:, 0] & both.iloc[:, 1]).sum())
    if only_baseline + only_cell == 0:
        return None
    return float(stats.binomtest(only_cell, only_baseline + only_cell).pvalue)
