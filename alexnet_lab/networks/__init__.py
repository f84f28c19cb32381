"""Networks with the same slots: AlexNet by six presets, ResNet18, VGG11 and three MobileNets.

>>> from alexnet_lab.networks import AlexNet, build_network
>>> AlexNet(10, preset="source2012", norm="bn")
>>> build_network("resnet18", num_classes=3, act="leaky")
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from alexnet_lab.networks.catalogue import find_entry, networks_with_presets, resolve

if TYPE_CHECKING:
    from torch import nn

    from alexnet_lab.networks.alexnet import AlexNet
    from alexnet_lab.networks.pretrained import from_torchvision_state_dict, load_pretrained, to_torchvision_state_dict

__all__ = [
    "AlexNet",
    "build_network",
    "from_torchvision_state_dict",
    "load_pretrained",
    "to_torchvision_state_dict",
]

# Imported when asked for: the catalogue is read by code that must start without torch, such as `--help`.
_MODULES = {
    "AlexNet": "alexnet_lab.networks.alexnet",
    "from_torchvision_state_dict": "alexnet_lab.networks.pretrained",
    "load_pretrained": "alexnet_lab.networks.pretrained",
    "to_torchvision_state_dict": "alexnet_lab.networks.pretrained",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def build_network(name: str, num_classes: int = 1000, **slots: Any) -> "nn.Module":
    """Build a network of the catalogue by name.

    `slots` are norm, act, dropout, width, image_size, in_channels, init, seed and, for networks that have them, preset;
    None in a slot is the published level. Raises ValueError for an unknown name or level, with the nearest known one.
    """
    entry = find_entry(name)
    if slots.get("preset") is not None and not entry.presets:
        raise ValueError(
            f"only {', '.join(networks_with_presets())} has presets; {name} was given preset {slots['preset']!r}: "
            "leave it out"
        )
    network: nn.Module = resolve(entry.constructor)(
        num_classes, **{slot: level for slot, level in slots.items() if level is not None}
    )
    return network
