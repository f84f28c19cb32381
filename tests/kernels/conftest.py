"""Every kernel test runs in deterministic mode, where torch.empty hands out NaN (255 for bytes).

What a kernel forgets to write shows as NaN instead of as a lucky zero, and what is not deterministic is an error.
"""

import pytest
import torch


@pytest.fixture(autouse=True)
def poisoned_memory():
    torch.manual_seed(0)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(False)
