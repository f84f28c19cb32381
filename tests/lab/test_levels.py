"""Levels: one entry each, what a level's text may say, and what every level builds."""

import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import erf, expit
from torch import nn
from typer.testing import CliRunner

from alexnet_ablations.cli.application import application
from alexnet_ablations.declare.declaration import read_factor
from alexnet_ablations.declare.study import declare_study
from alexnet_lab.instruments.panel import Panel
from alexnet_lab.levels import (
    ACTIVATIONS,
    NORMS,
    PLACEMENTS,
    Argument,
    Entry,
    Level,
    Norm,
    parse_level,
    split_levels,
)
from alexnet_lab.networks import AlexNet, build_network
from alexnet_lab.networks.catalogue import CATALOGUE
from alexnet_lab.networks.parts import LocalResponseNorm
from alexnet_lab.networks.slots import build_activation
from alexnet_lab.records import RunFolder
from alexnet_lab.training.recipe import Recipe, read_recipe
from alexnet_lab.training.run import train_with_verdict

# --- a row per level -------------------------------------------------------------------------------------------------

# Norm -> its module, the convolutions that it follows, its place, and whether these convolutions have a bias.
BUILT_NORMS = {
    "lrn": (LocalResponseNorm, (1, 2), "after", True),
    "bn": (nn.BatchNorm2d, (1, 2, 3, 4, 5), "before", False),
    "gn": (nn.GroupNorm, (1, 2, 3, 4, 5), "before", False),
    "none": (nn.Identity, (), "before", True),
}

# Activation -> its values at x, without and with an argument.
VALUES = {
    "relu": lambda x: np.maximum(x, 0),
    "leaky": lambda x: np.where(x > 0, x, 0.01 * x),
    "leaky:0.2": lambda x: np.where(x > 0, x, 0.2 * x),
    "prelu": lambda x: np.where(x > 0, x, 0.25 * x),
    "prelu:start=0.5": lambda x: np.where(x > 0, x, 0.5 * x),
    "elu": lambda x: np.where(x > 0, x, np.expm1(x)),
    "elu:alpha=.5": lambda x: np.where(x > 0, x, 0.5 * np.expm1(x)),
    "gelu": lambda x: x * (1 + erf(x / np.sqrt(2))) / 2,
    "silu": lambda x: x * expit(x),
    "tanh": np.tanh,
    "sigmoid": expit,
    "relu6": lambda x: np.clip(x, 0, 6),
    "hardswish": lambda x: x * np.clip(x + 3, 0, 6) / 6,
    "none": lambda x: x,
}


def test_every_level_has_a_row():
    assert set(BUILT_NORMS) == set(NORMS)
    assert {name.partition(":")[0] for name in VALUES} == set(ACTIVATIONS)


@pytest.mark.parametrize("name", BUILT_NORMS)
def test_a_norm_takes_its_place_and_its_layers(name):
    kind, layers, place, has_bias = BUILT_NORMS[name]
    network = AlexNet(3, preset="review", norm=name, width=1 / 8, image_size=67)
    parts = list(dict(network.named_children()))
    assert [part for part in parts if part.startswith("norm")] == [f"norm{layer}" for layer in layers]
    for layer in layers:
        assert type(network.get_submodule(f"norm{layer}")) is kind
        norm, act = parts.index(f"norm{layer}"), parts.index(f"act{layer}")
        assert abs(norm - act) == 1
        assert (norm < act) == (place == "before")
    unit = build_network("resnet18", 3, norm=name, width=1 / 8, image_size=32).get_submodule("stem")
    assert (unit.conv.bias is not None) == has_bias


@pytest.mark.parametrize("text", VALUES)
def test_an_activation_has_the_values_of_its_formula(text):
    x = np.linspace(-8, 8, 101)
    values = build_activation(text, "relu").double()(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(values, VALUES[text](x), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", [name for name in ACTIVATIONS if name != "none"])
def test_instruments_see_every_activation(name):
    network = nn.Sequential(nn.Linear(4, 3), build_activation(name, "relu"))
    with Panel(network, every=1) as panel:
        network(torch.randn(5, 4)).sum().backward()
        panel.step()
    assert [(site.name, site.activation) for site in panel.layout().sites] == [("1", type(network[1]).__name__)]


# --- one entry is all ------------------------------------------------------------------------------------------------


@pytest.fixture
def instance_norm(monkeypatch):
    """Add a norm: this entry is all that makes it known."""
    entry = Norm("torch.nn:InstanceNorm2d", {"eps": Argument(float, above=0)}, layers=(1,), rescales=True)
    monkeypatch.setitem(NORMS, "in", entry)


@pytest.mark.usefixtures("instance_norm")
class TestOneEntry:
    def test_makes_recipes_accept_it(self):
        assert read_recipe({"norm": "in:1e-3,after"}).norm == "in:eps=0.001,after"
        with pytest.raises(ValueError, match=r"unknown norm level 'im'. Did you mean 'in'\? Choices: .*, in"):
            read_recipe({"norm": "im"})
        with pytest.raises(ValueError, match="in level 'in:eps=0': eps must be above 0, got '0'"):
            read_recipe({"norm": "in:eps=0"})
        assert Recipe(norm="in", init="torch").warnings() == []

    @pytest.mark.parametrize(
        ("network", "preset"), [(name, preset) for name in CATALOGUE for preset in (CATALOGUE[name].presets or [None])]
    )
    def test_builds_it_in_every_network(self, network, preset):
        image = torch.randn(2, 3, 67, 67)
        for text, count in (("in", 1), ("in:eps=0.5,layers=1+2", 2)):
            model = build_network(network, 3, preset=preset, norm=text, width=0.25, image_size=67)
            norms = [module for module in model.modules() if isinstance(module, nn.InstanceNorm2d)]
            assert len(norms) == count
            assert {norm.eps for norm in norms} == {1e-5 if count == 1 else 0.5}
            assert model.eval()(image).shape == (2, 3)

    def test_shows_it_on_the_command_line(self):
        done = CliRunner().invoke(
            application, ["networks", "resnet18", "--norm", "in", "--classes", "3"], catch_exceptions=False
        )
        assert done.exit_code == 0
        assert "InstanceNorm2d" in done.output

    def test_makes_it_a_level_of_studies(self, tmp_path):
        assert read_factor("norm", "bn,in:eps=1,after,none", Recipe()).levels == (
            "lrn",
            "bn",
            "in:eps=1.0,after",
            "none",
        )
        start = {"data": "synthetic:classes=3,side=16,count=90", "epochs": 1, "width": 0.125}
        study = declare_study({"norm": "in"}, start, tmp_path, seeds=1)
        (recipe,) = [cell.recipe(study.start, 0) for cell in study.cells if cell.name == "norm=in"]
        folder, threads = RunFolder(tmp_path / "run"), torch.get_num_threads()
        try:
            train_with_verdict(recipe, folder, lambda _kind, _facts: None)
        finally:
            torch.set_num_threads(threads)
        assert folder.verdict()["result"]["epochs"] == 1


def test_an_entry_takes_a_constructor_in_place_of_a_path(monkeypatch):
    monkeypatch.setitem(ACTIVATIONS, "mish", Entry(nn.Mish))
    assert isinstance(AlexNet(3, act="mish", width=1 / 8, image_size=67).act3, nn.Mish)


def test_levels_need_no_torch():
    code = "import sys, alexnet_lab.levels; print(sorted({'torch', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- text ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("slot", "text", "level"),
    [
        ("norm", "bn", Level("bn")),
        ("norm", "bn:after", Level("bn", placement="after")),
        ("norm", "lrn:k=1,alpha=1e-4", Level("lrn", (("alpha", 1e-4), ("k", 1.0)))),
        ("norm", " gn:groups=32 ", Level("gn", (("groups", 32),))),
        ("norm", "gn:32", Level("gn", (("groups", 32),))),
        ("norm", "lrn:pooled,layers=2+1+1", Level("lrn", (), "pooled", (1, 2))),
        ("norm", "bn:after,1e-3", Level("bn", (("eps", 1e-3),), "after")),
        ("norm", "bn:layers=all", Level("bn", layers="all")),
        ("act", "leaky:0.2", Level("leaky", (("slope", 0.2),))),
        ("act", "elu:alpha=.5", Level("elu", (("alpha", 0.5),))),
    ],
)
def test_a_level_is_a_name_with_arguments(slot, text, level):
    assert parse_level(slot, text) == level


@given(st.data())
def test_writing_a_level_and_reading_it_again_changes_nothing(data):
    slot, entries = data.draw(st.sampled_from([("norm", NORMS), ("act", ACTIVATIONS)]))
    name = data.draw(st.sampled_from(sorted(entries)))
    values = {
        int: st.integers(1, 64),
        float: st.floats(1e-9, 1),
        ("mean", "sum"): st.sampled_from(["mean", "sum"]),
    }
    arguments = tuple(
        (key, data.draw(values[argument.kind]))
        for key, argument in entries[name].arguments.items()
        if data.draw(st.booleans())
    )
    placement = layers = None
    if slot == "norm" and name != "none":
        placement = data.draw(st.sampled_from([None, *PLACEMENTS]))
        numbers = st.sets(st.integers(1, 5), min_size=1).map(lambda s: tuple(sorted(s)))
        layers = data.draw(st.none() | st.just("all") | numbers)
    level = Level(name, arguments, placement, layers)
    assert parse_level(slot, str(level)) == level


@pytest.mark.parametrize(
    ("text", "levels"),
    [
        ("bn,none", ["bn", "none"]),
        ("lrn:k=1,alpha=1e-4,none", ["lrn:k=1,alpha=1e-4", "none"]),
        ("bn:after,layers=1+2,gn", ["bn:after,layers=1+2", "gn"]),
        ("leaky:0.1, prelu", ["leaky:0.1", "prelu"]),
        ("gn:groups=4,after,lrn:pooled", ["gn:groups=4,after", "lrn:pooled"]),
        ("", []),
    ],
)
def test_a_list_splits_at_levels_not_at_their_arguments(text, levels):
    assert split_levels(text) == levels


@pytest.mark.parametrize(
    ("slot", "text", "message"),
    [
        ("norm", "bm", "unknown norm level 'bm'. Did you mean 'bn'? Choices: lrn, bn, gn, "),
        ("act", "leeky", "Did you mean 'leaky'"),
        ("norm", "lrn:kk=1", "unknown argument of norm level 'lrn' 'kk'"),
        ("norm", "lrn:k=x", "k must be a number, got 'x'"),
        ("norm", "gn:groups=2.5", "groups must be a whole number, got '2.5'"),
        ("norm", "gn:groups=0", "groups must be at least 1, got '0'"),
        ("norm", "lrn:k=0", "k must be above 0, got '0'"),
        ("norm", "lrn:alpha=-1", "alpha must be at least 0, got '-1'"),
        (
            "norm",
            "lrn:window=meen",
            "in level 'lrn:window=meen': unknown window 'meen'. Did you mean 'mean'? Choices: mean, sum.",
        ),
        ("norm", "lrn:size=1" + 30 * "0", "size must be at most 10000, got '1000"),
        ("norm", "gn:groups=1" + 400 * "0", "groups must be at most 3.4e+38, got '1000"),
        ("norm", "bn:momentum=2", "momentum must be at most 1, got '2'"),
        ("norm", "bn:eps=0", "eps must be above 0, got '0'"),
        ("norm", "bn:nan", "in level 'bn:nan': eps must be a finite number, got 'nan'"),
        ("norm", "lrn:k=1e300", "k must be at most 3.4e+38, got '1e300'"),
        ("norm", "lrn:k=1,k=2", "in level 'lrn:k=1,k=2': k is given twice"),
        ("norm", "bn:after,before", "in level 'bn:after,before': placement is given twice"),
        ("norm", "bn:layers=1,layers=2", "layers is given twice"),
        ("norm", "bn:layers=1+0", "layers must be at least 1, got '0'"),
        ("norm", "bn:layers=", "layers must be a whole number, got ''"),
        ("norm", "none:after", "it takes no argument"),
        ("act", "leaky:1e400", "in level 'leaky:1e400': slope must be a finite number, got '1e400'"),
        ("act", "leaky:-1e39", "slope must be at least -3.4e+38, got '-1e39'"),
        ("act", "relu:0.1", "it takes no argument"),
        ("act", "relu:after", "it takes no argument"),
        ("act", "elu:layers=1", "Choices: alpha=..."),
    ],
)
def test_a_wrong_level_says_what_would_be_right(slot, text, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        parse_level(slot, text)


@pytest.mark.parametrize("field", ["act", "norm"])
def test_the_command_line_refuses_a_wrong_number_in_one_sentence(field, tmp_path):
    wrong = {"act": "leaky:1e400", "norm": "lrn:k=1e400"}[field]
    command = ["train", f"--{field}", wrong, "--out", str(tmp_path / "run")]
    done = CliRunner().invoke(application, command)
    assert done.exit_code != 0
    assert "must be a finite number, got '1e400'" in " ".join(str(done.output or done.exception).split())
    assert not (tmp_path / "run").exists()
