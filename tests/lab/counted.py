"""A small network under a panel, steps with it, and numpy's own counts to hold against the panel's."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

WEIGHT, GRADIENT, ACTIVATION, ACTIVATION_GRADIENT = range(4)


def small_network(act=nn.ReLU):
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 6, 3), act(), nn.Conv2d(6, 4, 3), act(), nn.Flatten(), nn.Linear(64, 10), act()]
    return nn.Sequential(*layers, nn.Linear(10, 5))


def batch(seed=0, count=8):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, 8, 8, generator=draw), torch.randint(5, (count,), generator=draw)


def train(network, panel, steps=1, optimiser=None, forward=None, scaler=None):
    """Take steps as a user would."""
    optimiser = optimiser or torch.optim.SGD(network.parameters(), 0.1)
    device = next(network.parameters()).device
    for step in range(steps):
        x, y = (values.to(device) for values in batch(step))
        optimiser.zero_grad()
        loss = F.cross_entropy((forward or network)(x), y)
        if scaler is None:
            loss.backward()
            panel.gradients_ready()
            optimiser.step()
        else:
            scaler.scale(loss).backward()
            scaler.unscale_(optimiser)
            panel.gradients_ready()
            scaler.step(optimiser)
            scaler.update()
        panel.step()


def give(layer, panel, *gradients):
    """Take steps with gradients made by hand."""
    for values in gradients:
        layer(torch.zeros(1, layer.in_features, dtype=layer.weight.dtype))
        layer.weight.grad = values.to(layer.weight.dtype).view_as(layer.weight)
        panel.gradients_ready()
        panel.step()


def numpy_histogram(x, first_exponent=-126, columns=258):
    """Count by sign and exponent with numpy's frexp: nothing of ours."""
    x = np.asarray(x, np.float64).ravel()
    counts = np.zeros((2, columns), np.int64)
    _, exponents = np.frexp(x)  # x = m * 2**e with m in [.5, 1)
    for sign in (0, 1):
        mine = np.signbit(x) == bool(sign)
        finite = mine & np.isfinite(x) & (x != 0)
        powers = exponents[finite] - 1
        counts[sign, 0] = (mine & (x == 0)).sum()
        counts[sign, 1] = (powers < first_exponent).sum()
        counts[sign, -2] = (mine & np.isinf(x)).sum()
        counts[sign, -1] = (mine & np.isnan(x)).sum()
        np.add.at(counts[sign], powers[powers >= first_exponent] - first_exponent + 2, 1)
    return counts


def histogram(tables, kind, subject):
    rows = (tables["windows"]["kind"] == kind) & (tables["windows"]["subject"] == subject)
    return tables["histograms"]["counts"][rows].sum(0)
