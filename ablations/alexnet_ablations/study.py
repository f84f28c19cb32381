"""A study: cells times seeds, in one folder, with an identity that a second call can recognise.

STUDY/study.toml                 what was asked for; a folder holds one study only
STUDY/runs/<cell>/seed-<k>/      run folders, each written by its own run
STUDY/results.csv                one row per run
"""

import csv
import io
import json
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alexnet_ablations.design import Cell, Factor, factorial
from alexnet_lab.records import RunFolder, write_atomically
from alexnet_lab.training.recipe import Recipe


@dataclass(frozen=True)
class PlannedRun:
    """One cell under one seed, and the folder it belongs in."""

    cell: Cell
    seed: int
    recipe: Recipe
    folder: RunFolder

    @property
    def is_done(self) -> bool:
        """Say whether this very recipe already ended here, well or diverged: a divergence is a result too."""
        verdict = self.folder.verdict()
        return (
            verdict is not None
            and verdict["state"] in ("ok", "diverged")
            and self.folder.recipe() == json.loads(self.recipe.to_json())
        )


@dataclass(frozen=True)
class Study:
    """Factors crossed, under several seeds, from one starting recipe."""

    start: Recipe
    factors: tuple[Factor, ...]
    seeds: int
    folder: Path

    @property
    def cells(self) -> list[Cell]:
        """Return the cells, baseline first."""
        return factorial(self.factors)

    def runs(self) -> list[PlannedRun]:
        """Return every run, seed by seed, so that an interrupted study is still balanced."""
        return [
            PlannedRun(cell, seed, cell.recipe(self.start, seed), RunFolder(self._run_path(cell, seed)))
            for seed in range(self.seeds)
            for cell in self.cells
        ]

    def open_folder(self) -> None:
        """Write the study down, or recognise it: same study goes on, another one is refused."""
        path = self.folder / "study.toml"
        mine = self._declaration()
        if path.exists():
            theirs = tomllib.loads(path.read_text())
            # More seeds extend a study; anything else makes it another.
            if {**theirs, "seeds": 0} != {**tomllib.loads(mine), "seeds": 0}:
                raise ValueError(f"{self.folder} holds another study (see {path}); choose another folder with --out")
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, mine)

    def write_results(self, rows: Sequence[dict[str, Any]]) -> Path:
        """Write one row per run."""
        text = io.StringIO()
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        path = self.folder / "results.csv"
        write_atomically(path, text.getvalue())
        return path

    def _run_path(self, cell: Cell, seed: int) -> Path:
        return self.folder / "runs" / cell.name / f"seed-{seed}"

    def _declaration(self) -> str:
        # A JSON string, number or list of them is TOML as well.
        lines = [f"seeds = {self.seeds}", "", "[factors]  # the first level is the baseline"]
        lines += [f"{factor.field} = {json.dumps(list(factor.levels))}" for factor in self.factors]
        lines += ["", "[recipe]  # what all cells share"]
        varied = {factor.field for factor in self.factors} | {"seed"}
        shared = {name: value for name, value in vars(self.start).items() if name not in varied and value is not None}
        lines += [f"{name} = {json.dumps(value)}" for name, value in shared.items()]
        return "\n".join(lines) + "\n"


def collect(runs: Sequence[PlannedRun]) -> list[dict[str, Any]]:
    """Read the verdicts back: one row per run, whatever became of it."""
    rows = []
    for run in runs:
        verdict = run.folder.verdict() or {"state": "lost", "why": "the run's process ended without a verdict"}
        result = verdict.get("result", {})
        rows.append(
            {
                **dict(run.cell.settings),
                "seed": run.seed,
                "state": verdict["state"],
                "test_accuracy": result.get("test", {}).get("accuracy"),
                "validation_accuracy": result.get("validation", {}).get("accuracy"),
                "why": verdict["why"],
            }
        )
    return rows
