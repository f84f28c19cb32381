"""A panel never ends a training: what it cannot count it warns of once, and no count goes to a wrong layer."""

import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from counted import batch, small_network, train
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from alexnet_lab.instruments import dying_relu
from alexnet_lab.instruments.counters import Alone
from alexnet_lab.instruments.panel import Panel


def dead_units(panel, name, split=0):
    """The units of a site that were off on every input, and on how many inputs they were counted."""
    units = panel.tables[1]["units"]
    at = [site.name for site in panel.layout().sites].index(name)
    rows = (units["site"] == at) & (units["split"] == split)
    dead = dying_relu.is_dead(units["off"][rows], units["inputs"][rows])
    return np.flatnonzero(dead).tolist(), set(units["inputs"][rows].tolist())


def kill(layer, units):
    """Plant dead units: the others fire on every input."""
    with torch.no_grad():
        layer.weight.mul_(0.01)
        layer.bias.fill_(1.0)
        layer.bias[units] = -1e6


def run(network, *inputs, steps=1, says=None):
    """Train under a panel, which warns of `says` and of nothing else."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        with Panel(network, every=1) as panel:
            for x in inputs * steps:
                out = network(x)
                out.float().sum().backward()
                panel.step()
    messages = [str(warning.message) for warning in warned]
    assert len(messages) == (0 if says is None else 1), messages
    if says is not None:
        assert says in messages[0]
        assert says in panel.summary()
    return panel


class Skipping(nn.Module):
    """One nn.ReLU for all layers, of which the middle one is sometimes skipped."""

    def __init__(self, widths):
        super().__init__()
        self.act = nn.ReLU()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip((8, *widths), widths, strict=False))

    def forward(self, x, skip):
        for at, layer in enumerate(self.layers):
            if not (skip and at == 1):
                x = self.act(layer(x))
        return x


@pytest.mark.parametrize("widths", [(8, 8, 12), (8, 8, 8)])
def test_a_layer_that_is_sometimes_skipped_costs_the_others_no_count(widths):
    network = Skipping(widths)
    planted = ([1, 6], [0], [3])
    for layer, dead in zip(network.layers, planted, strict=True):
        kill(layer, dead)
    with Panel(network, every=1) as panel:
        for step in range(6):
            network(torch.randn(5, 8), skip=step % 2 == 1).sum().backward()
            panel.step()
    assert [site.fed_by for site in panel.layout().sites] == ["layers.0", "layers.1", "layers.2"]
    for name, dead, passes in zip(("act", "act#2", "act#3"), planted, (6, 3, 6), strict=True):
        assert dead_units(panel, name) == (dead, {5 * passes})


class Words(nn.Module):
    """Embedding, activation, recurrence, activation, head."""

    def __init__(self, recurrence=nn.LSTM, batch_first=True):
        super().__init__()
        torch.manual_seed(0)
        self.words, self.first, self.second = nn.Embedding(20, 6), nn.ReLU(), nn.ReLU()
        self.recurrence, self.head = recurrence(6, 9, batch_first=batch_first), nn.Linear(9, 2)

    def forward(self, x):
        return self.head(self.second(self.recurrence(self.first(self.words(x)))[0]))


@pytest.mark.parametrize("recurrence", [nn.LSTM, nn.GRU, nn.RNN])
def test_lengths_that_vary_end_no_training_and_units_are_those_of_the_embedding(recurrence):
    network = Words(recurrence)
    with torch.no_grad():
        network.words.weight[:, [2, 5]] = -1.0
    inputs = [torch.randint(20, (4, length)) for length in (7, 3, 11, 6)]
    panel = run(network, *inputs, says=f"recurrence ({recurrence.__name__}) are not looked into")
    assert [(site.units, site.unit) for site in panel.layout().sites] == [(6, "neuron"), (9, "neuron")]
    dead, counted = dead_units(panel, "first")
    assert counted == {16}
    assert {2, 5} <= set(dead)


def test_sequences_that_come_first_are_named():
    network = Words(batch_first=False)
    panel = Panel(network, every=1)
    with warnings.catch_warnings(record=True) as warned, panel:
        warnings.simplefilter("always")
        network(torch.randint(20, (7, 4))).sum().backward()
        panel.step()
    assert any("take sequences first" in str(warning.message) for warning in warned)
    assert "recurrence (LSTM) take sequences first" in panel.summary()


def test_what_is_inside_of_attention_is_named_and_a_transformer_layer_counts_its_function():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    kill(layer.linear1, [4, 9])
    panel = run(layer, torch.randn(5, 7, 8), steps=3, says="self_attn (MultiheadAttention) are not looked into")
    assert [(s.name, s.fed_by, s.units) for s in panel.layout().sites] == [("relu(linear1)", "linear1", 16)]
    assert dead_units(panel, "relu(linear1)") == ([4, 9], {15})


def test_parts_called_by_themselves_have_one_site_each_however_long_it_goes_on():
    network = nn.ModuleDict(
        {
            "enc": nn.Sequential(nn.Linear(4, 6), nn.ReLU()),
            "dec": nn.Sequential(nn.Linear(6, 5), nn.ReLU()),
            "fc": nn.Linear(5, 3),
            "act": nn.ReLU(),
        }
    )
    kill(network["enc"][0], [1])
    with Panel(network, every=1) as panel:
        for _ in range(50):
            for _ in range(2):  # a batch in parts
                x = network["act"](network["fc"](network["dec"](network["enc"](torch.randn(3, 4)))))
                x.sum().backward()
            panel.step()
    assert [(s.name, s.fed_by) for s in panel.layout().sites] == [("enc.1", "enc.0"), ("dec.1", "dec.0"), ("act", "fc")]
    assert dead_units(panel, "enc.1") == ([1], {300})


def test_an_activation_called_by_itself_again_and_again_has_one_site():
    network = nn.ModuleDict({"fc": nn.Linear(4, 4), "act": nn.ReLU()})
    with Panel(network, every=1) as panel:
        x = network["fc"](torch.randn(3, 4))
        for _ in range(30):
            x = network["act"](x - 0.01)
        x.sum().backward()
        panel.step()
    assert [(site.name, site.fed_by) for site in panel.layout().sites] == [("act", "fc")]
    assert dead_units(panel, "act")[1] == {90}


def test_functions_in_parts_called_by_themselves_are_counted():
    class Part(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x):
            return F.relu(self.fc(x))

    network = nn.ModuleDict({"enc": Part(), "dec": Part()})
    kill(network["dec"].fc, [2])
    with Panel(network, every=1) as panel:
        for _ in range(20):
            network["dec"](network["enc"](torch.randn(3, 4))).sum().backward()
            panel.step()
    assert [site.name for site in panel.layout().sites] == ["relu(enc.fc)", "relu(dec.fc)"]
    assert dead_units(panel, "relu(dec.fc)") == ([2], {60})


def test_a_layer_that_recurs_has_one_site_for_all_its_runs():
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell, self.act = nn.Linear(4, 4), nn.ReLU()

        def forward(self, x):
            for _ in range(len(x)):  # as often as the batch is large
                x = self.act(self.cell(x))
            return x

    network = Recurrent()
    kill(network.cell, [3])
    panel = run(network, *(torch.randn(count, 4) for count in (3, 5, 2)))
    assert [site.name for site in panel.layout().sites] == ["act"]
    assert dead_units(panel, "act") == ([3], {9 + 25 + 4})


def test_a_network_left_in_eval_mode_is_named_once():
    network = small_network()
    says = r"eval mode are not counted \(from step 3 on\)"
    with pytest.warns(UserWarning, match=says) as warned, Panel(network, every=1) as panel:
        train(network, panel, 2)
        network.eval()
        train(network, panel, 3)
    assert len(warned) == 1
    assert set(panel.tables[1]["units"]["inputs"]) == {16}
    assert "call model.train()" in panel.summary()


def test_validation_in_eval_mode_is_no_limit():
    network = small_network()
    with Panel(network, every=1) as panel:
        for _ in range(2):
            train(network.train(), panel)
            with torch.no_grad():
                network.eval()(batch(3)[0])
    assert panel.limits.sentences() == []


class Frozen(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(4, 6), nn.ReLU())
        self.fc, self.act = nn.Linear(6, 5), nn.ReLU()

    def forward(self, x):
        with torch.no_grad():
            x = self.backbone(x)
        return self.act(self.fc(x))


def test_a_frozen_backbone_is_named_once_and_the_rest_counted():
    panel = run(Frozen(), torch.randn(7, 4), steps=3, says="backbone.1 ran without gradients")
    assert [site.name for site in panel.layout().sites] == ["act"]
    assert dead_units(panel, "act")[1] == {21}


def test_a_backbone_frozen_by_its_parameters_alone_is_counted():
    network = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)).requires_grad_(False)
    network[2].requires_grad_(True)
    kill(network[0], [2])
    assert dead_units(run(network, torch.randn(5, 4)), "1") == ([2], {5})


class Moved(nn.Module):
    """A convolution, its channels put last, and an activation."""

    def __init__(self, side, channels):
        super().__init__()
        self.conv, self.act = nn.Conv2d(3, channels, 3, padding=1), nn.ReLU()
        self.side = side

    def forward(self, x):
        return self.act(self.conv(x).permute(0, 2, 3, 1))


def test_channels_put_last_are_still_the_units():
    network = Moved(5, 8)
    kill(network.conv, [0, 7])
    panel = run(network, torch.randn(4, 3, 5, 5))
    (site,) = panel.layout().sites
    assert (site.units, site.unit) == (8, "channel")
    assert dead_units(panel, "act") == ([0, 7], {4})


def test_rows_that_are_as_many_as_channels_are_named_where_dimensions_were_exchanged():
    run(Moved(8, 8), torch.randn(4, 3, 8, 8), says="units may be rows")
    run(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU()), torch.randn(4, 3, 8, 8))


def test_units_that_are_not_as_many_as_the_layers_are_named():
    class Joined(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two, self.act = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 5, 1), nn.ReLU()

        def forward(self, x):
            return self.act(torch.cat([self.one(x), self.two(x)], 1))

    panel = run(Joined(), torch.randn(4, 3, 6, 6), says="may be rows or positions")
    assert panel.layout().sites[0].units == 9


def test_rows_that_are_not_the_batch_are_named():
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.act = nn.Linear(4, 6), nn.ReLU()

        def forward(self, x):  # N T 4
            return self.act(self.fc(x.flatten(0, 1)))

    panel = run(Tokens(), torch.randn(3, 5, 4), says="is not that of the batch")
    assert dead_units(panel, "act")[1] == {15}


def test_a_single_input_without_a_batch_has_its_channels_counted():
    network = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU())
    kill(network[0], [4])
    assert dead_units(run(network, torch.randn(3, 8, 8), steps=2), "1") == ([4], {2})


@pytest.mark.parametrize("norm", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_the_matrices_of_a_parametrized_layer_are_no_pre_activations(norm):
    network = nn.Sequential(norm(nn.Linear(4, 6)), nn.ReLU(), norm(nn.Linear(6, 2)))
    with torch.no_grad():
        network[0].bias[[1, 3]] = -1e6
        network[0].bias[[0, 2, 4, 5]] = 1e3
    panel = run(network, torch.randn(5, 4))
    assert [(site.name, site.fed_by) for site in panel.layout().sites] == [("1", "0")]
    assert dead_units(panel, "1") == ([1, 3], {5})
    assert {parameter.layer for parameter in panel.layout().parameters} == {"0", "2"}


def test_activations_that_make_a_weight_are_not_counted():
    class Positive(nn.Module):
        def forward(self, weight):
            return F.softplus(weight)

    network = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    parametrize.register_parametrization(network[0], "weight", nn.Softplus())
    parametrize.register_parametrization(network[2], "weight", Positive())
    assert [site.name for site in run(network, torch.randn(5, 4)).layout().sites] == ["1"]


def test_a_width_that_changes_is_named_and_the_first_one_counted():
    class Widening(nn.Module):
        def __init__(self):
            super().__init__()
            self.act, self.scale = nn.ReLU(), nn.Parameter(torch.ones(()))

        def forward(self, x):
            return self.act(x) * self.scale

    panel = run(Widening(), *(torch.randn(3, width) for width in (4, 6, 4)), says="the width of act changes")
    assert dead_units(panel, "act")[1] == {6}


def test_lazy_layers_are_counted_once_they_have_weights():
    network = nn.Sequential(nn.LazyLinear(6), nn.ReLU(), nn.LazyBatchNorm1d(), nn.LazyLinear(2))
    panel = run(network, torch.randn(5, 4))
    assert [(site.name, site.fed_by) for site in panel.layout().sites] == [("1", "0")]
    assert [parameter.layer for parameter in panel.layout().parameters] == ["0", "0", "2", "2", "3", "3"]


class Empty(nn.Module):
    def forward(self, x):
        return torch.relu(x * 1.0)


def test_networks_without_parameters_and_tensors_that_cannot_be_counted_end_nothing():
    x = torch.randn(3, 4, requires_grad=True)
    assert dead_units(run(Empty(), x), "relu(input)")[1] == {3}
    run(Empty(), torch.zeros(0, 4, requires_grad=True), says="tensors that cannot be counted")
    network = nn.Sequential(nn.Linear(4, 3, dtype=torch.complex64), nn.Tanh())
    with pytest.warns(UserWarning, match="0.weight, 0.bias are not measured"), Panel(network, every=1) as panel:
        network(torch.randn(5, 4, dtype=torch.complex64)).abs().sum().backward()
        panel.step()
    assert panel.layout().parameters == ()


def test_gradients_of_each_sample_by_torch_func_are_computed_as_without_a_panel():
    network = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 1))
    parameters = dict(network.named_parameters())
    x = torch.randn(5, 4)

    def loss(parameters, sample):
        return torch.func.functional_call(network, parameters, (sample,)).sum()

    per_sample = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))
    expected = per_sample(parameters, x)
    with pytest.warns(UserWarning, match="torch.func"), Panel(network, every=1) as panel:
        gradients = per_sample(parameters, x)
        panel.step()
    assert all(torch.equal(gradients[name], value) for name, value in expected.items())


def test_many_gradients_at_once_end_nothing():
    network = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    with pytest.warns(UserWarning, match="gradients that arrived at 1"), Panel(network, every=1) as panel:
        y = network(torch.randn(2, 4))
        torch.autograd.grad(y, list(network.parameters()), torch.eye(6).view(6, 2, 3), is_grads_batched=True)
        panel.step()
    assert dead_units(panel, "1")[1] == {2}


def test_a_probe_in_inference_mode_before_training_ends_nothing():
    network = small_network()
    with Panel(network, every=1) as panel:
        with panel.probing(), torch.inference_mode():
            network.eval()(batch()[0])
        train(network.train(), panel)
    units = panel.tables[1]["units"]
    assert set(units["inputs"]) == {8}
    assert set(units["split"]) == {0, 1}


def test_parameters_that_come_later_are_named():
    network = small_network()
    with pytest.warns(UserWarning, match=r"8.weight, 8.bias are not measured"), Panel(network, every=1) as panel:
        train(network, panel)
        network.append(nn.Linear(5, 5))
        train(network, panel)


def test_a_fused_optimiser_with_scaled_gradients_goes_on():
    network = small_network()
    optimiser = torch.optim.SGD(network.parameters(), 0.1, fused=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    says, panel = "gradients were still scaled when SGD began", Panel(network, optimiser, every=1, scaler=scaler)
    with pytest.warns(UserWarning, match=says) as warned, panel:
        for step in range(3):
            optimiser.zero_grad()
            scaler.scale(F.cross_entropy(network(batch(step)[0]), batch(step)[1])).backward()
            scaler.step(optimiser)
            scaler.update()
            panel.step()
    assert len(warned) == 1
    assert len(panel.tables[1]["steps"]["step"]) == 0
    assert set(panel.tables[1]["units"]["inputs"]) == {24}


class Other(Alone):
    """The first of two processes; the other one says what `theirs` makes of this one's numbers."""

    count = 2

    def __init__(self, theirs):
        self.theirs = theirs

    def sum(self, values):
        return values + self.theirs(values)


def test_processes_that_met_different_activations_are_not_added_up():
    network = small_network()
    with Panel(network, every=1, processes=Other(lambda values: values)) as panel:
        train(network, panel)
    assert set(panel.tables[1]["units"]["inputs"]) == {16}
    differs = Other(lambda values: torch.tensor([5, 25]) if len(values) == 2 else pytest.fail("added up"))
    panel = Panel(network, every=1, processes=differs)
    with pytest.warns(UserWarning, match="met different activations"), panel:
        train(network, panel)
    assert set(panel.tables[1]["units"]["inputs"]) == {8}


def test_a_panel_goes_on_from_what_an_earlier_version_saved():
    def saved_midway(panel, network):
        train(network, panel, 3)
        tensors, facts = panel.save()
        return {name: value.clone() for name, value in tensors.items()}, facts

    class Sharing(nn.Sequential):
        def forward(self, x):
            act = self[1]
            return self[4](act(self[2](act(self[0](x)))).flatten(1))

    def made():
        torch.manual_seed(0)
        return Sharing(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.Identity(), nn.Linear(64, 5))

    network = made()
    with Panel(network, every=1) as panel:
        tensors, facts = saved_midway(panel, network)
    for site, use in zip(facts["sites"], (1, 2), strict=True):
        del site["axis"]
        site["use"] = use  # counted over the whole pass
    onward = Panel(network, every=1)
    onward.restore(tensors, facts, 1)
    with onward:
        train(network, onward, 2)
    assert [(site.name, site.fed_by) for site in onward.layout().sites] == [("1", "0"), ("1#2", "2")]
    assert set(onward.tables[1]["units"]["inputs"]) == {5 * 8}


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:The .grad attribute:UserWarning")
def test_a_compiled_network_without_a_survey_trains_on_and_is_named_once():
    torch._dynamo.reset()
    network = small_network()
    forward = torch.compile(network)
    with pytest.warns(UserWarning, match=r"panel.survey\(batch\)") as warned, Panel(network, every=2) as panel:
        train(network, panel, 4, forward=forward)
    assert len(warned) == 1
    assert len(panel.tables[1]["units"]["inputs"]) == 0
    assert len(panel.tables[1]["steps"]["step"]) == 2 * 8
