"""The scale `mean-image`: 0 to 255 less the mean image of the training images, as in 2012."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from alexnet_lab.data.augment import draw, parse_augmentation
from alexnet_lab.data.feed import open_feed, prepare
from alexnet_lab.data.images import Images
from alexnet_lab.data.sources import load_images
from alexnet_lab.data.splits import split_images
from alexnet_lab.randomness import stream

SMALL = "synthetic:count=120,side=16"


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ALEXNET_LAB_CACHE", str(tmp_path / "cache"))


def mean_image(feed):
    """Take the mean of the stored training pixels by numpy."""
    return np.asarray(feed.stored)[feed.split.train].astype(np.float64).mean(0)


def test_two_by_two_pixels_lose_the_mean_worked_out_by_hand():
    pixels = np.zeros((20, 1, 2, 2), np.uint8)
    pixels[:10] = [[10, 20], [30, 40]]
    pixels[10:] = [[20, 20], [50, 0]]
    parts = np.array(
        (["train"] * 3 + ["validation"] * 3 + ["test"] * 4) + (["train"] + ["validation", "test", "test"] * 3)
    )
    images = Images("x", pixels, np.repeat([0, 1], 10), ("a", "b"), parts)
    feed = prepare(images, split_images(images.labels, images.classes, images.parts), 2, "mean-image")
    # Four training images, three of the first kind: (3 * 10 + 20) / 4 = 12.5, 20, (3 * 30 + 50) / 4 = 35, 30.
    assert feed.scaling.mean.tolist() == [[[12.5, 20], [35, 30]]]
    assert feed.images[0].tolist() == [[[-2.5, 0], [-5, 10]]]
    assert feed.images[19].tolist() == [[[7.5, 0], [15, -30]]]


def test_a_crop_loses_the_same_crop_of_the_mean_image_mirrored_with_it():
    feed = open_feed(SMALL, image_size=14, augment="crop,flip", scale="mean-image")
    assert (feed.geometry.stored, feed.geometry.whole, feed.geometry.seen) == (16, 16, 14)
    mean = mean_image(feed)
    seen = torch.cat([pixels for pixels, _ in feed.training_batches(8, 5, 2)]).double().numpy()
    train = torch.from_numpy(feed.split.train)
    indices = train[torch.randperm(len(train), generator=stream(5, "order", 2))].numpy()[: len(seen)]
    draws = draw(feed.augmentation, indices, 5, 2, 2, 3)
    assert draws.flip.any()
    assert not draws.flip.all()
    assert len({tuple(offset) for offset in draws.offset.tolist()}) == 9
    for row, index in enumerate(indices):
        top, left = draws.offset[row]
        expected = (feed.stored[index].astype(np.float64) - mean)[:, top : top + 14, left : left + 14]
        if draws.flip[row]:
            expected = expected[:, :, ::-1]
        np.testing.assert_allclose(seen[row], expected, atol=1e-3)


@pytest.mark.parametrize(("size", "augment"), [(16, "none"), (37, "none"), (14, "crop"), (37, "crop")])
def test_every_pixel_of_the_training_images_has_mean_zero_as_evaluation_sees_it(size, augment):
    feed = open_feed(SMALL, image_size=size, augment=augment, scale="mean-image")
    seen = torch.cat([pixels for pixels, _ in feed.batches_of(feed.split.train)]).double()
    assert seen.mean(0).abs().max() < 1e-3
    assert seen.std() > 10
    by_channel = open_feed(SMALL, image_size=size, augment=augment, scale="pixels")
    other = torch.cat([pixels for pixels, _ in by_channel.batches_of(by_channel.split.train)]).double()
    assert other.mean(0).abs().max() > 1  # or this test could not fail


def test_enlarged_turned_and_zoomed_images_lose_what_happened_to_the_mean_image():
    """A view of (image - mean) is the view of the image less the view of the mean, for every image of an epoch."""
    settings = {"image_size": 37, "augment": "crop,flip,rotate,scale"}
    feed = open_feed(SMALL, scale="mean-image", **settings)
    raw = replace(feed, scaling=replace(feed.scaling, mean=torch.zeros(3, 1, 1)))
    means = np.rint(mean_image(feed)).astype(np.uint8)
    flat = replace(raw, stored=np.broadcast_to(means, feed.stored.shape))
    for (ours, _), (whole, _), (mean, _) in zip(
        *(each.training_batches(16, 0, 1) for each in (feed, raw, flat)), strict=True
    ):
        # The mean was rounded to be stored: half a grey level at most.
        assert (ours - (whole - mean)).abs().max() <= 0.5 + 1e-3


def test_the_numbers_do_not_depend_on_batch_size_or_where_an_epoch_is_taken_up():
    feed = open_feed(SMALL, image_size=14, augment="paper", scale="mean-image")
    whole = torch.cat([pixels for pixels, _ in feed.training_batches(2, 0, 3)])
    for size in (4, 9):
        other = torch.cat([pixels for pixels, _ in feed.training_batches(size, 0, 3)])
        assert torch.equal(other, whole[: len(other)])
    again = open_feed(SMALL, image_size=14, augment="paper", scale="mean-image")
    late = torch.cat([pixels for pixels, _ in again.training_batches(2, 0, 3, start=7)])
    assert torch.equal(late, whole[14:])


def test_the_mean_image_is_of_the_training_images_alone():
    images = load_images(SMALL)
    split = split_images(images.labels, images.classes)
    other = images.pixels.copy()
    other[np.concatenate([split.validation, split.test])] = 255
    first, second = (
        prepare(Images("x", pixels, images.labels, images.classes), split, 16, "mean-image")
        for pixels in (images.pixels, other)
    )
    assert torch.equal(first.scaling.mean, second.scaling.mean)
    assert first.scaling.mean.shape == (3, 16, 16)


@pytest.mark.parametrize(("channels", "count"), [("grey", 1), ("rgb", 3)])
def test_grey_and_colour_have_each_their_mean_image(channels, count):
    feed = open_feed(SMALL, image_size=16, channels=channels, scale="mean-image")
    assert feed.scaling.mean.shape == (count, 16, 16)
    seen = torch.cat([pixels for pixels, _ in feed.batches_of(feed.split.train)])
    assert seen.mean(0).abs().max() < 1e-3


def test_colour_is_added_to_what_is_left_and_divided_as_before():
    still = open_feed(SMALL, image_size=16, scale="mean-image")
    moving = replace(still, augmentation=parse_augmentation("colour"))
    (plain, _), (tinted, _) = next(still.training_batches(8, 0, 1)), next(moving.training_batches(8, 0, 1))
    light = tinted * 1.1 - plain
    assert light.std((2, 3)).max() < 1e-3  # one colour over all of an image
    assert light.abs().max() > 1
