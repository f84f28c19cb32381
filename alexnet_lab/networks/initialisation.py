"""Initial values, each drawn from a stream named after its parameter.

Two networks that differ in one slot start with identical values in every parameter they share by name: what a
parameter receives depends on the seed, its own name and its own shape, and on nothing that stands beside it.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from alexnet_lab.choices import unknown_choice
from alexnet_lab.randomness import stream

Draw = Callable[[Tensor, Generator], object]


@dataclass(frozen=True)
class Start:
    """How one layer starts: a draw for its weights, and a bias that is a constant or None for torch's uniform."""

    weight: Draw
    bias: float | None = 0.0


def gaussian(std: float) -> Draw:
    """Draw from N(0, std), as the 2012 paper does."""
    return lambda weight, generator: weight.normal_(0.0, std, generator=generator)


def kaiming_fan_in(weight: Tensor, generator: Generator) -> None:
    """He et al. 2015 by inputs: keeps the variance of activations through ReLU layers."""
    nn.init.kaiming_normal_(weight, mode="fan_in", nonlinearity="relu", generator=generator)


def kaiming_fan_out(weight: Tensor, generator: Generator) -> None:
    """He et al. 2015 by outputs, as the published ResNets, VGGs and MobileNets start."""
    nn.init.kaiming_normal_(weight, mode="fan_out", nonlinearity="relu", generator=generator)


def torch_uniform(weight: Tensor, generator: Generator) -> None:
    """torch's own default for convolutions and linear layers: U(-1/sqrt(inputs), 1/sqrt(inputs))."""
    nn.init.kaiming_uniform_(weight, a=math.sqrt(5), generator=generator)


HE = Start(kaiming_fan_in)
TORCH_DEFAULT = Start(torch_uniform, bias=None)

# What can be asked for at any network in place of its published start.
INITS: Mapping[str, Start] = {"he": HE, "torch": TORCH_DEFAULT}


def resolve_init(init: str, published: Callable[[str], Start]) -> Callable[[str], Start]:
    """Turn the name of an initialisation into a rule from layer name to start."""
    if init == "published":
        return published
    if init not in INITS:
        raise unknown_choice("init", init, ["published", *INITS])
    chosen = INITS[init]
    return lambda _layer: chosen


@torch.no_grad()
def initialise(network: nn.Module, rule: Callable[[str], Start], seed: int | None) -> None:
    """Fill every convolution and linear layer by the rule; norms and PReLUs keep the constants they are built with.

    seed=None takes the seed of torch.manual_seed, so that scripts which call it get what they expect.
    """
    seed = torch.initial_seed() if seed is None else seed
    for name, layer in network.named_modules():
        if not isinstance(layer, nn.Conv2d | nn.Linear) or layer.weight.is_meta:
            continue
        start = rule(name)
        start.weight(layer.weight, stream(seed, "init", f"{name}.weight"))
        if layer.bias is None:
            continue
        if start.bias is None:
            bound = 1 / math.sqrt(layer.weight[0].numel())
            layer.bias.uniform_(-bound, bound, generator=stream(seed, "init", f"{name}.bias"))
        else:
            layer.bias.fill_(start.bias)
