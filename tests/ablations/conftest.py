"""What the tests here share: the modules beside them, and runs of studies that nobody trains."""

import sys
from pathlib import Path

import pytest

from alexnet_ablations.declare.design import Cell
from alexnet_ablations.declare.study import PlannedRun
from alexnet_lab.records import RunFolder
from alexnet_lab.training.recipe import Recipe

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def planned(tmp_path):
    """Plan runs of a study in a folder of its own, by cell and seed."""

    def plan(norm="bn", seed=0, study="study"):
        cell = Cell((("norm", norm), ("dropout", None)))
        folder = RunFolder(tmp_path / study / "runs" / cell.name / f"seed-{seed}")
        return PlannedRun(cell, seed, Recipe(norm=norm, seed=seed), folder)

    return plan
