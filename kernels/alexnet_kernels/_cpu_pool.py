"""Max-pooling one sample on a CPU, and sending gradients back to the winners.

torch's own pooling visits one value at a time in channels-first memory. There a window is pooled along its rows, then
along its columns, a whole image per operation, which is about ten times faster. Scanning rows first and letting only a
strictly greater value win keeps torch's answer to ties: the first in reading order.

A winner is its place in the window, row * pool + column, in one byte.
"""

import torch
from torch import Tensor

from alexnet_kernels._geometry import pooled_length


class Pooling:
    """Pooling of samples shaped like `sample` (1 C H W), with the scratch it needs."""

    def __init__(self, sample: Tensor, pool: int, stride: int, order: str) -> None:
        _, channels, self.height, self.width = sample.shape
        self.pool, self.stride = pool, stride
        self.rows, self.columns = (pooled_length(length, pool, stride) for length in (self.height, self.width))
        # Scratch lies as the sample does in memory, seen as C H W.
        self.last = order == "channels_last"
        self.across = self._scratch(channels, self.height, sample.dtype)
        self.across_best = self._scratch(channels, self.height, torch.uint8)
        self.better = self._scratch(channels, self.height, torch.bool)
        self.place = self._scratch(channels, self.height, torch.uint8)

        # For each place in a window, how far it lies from the window's first value in the flat image.
        places = torch.arange(pool * pool)
        self.steps = places // pool * self.width + places % pool
        self.places = torch.zeros((pool - 1) * (self.width + 1) + 1, dtype=torch.uint8)
        self.places[self.steps] = places.to(torch.uint8)
        corner = torch.arange(self.rows)[:, None] * stride * self.width + torch.arange(self.columns) * stride
        self.corners = self._as_in_memory(corner.expand(channels, -1, -1))

    def _scratch(self, channels: int, height: int, dtype: torch.dtype) -> Tensor:
        if self.last:
            return torch.empty(height, self.columns, channels, dtype=dtype).permute(2, 0, 1)
        return torch.empty(channels, height, self.columns, dtype=dtype)

    def _as_in_memory(self, values: Tensor) -> Tensor:
        """See C H W in the order it has in memory."""
        return values.permute(1, 2, 0) if self.last else values

    def forward(self, sample: Tensor, y: Tensor, winners: Tensor | None) -> None:
        """Write the maxima, and each one's place in its window where wanted."""
        if self.last and winners is not None:
            # In channels-last memory torch's own pooling takes many channels at once, and gives the indices with it.
            self._by_torch(sample, y, winners)
            return
        columns = [
            sample[0, :, :, j : j + (self.columns - 1) * self.stride + 1 : self.stride] for j in range(self.pool)
        ]
        span = (self.rows - 1) * self.stride + 1
        row_slices = [slice(i, i + span, self.stride) for i in range(self.pool)]
        self._scan(columns, self.across, None if winners is None else self.across_best, step=1, places=None)
        self._scan(
            [self.across[:, rows] for rows in row_slices],
            y[0],
            None if winners is None else winners[0],
            step=self.pool,
            places=[self.across_best[:, rows] for rows in row_slices],
        )
        # A NaN is neither greater nor smaller, so the scan lost track of it; a sum that is no number is a cheap sign.
        if winners is not None and not y.sum(dtype=torch.float32).isfinite():
            self._by_torch(sample, y, winners)

    def _by_torch(self, sample: Tensor, y: Tensor, winners: Tensor) -> None:
        pooled, flat = torch.nn.functional.max_pool2d(sample, self.pool, self.stride, return_indices=True)
        y.copy_(pooled)
        offset = self._as_in_memory(flat[0]) - self.corners
        self._as_in_memory(winners[0]).copy_(self.places.take(offset))

    def _scan(
        self, values: list[Tensor], best: Tensor, winner: Tensor | None, step: int, places: list[Tensor] | None
    ) -> None:
        """Take the maximum of `values`; the winner is the number of the first greatest times step, plus its place."""
        best.copy_(values[0])
        if winner is not None:
            winner.copy_(places[0]) if places else winner.zero_()
        better, place = (self.better[:, : best.shape[1]], self.place[:, : best.shape[1]])
        for number, value in enumerate(values[1:], 1):
            if winner is not None:
                torch.gt(value, best, out=better)
                if places:
                    torch.add(places[number], number * step, out=place)
                    place.mul_(better.view(torch.uint8))
                else:
                    torch.mul(better.view(torch.uint8), number, out=place)
                # A later number is greater than any earlier one, so the latest that was better is the largest.
                torch.maximum(winner, place, out=winner)
            torch.maximum(best, value, out=best)

    def backward(self, gradient: Tensor, winners: Tensor, out: Tensor) -> None:
        """Write the gradient of the unpooled sample."""
        flat = self.steps.take(self._as_in_memory(winners[0]).long()).add_(self.corners)
        indices = (flat.permute(2, 0, 1) if self.last else flat)[None]
        torch.ops.aten.max_pool2d_with_indices_backward.grad_input(
            gradient,
            out,
            [self.pool, self.pool],
            [self.stride, self.stride],
            [0, 0],
            [1, 1],
            False,
            indices,
            grad_input=out,
        )
