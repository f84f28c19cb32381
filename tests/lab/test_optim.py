"""Optimisers and rates against loops written from the formulas."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from alexnet_lab.training.optim import Krizhevsky, build_optimiser, scheduled_rate, set_rate
from alexnet_lab.training.recipe import Recipe


def trajectory(optimiser_class, rates, gradients, **settings_):
    weight = torch.nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
    optimiser = optimiser_class([weight], lr=rates[0], **settings_)
    for rate, gradient in zip(rates, gradients, strict=True):
        optimiser.param_groups[0]["lr"] = rate
        weight.grad = torch.full_like(weight, gradient)
        optimiser.step()
    return weight.detach()


@given(
    st.lists(st.floats(1e-4, 0.1), min_size=1, max_size=8),
    st.floats(0, 0.99),
    st.floats(0, 0.1),
    st.integers(0, 2**32),
)
@settings(max_examples=50, deadline=None)
def test_the_2012_rule_is_the_loop_of_its_formula(rates, momentum, decay, seed):
    gradients = torch.randn(len(rates), generator=torch.Generator().manual_seed(seed), dtype=torch.float64).tolist()
    expected = []
    for start in (1.0, -2.0):
        w, v = start, 0.0
        for rate, g in zip(rates, gradients, strict=True):
            v = momentum * v - decay * rate * w - rate * g
            w = w + v
        expected.append(w)
    found = trajectory(Krizhevsky, rates, gradients, momentum=momentum, weight_decay=decay)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-12)


def test_it_equals_torch_sgd_while_the_rate_stands_and_differs_when_it_changes():
    constant, falling = [0.1] * 6, [0.1] * 3 + [0.01] * 3
    gradients = [1.0, 0.5, -1.0, 2.0, 0.3, 0.1]
    rule = {"momentum": 0.9, "weight_decay": 0.01}
    torch.testing.assert_close(
        trajectory(Krizhevsky, constant, gradients, **rule), trajectory(torch.optim.SGD, constant, gradients, **rule)
    )
    apart = trajectory(Krizhevsky, falling, gradients, **rule) - trajectory(torch.optim.SGD, falling, gradients, **rule)
    assert apart.abs().min() > 0.03  # the velocity of the old rate rolls on


def test_biases_have_twice_the_rate_and_no_decay_under_the_2012_rule():
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    optimiser = build_optimiser(Recipe(optimiser="krizhevsky", weight_decay=5e-4), network)
    set_rate(optimiser, 0.01)
    weights, others = optimiser.param_groups
    assert [p.dim() for p in weights["params"]] == [4]
    assert [p.dim() for p in others["params"]] == [1, 1, 1]
    assert (weights["lr"], weights["weight_decay"]) == (0.01, 5e-4)
    assert (others["lr"], others["weight_decay"]) == (0.02, 0.0)
    modern = build_optimiser(Recipe(optimiser="adamw"), network)
    set_rate(modern, 0.01)
    assert [group["lr"] for group in modern.param_groups] == [0.01, 0.01]


def test_schedules_at_hand_picked_steps():
    cosine = Recipe(epochs=10, learning_rate=0.1, schedule="cosine")
    assert scheduled_rate(cosine, 0, 100) == 0.1
    assert scheduled_rate(cosine, 500, 100) == pytest.approx(0.05)
    assert scheduled_rate(cosine, 999, 100) == pytest.approx(0.1 * 0.5 * (1 + math.cos(math.pi * 0.999)))
    steps = Recipe(epochs=90, learning_rate=0.01, schedule="step:25+51")
    assert [scheduled_rate(steps, epoch * 7, 7) for epoch in (0, 24, 25, 50, 51, 89)] == pytest.approx(
        [0.01, 0.01, 0.001, 0.001, 0.0001, 0.0001]
    )
    warm = Recipe(epochs=10, learning_rate=0.1, schedule="constant", warmup_epochs=2)
    assert [scheduled_rate(warm, step, 10) for step in (0, 9, 19, 20, 99)] == pytest.approx(
        [0.005, 0.05, 0.1, 0.1, 0.1]
    )
