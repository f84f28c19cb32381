"""The panel on any torch module: it sees what it should, and nothing of it stays behind."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from counted import (
    batch,
    small_network,
    train,
)
from torch import nn

from alexnet_lab.instruments.flow import KINDS, Flow
from alexnet_lab.instruments.panel import Panel
from alexnet_lab.instruments.schedule import Schedule, parse_instruments, schedule_of


def test_hooks_are_gone_after_the_panel_whatever_happened(device):
    network = small_network().to(device)
    optimiser = torch.optim.SGD(network.parameters(), 0.1)

    def hooks():
        return sum(
            len(m._forward_pre_hooks) + len(m._forward_hooks) + len(m._backward_hooks) for m in network.modules()
        ) + len(optimiser._optimizer_step_pre_hooks)

    with pytest.raises(KeyError), Panel(network, optimiser) as panel:
        train(network, panel, 2)
        assert hooks() > 0
        raise KeyError
    assert hooks() == 0
    assert panel.tables[1]["units"]["inputs"][0] == 16  # what was measured until then
    with pytest.raises(RuntimeError, match="conv2d"), Panel(network, optimiser):
        network(torch.zeros(2, 7, device=device))
    assert hooks() == 0


def test_copies_evaluation_and_bare_passes_are_not_counted(device):
    network = small_network().to(device)
    with Panel(network, every=1) as panel:
        train(network, panel)
        twin = copy.deepcopy(network)
        twin(batch(1)[0].to(device)).sum().backward()
        with torch.no_grad():
            network(batch(2)[0].to(device))
            network.eval()(batch(3)[0].to(device))
        with panel.probing(twin):
            twin.eval()(batch(4, 5)[0].to(device))
            network.train()(batch(4, 7)[0].to(device))  # not the one that is probed
    units = panel.tables[1]["units"]
    assert set(units["inputs"][units["split"] == 0]) == {8}
    assert set(units["inputs"][units["split"] == 1]) == {5}


class Reusing(nn.Module):
    """One activation module in three places, one of them behind a sequence of vectors."""

    def __init__(self):
        super().__init__()
        self.head, self.act = nn.Linear(6, 3), nn.LeakyReLU()
        self.second, self.first, self.unused = nn.Linear(5, 6), nn.Linear(4, 5), nn.Linear(2, 2)

    def forward(self, x):  # N T 4
        return self.head(self.act(input=self.second(self.act(self.first(x)))).mean(1))


def test_a_module_used_twice_is_two_sites_and_order_is_that_of_the_pass(device):
    network = Reusing().to(device)
    network.first.weight.requires_grad_(False)
    optimiser = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], 0.1)
    with Panel(network, optimiser, every=1) as panel:
        for _ in range(2):
            network(torch.randn(7, 9, 4, device=device)).sum().backward()
            optimiser.step()
            panel.step()
            optimiser.zero_grad()
    layout = panel.layout()
    assert [(s.name, s.fed_by, s.unit, s.units) for s in layout.sites] == [
        ("act", "first", "neuron", 5),
        ("act#2", "second", "neuron", 6),
    ]
    assert {site.word for site in layout.sites} == {"negative side"}
    layers = [p.layer for p in layout.parameters[::2]]
    assert layers == ["first", "second", "head", "unused"]
    assert [p.trainable for p in layout.parameters[:2]] == [False, True]
    tables = panel.tables[1]
    assert set(tables["units"]["inputs"]) == {14}
    assert set(tables["units"]["elements"]) == {14 * 9}
    unknown = np.isnan(tables["steps"]["gradient_norm"].reshape(2, -1))
    assert unknown[0].tolist() == [True, False, False, False, False, False, True, True]
    assert set(tables["steps"]["update_norm"].reshape(2, -1)[0, [0, 6, 7]]) == {0.0}
    assert "after any clipping" in layout.read_at  # nobody said when gradients were ready


class Functional(nn.Module):
    """No activation module anywhere."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(F.relu(self.conv(x), inplace=True).mean((2, 3)))


def test_an_activation_called_as_a_function_is_a_site_behind_its_layer(device):
    network = Functional().to(device)
    x = batch()[0].to(device)
    with Panel(network, every=1) as panel:
        network(x).sum().backward()
        panel.step()
    (site,) = panel.layout().sites
    assert (site.name, site.fed_by, site.activation, site.word) == ("relu(conv)", "conv", "ReLU", "off")
    units = panel.tables[1]["units"]
    conv = network.conv(x).detach().cpu().numpy() <= 0
    assert np.array_equal(units["elements_off"], conv.sum((0, 2, 3)))
    assert np.isnan(panel.tables[1]["steps"]["update_norm"]).all()  # no optimiser, nobody told: not known, not zero
    assert "updates unknown" in panel.layout().read_at
    assert "no activation was seen: head" in panel.summary()


def test_records_are_written_at_each_epochs_end_and_read_back(tmp_path, device):
    network = small_network(nn.Tanh).to(device)
    with Panel(network, every=2, window=2, folder=tmp_path) as panel:
        for _ in range(2):
            train(network, panel, 5)
            panel.end_epoch()
    flow = Flow.read(tmp_path)
    assert set(flow.epochs) == {1, 2}
    steps = flow.table("steps")
    assert sorted(set(steps["step"])) == [1, 3, 5, 6, 8, 10]
    windows = flow.table("windows")
    spans = sorted(set(zip(windows["first_step"].tolist(), windows["last_step"].tolist(), strict=True)))
    assert spans == [(1, 3), (5, 5), (6, 8), (10, 10)]
    assert {KINDS[kind] for kind in windows["kind"]} == set(KINDS)
    assert len(windows["kind"]) == len(flow.table("histograms")["counts"])
    cost = flow.table("cost")
    assert (cost["measuring_seconds"] > 0).all()
    assert (cost["measuring_seconds"] < cost["total_seconds"]).all()


def test_a_schedule_keeps_long_epochs_small_and_short_ones_informed():
    assert schedule_of("default", 33) == Schedule(20, 4)
    assert schedule_of("default", 10_000) == Schedule(100, 5)
    assert schedule_of("all", 400) == Schedule(1, 20, each=True)
    assert schedule_of("every:20", 400) == Schedule(20, 4)
    assert schedule_of("off", 400) is None
    for text, says in [
        ("of", "Did you mean 'off'"),
        ("every:0", "every:20"),
        ("every", "every:20"),
        ("all:2", "no arg"),
    ]:
        with pytest.raises(ValueError, match=says):
            parse_instruments(text)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        Panel(small_network(), every=0)
