"""Under gradient checkpointing the panel counts each activation once, or says that it does not count it.

Whether a module runs again in the backward pass is asked of torch by a private name (watching._is_second_run): these
tests fail where a version of torch answers otherwise.
"""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

from alexnet_lab.instruments.panel import Panel

DEAD = {"first": (1, 4), "block": (0, 2, 5)}


class Residual(nn.Module):
    """One activation module in two places, the first of them at the border of what is checkpointed."""

    def __init__(self, width):
        super().__init__()
        self.one, self.two, self.act = nn.Linear(width, width), nn.Linear(width, width), nn.ReLU()

    def inner(self, x):
        return self.two(self.act(self.one(self.act(x))))

    def forward(self, x):
        return x + self.inner(x)


class Network(nn.Module):
    """Parts that `how` runs: as they are, or checkpointed. `act` is used before, between and behind the parts."""

    def __init__(self, how):
        super().__init__()
        torch.manual_seed(0)
        self.how = how
        self.first, self.act = nn.Linear(6, 8), nn.ReLU()
        self.block, self.other, self.head = Residual(8), Residual(8), nn.Linear(8, 3)
        self.dropout = nn.Dropout(0.3)
        with torch.no_grad():
            self.first.bias[list(DEAD["first"])] = -1e4
            self.block.one.bias[list(DEAD["block"])] = -1e4

    def beginning(self, x):
        return self.act(self.first(x))

    def middle(self, x):
        return self.dropout(self.act(self.block(x)))

    def end(self, x):
        return self.head(self.act(self.other(x)))

    def forward(self, x):
        return self.how(self, x)


def plain(network, x):
    return network.end(network.middle(network.beginning(x)))


def in_parts(network, x, reentrant=False):
    x = network.beginning(x)
    return checkpoint(network.end, checkpoint(network.middle, x, use_reentrant=reentrant), use_reentrant=reentrant)


def in_reentrant_parts(network, x):
    return in_parts(network, x, reentrant=True)


def nested(network, x):
    def part(x):
        return checkpoint(network.end, network.middle(x), use_reentrant=False)

    return checkpoint(part, network.beginning(x), use_reentrant=False)


def only_the_inside(network, x):
    x = network.beginning(x)
    x = x + checkpoint(network.block.inner, x, use_reentrant=False)
    return network.end(network.dropout(network.act(x)))


def batch(step):
    draw = torch.Generator().manual_seed(step)
    return torch.randn(16, 6, generator=draw), torch.randint(3, (16,), generator=draw)


def measured(how, steps=3, call=None, twice=False):
    """Train a few steps under a panel; return its tables, the layout and the weights it ended with."""
    network = Network(how)
    optimiser = torch.optim.SGD(network.parameters(), 0.1)
    torch.manual_seed(7)  # of the dropout masks
    with Panel(network, optimiser, every=2, window=1) as panel:
        for step in range(steps):
            x, y = batch(step)
            optimiser.zero_grad()
            for at, part in enumerate(x.chunk(2) if twice else [x]):
                loss = F.cross_entropy((call or network)(part) if call is None else call(network, part), y[: len(part)])
                loss.backward(retain_graph=at == 0 and twice)
            panel.gradients_ready()
            optimiser.step()
            panel.step()
    return panel.tables[1], panel.layout(), network.state_dict()


def assert_same(counted, expected):
    (tables, layout, weights), (true_tables, true_layout, true_weights) = counted, expected
    assert layout == true_layout
    for name, value in true_weights.items():
        assert torch.equal(weights[name], value), name
    for table in ("steps", "windows", "histograms", "units"):
        assert tables[table].keys() == true_tables[table].keys()
        for name, column in true_tables[table].items():
            np.testing.assert_array_equal(tables[table][name], column, err_msg=f"{table}.{name}")


@pytest.mark.parametrize("how", [in_parts, nested, only_the_inside])
def test_checkpointed_parts_are_counted_as_the_plain_network_is_to_the_last_bit(how):
    assert_same(measured(how), measured(plain))


def test_a_network_that_is_checkpointed_as_a_whole_is_counted_once():
    def call(network, x):
        return checkpoint(network, x.requires_grad_(), use_reentrant=False)

    assert_same(measured(plain, call=call), measured(plain))


def test_parts_of_a_batch_are_each_counted_once():
    tables, *_ = measured(in_parts, twice=True)
    assert set(tables["units"]["inputs"]) == {3 * 16}
    assert_same(measured(in_parts, twice=True), measured(plain, twice=True))


def test_planted_dead_units_and_inputs_are_counted_exactly_by_hand():
    tables, layout, _ = measured(in_parts, steps=4)
    units = tables["units"]
    assert [site.name for site in layout.sites] == ["act", "block.act", "block.act#2", "act#2", *LATER]
    assert set(units["inputs"]) == {4 * 16}  # and not 8 * 16
    for at, dead in ((0, DEAD["first"]), (2, DEAD["block"])):
        off = units["off"][units["site"] == at]
        assert set(dead) <= set(np.flatnonzero(off == 4 * 16))
        assert (off <= 4 * 16).all()
    windows = tables["windows"]
    assert set(windows["tensors"]) == {1}  # steps 1 and 3 are measured, each a window of its own
    kinds, sites = np.unique(np.stack([windows["kind"], windows["subject"]]), axis=1)
    assert sites[kinds == 3].tolist() == [0, 1, 2, 3, 4, 5, 6]  # the gradients of all activations


LATER = ("other.act", "other.act#2", "act#3")


def test_sequences_checkpointed_by_torch_are_counted_as_they_are():
    counted = []
    for segments in (0, 3):
        torch.manual_seed(0)
        network = nn.Sequential(*(part for _ in range(6) for part in (nn.Linear(6, 6), nn.LeakyReLU(inplace=True))))
        holder = nn.ModuleDict({"network": network})
        x = batch(0)[0].requires_grad_()
        with Panel(holder, every=1) as panel:
            y = checkpoint_sequential(network, segments, x, use_reentrant=False) if segments else network(x)
            y.square().sum().backward()
            panel.step()
        counted.append((panel.tables[1], panel.layout(), network.state_dict()))
    units = counted[1][0]["units"]
    assert len(set(units["site"])) == 6
    assert set(units["inputs"]) == {16}
    assert_same(counted[1], counted[0])


def test_functions_in_a_checkpointed_part_are_counted_once():
    class Part(nn.Module):
        def __init__(self, how):
            super().__init__()
            self.one, self.two, self.how = nn.Linear(6, 8), nn.Linear(8, 3), how

        def inner(self, x):
            return self.two(F.relu(self.one(x)))

        def forward(self, x):
            return self.how(self.inner, x)

    counted = []
    for how in (lambda inner, x: inner(x), lambda inner, x: checkpoint(inner, x, use_reentrant=False)):
        torch.manual_seed(0)
        network = Part(how)
        with Panel(network, every=1) as panel:
            network(batch(0)[0]).sum().backward()
            panel.step()
        counted.append((panel.tables[1], panel.layout(), network.state_dict()))
    assert set(counted[1][0]["units"]["inputs"]) == {16}
    assert_same(counted[1], counted[0])


def test_passes_without_gradients_are_no_training_though_the_network_checkpoints():
    network = Network(in_parts)
    with Panel(network, every=1) as panel:
        network(batch(0)[0]).sum().backward()
        with torch.no_grad():
            plain(network, batch(1)[0])
            network.block(torch.randn(5, 8))
        panel.step()
    assert set(panel.tables[1]["units"]["inputs"]) == {16}


def test_a_second_backward_through_a_kept_graph_recomputes_and_counts_nothing_anew():
    network = Network(in_parts)
    with Panel(network, every=1) as panel:
        loss = network(batch(0)[0]).sum()
        loss.backward(retain_graph=True)
        loss.backward()
        panel.step()
    assert set(panel.tables[1]["units"]["inputs"]) == {16}


def test_reentrant_checkpoints_are_not_counted_and_the_panel_says_so():
    network = Network(in_reentrant_parts)
    with pytest.warns(UserWarning, match="use_reentrant=True") as warned, Panel(network, every=1) as panel:
        for step in range(3):
            network(batch(step)[0]).sum().backward()
            panel.step()
    assert len(warned) == 1
    assert [site.name for site in panel.layout().sites] == ["act"]  # what runs outside of them
    assert set(panel.tables[1]["units"]["inputs"]) == {3 * 16}
    assert "other.act" in panel.summary()


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:The .grad attribute:UserWarning")
def test_a_compiled_network_that_checkpoints_is_counted_as_one_that_does_neither():
    counted = []
    for how, compiled in ((plain, False), (in_parts, True)):
        torch._dynamo.reset()
        network = Network(how)
        network.dropout.p = 0.0  # compiled code draws other masks
        forward = torch.compile(network) if compiled else network
        optimiser = torch.optim.SGD(network.parameters(), 1e-12)
        with Panel(network, optimiser, every=1) as panel:
            panel.survey(batch(0)[0])
            for step in range(3):
                optimiser.zero_grad()
                F.cross_entropy(forward(batch(step)[0]), batch(step)[1]).backward()
                panel.gradients_ready()
                optimiser.step()
                panel.step()
        counted.append(panel.tables[1])
    for name, column in counted[0]["units"].items():
        np.testing.assert_array_equal(counted[1]["units"][name], column, err_msg=name)
    for name in ("kind", "subject", "tensors"):
        np.testing.assert_array_equal(counted[1]["windows"][name], counted[0]["windows"][name], err_msg=name)
