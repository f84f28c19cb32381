"""What the tests here share: the modules beside them, and runs of studies that nobody trains."""

import sys
from pathlib import Path

import pytest

from alexnet_ablations.declare.design import Cell
from alexnet_ablations.declare.study import PlannedRun
from alexnet_ablations.run import calibration
from alexnet_ablations.run.executors import forking, local
from alexnet_lab.records import RunFolder
from alexnet_lab.training.recipe import Recipe

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def _undrawn(undrawn):
    """Every study ends with a report, and few tests here look at figures: those ask for `drawn`."""


@pytest.fixture
def planned(tmp_path):
    """Plan runs of a study in a folder of its own, by cell and seed."""

    def plan(norm="bn", seed=0, study="study"):
        cell = Cell((("norm", norm), ("dropout", None)))
        folder = RunFolder(tmp_path / study / "runs" / cell.name / f"seed-{seed}")
        return PlannedRun(cell, seed, Recipe(norm=norm, seed=seed), folder)

    return plan


class KeptServer(forking.ForkServer):
    """A process that forks the runs of one study after another."""

    def close(self):
        """Stay for the next study."""

    def serve(self, changed):
        """Work for another coordinator from now on."""
        self._changed = changed
        return self


@pytest.fixture(scope="module")
def forked_together():
    """Fork the runs of all studies of a file from one process: to import what runs need takes longer than small runs.

    Its folder and environment are those of the first study, as they were when it began.
    """
    servers, folder = {}, []

    def server_of(threads, changed):
        folder.append(Path.cwd())
        assert folder[0] == folder[-1], "studies that share a server have to be made from one folder"
        if threads not in servers or servers[threads].has_ended:
            servers[threads] = KeptServer(threads, changed)
        return servers[threads].serve(changed)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local, "ForkServer", server_of)
        yield
    for server in servers.values():
        forking.ForkServer.close(server)


@pytest.fixture
def timed_here(monkeypatch, torch_settings):
    """Time the first steps of a plan in this process, which has imported what they need, instead of in some others."""

    def measured(parts):
        for key, recipe in {key: recipe for part in parts for key, recipe in part}.items():
            try:
                yield key, calibration.measure(recipe)
            except (ValueError, OSError, RuntimeError) as error:
                raise calibration.UnfitRecipeError(str(error), recipe) from None

    monkeypatch.setattr(calibration, "_measured_side_by_side", measured)
