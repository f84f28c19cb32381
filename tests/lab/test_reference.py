"""Pictures unlike those of a run are warned of, its own test images hardly ever."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from pictures import write
from scipy.stats import binom
from torch import nn

from alexnet_lab import load_run
from alexnet_lab.networks import build_network
from alexnet_lab.networks.layers import layers_of
from alexnet_lab.predictions_file import read_predictions
from alexnet_lab.records import RunFolder
from alexnet_lab.training.embedding import embedding_of
from alexnet_lab.training.recipe import Recipe
from alexnet_lab.training.reference import (
    FILE,
    facts_of,
    fitted,
    read_reference,
    upper_limit,
    write_reference,
)
from alexnet_lab.training.run import train_with_verdict

TINY = Recipe(norm="bn", width=1 / 16, epochs=1, batch_size=16, instruments="off", threads=1)


def scan(rng, label, height=40, width=44):
    """A made scan: a bright body on a dark ground, darker lungs, a spot for class 1, and noise."""
    y, x = np.mgrid[0:height, 0:width]
    y, x = y / height - 0.5 + rng.normal(0, 0.02), x / width - 0.5 + rng.normal(0, 0.02)
    body = 170.0 * (x**2 / 0.16 + y**2 / 0.2 < 1)
    lungs = ((np.abs(x) - 0.16) ** 2 / 0.008 + y**2 / 0.05) < 1
    spot = label * 60 * np.exp(-((x - 0.16) ** 2 + (y - 0.1) ** 2) / 0.004)
    picture = 20 + body - 70 * (lungs & (body > 0)) + spot + rng.normal(0, 8, (height, width)) + rng.normal(0, 5)
    return picture.clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A run on made scans, and the files of its test."""
    root = tmp_path_factory.mktemp("reference")
    rng = np.random.default_rng(0)
    for label in (0, 1):
        for number in range(250):
            side = rng.integers(-4, 5)
            write(root / "data" / f"class {label}" / f"{number}.png", scan(rng, label, 40 + side, 44 + side))
    before = torch.get_num_threads()
    # Made scans are alike enough to pass for copies.
    recipe = replace(TINY, data=str(root / "data"), allow_leaks=True)
    assert train_with_verdict(recipe, RunFolder(root / "run")) == 0
    torch.set_num_threads(before)
    return root


def warnings_of(place, picture, tmp_path):
    return load_run(place / "run").predict(write(tmp_path / "picture.png", picture)).warnings[0]


def test_the_test_has_no_more_warnings_than_one_in_a_hundred_gives_by_chance_and_the_run_counted_them(place):
    paths = sorted((place / "data").rglob("*.png"))
    test = RunFolder(place / "run").split()["test"]
    assert len(test) == 100
    predictions = load_run(place / "run").predict([paths[index] for index in test])
    warned = sum(map(bool, predictions.warnings))
    assert warned <= binom.ppf(0.99, len(test), 0.01)
    reference = load_run(place / "run").reference()
    assert (reference.test_warned, reference.test_images) == (warned, len(test))
    assert reference.images == 300 + 100


@pytest.mark.parametrize(
    ("change", "kinds"),
    [
        (lambda one, _: 255 - one, {"embedding"}),
        (lambda one, rng: rng.integers(0, 256, one.shape).astype(np.uint8), {"embedding"}),
        (lambda one, rng: rng.normal(one.mean(), one.std(), one.shape).clip(0, 255).astype(np.uint8), {"embedding"}),
        (lambda one, _: one // 8, {"grey level", "contrast"}),
        (lambda one, _: 120 + one // 16, {"contrast"}),
        (lambda one, _: np.stack([one, one // 2, one // 3], 2), {"mode"}),
        (lambda one, _: np.kron(one, np.ones((4, 4), np.uint8)), {"size"}),
        (lambda one, _: one[:, :14], {"size"}),
    ],
)
def test_a_picture_of_another_kind_is_warned_of_by_what_is_unlike(change, kinds, place, tmp_path):
    rng = np.random.default_rng(7)
    own = scan(rng, 0)
    assert warnings_of(place, own, tmp_path) == {}
    found = warnings_of(place, change(own, rng), tmp_path)
    assert kinds <= found.keys()
    assert all("expected" in text for text in found.values())


def test_the_table_and_the_note_say_how_many_are_unlike(place, tmp_path):
    rng = np.random.default_rng(8)
    own, other = scan(rng, 1), 255 - scan(rng, 1)
    found = load_run(place / "run").predict([write(tmp_path / "a.png", own), write(tmp_path / "b.png", other)])
    first, second = found.table()["warning"]
    assert first == ""
    assert "embedding distance" in second
    assert found.notes[0].startswith("1 of 2 images is unlike those that the network was trained and chosen on")


def test_measuring_changes_no_prediction(place):
    run = load_run(place / "run")
    paths = sorted((place / "data").rglob("*.png"))
    kept = read_predictions(run.path / "predictions.npz")["test"]
    predicted = run.predict([paths[index] for index in kept.ids]).probabilities
    np.testing.assert_array_equal(predicted.astype(np.float32), kept.probabilities)


def test_a_run_without_a_reference_predicts_and_says_that_it_cannot_warn(place, tmp_path):
    run = shutil.copytree(place / "run", tmp_path / "older")
    (run / FILE).unlink()
    RunFolder(run).end("ok", result=RunFolder(run).verdict()["result"])
    found = load_run(run).predict(place / "data" / "class 0" / "0.png")
    assert found.warnings is None
    assert "kept no reference.npz; train again to be warned" in found.notes[0]
    assert found.table()["warning"].tolist() == [""]


def test_a_damaged_reference_is_refused_by_name(place, tmp_path):
    run = shutil.copytree(place / "run", tmp_path / "damaged")
    (run / FILE).write_bytes((run / FILE).read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"reference\.npz in .* changed after the run ended"):
        load_run(run).predict(place / "data" / "class 0" / "0.png")
    with pytest.raises(ValueError, match=r"reference\.npz is damaged"):
        read_reference(run / FILE)


def test_the_reference_is_small_and_holds_no_image(place):
    assert (place / "run" / FILE).stat().st_size < 200_000
    with np.load(place / "run" / FILE) as arrays:
        assert not any(500 in array.shape or array.dtype == np.uint8 for array in arrays.values())


MIXED = np.random.default_rng(9).normal(0, 3, (5, 30))


def made_facts(rng, count):
    mixed = rng.normal(size=(count, 5)) @ MIXED + rng.normal(size=(count, 30))
    pixels = rng.integers(0, 256, (count, 1, 4, 4)).astype(np.uint8)
    return facts_of(pixels, np.zeros(count, bool), np.full((count, 2), 9), mixed)


def test_distances_are_those_of_the_covariance_that_the_components_stand_for(tmp_path):
    rng = np.random.default_rng(1)
    train, validation, new = (made_facts(rng, count) for count in (200, 150, 20))
    reference = fitted(train, validation, np.zeros(30, int))
    write_reference(tmp_path / FILE, reference)
    read = read_reference(tmp_path / FILE)
    z = (train.features - train.features.mean(0)) / train.features.std(0)
    values, vectors = np.linalg.eigh(np.cov(z.T))
    kept = len(reference.variances)
    values[:-kept] = values[:-kept].mean()
    covariance = vectors * values @ vectors.T
    away = (new.features - train.features.mean(0)) / train.features.std(0)
    expected = np.sqrt(np.einsum("nf,fg,ng->n", away, np.linalg.inv(covariance), away) / 30)
    np.testing.assert_allclose(reference.distances(new.features), expected, rtol=1e-4)
    np.testing.assert_array_equal(read.distances(new.features), reference.distances(new.features))
    np.testing.assert_array_equal([read.low, read.high], [reference.low, reference.high])


@pytest.mark.parametrize("count", [60, 500])
def test_of_new_images_like_the_runs_one_in_a_hundred_is_warned_of_at_most(count):
    rng = np.random.default_rng(4)
    warned = 0
    for _ in range(20):
        reference = fitted(made_facts(rng, 3 * count), made_facts(rng, count), np.zeros(30, int))
        warned += sum(map(bool, reference.warnings(made_facts(rng, 500))))
    assert 0 < warned <= 10_000 / 100


@pytest.mark.parametrize("draw", ["normal", "standard_exponential"])
@pytest.mark.parametrize("count", [30, 120, 500])
def test_a_further_image_is_beyond_a_limit_as_seldom_as_it_says(draw, count):
    rng = np.random.default_rng(2)
    values = getattr(rng, draw)(size=(2000, count + 1))
    beyond = np.mean([row[-1] > upper_limit(row[:-1], 0.004) for row in values])
    # Too few for an order statistic: as said for a normal distribution, else no more often than beyond the largest.
    expected = 0.004 if draw == "normal" or count >= 249 else 1 / (count + 1)
    assert beyond <= expected + 3 * np.sqrt(expected / 2000)


def test_one_value_gives_no_limit():
    assert upper_limit(np.array([3.0]), 0.004) == np.inf


@pytest.mark.parametrize("name", ["alexnet", "resnet18"])
def test_an_embedding_is_mean_and_spread_of_each_channel_of_eight_convolutions_at_most(name):
    network = build_network(name, 3, width=1 / 16, image_size=67, in_channels=1, seed=0).eval()
    pixels = torch.randn(4, 1, 67, 67)
    convolutions = [layer.modules[0] for layer in layers_of(network) if layer.is_convolution]
    outputs = {}
    for module in convolutions:
        module.register_forward_hook(lambda module, _, out: outputs.update({module: out.detach().double().numpy()}))
    with torch.no_grad():
        plain = network(pixels)
        with embedding_of(network) as embedding:
            assert torch.equal(network(pixels[:3]), plain[:3]) or torch.allclose(network(pixels[:3]), plain[:3])
            embedding.take()
            network(pixels)
            found = embedding.take()
    chosen = convolutions if name == "alexnet" else [convolutions[at] for at in (0, 3, 5, 8, 11, 14, 16, 19)]
    expected = [getattr(outputs[module], what)((2, 3)) for module in chosen for what in ("mean", "std")]
    np.testing.assert_allclose(found, np.concatenate(expected, 1), atol=1e-5)
    assert len(embedding.groups) == found.shape[1]
    assert not any(isinstance(module, nn.Conv2d) and len(module._forward_hooks) > 1 for module in network.modules())


def test_sizes_of_files_are_known_to_a_run_whatever_side_they_are_stored_with(place):
    reference = load_run(place / "run").reference()
    assert reference.low[0] == 36 / 1.5
    assert reference.high[1] == 48 * 1.5


def test_json_facts_are_plain(place, tmp_path):
    warnings = warnings_of(place, 255 - scan(np.random.default_rng(3), 0), tmp_path)
    assert json.loads(json.dumps(warnings)) == warnings
