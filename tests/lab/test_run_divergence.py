"""A loss or an output that is not finite ends a run as `diverged`, and says where it began."""

import re
from dataclasses import replace

import pytest
import torch
from quick_runs import QUICK, run_in, start_process

from alexnet_lab.data.feed import open_feed
from alexnet_lab.networks import build_network
from alexnet_lab.records import RunFolder
from alexnet_lab.training import trainer
from alexnet_lab.training.errors import DivergedError
from alexnet_lab.training.evaluation import evaluate
from alexnet_lab.training.run import main

pytestmark = pytest.mark.usefixtures("torch_settings")


def test_a_run_that_diverges_says_where_and_keeps_what_it_logged(tmp_path, quick):
    (tmp_path / "run").mkdir()
    wild = replace(quick, norm="none", learning_rate=1e4, epochs=3)
    (tmp_path / "run" / "recipe.json").write_text(wild.to_json())
    assert main([str(tmp_path / "run")]) == 0
    verdict = RunFolder(tmp_path / "run").verdict()
    assert verdict["state"] == "diverged"
    assert re.search(r"at step \d+, epoch 1: the last update made (conv|fc)\d\.\w+ infinite or NaN", verdict["why"])


def test_losses_that_are_read_late_name_the_same_step_and_layer(tmp_path, monkeypatch, quick):
    built, cross_entropy = [], torch.nn.functional.cross_entropy
    network_of = trainer.network_of

    def capture(*arguments):
        built.append(network_of(*arguments))
        return built[-1]

    def planted(scores, labels, **options):
        """Step 3 breaks conv2 alone; step 4 then breaks every layer."""
        loss = cross_entropy(scores, labels, **options)
        if built[-1].training:
            steps.append(loss)
            if len(steps) == 3:
                loss = loss + torch.nan * built[-1].get_parameter("conv2.weight").sum()
        return loss

    monkeypatch.setattr(trainer, "network_of", capture)
    monkeypatch.setattr(trainer.F, "cross_entropy", planted)
    for every in (1, 20):
        steps = []
        monkeypatch.setitem(trainer.STEPS_BETWEEN_READS, quick.device, every)
        assert run_in(tmp_path / str(every), quick) == 0
        why = RunFolder(tmp_path / str(every)).verdict()["why"]
        assert why == "the loss was nan at step 3, epoch 1: the last update made conv2.weight infinite or NaN"


def overflowing(network, *_):
    """Weights that are finite, and whose outputs are not."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(1e30)
    return network


@pytest.mark.parametrize("change", [{}, {"ema": 0.9}, {"precision": "bf16"}, {"instruments": "off"}])
def test_a_bad_number_of_the_last_update_of_an_epoch_is_a_divergence(tmp_path, change, quick):
    one_step = replace(quick, norm="none", batch_size=1079, learning_rate=1e30, **change)
    assert run_in(tmp_path, one_step) == 0
    verdict = RunFolder(tmp_path).verdict()
    assert verdict["state"] == "diverged"
    assert re.fullmatch(
        r"in validation after epoch 1, the output for \d+ of 359 images was infinite or NaN: "
        r"(the output of \w+ is the first that is not finite|the last update made [\w.]+ infinite or NaN.*)",
        verdict["why"],
    )
    assert run_in(tmp_path, one_step) == 0  # and again, as an ended run that is repeated
    assert RunFolder(tmp_path).verdict()["why"] == verdict["why"]


@pytest.mark.parametrize("ten_views", [False, True])
@pytest.mark.parametrize("part", ["validation", "test"])
def test_tested_weights_whose_output_overflows_are_a_divergence(tmp_path, monkeypatch, part, ten_views, quick):
    original, seen = trainer.probabilities_of, []

    def probabilities_of(network, feed, indices, *rest):
        seen.append(len(indices))
        # One epoch's validation first, then validation and test of the tested weights.
        bad = len(seen) == {"validation": 2, "test": 3}[part]
        return original(overflowing(network) if bad else network, feed, indices, *rest)

    monkeypatch.setattr(trainer, "probabilities_of", probabilities_of)
    monkeypatch.setattr(trainer, "MOST_KEPT", 0)  # else an epoch's validation is that of the weights to be tested
    assert run_in(tmp_path, replace(quick, epochs=1, batch_size=256, ten_views=ten_views, norm="none")) == 0
    verdict = RunFolder(tmp_path).verdict()
    assert verdict["state"] == "diverged"
    assert verdict["why"].startswith(f"in {part}, weights of epoch 1, the output for 359 of 359 images was infinite")


def test_one_bad_image_among_many_is_found_and_its_layer_named(device):
    feed = open_feed("digits", image_size=67, device=device)
    network = build_network("alexnet", 10, norm="none", width=1 / 16, image_size=67, in_channels=1).to(device)
    indices = feed.split.test[:40]
    pixels = next(feed.batches_of(indices, 40))[0]

    class Poison(torch.nn.Module):
        def forward(self, x):
            is_bad = (x == pixels[33]).flatten(1).all(1)
            return torch.where(is_bad[:, None, None, None], float("-inf"), x)

    poisoned = torch.nn.Sequential(Poison(), network)
    with pytest.raises(DivergedError, match="the output for 1 of 40 images .* the output of 0 is the first"):
        evaluate(poisoned, feed, indices, 16)
    assert evaluate(poisoned, feed, indices[:33], 16)["images"] == 33


@pytest.mark.long
def test_a_compiled_run_that_diverges_in_evaluation_says_so(tmp_path):
    wild = replace(QUICK, norm="none", batch_size=1079, learning_rate=1e30, compile=True)
    _, process = start_process(tmp_path / "run", wild)  # torch.compile warns of much that is not ours
    process.communicate()
    assert RunFolder(tmp_path / "run").verdict()["state"] == "diverged"
