"""Units planted dead are found, each of them and no other; what is silent and healthy is not accused."""

import torch
from planted import PLANTED, kill, names, run_of, small_network, the
from torch import nn

from alexnet_lab.diagnosis import health_of
from alexnet_lab.diagnosis.evidence import Evidence


def test_planted_dead_units_are_found_exactly_in_convolutions_and_in_full_layers(tmp_path):
    network = small_network()
    kill(network)
    found = the("dead-at-start", run_of(tmp_path, network))
    assert found.units == PLANTED
    assert found.numbers["dead"] == 4 + 5 + 10
    assert found.layers == ("0", "2", "5")
    assert "N=200" in found.evidence
    assert "0.015" in found.evidence  # 3/N
    assert "19 of these 19 were off on all N=256 inputs too" in found.contrary  # the training counter agrees


def test_few_planted_dead_units_are_counted_exactly_though_they_are_no_finding(tmp_path):
    network = small_network()
    few = {"1": (5,), "6": (0, 19)}
    for layer in (0, 2, 5):  # every other unit fires on something
        nn.init.trunc_normal_(network[layer].weight, 0.05, 0.05, a=0.0, b=0.1)
        nn.init.constant_(network[layer].bias, 1.0)
    kill(network, few)
    run = run_of(tmp_path, network, rate=1e-4)
    dead = {site.name: Evidence(run).silence("probe", index, 3).dead for index, site in enumerate(Evidence(run).sites)}
    assert dead == {"1": (5,), "3": (), "6": (0, 19)}
    assert not {"dead-at-start", "dying-units"} & set(names(run))
    assert health_of(run)["dead_share"] == 3 / 48


def test_units_that_stay_on_the_negative_side_of_a_leaky_relu_are_no_finding(tmp_path):
    network = small_network(nn.LeakyReLU)
    with torch.no_grad():
        network[0].bias[list(PLANTED["1"])] = -20.0
    run = run_of(tmp_path, network)
    assert Evidence(run).silence("probe", 0, 3).dead == PLANTED["1"]  # there they are, on all 200 images
    assert names(run) == []


def test_units_killed_after_the_first_epoch_are_said_to_have_died(tmp_path):
    run = run_of(tmp_path, small_network(), between=lambda epoch, network: epoch == 1 and kill(network))
    found = the("dying-units", run)
    assert found.units == PLANTED
    assert found.epochs == (2, 3)
    assert "dead-at-start" not in names(run)


def test_units_that_revive_are_no_finding(tmp_path):
    network = small_network()
    kill(network, {"6": PLANTED["6"]})

    def revive(epoch, network):
        if epoch == 1:
            nn.init.zeros_(network[5].bias)

    assert names(run_of(tmp_path, network, between=revive)) == []
