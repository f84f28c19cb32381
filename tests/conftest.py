"""What all tests share."""

import gc
import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

# Tests that run side by side have a core each, and so has every process that they start. What asks for more threads
# all the same does not keep a core busy by waiting for them.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def pytest_collection_finish():
    """Let the garbage collector leave out what stays to the end: modules of libraries, and thousands of tests."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def torch_settings():
    """Give back what a run sets for its whole process."""
    import torch

    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    cudnn, products = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.allow_tf32 = cudnn
    torch.set_float32_matmul_precision(products)


@pytest.fixture
def drawn():
    """Have figures drawn, among tests that go without."""


@pytest.fixture
def undrawn(request, monkeypatch):
    """Leave figures blank, for tests of what a page says: layout and ink take most of the time of a page."""
    from alexnet_lab.reports.drawing import Drawing

    if "drawn" in request.fixturenames:
        return
    begin = Drawing.__init__

    def without_layout(drawing, **size):
        begin(drawing, **size)
        drawing.canvas.set_layout_engine("none")

    monkeypatch.setattr(Drawing, "__init__", without_layout)
    monkeypatch.setattr(Drawing, "render", lambda _drawing, _kind: b'<svg xmlns="http://www.w3.org/2000/svg"/>')
