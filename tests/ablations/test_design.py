"""From flags to cells, and from cells to a study folder."""

import re

import pytest

from alexnet_ablations.declaration import read_factor
from alexnet_ablations.design import Cell, Factor, cells_of
from alexnet_lab.levels import NETWORKS, published_level
from alexnet_lab.networks import build_network
from alexnet_lab.training.recipe import Recipe

START = Recipe()
NORM = Factor("norm", ("lrn", "bn"))
ACT = Factor("act", ("relu", "leaky"))


def test_the_baseline_is_always_in_and_first():
    assert read_factor("norm", "bn", START) == NORM
    assert read_factor("norm", "none,lrn,bn:after", START).levels == ("lrn", "none", "bn:after")
    assert read_factor("dropout", "0.3,0", START).levels == (0.5, 0.3, 0.0)
    assert read_factor("batch_size", "16, 64", START).levels == (32, 16, 64)
    assert read_factor("preset", "review", START).levels == ("paper", "review")


@pytest.mark.parametrize(
    ("name", "preset"), [*((name, None) for name in NETWORKS), ("alexnet", "caffe"), ("alexnet", "torchvision")]
)
def test_the_published_levels_are_what_the_networks_are_built_with(name, preset):
    size = {"width": 1 / 8, "image_size": 67, "preset": preset}
    slots = {field: published_level(name, preset, field) for field in ("norm", "act", "dropout")}
    assert str(build_network(name, 4, **size)) == str(build_network(name, 4, **size, **slots))


def test_a_recipe_that_says_otherwise_moves_the_baseline():
    assert read_factor("norm", "lrn", Recipe(norm="bn")).levels == ("bn", "lrn")
    assert read_factor("norm", "lrn", Recipe(preset="torchvision")).levels == ("none", "lrn")
    assert read_factor("act", "leaky", Recipe(network="mobilenet_v2", preset=None)).levels == ("relu6", "leaky")
    assert read_factor("act", "leaky", Recipe(network="mobilenet_v3_small")).levels == (None, "leaky")  # it has two


@pytest.mark.parametrize(
    ("field", "text", "message"),
    [
        ("norm", "bm", "Did you mean 'bn'"),
        ("norm", "lrn", "--norm lrn is the baseline itself; name another level, for example bn,none"),
        ("norm", "bn,bn", "--norm names bn twice"),
        ("norm", "lrn:k=1,lrn:k=1.0", "--norm names lrn:k=1.0 twice"),
        ("norm", "", "--norm names no level; for example --norm bn,none"),
        ("dropout", "a third", "dropout: must be a valid number, unable to parse string as a number (got 'a third')"),
        ("dropout", "1.5", "dropout: must be less than 1 (got '1.5')"),
        ("preset", "cafe", "Did you mean 'caffe'"),
        ("batch_size", "0", "batch_size: must be greater than or equal to 1"),
    ],
)
def test_wrong_levels_are_refused_before_anything_runs(field, text, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        read_factor(field, text, START)


def test_a_factorial_crosses_every_level_with_every_other():
    cells = cells_of("factorial", [NORM, ACT, Factor("dropout", (0.5, 0.3, 0.0))])
    assert len(cells) == len(set(cells)) == 12
    assert cells[0] == Cell((("norm", "lrn"), ("act", "relu"), ("dropout", 0.5)))
    assert cells[0].name == "norm=lrn,act=relu,dropout=0.5"
    assert Cell((("norm", "lrn:k=1.0,window=sum"),)).name == "norm=lrn_k=1.0,window=sum"
