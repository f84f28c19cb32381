"""Places where units fire or stay silent, and along which dimension of a pre-activation the units lie."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from alexnet_lab.instruments import limits
from alexnet_lab.instruments.dying_relu import UnitCounts
from alexnet_lab.instruments.flow import Site

FIRST, SECOND, LAST = 0, 1, -1  # dimension of the units: of a single input without a batch, of (N, C, *), of (N, *, C)
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclass
class WatchedSite:
    """A site, and what was counted there."""

    site: Site
    place: int  # among all sites
    axis: int
    training: UnitCounts
    probe: UnitCounts

    def why_not(self, x: Tensor) -> str | None:
        """Return the limit that keeps a tensor from being counted here, or None."""
        if not is_countable(x) or x.device != self.training.counts.device:
            return limits.TENSOR
        return None if by_unit(x, self.axis).shape[1] == self.site.units else limits.WIDTH

    def count(self, x: Tensor, probing: bool) -> None:
        """Count one batch."""
        (self.probe if probing else self.training).add(by_unit(x.detach(), self.axis))


class Units(NamedTuple):
    """Where the units of a pre-activation lie, what they are called, and what is uncertain about it."""

    axis: int
    unit: str
    limit: str | None = None


def by_unit(x: Tensor, axis: int) -> Tensor:
    """Return x as (N, C, *)."""
    if axis == FIRST or x.dim() < 2:
        return x[None] if x.dim() else x.reshape(1, 1)
    return x.movedim(-1, 1) if axis == LAST and x.dim() > 2 else x


def is_countable(x: Tensor) -> bool:
    """Say whether the kernels can count a tensor: dense, with numbers in it, and not a stand-in for another."""
    if torch.compiler.is_compiling():
        return True
    inside = torch._C._functorch
    if inside.is_functorch_wrapped_tensor(x) or inside.is_legacy_batchedtensor(x):
        return False
    if type(x).__torch_dispatch__ is not Tensor.__torch_dispatch__:
        return False
    return x.layout == torch.strided and not x.is_nested and not x.is_meta and x.numel() > 0


def units_of(x: Tensor, layer: nn.Module | None, moved: bool) -> Units:
    """Tell the units' dimension from the width of the layer that ran before.

    `moved`: dimensions were exchanged since then.
    """
    width: int | None
    if isinstance(layer, _CONVOLUTIONS):
        if x.dim() == layer.weight.dim() - 1 and x.shape[0] == layer.out_channels:
            return Units(FIRST, "channel")
        width, usual, unit = layer.out_channels, SECOND, "channel"
    else:
        width, usual, unit = _width(layer), LAST, "neuron"
    if x.dim() < 3:
        return Units(SECOND, "neuron", limits.UNITS if x.dim() == 2 and width not in (None, x.shape[1]) else None)
    fits = [axis for axis in (SECOND, LAST) if x.shape[axis] == width]
    if len(fits) == 2:
        return Units(usual, unit, limits.EITHER if moved else None)
    if fits:
        return Units(fits[0], unit if fits[0] == usual else "channel")
    return Units(SECOND, "channel", None if layer is None else limits.UNITS)


def _width(layer: nn.Module | None) -> int | None:
    """Return how many numbers a layer puts last."""
    if isinstance(layer, nn.Linear | nn.Bilinear):
        return layer.out_features
    if isinstance(layer, nn.Embedding | nn.EmbeddingBag):
        return layer.embedding_dim
    if isinstance(layer, nn.RNNBase):
        return (layer.proj_size or layer.hidden_size) * (2 if layer.bidirectional else 1)
    if isinstance(layer, nn.RNNCellBase):
        return layer.hidden_size
    return layer.embed_dim if isinstance(layer, nn.MultiheadAttention) else None


def new_site(described: Site, place: int, axis: int, device: torch.device) -> WatchedSite:
    """Begin to count at a site, from nothing."""
    with torch.inference_mode(False):  # counters outlive the pass that they begin in
        counts = (UnitCounts(described.units, device), UnitCounts(described.units, device))
    return WatchedSite(described, place, axis, *counts)
