"""Runs of seconds on the digits, and what two of them must have in common."""

import subprocess
import sys
import time
from dataclasses import replace

import safetensors.torch
import torch

from alexnet_lab.records import RunFolder
from alexnet_lab.training.recipe import Recipe
from alexnet_lab.training.run import train_with_verdict

QUICK = Recipe(norm="bn", width=1 / 16, epochs=2, seed=1)
# 64 images in eight steps an epoch: enough for what a run writes and how it goes on, too few to learn from.
SMALL = replace(QUICK, data="synthetic:classes=3,side=16,count=107", batch_size=8)
LAST_BIT = ("train_loss", "train_accuracy", "validation_loss", "validation_auroc", "learning_rate")


def weights_of(path):
    return safetensors.torch.load_file(path / "checkpoints/best.safetensors")


def verdict_of(path):
    """The verdict, without what the run cost, and without the digests of files that say so too."""
    verdict = {name: RunFolder(path).verdict()[name] for name in ("state", "why", "result")}
    for cost in ("train_seconds", "images_per_second", "peak_memory_bytes", "measuring_share"):
        verdict["result"].pop(cost)
    return verdict


def assert_same_run(one, other):
    """Every number that learning produced is the same to the last bit."""
    for first, second in zip(RunFolder(one).metrics(), RunFolder(other).metrics(), strict=True):
        assert [first[name] for name in LAST_BIT] == [second[name] for name in LAST_BIT]
    assert verdict_of(one) == verdict_of(other)
    a, b = weights_of(one), weights_of(other)
    assert all(torch.equal(a[name], b[name]) for name in a)


def run_in(path, recipe, report=lambda _kind, _facts: None):
    return train_with_verdict(recipe, RunFolder(path), report)


def start_process(path, recipe):
    path.mkdir()
    (path / "recipe.json").write_text(recipe.to_json())
    command = [sys.executable, "-m", "alexnet_lab.training.run", str(path)]
    return command, subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def wait_for_epochs(path, count):
    deadline = time.monotonic() + 600  # for a machine that is busy; a quiet one takes seconds
    while len(list(RunFolder(path).metrics())) < count:
        assert time.monotonic() < deadline
        time.sleep(0.02)
