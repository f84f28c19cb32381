"""Max-pooling one sample on a CPU, forward and backward.

torch pools channels-last memory many channels at a time, and channels-first memory value by value, ten to twenty times
slower. So a channels-first sample is transposed, pooled, and transposed back. Ties and NaN are torch's own.

A winner is kept as its place in the window, row * pool + column, in one byte; torch's indices count in the flat image.
Converting takes a division by a constant, done as a product and a shift, which is several times faster than a table.
"""

import torch
from torch import Tensor

from alexnet_kernels._geometry import pooled_length

BITS = 26  # a product of at most 2^30: exact for windows of 16 in images up to millions of pixels wide


class Pooling:
    """Pooling of samples shaped like `sample` (1 C H W), with the scratch it needs: it allocates nothing later."""

    def __init__(self, sample: Tensor, pool: int, stride: int, order: str) -> None:
        _, channels, height, self.width = sample.shape
        self.window = ([pool, pool], [stride, stride], [0, 0], [1, 1], False)
        self.pool = pool
        rows, columns = (pooled_length(length, pool, stride) for length in (height, self.width))
        self.last = order == "channels_last"
        self.image = (1, height, self.width, channels)
        self.transposed = None if self.last else torch.empty(height * self.width, channels, dtype=sample.dtype)
        # Where each window begins in the flat image.
        corners = torch.arange(rows)[:, None] * stride * self.width + torch.arange(columns) * stride
        self.corners = corners.int()
        pooled = (rows, columns, channels)
        self.maxima = torch.empty(pooled, dtype=sample.dtype)
        self.flat, self.places, self.lines, self.bytes = (
            torch.empty(pooled, dtype=dtype) for dtype in (torch.int64, torch.int32, torch.int32, torch.uint8)
        )

    def forward(self, sample: Tensor, y: Tensor, winners: Tensor | None) -> None:
        """Write the maxima, and each one's place in its window where wanted."""
        if self.transposed is not None:
            self.transposed.copy_(sample.flatten(2)[0].t())
            sample = self.transposed.view(self.image).permute(0, 3, 1, 2)
        outputs = {"out": _as_sample(self.maxima), "indices": _as_sample(self.flat)}
        torch.ops.aten.max_pool2d_with_indices.out(sample, *self.window, **outputs)
        _write(self.maxima, y)
        if winners is None:
            return
        places = self.places.copy_(self.flat).sub_(self.corners[:, :, None])
        places.sub_(_divided(places, self.width, out=self.lines), alpha=self.width - self.pool)
        _write(self.bytes.copy_(places), winners)

    def backward(self, gradient: Tensor, winners: Tensor, out: Tensor) -> None:
        """Write the gradient of the unpooled sample."""
        shape, corners = winners[0].shape, self.corners
        if self.last:
            winners, shape, corners = winners.permute(0, 2, 3, 1), self.places.shape, corners[:, :, None]
        places = self.places.view(shape).copy_(winners[0])
        lines = _divided(places, self.pool, out=self.lines.view(shape))
        flat = self.flat.view(shape).copy_(places.add_(lines, alpha=self.width - self.pool).add_(corners))
        indices = _as_sample(flat) if self.last else flat[None]
        torch.ops.aten.max_pool2d_with_indices_backward.grad_input(gradient, out, *self.window, indices, grad_input=out)


def _as_sample(values: Tensor) -> Tensor:
    """See H W C as 1 C H W."""
    return values.permute(2, 0, 1)[None]


def _divided(numbers: Tensor, by: int, out: Tensor) -> Tensor:
    """Write the whole part of numbers / by."""
    return torch.mul(numbers, -(-(2**BITS) // by), out=out).bitwise_right_shift_(BITS)


def _write(values: Tensor, into: Tensor) -> None:
    """Copy H W C into 1 C H W of either layout."""
    if into.is_contiguous():  # as one flat transposition, which torch does in blocks
        into.flatten(2)[0].copy_(values.flatten(0, 1).t())
    else:
        into.copy_(_as_sample(values))
