"""What the tests here share: the modules beside them, a cache of their own, a server, and a run in two processes."""

import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from alexnet_lab.training import trainer

sys.path.insert(0, str(Path(__file__).parent))


NEEDS_A_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=NEEDS_A_GPU)])
def device(request):
    """Run a test on the processor and, where there is one, on a GPU; `pytest -k cuda` selects the latter."""
    return request.param


@pytest.fixture
def quick(device, monkeypatch):
    """The quick recipe on a device; a GPU repeats to the bit where it is asked to, and reports every step."""
    from quick_runs import QUICK

    monkeypatch.setitem(trainer.STEPS_BETWEEN_READS, "cuda", 1)
    return replace(QUICK, device=device, deterministic=device == "cuda")


@pytest.fixture
def small(device, quick):
    """The small recipe on a device, as `quick` is the quick one."""
    from quick_runs import SMALL

    return replace(SMALL, device=device, deterministic=quick.deterministic)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory):
    """Give the folder of a run that nothing disturbed, trained once for each recipe; nobody may change it."""
    from quick_runs import run_in

    folders = {}

    def run(recipe):
        if recipe not in folders:
            path = tmp_path_factory.mktemp("undisturbed") / "run"
            assert run_in(path, recipe) == 0
            folders[recipe] = path
        return folders[recipe]

    return run


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


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ALEXNET_LAB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def server():
    from published_server import Server

    running = Server()
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield running
    running.shutdown()
    thread.join()
    running.server_close()
