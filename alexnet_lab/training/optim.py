"""Optimisers and the rate they follow.

The 2012 rule differs from torch.optim.SGD in one place that matters when the rate changes: the rate stands inside the
velocity, so a step taken at the old rate goes on at the old rate.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from alexnet_lab.networks.layers import layers_of
from alexnet_lab.training.recipe import Recipe, milestones_of


class Krizhevsky(Optimizer):
    """SGD as the 2012 code has it: v <- m v - r d w - r g;  w <- w + v, with rate r, momentum m, decay d."""

    def __init__(self, params: Any, lr: float, momentum: float = 0.9, weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one step; all tensors of a group at once."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            weights = [p for p in group["params"] if p.grad is not None]
            if not weights:
                continue
            gradients = [p.grad for p in weights]
            velocities = [self._velocity(p) for p in weights]
            torch._foreach_mul_(velocities, group["momentum"])
            if group["weight_decay"]:
                torch._foreach_add_(velocities, weights, alpha=-group["lr"] * group["weight_decay"])
            torch._foreach_add_(velocities, gradients, alpha=-group["lr"])
            torch._foreach_add_(weights, velocities)
        return loss

    def _velocity(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if "velocity" not in state:
            state["velocity"] = torch.zeros_like(parameter)
        velocity: Tensor = state["velocity"]
        return velocity


def build_optimiser(recipe: Recipe, network: nn.Module) -> Optimizer:
    """Build the recipe's optimiser; no decay on biases, as in 2012, nor on the gains of norms.

    Each group carries `rate`, its multiple of the scheduled rate: that of its layer, twice as much for biases under
    the 2012 rule (its source has two rates where the paper speaks of one). Parameters that are frozen for good are in
    no group.
    """
    bias_rate = 2.0 if recipe.optimiser == "krizhevsky" else 1.0
    groups: list[dict[str, Any]] = []
    for rate, parameters in _by_rate(recipe, network):
        weights = [p for p in parameters if p.dim() > 1 and p.requires_grad]
        others = [p for p in parameters if p.dim() <= 1 and p.requires_grad]
        groups += [
            {"params": weights, "weight_decay": recipe.weight_decay, "rate": rate},
            {"params": others, "weight_decay": 0.0, "rate": rate * bias_rate},
        ]
    groups = [group for group in groups if group["params"]]
    if recipe.optimiser == "krizhevsky":
        return Krizhevsky(groups, lr=recipe.learning_rate, momentum=recipe.momentum)
    if recipe.optimiser == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.learning_rate, foreach=True)
    return torch.optim.SGD(groups, lr=recipe.learning_rate, momentum=recipe.momentum, foreach=True)


def _by_rate(recipe: Recipe, network: nn.Module) -> list[tuple[float, list[nn.Parameter]]]:
    """Return the network's parameters by their multiple of the scheduled rate, one list where all have the same."""
    if recipe.layer_decay == 1 and not recipe.head_lr:
        return [(1.0, list(network.parameters()))]
    *earlier, head = layers_of(network)
    rates = [recipe.layer_decay ** (len(earlier) - depth) for depth in range(len(earlier))]
    head_rate = recipe.head_lr / recipe.learning_rate if recipe.head_lr else 1.0
    return [(rate, layer.parameters) for rate, layer in zip([*rates, head_rate], [*earlier, head], strict=True)]


def scheduled_rate(recipe: Recipe, step: int, steps_per_epoch: int) -> float:
    """Return the rate of a step, counted from 0: a function of the step alone, so that a resume needs no state."""
    epochs = step / steps_per_epoch
    rate = recipe.learning_rate
    if epochs < recipe.warmup_epochs:
        return rate * (step + 1) / (recipe.warmup_epochs * steps_per_epoch)
    if recipe.schedule == "cosine":
        done = (epochs - recipe.warmup_epochs) / (recipe.epochs - recipe.warmup_epochs)
        return rate * 0.5 * (1 + math.cos(math.pi * done))
    fallen: float = 10.0 ** -sum(epochs >= milestone for milestone in milestones_of(recipe.schedule))
    return rate * fallen


def set_rate(optimiser: Optimizer, rate: float) -> None:
    """Give every group its multiple of the rate."""
    for group in optimiser.param_groups:
        group["lr"] = rate * group["rate"]
