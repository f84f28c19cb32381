"""From a source to batches: what a network is shown, at which scale, and in which order."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from alexnet_lab.data.augment import parse_augmentation
from alexnet_lab.data.feed import open_feed, prepare, read_ahead
from alexnet_lab.data.images import Images
from alexnet_lab.data.scaling import scaling_of
from alexnet_lab.data.sources import load_images
from alexnet_lab.data.splits import split_images
from alexnet_lab.data.views import Geometry

SMALL = "synthetic:count=120,side=16"


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ALEXNET_LAB_CACHE", str(tmp_path / "cache"))


def sides(split):
    return split.train, split.validation, split.test


# --- synthetic pictures -----------------------------------------------------------------------------------------------


def test_synthetic_pictures_are_what_was_asked_for():
    images = load_images("synthetic:classes=10,side=24,count=57,seed=3")
    assert images.pixels.shape == (57, 3, 24, 24)
    assert len(images.classes) == 10
    assert np.bincount(images.labels).min() == 5
    assert images.fingerprint == load_images("synthetic:count=57,classes=10,side=24,seed=3").fingerprint
    assert images.fingerprint != load_images("synthetic:classes=10,side=24,count=57,seed=4").fingerprint


def nearest_spectrum_accuracy(difficulty, classes=4):
    """Return how often the nearest class average of spectra, which know direction and pitch alone, is the right one."""
    images = load_images(f"synthetic:count=1200,classes={classes},difficulty={difficulty}")
    spectra = np.abs(np.fft.rfft2(images.pixels.astype(np.float64).sum(1) - 3 * 127.5)).reshape(1200, -1)
    train, test = np.arange(600), np.arange(600, 1200)
    averages = np.stack([spectra[train][images.labels[train] == k].mean(0) for k in range(classes)])
    averages /= np.linalg.norm(averages, axis=1, keepdims=True)
    return float(((spectra[test] @ averages.T).argmax(1) == images.labels[test]).mean())


def test_difficulty_goes_from_sure_to_chance():
    accuracies = [nearest_spectrum_accuracy(difficulty) for difficulty in (0, 0.6, 0.9, 0.95, 1)]
    assert accuracies[0] > 0.98
    assert accuracies == sorted(accuracies, reverse=True)
    assert 0.3 < accuracies[2] < 0.98
    assert abs(accuracies[-1] - 0.25) < 0.07


def test_many_classes_can_be_told_apart():
    assert nearest_spectrum_accuracy(0, classes=20) > 0.9


# --- batches ----------------------------------------------------------------------------------------------------------


def shown(feed, batch_size=10, seed=0, epoch=1, start=0):
    batches = list(feed.training_batches(batch_size, seed, epoch, start))
    return torch.cat([pixels for pixels, _ in batches]), torch.cat([labels for _, labels in batches])


@pytest.mark.parametrize("augment", ["none", "paper"])
@pytest.mark.parametrize("parts", [2, 5])
def test_shares_of_processes_make_up_each_batch(augment, parts, device):
    feed = open_feed(SMALL, image_size=21, augment=augment, device=device)
    whole = list(feed.training_batches(10, 3, 2, start=2))
    shares = [list(feed.training_batches(10, 3, 2, start=2, share=(part, parts))) for part in range(parts)]
    for (pixels, labels), *parts_of_it in zip(whole, *shares, strict=True):
        torch.testing.assert_close(torch.cat([share for share, _ in parts_of_it]), pixels, atol=1e-5, rtol=0)
        assert torch.equal(torch.cat([share for _, share in parts_of_it]), labels)


def test_batches_are_read_ahead_in_order_and_no_further_than_asked():
    done = []

    def job(number):
        done.append(number)
        return number

    results = read_ahead((partial(job, number) for number in range(50)), depth=3)
    assert next(results) == 0
    assert len(done) <= 4
    assert list(results) == list(range(1, 50))


def test_an_error_while_reading_ahead_reaches_the_one_who_asks():
    def job(number):
        if number == 5:
            raise OSError("the disk has gone")
        return number

    results = read_ahead((partial(job, number) for number in range(50)), depth=3)
    with pytest.raises(OSError, match="the disk has gone"):
        list(results)


@pytest.mark.parametrize("augment", ["none", "flip", "paper", "xray", "crop,flip,colour,rotate,scale"])
def test_what_a_network_is_shown_depends_on_seed_epoch_and_image_alone(augment, device):
    feed = open_feed(SMALL, image_size=21, augment=augment, device=device)
    pixels, labels = shown(feed)
    assert pixels.shape == (70, 3, 21, 21)
    assert pixels.dtype == torch.float32
    assert torch.equal(shown(feed)[0], pixels)
    larger, same_labels = shown(feed, batch_size=35)
    torch.testing.assert_close(larger, pixels, atol=1e-5, rtol=0)
    assert torch.equal(same_labels, labels)
    # The rest of an epoch, after a stop: the same to the bit, or a resumed run would not be.
    assert torch.equal(shown(feed, start=3)[0], pixels[30:])
    assert not torch.equal(shown(feed, epoch=2)[0], pixels)
    assert not torch.equal(shown(feed, seed=1)[0], pixels)


def test_an_image_is_augmented_anew_each_epoch_and_never_in_evaluation():
    # One picture many times over, so that whatever differs is augmentation.
    pixels = np.repeat(load_images(SMALL).pixels[:1], 120, 0)
    images = Images("one picture", pixels, np.arange(120) % 2, ("a", "b"))
    feed = prepare(images, split_images(images.labels, images.classes), 16, "unit")
    feed = replace(feed, augmentation=parse_augmentation("rotate"))
    first, second = (shown(feed, epoch=epoch)[0] for epoch in (1, 2))
    assert len(torch.unique(torch.cat([first, second]), dim=0)) == 140
    assert len(torch.unique(feed.images, dim=0)) == 1


def test_a_trainers_low_precision_stays_out_of_the_images(device):
    feed = open_feed(SMALL, image_size=21, augment="paper,rotate", device=device)
    outside = next(feed.training_batches(10, 0, 1))[0], next(feed.batches_of(feed.split.test))[0]
    with torch.autocast(device, torch.bfloat16):
        inside = next(feed.training_batches(10, 0, 1))[0], next(feed.batches_of(feed.split.test))[0]
    assert all(torch.equal(a, b) for a, b in zip(outside, inside, strict=True))


def test_starting_late_reads_nothing_of_what_is_left_out(monkeypatch):
    feed = open_feed(SMALL, image_size=16)
    read = []
    original = type(feed)._read
    monkeypatch.setattr(type(feed), "_read", lambda self, indices: read.append(len(indices)) or original(self, indices))
    assert len(list(feed.training_batches(10, 0, 1, start=5))) == 2
    assert sum(read) == 20
    assert not list(feed.training_batches(10, 0, 1, start=7))


def test_evaluation_shows_all_images_in_order(device):
    feed = open_feed(SMALL, image_size=16, scale="pixels", device=device)
    labels = torch.cat([labels for _, labels in feed.batches_of(feed.split.test, batch_size=7)])
    assert labels.tolist() == feed.labels[feed.split.test].tolist()
    pixels = torch.cat([pixels for pixels, _ in feed.batches_of(feed.split.test, batch_size=7)])
    raw = torch.from_numpy(load_images(SMALL).pixels[feed.split.test]).float().to(device)
    torch.testing.assert_close(pixels, raw - feed.scaling.mean)


def test_ten_views_average_what_evaluation_and_its_neighbours_show(device):
    feed = open_feed(SMALL, image_size=14, augment="crop", device=device)
    indices = feed.split.test[:5]
    ((ten, labels),) = feed.ten_views_of(indices, batch_size=8)
    assert ten.shape == (5, 10, 3, 14, 14)
    ((middle, _),) = feed.batches_of(indices)
    torch.testing.assert_close(ten[:, 4], middle)
    torch.testing.assert_close(ten[:, 9], middle.flip(-1))
    assert labels.tolist() == feed.labels[indices].tolist()
    plain = open_feed(SMALL, image_size=14, device=device)
    ((ten, _),) = plain.ten_views_of(indices)
    assert ten.shape == (5, 10, 3, 14, 14)


@pytest.mark.parametrize("scale", ["unit", "pixels"])
@pytest.mark.parametrize(("size", "augment"), [(16, "none"), (37, "none"), (37, "crop"), (12, "crop"), (14, "crop")])
def test_training_images_come_centred_as_evaluation_sees_them(size, augment, scale):
    feed = open_feed(SMALL, image_size=size, augment=augment, scale=scale)
    pixels = torch.cat([pixels for pixels, _ in feed.batches_of(feed.split.train)]).double()
    torch.testing.assert_close(pixels.mean((0, 2, 3)), torch.zeros(3).double(), atol=1e-3 * pixels.std().item(), rtol=0)
    if scale == "unit":
        torch.testing.assert_close(pixels.std((0, 2, 3)), torch.ones(3).double(), atol=1e-3, rtol=0)
    else:
        assert pixels.std() > 10


def test_no_figure_of_the_scaling_looks_at_validation_or_test():
    images = load_images(SMALL)
    split = split_images(images.labels, images.classes)
    other = images.pixels.copy()
    other[np.concatenate([split.validation, split.test])] = 255
    first, second = (
        prepare(Images("x", pixels, images.labels, images.classes), split, 16, "unit")
        for pixels in (images.pixels, other)
    )
    assert torch.equal(first.images[split.train], second.images[split.train])


def test_colours_vary_along_the_principal_components_by_a_tenth_of_their_deviations():
    rng = np.random.default_rng(0)
    mixing = np.array([[20.0, 0, 0], [18, 6, 0], [15, 5, 3]])
    pixels = np.clip(128 + np.einsum("ij,njhw->nihw", mixing, rng.standard_normal((60, 3, 8, 8))), 0, 255).astype(
        np.uint8
    )
    values = pixels.transpose(1, 0, 2, 3).reshape(3, -1).astype(np.float64)
    variances, directions = np.linalg.eigh(np.cov(values))
    colours = scaling_of(pixels, np.arange(60), Geometry(8, 8, 8), "pixels", channels=3).colours
    np.testing.assert_allclose(np.abs(colours), np.abs(directions * np.sqrt(variances)), rtol=1e-3, atol=1e-3)
    # What the draws do to an image: one colour over all of it, covariance 0.1^2 that of the pixels, divided by 1.1.
    images = Images("x", np.repeat(pixels[:1], 4000, 0), np.arange(4000) % 2, ("a", "b"))
    feed = prepare(images, split_images(images.labels, images.classes), 8, "pixels")
    feed = replace(feed, augmentation=parse_augmentation("colour"))
    seen = torch.cat([batch for batch, _ in feed.training_batches(100, 0, 1)]).double()
    plain = feed.images[:1].double()
    light = seen * 1.1 - plain
    assert light.std((2, 3)).max() < 1e-4
    spectrum = torch.from_numpy(feed.scaling.colours)
    measured = torch.cov(light.mean((2, 3)).T)
    torch.testing.assert_close(measured, 0.01 * spectrum @ spectrum.T, rtol=0.1, atol=0.02 * measured.max().item())


def test_a_folder_becomes_batches_and_says_what_was_left_out(tmp_path):
    rng = np.random.default_rng(0)
    for part, count in (("train", 10), ("val", 4)):
        for name in ("cat", "dog"):
            (tmp_path / "pets" / part / name).mkdir(parents=True)
            for number in range(count):
                image = Image.fromarray(rng.integers(0, 256, (20, 20, 3)).astype(np.uint8))
                image.save(tmp_path / "pets" / part / name / f"{number}.png")
    (tmp_path / "pets" / "train" / "cat" / "3.png").write_bytes(b"gone")
    with pytest.raises(ValueError, match="1 of 28 images cannot be read"):
        open_feed(str(tmp_path / "pets"), image_size=16)
    feed = open_feed(str(tmp_path / "pets"), image_size=16, augment="crop,flip", skip_bad=True)
    bad = 3
    assert all(bad not in side for side in sides(feed.split))
    assert [len(side) for side in sides(feed.split)] == [15, 4, 8]
    assert any("train/cat/3.png" in note for note in feed.notes)
    assert any("no test images" in note for note in feed.notes)
    assert (feed.classes, feed.channels) == (("cat", "dog"), 3)
    pixels, labels = next(feed.training_batches(5, 0, 1))
    assert pixels.shape == (5, 3, 16, 16)
    assert labels.dtype == torch.int64


def test_colour_can_be_taken_away_and_grey_shown_in_three_channels():
    grey, coloured = (
        open_feed(SMALL, image_size=21, augment="paper", channels=c, scale="pixels") for c in ("grey", "rgb")
    )
    assert (grey.channels, coloured.channels) == (1, 3)
    ((seen, _),), ((whole, _),) = grey.batches_of(np.arange(120)), coloured.batches_of(np.arange(120))
    weights = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
    torch.testing.assert_close(seen, (weights * whole).sum(1, keepdim=True), atol=1e-3, rtol=0)
    assert seen[grey.split.train].mean().abs() < 1e-2
    assert next(grey.training_batches(8, 0, 1))[0].shape == (8, 1, 21, 21)
    three = open_feed("digits", image_size=8, channels="rgb")
    pixels, _ = next(three.batches_of(np.arange(4)))
    assert pixels.shape == (4, 3, 8, 8)
    assert torch.equal(pixels[:, 0], pixels[:, 2])


def test_a_network_smaller_than_the_images_sees_them_without_moire():
    stripes = np.zeros((60, 1, 32, 32), np.uint8)
    stripes[..., ::3] = 255
    images = Images("stripes", stripes, np.arange(60) % 2, ("a", "b"))
    feed = prepare(images, split_images(images.labels, images.classes), 8, "pixels")
    assert feed.images.std() < 20  # read at every fourth column alone, 60
    assert feed.fingerprint == images.fingerprint


def test_pixels_that_live_on_the_device_give_the_same_batches(device):
    feed = open_feed(SMALL, image_size=21, augment="paper", device=device)
    elsewhere = replace(feed, resident=None)
    pixels = torch.from_numpy(feed.stored).to(device)
    resident = replace(feed, resident=pixels, stored=np.empty((0, 3, 16, 16), np.uint8))
    assert torch.equal(shown(resident)[0], shown(elsewhere)[0])
    assert torch.equal(resident.images, elsewhere.images)


def test_the_fingerprint_is_of_the_data_not_of_how_it_is_shown():
    small, large = open_feed("digits", image_size=6), open_feed("digits", image_size=67, augment="paper", split_seed=3)
    assert small.fingerprint == large.fingerprint == load_images("digits").fingerprint


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scale": "unti"}, "unknown input scale 'unti'. Did you mean 'unit'"),
        ({"augment": "flop"}, "unknown augmentation"),
        ({"fold": "5"}, "a fold is written k/n"),
        ({"channels": "gray"}, "unknown choice of channels 'gray'. Did you mean 'grey'"),
        ({"fit": "corp"}, "unknown fit .* Did you mean 'crop'"),
    ],
)
def test_a_wrong_setting_is_refused_at_once(settings, message):
    with pytest.raises(ValueError, match=message):
        open_feed("digits", image_size=16, **settings)
