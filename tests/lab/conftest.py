"""What the tests here share: the modules beside them, and a run in two processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def run_in_two_processes():
    """Give what runs a recipe in a folder as torchrun starts it, by two processes."""

    def run(recipe, path):
        path.mkdir()
        (path / "recipe.json").write_text(recipe.to_json())
        command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
        done = subprocess.run(
            [sys.executable, *command, "alexnet_lab.training.run", str(path)],
            check=False,
            capture_output=True,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert done.returncode == 0, done.stderr

    return run
