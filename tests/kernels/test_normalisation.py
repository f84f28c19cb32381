"""local_response_norm against a loop anyone can check by eye."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from alexnet_kernels import local_response_norm


def loop(x, size, alpha, beta, k, window, groups):
    y, channels = np.empty_like(x), x.shape[1]
    tower = channels // groups
    for c in range(channels):
        first, last = c - c % tower, c - c % tower + tower
        near = x[:, max(first, c - size // 2) : min(last, c + (size - 1) // 2 + 1)]
        y[:, c] = x[:, c] / (k + alpha / (size if window == "mean" else 1) * (near**2).sum(1)) ** beta
    return y


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 13])
@pytest.mark.parametrize("window", ["mean", "sum"])
@pytest.mark.parametrize("groups", [1, 2])
def test_equals_a_float64_loop(size, window, groups):
    x = np.random.default_rng(0).normal(scale=30, size=(2, 8, 3, 4))
    y = local_response_norm(torch.from_numpy(x), size, 1e-2, 0.75, 2.0, window=window, groups=groups)
    np.testing.assert_allclose(y.numpy(), loop(x, size, 1e-2, 0.75, 2.0, window, groups), rtol=1e-13)


@pytest.mark.parametrize("size", [3, 4, 5])
@pytest.mark.parametrize("shape", [(2, 7, 5), (2, 7, 5, 6), (1, 7, 2, 3, 4)])
def test_agrees_with_torch(size, shape):
    x = torch.randn(shape, dtype=torch.float64)
    torch.testing.assert_close(local_response_norm(x, size), F.local_response_norm(x, size))
