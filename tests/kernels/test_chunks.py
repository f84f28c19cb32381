"""Many channels: a kernel that works on a chunk of them at a time must show no seam, in whatever chunks they come."""

import pytest
import torch
import torch.nn.functional as F

from alexnet_kernels import local_response_norm, relu_lrn_maxpool

# Equal chunks, unequal ones, several to a group, windows as wide as two chunks, even windows.
CHANNELS = [(40, 1, 5), (67, 1, 5), (96, 2, 5), (100, 1, 4), (35, 1, 15), (70, 2, 2), (33, 1, 16), (64, 1, 3)]
NUMBERS = {"alpha": 1e-2, "beta": 0.75, "k": 2.0, "window": "sum"}


def in_float64(x, size, groups):
    """Normalise by the formula, group by group, with torch's own padding and pooling of squares."""
    parts = []
    for part in x.double().chunk(groups, 1):
        squares = F.pad(part.square().movedim(1, -1), (size // 2, (size - 1) // 2))
        parts.append(part / (2.0 + 1e-2 * squares.unfold(-1, size, 1).sum(-1).movedim(-1, 1)) ** 0.75)
    return torch.cat(parts, 1)


@pytest.mark.parametrize(("channels", "groups", "size"), CHANNELS)
def test_normalised_channels_have_no_seam(device, backend, channels, groups, size):
    x = (torch.randn(2, channels, 5, 3) * 10).to(device).requires_grad_()
    truth = x.detach().double().requires_grad_()
    want = in_float64(truth, size, groups)
    y = local_response_norm(x, size, **NUMBERS, groups=groups, backend=backend)
    gradient = torch.randn(want.shape, dtype=torch.float64).to(device)
    want.backward(gradient)
    y.backward(gradient.float())
    torch.testing.assert_close(y.double(), want, rtol=2e-6, atol=1e-6)
    torch.testing.assert_close(x.grad.double(), truth.grad, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("pool", [(3, 2), (2, 2), (3, 1), (2, 3)], ids=str)
@pytest.mark.parametrize(("channels", "groups", "size"), CHANNELS[1:4])
def test_pooled_channels_have_no_seam(device, backend, channels, groups, size, pool):
    x = (torch.randn(2, channels, 5, 7) * 10).to(device).requires_grad_()
    truth = x.detach().double().requires_grad_()
    want = F.max_pool2d(in_float64(F.relu(truth), size, groups), *pool)
    y = relu_lrn_maxpool(x, size, **NUMBERS, groups=groups, pool=pool[0], stride=pool[1], backend=backend)
    gradient = torch.randn(want.shape, dtype=torch.float64).to(device)
    want.backward(gradient)
    y.backward(gradient.float())
    torch.testing.assert_close(y.double(), want, rtol=2e-6, atol=1e-6)
    torch.testing.assert_close(x.grad.double(), truth.grad, rtol=2e-5, atol=2e-6)
