"""Max-pooling one sample on a CPU, and sending gradients back to the winners.

torch pools channels-last memory many channels at a time, and channels-first memory value by value, ten to twenty times
slower. So a channels-first sample is turned on its side, pooled, and turned back. Ties and NaN are torch's own.

A winner is its place in the window, row * pool + column, in one byte. torch's indices count in the flat image; between
the two stands division by a constant, as a product and a shift: tables and comparisons take several times as long.
"""

import torch
from torch import Tensor

from alexnet_kernels._geometry import pooled_length

BITS = 26  # a product of at most 2^30: windows of 16 in images up to millions of pixels wide are told exactly


class Pooling:
    """Pooling of samples shaped like `sample` (1 C H W), with the scratch it needs."""

    def __init__(self, sample: Tensor, pool: int, stride: int, order: str) -> None:
        _, channels, height, self.width = sample.shape
        self.pool, self.stride = pool, stride
        rows, columns = (pooled_length(length, pool, stride) for length in (height, self.width))
        self.last = order == "channels_last"
        self.turned = None if self.last else torch.empty(height * self.width, channels, dtype=sample.dtype)
        self.image = (1, height, self.width, channels)
        pooled = (rows, columns, channels) if self.last else (channels, rows, columns)
        # Where each window begins in the flat image, and scratch for indices: both lie as pooled samples do in memory.
        corners = torch.arange(rows)[:, None] * stride * self.width + torch.arange(columns) * stride
        self.corners_last = corners.int()[:, :, None]
        self.corners = self.corners_last if self.last else corners.int()
        self.steps, self.lines = (torch.empty(pooled, dtype=torch.int32) for _ in range(2))

    def forward(self, sample: Tensor, y: Tensor, winners: Tensor | None) -> None:
        """Write the maxima, and each one's place in its window where wanted."""
        if self.turned is not None:
            self.turned.copy_(sample.flatten(2)[0].t())
            sample = self.turned.view(self.image).permute(0, 3, 1, 2)
        pooled, flat = torch.nn.functional.max_pool2d(sample, self.pool, self.stride, return_indices=True)
        _write(pooled, y)
        if winners is None:
            return
        steps = flat[0].permute(1, 2, 0).int().sub_(self.corners_last)
        lines = _divided(steps, self.width, out=torch.empty_like(steps))
        places = steps.sub_(lines, alpha=self.width - self.pool)
        _write(places.to(torch.uint8).permute(2, 0, 1)[None], winners)

    def backward(self, gradient: Tensor, winners: Tensor, out: Tensor) -> None:
        """Write the gradient of the unpooled sample."""
        places = self.steps.copy_(winners[0].permute(1, 2, 0) if self.last else winners[0])
        lines = _divided(places, self.pool, out=self.lines)
        flat = places.add_(lines, alpha=self.width - self.pool).add_(self.corners).long()
        torch.ops.aten.max_pool2d_with_indices_backward.grad_input(
            gradient,
            out,
            [self.pool, self.pool],
            [self.stride, self.stride],
            [0, 0],
            [1, 1],
            False,
            (flat.permute(2, 0, 1) if self.last else flat)[None],
            grad_input=out,
        )


def _divided(numbers: Tensor, by: int, out: Tensor) -> Tensor:
    """Write the whole part of numbers / by."""
    return torch.mul(numbers, -(-(2**BITS) // by), out=out).bitwise_right_shift_(BITS)


def _write(values: Tensor, into: Tensor) -> None:
    """Copy (1 C H W) that lies channels-last into a tensor of either layout."""
    if into.is_contiguous():  # as one flat transposition, which torch does in blocks
        into.flatten(2)[0].copy_(values.permute(0, 2, 3, 1).reshape(-1, values.shape[1]).t())
    else:
        into.copy_(values)
