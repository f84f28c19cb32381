"""What the page of a study is made of: its declaration, its rows, what they say together, and what was read beside."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from alexnet_ablations.conclude.conclusions import Conclusions
from alexnet_ablations.declare.study import Study
from alexnet_ablations.report.findings import Diagnosed
from alexnet_ablations.report.readings import CellReadings

MOST_UNFOLDED = 24  # rows of a table that is shown as it is


@dataclass(frozen=True)
class ReportContext:
    """All that the page is made of."""

    study: Study
    results: pd.DataFrame
    conclusions: Conclusions
    cells: Sequence[CellReadings]
    diagnosed: Diagnosed

    @property
    def labels(self) -> dict[str, str]:
        """Return what each cell changes, by its folder."""
        return {each.cell: each.label for each in self.cells}

    @property
    def troubled(self) -> dict[tuple[str, int], str]:
        """Return the runs whose records cannot be read, by cell and seed, and why."""
        return {(each.cell, run.seed): run.trouble for each in self.cells for run in each.runs if run.trouble}

    @property
    def baseline(self) -> str:
        """Name the baseline by its levels."""
        return self.cells[0].cell.replace(",", ", ")
