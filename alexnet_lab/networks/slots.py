"""The slots of a network, which are normalisation, activation and dropout, and the modules that levels build.

All networks have the same slots. A norm's entry in alexnet_lab/levels.py says which convolutions it follows, and on
which side of their activation, unless the level's text does.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from alexnet_lab.levels import ACTIVATIONS, NORMS, Entry, Level, Norm, parse_level
from alexnet_lab.networks.catalogue import resolve
from alexnet_lab.networks.parts import LocalResponseNorm, PartSequence

NormLevel = str | Level | Callable[[int], nn.Module] | None  # None: as published
ActivationLevel = str | Level | Callable[[], nn.Module] | None


def group_norm(channels: int, groups: int | None = None, eps: float = 1e-5) -> nn.Module:
    """Build a GroupNorm of 32 groups, or of the largest smaller number that divides the channels."""
    if groups is None:
        groups = next(g for g in range(min(32, channels), 0, -1) if channels % g == 0)
    elif channels % groups:
        fits = [g for g in range(1, channels + 1) if channels % g == 0]
        raise ValueError(f"gn:groups={groups} does not divide a layer of {channels} channels; these numbers do: {fits}")
    return nn.GroupNorm(groups, channels, eps=eps)


def lrn(channels: int, groups: int = 1, **constants: Any) -> nn.Module:
    """Build a LocalResponseNorm; raise ValueError if the groups do not divide the channels."""
    if channels % groups:
        raise ValueError(f"lrn:groups={groups} does not divide a layer of {channels} channels")
    return LocalResponseNorm(groups=groups, **constants)


def build_level(entry: Entry, level: Level, *channels: int) -> nn.Module:
    """Build the module of a level; the channels are those of a norm."""
    arguments = {entry.arguments[name].keyword or name: value for name, value in level.arguments}
    module: nn.Module = resolve(entry.constructor)(*channels, **arguments)
    return module


@dataclass(frozen=True)
class NormSlot:
    """A norm and its position: which convolutions it follows, and on which side of the activation."""

    level: Level
    entry: Norm
    is_published: bool  # the network's own norm, with any arguments

    @classmethod
    def of(cls, level: NormLevel, published: str) -> "NormSlot":
        """Read a level; arguments that it leaves out are those of the published level of the same name."""
        original = parse_level("norm", published)
        if level is None:
            return cls(original, NORMS[original.name], True)
        if callable(level):
            return cls(Level("own"), Norm(level), False)
        chosen = level if isinstance(level, Level) else parse_level("norm", level)
        if chosen.name != original.name:
            return cls(chosen, NORMS[chosen.name], False)
        merged = Level(
            chosen.name,
            tuple({**dict(original.arguments), **dict(chosen.arguments)}.items()),
            chosen.placement or original.placement,
            chosen.layers or original.layers,
        )
        return cls(merged, NORMS[merged.name], True)

    @property
    def placement(self) -> str:
        """The placement that the level names, or the default of the norm."""
        return self.level.placement or self.entry.placement

    def stands_at(self, layer: int) -> bool:
        """Return whether the norm follows convolution number `layer`, counted from 1."""
        layers = self.entry.layers if self.level.layers is None else self.level.layers
        return layers == "all" or layer in layers

    def check_layers(self, count: int) -> None:
        """Raise ValueError if the level names a layer that the network does not have."""
        if isinstance(self.level.layers, tuple) and not set(self.level.layers) <= set(range(1, count + 1)):
            raise ValueError(f"norm level {str(self.level)!r}: the network's convolutions are numbered 1 to {count}")

    def has_bias_at(self, layer: int) -> bool:
        """Return whether a norm with a bias follows the convolution directly, so that it needs none."""
        return self.stands_at(layer) and self.entry.has_bias and self.placement == "before"

    def build(self, channels: int) -> nn.Module:
        """Build the norm for that many channels."""
        return build_level(self.entry, self.level, channels)


def build_activation(level: ActivationLevel, published: str) -> nn.Module:
    """Build one activation: `level`, or the published one if it is None."""
    if callable(level):
        return level()
    parsed = level if isinstance(level, Level) else parse_level("act", level or published)
    return build_level(ACTIVATIONS[parsed.name], parsed)


class ConvUnit(PartSequence):
    """A convolution with its norm, activation and pool (conv, norm, act, pool), ordered by the placement of the norm.

    `layer` is the convolution's number in the network, from 1. act=False leaves the unit linear, as before the sum of a
    residual block. If `bias` is None, the convolution has a bias unless a norm with one follows it. A norm placed
    "pooled" follows the activation if the unit has no pool.
    """

    def __init__(
        self,
        layer: int,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        groups: int = 1,
        *,
        norm: NormSlot,
        act: ActivationLevel | bool = None,
        published_act: str = "relu",
        bias: bool | None = None,
        pool: nn.Module | None = None,
    ) -> None:
        super().__init__()
        padding = (kernel_size - 1) // 2
        bias = not norm.has_bias_at(layer) if bias is None else bias
        place = norm.placement if norm.stands_at(layer) else None
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, groups=groups, bias=bias)
        if place == "before" or (place and isinstance(act, bool)):
            self.norm = norm.build(out_channels)
        if not isinstance(act, bool):
            self.act = build_activation(act, published_act)
            if place == "after" or (place == "pooled" and pool is None):
                self.norm = norm.build(out_channels)
        if pool is not None:
            self.pool = pool
            if place == "pooled" and not isinstance(act, bool):
                self.norm = norm.build(out_channels)


def unit_names(unit: str, conv: str, norm: str) -> Iterator[tuple[str, str]]:
    """Yield pairs of module names for one ConvUnit: ours, and those of another library's convolution and norm."""
    yield f"{unit}.conv", conv
    yield f"{unit}.norm", norm


def check_sizes(
    network: str, *, num_classes: int, in_channels: int, width: float, image_size: int, smallest_image: int = 1
) -> None:
    """Raise ValueError for a network without classes, channels or width, or an image too small for its strides."""
    for what, value in (("num_classes", num_classes), ("in_channels", in_channels)):
        if value < 1:
            raise ValueError(f"{what} must be at least 1, got {value}")
    if not width > 0:
        raise ValueError(f"width must be above 0, got {width}")
    if image_size < smallest_image:
        raise ValueError(
            f"image size {image_size} is too small for {network}: its strides leave no pixel; "
            f"the smallest that works is {smallest_image}"
        )
