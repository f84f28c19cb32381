"""ResNet18: two 3x3 convolutions per block, and a shortcut around them.

* stem, stage1 to stage4 of block1 and block2, average, classifier
* a block is `first`, `second`, `shortcut` (if the shape changes), `add`, `act`
* 20 convolutions, counted in the order of computation; the shortcut of a block comes after the two that it bypasses

Source: He, Zhang, Ren, Sun, arXiv 1512.03385, sections 3.3 and 4.1 (shortcuts of option B); initial values as in
torchvision's published model. Shapes: N batch, C channels, H W pixels.
"""

import re
from collections import OrderedDict
from collections.abc import Iterator
from itertools import count

from torch import Tensor, nn

from alexnet_lab.networks.initialisation import TORCH_DEFAULT, Start, initialise, kaiming_fan_out, resolve_init
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

STAGE_CHANNELS = (64, 128, 256, 512)
BLOCKS_PER_STAGE = 2


class ResidualBlock(nn.Module):
    """Two convolutions, whose output is added to their input; the last activation follows the sum."""

    def __init__(
        self,
        layers: Iterator[int],
        in_channels: int,
        out_channels: int,
        stride: int,
        *,
        norm: NormSlot,
        act: ActivationLevel,
    ) -> None:
        super().__init__()
        self.first = ConvUnit(next(layers), in_channels, out_channels, 3, stride, norm=norm, act=act)
        self.second = ConvUnit(next(layers), out_channels, out_channels, 3, norm=norm, act=False)
        self.shortcut: ConvUnit | None = None
        if stride != 1:  # the shape changes, so the shortcut is a convolution with the same stride
            self.shortcut = ConvUnit(next(layers), in_channels, out_channels, 1, stride, norm=norm, act=False)
        self.add = Add()
        self.act = build_activation(act, "relu")

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C', H/stride, W/stride)."""
        residual = self.second(self.first(x))
        shortcut = x if self.shortcut is None else self.shortcut(x)
        out: Tensor = self.act(self.add(shortcut, residual))
        return out


class ResNet18(nn.Sequential):
    """ResNet18 with any level in any slot.

    >>> ResNet18(10, norm="gn", act="leaky", image_size=64, width=0.5)

    A slot left at None is as published: bn before relu, no dropout. Dropout, if not 0, precedes the
    classifier. `init` is "published", "he" or "torch"; `seed` names the initial values, None takes torch.manual_seed's.
    """

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
        check_sizes("resnet18", num_classes=num_classes, in_channels=in_channels, width=width, image_size=image_size)
        slot = NormSlot.of(norm, "bn")
        layers = count(1)
        stages = [max(1, round(channels * width)) for channels in STAGE_CHANNELS]

        pool = nn.MaxPool2d(3, stride=2, padding=1)
        self.stem = ConvUnit(next(layers), in_channels, stages[0], 7, 2, norm=slot, act=act, pool=pool)
        before = stages[0]
        for stage, channels in enumerate(stages, 1):
            blocks: OrderedDict[str, nn.Module] = OrderedDict()
            for block in range(1, BLOCKS_PER_STAGE + 1):
                stride = 2 if block == 1 and stage > 1 else 1
                blocks[f"block{block}"] = ResidualBlock(layers, before, channels, stride, norm=slot, act=act)
                before = channels
            self.add_module(f"stage{stage}", nn.Sequential(blocks))
        slot.check_layers(next(layers) - 1)

        self.average = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        if dropout:
            self.drop = Dropout(dropout)
        self.classifier = nn.Linear(before, num_classes)
        self.image_size = image_size
        initialise(self, resolve_init(init, _published_start), seed)


def _published_start(layer: str) -> Start:
    return TORCH_DEFAULT if layer == "classifier" else Start(kaiming_fan_out)


def torchvision_names(network: nn.Module) -> Iterator[tuple[str, str]]:
    """Yield pairs of module names, ours and torchvision's."""
    yield from unit_names("stem", "conv1", "bn1")
    for name, module in network.named_modules():
        if isinstance(module, ResidualBlock):
            stage, block = map(int, re.findall(r"\d+", name))
            theirs = f"layer{stage}.{block - 1}"
            yield from unit_names(f"{name}.first", f"{theirs}.conv1", f"{theirs}.bn1")
            yield from unit_names(f"{name}.second", f"{theirs}.conv2", f"{theirs}.bn2")
            yield from unit_names(f"{name}.shortcut", f"{theirs}.downsample.0", f"{theirs}.downsample.1")
    yield "classifier", "fc"
