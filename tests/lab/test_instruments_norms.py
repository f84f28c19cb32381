"""What a panel reads of weights, gradients and updates is exact at any scale, in parts of a batch, in skipped steps."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from counted import ACTIVATION, ACTIVATION_GRADIENT, GRADIENT, WEIGHT, batch, give, histogram, small_network, train
from torch import nn

from alexnet_lab.instruments.gradient_flow import exact_norms
from alexnet_lab.instruments.panel import Panel


def test_norms_are_over_all_elements_and_the_update_is_the_one_applied():
    network = small_network()
    optimiser = torch.optim.AdamW(network.parameters(), 0.01, weight_decay=0.1)
    rows = []
    with Panel(network, optimiser, every=2) as panel:
        for step in range(4):
            before = [p.detach().clone() for p in network.parameters()]
            x, y = batch(step)
            optimiser.zero_grad()
            F.cross_entropy(network(x), y).backward()
            panel.gradients_ready()
            gradients = [p.grad.clone() for p in network.parameters()]
            nn.utils.clip_grad_norm_(network.parameters(), 1e-3)
            optimiser.step()
            panel.step()
            if step % 2 == 0:
                for old, gradient, new in zip(before, gradients, network.parameters(), strict=True):
                    rows.append([float(t.double().norm()) for t in (old, gradient, new.detach() - old)])
    steps = panel.tables[1]["steps"]
    assert list(steps["step"]) == [1] * 8 + [3] * 8
    assert list(steps["parameter"]) == [*range(8)] * 2
    recorded = np.stack([steps[name] for name in ("weight_norm", "gradient_norm", "update_norm")], 1)
    np.testing.assert_allclose(recorded, rows, rtol=2e-6)
    assert "before clipping" in panel.layout().read_at


@pytest.mark.parametrize("scale", [1e-30, 1e-8, 1.0, 1e25])
def test_norms_keep_their_digits_at_any_size_and_scale(scale):
    torch.manual_seed(0)
    tensors = [torch.randn(shape) * scale for shape in ((5,), (1000, 700), (3, 1000, 1000))]
    last = torch.randn(4, 8, 300, 300).to(memory_format=torch.channels_last) * scale
    expected = [float(np.linalg.norm(x.numpy().astype(np.float64).ravel())) for x in (*tensors, last)]
    np.testing.assert_allclose(exact_norms([*tensors, last]).numpy(), expected, rtol=3e-6)
    assert exact_norms([torch.zeros(7), torch.zeros(600, 600)]).tolist() == [0, 0]


def test_the_loss_scale_of_fp16_changes_no_number():
    recorded = []
    for scale in (1.0, 2.0**10):
        network = small_network()
        scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=3)
        optimiser = torch.optim.SGD(network.parameters(), 0.1)
        with Panel(network, optimiser, every=1, scaler=scaler, precision="fp16") as panel:
            train(network, panel, 5, optimiser, scaler=scaler)
        recorded.append(panel.tables[1])
    for table in ("steps", "windows", "histograms", "units"):
        for name, values in recorded[0][table].items():
            np.testing.assert_array_equal(values, recorded[1][table][name], err_msg=f"{table}.{name}")


def test_a_step_that_the_scaler_skips_updates_nothing():
    network = small_network()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    optimiser = torch.optim.SGD(network.parameters(), 0.1)
    for told in (True, False):
        with Panel(network, optimiser, every=1, scaler=scaler) as panel:
            scaler.scale(F.cross_entropy(network(batch()[0]), batch()[1])).backward()
            network[0].weight.grad[0, 0, 0, 0] = math.inf
            scaler.unscale_(optimiser)
            if told:
                panel.gradients_ready()
            scaler.step(optimiser)
            scaler.update()
            panel.step()
            optimiser.zero_grad()
        steps = panel.tables[1]["steps"]
        assert set(steps["update_norm"]) == {0.0}
        assert steps["gradient_norm"][0] == math.inf
        assert np.isfinite(steps["gradient_norm"][1:]).all()
        assert histogram(panel.tables[1], GRADIENT, 0)[0, -2] == 1


def test_a_batch_in_parts_counts_as_the_batch_whole():
    recorded = []
    for parts in (1, 4):
        network = small_network()
        optimiser = torch.optim.SGD(network.parameters(), 0.1)
        x, y = batch()
        with Panel(network, optimiser, every=1) as panel:
            for a, b in zip(x.chunk(parts), y.chunk(parts), strict=True):
                (F.cross_entropy(network(a), b) / parts).backward()
            panel.gradients_ready()
            optimiser.step()
            panel.step()
        recorded.append(panel.tables[1])
    whole, split = recorded
    for name in ("off", "inputs", "elements", "elements_off"):
        assert np.array_equal(whole["units"][name], split["units"][name])
    assert np.array_equal(histogram(whole, ACTIVATION, 0), histogram(split, ACTIVATION, 0))
    # Gradients of a part differ from the whole's in the last bit, which moves next to no value to another power of two.
    moved = np.abs(histogram(whole, ACTIVATION_GRADIENT, 0) - histogram(split, ACTIVATION_GRADIENT, 0)).sum()
    assert moved <= 4
    np.testing.assert_allclose(whole["steps"]["gradient_norm"], split["steps"]["gradient_norm"], rtol=1e-5)
    rows = split["windows"]
    assert set(rows["tensors"][rows["kind"] == ACTIVATION]) == {4}
    assert set(rows["tensors"][rows["kind"] == GRADIENT]) == {1}


def test_signal_to_noise_is_the_documented_ratio():
    layer = nn.Linear(30, 20, bias=False)
    draw = np.random.default_rng(0)
    gradients = 0.5 + draw.normal(size=(6, 600))
    with Panel(layer, every=1, window=6) as panel:
        give(layer, panel, *torch.tensor(gradients))
    variance = gradients.var(0, ddof=1).sum()
    signal = (gradients.mean(0) ** 2).sum() - variance / 6
    recorded = panel.tables[1]["windows"]
    ratio = recorded["signal_to_noise"][recorded["kind"] == GRADIENT]
    assert ratio == pytest.approx([math.sqrt(signal / variance)], rel=1e-5)
    assert ratio == pytest.approx([0.5], rel=0.1)  # mean .5, spread 1
    assert np.isnan(recorded["signal_to_noise"][recorded["kind"] == WEIGHT]).all()


def test_a_gradient_that_is_not_finite_does_not_spoil_the_windows_noise():
    layer = nn.Linear(3, 2, bias=False)
    with Panel(layer, every=1, window=3) as panel:
        give(layer, panel, *(torch.full((2, 3), value) for value in (1.0, math.inf, 2.0)))
    recorded = panel.tables[1]["windows"]
    # Twice: mean 1.5, variance .5, so (2.25 - .25) / .5 = 4.
    assert recorded["signal_to_noise"][recorded["kind"] == GRADIENT] == pytest.approx([2.0])
