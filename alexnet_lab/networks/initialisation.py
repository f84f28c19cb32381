"""Initial values, drawn from one random stream per parameter.

The values of a parameter depend on the seed, its name and its shape alone. Two networks that differ in one slot
therefore start with identical values in every parameter they share by name, on any device.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor, nn

from alexnet_lab.levels import parse_init
from alexnet_lab.randomness import stream

Draw = Callable[[Tensor, Generator], object]


@dataclass(frozen=True)
class Start:
    """Initial values of one layer: a function that draws the weights, and a constant bias, or None for torch's own."""

    weight: Draw
    bias: float | None = 0.0


def gaussian(std: float) -> Draw:
    """Draw from a normal distribution of mean 0, as the 2012 paper does."""
    return lambda weight, generator: weight.normal_(0.0, std, generator=generator)


def uniform(bound: float) -> Draw:
    """Draw from a uniform distribution over -bound to bound."""
    return lambda weight, generator: weight.uniform_(-bound, bound, generator=generator)


def kaiming_fan_in(weight: Tensor, generator: Generator) -> None:
    """He et al. 2015, fan-in: keeps the variance of activations through ReLU layers."""
    nn.init.kaiming_normal_(weight, mode="fan_in", nonlinearity="relu", generator=generator)


def kaiming_fan_out(weight: Tensor, generator: Generator) -> None:
    """He et al. 2015, fan-out: the published initialisation of ResNet, VGG and MobileNet."""
    nn.init.kaiming_normal_(weight, mode="fan_out", nonlinearity="relu", generator=generator)


def torch_uniform(weight: Tensor, generator: Generator) -> None:
    """torch's default for convolutions and linear layers: U(-1/sqrt(fan_in), 1/sqrt(fan_in))."""
    nn.init.kaiming_uniform_(weight, a=math.sqrt(5), generator=generator)


HE = Start(kaiming_fan_in)
TORCH_DEFAULT = Start(torch_uniform, bias=None)

# Available for every network, in place of its published initial values.
STARTS: Mapping[str, Start] = {"he": HE, "torch": TORCH_DEFAULT}


def resolve_init(init: str, published: Callable[[str], Start]) -> Callable[[str], Start]:
    """Return the rule that gives the Start of a layer by its name; `published` is the rule of init "published"."""
    name, bias = parse_init(init)
    rule = published if name == "published" else lambda _layer: STARTS[name]
    return rule if bias is None else lambda layer: replace(rule(layer), bias=bias)


@torch.no_grad()
def initialise(network: nn.Module, rule: Callable[[str], Start], seed: int | None) -> None:
    """Fill every convolution and linear layer by the rule; norms and PReLUs keep the constants they are built with.

    The draws are made on the CPU, so that a network built under torch.device("cuda") has the values of one built on the
    CPU. Nothing is drawn for the meta device. seed=None takes the seed of torch.manual_seed.
    """
    seed = torch.initial_seed() if seed is None else seed
    for name, layer in network.named_modules():
        if not isinstance(layer, nn.Conv2d | nn.Linear) or layer.weight.is_meta:
            continue
        start = rule(name)
        _fill(layer.weight, start.weight, stream(seed, "init", f"{name}.weight"))
        if layer.bias is None:
            continue
        if start.bias is None:
            bound = 1 / math.sqrt(layer.weight[0].numel())
            _fill(layer.bias, uniform(bound), stream(seed, "init", f"{name}.bias"))
        else:
            layer.bias.fill_(start.bias)


def _fill(parameter: Tensor, draw: Draw, generator: Generator) -> None:
    values = parameter if parameter.device.type == "cpu" else torch.empty_like(parameter, device="cpu")
    draw(values, generator)
    if values is not parameter:
        parameter.copy_(values)
