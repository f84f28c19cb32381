"""The networks by name, one entry each. Needs no torch.

Recipes, studies, the command line and pretrained weights know networks from CATALOGUE alone. To add one, write its
module and an entry here:

    "mynet": Entry("what it is", "mypackage.mynet:MyNet", levels={"norm": "bn", "act": "relu", "dropout": 0.0})

An entry that a script assigns to CATALOGUE serves that process only. The runs of a study are processes of their own.
"""

import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from alexnet_lab.choices import unknown_choice
from alexnet_lab.networks.presets import PRESETS

Reference = str | Callable[..., Any]  # "package.module:name", or what it names


@dataclass(frozen=True)
class Variant:
    """A preset of a network: its description, and the published levels in which it differs from the entry's."""

    description: str
    levels: Mapping[str, str | float]


@dataclass(frozen=True)
class Weights:
    """Published weights: files by source name, and the slots of the network that they fit.

    The name of a file ends with the first eight hexadecimal digits of its SHA-256, which are checked after a download.
    """

    files: Mapping[str, str]
    slots: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Entry:
    """One network.

    constructor        takes the number of classes and the keywords norm, act, dropout, width, image_size, in_channels,
                       init and seed, and preset if there are presets; returns a torch module
    levels             the published norm, act and dropout, and the default preset; a slot with several published
                       levels is left out. `init` is the kind of initial values: "gaussian" of fixed spread, which
                       assumes pixels of 0 to 255; "he", which keeps the spread of the input; "torch"
    image_size         the published side, in pixels
    presets            published variants; the module names its own in `preset_name`
    weights            published weights
    torchvision_names  needed with weights: takes a network and yields pairs of module names, ours and torchvision's
    """

    description: str
    constructor: Reference
    levels: Mapping[str, str | float]
    image_size: int = 224
    presets: Mapping[str, Variant] = field(default_factory=dict)
    weights: tuple[Weights, ...] = ()
    torchvision_names: Reference = ""


CATALOGUE: dict[str, Entry] = {
    "alexnet": Entry(
        "Krizhevsky, Sutskever, Hinton 2012, in six presets",
        "alexnet_lab.networks.alexnet:AlexNet",
        levels={"preset": "paper", "norm": "lrn", "act": "relu", "dropout": 0.5},
        image_size=227,
        presets={
            name: Variant(
                preset.description,
                {"norm": preset.norm.partition(":")[0], "init": "gaussian" if preset.init else "torch"},
            )
            for name, preset in PRESETS.items()
        },
        weights=(Weights({"imagenet": "alexnet-owt-7be5be79.pth"}, {"preset": "torchvision"}),),
        torchvision_names="alexnet_lab.networks.alexnet:torchvision_names",
    ),
    "resnet18": Entry(
        "He et al. 2015, 18 layers",
        "alexnet_lab.networks.resnet:ResNet18",
        levels={"norm": "bn", "act": "relu", "dropout": 0.0, "init": "he"},
        weights=(Weights({"imagenet": "resnet18-f37072fd.pth"}),),
        torchvision_names="alexnet_lab.networks.resnet:torchvision_names",
    ),
    "vgg11": Entry(
        "Simonyan, Zisserman 2014, configuration A",
        "alexnet_lab.networks.vgg:VGG11",
        levels={"norm": "none", "act": "relu", "dropout": 0.5, "init": "he"},
        weights=(
            Weights({"imagenet": "vgg11-8a719046.pth"}),
            Weights({"imagenet": "vgg11_bn-6002323d.pth"}, {"norm": "bn"}),
        ),
        torchvision_names="alexnet_lab.networks.vgg:torchvision_names",
    ),
    "mobilenet_v2": Entry(
        "Sandler et al. 2018",
        "alexnet_lab.networks.mobilenet:MobileNetV2",
        levels={"norm": "bn", "act": "relu6", "dropout": 0.2, "init": "he"},
        # "imagenet" was trained by a recipe as plain as the others', "imagenet-v2" by a longer one.
        weights=(Weights({"imagenet": "mobilenet_v2-b0353104.pth", "imagenet-v2": "mobilenet_v2-7ebf99e0.pth"}),),
        torchvision_names="alexnet_lab.networks.mobilenet:torchvision_names_v2",
    ),
    "mobilenet_v3_small": Entry(
        "Howard et al. 2019, small",
        "alexnet_lab.networks.mobilenet:MobileNetV3Small",
        levels={"norm": "bn", "dropout": 0.2, "init": "he"},  # ReLU in some blocks, hard swish in the others
        weights=(Weights({"imagenet": "mobilenet_v3_small-047dcff4.pth"}),),
        torchvision_names="alexnet_lab.networks.mobilenet:torchvision_names_v3",
    ),
    "mobilenet_v3_large": Entry(
        "Howard et al. 2019, large",
        "alexnet_lab.networks.mobilenet:MobileNetV3Large",
        levels={"norm": "bn", "dropout": 0.2, "init": "he"},
        weights=(
            Weights({"imagenet": "mobilenet_v3_large-8738ca79.pth", "imagenet-v2": "mobilenet_v3_large-5c1a4163.pth"}),
        ),
        torchvision_names="alexnet_lab.networks.mobilenet:torchvision_names_v3",
    ),
}


def find_entry(network: str) -> Entry:
    """Return the entry of that name; raise ValueError with the nearest name for an unknown one."""
    if network not in CATALOGUE:
        raise unknown_choice("network", network, CATALOGUE)
    return CATALOGUE[network]


def resolve(reference: Reference) -> Callable[..., Any]:
    """Import what a reference names."""
    return pkgutil.resolve_name(reference) if isinstance(reference, str) else reference


def networks_with_presets() -> list[str]:
    """Return the names of the networks that have presets."""
    return [name for name, entry in CATALOGUE.items() if entry.presets]


def preset_descriptions() -> dict[str, str]:
    """Return the description of every preset of every network by its name."""
    return {name: variant.description for entry in CATALOGUE.values() for name, variant in entry.presets.items()}


def published_level(network: str, preset: str | None, slot: str) -> str | float | None:
    """Return the published level of norm, act, dropout, preset or init; None if the network has several.

    A preset that the network does not have is ignored.
    """
    entry = find_entry(network)
    variant = entry.presets.get(preset or str(entry.levels.get("preset")))
    return {**entry.levels, **(variant.levels if variant else {})}.get(slot)
