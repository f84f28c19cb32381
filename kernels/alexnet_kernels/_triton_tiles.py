"""Triton kernels for channels-last memory: a tile holds some pixels with all their channels.

The channels of a pixel are contiguous, so loads are wide. Neighbours in the window come from the tile by `tl.gather`,
not from memory again.
"""

# mypy: ignore-errors
# ruff: noqa: N803
# Jitted functions are Triton's own language in Python's syntax: its values have no Python types, its compile-time
# constants are written in capitals, and it knows no starred tuple.

import triton
import triton.language as tl

from alexnet_kernels._triton_rolling import both, gathered, inverse_powers, unpooled, widened, windows_of


@triton.jit
def load_wide(pointer, mask, WIDE: tl.constexpr, RELU: tl.constexpr):
    """Load values in the dtype of the computation, rectified if RELU."""
    return widened(tl.load(pointer, mask=mask, other=0.0), WIDE, RELU)


@triton.jit
def shifted_sum(values, channel, channels, BEFORE: tl.constexpr, AFTER: tl.constexpr, GROUPS: tl.constexpr):
    """Sum each value with its neighbours along the channels, inside its group."""
    group_channels = channels // GROUPS
    group = channel // group_channels
    last: tl.constexpr = values.shape[1] - 1
    total = values
    for i in tl.static_range(BEFORE + AFTER + 1):
        if i != BEFORE:
            other = channel + (i - BEFORE)
            near = (other >= group * group_channels) & (other < (group + 1) * group_channels)
            index = tl.minimum(tl.maximum(other, 0), last)
            neighbour = tl.gather(values, tl.broadcast_to(index, values.shape), 1)
            total += tl.where(near, neighbour, 0.0)
    return total


@triton.jit(do_not_specialize=["total"])  # another batch is the same kernel
def tile_forward(
    x_ptr,
    y_ptr,
    total,
    channels,
    FRONT: tl.constexpr,
    BACK: tl.constexpr,
    SCALE: tl.constexpr,
    BETA: tl.constexpr,
    K: tl.constexpr,
    GROUPS: tl.constexpr,
    RELU: tl.constexpr,
    WIDE: tl.constexpr,
    PIXELS: tl.constexpr,
    WIDTH: tl.constexpr,  # channels, up to a power of two
):
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)[:, None]
    channel = tl.arange(0, WIDTH)[None, :]
    inside = (pixel < total) & (channel < channels)
    at = pixel.to(tl.int64) * channels + channel
    x = load_wide(x_ptr + at, inside, WIDE, RELU)
    z = K + SCALE * shifted_sum(x * x, channel, channels, FRONT, BACK, GROUPS)
    tl.store(y_ptr + at, (x * inverse_powers(z, BETA)[0]).to(y_ptr.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["total"])  # another batch is the same kernel
def tile_backward(
    g_ptr,
    x_ptr,
    winners_ptr,
    dx_ptr,
    total,
    channels,
    pixels,
    width,
    pooled_height,
    pooled_width,
    FRONT: tl.constexpr,
    BACK: tl.constexpr,
    SCALE: tl.constexpr,
    BETA: tl.constexpr,
    K: tl.constexpr,
    GROUPS: tl.constexpr,
    RELU: tl.constexpr,
    WIDE: tl.constexpr,
    POOL: tl.constexpr,
    STRIDE: tl.constexpr,
    PIXELS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)[:, None]
    channel = tl.arange(0, WIDTH)[None, :]
    inside = (pixel < total) & (channel < channels)
    at = pixel.to(tl.int64) * channels + channel
    x = load_wide(x_ptr + at, inside, WIDE, RELU)
    z = K + SCALE * shifted_sum(x * x, channel, channels, FRONT, BACK, GROUPS)
    if POOL == 0:
        windows = ()
        gradients = gathered(g_ptr + at, winners_ptr, windows, inside, False, POOL)
    else:
        sample = pixel // pixels
        place = pixel - sample * pixels
        base = sample.to(tl.int64) * pooled_height * pooled_width * channels + channel
        windows = windows_of(
            place // width, place % width, pixel < total, channels, pooled_height, pooled_width, POOL, STRIDE
        )
        gradients = gathered(g_ptr + base, winners_ptr + base, windows, inside, False, POOL)
    p, inverse = inverse_powers(z, BETA)
    u = unpooled(gradients, windows, WIDE, POOL) * p
    # The window of the gradient is the mirror image. Lanes beyond the channels hold zeros, even where z is zero.
    weighted = tl.where(inside, u * (x * inverse), 0.0)
    value = u - (2.0 * SCALE * BETA) * x * shifted_sum(weighted, channel, channels, BACK, FRONT, GROUPS)
    if RELU:
        value = tl.where(x <= 0.0, 0.0, value)
    tl.store(dx_ptr + at, value.to(dx_ptr.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["total"])  # another batch is the same kernel
def tile_pool_forward(
    x_ptr,
    y_ptr,
    winners_ptr,
    total,
    channels,
    pixels,
    width,
    pooled_height,
    pooled_width,
    FRONT: tl.constexpr,
    BACK: tl.constexpr,
    SCALE: tl.constexpr,
    BETA: tl.constexpr,
    K: tl.constexpr,
    GROUPS: tl.constexpr,
    WIDE: tl.constexpr,
    POOL: tl.constexpr,
    STRIDE: tl.constexpr,
    KEEP: tl.constexpr,
    PIXELS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)[:, None]
    channel = tl.arange(0, WIDTH)[None, :]
    inside = (pixel < total) & (channel < channels)
    sample = pixel // (pooled_height * pooled_width)
    place = pixel - sample * pooled_height * pooled_width
    corner = (place // pooled_width) * STRIDE * width + (place % pooled_width) * STRIDE
    best = tl.zeros([PIXELS, WIDTH], WIDE)
    winner = tl.zeros([PIXELS, WIDTH], tl.int32)
    base = (sample.to(tl.int64) * pixels + corner) * channels + channel
    loaded = tl.load(x_ptr + base, mask=inside, other=0.0)
    for tap in range(POOL * POOL):  # a loop at run time: unrolled, nine tiles would fill the registers
        x = widened(loaded, WIDE, True)
        ahead = tap + 1  # the next place is loaded before this one is used
        next_place = (ahead // POOL) * width + ahead % POOL
        loaded = tl.load(x_ptr + base + next_place * channels, mask=both(inside, ahead < POOL * POOL), other=0.0)
        z = K + SCALE * shifted_sum(x * x, channel, channels, FRONT, BACK, GROUPS)
        value = (x * inverse_powers(z, BETA)[0]).to(y_ptr.dtype.element_ty).to(WIDE)
        better = (value > best) | (value != value) | (tap == 0)  # noqa: PLR0124  (true for NaN alone)
        best = tl.where(better, value, best)
        winner = tl.where(better, tap, winner)
    at = pixel.to(tl.int64) * channels + channel
    tl.store(y_ptr + at, best.to(y_ptr.dtype.element_ty), mask=inside)
    if KEEP:
        tl.store(winners_ptr + at, winner.to(tl.uint8), mask=inside)
