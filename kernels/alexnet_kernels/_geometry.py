"""Windows, memory layouts and pool sizes: shared by all backends."""

from typing import Literal

import torch
from torch import Tensor


def window_reach(size: int, group_channels: int) -> tuple[int, int]:
    """Return how many channels before and after its own a window of `size` covers, inside one group.

    An even window reaches one channel further back than forward, as torch's own does. The reach is cut at
    the group's ends, so a huge size costs no more than the whole group.
    """
    furthest = max(0, group_channels - 1)
    return min(size // 2, furthest), min((size - 1) // 2, furthest)


def check_strided(name: str, x: Tensor) -> None:
    """Refuse sparse and nested tensors, which have no strides, before anything asks for their shape."""
    if x.is_nested or x.layout is not torch.strided:
        kind = "a nested tensor" if x.is_nested else f"layout {x.layout}"
        raise TypeError(f"{name} needs a dense tensor with strides, got {kind}; convert it first, as x.to_dense() does")


def memory_order(x: Tensor) -> Literal["channels_first", "channels_last", "other"]:
    """Return which of the two dense layouts that the kernels read x has; where both hold, channels first.

    Tensors of fewer than three dimensions are contiguous or "other".
    """
    if x.is_contiguous():
        return "channels_first"
    if x.dim() > 2 and x.movedim(1, -1).is_contiguous():
        return "channels_last"
    return "other"


def pooled_length(length: int, pool: int, stride: int) -> int:
    """Return how many windows fit without padding; a last partial one is dropped, as max_pool2d does."""
    return (length - pool) // stride + 1


def pooled_layout(x: Tensor) -> torch.memory_format:
    """Return the memory format of what is pooled from x: channels last if x has that layout, else contiguous."""
    return torch.channels_last if memory_order(x) == "channels_last" else torch.contiguous_format


def pooled_outputs(x: Tensor, pool: int, stride: int, keep_winners: bool) -> tuple[Tensor, Tensor]:
    """Allocate the pooled output and the winners in the layout of x; winners that are not kept are an empty tensor."""
    batch, channels, height, width = x.shape
    shape = (batch, channels, pooled_length(height, pool, stride), pooled_length(width, pool, stride))
    layout = pooled_layout(x)
    y = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=layout)
    if not keep_winners:
        return y, torch.empty(0, dtype=torch.uint8, device=x.device)
    return y, torch.empty(shape, dtype=torch.uint8, device=x.device, memory_format=layout)
