"""What the page of a study is made from: its declaration, its results, the conclusions, and the records of its runs."""

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
    """All that the page is made from."""

    study: Study
    results: pd.DataFrame
    conclusions: Conclusions
    cells: Sequence[CellReadings]
    diagnosed: Diagnosed

    @property
    def labels(self) -> dict[str, str]:
        """Return the label of each cell, by its folder."""
        return {cell.cell: cell.label for cell in self.cells}

    @property
    def damages(self) -> dict[tuple[str, int], dict[str, str]]:
        """Return the records that cannot be read, by cell and seed: a sentence for each file."""
        damages: dict[tuple[str, int], dict[str, str]] = {}
        for cell in self.cells:
            for run in cell.runs:
                damages.setdefault((cell.cell, run.seed), {}).update(run.damages)
        for key, by_file in self.diagnosed.damages.items():
            damages[key] = {**by_file, **damages.get(key, {})}
        return {key: by_file for key, by_file in damages.items() if by_file}

    @property
    def baseline(self) -> str:
        """Name the baseline by its levels."""
        return self.cells[0].cell.replace(",", ", ")
