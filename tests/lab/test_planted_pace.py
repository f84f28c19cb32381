"""Rates and scales that do not fit, planted on purpose, are found, and those that do are not accused."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from planted import names, pictures, run_of, small_network, the
from torch import nn

from alexnet_lab.diagnosis.evidence import Evidence
from alexnet_lab.records import RunFolder
from alexnet_lab.training.recipe import Recipe
from alexnet_lab.training.run import train_with_verdict


@pytest.mark.parametrize(("scale", "word"), [(100.0, "large"), (0.01, "small")])
def test_inputs_of_the_wrong_size_for_the_initial_values_are_found(tmp_path, scale, word):
    found = the("wrong-scale-for-init", run_of(tmp_path, small_network(), rate=1e-7, epochs=1, scale=scale))
    assert f"too {word}" in found.title
    # He on inputs of that spread puts out sqrt(2) times it.
    assert found.numbers["first_signal"] == pytest.approx(scale * 2**0.5, rel=0.6)


def test_behind_a_batch_norm_the_size_of_the_inputs_is_no_finding(tmp_path):
    run = run_of(tmp_path, small_network(norm=True), epochs=1, scale=100.0)
    assert "wrong-scale-for-init" not in names(run)


def test_a_rate_too_low_is_found_and_the_gradient_cleared_of_it(tmp_path):
    found = the("rate-too-low", run_of(tmp_path, small_network(), rate=1e-6))
    assert found.contrary.startswith("None")


def test_a_rate_too_high_is_found(tmp_path):
    found = the("rate-too-high", run_of(tmp_path, small_network(), rate=1.0))
    assert found.severity == "serious"
    assert found.numbers["update_ratio"] > 0.01


def with_norm(k, place):
    """The small network with response normalisation behind that module of it: it divides by k to the power .75."""
    network = small_network()
    network.insert(place, nn.LocalResponseNorm(5, alpha=1e-6, k=k))
    return network


def sizes_of(network):
    """Root mean square of what enters each activation, by numpy, on the pictures that run_of trains on."""
    sizes = []
    hooks = [
        module.register_forward_pre_hook(lambda _module, x: sizes.append(float(np.sqrt((x[0].numpy() ** 2).mean()))))
        for module in network
        if isinstance(module, nn.ReLU)
    ]
    with torch.no_grad():
        network(pictures(256, 1)[0])
    for hook in hooks:
        hook.remove()
    return sizes


def test_a_norm_that_stands_where_it_spoils_the_size_of_the_signal_is_found(tmp_path):
    network = with_norm(1e-3, 2)  # behind the first ReLU: 178 times the size
    sizes = sizes_of(network)
    run = run_of(tmp_path, network, rate=1e-9, epochs=1, recipe={"norm": "lrn:k=0.001,layers=1"})
    found = the("misplaced-norm", run)
    assert found.numbers["spread"] == pytest.approx(max(sizes) / min(sizes), rel=0.5)  # of powers of two
    assert found.numbers["spread"] > 100
    assert found.layers == ("0", "3", "6")
    assert "lrn in an unusual place (layers=1)" in found.title
    assert "alexnet-lab ablate --norm" in found.contrary


@pytest.mark.parametrize(
    ("k", "norm", "rate"),
    [
        (1e-3, "lrn:k=0.001", 1e-9),  # where it belongs: then it is not the place
        (1e-3, None, 1e-9),  # nobody asked for one
        (1.0, "lrn:k=1,layers=1", 1e-9),  # an unusual place that leaves the signal its size
        (1.0, "lrn:k=1,layers=1", 0.02),  # and lets the network learn
        (0.05, "lrn:k=0.05,layers=1", 0.002),  # an unusual place, with a signal that grows nine times: it learns
    ],
)
def test_a_norm_in_its_place_or_one_that_does_no_harm_is_not_accused(tmp_path, k, norm, rate):
    network = with_norm(k, 2)
    spread = max(sizes_of(network)) / min(sizes_of(network))
    assert (spread > 8) == (k < 1)
    run = run_of(tmp_path, network, rate=rate, epochs=1 if rate < 1e-6 else 6, recipe={"norm": norm})
    assert "misplaced-norm" not in names(run)
    if rate > 1e-6:
        assert Evidence(run).curve("validation_accuracy")[-1] > 0.9


def trained(folder, norm, **changes):
    """A run of the trainer on small pictures made to order."""
    asked = Recipe(data="synthetic:classes=4,side=32,count=160", width=0.125, epochs=2, instruments="all", norm=norm)
    before = torch.get_num_threads()
    train_with_verdict(replace(asked, **changes), RunFolder(folder))
    torch.set_num_threads(before)
    return RunFolder(folder)


def test_a_run_with_its_norm_in_the_wrong_place_is_told_so_and_one_with_it_in_its_place_is_not(tmp_path):
    # LRN before the third ReLU with so small a k makes the signal 31 times larger, in one layer of five.
    found = the("misplaced-norm", trained(tmp_path / "a", "lrn:k=0.01,before,layers=3", learning_rate=1e-6))
    assert found.numbers["spread"] > 20
    assert found.layers == (*(f"conv{i}" for i in range(1, 6)), "fc6", "fc7")
    assert "unusual place (before, layers=3)" in found.title
    for at, norm in enumerate(("lrn:k=0.01", "lrn:k=2,before,layers=3", "bn")):
        run = trained(tmp_path / f"b{at}", norm, learning_rate=1e-6)
        assert "misplaced-norm" not in names(run), norm


def test_a_norm_in_an_unusual_place_that_learns_is_healthy(tmp_path):
    pictures_of_two = "synthetic:classes=2,side=32,count=400,difficulty=0.1"
    run = trained(tmp_path, "bn:after", data=pictures_of_two, epochs=4, instruments="default")
    assert Evidence(run).curve("validation_accuracy")[-1] > 0.9
    assert names(run) == []
