"""From the instruments to the finding: what real runs leave behind is read as it should be.

The cases are planted in runs of the trainer itself, or in any torch network under a Panel.
"""

from dataclasses import replace

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import nn

from alexnet_lab.diagnosis import blind_spots, describe, diagnose, health_of
from alexnet_lab.diagnosis.evidence import Evidence
from alexnet_lab.instruments.panel import Panel
from alexnet_lab.networks import build_network, to_torchvision_state_dict
from alexnet_lab.records import RunFolder
from alexnet_lab.training.recipe import Recipe
from alexnet_lab.training.run import train_with_verdict

# Three steps of 32 images make an epoch, in a second or so.
QUICK = Recipe(data="synthetic:classes=4,side=32,count=160", width=0.125, norm="none", epochs=2, instruments="all")


@pytest.fixture(autouse=True)
def threads():
    """Give back the thread count that a run sets for its process."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def trained(path, recipe):
    train_with_verdict(recipe, RunFolder(path))
    return RunFolder(path)


def finding(name, run):
    found = {each.name: each for each in diagnose(run)}
    assert name in found, f"{sorted(found)}: {run.verdict()}"
    return found[name]


def test_units_planted_dead_in_a_run_of_the_trainer_are_found_exactly(tmp_path):
    network = build_network("alexnet", 4, preset="torchvision", width=QUICK.width, image_size=67, in_channels=3)
    # Positive weights and biases after conv1 let every other unit fire.
    planted = {"act1": (2, 5, 7), "act3": tuple(range(0, 48, 3)), "act6": tuple(range(256))}
    with torch.no_grad():
        for layer in (network.conv2, network.conv3, network.conv4, network.conv5, network.fc6, network.fc7):
            layer.weight.abs_().mul_(0.1)
            layer.bias.fill_(0.1)
        for site, layer in (("act1", network.conv1), ("act3", network.conv3), ("act6", network.fc6)):
            layer.bias[list(planted[site])] = -1e6
    weights = tmp_path / "planted.safetensors"
    safetensors.torch.save_file(to_torchvision_state_dict(network), weights)
    run = trained(tmp_path / "run", replace(QUICK, preset="torchvision", weights=str(weights), learning_rate=1e-9))
    dead = finding("dead-at-start", run)
    assert dead.units == planted
    assert dead.layers == ("conv1", "conv3", "fc6")
    units = 8 + 24 + 48 + 32 + 32 + 512 + 512
    assert health_of(run)["dead_share"] == pytest.approx(sum(map(len, planted.values())) / units)


def test_the_published_initial_values_on_inputs_of_unit_spread_are_called_too_small_and_their_gradient_vanishing(
    tmp_path,
):
    run = trained(tmp_path, replace(QUICK, init="published"))
    scale = finding("wrong-scale-for-init", run)
    assert "too small" in scale.title
    assert "cautioned" in scale.evidence
    assert finding("vanishing-gradients", run).severity == "serious"


def test_pixels_into_initial_values_after_he_are_called_too_large(tmp_path):
    run = trained(
        tmp_path, replace(QUICK, data="digits", epochs=1, width=1 / 16, input_scale="pixels", learning_rate=1e-9)
    )
    found = finding("wrong-scale-for-init", run)
    assert "too large" in found.title
    assert 32 < found.numbers["first_signal"] < 300  # 70 sqrt(2) is 99


def test_a_rate_too_low_is_found_in_a_run(tmp_path):
    run = trained(tmp_path, replace(QUICK, learning_rate=1e-7))
    assert finding("rate-too-low", run).contrary.startswith("None")


def test_a_run_that_diverges_is_diagnosed_with_what_was_measured_until_then(tmp_path):
    run = trained(tmp_path, replace(QUICK, learning_rate=1e4))
    assert run.verdict()["state"] == "diverged"
    found = diagnose(run)
    assert found[0].name == "diverged"
    assert found[0].numbers["step"] > 0
    assert "no instruments" not in found[0].contrary
    assert all(each.evidence and each.contrary for each in found)


def test_a_run_without_instruments_or_without_a_verdict_is_diagnosed_as_far_as_it_goes(tmp_path):
    run = trained(tmp_path / "off", replace(QUICK, instruments="off", epochs=1))
    assert any("no instruments" in text for text in blind_spots(run))
    run = trained(tmp_path / "on", replace(QUICK, epochs=1))
    assert blind_spots(run) == []
    (run.path / "state.json").unlink()
    assert isinstance(describe(diagnose(run), blind_spots(run)), str)
    assert health_of(run)["signal_to_noise"] is not None


def test_any_torch_network_under_a_panel_can_be_diagnosed(tmp_path):
    torch.manual_seed(0)
    layers = [nn.Linear(16, 24), nn.Tanh()]
    for _ in range(10):
        layers += [nn.Linear(24, 24), nn.Tanh()]
    network = nn.Sequential(*layers, nn.Linear(24, 3))
    for layer in network:
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=0.3 / layer.in_features**0.5)
    network[0].requires_grad_(False)
    optimiser = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], 0.1)
    with Panel(network, optimiser, every=1, folder=tmp_path) as panel:
        for step in range(4):
            x = torch.randn(32, 16, generator=torch.Generator().manual_seed(step))
            optimiser.zero_grad()
            F.cross_entropy(network(x), torch.arange(32) % 3).backward()
            panel.gradients_ready()
            optimiser.step()
            panel.step()
    run = RunFolder(tmp_path)
    assert finding("vanishing-gradients", run).numbers["activations_first_to_last"] < 1e-3
    frozen = finding("frozen-layers", run)
    assert (frozen.severity, frozen.layers) == ("note", ("0",))
    assert Evidence(run).silence("probe", 0, 1) is None
