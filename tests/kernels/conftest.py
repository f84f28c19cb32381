"""What every kernel test shares.

A test that takes `device` and `backend` runs on each pair this machine has. The Triton kernels are among them on a GPU,
and on any machine in Triton's interpreter: TRITON_INTERPRET=1 pytest tests/kernels (test_triton.py does so).

Tests run in deterministic mode, where torch.empty hands out NaN (255 for bytes). What a kernel does not write shows as
NaN instead of as a zero that happens to be right, and an operation that is not deterministic raises.
"""

import os

import numpy as np
import pytest
import torch
from hypothesis import Phase, settings

INTERPRETING = os.environ.get("TRITON_INTERPRET") == "1"

settings.register_profile("kernels", deadline=None, derandomize=True, max_examples=150)
# On a GPU every example compiles kernels of its own, about a second each.
settings.register_profile("gpu", settings.get_profile("kernels"), max_examples=25)
# The interpreter takes about 0.1 s for a call, and the smallest failing example would take it many minutes.
settings.register_profile("interpreter", settings.get_profile("kernels"), max_examples=12, phases=[Phase.generate])
settings.load_profile("interpreter" if INTERPRETING else "gpu" if torch.cuda.is_available() else "kernels")


def pytest_generate_tests(metafunc):
    if {"device", "backend"} <= set(metafunc.fixturenames):
        pairs = [("cpu", "reference"), ("cpu", "cpu")]
        if INTERPRETING:
            pairs.append(("cpu", "triton"))
        elif torch.cuda.is_available():
            pairs += [("cuda", "reference"), ("cuda", "triton")]
        metafunc.parametrize(("device", "backend"), pairs)


@pytest.fixture(autouse=True)
def poisoned_memory():
    torch.manual_seed(0)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    with np.errstate(all="ignore"):  # the interpreter computes in numpy, which warns of infinities; a GPU does not
        yield
    torch.use_deterministic_algorithms(False)
