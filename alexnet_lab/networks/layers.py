"""The layers of a network in order, as freezing and learning rates by depth count them.

A layer is a convolution or a linear layer with all that follows it up to the next one: norm, activation with weights,
squeeze-excitation. Convolutions are numbered from 1 in the order of computation, as in the levels of norms
(`lrn:layers=1+2`), and the linear layers go on from there. The last layer is the head.
"""

from dataclasses import dataclass

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from alexnet_lab.networks.mobilenet import SqueezeExcite


@dataclass(frozen=True)
class Layer:
    """One numbered layer: its convolution or linear layer first, then what belongs to it."""

    name: str
    modules: tuple[nn.Module, ...]

    @property
    def is_convolution(self) -> bool:
        """Return whether this is a convolution and not a linear layer."""
        return isinstance(self.modules[0], nn.Conv2d)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """Return the parameters of all its modules."""
        return [parameter for module in self.modules for parameter in module.parameters(recurse=False)]

    @property
    def norms_with_statistics(self) -> list[nn.Module]:
        """Return its norms that keep running statistics."""
        return [module for module in self.modules if isinstance(module, _BatchNorm) and module.track_running_stats]


def layers_of(network: nn.Module) -> list[Layer]:
    """Return the numbered layers of a network; together they hold every parameter."""
    names: list[str] = []
    modules: list[list[nn.Module]] = []
    before: list[nn.Module] = []  # modules ahead of the first layer
    uncounted = {
        inner for module in network.modules() if isinstance(module, SqueezeExcite) for inner in module.modules()
    }
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear) and module not in uncounted:
            names.append(name)
            modules.append([module])
        else:
            (modules[-1] if modules else before).append(module)
    if not names:
        raise ValueError(f"{type(network).__name__} has no convolution and no linear layer")
    modules[0] += before
    return [Layer(name, tuple(own)) for name, own in zip(names, modules, strict=True)]


def frozen_layers(network: nn.Module, freeze: str) -> list[Layer]:
    """Return the layers that a level of `freeze` names: none, features, probe, until:5.

    Raises ValueError where no layer is left to train.
    """
    kind, _, number = freeze.partition(":")
    layers = layers_of(network)
    if kind == "none":
        return []
    if kind == "probe":
        return layers[:-1]
    if kind == "features":
        last = max((at for at, layer in enumerate(layers, 1) if layer.is_convolution), default=0)
        return layers[: min(last, len(layers) - 1)]
    if int(number) >= len(layers):
        raise ValueError(
            f"freeze {freeze}: this network has {len(layers)} layers, of which the last must train; take until:1 to "
            f"until:{len(layers) - 1}"
        )
    return layers[: int(number)]
