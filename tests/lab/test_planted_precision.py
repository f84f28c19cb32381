"""What a precision cannot hold, planted on purpose, is found, and what it can is not accused."""

import json

import torch
from planted import names, run_of, small_network, the
from torch import nn


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
