"""Activations called as functions, and activations of own classes, are counted as activation modules are."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from counted import ACTIVATION, ACTIVATION_GRADIENT, histogram, numpy_histogram
from torch import nn
from torch.overrides import _get_current_function_mode_stack

from alexnet_lab.instruments import dying_relu
from alexnet_lab.instruments.panel import Panel
from alexnet_lab.networks import build_network


class Net(nn.Module):
    """A convolution, what `act` does, and a head."""

    def __init__(self, act, norm=False):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.head = nn.Conv2d(3, 6, 3), nn.Linear(6, 2)
        self.norm = nn.BatchNorm2d(6) if norm else nn.Identity()
        self.act = act

    def forward(self, x):
        return self.head(self.act(self.norm(self.conv(x))).mean((2, 3)))


def pictures(seed=0, count=8):
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def watched(network, steps=2, **options):
    with Panel(network, every=1, **options) as panel:
        for step in range(steps):
            network(pictures(step)).sum().backward()
            panel.step()
    return panel


def assert_same_counts(panel, expected):
    for table in ("units", "windows", "histograms"):
        for name, column in expected.tables[1][table].items():
            np.testing.assert_array_equal(panel.tables[1][table][name], column, err_msg=f"{table}.{name}")


FUNCTIONS = [
    (F.relu, nn.ReLU()),
    (lambda x: F.relu(x, inplace=True), nn.ReLU(inplace=True)),
    (lambda x: F.relu(input=x), nn.ReLU()),
    (torch.relu, nn.ReLU()),
    (torch.relu_, nn.ReLU(inplace=True)),
    (lambda x: x.relu(), nn.ReLU()),
    (lambda x: x.relu_(), nn.ReLU(inplace=True)),
    (lambda x: x.clamp(min=0), nn.ReLU()),
    (lambda x: x.clamp(0), nn.ReLU()),
    (lambda x: torch.clamp(x, 0.0), nn.ReLU()),
    (lambda x: x.clamp_(min=0), nn.ReLU(inplace=True)),
    (lambda x: torch.clamp_min(x, 0), nn.ReLU()),
    (lambda x: torch.clip(x, 0), nn.ReLU()),
    (lambda x: x.clamp(0, 6), nn.ReLU6()),
    (F.relu6, nn.ReLU6()),
    (F.leaky_relu, nn.LeakyReLU()),
    (F.leaky_relu_, nn.LeakyReLU(inplace=True)),
    (F.elu, nn.ELU()),
    (F.selu, nn.SELU()),
    (F.celu, nn.CELU()),
    (F.gelu, nn.GELU()),
    (F.silu, nn.SiLU()),
    (F.mish, nn.Mish()),
    (F.tanh, nn.Tanh()),
    (torch.tanh, nn.Tanh()),
    (lambda x: x.sigmoid(), nn.Sigmoid()),
    (torch.special.expit, nn.Sigmoid()),
    (F.logsigmoid, nn.LogSigmoid()),
    (F.softplus, nn.Softplus()),
    (F.softsign, nn.Softsign()),
    (F.hardswish, nn.Hardswish()),
    (F.hardsigmoid, nn.Hardsigmoid()),
    (F.hardtanh, nn.Hardtanh()),
    (F.tanhshrink, nn.Tanhshrink()),
    (F.hardshrink, nn.Hardshrink()),
    (F.softshrink, nn.Softshrink()),
    (lambda x: F.threshold(x, 0.1, 0.0), nn.Threshold(0.1, 0.0)),
]


@pytest.mark.parametrize(("function", "module"), FUNCTIONS)
def test_a_function_is_counted_as_the_module_that_does_the_same(function, module):
    panel, expected = watched(Net(function)), watched(Net(module))
    (site,), (same,) = panel.layout().sites, expected.layout().sites
    assert (site.activation, site.word, site.unit, site.units) == (same.activation, same.word, same.unit, same.units)
    assert site.fed_by == "conv"
    assert_same_counts(panel, expected)


def test_what_is_counted_of_a_function_is_what_numpy_counts():
    network = Net(F.relu)
    x = network.conv(pictures())
    x.retain_grad()
    network.head(x.relu().mean((2, 3))).sum().backward()
    panel = watched(network, 1)
    low = x.detach().numpy() <= 0
    units = panel.tables[1]["units"]
    assert np.array_equal(units["off"], low.all((2, 3)).sum(0))
    assert np.array_equal(units["elements_off"], low.sum((0, 2, 3)))
    assert np.array_equal(histogram(panel.tables[1], ACTIVATION, 0), numpy_histogram(x.detach()))
    assert np.array_equal(histogram(panel.tables[1], ACTIVATION_GRADIENT, 0), numpy_histogram(x.grad))


@pytest.mark.parametrize("module", [module for _, module in FUNCTIONS] + [nn.PReLU(), nn.RReLU()])
def test_the_function_inside_of_an_activation_module_is_not_counted_a_second_time(module):
    assert [site.name for site in watched(Net(module)).layout().sites] == ["act"]


@pytest.mark.parametrize(
    "act", [lambda x: x.clamp(min=-1), lambda x: x.clamp(0, 1), lambda x: x.clamp(max=0), lambda x: x.softmax(1)]
)
def test_other_clamps_and_functions_are_no_activations(act):
    panel = watched(Net(act), steps=0)
    assert panel.layout().sites == ()


class Block(nn.Module):
    """Convolution, batch normalisation and F.relu, as torchvision's GoogLeNet has them."""

    def __init__(self, before, after):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after)

    def forward(self, x):
        return F.relu(self.bn(self.conv(x)), inplace=True)


class Inception(nn.Module):
    """Two branches of blocks, joined."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.one, self.two, self.head = Block(3, 8), Block(8, 6), Block(8, 4), nn.Linear(10, 2)

    def forward(self, x):
        x = self.stem(x)
        return self.head(torch.cat([self.one(x), self.two(x)], 1).mean((2, 3)))


def test_units_planted_dead_behind_batch_normalisation_are_those_found_though_relu_is_a_function():
    planted = {"stem.conv": [2, 5], "one.conv": [], "two.conv": [0, 3]}
    network = Inception()
    with torch.no_grad():
        for layer, dead in planted.items():
            norm = network.get_submodule(layer.replace("conv", "bn"))
            norm.bias.fill_(1.0)
            norm.bias[dead] = -1e6
        # Weights that put every convolution on its negative side: what stands before the norm says nothing of the ReLU.
        network.one.conv.weight.copy_(-network.one.conv.weight.abs())
    with Panel(network, every=1) as panel:
        for step in range(3):
            network(pictures(step)).sum().backward()
            panel.step()
        with panel.probing(), torch.no_grad():
            network.eval()(pictures(9))
    units = panel.tables[1]["units"]
    assert [site.fed_by for site in panel.layout().sites] == list(planted)
    for at, dead in enumerate(planted.values()):
        for split in (0, 1):
            rows = (units["site"] == at) & (units["split"] == split)
            assert list(np.flatnonzero(dying_relu.is_dead(units["off"][rows], units["inputs"][rows]))) == dead
    assert "limit" not in panel.summary()


def test_functions_are_seen_beside_activation_modules():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two, self.end = nn.Linear(4, 6), nn.Linear(6, 5), nn.Sigmoid()

        def forward(self, x):
            return self.end(self.two(F.relu(self.one(x))))

    network = Mixed()
    nn.init.constant_(network.one.bias, -1e6)
    with Panel(network, every=1) as panel:
        network(torch.randn(9, 4)).sum().backward()
        panel.step()
    assert [(s.name, s.fed_by) for s in panel.layout().sites] == [("relu(one)", "one"), ("end", "two")]
    units = panel.tables[1]["units"]
    assert units["off"][units["site"] == 0].tolist() == [9] * 6


class OwnReLU(nn.Module):
    def forward(self, x):
        return F.relu(x)


class Renamed(nn.ReLU):
    pass


class Shifted(nn.ReLU):
    def forward(self, x):
        return super().forward(x - 0.5)


@pytest.mark.parametrize("act", [OwnReLU(), Renamed()])
def test_own_classes_that_compute_a_relu_are_counted_as_one(act):
    panel, expected = watched(Net(act)), watched(Net(nn.ReLU()))
    (site,) = panel.layout().sites
    assert (site.activation, site.word, site.fed_by) == ("ReLU", "off", "conv")
    assert_same_counts(panel, expected)


def test_a_subclass_with_its_own_forward_is_counted_at_the_function_that_it_calls():
    panel = watched(Net(Shifted()), 1)
    with torch.no_grad():
        low = (Net(Shifted()).conv(pictures()) - 0.5).numpy() <= 0
    assert np.array_equal(panel.tables[1]["units"]["elements_off"], low.sum((0, 2, 3)))


class ByHand(nn.Module):
    def forward(self, x):
        return x * (x > 0)


def test_an_own_class_made_of_other_operations_is_named_once():
    network = Net(ByHand())
    with pytest.warns(UserWarning, match=r"act \(ByHand\) may be activations") as warned:
        panel = watched(network, 5)
    assert len(warned) == 1
    assert "act (ByHand) may be" in panel.summary()
    assert "no activation was seen: conv, head" in panel.summary()


def test_functions_outside_of_the_network_are_not_counted_and_no_mode_is_left_behind():
    network = Net(F.relu)
    modes = len(_get_current_function_mode_stack())
    with Panel(network, every=1) as panel:
        F.relu(network(pictures())).sum().backward()
        assert len(_get_current_function_mode_stack()) == modes
        with pytest.raises(RuntimeError, match="conv2d"):
            network(torch.zeros(2, 7))
        assert len(_get_current_function_mode_stack()) == modes
        torch.relu(pictures())
        panel.step()
    assert [site.name for site in panel.layout().sites] == ["relu(conv)"]
    assert set(panel.tables[1]["units"]["inputs"]) == {8}


def test_a_pass_that_was_interrupted_leaves_no_mode_behind():
    def interrupt(x):
        raise KeyboardInterrupt

    network = Net(interrupt)
    modes = len(_get_current_function_mode_stack())
    with Panel(network, every=1) as panel:
        with pytest.raises(KeyboardInterrupt):
            network(pictures())
        network.act = F.relu
        panel.step()
        assert len(_get_current_function_mode_stack()) == modes
        network(pictures()).sum().backward()
        panel.step()
    assert set(panel.tables[1]["units"]["inputs"]) == {8}


def test_parameters_of_an_activation_stand_in_the_order_of_the_pass():
    panel = watched(Net(nn.PReLU()), 1)
    assert [p.layer for p in panel.layout().parameters] == ["conv", "conv", "act", "head", "head"]


def test_watching_functions_changes_no_number():
    networks = [Inception(), Inception()]
    optimisers = [torch.optim.SGD(network.parameters(), 0.1) for network in networks]
    with Panel(networks[0], optimisers[0], every=2) as panel:
        for step in range(4):
            for network, optimiser in zip(networks, optimisers, strict=True):
                optimiser.zero_grad()
                network(pictures(step)).square().sum().backward()
                optimiser.step()
            panel.step()
    for one, other in zip(networks[0].state_dict().values(), networks[1].state_dict().values(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    "name", ["alexnet", "resnet18", "vgg11", "mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large"]
)
def test_the_networks_of_the_lab_have_sites_at_their_activation_modules_alone_and_no_limit(name):
    network = build_network(name, 10, width=1 / 8, image_size=67, in_channels=1)
    panel = Panel(network)
    panel.survey(torch.zeros(2, 1, 67, 67))
    kinds = (nn.ReLU, nn.ReLU6, nn.Hardswish, nn.Hardsigmoid)
    activations = {name for name, module in network.named_modules() if isinstance(module, kinds)}
    assert {site.name for site in panel.layout().sites} == activations
    assert panel.limits.sentences() == []


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:The .grad attribute:UserWarning")
@pytest.mark.parametrize("part", [False, True])
def test_functions_are_counted_in_compiled_code_without_compiling_again(part):
    panels = []
    for compiled in (False, True):
        torch._dynamo.reset()
        network = Inception()
        network.one.bn, network.two.bn, network.stem.bn = nn.Identity(), nn.Identity(), nn.Identity()
        network.one.act = nn.LeakyReLU()
        optimiser = torch.optim.SGD(network.parameters(), 1e-12)
        torch._dynamo.utils.counters.clear()
        forward = network
        if compiled and part:
            network.one.compile()
        elif compiled:
            forward = torch.compile(network)
        with Panel(network, optimiser, every=3) as panel:
            panel.survey(pictures())
            for step in range(7):
                optimiser.zero_grad()
                forward(pictures(step)).square().mean().backward()
                panel.gradients_ready()
                optimiser.step()
                panel.step()
        panels.append(panel)
    assert not torch._dynamo.utils.counters["graph_break"]
    eager, compiled = (panel.tables[1] for panel in panels)
    assert panels[0].layout() == panels[1].layout()
    for name, values in eager["units"].items():
        np.testing.assert_array_equal(values, compiled["units"][name], err_msg=name)
    for name in ("kind", "subject", "tensors"):
        key, other = (np.lexsort((t["windows"]["subject"], t["windows"]["kind"])) for t in (eager, compiled))
        np.testing.assert_array_equal(eager["windows"][name][key], compiled["windows"][name][other], err_msg=name)
