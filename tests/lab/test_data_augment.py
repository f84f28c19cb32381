"""Augmentation of a training image: the same draws in any batch, drawn fairly, and read from the right pixels."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from alexnet_lab.data import views
from alexnet_lab.data.augment import Augmentation, draw, parse_augmentation, uniform_of
from alexnet_lab.data.views import Geometry, middle_view, ten_views, view

EVERYTHING = parse_augmentation("crop,flip,colour,rotate,scale")
QUANTITIES = ("offset", "flip", "angle", "zoom", "colour")


def draws(augmentation=EVERYTHING, indices=range(5000), seed=0, epoch=1):
    return draw(augmentation, np.array(indices, np.int64), seed, epoch, margin=32, channels=3)


# --- text -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("none", Augmentation()),
        ("", Augmentation()),
        ("flip", Augmentation(flip=1)),
        ("flip, crop", Augmentation(crop=1 / 7, flip=1)),
        ("crop:0.125", Augmentation(crop=0.125)),
        ("rotate:5,scale:0.2", Augmentation(rotate=5, scale=0.2)),
        ("paper", Augmentation(crop=1 / 7, flip=1, colour=0.1)),
        ("xray", Augmentation(rotate=7, scale=0.1)),
        ("xray,flip", Augmentation(flip=1, rotate=7, scale=0.1)),
    ],
)
def test_augmentation_is_text(text, meaning):
    assert parse_augmentation(text) == meaning
    assert parse_augmentation(str(meaning)) == meaning


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("flop", "unknown augmentation 'flop'. Did you mean 'flip'"),
        ("crop:0", "crop takes a number above 0 and up to 1, got '0'"),
        ("crop:4", "crop takes a number above 0 and up to 1, got '4'"),
        ("rotate:far", "rotate takes a number above 0 and up to 180, got 'far'"),
        ("flip:0.5", "flip takes no argument"),
        ("flip,flip", "names flip twice"),
        ("paper,crop:0.2", "names crop twice"),
        ("scale:nan", "scale takes a number"),
    ],
)
def test_a_wrong_augmentation_says_what_is_possible(text, message):
    with pytest.raises(ValueError, match=message):
        parse_augmentation(text)


def test_the_margin_of_2012_is_32_of_224():
    assert parse_augmentation("crop").margin(224) == 32
    assert parse_augmentation("crop").margin(227) == 32
    assert parse_augmentation("flip").margin(224) == 0


# --- draws ------------------------------------------------------------------------------------------------------------


@given(
    seed=st.integers(0, 2**62),
    epoch=st.integers(1, 500),
    order=st.permutations(list(range(40))),
    cut=st.integers(1, 39),
)
@settings(max_examples=50, deadline=None)
def test_an_image_has_the_same_draws_in_any_batch(seed, epoch, order, cut):
    together = draws(indices=range(40), seed=seed, epoch=epoch)
    parts = [draws(indices=part, seed=seed, epoch=epoch) for part in (order[:cut], order[cut:])]
    for name in QUANTITIES:
        apart = np.concatenate([getattr(part, name) for part in parts])
        assert np.array_equal(apart, getattr(together, name)[order]), name


def test_draws_change_with_the_seed_the_epoch_and_the_image():
    for other in (draws(seed=1), draws(epoch=2), draws(indices=range(1, 5001))):
        for name in QUANTITIES:
            same = (getattr(draws(), name) == getattr(other, name)).mean()
            assert same < {"flip": 0.55, "offset": 0.1}.get(name, 0.01), name


def test_switching_one_thing_on_leaves_the_luck_of_the_others_alone():
    alone = draws(parse_augmentation("rotate"))
    assert np.array_equal(alone.angle, draws().angle)
    assert np.array_equal(draws(parse_augmentation("crop,flip")).flip, draws().flip)
    assert not alone.flip.any()
    assert (alone.zoom == 1).all()
    assert (alone.colour == 0).all()


def test_draws_are_fair():
    many = draws(indices=range(100_000))
    assert abs(many.flip.mean() - 0.5) < 0.006
    for axis in (0, 1):
        counts = np.bincount(many.offset[:, axis], minlength=33)
        assert len(counts) == 33  # 0 to 32
        assert counts.min() > 2700  # 3030 expected, 6 standard deviations
    assert abs(np.corrcoef(many.offset.T)[0, 1]) < 0.015
    assert np.abs(many.angle).max() <= np.radians(10) < 1.001 * np.abs(many.angle).max()
    assert 0.9 <= many.zoom.min() < 0.901
    assert 1.099 < many.zoom.max() <= 1.1
    normal = many.colour / 0.1
    np.testing.assert_allclose(normal.mean(0), 0, atol=0.015)
    np.testing.assert_allclose(np.cov(normal.T), np.eye(3), atol=0.02)
    assert 0.045 < (np.abs(normal) > 1.96).mean() < 0.055


def test_neighbouring_images_purposes_and_keys_are_unrelated():
    columns = [uniform_of(key, np.arange(20_000), purpose) for key in (7, 8) for purpose in (0, 1, 2)]
    columns += [np.roll(columns[0], 1), uniform_of(7 + 2**40, np.arange(20_000), 0)]
    related = np.corrcoef(columns) - np.eye(len(columns))
    assert np.abs(related).max() < 0.04


# --- views ------------------------------------------------------------------------------------------------------------


def picture(count=3, channels=3, side=12, seed=0):
    return torch.rand(count, channels, side, side, generator=torch.Generator().manual_seed(seed))


def as_pillow_enlarges(pixels, side):
    """Return the whole enlarged image, as an independent library makes it."""
    rows = [
        [
            np.asarray(Image.fromarray(channel.numpy()).resize((side, side), Image.Resampling.BILINEAR))
            for channel in image
        ]
        for image in pixels
    ]
    return torch.from_numpy(np.array(rows))


@pytest.mark.parametrize(("stored", "whole"), [(12, 30), (12, 12), (60, 64), (7, 29)])
def test_a_view_is_a_window_of_the_enlarged_image(stored, whole):
    pixels = picture(side=stored)
    geometry = Geometry(seen=10, stored=stored, whole=whole)
    large = as_pillow_enlarges(pixels, whole)
    offset = torch.tensor([[0, whole - 10], [1, 2], [whole - 10, 0]])
    flip = torch.tensor([False, True, False])
    seen = view(pixels, geometry, offset, flip)
    for image in range(3):
        top, left = offset[image]
        window = large[image, :, top : top + 10, left : left + 10]
        expected = window.flip(-1) if flip[image] else window
        torch.testing.assert_close(seen[image], expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("whole", [12, 31])
def test_evaluation_sees_the_window_in_the_middle(whole):
    geometry = Geometry(seen=11, stored=12, whole=whole)
    large = as_pillow_enlarges(picture(), whole)
    first = (whole - 11) // 2
    window = slice(first, first + 11)
    torch.testing.assert_close(middle_view(picture(), geometry), large[..., window, window], atol=2e-5, rtol=0)


def test_products_and_gather_read_the_same(monkeypatch):
    geometry = Geometry(seen=20, stored=12, whole=24)
    rng = torch.Generator().manual_seed(3)
    offset = torch.randint(0, 5, (8, 2), generator=rng)
    flip = torch.rand(8, generator=rng) < 0.5
    zoom = 0.9 + 0.2 * torch.rand(8, generator=rng)
    by_products = view(picture(8), geometry, offset, flip, zoom=zoom)
    monkeypatch.setattr(views, "DENSE_SIDE", 0)
    by_gather = view(picture(8), geometry, offset, flip, zoom=zoom)
    unturned = view(picture(8), geometry, offset, flip, angle=torch.zeros(8), zoom=zoom)
    torch.testing.assert_close(by_products, by_gather, atol=1e-5, rtol=0)
    torch.testing.assert_close(unturned, by_gather, atol=1e-5, rtol=0)


@pytest.mark.parametrize("quarter", [1, 2, 3])
def test_a_quarter_turn_goes_clockwise(quarter):
    pixels = picture(side=9)
    geometry = Geometry(9, 9, 9)
    still = torch.zeros(3, 2, dtype=torch.long)
    turned = view(pixels, geometry, still, torch.zeros(3, dtype=torch.bool), torch.full((3,), quarter * np.pi / 2))
    torch.testing.assert_close(turned, torch.rot90(pixels, -quarter, (-2, -1)), atol=1e-4, rtol=0)


def test_zoom_enlarges_about_the_middle():
    spot = torch.zeros(1, 1, 21, 21)
    spot[..., 8:13, 8:13] = 1
    still, unflipped = torch.zeros(1, 2, dtype=torch.long), torch.zeros(1, dtype=torch.bool)
    for zoom in (0.8, 1.0, 1.5):
        seen = view(spot, Geometry(21, 21, 21), still, unflipped, zoom=torch.tensor([zoom]))
        assert seen.sum().item() == pytest.approx(25 * zoom**2, rel=0.05)
        torch.testing.assert_close(seen, seen.flip(-1), atol=1e-5, rtol=0)
        torch.testing.assert_close(seen, seen.flip(-2), atol=1e-5, rtol=0)


def test_outside_the_image_the_edge_goes_on():
    bright = torch.ones(2, 1, 16, 16)
    still, unflipped = torch.zeros(2, 2, dtype=torch.long), torch.zeros(2, dtype=torch.bool)
    seen = view(bright, Geometry(16, 16, 16), still, unflipped, torch.tensor([0.5, 1.0]), torch.full((2,), 0.6))
    torch.testing.assert_close(seen, torch.ones_like(seen))


def test_the_ten_views_are_corners_and_middle_and_their_mirror_images():
    pixels = picture(2, side=16)
    seen = ten_views(pixels, Geometry(seen=12, stored=16, whole=16))
    assert seen.shape == (2, 10, 3, 12, 12)
    corners = [(0, 0), (0, 4), (4, 0), (4, 4), (2, 2)]
    for number, (top, left) in enumerate(corners):
        torch.testing.assert_close(seen[:, number], pixels[..., top : top + 12, left : left + 12])
        torch.testing.assert_close(seen[:, number + 5], pixels[..., top : top + 12, left : left + 12].flip(-1))
