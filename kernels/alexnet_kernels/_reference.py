"""The reference, in plain torch operations: slow and simple, and differentiable any number of times.

The derivatives are here in closed form too. With A the window sum across channels, A' its mirror image,
z = k + scale A(x²), p = z^-beta and q = p / z:

    y       = x p
    dx(g)   = g p - 2 scale beta x A'(g x q)
    ddg(v)  = v p - 2 scale beta x q A(x v)
    ddx(v)  = -2 scale beta [x A'(g v q) + g q A(x v) + v A'(g x q) - 2 scale (beta + 1) x A'(g x (q / z) A(x v))]

The last two are the derivatives of <v, dx> with respect to g and x: what double backward needs.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from alexnet_kernels._geometry import window_reach


def window_sum(values: Tensor, size: int, groups: int, *, mirrored: bool = False) -> Tensor:
    """Sum over the channel window; windows stay inside a group."""
    batch, channels = values.shape[:2]
    pixels = math.prod(values.shape[2:])  # not -1, which is ambiguous for an empty batch
    grouped = values.reshape(batch * groups, 1, channels // groups, pixels)
    front, back = window_reach(size, channels // groups)
    if mirrored:
        front, back = back, front
    padded = F.pad(grouped, (0, 0, front, back))
    total = padded.narrow(2, 0, channels // groups)
    for shift in range(1, front + back + 1):
        total = total + padded.narrow(2, shift, channels // groups)
    return total.reshape(values.shape)


def wide(x: Tensor) -> Tensor:
    """Return x in float32 or wider: float16 squares overflow from |x| = 256 on, and bfloat16 has 8 bits."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def lrn(x: Tensor, size: int, scale: float, beta: float, k: float, groups: int, relu: bool) -> Tensor:
    """Return x / (k + scale * sum of squares over the window) ** beta, with x rectified if `relu`."""
    h = wide(F.relu(x) if relu else x)
    return (h / (k + scale * window_sum(h.square(), size, groups)).pow(beta)).to(x.dtype)


def lrn_backward(
    gradient: Tensor, x: Tensor, size: int, scale: float, beta: float, k: float, groups: int, relu: bool
) -> Tensor:
    """Return the gradient with respect to x."""
    g, h = wide(gradient), wide(F.relu(x) if relu else x)
    z = k + scale * window_sum(h.square(), size, groups)
    p = z.pow(-beta)
    dx = g * p - 2 * scale * beta * h * window_sum(g * h * p / z, size, groups, mirrored=True)
    return (dx.masked_fill(x <= 0, 0) if relu else dx).to(x.dtype)


def lrn_double_backward(
    v: Tensor, gradient: Tensor, x: Tensor, size: int, scale: float, beta: float, k: float, groups: int, relu: bool
) -> tuple[Tensor, Tensor]:
    """Return the gradients of <v, lrn_backward(gradient, x)> with respect to gradient and x."""
    g, h, v = wide(gradient), wide(F.relu(x) if relu else x), wide(v)
    if relu:
        v = v.masked_fill(x <= 0, 0)
    z = k + scale * window_sum(h.square(), size, groups)
    p = z.pow(-beta)
    q = p / z
    inner = window_sum(h * v, size, groups)

    def mirror(values: Tensor) -> Tensor:
        return window_sum(values, size, groups, mirrored=True)

    ddg = v * p - 2 * scale * beta * h * q * inner
    bracket = h * mirror(g * v * q) + g * q * inner + v * mirror(g * h * q)
    bracket = bracket - 2 * scale * (beta + 1) * h * mirror(g * h * (q / z) * inner)
    ddx = -2 * scale * beta * bracket
    if relu:
        ddx = ddx.masked_fill(x <= 0, 0)
    return ddg.to(x.dtype), ddx.to(x.dtype)


def relu_lrn_maxpool(
    x: Tensor, size: int, scale: float, beta: float, k: float, groups: int, pool: int, stride: int, keep_winners: bool
) -> tuple[Tensor, Tensor]:
    """Return the pooled output and, if kept, each maximum's place in its window: row * pool + column."""
    return pooled(lrn(x, size, scale, beta, k, groups, True), pool, stride, keep_winners)


def pooled(image: Tensor, pool: int, stride: int, keep_winners: bool) -> tuple[Tensor, Tensor]:
    """Return the maxima and, if kept, each one's place in its window: row * pool + column."""
    y, flat = F.max_pool2d(image, pool, stride, return_indices=True)
    if not keep_winners:
        return y, torch.empty(0, dtype=torch.uint8, device=image.device)
    offset = flat - window_corners(y.shape, image.shape[3], stride, image.device)
    return y, (offset // image.shape[3] * pool + offset % image.shape[3]).to(torch.uint8)


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
    """Return the gradient with respect to x."""
    return lrn_backward(unpooled(gradient, x, winners, pool, stride), x, size, scale, beta, k, groups, True)


def unpooled(gradient: Tensor, image: Tensor, winners: Tensor, pool: int, stride: int) -> Tensor:
    """Return an image like `image` with each gradient added at the place that won its window."""
    flat = winner_indices(winners, image.shape[3], pool, stride).flatten(2)
    # In contiguous memory whatever the image has, so that this view of it needs no copy.
    zeros = torch.zeros_like(image, memory_format=torch.contiguous_format).flatten(2)
    return zeros.scatter_add(2, flat, gradient.flatten(2)).view(image.shape)


def window_corners(shape: torch.Size, width: int, stride: int, device: torch.device) -> Tensor:
    """Return, for every pooled place, the flat index of its window's first value in an image `width` wide."""
    rows, columns = (torch.arange(length, device=device) * stride for length in shape[2:])
    return (rows[:, None] * width + columns).expand(shape)


def winner_indices(winners: Tensor, width: int, pool: int, stride: int) -> Tensor:
    """Return the winners as flat indices into an image `width` wide, as max_pool2d gives them."""
    place = winners.long()
    return window_corners(winners.shape, width, stride, winners.device) + place // pool * width + place % pool
