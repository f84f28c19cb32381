"""Rare classes: balanced sampling and class weights, against counts and sums written out by hand."""

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from alexnet_lab.data.feed import prepare
from alexnet_lab.data.images import Images
from alexnet_lab.data.splits import split_images
from alexnet_lab.records import RunFolder
from alexnet_lab.training.parallel import Ranks
from alexnet_lab.training.recipe import Recipe
from alexnet_lab.training.trainer import Trainer

SMALL = Recipe(network="resnet18", norm="gn:groups=2", width=1 / 16, image_size=32, batch_size=12, instruments="off")

pytestmark = pytest.mark.usefixtures("torch_settings")


def feed_of(counts, side=8):
    """A feed of classes with so many images each, every pixel of image i being i."""
    labels = np.repeat(np.arange(len(counts)), counts)
    pixels = np.broadcast_to(np.arange(len(labels))[:, None, None, None], (len(labels), 1, side, side))
    images = Images("made", pixels.astype(np.uint8), labels, tuple("abcdef"[: len(counts)]))
    return prepare(
        images, split_images(labels, images.classes, None, None, np.arange(len(labels)), 0, ""), side, "unit"
    )


def shown(feed, epoch, sampling, batch_size=8, seed=3, start=0):
    """Return the images of an epoch in order, recognised by their pixels, and their labels."""
    values = feed.images[:, 0, 0, 0]
    batches = list(feed.training_batches(batch_size, seed, epoch, start, sampling=sampling))
    pixels, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    at = (pixels[:, :1, 0, 0] == values).float().argmax(1)
    assert torch.equal(feed.labels[at], labels)
    return at.tolist(), labels.tolist()


def test_a_balanced_epoch_has_every_class_equally_often_and_spreads_repeats():
    feed = feed_of([150, 60, 12])
    train = feed.split.train
    of_class = Counter(feed.labels[torch.from_numpy(train)].tolist())
    images, labels = shown(feed, 1, "balanced", batch_size=1)
    assert len(images) == len(train)
    assert set(images) <= set(train.tolist())
    assert max(Counter(labels).values()) - min(Counter(labels).values()) <= 1
    times = Counter(images)
    for label, members in of_class.items():
        repeats = [times[image] for image in train.tolist() if feed.labels[image] == label]
        assert max(repeats) - min(repeats) <= 1, (label, members)
    assert min(Counter(shown(feed, 1, "uniform", batch_size=1)[1]).values()) == of_class[2] < len(train) / 6


def test_a_balanced_epoch_depends_on_seed_and_epoch_alone():
    feed = feed_of([150, 60, 12])
    images, _ = shown(feed, 2, "balanced")
    assert shown(feed, 2, "balanced")[0] == images
    assert shown(feed, 2, "balanced", start=5)[0] == images[40:]
    assert shown(feed, 2, "balanced", batch_size=16)[0][: len(images)] == images[: len(images) // 16 * 16]
    assert images != shown(feed, 3, "balanced")[0]
    assert images != shown(feed, 2, "balanced", seed=4)[0]


def test_an_image_that_comes_again_is_augmented_anew(monkeypatch):
    feed = feed_of([150, 60, 12])
    asked = []
    monkeypatch.setattr(type(feed), "_draws", lambda _feed, indices, _seed, _epoch: asked.append(indices) or {})
    images, _ = shown(feed, 1, "balanced", batch_size=1)
    drawn = asked[-1]
    assert len(set(drawn.tolist())) == len(drawn) > len(set(images))
    # The first time it has the draws that it would have without balancing.
    assert (drawn % len(feed.labels)).tolist() == images
    assert set(images) <= set(drawn.tolist())


def test_class_weights_are_inverse_to_counts_and_one_on_average():
    feed = feed_of([100, 50, 10])
    labels = feed.labels[torch.from_numpy(feed.split.train)]
    weights = feed.balanced_class_weights()
    counts = [int((labels == k).sum()) for k in range(3)]
    assert weights.tolist() == pytest.approx([len(labels) / (3 * count) for count in counts])
    assert weights[labels].mean().item() == pytest.approx(1)


def trainer_of(recipe, path, counts=(60, 20, 10)):
    feed = feed_of(counts, 32)
    folder = RunFolder(path)
    folder.begin(recipe.to_json(), {}, feed.split.to_json())
    return Trainer(recipe, folder, feed, Ranks(), lambda _kind, _facts: None)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_weighted_loss_is_the_sum_written_out(smoothing, tmp_path):
    trainer = trainer_of(replace(SMALL, class_weights="balanced", label_smoothing=smoothing), tmp_path)
    scores = torch.tensor([[2.0, -1.0, 0.5], [0.0, 0.0, 3.0], [1.0, 1.0, 1.0]])
    labels = [0, 1, 2]
    expected = 0.0
    for row, label in zip(scores.tolist(), labels, strict=True):
        total = sum(map(math.exp, row))
        each = [-math.log(math.exp(score) / total) for score in row]
        wanted = [smoothing / 3 + (1 - smoothing) * (k == label) for k in range(3)]
        expected += trainer.class_weights[label].item() * sum(map(math.prod, zip(wanted, each, strict=True))) / 3
    assert trainer._loss(scores, torch.tensor(labels)).item() == pytest.approx(expected)


@pytest.mark.parametrize("accumulate", [2, 4])
def test_a_weighted_batch_in_parts_moves_the_network_as_the_whole_batch_does(accumulate, tmp_path):
    recipe = replace(SMALL, class_weights="balanced", epochs=1)
    networks = []
    for parts in (1, accumulate):
        trainer = trainer_of(replace(recipe, accumulate=parts), tmp_path / str(parts))
        trainer.run()
        networks.append(trainer.network.state_dict())
    for name, value in networks[0].items():
        torch.testing.assert_close(value, networks[1][name], rtol=1e-3, atol=1e-5)


@pytest.mark.long
def test_a_rare_class_is_found_more_often_with_either_remedy(tmp_path):
    recalls = {}
    generator = np.random.default_rng(0)
    labels = np.repeat([0, 1], [360, 24])
    pixels = generator.normal(110, 30, (len(labels), 1, 32, 32)) + 12 * labels[:, None, None, None]
    images = Images("noise", pixels.clip(0, 255).astype(np.uint8), labels, ("common", "rare"))
    split = split_images(labels, images.classes, None, None, np.arange(len(labels)), 0, "")
    for name, change in {
        "neither": {},
        "sampling": {"sampling": "balanced"},
        "weights": {"class_weights": "balanced"},
    }.items():
        recipe = replace(SMALL, epochs=3, learning_rate=0.003, best_by="balanced_accuracy", **change)
        folder = RunFolder(tmp_path / name)
        folder.begin(recipe.to_json(), {}, split.to_json())
        feed = prepare(images, split, 32, "unit")
        recalls[name] = Trainer(recipe, folder, feed, Ranks(), lambda _kind, _facts: None).run()["test"]["recall"][1]
    assert recalls["sampling"] > recalls["neither"]
    assert recalls["weights"] > recalls["neither"]
