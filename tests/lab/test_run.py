"""One run: what goes in, what comes out, and that the same recipe gives the same numbers."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import safetensors.torch
import torch
from sklearn.datasets import load_digits

from alexnet_lab.data.feed import prepare
from alexnet_lab.data.sources import Images, load_images
from alexnet_lab.data.splits import stratified_split
from alexnet_lab.networks import build_network
from alexnet_lab.records import RunFolder, write_atomically
from alexnet_lab.training.recipe import Recipe, read_recipe
from alexnet_lab.training.run import main, train

QUICK = Recipe(norm="bn", width=1 / 16, epochs=2, seed=1)


@pytest.fixture
def threads():
    """Give back the thread count that a run sets for its process."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def run_main(recipe, path):
    path.mkdir()
    (path / "recipe.json").write_text(recipe.to_json())
    return main([str(path)])


def test_digits_are_scikit_learns_brought_to_0_255():
    images, original = load_images("digits"), load_digits()
    assert images.pixels.shape == (1797, 1, 8, 8)
    assert images.pixels.max() == 255
    np.testing.assert_allclose(images.pixels[:, 0] / 255 * 16, original.images, atol=1 / 16)
    assert images.fingerprint == load_images("digits").fingerprint
    changed = images.pixels.copy()
    changed[5, 0, 3, 3] ^= 1
    assert replace(images, pixels=changed).fingerprint != images.fingerprint


def test_a_split_is_stratified_disjoint_whole_and_fixed_by_its_seed():
    labels = load_images("digits").labels
    split = stratified_split(labels, seed=4)
    parts = [split.train, split.validation, split.test]
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(len(labels)))
    for part in parts:
        counts = np.bincount(labels[part]) / len(part)
        assert np.abs(counts - np.bincount(labels) / len(labels)).max() < 0.005
    assert len(split.test) == len(split.validation) == round(0.2 * len(labels))
    assert np.array_equal(split.test, stratified_split(labels, seed=4).test)
    assert not np.array_equal(split.test, stratified_split(labels, seed=5).test)


@pytest.mark.parametrize(("scale", "spread"), [("unit", 1.0), ("pixels", None)])
def test_the_feed_centres_on_the_training_images_alone(scale, spread):
    pixels = np.random.default_rng(0).integers(0, 256, (90, 3, 8, 8)).astype(np.uint8)
    images = Images("noise", pixels, np.repeat(np.arange(3), 30), ("a", "b", "c"))
    split = stratified_split(images.labels)
    feed = prepare(images, split, side=16, scale=scale)
    seen = feed.images[torch.from_numpy(split.train)]
    assert feed.images.shape == (90, 3, 16, 16)
    assert seen.mean((0, 2, 3)).abs().max() < 1e-3
    if spread:
        torch.testing.assert_close(seen.std((0, 2, 3)), torch.ones(3), rtol=1e-3, atol=0)
    else:
        assert seen.std() > 20


def test_an_epoch_shows_every_training_image_once_in_an_order_of_seed_and_epoch():
    images = load_images("digits")
    feed = prepare(images, stratified_split(images.labels), side=8, scale="unit")

    def shown(seed, epoch):
        return torch.cat([labels for _, labels in feed.training_batches(32, seed, epoch)])

    counts = torch.bincount(shown(0, 1))
    assert len(shown(0, 1)) == 32 * feed.steps_per_epoch(32)
    assert (torch.bincount(torch.from_numpy(images.labels[feed.split.train])) - counts).sum() < 32
    assert torch.equal(shown(0, 1), shown(0, 1))
    assert not torch.equal(shown(0, 1), shown(0, 2))
    assert not torch.equal(shown(0, 1), shown(1, 1))
    with pytest.raises(ValueError, match="batch size 2000 is larger than the 1079 training images"):
        feed.steps_per_epoch(2000)


def test_a_run_learns_writes_its_folder_and_repeats_to_the_bit(tmp_path, threads):
    results = [train(QUICK, RunFolder(tmp_path / name)) for name in ("one", "two")]
    assert results[0] == results[1]
    assert results[0]["test_accuracy"] > 0.5
    first, second = (
        safetensors.torch.load_file(tmp_path / n / "checkpoints/final.safetensors") for n in ("one", "two")
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    metrics = list(RunFolder(tmp_path / "one").metrics())
    assert [row["epoch"] for row in metrics] == [1, 2]
    assert metrics[1]["train_loss"] < metrics[0]["train_loss"]
    provenance = json.loads((tmp_path / "one" / "provenance.json").read_text())
    assert provenance["identity"] == QUICK.identity(load_images("digits").fingerprint)


def test_the_saved_weights_are_the_network_that_was_tested(tmp_path, threads):
    result = train(QUICK, RunFolder(tmp_path))
    network = build_network("alexnet", 10, norm="bn", width=1 / 16, image_size=67, in_channels=1).eval()
    network.load_state_dict(safetensors.torch.load_file(tmp_path / "checkpoints/final.safetensors"))
    images = load_images("digits")
    split = stratified_split(images.labels)
    feed = prepare(images, split, 67, "unit")
    with torch.no_grad():
        right = network(feed.images[split.test]).argmax(1) == feed.labels[split.test]
    assert right.float().mean().item() == pytest.approx(result["test_accuracy"])


def test_dropout_masks_depend_on_seed_and_step_not_on_the_other_slots(tmp_path, threads, monkeypatch):
    masks = {}

    def listen(recipe, name):
        seen = masks.setdefault(name, [])

        def spy(self, x):
            keep = torch.empty_like(x).bernoulli_(0.5, generator=self.generator)
            seen.append(keep)
            return x * keep

        monkeypatch.setattr("alexnet_lab.networks.parts.Dropout.forward", spy)
        train(replace(recipe, epochs=1, batch_size=512), RunFolder(tmp_path / name))

    listen(QUICK, "bn")
    listen(replace(QUICK, norm="none", act="leaky"), "none")
    listen(replace(QUICK, seed=2), "other luck")
    training = [m for m in masks["bn"] if m.shape[0] == 512]
    assert len(training) == 4
    assert all(torch.equal(a, b) for a, b in zip(masks["bn"], masks["none"], strict=True) if a.shape[0] == 512)
    assert not torch.equal(masks["bn"][0], masks["other luck"][0])
    assert not torch.equal(training[0], training[2])


def test_a_run_that_diverges_says_where_and_keeps_what_it_logged(tmp_path, threads):
    wild = replace(QUICK, norm="none", learning_rate=1e4, epochs=3)
    assert run_main(wild, tmp_path / "run") == 0
    verdict = RunFolder(tmp_path / "run").verdict()
    assert verdict["state"] == "diverged"
    assert "step" in verdict["why"]


def test_a_run_that_fails_leaves_its_reason(tmp_path, threads):
    assert run_main(replace(QUICK, image_size=20), tmp_path / "run") == 1
    verdict = RunFolder(tmp_path / "run").verdict()
    assert verdict["state"] == "error"
    assert "the smallest that works is 52" in verdict["why"]
    assert "Traceback" in verdict["result"]["traceback"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"batchsize": 3}, "unknown recipe field 'batchsize'. Did you mean 'batch_size'"),
        ({"batch_size": 0}, "batch_size: must be greater than or equal to 1"),
        ({"norm": "bm"}, "norm: unknown norm level 'bm'. Did you mean 'bn'"),
        ({"network": "alexnt"}, "network: unknown network 'alexnt'. Did you mean 'alexnet'"),
        ({"dropout": 1}, "dropout: must be less than 1"),
        ({"init": "hee"}, "init: must be 'published', 'he' or 'torch'"),
        ({"epochs": "many"}, "epochs: must be a valid integer"),
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


def test_readers_tolerate_a_torn_last_line(tmp_path):
    folder = RunFolder(tmp_path)
    folder.log({"epoch": 1})
    folder.log({"epoch": 2})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 3, "los')
    assert [row["epoch"] for row in folder.metrics()] == [1, 2]


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "state.json"
    write_atomically(path, "old")

    def crash(_descriptor):
        raise OSError("no space left on device")

    monkeypatch.setattr("os.fsync", crash)
    with pytest.raises(OSError, match="no space"):
        write_atomically(path, "new and longer")
    assert path.read_text() == "old"


def test_the_default_recipe_is_finite_at_the_first_step():
    network = build_network("alexnet", 10, width=0.25, image_size=67, in_channels=1, init="he", seed=0)
    loss = torch.nn.functional.cross_entropy(network(torch.randn(32, 1, 67, 67)), torch.arange(32) % 10)
    assert float(loss.detach()) < 3 * math.log(10)
