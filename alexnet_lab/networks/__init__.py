"""Networks built from the same slots: AlexNet in six readings, ResNet18, VGG11 and three MobileNets.

>>> from alexnet_lab.networks import AlexNet, build_network
>>> AlexNet(10, preset="source2012", norm="bn")
>>> build_network("resnet18", num_classes=3, act="leaky")
"""

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from alexnet_lab.choices import unknown_choice
from alexnet_lab.networks.alexnet import AlexNet
from alexnet_lab.networks.mobilenet import MobileNetV2, MobileNetV3Large, MobileNetV3Small
from alexnet_lab.networks.pretrained import from_torchvision_state_dict, load_pretrained, to_torchvision_state_dict
from alexnet_lab.networks.resnet import ResNet18
from alexnet_lab.networks.vgg import VGG11

__all__ = [
    "AlexNet",
    "build_network",
    "from_torchvision_state_dict",
    "load_pretrained",
    "to_torchvision_state_dict",
]

BUILDERS: Mapping[str, Callable[..., nn.Module]] = {
    "alexnet": AlexNet,
    "resnet18": ResNet18,
    "vgg11": VGG11,
    "mobilenet_v2": MobileNetV2,
    "mobilenet_v3_small": MobileNetV3Small,
    "mobilenet_v3_large": MobileNetV3Large,
}


def build_network(name: str, num_classes: int = 1000, **slots: Any) -> nn.Module:
    """Build any network by name; slots: norm, act, dropout, width, image_size, in_channels, init, seed, preset."""
    if name not in BUILDERS:
        raise unknown_choice("network", name, BUILDERS)
    if slots.get("preset") is not None and name != "alexnet":
        raise ValueError(f"only alexnet has presets; {name} was given preset {slots['preset']!r}: leave it out")
    # None means as published throughout, so that a caller may pass on what nobody chose.
    return BUILDERS[name](num_classes, **{key: value for key, value in slots.items() if value is not None})
