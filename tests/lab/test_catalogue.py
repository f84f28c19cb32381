"""The catalogue of networks: one entry makes a network known to recipes, studies, the command line and weight files."""

import subprocess
import sys

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from alexnet_ablations.cli.application import application
from alexnet_ablations.declare.declaration import read_factor
from alexnet_ablations.declare.study import as_published, declare_study
from alexnet_lab.networks import build_network, load_pretrained, to_torchvision_state_dict
from alexnet_lab.networks.catalogue import CATALOGUE, Entry, Variant, Weights, published_level
from alexnet_lab.networks.slots import ConvUnit, NormSlot
from alexnet_lab.records import RunFolder
from alexnet_lab.training.recipe import Recipe, read_recipe
from alexnet_lab.training.run import train_with_verdict


class PlainNet(nn.Sequential):
    """Two convolutions and a classifier."""

    def __init__(
        self,
        num_classes,
        *,
        preset="wide",
        norm=None,
        act=None,
        dropout=None,
        width=1.0,
        image_size=48,
        in_channels=3,
        init="he",
        seed=None,
    ):
        super().__init__()
        slot = NormSlot.of(norm, "none" if preset == "bare" else "gn")
        channels = max(1, round((64 if preset == "wide" else 32) * width))
        self.first = ConvUnit(1, in_channels, channels, 3, 2, norm=slot, act=act)
        self.second = ConvUnit(2, channels, channels, 3, 2, norm=slot, act=act)
        self.average = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.drop = nn.Dropout(0.1 if dropout is None else dropout)
        self.classifier = nn.Linear(channels, num_classes)
        self.preset_name = preset


def torchvision_names(_network):
    yield "first.conv", "features.0"
    yield "second.conv", "features.2"
    yield "classifier", "fc"


@pytest.fixture
def plainnet(monkeypatch):
    """Add PlainNet to the catalogue: this entry is all that makes it known."""
    entry = Entry(
        "a network of a test",
        f"{__name__}:PlainNet",
        levels={"preset": "wide", "norm": "gn", "act": "relu", "dropout": 0.1, "init": "he"},
        image_size=48,
        presets={"wide": Variant("64 channels", {}), "bare": Variant("32 channels, no norm", {"norm": "none"})},
        weights=(Weights({"imagenet": "plainnet-01234567.pth"}, {"preset": "bare"}),),
        torchvision_names=torchvision_names,
    )
    monkeypatch.setitem(CATALOGUE, "plainnet", entry)


@pytest.fixture
def threads():
    """Restore the thread count that a run sets for its process."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def command_line(*arguments):
    result = CliRunner().invoke(application, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


@pytest.mark.usefixtures("plainnet")
class TestOneEntry:
    def test_builds_the_network(self):
        network = build_network("plainnet", 3, norm="bn", act="leaky:0.2", preset="bare")
        assert isinstance(network, PlainNet)
        assert isinstance(network.second.norm, nn.BatchNorm2d)
        assert network.first.conv.out_channels == 32
        with pytest.raises(ValueError, match="unknown network 'plainet'. Did you mean 'plainnet'"):
            build_network("plainet")
        with pytest.raises(ValueError, match="only alexnet, plainnet has presets; vgg11 was given"):
            build_network("vgg11", preset="bare")

    def test_makes_recipes_accept_it(self):
        assert read_recipe({"network": "plainnet", "preset": "bare"}).preset == "bare"
        with pytest.raises(ValueError, match="unknown preset 'bear'. Did you mean 'bare'"):
            read_recipe({"network": "plainnet", "preset": "bear"})
        (caution,) = Recipe(network="plainnet", init="published", input_scale="pixels").warnings()
        assert "may overflow" in caution

    def test_gives_its_published_levels(self):
        assert published_level("plainnet", None, "norm") == "gn"
        assert published_level("plainnet", "bare", "norm") == "none"
        assert published_level("plainnet", "caffe", "norm") == "gn"  # a preset of another network
        assert read_factor("norm", "bn", Recipe(network="plainnet")).levels == ("gn", "bn")
        assert read_factor("dropout", "0.5", Recipe(network="plainnet")).levels == (0.1, 0.5)
        written = as_published(Recipe(network="plainnet", preset="bare"))
        assert (written.norm, written.act, written.dropout) == ("none", "relu", 0.1)

    def test_shows_it_on_the_command_line(self):
        names = command_line("networks")
        assert "a network of a test" in names
        assert "32 channels, no norm" in names
        table = command_line("networks", "plainnet", "--classes", "3", "--norm", "bn")
        assert "plainnet, 3 classes, 3x48x48" in table
        assert "second.norm" in table
        total = sum(p.numel() for p in PlainNet(3, norm="bn").parameters())
        assert f"{total:,} parameters" in table

    @pytest.mark.usefixtures("threads")
    def test_lets_studies_train_it(self, tmp_path):
        start = {"data": "synthetic:classes=3,side=16,count=90", "image_size": 16, "epochs": 1, "width": 0.25}
        study = declare_study({"network": "plainnet", "norm": "bn"}, start, tmp_path, seeds=1)
        recipes = {cell.name: cell.recipe(study.start, 0) for cell in study.cells}
        assert {recipe.network for recipe in recipes.values()} == {"alexnet", "plainnet"}
        recipe = recipes["network=plainnet,norm=bn"]
        folder = RunFolder(tmp_path / "run")
        train_with_verdict(recipe, folder, lambda _kind, _facts: None)
        assert folder.verdict()["result"]["epochs"] == 1

    def test_names_its_weight_file(self, tmp_path):
        network = PlainNet(3, preset="bare")
        content = {name: torch.randn_like(value) for name, value in to_torchvision_state_dict(network).items()}
        assert sorted(content) == sorted(
            f"{layer}.{tensor}" for layer in ("features.0", "features.2", "fc") for tensor in ("weight", "bias")
        )
        torch.save(content, tmp_path / "plain.pth")
        assert load_pretrained(network, tmp_path / "plain.pth") == []
        assert torch.equal(network.second.conv.weight, content["features.2.weight"])
        message = (
            "tensors of plainnet with preset bare: take network plainnet with preset bare, or the file of resnet18"
        )
        with pytest.raises(ValueError, match=message):
            load_pretrained(build_network("resnet18", 3, width=0.125), tmp_path / "plain.pth")
        with pytest.raises(
            ValueError, match="preset 'wide' has no counterpart in torchvision; only preset=\"bare\" has"
        ):
            to_torchvision_state_dict(PlainNet(3, norm="none"))


def test_a_preset_is_left_to_the_networks_that_have_it(plainnet, tmp_path):
    study = declare_study({"network": "plainnet"}, {"preset": "caffe"}, tmp_path, seeds=1)
    alexnet, plain = (cell.recipe(study.start, 0) for cell in study.cells)
    assert (alexnet.network, alexnet.preset) == ("alexnet", "caffe")
    assert (plain.network, plain.preset) == ("plainnet", None)


@pytest.mark.parametrize("name", CATALOGUE)
def test_every_entry_is_whole(name):
    entry = CATALOGUE[name]
    assert entry.description
    assert set(entry.levels) <= {"norm", "act", "dropout", "preset", "init"}
    assert published_level(name, None, "init") in ("gaussian", "he", "torch")
    for weights in entry.weights:
        assert "imagenet" in weights.files
        with torch.device("meta"):
            network = build_network(name, **weights.slots)
        assert to_torchvision_state_dict(network)
    for preset in entry.presets:
        with torch.device("meta"):
            assert build_network(name, 3, preset=preset).preset_name == preset


def test_the_catalogue_and_recipes_need_no_torch():
    modules = "alexnet_lab.networks.catalogue, alexnet_lab.training.recipe, alexnet_ablations.declare.study"
    code = f"import sys, {modules}; print(sorted({{'torch', 'numpy'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_unknown_name_of_the_package_is_an_attribute_error():
    import alexnet_lab.networks

    assert set(alexnet_lab.networks.__all__) <= set(dir(alexnet_lab.networks))
    with pytest.raises(AttributeError, match="has no attribute 'AlexNett'"):
        alexnet_lab.networks.AlexNett  # noqa: B018  # the access is the test
