"""Recipes: checked field by field, written and read, warned about."""

import json
from dataclasses import fields, replace

import pytest

from alexnet_lab.training.recipe import NAMED, Recipe, named_recipe, read_recipe


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"batchsize": 3}, "unknown recipe field 'batchsize'. Did you mean 'batch_size'"),
        ({"batch_size": 0}, "batch_size: must be greater than or equal to 1"),
        ({"norm": "bm"}, "norm: unknown norm level 'bm'. Did you mean 'bn'"),
        ({"network": "alexnt"}, "network: unknown network 'alexnt'. Did you mean 'alexnet'"),
        ({"dropout": 1}, "dropout: must be less than 1"),
        ({"init": "hee"}, "init: unknown init 'hee'. Did you mean 'he'"),
        ({"init": "he:slope=1"}, "init: unknown argument of init 'he' 'slope'"),
        ({"init": "torch:bias=low"}, "init: bias must be a number, got 'low'"),
        ({"augment": "flop"}, "augment: unknown augmentation 'flop'. Did you mean 'flip'"),
        ({"epochs": "many"}, "epochs: must be a whole number"),
        ({"epochs": True}, r"epochs: must not be true or false \(got True\)"),
        ({"dropout": False}, "dropout: must not be true or false"),
        ({"epochs": 10**9}, "epochs: must be less than or equal to 1000000"),
        ({"learning_rate": 1e300}, "learning_rate: must be less than or equal to 1"),
        ({"weight_decay": 1e300}, "weight_decay: must be less than or equal to 1"),
        ({"width": 1e300}, "width: must be less than or equal to 64"),
        ({"image_size": 10**30}, "image_size: must be less than or equal to 16384"),
        ({"threads": 10**9}, "threads: must be less than or equal to 1024"),
        ({"seed": 2**63}, "seed: must be less than 9223372036854775808"),
        ({"act": "leaky:1e400"}, "act: in level 'leaky:1e400': slope must be a finite number, got '1e400'"),
        ({"act": "prelu:nan"}, "act: in level 'prelu:nan': start must be a finite number, got 'nan'"),
        ({"norm": "lrn:size=9999999999999999999999"}, "size must be"),
        ({"freeze": "all"}, "freeze: unknown freeze 'all'"),
        ({"freeze": "until:0"}, "until takes the number of the last frozen layer, as in until:5; got 'until:0'"),
        ({"freeze": "probe:1"}, "probe takes no argument"),
        ({"layer_decay": 0}, "layer_decay: must be greater than 0"),
        ({"unfreeze_at": -1}, "unfreeze_at: must be greater than or equal to 0"),
        ({"schedule": "step:-3+5"}, "step takes epochs after which the rate falls"),
    ],
)
def test_a_recipe_is_checked_field_by_field(values, message):
    with pytest.raises(ValueError, match=message):
        read_recipe(values)


def test_a_recipe_survives_its_file_and_two_spellings_are_one_identity():
    recipe = read_recipe({"norm": "lrn:k=1,alpha=1e-4", "seed": 3})
    assert read_recipe(json.loads(recipe.to_json())) == recipe
    other = read_recipe({"norm": "lrn:alpha=0.0001,k=1.0", "seed": 3})
    assert other.identity("x") == recipe.identity("x") != recipe.identity("y")
    assert replace(recipe, seed=4).identity("x") != recipe.identity("x")


def test_named_recipes_are_whole_and_paper_is_the_papers():
    for name in NAMED:
        assert read_recipe(named_recipe(name)).warnings() == []
    paper = read_recipe(named_recipe("paper"))
    assert (paper.optimiser, paper.batch_size, paper.momentum, paper.weight_decay) == ("krizhevsky", 128, 0.9, 5e-4)
    assert (paper.learning_rate, paper.schedule, paper.init, paper.input_scale) == (
        0.01,
        "step:25+51",
        "published",
        "mean-image",
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"init": "published", "width": 1.0}, "assume pixels of 0 to 255"),
        ({"input_scale": "pixels"}, "may overflow in the first steps"),
        ({"input_scale": "mean-image"}, "may overflow in the first steps"),
        ({"init": "published", "input_scale": "pixels"}, "do not grow as a network narrows"),
        ({"init": "published", "input_scale": "pixels", "width": 0.5}, "do not grow as a network narrows"),
        ({"init": "torch"}, "let the signal shrink in every layer"),
        ({"init": "published", "preset": "torchvision"}, "let the signal shrink in every layer"),
        ({"init": "torch", "network": "vgg11"}, "vgg11 learns late or not at all without batch normalisation"),
    ],
)
def test_an_initialisation_that_does_not_fit_its_input_is_warned_about_with_the_reason(change, words):
    (caution,) = replace(Recipe(), **change).warnings()
    assert words in caution
    assert Recipe().warnings() == []


@pytest.mark.parametrize(
    "change",
    [
        {"input_scale": "pixels"},
        {"norm": "bn"},
        {"norm": "gn:groups=4"},
        {"weights": "imagenet"},
        {"network": "resnet18", "preset": None},
        {"network": "resnet18", "norm": "none"},
    ],
)
def test_torchs_initial_values_are_not_warned_about_where_they_train_or_are_replaced(change):
    assert replace(Recipe(), init="torch", **change).warnings() == []


def test_every_field_says_what_it_is():
    described = Recipe.__pydantic_fields__
    assert all(described[field.name].description for field in fields(Recipe))


def test_runs_of_version_0_1_0_keep_their_name():
    assert Recipe().identity("x") == "16fe2a3b064396c1"
    assert Recipe(weights="none").identity("x") == Recipe().identity("x")
    set_here = {"tf32": True, "freeze": "features", "unfreeze_at": 2, "layer_decay": 0.9, "head_lr": 0.1}
    set_here |= {"sampling": "balanced", "class_weights": "balanced"}
    others = [Recipe(**{name: value}) for name, value in set_here.items()]
    assert len({recipe.identity("x") for recipe in [Recipe(), *others]}) == len(others) + 1
    assert Recipe().identity("x", "digest of weights") != Recipe().identity("x")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"freeze": "features"}, "freeze features without weights keeps layers as initialised"),
        ({"unfreeze_at": 3}, "unfreeze_at 3 changes nothing: no layer is frozen"),
        ({"weights": "pre", "freeze": "probe", "unfreeze_at": 11}, "unfreeze_at 11 is never reached in 10 epochs"),
        ({"sampling": "balanced", "class_weights": "balanced"}, "correct for rare classes twice"),
    ],
)
def test_settings_of_transfer_that_come_to_nothing_are_warned_about(change, words):
    (warning,) = replace(Recipe(), **change).warnings()
    assert words in warning
