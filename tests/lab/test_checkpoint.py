"""Checkpoints: whole, in pairs, and honest about damage."""

import pytest
import torch
from torch import nn

from alexnet_lab.training import checkpoint
from alexnet_lab.training.optim import build_optimiser, set_rate
from alexnet_lab.training.recipe import Recipe


def test_what_is_saved_comes_back_to_the_bit(tmp_path):
    tensors = {"network.a": torch.randn(3, 4), "optimiser.0.step": torch.tensor(7.0), "half": torch.randn(5).bfloat16()}
    checkpoint.save_step(tmp_path, 120, tensors, {"epoch": 3, "best": 0.1 + 0.2})
    found = checkpoint.load_latest(tmp_path)
    assert found.facts["epoch"] == 3
    assert found.facts["best"] == 0.1 + 0.2
    assert all(torch.equal(found.tensors[name], value) for name, value in tensors.items())
    assert not found.damaged


def test_the_newest_two_are_kept(tmp_path):
    for step in (5, 90, 100, 1000):
        checkpoint.save_step(tmp_path, step, {"x": torch.tensor(step)}, {"step": step})
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"step-{step:08}.{kind}" for step in (100, 1000) for kind in ("json", "safetensors")
    ]
    assert checkpoint.load_latest(tmp_path).facts["step"] == 1000


@pytest.mark.parametrize("damage", ["cut", "flip", "empty json", "no tensors", "torn json"])
def test_a_damaged_checkpoint_is_passed_over_and_named(tmp_path, damage):
    for step in (1, 2):
        checkpoint.save_step(tmp_path, step, {"x": torch.arange(1000)}, {"step": step})
    data, facts = tmp_path / "step-00000002.safetensors", tmp_path / "step-00000002.json"
    content = bytearray(data.read_bytes())
    match damage:
        case "cut":
            data.write_bytes(content[: len(content) // 2])
        case "flip":
            content[-100] ^= 1
            data.write_bytes(content)
        case "empty json":
            facts.write_text("")
        case "no tensors":
            data.unlink()
        case "torn json":
            facts.write_text(facts.read_text()[:-20])
    found = checkpoint.load_latest(tmp_path)
    assert found.facts["step"] == 1
    assert "step-00000002" in found.damaged[0]
    with pytest.raises(ValueError, match="step-00000002"):
        checkpoint.load_checkpoint(tmp_path, "step-00000002")


def test_nothing_saved_is_nothing_found(tmp_path):
    assert checkpoint.load_latest(tmp_path) is None


@pytest.mark.parametrize("name", ["sgd", "krizhevsky", "adamw"])
def test_an_optimiser_goes_on_as_if_it_had_never_stopped(name):
    def steps(network, optimiser, count, first=0):
        for step in range(first, first + count):
            set_rate(optimiser, 0.1 / (1 + step))
            optimiser.zero_grad()
            network(torch.full((2, 3), float(step + 1))).square().sum().backward()
            optimiser.step()

    torch.manual_seed(0)
    straight = nn.Linear(3, 2)
    resumed = nn.Linear(3, 2)
    resumed.load_state_dict(straight.state_dict())
    recipe = Recipe(optimiser=name)
    whole, half = build_optimiser(recipe, straight), build_optimiser(recipe, resumed)
    steps(straight, whole, 6)
    steps(resumed, half, 3)
    tensors = {key: value.clone() for key, value in checkpoint.optimiser_tensors(half).items()}
    fresh = build_optimiser(recipe, resumed)
    checkpoint.restore_optimiser(fresh, tensors)
    steps(resumed, fresh, 3, first=3)
    assert torch.equal(straight.weight, resumed.weight)
    assert torch.equal(straight.bias, resumed.bias)
