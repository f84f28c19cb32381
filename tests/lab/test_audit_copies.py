"""The audit finds copies of a picture that were changed, says how, and takes no other pictures for copies."""

import io

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from alexnet_lab.audit.alignment import SAME, verified
from alexnet_lab.audit.candidates import SIDE, Candidates, candidates
from alexnet_lab.audit.copies import BYTES, PICTURE, PIXELS, Pair, clusters, copied, find_pairs
from alexnet_lab.audit.survey import survey_files
from alexnet_lab.data.sources import listing_of

COUNT = 60


def picture(number, side=256):
    """Return what X-rays have in common, a shape that all share, with structure at many scales of its own."""
    total = np.zeros((side, side))
    for seed, weight in ((10_000, 0.6), (number, 1.0)):
        rng = np.random.default_rng(seed)
        for cells in (4, 8, 16, 32, 64):
            noise = Image.fromarray(rng.integers(0, 256, (cells, cells)).astype(np.uint8))
            total += weight * np.asarray(noise.resize((side, side), Image.Resampling.BICUBIC), float) / cells**0.5
    total -= total.min()
    return Image.fromarray((total * (220 / total.max()) + 15).astype(np.uint8))


def compressed(image, quality=50):
    content = io.BytesIO()
    image.save(content, "JPEG", quality=quality)
    return Image.open(content)


def cropped(image, number):
    kept = round(0.9 * image.width)
    left, top = np.random.default_rng(number).integers(0, image.width - kept + 1, 2).tolist()
    return image.crop((left, top, left + kept, top + kept))


CHANGES = {
    "compressed": lambda image, _: compressed(image),
    "cropped": cropped,
    "turned": lambda image, number: image.rotate(5 if number % 2 else -5, Image.Resampling.BILINEAR),
    "brighter or darker": lambda image, number: ImageEnhance.Brightness(image).enhance(1.4 if number % 2 else 0.6),
    "mirrored": lambda image, _: ImageOps.mirror(image),
    "smaller": lambda image, _: image.resize((120, 120), Image.Resampling.BILINEAR),
}


def thumbs_of(images):
    return np.stack([np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BILINEAR)) for image in images])


ORIGINALS = [picture(number) for number in range(COUNT)]


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_copy_is_paired_with_its_original_and_no_other_pictures_are(change):
    copies = [CHANGES[change](image, number) for number, image in enumerate(ORIGINALS[:20])]
    thumbs = thumbs_of([*ORIGINALS, *copies])
    found = verified(thumbs, candidates(thumbs), least=SAME)
    pairs = set(map(tuple, found.pairs.tolist()))
    planted = {(number, COUNT + number) for number in range(20)}
    assert len(pairs & planted) >= 19
    assert pairs <= planted


def test_two_pictures_are_laid_over_each_other_before_they_are_compared():
    thumbs = thumbs_of([ORIGINALS[0], ORIGINALS[0].rotate(3, Image.Resampling.BILINEAR), ORIGINALS[1]])
    still = np.tile(np.array([[[1, 0, 0], [0, 1, 0]]], np.float32), (2, 1, 1))
    import torch

    found = Candidates(torch.tensor([0, 0]), torch.tensor([1, 2]), torch.from_numpy(still))
    done = verified(thumbs, found, least=-1.0)
    assert done.pairs.tolist() == [[0, 1]]  # the other two are too unlike for a second look
    (a, b, _), (c, d, _) = done.maps[0]
    assert abs(np.degrees(np.arctan2(c - b, a + d))) == pytest.approx(3, abs=0.3)
    assert done.correlations[0] > 0.95


def saved(folder, images):
    for name, image in images.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        image.save(folder / name)
    return folder


def test_kinds_of_copies_are_told_apart_and_the_change_is_named(tmp_path):
    folder = saved(tmp_path / "set", {f"a/{number:02}.png": ORIGINALS[number] for number in range(12)})
    saved(folder, {f"b/{number:02}.png": ORIGINALS[12 + number] for number in range(12)})
    (folder / "b/same.png").write_bytes((folder / "a/00.png").read_bytes())
    saved(folder, {"b/pixels.bmp": ORIGINALS[1], "b/mirrored.png": ImageOps.mirror(ORIGINALS[2])})
    saved(folder, {"b/turned.png": ORIGINALS[3].rotate(5, Image.Resampling.BILINEAR)})
    listing = listing_of(str(folder))
    survey = survey_files(listing, lambda *_: None)
    with listing.reader() as opened:
        pairs = find_pairs(survey, lambda *_: None, opened)
    told = {(survey.names[p.one], survey.names[p.other]): (p.kind, p.change) for p in pairs if p.is_copy}
    assert told.pop(("a/00.png", "b/same.png")) == (BYTES, "")
    assert told.pop(("a/01.png", "b/pixels.bmp")) == (PIXELS, "")
    assert told.pop(("a/02.png", "b/mirrored.png")) == (PICTURE, "mirrored")
    kind, change = told.pop(("a/03.png", "b/turned.png"))
    assert kind == PICTURE
    assert change.startswith("turned by 5°")
    assert told == {}


def test_plain_pictures_are_no_copies_of_each_other(tmp_path):
    plain = {f"{'ab'[n % 2]}/{n}.png": Image.new("L", (64, 64), n * 9) for n in range(12)}
    survey = survey_files(listing_of(str(saved(tmp_path / "set", plain))), lambda *_: None)
    assert find_pairs(survey, lambda *_: None) == []


def test_copies_are_connected_through_others():
    pairs = [Pair(0, 1, PICTURE), Pair(1, 2, PICTURE), Pair(3, 4, "much alike")]
    numbers = clusters(pairs, 5)
    assert len(set(numbers[:3])) == 1
    assert len(set(numbers)) == 3
    parts = np.array(["train", "train", "test", "train", "test"])
    assert list(copied(pairs, parts, np.arange(5))) == [(0, 2)]
    assert list(copied(pairs, parts, np.array([0, 1]))) == []
