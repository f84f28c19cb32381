"""Cases planted on purpose are found, and what is healthy is not accused.

The records come from a small measurer of this file, written with plain hooks and numpy and independent of the
instruments; so that the diagnosis is tested on its own, and the instruments have somebody to be compared with.
"""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from alexnet_lab.diagnosis import diagnose, health_of
from alexnet_lab.diagnosis.evidence import Evidence
from alexnet_lab.instruments.flow import Flow, FlowWriter, Layout, Parameter, Site
from alexnet_lab.instruments.panel import Panel
from alexnet_lab.records import RunFolder

ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.Tanh, nn.Sigmoid, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.GELU, nn.SiLU)


def exponents_of(values):
    """Return counts by sign: zero, subnormal, each power of two of float32, infinite, NaN."""
    x = values.astype(np.float32).ravel()
    counts = np.zeros((2, 258), np.int64)
    sign = np.signbit(x).astype(int)
    finite = np.isfinite(x) & (x != 0)
    column = np.zeros(x.shape, int)
    column[finite] = np.maximum(np.frexp(np.abs(x[finite]))[1] - 1 + 126 + 2, 1)
    column[np.isinf(x)] = 256
    column[np.isnan(x)] = 257
    np.add.at(counts, (sign, column), 1)
    return counts


class Measurer:
    """Watches any sequential network with plain hooks; step() stands where optimiser.step() would."""

    def __init__(self, model, optimiser, folder, lose_below=0.0):
        self.model, self.optimiser, self.lose_below = model, optimiser, lose_below
        self.parameters = list(model.named_parameters())
        modules = list(model.named_modules())
        self.activations = [(name, module) for name, module in modules if isinstance(module, ACTIVATIONS)]
        sites = []
        for name, module in self.activations:
            at = [each for each, _ in modules].index(name)
            fed_by = next(before for before in reversed(modules[:at]) if isinstance(before[1], nn.Linear | nn.Conv2d))
            conv = isinstance(fed_by[1], nn.Conv2d)
            units = fed_by[1].out_channels if conv else fed_by[1].out_features
            sites.append(Site(name, fed_by[0], type(module).__name__, "channel" if conv else "neuron", units))
        self.layout = Layout(
            tuple(
                Parameter(name, name.rpartition(".")[0], tuple(value.shape), value.requires_grad)
                for name, value in self.parameters
            ),
            tuple(sites),
            precision="fp16" if lose_below else "fp32",
        )
        self.writer = FlowWriter(folder)
        self.writer.begin(self.layout)
        for index, (_, module) in enumerate(self.activations):
            module.register_forward_pre_hook(lambda _module, inputs, index=index: self.look(index, inputs[0]))
        self.count, self.blind = 0, False
        self.forget()

    def forget(self):
        self.rows, self.counts, self.lost, self.first_step = [], {}, {}, self.count + 1
        self.off = {
            split: [np.zeros((3, site.units), np.int64) for site in self.layout.sites]
            for split in ("training", "probe")
        }
        self.inputs = {"training": 0, "probe": 0}

    def unwatched(self, x):
        self.blind = True
        scores = self.model(x)
        self.blind = False
        return scores

    def look(self, index, x):
        if self.blind:
            return
        split = "training" if self.model.training else "probe"
        if index == 0:
            self.inputs[split] += len(x)
        below = (x.detach() <= 0).flatten(2).numpy() if x.dim() > 2 else (x.detach() <= 0).numpy()[:, :, None]
        self.off[split][index] += np.stack(
            [below.all(2).sum(0), below.sum((0, 2)), np.full(below.shape[1], len(x) * below.shape[2])]
        )
        if self.model.training:
            self.add(2, index, x.detach().numpy())
            if x.requires_grad:
                x.register_hook(lambda gradient: self.add(3, index, gradient.numpy()))

    def add(self, kind, subject, values):
        counts, tensors, lost = self.counts.get((kind, subject), (np.zeros((2, 258), np.int64), 0, 0))
        small = float(((values != 0) & (np.abs(values) < self.lose_below)).mean())
        self.counts[kind, subject] = (counts + exponents_of(values), tensors + 1, lost + small)

    def step(self):
        self.count += 1
        before = [value.detach().clone() for _, value in self.parameters]
        gradients = [np.zeros(1) if value.grad is None else value.grad.numpy().copy() for _, value in self.parameters]
        self.optimiser.step()
        for index, ((_, value), old, gradient) in enumerate(zip(self.parameters, before, gradients, strict=True)):
            update = (value.detach() - old).norm().item()
            self.rows.append((self.count, index, old.norm().item(), np.linalg.norm(gradient), update))
            if self.count == self.first_step:  # weights are counted once a window
                self.add(0, index, old.numpy())
            self.add(1, index, gradient)

    def end_epoch(self, epoch, probe=None):
        if probe is not None:
            was = self.model.training
            self.model.eval()
            with torch.no_grad():
                self.model(probe)
            self.model.train(was)
        rows = np.array(self.rows, float).reshape(-1, 5)
        names = ("step", "parameter", "weight_norm", "gradient_norm", "update_norm")
        types = (np.int32, np.int16, np.float32, np.float32, np.float32)
        steps = {name: rows[:, at].astype(kind) for at, (name, kind) in enumerate(zip(names, types, strict=True))}
        keys = sorted(self.counts)
        tensors = np.array([self.counts[key][1] for key in keys], np.int32)
        windows = {
            "kind": np.array([key[0] for key in keys], np.int8),
            "subject": np.array([key[1] for key in keys], np.int16),
            "first_step": np.full(len(keys), self.first_step, np.int32),
            "last_step": np.full(len(keys), self.count, np.int32),
            "tensors": tensors,
            "stride": np.ones(len(keys), np.int32),
            "underflow": np.array([self.counts[key][2] for key in keys], np.float32) / tensors,
            "overflow": np.zeros(len(keys), np.float32),
            "signal_to_noise": np.full(len(keys), np.nan, np.float32),
        }
        histograms = {"counts": np.array([self.counts[key][0] for key in keys])}
        units = {name: [] for name in ("site", "unit", "split", "inputs", "off", "elements", "elements_off")}
        for number, split in enumerate(("training", "probe")):
            for index, (off, elements_off, elements) in enumerate(self.off[split]):
                if self.inputs[split]:
                    width = len(off)
                    parts = (index, np.arange(width), number, self.inputs[split], off, elements, elements_off)
                    for name, part in zip(units, parts, strict=True):
                        units[name].append(np.broadcast_to(part, width))
        tables = {"steps": steps, "windows": windows, "histograms": histograms}
        if units["site"]:
            tables["units"] = {name: np.concatenate(parts) for name, parts in units.items()}
        self.writer.write_epoch(epoch, tables)
        self.forget()


# Small pictures of four classes, each with a bright quarter; and networks for them.


def pictures(count, seed, shuffled=False):
    luck = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 4
    x = torch.randn(count, 1, 8, 8, generator=luck)
    for label in range(4):
        down, right = divmod(label, 2)
        x[labels == label, :, 4 * down : 4 * down + 4, 4 * right : 4 * right + 4] += 2
    x = (x - x.mean()) / x.std()
    return x, labels[torch.randperm(count, generator=luck)] if shuffled else labels


def small_network(act=nn.ReLU, norm=False, seed=0):
    torch.manual_seed(seed)
    layers = [nn.Conv2d(1, 12, 3), act(), nn.Conv2d(12, 16, 3), act(), nn.Flatten()]
    layers += [nn.Linear(16 * 16, 20), act(), nn.Linear(20, 4)]
    if norm:
        layers[1:1] = [nn.BatchNorm2d(12)]
    network = nn.Sequential(*layers)
    for layer in network:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight)
            nn.init.zeros_(layer.bias)
    return network


def stack(act, gain, depth=12, width=32):
    """Layers of one width whose weights have `gain` times the spread that keeps the variance (without the act)."""
    torch.manual_seed(0)
    layers = [nn.Flatten(), nn.Linear(64, width), act()]
    for _ in range(depth - 2):
        layers += [nn.Linear(width, width), act()]
    network = nn.Sequential(*layers, nn.Linear(width, 4))
    for layer in network:
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=gain / layer.in_features**0.5)
            nn.init.zeros_(layer.bias)
    return network


def run_of(
    folder, network, rate=0.02, epochs=3, images=256, shuffled=False, trained=None, scale=1.0, between=None, **watching
):
    """Train and leave a run folder with metrics and the measurer's records."""
    (x, y), (probe, probe_y) = pictures(images, 1, shuffled), pictures(200, 2, shuffled)
    x, probe = x * scale, probe * scale
    run = RunFolder(folder)
    split = {"train": list(range(images)), "validation": list(range(200)), "test": [], "notes": []}
    run.begin(json.dumps({"learning_rate": rate}), {"classes": list("abcd"), "notes": []}, json.dumps(split))
    optimiser = torch.optim.SGD(trained or network.parameters(), rate, momentum=0.9)
    watch = Measurer(network, optimiser, folder, **watching)
    for epoch in range(1, epochs + 1):
        total, hits = 0.0, 0
        network.train()
        for start in range(0, images, 32):
            part, labels = x[start : start + 32], y[start : start + 32]
            optimiser.zero_grad()
            scores = network(part)
            loss = F.cross_entropy(scores, labels)
            loss.backward()
            watch.step()
            total, hits = total + loss.item() * len(part), hits + int((scores.argmax(1) == labels).sum())
        watch.end_epoch(epoch, probe)
        network.eval()
        with torch.no_grad():
            scores = watch.unwatched(probe)
        right = (scores.argmax(1) == probe_y).float()
        balanced = np.mean([right[probe_y == label].mean().item() for label in range(4)])
        row = {"epoch": epoch, "train_loss": total / images, "train_accuracy": hits / images}
        row |= {"validation_loss": F.cross_entropy(scores, probe_y).item(), "validation_accuracy": right.mean().item()}
        run.log({**row, "validation_balanced_accuracy": balanced})
        if between:
            between(epoch, network)
    return run


def names(run):
    return [finding.name for finding in diagnose(run)]


def the(name, run):
    found = [finding for finding in diagnose(run) if finding.name == name]
    assert len(found) == 1, names(run)
    return found[0]


PLANTED = {"1": (0, 3, 7, 11), "3": (1, 2, 8, 9, 15), "6": tuple(range(4, 14))}  # site to units, by their index


def kill(network, planted=PLANTED):
    """Give units a bias that nothing lifts above zero; a site's name is its activation's, one after its layer."""
    with torch.no_grad():
        for site, units in planted.items():
            network[int(site) - 1].bias[list(units)] = -1e4


@pytest.mark.parametrize(
    ("act", "norm"), [(nn.ReLU, False), (nn.LeakyReLU, False), (nn.Tanh, False), (nn.ELU, False), (nn.ReLU, True)]
)
@pytest.mark.parametrize("seed", [0, 1])
def test_a_healthy_network_has_no_finding(tmp_path, act, norm, seed):
    run = run_of(tmp_path, small_network(act, norm, seed))
    assert Evidence(run).curve("validation_accuracy")[-1] > 0.9  # it did learn
    assert names(run) == []


def test_planted_dead_units_are_found_exactly_in_convolutions_and_in_full_layers(tmp_path):
    network = small_network()
    kill(network)
    found = the("dead-at-start", run_of(tmp_path, network))
    assert found.units == PLANTED
    assert found.numbers["dead"] == 4 + 5 + 10
    assert found.layers == ("0", "2", "5")
    assert "N=200" in found.evidence
    assert "0.015" in found.evidence  # 3/N
    assert found.contrary.startswith("None")
    assert "N=256" in found.contrary  # the training counter agrees


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


@pytest.mark.parametrize(("scale", "word"), [(100.0, "large"), (0.01, "small")])
def test_inputs_of_the_wrong_size_for_the_initial_values_are_found(tmp_path, scale, word):
    found = the("wrong-scale-for-init", run_of(tmp_path, small_network(), rate=1e-7, epochs=1, scale=scale))
    assert f"too {word}" in found.title
    # He on inputs of that spread puts out sqrt(2) times it.
    assert found.numbers["first_signal"] == pytest.approx(scale * 2**0.5, rel=0.6)


def test_behind_a_batch_norm_the_size_of_the_inputs_is_no_finding(tmp_path):
    run = run_of(tmp_path, small_network(norm=True), epochs=1, scale=100.0)
    assert "wrong-scale-for-init" not in names(run)


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


def test_random_labels_are_learned_by_heart_and_called_overfitting(tmp_path):
    run = run_of(tmp_path, small_network(), epochs=40, images=64, shuffled=True)
    assert Evidence(run).curve("train_accuracy")[-1] > 0.9
    assert names(run) == ["overfitting"]
    assert diagnose(run)[0].severity == "serious"


def test_a_rate_too_low_is_found_and_the_gradient_cleared_of_it(tmp_path):
    found = the("rate-too-low", run_of(tmp_path, small_network(), rate=1e-6))
    assert found.contrary.startswith("None")


def test_a_rate_too_high_is_found(tmp_path):
    found = the("rate-too-high", run_of(tmp_path, small_network(), rate=1.0))
    assert found.severity == "serious"
    assert found.numbers["update_ratio"] > 0.01


def test_a_value_that_is_no_number_is_found_where_it_first_appeared(tmp_path):
    def poison(epoch, network):
        if epoch == 1:
            with torch.no_grad():
                network[5].weight[0, 0] = float("nan")

    found = the("not-finite", run_of(tmp_path, small_network(), epochs=2, between=poison))
    assert found.epochs == (2,)
    assert found.layers == ("5",)


def test_planted_findings_each_carry_evidence_threshold_contrary_check_and_remedy(tmp_path):
    network = small_network()
    kill(network)
    network[2].requires_grad_(False)
    found = diagnose(run_of(tmp_path, network, rate=1e-6))
    assert len(found) >= 3
    for finding in found:
        assert all((finding.evidence, finding.threshold, finding.contrary, finding.remedy, finding.sentence))
        assert any(digit in finding.evidence for digit in "0123456789")


@pytest.mark.parametrize("act", [nn.ReLU, nn.LeakyReLU])
def test_the_instruments_and_the_measurer_of_this_file_write_the_same_records(tmp_path, act):
    network = small_network(act, norm=True)
    optimiser = torch.optim.SGD(network.parameters(), 0.05, momentum=0.9)
    own = Measurer(network, optimiser, tmp_path / "own")
    (x, y), (probe, _) = pictures(96, 1), pictures(50, 2)
    with Panel(network, optimiser, every=1, window=100, folder=tmp_path / "panel") as panel:
        for start in range(0, 96, 32):
            optimiser.zero_grad()
            F.cross_entropy(network(x[start : start + 32]), y[start : start + 32]).backward()
            panel.gradients_ready()
            own.step()
            panel.step()
        with panel.probing():
            own.end_epoch(1, probe)
    ours, theirs = Flow.read(tmp_path / "own"), Flow.read(tmp_path / "panel")
    assert [site.fed_by for site in theirs.layout.sites] == [site.fed_by for site in ours.layout.sites]
    assert [site.word for site in theirs.layout.sites] == [site.word for site in ours.layout.sites]

    def steps(flow):
        table, name = flow.table("steps"), [parameter.name for parameter in flow.layout.parameters]
        columns = (table[each] for each in ("weight_norm", "gradient_norm", "update_norm"))
        return {
            (name[at], int(step)): numbers
            for at, step, *numbers in zip(table["parameter"], table["step"], *columns, strict=True)
        }

    assert steps(theirs).keys() == steps(ours).keys()
    for key, numbers in steps(ours).items():
        assert steps(theirs)[key] == pytest.approx(numbers, rel=1e-4, abs=1e-7), key

    def units(flow):
        columns = ("site", "unit", "split", "inputs", "off", "elements", "elements_off")
        return sorted(zip(*(flow.table("units")[name].tolist() for name in columns), strict=True))

    assert units(theirs) == units(ours)

    def histograms(flow):
        table, names = flow.table("windows"), [parameter.name for parameter in flow.layout.parameters]
        counts = flow.table("histograms")["counts"]
        return {
            (int(kind), names[subject] if kind < 2 else int(subject)): counts[row]
            for row, (kind, subject) in enumerate(zip(table["kind"], table["subject"], strict=True))
        }

    counted = histograms(theirs)
    assert {kind for kind, _ in counted} == {0, 1, 2, 3}
    for key, counts in counted.items():
        assert np.array_equal(counts, histograms(ours)[key]), key
