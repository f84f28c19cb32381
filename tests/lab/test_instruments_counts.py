"""What a panel counts, of units and of exponents, is what numpy counts."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from counted import (
    ACTIVATION,
    ACTIVATION_GRADIENT,
    GRADIENT,
    WEIGHT,
    batch,
    give,
    histogram,
    numpy_histogram,
    small_network,
    train,
)
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from alexnet_lab.instruments import dying_relu
from alexnet_lab.instruments.histograms import in_memory_order, stride_through
from alexnet_lab.instruments.panel import Panel


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_histograms_are_numpys_counts_of_exponents_whatever_the_type(dtype):
    layer = nn.Linear(40, 30, bias=False).to(dtype)
    values = torch.randn(1200, dtype=torch.float64) * torch.logspace(-40, 4, 1200, 2, dtype=torch.float64)
    values[:8] = torch.tensor([0.0, -0.0, math.inf, -math.inf, math.nan, 2.0**-24, -(2.0**-20), 1.0])
    panel = Panel(layer, every=1)
    with panel:
        give(layer, panel, values)
    tables = panel.tables[1]
    wide = dtype == torch.float64
    shape = (-1022, 2050) if wide else (-126, 258)
    assert panel.layout().first_exponent == shape[0]
    assert np.array_equal(histogram(tables, GRADIENT, 0), numpy_histogram(layer.weight.grad.double(), *shape))
    assert np.array_equal(histogram(tables, WEIGHT, 0), numpy_histogram(layer.weight.detach().double(), *shape))


@pytest.mark.parametrize("inplace", [False, True])
def test_activations_and_their_gradients_are_those_before_the_activation(inplace):
    network = small_network(lambda: nn.ReLU(inplace))
    x, y = batch()
    first = network[0](x)
    first.retain_grad()
    F.cross_entropy(network[2:](first.relu()), y).backward()
    with Panel(network, every=1) as panel:
        train(network, panel)
    recorded = panel.tables[1]
    assert np.array_equal(histogram(recorded, ACTIVATION, 0), numpy_histogram(first.detach()))
    assert np.array_equal(histogram(recorded, ACTIVATION_GRADIENT, 0), numpy_histogram(first.grad))


@pytest.mark.parametrize("planted", [{0: [], 2: [], 5: []}, {0: [1, 4], 2: [3], 5: [0, 2, 9]}])
def test_units_planted_dead_are_found_and_no_others(planted):
    network = small_network()
    for layer in (0, 2, 5):
        nn.init.constant_(network[layer].bias, 2.0)  # so that every other unit fires somewhere
        with torch.no_grad():
            network[layer].bias[planted[layer]] = -1e6
    still = torch.optim.SGD(network.parameters(), 0.0)
    with Panel(network, still) as panel:
        train(network, panel, 3, still)
        with panel.probing(), torch.no_grad():
            network.eval()(batch(9, 20)[0])
    units = panel.tables[1]["units"]
    for split, inputs in ((0, 24), (1, 20)):
        for site, layer in enumerate((0, 2, 5)):
            rows = (units["site"] == site) & (units["split"] == split)
            dead = dying_relu.is_dead(units["off"][rows], units["inputs"][rows])
            assert list(np.flatnonzero(dead)) == planted[layer]
            assert set(units["inputs"][rows]) == {inputs}
    assert "dead" in panel.summary()


def test_counts_are_those_of_numpy_on_every_step():
    network = small_network()
    with Panel(network, every=1000) as panel:
        seen = []
        network[0].register_forward_hook(lambda *args: seen.append(args[2].detach().clone().numpy()))
        train(network, panel, 4)
    units = panel.tables[1]["units"]
    rows = (units["site"] == 0) & (units["split"] == 0)
    low = np.concatenate(seen) <= 0
    assert np.array_equal(units["off"][rows], low.all((2, 3)).sum(0))
    assert np.array_equal(units["elements_off"][rows], low.sum((0, 2, 3)))
    assert set(units["elements"][rows]) == {32 * 36}


@pytest.mark.parametrize(("precision", "under", "over"), [("fp16", 4 / 12, 3 / 12), ("fp32", 1 / 12, 1 / 12)])
def test_shares_out_of_range_are_of_the_runs_precision(precision, under, over):
    layer = nn.Linear(12, 1, bias=False)
    with Panel(layer, every=1, precision=precision) as panel:
        values = [0.0, 1e-40, 2.0**-30, -(2.0**-25), 1.9 * 2.0**-25, 2.0**-24, 1.0, 65504.0, 65536.0, -1e30, math.inf]
        give(layer, panel, torch.tensor([*values, math.nan]))
    recorded = panel.tables[1]["windows"]
    row = recorded["kind"] == GRADIENT
    assert (recorded["underflow"][row], recorded["overflow"][row]) == (pytest.approx([under]), pytest.approx([over]))


@given(st.lists(st.integers(1, 4000), min_size=1, max_size=4))
def test_a_stride_reaches_every_channel_and_column(shape):
    stride = stride_through(shape, 2**12, 2**10)
    if math.prod(shape) <= 2**12:
        assert stride == 1
    else:
        assert math.prod(shape) / stride <= 2**10
        assert all(math.gcd(stride, side) == 1 for side in shape)


def test_large_tensors_are_counted_every_so_many_elements_in_memory_order():
    layer = nn.Linear(1100, 1000, bias=False)
    with Panel(layer, every=1) as panel:
        give(layer, panel, torch.randn(1000, 1100))
    recorded = panel.tables[1]
    stride = int(recorded["windows"]["stride"][recorded["windows"]["kind"] == GRADIENT][0])
    assert stride == stride_through((1000, 1100))
    assert stride > 1
    assert np.array_equal(
        histogram(recorded, GRADIENT, 0), numpy_histogram(layer.weight.grad.numpy().ravel()[::stride])
    )
    image = torch.arange(24.0).view(1, 2, 3, 4).to(memory_format=torch.channels_last)
    assert sorted(in_memory_order(image).tolist()) == list(range(24))
    assert in_memory_order(image).data_ptr() == image.data_ptr()
    assert sorted(in_memory_order(image[:, :, ::2]).tolist()) == sorted(image[:, :, ::2].flatten().tolist())


def test_dead_through_time_and_revived():
    dead = np.array([[1, 1, 0, 1], [1, 0, 0, 0], [1, 1, 0, 1], [1, 1, 0, 1]], bool)
    assert dying_relu.dead_since(dead).tolist() == [0, 2, 4, 2]
    assert np.argwhere(dying_relu.is_revived(dead)).tolist() == [[1, 1], [1, 3]]
    assert dying_relu.largest_firing_rate(300) == 0.01
    assert dying_relu.largest_firing_rate(0) == dying_relu.largest_firing_rate(2) == 1
    assert not dying_relu.is_dead(np.array([0]), np.array([0]))[0]
