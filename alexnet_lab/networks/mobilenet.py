"""MobileNetV2 and MobileNetV3: inverted residual blocks, which widen, filter each channel and narrow again.

* stem, block1 to blockN, widen (a 1x1 convolution), average, classifier
* a block is `expand` (if it widens), `depthwise`, `squeeze_excite` (in some blocks of V3), `project`, `add`
* channel numbers are multiples of 8 at any width
* convolutions are counted in the order of computation; the two 1x1 layers of a squeeze-excitation are not counted, take
  no norm and keep their own activations at every level of the slots

Sources: Sandler et al., arXiv 1801.04381, table 2; Howard et al., arXiv 1905.02244, tables 1 and 2; V3's batch norm
constants, dropout and all initial values as in torchvision's published models. Shapes: N batch, C channels, H W
pixels.
"""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import ClassVar

from torch import Tensor, nn

from alexnet_lab.networks.initialisation import Start, gaussian, initialise, kaiming_fan_out, resolve_init
from alexnet_lab.networks.parts import Add, Dropout
from alexnet_lab.networks.slots import (
    ActivationLevel,
    ConvUnit,
    NormLevel,
    NormSlot,
    build_activation,
    check_sizes,
    unit_names,
)


@dataclass(frozen=True)
class BlockPlan:
    """One inverted residual block, as a row of a published table."""

    kernel: int
    expanded: int
    out: int
    squeezes: bool
    act: str
    stride: int


class SqueezeExcite(nn.Module):
    """Scale every channel by a factor computed from the means of all channels (Hu et al., arXiv 1709.01507)."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.average = nn.AdaptiveAvgPool2d(1)
        self.squeeze = nn.Conv2d(channels, squeezed, 1)
        self.act = nn.ReLU()
        self.excite = nn.Conv2d(squeezed, channels, 1)
        self.gate = nn.Hardsigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape (N, C, H, W)."""
        gate: Tensor = self.gate(self.excite(self.act(self.squeeze(self.average(x)))))
        return x * gate


class InvertedResidual(nn.Module):
    """Widen, convolve every channel by itself, narrow without an activation; add the input if shapes agree."""

    def __init__(
        self,
        layers: Iterator[int],
        in_channels: int,
        plan: BlockPlan,
        *,
        norm: NormSlot,
        act: ActivationLevel,
    ) -> None:
        super().__init__()
        expanded = plan.expanded
        self.expand: ConvUnit | None = None
        if expanded != in_channels:
            self.expand = ConvUnit(next(layers), in_channels, expanded, 1, norm=norm, act=act, published_act=plan.act)
        self.depthwise = ConvUnit(
            next(layers),
            expanded,
            expanded,
            plan.kernel,
            plan.stride,
            expanded,
            norm=norm,
            act=act,
            published_act=plan.act,
        )
        self.squeeze_excite: SqueezeExcite | None = None
        if plan.squeezes:
            self.squeeze_excite = SqueezeExcite(expanded, multiple_of_8(expanded // 4))
        self.project = ConvUnit(next(layers), expanded, plan.out, 1, norm=norm, act=False)
        self.add = Add() if plan.stride == 1 and in_channels == plan.out else None

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C', H/stride, W/stride)."""
        residual: Tensor = x if self.expand is None else self.expand(x)
        residual = self.depthwise(residual)
        if self.squeeze_excite is not None:
            residual = self.squeeze_excite(residual)
        residual = self.project(residual)
        if self.add is not None:
            residual = self.add(x, residual)
        return residual


class MobileNetV2(nn.Sequential):
    """MobileNetV2 with any level in any slot.

    >>> MobileNetV2(10, act="leaky", image_size=64, width=0.5)

    A slot left at None is as published: bn before relu6, dropout .2 before the classifier. `init` is "published", "he"
    or "torch"; `seed` names the initial values, None takes torch.manual_seed's.
    """

    # Rows of table 2: expansion, channels, blocks, stride of the first.
    TABLE: ClassVar = (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    )

    def __init__(
        self,
        num_classes: int = 1000,
        *,
        norm: NormLevel = None,
        act: ActivationLevel = None,
        dropout: float | None = None,
        width: float = 1.0,
        image_size: int = 224,
        in_channels: int = 3,
        init: str = "published",
        seed: int | None = None,
    ) -> None:
        super().__init__()
        check_sizes(
            "mobilenet_v2", num_classes=num_classes, in_channels=in_channels, width=width, image_size=image_size
        )
        slot = _norm_slot("mobilenet_v2", norm, "bn")
        layers = count(1)
        before = multiple_of_8(32 * width)
        self.stem = ConvUnit(next(layers), in_channels, before, 3, 2, norm=slot, act=act, published_act="relu6")
        block = count(1)
        for expansion, channels, blocks, first_stride in self.TABLE:
            out = multiple_of_8(channels * width)
            for stride in (first_stride, *[1] * (blocks - 1)):
                plan = BlockPlan(3, before * expansion, out, False, "relu6", stride)
                self.add_module(f"block{next(block)}", InvertedResidual(layers, before, plan, norm=slot, act=act))
                before = out
        widened = multiple_of_8(1280 * max(1.0, width))  # a narrow network keeps the full last layer (section 5)
        self.widen = ConvUnit(next(layers), before, widened, 1, norm=slot, act=act, published_act="relu6")
        slot.check_layers(next(layers) - 1)

        self.average = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        dropout = 0.2 if dropout is None else dropout
        if dropout:
            self.drop = Dropout(dropout)
        self.classifier = nn.Linear(widened, num_classes)
        self.image_size = image_size
        initialise(self, resolve_init(init, _published_start), seed)


class MobileNetV3(nn.Sequential):
    """Base of MobileNetV3Small and MobileNetV3Large, which differ in their tables.

    A slot left at None is as published: bn with eps .001 and momentum .01, relu in the early blocks and hardswish
    elsewhere, dropout .2 before the classifier's output. `init` is "published", "he" or "torch"; `seed` names the
    initial values, None takes torch.manual_seed's.
    """

    NAME: ClassVar[str]
    TABLE: ClassVar[tuple[BlockPlan, ...]]
    HIDDEN: ClassVar[int]

    def __init__(
        self,
        num_classes: int = 1000,
        *,
        norm: NormLevel = None,
        act: ActivationLevel = None,
        dropout: float | None = None,
        width: float = 1.0,
        image_size: int = 224,
        in_channels: int = 3,
        init: str = "published",
        seed: int | None = None,
    ) -> None:
        super().__init__()
        check_sizes(self.NAME, num_classes=num_classes, in_channels=in_channels, width=width, image_size=image_size)
        slot = _norm_slot(self.NAME, norm, "bn:eps=0.001,momentum=0.01")
        layers = count(1)
        before = multiple_of_8(16 * width)
        self.stem = ConvUnit(next(layers), in_channels, before, 3, 2, norm=slot, act=act, published_act="hardswish")
        for number, row in enumerate(self.TABLE, 1):
            expanded, out = multiple_of_8(row.expanded * width), multiple_of_8(row.out * width)
            plan = BlockPlan(row.kernel, expanded, out, row.squeezes, row.act, row.stride)
            self.add_module(f"block{number}", InvertedResidual(layers, before, plan, norm=slot, act=act))
            before = out
        widened = 6 * before
        self.widen = ConvUnit(next(layers), before, widened, 1, norm=slot, act=act, published_act="hardswish")
        slot.check_layers(next(layers) - 1)

        self.average = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        hidden = multiple_of_8(self.HIDDEN * width)
        parts: OrderedDict[str, nn.Module] = OrderedDict()
        parts["hidden"] = nn.Linear(widened, hidden)
        parts["act"] = build_activation(act, "hardswish")
        dropout = 0.2 if dropout is None else dropout
        if dropout:
            parts["drop"] = Dropout(dropout)
        parts["output"] = nn.Linear(hidden, num_classes)
        self.classifier = nn.Sequential(parts)
        self.image_size = image_size
        initialise(self, resolve_init(init, _published_start), seed)


class MobileNetV3Small(MobileNetV3):
    """MobileNetV3-Small with any level in any slot.

    >>> MobileNetV3Small(10, norm="gn", image_size=64)
    """

    NAME = "mobilenet_v3_small"
    HIDDEN = 1024
    TABLE = (
        BlockPlan(3, 16, 16, True, "relu", 2),
        BlockPlan(3, 72, 24, False, "relu", 2),
        BlockPlan(3, 88, 24, False, "relu", 1),
        BlockPlan(5, 96, 40, True, "hardswish", 2),
        BlockPlan(5, 240, 40, True, "hardswish", 1),
        BlockPlan(5, 240, 40, True, "hardswish", 1),
        BlockPlan(5, 120, 48, True, "hardswish", 1),
        BlockPlan(5, 144, 48, True, "hardswish", 1),
        BlockPlan(5, 288, 96, True, "hardswish", 2),
        BlockPlan(5, 576, 96, True, "hardswish", 1),
        BlockPlan(5, 576, 96, True, "hardswish", 1),
    )


class MobileNetV3Large(MobileNetV3):
    """MobileNetV3-Large with any level in any slot.

    >>> MobileNetV3Large(10, dropout=0.3, width=0.75)
    """

    NAME = "mobilenet_v3_large"
    HIDDEN = 1280
    TABLE = (
        BlockPlan(3, 16, 16, False, "relu", 1),
        BlockPlan(3, 64, 24, False, "relu", 2),
        BlockPlan(3, 72, 24, False, "relu", 1),
        BlockPlan(5, 72, 40, True, "relu", 2),
        BlockPlan(5, 120, 40, True, "relu", 1),
        BlockPlan(5, 120, 40, True, "relu", 1),
        BlockPlan(3, 240, 80, False, "hardswish", 2),
        BlockPlan(3, 200, 80, False, "hardswish", 1),
        BlockPlan(3, 184, 80, False, "hardswish", 1),
        BlockPlan(3, 184, 80, False, "hardswish", 1),
        BlockPlan(3, 480, 112, True, "hardswish", 1),
        BlockPlan(3, 672, 112, True, "hardswish", 1),
        BlockPlan(5, 672, 160, True, "hardswish", 2),
        BlockPlan(5, 960, 160, True, "hardswish", 1),
        BlockPlan(5, 960, 160, True, "hardswish", 1),
    )


def multiple_of_8(channels: float) -> int:
    """Round to the nearest multiple of 8, at least 8, and up if rounding down would lose more than a tenth."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * channels else nearest


def _norm_slot(network: str, level: NormLevel, published: str) -> NormSlot:
    slot = NormSlot.of(level, published)
    if slot.placement == "pooled":
        raise ValueError(
            f"norm level {str(slot.level)!r} follows a pool, and {network} has none; "
            "place it 'before' or 'after' the activation"
        )
    return slot


def _published_start(layer: str) -> Start:
    return Start(gaussian(0.01)) if layer.startswith("classifier") else Start(kaiming_fan_out)


def torchvision_names_v2(network: nn.Module) -> Iterator[tuple[str, str]]:
    """Yield pairs of module names, ours and torchvision's, for MobileNetV2."""
    blocks = _inverted_residuals(network)
    yield from unit_names("stem", "features.0.0", "features.0.1")
    for number, (name, block) in enumerate(blocks, 1):
        activated = [part for part in ("expand", "depthwise") if getattr(block, part) is not None]
        for index, part in enumerate(activated):
            yield from unit_names(f"{name}.{part}", *(f"features.{number}.conv.{index}.{inner}" for inner in (0, 1)))
        linear = len(activated)
        yield from unit_names(f"{name}.project", *(f"features.{number}.conv.{linear + step}" for step in (0, 1)))
    yield from unit_names("widen", *(f"features.{len(blocks) + 1}.{inner}" for inner in (0, 1)))
    yield "classifier", "classifier.1"


def torchvision_names_v3(network: nn.Module) -> Iterator[tuple[str, str]]:
    """Yield pairs of module names, ours and torchvision's, for MobileNetV3."""
    blocks = _inverted_residuals(network)
    yield from unit_names("stem", "features.0.0", "features.0.1")
    for number, (name, block) in enumerate(blocks, 1):
        parts = ("expand", "depthwise", "squeeze_excite", "project")
        for index, part in enumerate(part for part in parts if getattr(block, part) is not None):
            theirs = f"features.{number}.block.{index}"
            if part == "squeeze_excite":
                yield f"{name}.{part}.squeeze", f"{theirs}.fc1"
                yield f"{name}.{part}.excite", f"{theirs}.fc2"
            else:
                yield from unit_names(f"{name}.{part}", f"{theirs}.0", f"{theirs}.1")
    yield from unit_names("widen", *(f"features.{len(blocks) + 1}.{inner}" for inner in (0, 1)))
    yield "classifier.hidden", "classifier.0"
    yield "classifier.output", "classifier.3"


def _inverted_residuals(network: nn.Module) -> list[tuple[str, nn.Module]]:
    return [(name, module) for name, module in network.named_children() if isinstance(module, InvertedResidual)]
