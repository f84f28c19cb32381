"""VGG11: eight 3x3 convolutions, five pools, three fully connected layers.

* layer1 to layer8 (conv, act and, in layers 1, 2, 4, 6 and 8, pool), average, classifier
* no norm as published; norm="bn" is torchvision's vgg11_bn, whose convolutions keep a bias in front of the norm

Source: Simonyan, Zisserman, arXiv 1409.1556, table 1, column A (A-LRN is norm="lrn:layers=1"); initial values and the
average to 7x7 as in torchvision's published model. Shapes: N batch, C channels, H W pixels.
"""

from collections import OrderedDict
from collections.abc import Iterator

from torch import nn

from alexnet_lab.networks.initialisation import Start, gaussian, initialise, kaiming_fan_out, resolve_init
from alexnet_lab.networks.parts import AdaptiveAvgPool2d, Dropout
from alexnet_lab.networks.slots import (
    ActivationLevel,
    ConvUnit,
    NormLevel,
    NormSlot,
    build_activation,
    check_sizes,
    unit_names,
)

CHANNELS = (64, 128, 256, 256, 512, 512, 512, 512)
POOLED_LAYERS = (1, 2, 4, 6, 8)
SMALLEST_IMAGE = 2 ** len(POOLED_LAYERS)
FINAL_SIDE = 7  # of the maps that the classifier takes, for images of any size


class VGG11(nn.Sequential):
    """VGG11 with any level in any slot.

    >>> VGG11(10, norm="bn", dropout=0.3, image_size=64, width=0.25)

    A slot left at None is as published: no norm, relu, dropout .5 after both hidden layers of the classifier. `init`
    is "published", "he" or "torch"; `seed` names the initial values, None takes torch.manual_seed's.
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
        check_sizes(
            "vgg11",
            num_classes=num_classes,
            in_channels=in_channels,
            width=width,
            image_size=image_size,
            smallest_image=SMALLEST_IMAGE,
        )
        slot = NormSlot.of(norm, "none")
        slot.check_layers(len(CHANNELS))

        before = in_channels
        for layer, published in enumerate(CHANNELS, 1):
            channels = max(1, round(published * width))
            pool = nn.MaxPool2d(2, stride=2) if layer in POOLED_LAYERS else None
            self.add_module(
                f"layer{layer}",
                # vgg11_bn's files have a bias before the norm too, although it has no effect.
                ConvUnit(layer, before, channels, 3, norm=slot, act=act, bias=True, pool=pool),
            )
            before = channels
        self.average = AdaptiveAvgPool2d(FINAL_SIDE)
        self.flatten = nn.Flatten()
        hidden = max(1, round(4096 * width))
        self.classifier = _classifier(
            before * FINAL_SIDE**2, hidden, num_classes, act, 0.5 if dropout is None else dropout
        )
        self.image_size = image_size
        initialise(self, resolve_init(init, _published_start), seed)


def _classifier(inputs: int, hidden: int, num_classes: int, act: ActivationLevel, dropout: float) -> nn.Sequential:
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    for number in (1, 2):
        parts[f"hidden{number}"] = nn.Linear(inputs, hidden)
        parts[f"act{number}"] = build_activation(act, "relu")
        if dropout:
            parts[f"drop{number}"] = Dropout(dropout)
        inputs = hidden
    parts["output"] = nn.Linear(hidden, num_classes)
    return nn.Sequential(parts)


def _published_start(layer: str) -> Start:
    return Start(gaussian(0.01)) if layer.startswith("classifier") else Start(kaiming_fan_out)


def torchvision_names(network: nn.Module) -> Iterator[tuple[str, str]]:
    """Yield pairs of module names, ours and torchvision's."""
    # Their index counts every module: convolution, batch norm if the network has it, activation, and pools.
    modules_per_layer = 3 if any(isinstance(module, nn.BatchNorm2d) for module in network.modules()) else 2
    index = 0
    for layer in range(1, len(CHANNELS) + 1):
        yield from unit_names(f"layer{layer}", f"features.{index}", f"features.{index + 1}")
        index += modules_per_layer + (layer in POOLED_LAYERS)
    for name, position in (("hidden1", 0), ("hidden2", 3), ("output", 6)):
        yield f"classifier.{name}", f"classifier.{position}"
