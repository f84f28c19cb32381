"""Pictures that a set holds twice in other bytes are paired, other pictures are not, and the work stays bounded."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from alexnet_lab.data import near_copies as module
from alexnet_lab.data.near_copies import near_copies, patterns


def faint_on_the_left(image):
    box = (0, 0, image.width // 2, image.height)
    changed = image.copy()
    changed.paste(image.crop(box).point(lambda value: value * 0.15 + 100), box)
    return changed


CHANGES = {
    "less contrast, brighter": lambda picture: picture.point(lambda value: value * 0.4 + 80),
    "gamma": lambda picture: picture.point(lambda value: 255 * (value / 255) ** 0.6),
    "tinted": lambda picture: Image.blend(picture, Image.new("RGB", picture.size, "orange"), 0.3),
    "left half faint": faint_on_the_left,
    "compressed": lambda picture: compressed(picture, 40),
    "half the size": lambda picture: picture.resize((80, 80), Image.Resampling.BILINEAR),
    "twice the size": lambda picture: picture.resize((320, 320), Image.Resampling.BICUBIC),
}


def picture(number, side=160):
    """Return a picture with structure at all scales, as a photograph has: noise of many sizes, added up."""
    rng = np.random.default_rng(number)
    total = np.zeros((side, side, 3))
    for cells in (5, 10, 20, 40, 80):
        noise = Image.fromarray(rng.integers(0, 256, (cells, cells, 3)).astype(np.uint8))
        total += np.asarray(noise.resize((side, side), Image.Resampling.BICUBIC), float) / cells**0.5
    total -= total.min()
    return Image.fromarray((total * (255 / total.max())).astype(np.uint8))


def compressed(image, quality):
    content = io.BytesIO()
    image.save(content, "JPEG", quality=quality)
    return Image.open(content)


def stored(images, side=64):
    resized = [np.asarray(image.resize((side, side), Image.Resampling.BILINEAR)) for image in images]
    return np.stack(resized).transpose(0, 3, 1, 2)


def all_pairs(pixels):
    """Compare all with all, in the plainest way."""
    rows, _ = patterns(pixels)
    return [(i, j) for i in range(len(rows)) for j in range(i + 1, len(rows)) if rows[i] @ rows[j] >= module.SAME]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("side", [28, 32, 64, 100])
def test_a_changed_copy_is_paired_with_its_original_and_no_other_pictures_are(change, side):
    originals = [picture(number) for number in range(40)]
    pixels = stored([*originals, *(CHANGES[change](original) for original in originals[:10])], side)
    assert near_copies(pixels, np.arange(50)).tolist() == [[number, 40 + number] for number in range(10)]


def test_the_pairs_are_those_of_comparing_all_with_all():
    originals = [picture(number) for number in range(300)]
    pixels = stored([*originals, *(compressed(original, 30) for original in originals[::3])], 32)
    assert list(map(tuple, near_copies(pixels, np.arange(400)).tolist())) == all_pairs(pixels)


def test_pictures_that_are_much_alike_are_not_taken_for_copies():
    shared = picture(1000)
    pixels = stored([Image.blend(picture(number), shared, 0.62) for number in range(20)])
    rows, _ = patterns(pixels)
    others = (rows @ rows.T)[np.triu_indices(20, 1)]
    assert 0.7 < others.mean() < others.max() < 0.84
    assert near_copies(pixels, np.arange(20)).tolist() == []


def test_only_the_images_asked_for_are_compared():
    pixels = stored([picture(0), picture(1), compressed(picture(0), 50), compressed(picture(1), 50)])
    assert near_copies(pixels, np.array([0, 2, 3])).tolist() == [[0, 2]]
    assert near_copies(pixels, np.array([0])).tolist() == []


def test_plain_images_small_images_and_unrelated_noise_are_not_paired():
    rng = np.random.default_rng(0)
    plain = np.broadcast_to(rng.integers(0, 256, (30, 1, 1, 1)).astype(np.uint8), (30, 1, 32, 32))
    dot = np.zeros((30, 1, 32, 32), np.uint8)
    dot[:, :, 10:13, 10:13] = rng.integers(100, 256, (30, 1, 3, 3))
    noise = rng.integers(0, 256, (200, 1, 32, 32)).astype(np.uint8)
    for pixels in (plain, dot, noise):
        assert near_copies(pixels, np.arange(len(pixels))).tolist() == []
    small = np.repeat(rng.integers(0, 256, (5, 1, 16, 16)).astype(np.uint8), 2, 0)
    assert near_copies(small, np.arange(10)).tolist() == []


def test_a_picture_with_hundreds_of_copies_costs_a_bounded_number_of_pairs():
    original = np.asarray(picture(0, 32), float)
    rng = np.random.default_rng(0)
    copies = np.clip(original + rng.normal(0, 2, (600, 32, 32, 3)), 0, 255).astype(np.uint8).transpose(0, 3, 1, 2)
    pairs = near_copies(copies, np.arange(600))
    assert len(pairs) <= 2 * module.PAIRS * 600
    assert len(np.unique(pairs)) == 600  # each has a partner


@given(gain=st.floats(0.3, 3), offset=st.floats(-50, 50))
@settings(max_examples=50, deadline=None)
def test_a_pattern_keeps_its_direction_under_brightness_and_contrast(gain, offset):
    values = np.random.default_rng(0).uniform(60, 100, (1, 1, 32, 32))
    changed = np.clip((values - 80) * gain + 110 + offset, 0, 255)
    one, other = (patterns(np.rint(image).astype(np.uint8))[0][0] for image in (values, changed))
    assert one @ other > 0.98
    assert np.linalg.norm(one) == pytest.approx(1, abs=1e-5)
