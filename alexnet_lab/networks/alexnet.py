"""AlexNet, by one of six presets.

* one sequence of named modules: conv1 norm1 act1 pool1 ... conv5 act5 pool5 fc6 ... fc8
* a preset is data (presets.py): channels, towers, order of the parts, LRN convention, initial values, dropout
* every slot (norm, activation, dropout) takes any level with any preset
* two towers are grouped convolutions: the arithmetic of two GPUs on one device

Shapes: N batch, C channels, H W pixels.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator

import torch.nn.functional as F
from torch import Tensor, nn

from alexnet_lab.choices import unknown_choice
from alexnet_lab.networks.initialisation import TORCH_DEFAULT, Start, gaussian, initialise, resolve_init
from alexnet_lab.networks.parts import AdaptiveAvgPool2d, Dropout, PartSequence, WithinMapNorm
from alexnet_lab.networks.presets import PRESETS, Preset
from alexnet_lab.networks.slots import ActivationLevel, NormLevel, NormSlot, build_activation, check_sizes

POOLED_LAYERS = (1, 2, 5)
KERNELS = (11, 5, 3, 3, 3)
PADDINGS = (None, 2, 1, 1, 1)  # conv1's is the preset's


class PadToStride(nn.Module):
    """Pad with zeros on the right and bottom, so that the last window of a strided convolution ends on a pixel."""

    def __init__(self, kernel_size: int, stride: int) -> None:
        super().__init__()
        self.kernel_size, self.stride = kernel_size, stride

    def forward(self, x: Tensor) -> Tensor:
        """Pad (N, C, H, W) in H and W; return x itself if nothing is missing."""
        height, width = ((self.kernel_size - side) % self.stride for side in x.shape[-2:])
        return F.pad(x, (0, width, 0, height)) if height or width else x

    def extra_repr(self) -> str:
        """Show the window of the convolution."""
        return f"kernel_size={self.kernel_size}, stride={self.stride}"


class AlexNet(PartSequence):
    """AlexNet by a preset, with any level in any slot.

    >>> AlexNet(10, preset="paper", norm="bn", act="leaky:0.1", dropout=0.3)
    >>> AlexNet(10, preset="review", image_size=67, width=0.25, init="he")

    A slot that is None is the preset's. `norm` and `act` also take a constructor: channels -> module, and () -> module.
    `init` is "published" (the preset's), "he" or "torch". `seed` names the initial values; None takes the seed of
    torch.manual_seed.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        *,
        preset: str = "paper",
        norm: NormLevel = None,
        act: ActivationLevel = None,
        dropout: float | None = None,
        width: float = 1.0,
        image_size: int = 227,
        in_channels: int = 3,
        init: str = "published",
        seed: int | None = None,
    ) -> None:
        if preset not in PRESETS:
            raise unknown_choice("AlexNet preset", preset, PRESETS)
        plan = PRESETS[preset]
        check_sizes("AlexNet", num_classes=num_classes, in_channels=in_channels, width=width, image_size=image_size)
        channels = _scaled_channels(plan, preset, width)
        hidden = max(1, round(4096 * width))
        side = _check_image_size(plan, preset, image_size)
        slot = NormSlot.of(norm, plan.norm)
        slot.check_layers(5)

        parts: OrderedDict[str, nn.Module] = OrderedDict()
        if plan.rounding == "2012":
            parts["pad"] = PadToStride(11, 4)
        for layer in range(1, 6):
            before = in_channels if layer == 1 else channels[layer - 2]
            conv = nn.Conv2d(
                before,
                channels[layer - 1],
                KERNELS[layer - 1],
                stride=4 if layer == 1 else 1,
                padding=plan.conv1_padding if layer == 1 else PADDINGS[layer - 1] or 0,
                groups=plan.groups[layer - 1],
            )
            parts.update(_conv_layer(layer, conv, plan, slot, act))
        if plan.adaptive_pool:
            parts["pool"] = AdaptiveAvgPool2d(6)
        parts["flatten"] = nn.Flatten()
        inputs = channels[4] * side * side
        for layer, outputs in ((6, hidden), (7, hidden), (8, num_classes)):
            linear = nn.Linear(inputs, outputs)
            parts.update(_full_layer(layer, linear, plan, act, 0.5 if dropout is None else dropout))
            inputs = outputs
        super().__init__(parts)
        self.preset_name, self.image_size = preset, image_size
        initialise(self, resolve_init(init, published_start(plan)), seed)

    def __getitem__(self, index: int | slice) -> nn.Module:
        """Return one module, or a plain nn.Sequential of several: network[:-1] computes the input of fc8."""
        if isinstance(index, slice):
            return nn.Sequential(OrderedDict(list(self.named_children())[index]))
        return super().__getitem__(index)


def published_start(plan: Preset) -> Callable[[str], Start]:
    """Return the rule for the initial values of a preset, by layer name."""
    init = plan.init
    if init is None:
        return lambda _layer: TORCH_DEFAULT
    early, late, full = gaussian(init.conv), gaussian(init.conv3to5), gaussian(init.fc)
    starts = {
        "conv1": Start(early),
        "conv2": Start(early, init.bias),
        "conv3": Start(late),
        "conv4": Start(late, init.bias),
        "conv5": Start(late, init.bias),
        "fc6": Start(full, init.bias),
        "fc7": Start(full, init.bias),
        "fc8": Start(gaussian(0.01)),
    }
    return starts.__getitem__


def torchvision_names(_network: nn.Module) -> Iterator[tuple[str, str]]:
    """Yield pairs of module names, ours and torchvision's."""
    for layer, index in enumerate((0, 3, 6, 8, 10), 1):
        yield f"conv{layer}", f"features.{index}"
    for layer, index in enumerate((1, 4, 6), 6):
        yield f"fc{layer}", f"classifier.{index}"


def _conv_layer(
    layer: int, conv: nn.Conv2d, plan: Preset, slot: NormSlot, act: ActivationLevel
) -> "OrderedDict[str, nn.Module]":
    """Return one convolution and the parts after it, in the order of the preset and the norm's placement."""
    parts: list[tuple[str, nn.Module]] = [("conv", conv), ("act", build_activation(act, "relu"))]
    if layer in POOLED_LAYERS:
        pool = nn.MaxPool2d(3, stride=2, ceil_mode=plan.rounding != "down")
        parts.insert(1 if layer in plan.act_after_pool else 2, ("pool", pool))
    if slot.stands_at(layer):
        as_published = slot.is_published and slot.level.placement is None
        place = "before" if as_published and layer in plan.norm_before_act else slot.placement
        names = [name for name, _ in parts]
        if place == "before":
            at = 1
        elif place == "after":
            at = names.index("act") + 1
        else:
            at = len(parts)
        parts.insert(at, ("norm", slot.build(conv.out_channels)))
        if slot.is_published and layer == plan.within_map_norm:
            parts.insert(at + 1, ("map_norm", WithinMapNorm()))
    return OrderedDict((f"{name}{layer}", part) for name, part in parts)


def _full_layer(
    layer: int, linear: nn.Linear, plan: Preset, act: ActivationLevel, p: float
) -> "OrderedDict[str, nn.Module]":
    """Return one fully connected layer with its activation and dropout; fc8 has neither."""
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    if layer == 8:
        parts["fc8"] = linear
        return parts
    drop = Dropout(p, inverted=plan.dropout_inverted)  # also checks the range of p
    if p and plan.dropout_on == "inputs":
        parts[f"drop{layer}"] = drop
    parts[f"fc{layer}"] = linear
    parts[f"act{layer}"] = build_activation(act, "relu")
    if p and plan.dropout_on == "outputs":
        parts[f"drop{layer}"] = drop
    return parts


def _scaled_channels(plan: Preset, preset: str, width: float) -> list[int]:
    def at(scale: float) -> list[int]:
        return [max(1, round(c * scale)) for c in plan.channels]

    def towers_fit(scale: float) -> bool:
        outputs = at(scale)
        inputs = [3, *outputs[:-1]]
        return all(g == 1 or (i % g == 0 and o % g == 0) for i, o, g in zip(inputs, outputs, plan.groups, strict=True))

    if not towers_fit(width):
        # Among sixteenths, of which many keep all layers even, suggest the nearest that fits.
        near = min((s / 16 for s in range(1, 65) if towers_fit(s / 16)), key=lambda s: abs(s - width))
        one_tower = ", ".join(name for name, plan in PRESETS.items() if max(plan.groups) == 1)
        raise ValueError(
            f"preset {preset!r} has two towers in conv2, 4 and 5, which needs even numbers of channels, and width "
            f"{width:g} gives {at(width)}; take width {near:g}, or a preset with one tower ({one_tower})"
        )
    return at(width)


def _final_side(plan: Preset, side: int) -> int:
    """Return the side of the maps after pool5 for an input of that side; 0 if no pixel is left."""

    def windows(size: int, kernel: int, stride: int, *, up: bool, overhang: bool = False) -> int:
        if size < kernel and not overhang:
            return 0
        # Rounding up and rounding down differ by what is added before the division.
        return max(0, (size - kernel + (stride - 1 if up else 0)) // stride + 1)

    side = windows(side + 2 * plan.conv1_padding, 11, 4, up=plan.rounding == "2012")
    for _ in POOLED_LAYERS:
        # Caffe pools a map smaller than the window; the 2012 code refuses it.
        side = windows(side, 3, 2, up=plan.rounding != "down", overhang=plan.rounding == "caffe")
    return side


def _check_image_size(plan: Preset, preset: str, image_size: int) -> int:
    side = _final_side(plan, image_size)
    if side < 1:
        smallest = next(size for size in range(1, 228) if _final_side(plan, size) >= 1)
        raise ValueError(
            f"image size {image_size} is too small for preset {preset!r}: no pixel is left after pool5; "
            f"the smallest that works is {smallest}"
        )
    return 6 if plan.adaptive_pool else side
