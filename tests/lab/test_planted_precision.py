"""What a precision cannot hold, planted on purpose, is found, and what it can is not accused."""

import json
from dataclasses import replace

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from planted import names, pictures, run_of, small_network, the
from torch import nn

from alexnet_lab.diagnosis.evidence import Evidence
from alexnet_lab.instruments.panel import Panel
from alexnet_lab.networks import build_network, to_torchvision_state_dict
from alexnet_lab.records import RunFolder
from alexnet_lab.training.recipe import Recipe
from alexnet_lab.training.run import train_with_verdict


def test_gradients_that_fp16_cannot_hold_are_found(tmp_path):
    class Faint(nn.Module):
        def forward(self, x):
            return x * 1e-5

    network = small_network()
    network.append(Faint())
    found = the("precision-underflow", run_of(tmp_path, network, epochs=1, lose_below=2.0**-24))
    assert found.severity == "serious"
    assert "gradients" in found.title
    assert "fp16" in found.title
    healthy = run_of(tmp_path / "healthy", small_network(), epochs=1, lose_below=2.0**-24)
    assert "precision-underflow" not in names(healthy)


def test_faint_gradients_of_a_run_that_scales_its_loss_are_no_underflow(tmp_path):
    network = small_network()
    nn.init.normal_(network[7].weight, std=1e-6)  # behind it every gradient is faint
    run = run_of(tmp_path, network, rate=1e-9, epochs=1, lose_below=2.0**-24)
    assert "precision-underflow" in names(run)
    (tmp_path / "recipe.json").write_text(json.dumps({"precision": "fp16"}))
    assert "precision-underflow" not in names(run)


def test_a_value_that_is_no_number_is_found_where_it_first_appeared(tmp_path):
    def poison(epoch, network):
        if epoch == 1:
            with torch.no_grad():
                network[5].weight[0, 0] = float("nan")

    found = the("not-finite", run_of(tmp_path, small_network(), epochs=2, between=poison))
    assert found.epochs == (2,)
    assert found.layers == ("5",)


BEYOND, WITHIN = -1e5, -1e4  # fp16 ends at 65504
SILENCED = [2, 7]  # of 16 channels: too few for a finding of their own


def biased(value):
    network = small_network()
    with torch.no_grad():
        network[2].bias[SILENCED] = value
    return network


def test_activations_beyond_fp16_are_found_with_their_share_and_those_within_are_not(tmp_path):
    found = the("precision-overflow", run_of(tmp_path / "beyond", biased(BEYOND), hold_below=2.0**16))
    assert (found.severity, found.layers) == ("serious", ("2",))
    assert "activations at 3 " in found.evidence
    assert found.numbers["share"] == pytest.approx(2 / 16)
    assert found.numbers["tensors"] == 2  # the biases themselves are the other
    within = run_of(tmp_path / "within", biased(WITHIN), hold_below=2.0**16)
    assert names(within) == []
    assert Evidence(within).curve("validation_accuracy")[-1] > 0.9  # healthy indeed
    assert names(run_of(tmp_path / "fp32", biased(BEYOND))) == []  # which fp32 holds


def under_a_panel(folder, network, scaler, steps=4, half=True, times=1):
    """Train as a user would in fp16, with a panel that is told so, and leave its records."""
    optimiser = torch.optim.SGD(network.parameters(), 1e-3)
    x, y = pictures(64, 1)
    with Panel(network, optimiser, every=1, window=1, folder=folder, precision="fp16", scaler=scaler) as panel:
        for _ in range(steps):
            optimiser.zero_grad()
            with torch.autocast("cpu", torch.float16, enabled=half):
                loss = F.cross_entropy(network(x * times), y)
            scaler.scale(loss).backward()
            scaler.unscale_(optimiser)
            panel.gradients_ready()
            scaler.step(optimiser)
            scaler.update()
            panel.step()
    return RunFolder(folder)


def test_a_panel_in_fp16_leaves_records_that_tell_what_overflowed(tmp_path):
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**4)
    found = the("precision-overflow", under_a_panel(tmp_path / "beyond", biased(BEYOND), scaler))
    assert (found.title, found.layers) == ("Activations at 3 overflow in fp16", ("2",))
    assert found.numbers["share"] == pytest.approx(2 / 16)
    assert found.numbers["tensors"] == 4  # a window a step
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**4)
    assert "precision-overflow" not in names(under_a_panel(tmp_path / "within", biased(WITHIN), scaler))


def test_weights_beyond_fp16_are_found_in_the_first_window_that_has_one(tmp_path):
    network = small_network()
    with torch.no_grad():
        network[2].bias[1] = WITHIN  # the second of its 16 maps is silent, and what it is multiplied with is not seen
        network[5].weight[3, 17] = 1e5
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    found = the("precision-overflow", under_a_panel(tmp_path, network, scaler, half=False))
    assert found.title == "Weights at 5.weight overflow in fp16"
    assert found.numbers["share"] == pytest.approx(1 / (20 * 256))


@pytest.mark.parametrize(("backoff", "found"), [(0.5, False), (0.999, True)])
def test_a_loss_scaler_that_finds_its_scale_is_no_overflow_and_one_that_does_not_is(backoff, found, tmp_path):
    # At a scale of 2^127 the gradients are infinite, in fp32 too; after three steps, each of which halves it, no more.
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, backoff_factor=backoff)
    run = under_a_panel(tmp_path, small_network(), scaler, steps=40, half=False, times=16)
    overflowed = Evidence(run).windows["overflow"]
    assert (overflowed > 0).any()
    assert ("precision-overflow" in names(run)) == found


def trained_with_planted_weights(folder, value, precision):
    """A run of the trainer whose first layer has three units of eight with that bias."""
    network = build_network("alexnet", 4, preset="torchvision", width=0.125, image_size=67, in_channels=3)
    with torch.no_grad():
        network.conv1.bias[[2, 5, 7]] = value
    weights = folder.parent / f"{folder.name}.safetensors"
    safetensors.torch.save_file(to_torchvision_state_dict(network), weights)
    data = "synthetic:classes=4,side=32,count=160"
    asked = Recipe(data=data, width=0.125, norm="none", epochs=1, instruments="all", preset="torchvision")
    before = torch.get_num_threads()
    train_with_verdict(replace(asked, weights=str(weights), precision=precision), RunFolder(folder))
    torch.set_num_threads(before)
    assert RunFolder(folder).verdict()["state"] == "ok"
    return RunFolder(folder)


def test_a_run_in_fp16_whose_activations_overflow_is_told_so_and_the_same_within_the_range_is_not(tmp_path):
    found = the("precision-overflow", trained_with_planted_weights(tmp_path / "beyond", BEYOND, "fp16"))
    assert found.layers == ("conv1",)
    assert found.numbers["share"] == pytest.approx(3 / 8)
    assert "fp16 holds 6×10⁻⁸ to 65504" in found.evidence
    assert "precision-overflow" not in names(trained_with_planted_weights(tmp_path / "within", WITHIN, "fp16"))
    assert "precision-overflow" not in names(trained_with_planted_weights(tmp_path / "fp32", BEYOND, "fp32"))
