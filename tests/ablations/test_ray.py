"""Ray: a cluster of two machines, one of which is killed midway, with a shared disk and without one."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("ray", reason="the extra ray is not installed")

from ray_scenario import runs_of, study_in  # only where ray is
from test_survival import learnt_in

from alexnet_ablations.run.coordinator import run_all


@pytest.mark.campaign
@pytest.mark.parametrize("disk", ["shared", "apart"])
def test_a_machine_that_is_killed_midway_changes_no_number(disk, tmp_path):
    whole, study = study_in(tmp_path / "whole"), study_in(tmp_path / "clustered")
    run_all(whole.folder, runs_of(whole), 2)
    scenario = Path(__file__).with_name("ray_scenario.py")
    done = subprocess.run(
        [sys.executable, str(scenario), str(study.folder), disk],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert len(told["died"]) == 1, told
    assert " seed 0: its task ended without a verdict: ray says " in told["died"][0]
    assert len(told["ended"]) == 3
    made, expected = (SimpleNamespace(runs=lambda one=one: runs_of(one)) for one in (study, whole))
    assert learnt_in(made) == learnt_in(expected)
    assert sorted(path.name for path in (study.folder / "runs").glob("*/*")) == ["seed-0", "seed-0", "seed-1"]
    notes = {run.folder.path.parent.name: (run.folder.path / "output.txt").read_text() for run in study.runs()[:2]}
    went_on = [name for name, text in notes.items() if "going on at epoch 3" in text]
    assert len(went_on) == (1 if disk == "shared" else 0)  # without a shared disk its checkpoints are lost with it
