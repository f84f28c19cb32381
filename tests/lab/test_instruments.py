"""The panel on any torch module: what it counts is what numpy counts, and nothing of it stays behind."""

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from alexnet_lab.instruments import dying_relu
from alexnet_lab.instruments.flow import KINDS, Flow
from alexnet_lab.instruments.gradient_flow import exact_norms
from alexnet_lab.instruments.histograms import in_memory_order, stride_through
from alexnet_lab.instruments.panel import Panel
from alexnet_lab.instruments.schedule import Schedule, parse_instruments, schedule_of

WEIGHT, GRADIENT, ACTIVATION, ACTIVATION_GRADIENT = range(4)


def small_network(act=nn.ReLU):
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 6, 3), act(), nn.Conv2d(6, 4, 3), act(), nn.Flatten(), nn.Linear(64, 10), act()]
    return nn.Sequential(*layers, nn.Linear(10, 5))


def batch(seed=0, count=8):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, 8, 8, generator=draw), torch.randint(5, (count,), generator=draw)


def train(network, panel, steps=1, optimiser=None, forward=None, scaler=None):
    """Take steps as a user would."""
    optimiser = optimiser or torch.optim.SGD(network.parameters(), 0.1)
    for step in range(steps):
        x, y = batch(step)
        optimiser.zero_grad()
        loss = F.cross_entropy((forward or network)(x), y)
        if scaler is None:
            loss.backward()
            panel.gradients_ready()
            optimiser.step()
        else:
            scaler.scale(loss).backward()
            scaler.unscale_(optimiser)
            panel.gradients_ready()
            scaler.step(optimiser)
            scaler.update()
        panel.step()


def give(layer, panel, *gradients):
    """Take steps with gradients made by hand."""
    for values in gradients:
        layer(torch.zeros(1, layer.in_features, dtype=layer.weight.dtype))
        layer.weight.grad = values.to(layer.weight.dtype).view_as(layer.weight)
        panel.gradients_ready()
        panel.step()


def numpy_histogram(x, first_exponent=-126, columns=258):
    """Count by sign and exponent with numpy's frexp: nothing of ours."""
    x = np.asarray(x, np.float64).ravel()
    counts = np.zeros((2, columns), np.int64)
    _, exponents = np.frexp(x)  # x = m * 2**e with m in [.5, 1)
    for sign in (0, 1):
        mine = np.signbit(x) == bool(sign)
        finite = mine & np.isfinite(x) & (x != 0)
        powers = exponents[finite] - 1
        counts[sign, 0] = (mine & (x == 0)).sum()
        counts[sign, 1] = (powers < first_exponent).sum()
        counts[sign, -2] = (mine & np.isinf(x)).sum()
        counts[sign, -1] = (mine & np.isnan(x)).sum()
        np.add.at(counts[sign], powers[powers >= first_exponent] - first_exponent + 2, 1)
    return counts


def histogram(tables, kind, subject):
    rows = (tables["windows"]["kind"] == kind) & (tables["windows"]["subject"] == subject)
    return tables["histograms"]["counts"][rows].sum(0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_histograms_are_numpys_counts_of_exponents_whatever_the_type(dtype):
    layer = nn.Linear(40, 30, bias=False).to(dtype)
    values = torch.randn(1200, dtype=torch.float64) * torch.logspace(-40, 4, 1200, 2, dtype=torch.float64)
    values[:8] = torch.tensor([0.0, -0.0, math.inf, -math.inf, math.nan, 2.0**-24, -(2.0**-20), 1.0])
    panel = Panel(layer, every=1)
    with panel:
        give(layer, panel, values)
    tables = panel.tables[1]
    wide = dtype == torch.float64
    shape = (-1022, 2050) if wide else (-126, 258)
    assert panel.layout().first_exponent == shape[0]
    assert np.array_equal(histogram(tables, GRADIENT, 0), numpy_histogram(layer.weight.grad.double(), *shape))
    assert np.array_equal(histogram(tables, WEIGHT, 0), numpy_histogram(layer.weight.detach().double(), *shape))


@pytest.mark.parametrize("inplace", [False, True])
def test_activations_and_their_gradients_are_those_before_the_activation(inplace):
    network = small_network(lambda: nn.ReLU(inplace))
    x, y = batch()
    first = network[0](x)
    first.retain_grad()
    F.cross_entropy(network[2:](first.relu()), y).backward()
    with Panel(network, every=1) as panel:
        train(network, panel)
    found = panel.tables[1]
    assert np.array_equal(histogram(found, ACTIVATION, 0), numpy_histogram(first.detach()))
    assert np.array_equal(histogram(found, ACTIVATION_GRADIENT, 0), numpy_histogram(first.grad))


@pytest.mark.parametrize("planted", [{0: [], 2: [], 5: []}, {0: [1, 4], 2: [3], 5: [0, 2, 9]}])
def test_units_planted_dead_are_found_and_no_others(planted):
    network = small_network()
    for layer in (0, 2, 5):
        nn.init.constant_(network[layer].bias, 2.0)  # so that every other unit fires somewhere
        with torch.no_grad():
            network[layer].bias[planted[layer]] = -1e6
    still = torch.optim.SGD(network.parameters(), 0.0)
    with Panel(network, still) as panel:
        train(network, panel, 3, still)
        with panel.probing(), torch.no_grad():
            network.eval()(batch(9, 20)[0])
    units = panel.tables[1]["units"]
    for split, inputs in ((0, 24), (1, 20)):
        for site, layer in enumerate((0, 2, 5)):
            rows = (units["site"] == site) & (units["split"] == split)
            dead = dying_relu.is_dead(units["off"][rows], units["inputs"][rows])
            assert list(np.flatnonzero(dead)) == planted[layer]
            assert set(units["inputs"][rows]) == {inputs}
    assert "dead" in panel.summary()


def test_counts_are_those_of_numpy_on_every_step():
    network = small_network()
    with Panel(network, every=1000) as panel:
        seen = []
        network[0].register_forward_hook(lambda *args: seen.append(args[2].detach().clone().numpy()))
        train(network, panel, 4)
    units = panel.tables[1]["units"]
    rows = (units["site"] == 0) & (units["split"] == 0)
    low = np.concatenate(seen) <= 0
    assert np.array_equal(units["off"][rows], low.all((2, 3)).sum(0))
    assert np.array_equal(units["elements_off"][rows], low.sum((0, 2, 3)))
    assert set(units["elements"][rows]) == {32 * 36}


def test_norms_are_over_all_elements_and_the_update_is_the_one_applied():
    network = small_network()
    optimiser = torch.optim.AdamW(network.parameters(), 0.01, weight_decay=0.1)
    rows = []
    with Panel(network, optimiser, every=2) as panel:
        for step in range(4):
            before = [p.detach().clone() for p in network.parameters()]
            x, y = batch(step)
            optimiser.zero_grad()
            F.cross_entropy(network(x), y).backward()
            panel.gradients_ready()
            gradients = [p.grad.clone() for p in network.parameters()]
            nn.utils.clip_grad_norm_(network.parameters(), 1e-3)
            optimiser.step()
            panel.step()
            if step % 2 == 0:
                for old, gradient, new in zip(before, gradients, network.parameters(), strict=True):
                    rows.append([float(t.double().norm()) for t in (old, gradient, new.detach() - old)])
    steps = panel.tables[1]["steps"]
    assert list(steps["step"]) == [1] * 8 + [3] * 8
    assert list(steps["parameter"]) == [*range(8)] * 2
    found = np.stack([steps[name] for name in ("weight_norm", "gradient_norm", "update_norm")], 1)
    np.testing.assert_allclose(found, rows, rtol=2e-6)
    assert "before clipping" in panel.layout().read_at


@pytest.mark.parametrize("scale", [1e-30, 1e-8, 1.0, 1e25])
def test_norms_keep_their_digits_at_any_size_and_scale(scale):
    torch.manual_seed(0)
    tensors = [torch.randn(shape) * scale for shape in ((5,), (1000, 700), (3, 1000, 1000))]
    last = torch.randn(4, 8, 300, 300).to(memory_format=torch.channels_last) * scale
    expected = [float(np.linalg.norm(x.numpy().astype(np.float64).ravel())) for x in (*tensors, last)]
    np.testing.assert_allclose(exact_norms([*tensors, last]).numpy(), expected, rtol=3e-6)
    assert exact_norms([torch.zeros(7), torch.zeros(600, 600)]).tolist() == [0, 0]


def test_the_loss_scale_of_fp16_changes_no_number():
    found = []
    for scale in (1.0, 2.0**10):
        network = small_network()
        scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=3)
        optimiser = torch.optim.SGD(network.parameters(), 0.1)
        with Panel(network, optimiser, every=1, scaler=scaler, precision="fp16") as panel:
            train(network, panel, 5, optimiser, scaler=scaler)
        found.append(panel.tables[1])
    for table in ("steps", "windows", "histograms", "units"):
        for name, values in found[0][table].items():
            np.testing.assert_array_equal(values, found[1][table][name], err_msg=f"{table}.{name}")


def test_a_step_that_the_scaler_skips_updates_nothing():
    network = small_network()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    optimiser = torch.optim.SGD(network.parameters(), 0.1)
    for told in (True, False):
        with Panel(network, optimiser, every=1, scaler=scaler) as panel:
            scaler.scale(F.cross_entropy(network(batch()[0]), batch()[1])).backward()
            network[0].weight.grad[0, 0, 0, 0] = math.inf
            scaler.unscale_(optimiser)
            if told:
                panel.gradients_ready()
            scaler.step(optimiser)
            scaler.update()
            panel.step()
            optimiser.zero_grad()
        steps = panel.tables[1]["steps"]
        assert set(steps["update_norm"]) == {0.0}
        assert steps["gradient_norm"][0] == math.inf
        assert np.isfinite(steps["gradient_norm"][1:]).all()
        assert histogram(panel.tables[1], GRADIENT, 0)[0, -2] == 1


def test_a_batch_in_parts_counts_as_the_batch_whole():
    found = []
    for parts in (1, 4):
        network = small_network()
        optimiser = torch.optim.SGD(network.parameters(), 0.1)
        x, y = batch()
        with Panel(network, optimiser, every=1) as panel:
            for a, b in zip(x.chunk(parts), y.chunk(parts), strict=True):
                (F.cross_entropy(network(a), b) / parts).backward()
            panel.gradients_ready()
            optimiser.step()
            panel.step()
        found.append(panel.tables[1])
    whole, split = found
    for name in ("off", "inputs", "elements", "elements_off"):
        assert np.array_equal(whole["units"][name], split["units"][name])
    assert np.array_equal(histogram(whole, ACTIVATION, 0), histogram(split, ACTIVATION, 0))
    # Gradients of a part differ from the whole's in the last bit, which moves next to no value to another power of two.
    moved = np.abs(histogram(whole, ACTIVATION_GRADIENT, 0) - histogram(split, ACTIVATION_GRADIENT, 0)).sum()
    assert moved <= 4
    np.testing.assert_allclose(whole["steps"]["gradient_norm"], split["steps"]["gradient_norm"], rtol=1e-5)
    rows = split["windows"]
    assert set(rows["tensors"][rows["kind"] == ACTIVATION]) == {4}
    assert set(rows["tensors"][rows["kind"] == GRADIENT]) == {1}


def test_signal_to_noise_is_the_documented_ratio():
    layer = nn.Linear(30, 20, bias=False)
    draw = np.random.default_rng(0)
    gradients = 0.5 + draw.normal(size=(6, 600))
    with Panel(layer, every=1, window=6) as panel:
        give(layer, panel, *torch.tensor(gradients))
    variance = gradients.var(0, ddof=1).sum()
    signal = (gradients.mean(0) ** 2).sum() - variance / 6
    found = panel.tables[1]["windows"]
    ratio = found["signal_to_noise"][found["kind"] == GRADIENT]
    assert ratio == pytest.approx([math.sqrt(signal / variance)], rel=1e-5)
    assert ratio == pytest.approx([0.5], rel=0.1)  # mean .5, spread 1
    assert np.isnan(found["signal_to_noise"][found["kind"] == WEIGHT]).all()


def test_a_gradient_that_is_not_finite_does_not_spoil_the_windows_noise():
    layer = nn.Linear(3, 2, bias=False)
    with Panel(layer, every=1, window=3) as panel:
        give(layer, panel, *(torch.full((2, 3), value) for value in (1.0, math.inf, 2.0)))
    found = panel.tables[1]["windows"]
    # Twice: mean 1.5, variance .5, so (2.25 - .25) / .5 = 4.
    assert found["signal_to_noise"][found["kind"] == GRADIENT] == pytest.approx([2.0])


@pytest.mark.parametrize(("precision", "under", "over"), [("fp16", 4 / 12, 3 / 12), ("fp32", 1 / 12, 1 / 12)])
def test_shares_out_of_range_are_of_the_runs_precision(precision, under, over):
    layer = nn.Linear(12, 1, bias=False)
    with Panel(layer, every=1, precision=precision) as panel:
        values = [0.0, 1e-40, 2.0**-30, -(2.0**-25), 1.9 * 2.0**-25, 2.0**-24, 1.0, 65504.0, 65536.0, -1e30, math.inf]
        give(layer, panel, torch.tensor([*values, math.nan]))
    found = panel.tables[1]["windows"]
    row = found["kind"] == GRADIENT
    assert (found["underflow"][row], found["overflow"][row]) == (pytest.approx([under]), pytest.approx([over]))


@given(st.lists(st.integers(1, 4000), min_size=1, max_size=4))
def test_a_stride_reaches_every_channel_and_column(shape):
    stride = stride_through(shape, 2**12, 2**10)
    if math.prod(shape) <= 2**12:
        assert stride == 1
    else:
        assert math.prod(shape) / stride <= 2**10
        assert all(math.gcd(stride, side) == 1 for side in shape)


def test_large_tensors_are_counted_every_so_many_elements_in_memory_order():
    layer = nn.Linear(1100, 1000, bias=False)
    with Panel(layer, every=1) as panel:
        give(layer, panel, torch.randn(1000, 1100))
    found = panel.tables[1]
    stride = int(found["windows"]["stride"][found["windows"]["kind"] == GRADIENT][0])
    assert stride == stride_through((1000, 1100))
    assert stride > 1
    assert np.array_equal(histogram(found, GRADIENT, 0), numpy_histogram(layer.weight.grad.numpy().ravel()[::stride]))
    image = torch.arange(24.0).view(1, 2, 3, 4).to(memory_format=torch.channels_last)
    assert sorted(in_memory_order(image).tolist()) == list(range(24))
    assert in_memory_order(image).data_ptr() == image.data_ptr()
    assert sorted(in_memory_order(image[:, :, ::2]).tolist()) == sorted(image[:, :, ::2].flatten().tolist())


def test_hooks_are_gone_after_the_panel_whatever_happened():
    network = small_network()
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
        network(torch.zeros(2, 7))
    assert hooks() == 0


def test_copies_evaluation_and_bare_passes_are_not_counted():
    network = small_network()
    with Panel(network, every=1) as panel:
        train(network, panel)
        twin = copy.deepcopy(network)
        twin(batch(1)[0]).sum().backward()
        with torch.no_grad():
            network(batch(2)[0])
            network.eval()(batch(3)[0])
        with panel.probing(twin):
            twin.eval()(batch(4, 5)[0])
            network.train()(batch(4, 7)[0])  # not the one that is probed
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


def test_a_module_used_twice_is_two_sites_and_order_is_that_of_the_pass():
    network = Reusing()
    network.first.weight.requires_grad_(False)
    optimiser = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], 0.1)
    with Panel(network, optimiser, every=1) as panel:
        for _ in range(2):
            network(torch.randn(7, 9, 4)).sum().backward()
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


def test_a_network_without_activation_modules_is_watched_at_its_layers_outputs():
    network = Functional()
    with Panel(network, every=1) as panel:
        network(batch()[0]).sum().backward()
        panel.step()
    sites = panel.layout().sites
    assert (sites[0].name, sites[0].activation) == ("conv", "none known, the output of Conv2d")
    units = panel.tables[1]["units"]
    conv = network.conv(batch()[0]).detach().numpy() <= 0
    assert np.array_equal(units["elements_off"][units["site"] == 0], conv.sum((0, 2, 3)))
    assert np.isnan(panel.tables[1]["steps"]["update_norm"]).all()  # no optimiser, nobody told: not known, not zero
    assert "updates unknown" in panel.layout().read_at


def test_records_are_written_at_each_epochs_end_and_read_back(tmp_path):
    network = small_network(nn.Tanh)
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


def test_dead_through_time_and_revived():
    dead = np.array([[1, 1, 0, 1], [1, 0, 0, 0], [1, 1, 0, 1], [1, 1, 0, 1]], bool)
    assert dying_relu.dead_since(dead).tolist() == [0, 2, 4, 2]
    assert np.argwhere(dying_relu.is_revived(dead)).tolist() == [[1, 1], [1, 3]]
    assert dying_relu.largest_firing_rate(300) == 0.01
    assert dying_relu.largest_firing_rate(0) == dying_relu.largest_firing_rate(2) == 1
    assert not dying_relu.is_dead(np.array([0]), np.array([0]))[0]


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
