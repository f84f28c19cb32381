"""Gradients that vanish, explode or do not arrive, planted on purpose, are found, and healthy ones are not accused."""

from planted import kill, names, run_of, small_network, stack, the
from torch import nn

from alexnet_lab.diagnosis import health_of


def test_a_layer_dead_as_a_whole_cuts_the_gradient_behind_it(tmp_path):
    network = small_network()
    kill(network, {"3": tuple(range(16))})
    nn.init.ones_(network[5].bias)  # what stands above still has something to learn from
    run = run_of(tmp_path, network)
    vanished = the("vanishing-gradients", run)
    assert vanished.numbers["weights_first_to_last"] == 0
    assert "16 of 16 in 2 (N=200)" in vanished.evidence
    assert "past dead ReLUs" in vanished.title
    assert "nothing passes it" in the("dead-at-start", run).sentence


def test_a_stack_of_tanh_with_small_weights_vanishes(tmp_path):
    run = run_of(tmp_path, stack(nn.Tanh, 0.3))
    found = the("vanishing-gradients", run)
    assert found.severity == "serious"
    # Each of the eleven layers between takes a factor of about .3.
    assert 0.3**11 / 30 < found.numbers["activations_first_to_last"] * 0.3 < 0.3**11 * 30
    assert health_of(run)["dead_share"] is None


def test_a_stack_of_relu_with_large_weights_explodes_in_the_activations_though_not_in_the_weights(tmp_path):
    run = run_of(tmp_path, stack(nn.ReLU, 3 * 2**0.5), rate=1e-12, epochs=1)
    found = the("exploding-gradients", run)
    assert found.numbers["activations_first_to_last"] > 3**10 / 30
    # The products of weight and gradient are one size in all layers of such a network (Glorot and Bengio 2010).
    assert 1e-3 < found.numbers["weights_first_to_last"] < 1e3
    assert "The gradient of the weights is within the limit" in found.contrary


def test_a_stack_that_keeps_the_variance_neither_vanishes_nor_explodes(tmp_path):
    found = names(run_of(tmp_path, stack(nn.ReLU, 2**0.5), epochs=1))
    assert not {"vanishing-gradients", "exploding-gradients"} & set(found)


def test_a_layer_frozen_on_purpose_is_a_note_and_one_left_out_of_the_optimiser_is_serious(tmp_path):
    network = small_network()
    network[2].requires_grad_(False)
    found = the("frozen-layers", run_of(tmp_path / "a", network))
    assert (found.severity, found.layers) == ("note", ("2",))
    network = small_network()
    trained = [value for name, value in network.named_parameters() if not name.startswith("5")]
    found = the("frozen-layers", run_of(tmp_path / "b", network, trained=trained))
    assert (found.severity, found.layers) == ("serious", ("5",))
    assert "A gradient does arrive" in found.contrary


def test_a_layer_cut_off_by_a_detach_is_told_from_one_left_out(tmp_path):
    class Detach(nn.Module):
        def forward(self, x):
            return x.detach()

    network = small_network()
    network.insert(2, Detach())
    found = the("frozen-layers", run_of(tmp_path, network))
    assert (found.severity, found.layers) == ("serious", ("0",))
    assert "No gradient arrives" in found.contrary
