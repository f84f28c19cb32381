"""Local response normalisation on a CPU: eager torch, without a compiler, near the speed of memory.

- Blocks of the input pass through a few MB of scratch, with `out=` in every operation: the scratch stays in the caches,
  and only the result is allocated.
- Each group of channels lies between pad rows, so a window of n is log2(n) additions of shifted flat memory. In the
  squares' scratch the pads hold k/n, so the sum of n rows is z = k + scale * energy.
- z ** -0.75 is r / r ** -0.5 with r = z ** -0.5. torch.pow has a vector path for just that exponent, measured at twice
  the speed of torch.rsqrt, three times that of torch.sqrt and ten times that of any other power.
- The backward pass is a closed form of x and the gradient, so only x is kept:
  u = g z^-beta, w = u x / z, dx = u - 2 scale beta x * (mirrored window sum of w).

Shapes: a block is (outer, channels of one group, inner). Channels-first memory is (N*groups, C/groups, pixels),
channels-last memory is (N*pixels*groups, C/groups, 1): the same code serves both.
"""

from collections.abc import Callable, Iterator
from functools import cached_property

import torch
from torch import Tensor

from alexnet_kernels._cpu_pool import Pooling
from alexnet_kernels._geometry import memory_order, pooled_outputs, window_reach

# Elements in a block, about one AlexNet sample. Smaller blocks cost more in call overhead than the cache saves.
BLOCK = 3 * 2**17


class Scratch:
    """Buffers for one shape of block, and the additions that make window sums in them."""

    def __init__(self, shape: torch.Size, size: int, dtype: torch.dtype) -> None:
        outer, channels, inner = shape
        self.shape = shape
        self.dtype = torch.promote_types(dtype, torch.float32)
        self.front, self.back = window_reach(size, channels)
        self.length = self.front + self.back + 1
        self.gap = max(self.front, self.back)  # pad rows after a group, which are also the front pad of the next group
        self.total = (outer * (channels + self.gap) + self.gap) * inner
        # Sums are valid up to here: no whole window starts in the last rows.
        self.valid = self.total - (self.length - 1) * inner
        self.pool = tuple(torch.empty(self.total, dtype=self.dtype) for _ in range(3))

    def block(self) -> Tensor:
        return torch.empty(self.shape, dtype=self.dtype)

    def padded(self, pad: float) -> tuple[Tensor, Tensor]:
        """Return a flat buffer whose pads hold `pad`, and a view of its rows between the pads as a block."""
        flat = torch.full((self.total,), pad, dtype=self.dtype)
        return flat, self.rows(flat, self.gap)

    def rows(self, flat: Tensor, first: int) -> Tensor:
        """Return a view of a flat buffer as a block that starts at row `first`."""
        _, channels, inner = self.shape
        return flat.as_strided(self.shape, ((channels + self.gap) * inner, inner, 1), first * inner)

    def summing(self, source: Tensor) -> tuple[Tensor, Callable[[], None]]:
        """Return where the sums of `length` consecutive rows of `source` will be, and the function that computes them.

        Sums of 2, 4, 8, ... rows come by doubling, and are added by the binary digits of the length: 5 = 4 + 1 takes
        three additions.
        """
        inner = self.shape[2]
        additions: list[tuple[Tensor, Tensor, Tensor]] = []
        power, width = source, 1  # sums of `width` rows
        joined, covered = source, 0  # sums of `covered` rows

        def add(a: Tensor, b: Tensor, shift: int, out: Tensor, rows: int) -> Tensor:
            end = self.total - (rows - 1) * inner
            additions.append((a[:end], b[shift * inner : shift * inner + end], out[:end]))
            return out

        def free() -> Tensor:
            return next(buffer for buffer in self.pool if buffer is not power and buffer is not joined)

        while True:
            if self.length & width:
                if covered:
                    joined = add(joined, power, covered, free() if joined is source else joined, covered + width)
                else:
                    joined = power
                covered += width
            if 2 * width > self.length:
                break
            power = add(power, power, width, free(), 2 * width)
            width *= 2

        def run() -> None:
            for a, b, out in additions:
                torch.add(a, b, out=out)

        return joined, run

    def others(self, in_use: Tensor) -> list[Tensor]:
        """Return two buffers that are not `in_use`."""
        return [buffer for buffer in self.pool if buffer is not in_use][:2]


def inverse_power(z: Tensor, beta: float, out: Tensor, spare: Tensor) -> None:
    """Write z ** -beta."""
    if beta == 0.75:
        torch.pow(z, -0.5, out=out)
        torch.pow(out, -0.5, out=spare)  # z ** 0.25; for z = inf this order gives 0 / inf = 0, as the definition does
        torch.div(out, spare, out=out)
    elif beta == 1.0:
        torch.reciprocal(z, out=out)
    else:
        torch.pow(z, -beta, out=out)


class Normalising:
    """Normalisation of blocks of one shape, with its scratch: set up once, run for every block of that shape."""

    def __init__(
        self, shape: torch.Size, dtype: torch.dtype, size: int, scale: float, beta: float, k: float, relu: bool
    ) -> None:
        self.scale, self.beta, self.relu = scale, beta, relu
        self.scratch = scratch = Scratch(shape, size, dtype)
        self.wide = scratch.dtype
        self.offset = torch.tensor(k / scratch.length, dtype=self.wide)
        flat, self.squares = scratch.padded(k / scratch.length)
        z, self.sum_squares = scratch.summing(flat)
        power, spare = scratch.others(z)
        self.z, self.power, self.spare = (buffer[: scratch.valid] for buffer in (z, power, spare))
        self.z_rows = scratch.rows(z, scratch.gap - scratch.front)
        self.power_rows = scratch.rows(power, scratch.gap - scratch.front)
        self.taken = scratch.block() if relu or dtype != self.wide else None
        self.given = scratch.block() if dtype != self.wide else None

    def take(self, x: Tensor) -> Tensor:
        """Return x in float32 or wider, rectified if `relu`, and leave its z and z ** -beta in scratch."""
        if self.taken is not None:
            if self.relu and x.dtype == self.wide:
                torch.clamp_min(x, 0, out=self.taken)
            else:
                self.taken.copy_(x)
                if self.relu:
                    self.taken.clamp_min_(0)
            x = self.taken
        torch.addcmul(self.offset, x, x, value=self.scale, out=self.squares)
        self.sum_squares()
        inverse_power(self.z, self.beta, self.power, self.spare)
        return x

    def forward(self, x: Tensor, y: Tensor) -> None:
        x = self.take(x)
        if self.given is None:
            torch.mul(x, self.power_rows, out=y)
        else:
            y.copy_(torch.mul(x, self.power_rows, out=self.given))

    @cached_property
    def mirrored(self) -> tuple[Tensor, Tensor, Callable[[], None]]:
        """Scratch of the backward pass: the buffer of w, where its window sums will be, and what computes them.

        The window of the gradient is the mirror image of the forward window.
        """
        flat, weighted = self.scratch.padded(0.0)
        sums, run = self.scratch.summing(flat)
        return weighted, self.scratch.rows(sums, self.scratch.gap - self.scratch.back), run

    def backward(self, gradient: Tensor, x: Tensor, out: Tensor) -> None:
        h = self.take(x)
        weighted, sums, sum_weighted = self.mirrored
        u = out if self.given is None else self.given
        if gradient.dtype == self.wide:
            torch.mul(gradient, self.power_rows, out=u)
        else:
            u.copy_(gradient).mul_(self.power_rows)
        torch.mul(u, h, out=weighted)
        weighted.div_(self.z_rows)
        sum_weighted()  # overwrites z, which is no longer needed
        u.addcmul_(h, sums, value=-2 * self.scale * self.beta)
        if self.relu:
            torch.ops.aten.threshold_backward.grad_input(u, h, 0, grad_input=u)
        if u is not out:
            out.copy_(u)


class Blockwise:
    """Normalisation with its numbers fixed, over tensors of any extent, a block at a time."""

    def __init__(self, size: int, scale: float, beta: float, k: float, relu: bool) -> None:
        self.size, self.scale, self.beta, self.k, self.relu = size, scale, beta, k, relu
        self.by_shape: dict[torch.Size, Normalising] = {}

    def forward(self, x: Tensor, y: Tensor) -> None:
        for x_block, y_block in zip(blocks(x), blocks(y), strict=True):
            self._for(x_block).forward(x_block, y_block)

    def backward(self, gradient: Tensor, x: Tensor, out: Tensor) -> None:
        for g_block, x_block, out_block in zip(blocks(gradient), blocks(x), blocks(out), strict=True):
            self._for(x_block).backward(g_block, x_block, out_block)

    def _for(self, block: Tensor) -> Normalising:
        if block.shape not in self.by_shape:
            self.by_shape[block.shape] = Normalising(
                block.shape, block.dtype, self.size, self.scale, self.beta, self.k, self.relu
            )
        return self.by_shape[block.shape]


def blocks(rows: Tensor) -> Iterator[Tensor]:
    """Split (outer, channels, inner) into blocks that fit the cache, each with all channels."""
    outer, channels, inner = rows.shape
    if channels * inner > 2 * BLOCK:
        pieces = -(-channels * inner // BLOCK)
        for row in range(outer):
            yield from torch.split(rows[row : row + 1], -(-inner // pieces), 2)
    else:
        yield from torch.split(rows, max(1, BLOCK // (channels * inner)))


def as_rows(x: Tensor, groups: int, order: str) -> Tensor:
    """Return (N, C, *) as (outer, C/groups, inner): a view wherever the strides allow one."""
    if order == "channels_last":
        return x.movedim(1, -1).reshape(-1, x.shape[1] // groups, 1)
    return x.reshape(x.shape[0] * groups, x.shape[1] // groups, -1)


def lrn(x: Tensor, size: int, scale: float, beta: float, k: float, groups: int, relu: bool) -> Tensor:
    """Return x, rectified if `relu`, over z ** beta, in the layout of x."""
    y = torch.empty_like(x)
    if not x.numel():
        return y
    order = memory_order(y)
    if order == "other":  # a dense layout of its own, such as a transposed one
        return y.copy_(lrn(x.contiguous(), size, scale, beta, k, groups, relu))
    Blockwise(size, scale, beta, k, relu).forward(as_rows(x, groups, order), as_rows(y, groups, order))
    return y


def lrn_backward(
    gradient: Tensor, x: Tensor, size: int, scale: float, beta: float, k: float, groups: int, relu: bool
) -> Tensor:
    """Return the gradient with respect to x, in the layout of x."""
    out = torch.empty_like(x)
    if not x.numel():
        return out
    order = memory_order(out)
    if order == "other":
        return out.copy_(lrn_backward(gradient, x.contiguous(), size, scale, beta, k, groups, relu))
    rows = [as_rows(tensor, groups, order) for tensor in (gradient, x, out)]
    Blockwise(size, scale, beta, k, relu).backward(*rows)
    return out


def relu_lrn_maxpool(
    x: Tensor, size: int, scale: float, beta: float, k: float, groups: int, pool: int, stride: int, keep_winners: bool
) -> tuple[Tensor, Tensor]:
    """Return the pooled output and, if kept, the place of each maximum in its window (else an empty tensor).

    A few samples at a time, so that the normalised image is in scratch only.
    """
    y, winners = pooled_outputs(x, pool, stride, keep_winners)
    if not y.numel():
        return y, winners
    order, x = _readable(x)
    normalise = Blockwise(size, scale, beta, k, True)
    for some, hidden, pooling in _pieces(x, order, pool, stride):
        normalise.forward(as_rows(x[some], groups, order), as_rows(hidden, groups, order))
        pooling.forward(_as_one(hidden), _as_one(y[some]), _as_one(winners[some]) if keep_winners else None)
    return y, winners


def relu_lrn_maxpool_backward(
    gradient: Tensor,
    x: Tensor,
    winners: Tensor,
    size: int,
    scale: float,
    beta: float,
    k: float,
    groups: int,
    pool: int,
    stride: int,
) -> Tensor:
    """Return the gradient with respect to x, in the layout of x; the unpooled gradient is in scratch only."""
    out = torch.empty_like(x)
    if not gradient.numel():
        return out.zero_()
    order, x = _readable(x)
    dense = out if memory_order(out) == order else torch.empty_like(x)
    normalise = Blockwise(size, scale, beta, k, True)
    for some, hidden, pooling in _pieces(x, order, pool, stride):
        pooling.backward(_as_one(gradient[some]), _as_one(winners[some]), _as_one(hidden))
        normalise.backward(*(as_rows(tensor, groups, order) for tensor in (hidden, x[some], dense[some])))
    return out if dense is out else out.copy_(dense)


def _pieces(x: Tensor, order: str, pool: int, stride: int) -> Iterator[tuple[slice, Tensor, Pooling]]:
    """Split the batch into pieces of about half a block, and yield each with scratch of its shape and its pooling.

    One sample of AlexNet makes a piece. Small samples are taken together, to save calls.
    """
    at_once = 1 if order == "channels_last" else max(1, BLOCK // (2 * x[0].numel()))
    hidden = torch.empty_like(x[:at_once])
    pooling = Pooling(_as_one(hidden), pool, stride, order)
    for first in range(0, len(x), at_once):
        some = slice(first, first + at_once)
        count = len(x[some])
        if count < len(hidden):  # the last piece
            hidden = hidden[:count]
            pooling = Pooling(_as_one(hidden), pool, stride, order)
        yield some, hidden, pooling


def _as_one(samples: Tensor) -> Tensor:
    """Return several samples as one with all their channels, which pooling treats alike."""
    # Outputs were allocated here and are contiguous, so this is a view of them; inputs may be copied.
    return samples if len(samples) == 1 else samples.reshape(1, -1, *samples.shape[2:])


def _readable(x: Tensor) -> tuple[str, Tensor]:
    """Return the layout, one of the two that as_rows can view, and x in it."""
    order = memory_order(x)
    return ("channels_first", x.contiguous()) if order == "other" else (order, x)
