"""From flags to cells, and from cells to a study folder."""

import dataclasses
import re

import pytest

from alexnet_ablations.declare.declaration import (
    FACTORS,
    RECIPE_FIELDS,
    SHARED,
    read_baseline,
    read_factor,
    read_factors,
)
from alexnet_ablations.declare.design import (
    DESIGNS,
    MOST_CELLS,
    MOST_RUNS,
    Cell,
    Factor,
    cells_of,
    count_cells,
    default_design,
)
from alexnet_ablations.declare.study import Study
from alexnet_lab.networks import build_network
from alexnet_lab.networks.catalogue import CATALOGUE, published_level
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
    ("name", "preset"), [*((name, None) for name in CATALOGUE), ("alexnet", "caffe"), ("alexnet", "torchvision")]
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
        (
            "norm",
            "lrn",
            "norm: lrn is the baseline itself; name a level to compare it with, for example bn,none, or leave",
        ),
        ("norm", "bn,bn", "norm: names bn twice"),
        ("norm", "lrn:k=1,lrn:k=1.0", "norm: names lrn:k=1.0 twice"),
        ("norm", "", "norm: names no level; name one or several, for example bn,none"),
        ("dropout", "a third", "dropout: must be a number (got 'a third')"),
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


def test_every_field_of_the_recipe_is_a_factor_or_is_said_to_be_the_same_for_all():
    assert set(FACTORS) | (set(SHARED) & set(RECIPE_FIELDS)) == {field.name for field in dataclasses.fields(Recipe)}
    assert not set(FACTORS) & set(SHARED)
    for name in FACTORS:
        # None of these is refused for what it is: one that differs from the default is a level.
        level = OTHER_LEVELS[name]
        factor = read_factor(name, level, START)
        assert len(factor.levels) == 2, name
        cells_of("only", [factor])[1].recipe(START, 0)


OTHER_LEVELS = {
    "tf32": "true",
    "network": "resnet18",
    "preset": "caffe",
    "norm": "lrn:k=1,alpha=2",
    "act": "prelu",
    "dropout": "0.3",
    "width": "0.5",
    "image_size": "96",
    "init": "torch",
    "weights": "imagenet",
    "freeze": "features",
    "unfreeze_at": "2",
    "layer_decay": "0.9",
    "head_lr": "0.1",
    "sampling": "balanced",
    "class_weights": "balanced",
    "fit": "pad",
    "channels": "rgb",
    "input_scale": "pixels",
    "augment": "flip,crop;",
    "epochs": "3",
    "batch_size": "16",
    "accumulate": "2",
    "optimiser": "adamw",
    "learning_rate": "1e-3",
    "schedule": "step:25+51",
    "warmup_epochs": "1",
    "momentum": "0",
    "weight_decay": "0",
    "label_smoothing": "0.1",
    "clip_norm": "1",
    "ema": "0.99",
    "patience": "2",
    "ten_views": "true",
    "precision": "bf16",
    "channels_last": "true",
    "compile": "true",
}


@pytest.mark.parametrize(
    ("field", "text", "levels"),
    [
        ("norm", "lrn:k=1,alpha=2,bn", ("lrn", "lrn:alpha=2.0,k=1.0", "bn")),
        ("norm", "lrn:k=1,alpha=2;bn", ("lrn", "lrn:alpha=2.0,k=1.0", "bn")),
        ("augment", "flip,crop", ("none", "flip", "crop")),
        ("augment", "flip,crop;", ("none", "crop,flip")),
        ("augment", "flip,crop;xray", ("none", "crop,flip", "rotate:7,scale")),
        ("schedule", "constant,step:2+4", ("cosine", "constant", "step:2+4")),
        ("ten_views", "true,false", (False, True)),
        ("weights", "imagenet,none", ("", "imagenet")),
        ("batch_size", [16, 32], (32, 16)),
        ("norm", ["lrn:k=1,alpha=2", "published"], ("lrn", "lrn:alpha=2.0,k=1.0", None)),
    ],
)
def test_commas_separate_levels_and_semicolons_where_a_level_has_commas(field, text, levels):
    assert read_factor(field, text, START).levels == levels


def test_where_networks_differ_the_baseline_is_whatever_each_was_published_with():
    network, norm = read_factors({"network": "alexnet,resnet18", "norm": "bn,none"}, START)
    assert norm.levels == (None, "bn", "none")
    cells = cells_of("factorial", [network, norm])
    recipes = [cell.recipe(START, 0) for cell in cells]
    assert [(r.network, r.norm) for r in recipes[::3]] == [("alexnet", None), ("resnet18", None)]
    assert cells[0].name == "network=alexnet,norm=published"
    # Those that agree have one baseline by name.
    assert read_factors({"network": "vgg11", "act": "leaky"}, START)[1].levels == ("relu", "leaky")


def test_a_reading_of_alexnet_does_not_follow_into_another_network():
    start = Recipe(preset="caffe")
    alexnet, resnet = cells_of("only", read_factors({"network": "resnet18"}, start))
    assert alexnet.recipe(start, 0).preset == "caffe"
    assert resnet.recipe(start, 0).preset is None
    with pytest.raises(ValueError, match="only alexnet has presets, and resnet18 has none"):
        read_factors({"network": "resnet18", "preset": "caffe"}, START)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", {}),
        ("norm=lrn,act=relu", {"norm": "lrn", "act": "relu"}),
        ("norm=lrn:k=1,alpha=2,batch-size=16", {"norm": "lrn:k=1,alpha=2", "batch_size": "16"}),
        ("norm=bn:after,momentum=0.2;dropout=0.3", {"norm": "bn:after,momentum=0.2", "dropout": "0.3"}),
        ("norm=published,weights=none", {"norm": None, "weights": ""}),
    ],
)
def test_a_baseline_is_read_field_by_field(text, found):
    assert read_baseline(text) == found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nrom=bn", "unknown field in --baseline 'nrom'. Did you mean 'norm'"),
        ("norm=bn,norm=lrn", "--baseline names norm twice"),
        ("bn", "--baseline takes field=level, for example norm=lrn,act=relu; got 'bn'"),
        ("norm=bn,after", "--baseline takes field=level"),
    ],
)
def test_a_mistaken_baseline_is_one_sentence(text, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        read_baseline(text)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"nrom": "bn"}, "unknown factor 'nrom'. Did you mean 'norm'"),
        ({"device": "cpu,cuda"}, "device: takes one value for all cells (it is where and how a study runs"),
        ({"seed": "1,2"}, "seed: takes one value for all cells (every cell runs under every seed: say how many"),
        ({"data": "a,b"}, "make one study of each"),
    ],
)
def test_a_factor_that_cannot_be_one_is_refused(given, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        read_factors(given, START)


@pytest.mark.parametrize(
    ("design", "factors", "message"),
    [
        ("fractal", [NORM], "unknown design 'fractal'. Did you mean 'fractional'"),
        ("fractional", [NORM, ACT], "at least 4 factors, got 2"),
        ("fractional", [Factor("norm", ("lrn", "bn", "none"))] * 4, "norm has 3 levels (lrn, bn, none)"),
        ("leave-one-out", [NORM], "needs at least two factors, got 1"),
        ("leave-one-out", [Factor("norm", ("lrn", "bn", "none")), ACT], "has one fully changed network"),
        (
            "only",
            [Factor("norm", ("lrn", "bn", "none")), Factor("act", ("relu", "leaky", "prelu", "elu"))],
            "the same number of them; got norm 2, act 3",
        ),
    ],
)
def test_a_design_that_its_factors_cannot_carry_is_one_sentence(design, factors, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        cells_of(design, factors)


@pytest.mark.parametrize(
    ("design", "counts"),
    [
        ("factorial", [(2,), (2, 3), (2, 3, 4)]),
        ("one-at-a-time", [(2,), (2, 3), (5, 3, 4)]),
        ("leave-one-out", [(2, 2), (2, 2, 2)]),
        ("fractional", [(2,) * 4, (2,) * 7, (2,) * 11]),
        ("only", [(2,), (3, 2), (4, 4, 4)]),
    ],
)
def test_cells_are_counted_without_being_listed_and_the_count_is_right(design, counts):
    for levels in counts:
        factors = [Factor(f"f{at}", tuple(range(count))) for at, count in enumerate(levels)]
        assert count_cells(design, factors) == len(cells_of(design, factors))


def test_the_largest_study_is_allowed_and_the_next_larger_one_is_refused(tmp_path):
    factor = Factor("batch_size", tuple(range(1, MOST_CELLS + 1)))
    assert len(cells_of("factorial", [factor])) == MOST_CELLS
    assert Study(START, (factor,), MOST_RUNS // MOST_CELLS, tmp_path).size == MOST_RUNS
    with pytest.raises(ValueError, match="a study has at most 10,000 runs, and 1,000 cells x 11 seeds are 11,000"):
        Study(START, (factor,), 11, tmp_path)
    with pytest.raises(ValueError, match="a study has at most 1,000 cells, and the design factorial makes 2,000"):
        Study(START, (factor, NORM), 1, tmp_path)


def test_thirty_factors_of_two_levels_are_designed_at_once():
    factors = [Factor(f"f{at}", (0, 1)) for at in range(30)]
    assert default_design(factors) == "one-at-a-time"
    with pytest.raises(ValueError, match="the design factorial makes 1,073,741,824"):
        cells_of("factorial", factors)
    assert len(cells_of("fractional", factors)) == 64


def test_everything_is_crossed_up_to_eight_cells_and_changed_one_at_a_time_beyond():
    assert default_design([NORM, ACT, Factor("dropout", (0.5, 0.3))]) == "factorial"
    many = [NORM, ACT, Factor("dropout", (0.5, 0.3, 0.0))]
    assert default_design(many) == "one-at-a-time"
    assert [len(cells_of(design, many[:2])) for design in DESIGNS if design != "fractional"] == [4, 3, 4, 2]


def test_a_cell_with_many_settings_still_fits_a_folder_and_stays_distinct():
    long = [("augment", "crop:0.2,flip,colour:0.05,rotate:7,scale:0.2"), ("norm", "lrn:size=5,alpha=1e-4,beta=0.5")] * 4
    one, other = Cell((*long, ("act", "relu"))), Cell((*long, ("act", "prelu")))
    assert one.name != other.name
    assert max(len(one.name), len(other.name)) < 200
    assert re.fullmatch(r"[\w.,=+-]+", one.name)
