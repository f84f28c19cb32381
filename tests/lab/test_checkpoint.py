"""Checkpoints: whole, in pairs, and honest about damage."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from alexnet_lab.training import checkpoint
from alexnet_lab.training.optim import build_optimiser, set_rate
from alexnet_lab.training.recipe import Recipe


def test_what_is_saved_comes_back_to_the_bit(tmp_path):
    tensors = {"network.a": torch.randn(3, 4), "optimiser.0.step": torch.tensor(7.0), "half": torch.randn(5).bfloat16()}
    checkpoint.save_step(tmp_path, 120, tensors, {"epoch": 3, "best": 0.1 + 0.2})
    found, passed_over = checkpoint.load_latest(tmp_path)
    assert found.facts["epoch"] == 3
    assert found.facts["best"] == 0.1 + 0.2
    assert all(torch.equal(found.tensors[name], value) for name, value in tensors.items())
    assert not passed_over


def test_the_newest_two_are_kept(tmp_path):
    for step in (5, 90, 100, 1000):
        checkpoint.save_step(tmp_path, step, {"x": torch.tensor(step)}, {"step": step})
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"step-{step:08}.{kind}" for step in (100, 1000) for kind in ("json", "safetensors")
    ]
    assert checkpoint.load_latest(tmp_path)[0].facts["step"] == 1000


@pytest.mark.parametrize("damage", ["cut", "flip", "empty json", "no tensors", "torn json", "nested"])
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
        case "nested":
            facts.write_text("[" * 100_000)
    found, passed_over = checkpoint.load_latest(tmp_path)
    assert found.facts["step"] == 1
    assert "step-00000002" in passed_over[0]
    with pytest.raises(ValueError, match="step-00000002"):
        checkpoint.load_checkpoint(tmp_path, "step-00000002")


def test_nothing_saved_is_nothing_found(tmp_path):
    assert checkpoint.load_latest(tmp_path) == (None, ())


FACTS = {"epoch": 5, "step_in_epoch": 3, "loss_sum": 1.25, "hits": 40.0, "best": None, "scaler": {"scale": 2.0}}


@pytest.mark.parametrize("name", FACTS)
@pytest.mark.parametrize("damage", ["another value", "lost"])
def test_facts_that_changed_are_no_checkpoint_and_the_one_before_is_used(tmp_path, name, damage):
    for step in (1, 2):
        checkpoint.save_step(tmp_path, step, {"x": torch.arange(9)}, {**FACTS, "step": step})
    path = tmp_path / "step-00000002.json"
    written = json.loads(path.read_text())
    if damage == "lost":
        del written[name]
    else:
        written[name] = 6
    path.write_text(json.dumps(written))
    found, (complaint,) = checkpoint.load_latest(tmp_path)
    assert found.facts["step"] == 1
    assert "step-00000002 is damaged" in complaint


def test_a_step_that_the_caller_cannot_use_is_passed_over_with_the_reason(tmp_path):
    for step in (1, 2):
        checkpoint.save_step(tmp_path, step, {"x": torch.arange(9)}, {"step": step})

    def check(candidate):
        if candidate.facts["step"] == 2:
            raise ValueError("the records of epoch 1 changed")

    found, complaints = checkpoint.load_latest(tmp_path, check)
    assert found.facts["step"] == 1
    assert complaints == (f"checkpoint {tmp_path / 'step-00000002'} cannot be used: the records of epoch 1 changed",)


@pytest.mark.parametrize("survives", [0, 1, 2])
def test_a_crash_while_the_best_weights_are_replaced_leaves_the_old_or_the_new(tmp_path, monkeypatch, survives):
    checkpoint.save_best(tmp_path, {"x": torch.tensor(1.0)}, {"epoch": 1})
    replace, replaced = Path.replace, []

    def crash(path, target):
        if len(replaced) == survives:
            raise KeyboardInterrupt
        replaced.append(target)
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", crash)
    if survives < 2:
        with pytest.raises(KeyboardInterrupt):
            checkpoint.save_best(tmp_path, {"x": torch.tensor(2.0)}, {"epoch": 2})
    else:
        checkpoint.save_best(tmp_path, {"x": torch.tensor(2.0)}, {"epoch": 2})
    found = checkpoint.load_checkpoint(tmp_path, "best")
    assert found.facts["epoch"] == found.tensors["x"].item() == (2 if survives == 2 else 1)


def test_weights_of_version_0_1_0_are_read(tmp_path):
    content = safetensors.torch.save({"x": torch.arange(3)})
    (tmp_path / "best.safetensors").write_bytes(content)
    digest = hashlib.blake2b(content, digest_size=16).hexdigest()
    (tmp_path / "best.json").write_text(json.dumps({"epoch": 4, "digest": digest}))
    assert checkpoint.load_checkpoint(tmp_path, "best").facts["epoch"] == 4


@pytest.mark.parametrize("name", ["sgd", "krizhevsky", "adamw"])
def test_an_optimiser_goes_on_as_if_it_had_never_stopped(name, device):
    def steps(network, optimiser, count, first=0):
        for step in range(first, first + count):
            set_rate(optimiser, 0.1 / (1 + step))
            optimiser.zero_grad()
            network(torch.full((2, 3), float(step + 1), device=device)).square().sum().backward()
            optimiser.step()

    torch.manual_seed(0)
    straight = nn.Linear(3, 2).to(device)
    resumed = nn.Linear(3, 2).to(device)
    resumed.load_state_dict(straight.state_dict())
    recipe = Recipe(optimiser=name)
    whole, half = build_optimiser(recipe, straight), build_optimiser(recipe, resumed)
    steps(straight, whole, 6)
    steps(resumed, half, 3)
    tensors = {key: value.detach().cpu().clone() for key, value in checkpoint.optimiser_tensors(half).items()}
    fresh = build_optimiser(recipe, resumed)
    checkpoint.restore_optimiser(fresh, tensors)
    steps(resumed, fresh, 3, first=3)
    assert torch.equal(straight.weight, resumed.weight)
    assert torch.equal(straight.bias, resumed.bias)


@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="needs Linux, which says what a process held at most"
)
def test_a_checkpoint_is_written_without_a_second_copy_in_memory(tmp_path):
    program = """
import re, sys
from pathlib import Path
import torch
from alexnet_lab.training import checkpoint

def most_held():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024

tensors = {"x": torch.ones(100, 2**18)}  # 100 MiB
checkpoint.save_step(Path(sys.argv[1]), 1, {"x": torch.ones(10)}, {})
before = most_held()
checkpoint.save_step(Path(sys.argv[1]), 2, tensors, {})
checkpoint.save_best(Path(sys.argv[1]), tensors, {})
checkpoint.save_best(Path(sys.argv[1]), tensors, {})
print(most_held() - before)
"""
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 30
