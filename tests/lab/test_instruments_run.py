"""Instruments in a run: they change no number, survive any interruption, and stay small."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from alexnet_lab.data.feed import open_feed
from alexnet_lab.instruments.flow import Flow, FlowWriter
from alexnet_lab.instruments.panel import Panel
from alexnet_lab.networks import AlexNet, build_network
from alexnet_lab.networks.parts import LocalResponseNorm, PartSequence
from alexnet_lab.records import RunFolder
from alexnet_lab.training import trainer
from alexnet_lab.training.recipe import Recipe
from alexnet_lab.training.run import train_with_verdict

QUICK = Recipe(width=1 / 16, epochs=1, seed=1, batch_size=128, norm="bn")  # 8 steps an epoch
COSTS = ("train_seconds", "images_per_second", "peak_memory_bytes", "measuring_share")


pytestmark = pytest.mark.usefixtures("torch_settings")


@pytest.fixture
def quick(device, monkeypatch):
    """The quick recipe on a device; a GPU repeats to the bit where it is asked to, and reports every step."""
    monkeypatch.setitem(trainer.STEPS_BETWEEN_READS, "cuda", 1)
    return replace(QUICK, device=device, deterministic=device == "cuda")


def run_in(path, recipe, report=lambda _kind, _facts: None):
    return train_with_verdict(recipe, RunFolder(path), report)


def numbers_of(path):
    """Everything a run learned, without what it cost."""
    folder = RunFolder(path)
    verdict = {name: folder.verdict()[name] for name in ("state", "why", "result")}
    for name in COSTS:
        verdict["result"].pop(name)
    rows = [{k: v for k, v in row.items() if k not in ("seconds", "images_per_second")} for row in folder.metrics()]
    weights = safetensors.torch.load_file(path / "checkpoints/best.safetensors")
    return verdict, rows, {name: value.numpy().tobytes() for name, value in weights.items()}


def assert_same_flow(one, other):
    """Every column is the same to the last bit, but for the clock's."""
    a, b = Flow.read(one), Flow.read(other)
    assert a.layout == b.layout
    assert list(a.epochs) == list(b.epochs)
    for epoch, columns in a.epochs.items():
        assert columns.keys() == b.epochs[epoch].keys()
        for name, values in columns.items():
            if not name.startswith("cost."):
                np.testing.assert_array_equal(values, b.epochs[epoch][name], err_msg=f"epoch {epoch}, {name}")
    for name, values in a.filters.items():
        np.testing.assert_array_equal(values, b.filters[name])


@pytest.mark.parametrize(
    "change",
    [
        {"norm": "lrn"},
        {"norm": "none", "act": "leaky"},
        {"clip_norm": 0.1, "ema": 0.9, "accumulate": 2},
        pytest.param({"norm": "lrn", "precision": "fp16"}, marks=pytest.mark.long),
        pytest.param({"network": "resnet18", "channels_last": True, "batch_size": 512}, marks=pytest.mark.long),
    ],
)
def test_a_run_with_instruments_has_the_numbers_of_one_without(change, tmp_path, quick):
    for level in ("off", "default", "all"):
        assert run_in(tmp_path / level, replace(quick, instruments=level, **change)) == 0
    bare = numbers_of(tmp_path / "off")
    assert numbers_of(tmp_path / "default") == bare
    assert numbers_of(tmp_path / "all") == bare
    assert Flow.read(tmp_path / "off") is None
    assert RunFolder(tmp_path / "off").verdict()["result"]["measuring_share"] is None


def test_a_run_records_its_parameters_sites_filters_and_probe(tmp_path):
    assert run_in(tmp_path, QUICK) == 0
    flow = Flow.read(tmp_path)
    layers = [f"conv{i}" for i in range(1, 6)] + ["fc6", "fc7"]
    assert [site.fed_by for site in flow.layout.sites] == layers
    assert [p.name for p in flow.layout.parameters[:4]] == ["conv1.weight", "conv1.bias", "norm1.weight", "norm1.bias"]
    assert (flow.layout.every, flow.layout.precision) == (20, "fp32")
    assert flow.filters["start"].shape == flow.layout.parameters[0].shape
    assert not np.array_equal(flow.filters["start"], flow.filters["end"])
    # The probe set's counts, from the weights that were kept and a hook of our own.
    network = build_network("alexnet", 10, norm="bn", width=1 / 16, image_size=67, in_channels=1).eval()
    kept = safetensors.torch.load_file(tmp_path / "checkpoints/best.safetensors")
    network.load_state_dict({name.removeprefix("network."): value for name, value in kept.items()})
    feed = open_feed("digits", image_size=67)
    seen = {layer: [] for layer in layers}
    for at, layer in enumerate(layers, 1):
        act = network.get_submodule(f"act{at}")
        act.register_forward_pre_hook(lambda _m, x, layer=layer: seen[layer].append(x[0].numpy().copy()))
    with torch.no_grad():
        for x, _ in feed.batches_of(feed.split.validation, 512):
            network(x)
    units = flow.table("units")
    for at, layer in enumerate(layers):
        low = np.concatenate(seen[layer]) <= 0
        rows = (units["site"] == at) & (units["split"] == 1)
        expected = low.reshape(*low.shape[:2], -1).all(2).sum(0)
        assert np.array_equal(units["off"][rows], expected)
        assert set(units["inputs"][rows]) == {len(feed.split.validation)}
    assert set(units["inputs"][units["split"] == 0]) == {8 * 128}


def test_a_run_says_what_it_cost(tmp_path):
    run_in(tmp_path, QUICK)
    result = RunFolder(tmp_path).verdict()["result"]
    (row,) = RunFolder(tmp_path).metrics()
    assert result["final_train_loss"] == row["train_loss"]
    assert result["train_seconds"] == pytest.approx(row["seconds"])
    assert result["images_per_second"] == pytest.approx(8 * 128 / row["seconds"])
    assert 0 < result["measuring_share"] < 1
    cost = Flow.read(tmp_path).table("cost")
    assert result["measuring_share"] == pytest.approx(float(cost["measuring_seconds"][0] / cost["total_seconds"][0]))
    assert result["peak_memory_bytes"] > 100 * 2**20  # torch alone takes more


class PowerCutError(BaseException):
    """Nothing in the program catches this, as nothing catches a kill -9."""


@pytest.mark.parametrize("cut_at", [5, 8, 11])
@pytest.mark.parametrize(
    "change",
    [
        {"instruments": "every:3"},
        pytest.param({"instruments": "all", "ema": 0.9, "precision": "fp16"}, marks=pytest.mark.long),
    ],
)
def test_a_run_cut_off_at_any_step_ends_with_the_records_of_an_undisturbed_one(
    cut_at, change, tmp_path, monkeypatch, small, undisturbed
):
    recipe = replace(small, **change)  # 8 steps in each of two epochs
    whole = undisturbed(recipe)
    monkeypatch.setattr(trainer, "WITHIN_EPOCH", -1.0)
    monkeypatch.setattr(trainer, "BETWEEN_EPOCHS", -1.0)

    def cut(kind, facts):
        if kind == "step" and facts["step"] == cut_at:
            raise PowerCutError

    with pytest.raises(PowerCutError):
        run_in(tmp_path / "cut", recipe, cut)
    monkeypatch.undo()
    assert run_in(tmp_path / "cut", recipe) == 0
    assert_same_flow(whole, tmp_path / "cut")
    assert numbers_of(whole) == numbers_of(tmp_path / "cut")


def test_a_run_that_went_on_counts_its_earlier_time_and_not_the_pause(tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "WITHIN_EPOCH", -1.0)
    clock = [0.0]

    def now():
        clock[0] += 1e-6
        return clock[0]

    monkeypatch.setattr("alexnet_lab.training.trainer.time.perf_counter", now)

    def tick(kind, facts):
        clock[0] += 10.0 if kind == "step" else 0.0
        if kind == "step" and facts["step"] == 5 and not (tmp_path / "cut-once").exists():
            (tmp_path / "cut-once").touch()
            raise PowerCutError

    with pytest.raises(PowerCutError):
        run_in(tmp_path / "run", QUICK, tick)
    clock[0] += 1000.0
    run_in(tmp_path / "run", QUICK, tick)
    # Saved after step 5, 40 seconds on the clock; the ten until the cut are lost, steps 6 to 8 take ten each.
    assert RunFolder(tmp_path / "run").verdict()["result"]["train_seconds"] == pytest.approx(70, abs=1)


def test_a_run_that_diverges_keeps_what_was_measured_and_a_new_one_starts_clean(tmp_path, quick):
    wild = replace(quick, norm="none", learning_rate=1e4, epochs=3, instruments="all")
    assert run_in(tmp_path, wild) == 0
    assert RunFolder(tmp_path).verdict()["state"] == "diverged"
    flow = Flow.read(tmp_path)
    last = max(flow.epochs)
    steps = flow.table("steps")
    assert steps["step"].max() >= 1
    assert (tmp_path / "flow" / f"epoch-{last:04}.npz").exists()
    assert not np.isfinite(steps["weight_norm"]).all() or not np.isfinite(steps["gradient_norm"]).all()
    run_in(tmp_path, replace(quick, instruments="off"))
    assert Flow.read(tmp_path) is None
    assert not list((tmp_path / "flow").glob("*.npz"))


def test_watching_a_relu_does_not_part_it_from_its_norm_and_pool(monkeypatch):
    torch.manual_seed(0)
    network = PartSequence(nn.Conv2d(1, 8, 3), nn.ReLU(), LocalResponseNorm(), nn.MaxPool2d(3, 2))
    x = torch.randn(2, 1, 17, 17)
    bare = network(x)

    def apart(*_):
        raise AssertionError("the norm ran by itself")

    monkeypatch.setattr(LocalResponseNorm, "forward", apart)
    with Panel(network, every=1) as panel:
        watched = network(x)
        panel.step()
    assert torch.equal(bare, watched)
    pre = network[0](x).detach().numpy() <= 0
    assert np.array_equal(panel.tables[1]["units"]["elements_off"], pre.sum((0, 2, 3)))
    # Hooks of either kind may hand on another input, in their order.
    network[1].register_forward_pre_hook(lambda _m, args: args[0] * 2)
    network[1].register_forward_pre_hook(lambda _m, args, kwargs: ((args[0] + 1,), kwargs), with_kwargs=True)
    expected = network[2].after_relu_pooled(network[0](x) * 2 + 1)
    assert torch.equal(network(x), expected)
    network[1].register_forward_hook(lambda *_: None)  # what comes out of the ReLU exists only where it runs apart
    with pytest.raises(AssertionError, match="by itself"):
        network(x)


def test_ninety_epochs_of_the_paper_stay_below_fifty_megabytes(tmp_path):
    # One epoch of 10,000 steps on the default schedule, with counts as spread out as those of real tensors, times 90.
    with torch.device("meta"):
        shapes = [tuple(p.shape) for p in AlexNet(1000).parameters()]
    assert sum(int(np.prod(shape)) for shape in shapes) > 60e6
    draw = np.random.default_rng(0)
    rows, steps, windows = sum(len(shape) > 1 for shape in shapes) * 2 + 14, 100, 20
    units = np.repeat([96, 256, 384, 384, 256, 4096, 4096], 1)
    counts = np.zeros((rows * windows, 2, 258), np.int64)
    counts[:, :, 85:130] = draw.integers(0, 2**20, (rows * windows, 2, 45))
    inputs = np.full(2 * units.sum(), 1_281_167)
    tables = {
        "steps": {
            "step": np.repeat(np.arange(steps, dtype=np.int32), len(shapes)),
            "parameter": np.tile(np.arange(len(shapes), dtype=np.int16), steps),
            **{
                name: draw.random(steps * len(shapes), np.float32)
                for name in ("weight_norm", "gradient_norm", "update_norm")
            },
        },
        "windows": {name: draw.random(len(counts), np.float32) for name in "abcdefghi"},
        "histograms": {"counts": counts},
        "units": {
            "site": np.tile(np.repeat(np.arange(7, dtype=np.int16), units), 2),
            "unit": np.tile(np.concatenate([np.arange(n, dtype=np.int32) for n in units]), 2),
            "split": np.repeat(np.array([0, 1], np.int8), units.sum()),
            "inputs": inputs,
            "off": draw.integers(0, inputs),
            "elements": inputs * 169,
            "elements_off": draw.integers(0, inputs * 169),
        },
    }
    writer = FlowWriter(tmp_path)
    writer.folder.mkdir()
    writer.write_epoch(1, tables)
    assert 90 * (tmp_path / "flow/epoch-0001.npz").stat().st_size < 50e6


def test_the_documented_reading_works_as_printed(tmp_path, monkeypatch, capsys):
    run_in(tmp_path / "runs/lrn", QUICK)
    monkeypatch.chdir(tmp_path)
    text = (Path(__file__).parents[2] / "docs/records.md").read_text()
    examples = [part.partition("```")[0] for part in text.split("```python\n")[1:]]
    raw = [example for example in examples if "runs/lrn/flow/" in example]
    assert len(raw) >= 2
    for example in raw:
        exec(compile(example, "docs/records.md", "exec"), {})  # noqa: S102  # the example is the test
    printed = capsys.readouterr().out
    assert "conv1" in printed
    assert "fc7" in printed


@pytest.mark.long
def test_two_processes_count_what_one_does(tmp_path, run_in_two_processes):
    # At a rate of next to nothing the weights stay where they are, and counts must be equal to the last one.
    recipe = replace(QUICK, norm="lrn", epochs=1, learning_rate=1e-12, weight_decay=0.0, instruments="every:2")
    run_in(tmp_path / "one", recipe)
    path = tmp_path / "two"
    run_in_two_processes(recipe, path)
    one, two = Flow.read(tmp_path / "one"), Flow.read(path)
    assert one.layout == two.layout
    for name, values in one.table("units").items():
        np.testing.assert_array_equal(values, two.table("units")[name], err_msg=name)
    for name in ("weight_norm", "gradient_norm"):
        np.testing.assert_allclose(one.table("steps")[name], two.table("steps")[name], rtol=1e-4)
    a, b = one.table("histograms")["counts"], two.table("histograms")["counts"]
    assert np.array_equal(a.sum((1, 2)), b.sum((1, 2)))
    # Rounding moves a value across a power of two now and then.
    assert (np.abs(a - b).sum((1, 2)) <= 0.01 * a.sum((1, 2)) + 4).all()
    windows = two.table("windows")
    assert set(windows["tensors"][windows["kind"] >= 2]) == {2}  # the first measured step of each window, in two parts


# Remarks of torch's own compiler on itself.
COMPILER = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:The .grad attribute:UserWarning")


@COMPILER
@pytest.mark.long
def test_compiled_networks_count_what_eager_ones_do_without_compiling_again(tmp_path):
    recorded = []
    for compiled in (False, True):
        torch.manual_seed(0)
        act = nn.LeakyReLU
        network = nn.Sequential(
            nn.Conv2d(3, 6, 3), nn.ReLU(True), nn.Conv2d(6, 4, 3), act(), nn.Flatten(), nn.Linear(64, 5)
        )
        forward = torch.compile(network) if compiled else network
        optimiser = torch.optim.SGD(network.parameters(), 1e-12)
        torch._dynamo.utils.counters.clear()
        with Panel(network, optimiser, every=3) as panel:
            x = torch.randn(8, 3, 8, 8)
            if compiled:
                panel.survey(x)
            for step in range(8):
                x = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(step))
                optimiser.zero_grad()
                forward(x).square().mean().backward()
                panel.gradients_ready()
                optimiser.step()
                panel.step()
            with panel.probing(), torch.no_grad():
                network.eval()(x)
        recorded.append(panel)
        if compiled:
            counters = torch._dynamo.utils.counters
            assert counters["stats"]["unique_graphs"] == 2  # a measured step and any other
            assert not counters["graph_break"]
    eager, compiled = (panel.tables[1] for panel in recorded)
    assert recorded[0].layout() == recorded[1].layout()
    for name, values in eager["units"].items():
        np.testing.assert_array_equal(values, compiled["units"][name], err_msg=name)
    key = np.lexsort((eager["windows"]["subject"], eager["windows"]["kind"]))
    other = np.lexsort((compiled["windows"]["subject"], compiled["windows"]["kind"]))
    for name in ("kind", "subject", "tensors", "stride"):
        np.testing.assert_array_equal(eager["windows"][name][key], compiled["windows"][name][other], err_msg=name)
    a, b = eager["histograms"]["counts"][key], compiled["histograms"]["counts"][other]
    assert (np.abs(a - b).sum((1, 2)) <= 0.01 * a.sum((1, 2)) + 4).all()


@COMPILER
@pytest.mark.long
def test_a_compiled_run_that_ran_before_its_panel_says_that_it_sees_nothing():
    network = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    forward = torch.compile(network)
    x = torch.randn(5, 4)
    forward(x).sum().backward()
    with pytest.warns(UserWarning, match="ran before the panel was entered"), Panel(network) as panel:
        forward(x).sum().backward()
        panel.step()


@COMPILER
@pytest.mark.long
def test_a_compiled_run_has_records_like_an_eager_one(tmp_path):
    recipe = replace(QUICK, norm="lrn", instruments="every:3")
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    for name, compiled in (("eager", False), ("compiled", True)):
        assert run_in(tmp_path / name, replace(recipe, compile=compiled, dropout=0.0)) == 0
    assert not torch._dynamo.utils.counters["graph_break"]
    eager, compiled = Flow.read(tmp_path / "eager"), Flow.read(tmp_path / "compiled")
    assert json.dumps([s.name for s in eager.layout.sites]) == json.dumps([s.name for s in compiled.layout.sites])
    a, b = eager.table("units"), compiled.table("units")
    for name in ("site", "unit", "split", "inputs", "elements"):
        np.testing.assert_array_equal(a[name], b[name])
    rates = [units["elements_off"] / units["elements"] for units in (a, b)]
    assert np.abs(rates[0] - rates[1]).mean() < 0.01
