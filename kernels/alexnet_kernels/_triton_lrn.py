"""Local response normalisation in Triton: which kernel, on what grid."""

import contextlib
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from alexnet_kernels import _backends, _reference, _triton_tuning
from alexnet_kernels._geometry import memory_order, pooled_outputs, window_reach
from alexnet_kernels._triton_probe import COMPILED
from alexnet_kernels._triton_rolling import rolling_backward, rolling_forward, rolling_pool_forward
from alexnet_kernels._triton_tiles import tile_backward, tile_forward, tile_pool_forward
from alexnet_kernels._triton_tuning import Configuration

SHAPES = 64  # image shapes that kernels are compiled for; further ones share a kernel that computes its addresses
WIDEST_FUSED_POOL = 3  # wider pools need too many registers and run as a step of their own
MOST_WINDOWS = 2  # along each axis, that hold a pixel, in a tile: with three, nine gradients need over 255 registers
WIDEST_TILE = 512  # channels; the wider a tile, the more shuffles a neighbour takes


def numbers(
    x: Tensor, size: int, scale: float, beta: float, k: float, groups: int, relu: bool | None = None
) -> dict[str, Any]:
    """Return the constants that the kernels are compiled with."""
    front, back = window_reach(size, x.shape[1] // groups)
    constants: dict[str, Any] = {"FRONT": front, "BACK": back, "SCALE": scale, "BETA": beta, "K": k, "GROUPS": groups}
    constants["WIDE"] = tl.float64 if x.dtype == torch.float64 else tl.float32
    if relu is not None:
        constants["RELU"] = relu
    return constants


def rolling_grid(
    total: int, channels: int, groups: int, configuration: Configuration
) -> tuple[tuple[int], dict[str, Any]]:
    """Return the grid of programs, and the constants of one.

    Channels are cut into equal chunks of at most CHUNK where they can be: a full chunk needs no masks.
    """
    group_channels = channels // groups
    chunks = triton.cdiv(group_channels, configuration["CHUNK"])
    chunk = triton.cdiv(group_channels, chunks)
    extent = {**configuration, "CHUNK": chunk, "WHOLE": chunk * chunks == group_channels, **COMPILED}
    return (triton.cdiv(total, configuration["BLOCK"]) * groups * chunks,), extent


def tile_grid(total: int, channels: int, configuration: Configuration) -> tuple[tuple[int], dict[str, int]]:
    """Return the grid of programs, and the constants of one: whole pixels, as many as fill a tile."""
    width = triton.next_power_of_2(channels)
    pixels = max(1, configuration["TILE"] // width)
    extent = {"PIXELS": pixels, "WIDTH": width, "num_warps": configuration["num_warps"], **COMPILED}
    return (triton.cdiv(total, pixels),), extent


_known_shapes: set[tuple[int, ...]] = set()


def compiled_in(*extents: int) -> tuple[Any, ...]:
    """Return the extents of an image as constants of the kernel, which then computes no addresses from them.

    Each shape is compiled once, in 1 to 3 s, and cached on disk. After the first SHAPES shapes of a process, extents
    are passed as numbers and one kernel serves all further shapes.
    """
    if _backends.interpreting() or (extents not in _known_shapes and len(_known_shapes) >= SHAPES):
        return extents
    _known_shapes.add(extents)
    return tuple(tl.constexpr(extent) for extent in extents)


def _on(x: Tensor) -> contextlib.AbstractContextManager[Any]:
    return torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext()


def _read(x: Tensor) -> tuple[str, Tensor]:
    """Return the layout, one that a kernel reads, and x in it."""
    order = memory_order(x)
    if order == "other" or (order == "channels_last" and x.shape[1] > WIDEST_TILE):
        return "channels_first", x.contiguous()
    return order, x


def _kind(order: str) -> str:
    return "tile" if order == "channels_last" else "rolling"


def _like(gradient: Tensor, order: str) -> Tensor:
    """Return the gradient in a memory order."""
    if order == "channels_last":
        return gradient.movedim(1, -1).contiguous().movedim(-1, 1)
    return gradient.contiguous()


def lrn(x: Tensor, size: int, scale: float, beta: float, k: float, groups: int, relu: bool) -> Tensor:
    """Return x, rectified if `relu`, over z ** beta."""
    order, x = _read(x)
    y = torch.empty_like(x)
    if not x.numel():
        return y
    channels, total = x.shape[1], x.numel() // x.shape[1]
    constants = numbers(x, size, scale, beta, k, groups, relu)

    def launch(configuration: Configuration) -> None:
        if order == "channels_last":
            grid, extent = tile_grid(total, channels, configuration)
            tile_forward[grid](x, y, total, channels, **constants, **extent)
        else:
            grid, extent = rolling_grid(total, channels, groups, configuration)
            rolling_forward[grid](x, y, total, channels, *compiled_in(x[0, 0].numel()), **constants, **extent)

    with _on(x):
        _triton_tuning.run(f"{_kind(order)}_forward", x, constants, launch)
    return y


def lrn_backward(
    gradient: Tensor, x: Tensor, size: int, scale: float, beta: float, k: float, groups: int, relu: bool
) -> Tensor:
    """Return the gradient with respect to x."""
    constants = numbers(x, size, scale, beta, k, groups, relu)
    # Without a pool nothing reads the winners or the extent of the image.
    return _backward(gradient, x, gradient, (1, 1, 1), {**constants, "POOL": 0, "STRIDE": 1})


def _backward(
    gradient: Tensor, x: Tensor, winners: Tensor, image: tuple[int, int, int], constants: dict[str, Any]
) -> Tensor:
    order, x = _read(x)
    dx = torch.empty_like(x)
    if not x.numel():
        return dx
    channels, total = x.shape[1], x.numel() // x.shape[1]
    pointers = _like(gradient, order), x, _like(winners, order), dx
    pooled = constants["POOL"] > 0
    shape = compiled_in(x[0, 0].numel(), *image) if pooled or order != "channels_last" else (1, 1, 1, 1)  # not read

    def launch(configuration: Configuration) -> None:
        if order == "channels_last":
            grid, extent = tile_grid(total, channels, configuration)
            tile_backward[grid](*pointers, total, channels, *shape, **constants, **extent)
        else:
            grid, extent = rolling_grid(total, channels, constants["GROUPS"], configuration)
            rolling_backward[grid](*pointers, total, channels, *shape, **constants, **extent)

    with _on(x):
        _triton_tuning.run(f"{_kind(order)}_{'pool_' if pooled else ''}backward", x, constants, launch)
    return dx


def relu_lrn_maxpool(
    x: Tensor, size: int, scale: float, beta: float, k: float, groups: int, pool: int, stride: int, keep_winners: bool
) -> tuple[Tensor, Tensor]:
    """Return the pooled output and, if kept, each maximum's place in its window."""
    if pool > WIDEST_FUSED_POOL:
        normalised = lrn(x, size, scale, beta, k, groups, True)
        return _reference.pooled(normalised, pool, stride, keep_winners)
    order, x = _read(x)
    y, winners = pooled_outputs(x, pool, stride, keep_winners)
    if not y.numel():
        return y, winners
    channels, total = x.shape[1], y.numel() // y.shape[1]
    shape = compiled_in(x[0, 0].numel(), x.shape[3], y.shape[2], y.shape[3])
    constants = {**numbers(x, size, scale, beta, k, groups), "POOL": pool, "STRIDE": stride, "KEEP": keep_winners}

    def launch(configuration: Configuration) -> None:
        if order == "channels_last":
            grid, extent = tile_grid(total, channels, configuration)
            tile_pool_forward[grid](x, y, winners, total, channels, *shape, **constants, **extent)
        else:
            grid, extent = rolling_grid(total, channels, groups, configuration)
            rolling_pool_forward[grid](x, y, winners, total, channels, *shape, **constants, **extent)

    with _on(x):
        _triton_tuning.run(f"{_kind(order)}_pool_forward", x, constants, launch)
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
    """Return the gradient with respect to x."""
    if pool > WIDEST_FUSED_POOL or (-(-pool // stride) > MOST_WINDOWS and _read(x)[0] == "channels_last"):
        spread = _reference.unpooled(gradient, x, winners, pool, stride)
        return lrn_backward(spread, x, size, scale, beta, k, groups, True)
    constants = {**numbers(x, size, scale, beta, k, groups, True), "POOL": pool, "STRIDE": stride}
    return _backward(gradient, x, winners, (x.shape[3], winners.shape[2], winners.shape[3]), constants)
