"""How many planted copies the audit finds, how many other pairs it takes for copies, and how fast it is.

    python benchmarks/audit_copies.py SET [--images 1000]     a folder, .zip or table of pictures

Every change is made to all pictures of the set, and its copies are looked for among the originals. Speed is that of
survey and search together on a folder of so many pictures, which repeats the set in other crops if it is smaller.
Run it on a quiet machine.
"""

import argparse
import io
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps

from alexnet_lab.audit.alignment import SAME, verified
from alexnet_lab.audit.candidates import SIDE, candidates
from alexnet_lab.audit.copies import find_pairs
from alexnet_lab.audit.survey import survey_files
from alexnet_lab.data.sources import listing_of

RNG = np.random.default_rng(0)


def compressed(image: Image.Image) -> Image.Image:
    """Return a JPEG of quality 50."""
    content = io.BytesIO()
    image.save(content, "JPEG", quality=50)
    return Image.open(content)


def cropped(image: Image.Image, share: float = 0.9) -> Image.Image:
    """Cut out a part of each side, anywhere."""
    width, height = round(share * image.width), round(share * image.height)
    left, top = RNG.integers(0, image.width - width + 1), RNG.integers(0, image.height - height + 1)
    return image.crop((int(left), int(top), int(left) + width, int(top) + height))


CHANGES = {
    "JPEG 50": compressed,
    "cropped to 90%": cropped,
    "turned by 5 degrees": lambda image: image.rotate(float(RNG.choice([-5, 5])), Image.Resampling.BILINEAR),
    "brightness x 0.6 or 1.4": lambda image: ImageEnhance.Brightness(image).enhance(float(RNG.choice([0.6, 1.4]))),
    "mirrored": ImageOps.mirror,
    "half the side": lambda image: image.resize((image.width // 2, image.height // 2), Image.Resampling.BILINEAR),
}


def thumb(image: Image.Image) -> NDArray[np.uint8]:
    """Return a picture as the audit keeps it."""
    return np.asarray(image.convert("L").resize((SIDE, SIDE), Image.Resampling.BILINEAR))


def pairs_of(thumbs: NDArray[np.uint8]) -> set[tuple[int, int]]:
    """Return the pairs that count as copies."""
    return {(one, other) for one, other in verified(thumbs, candidates(thumbs), least=SAME).pairs.tolist()}


def recall(pictures: list[Image.Image]) -> None:
    """Print what is found of planted copies."""
    base, count = np.stack([thumb(image) for image in pictures]), len(pictures)
    own_pairs = pairs_of(base)
    print(f"{count} pictures, {len(own_pairs)} pairs among them")
    for name, change in CHANGES.items():
        pairs = pairs_of(np.concatenate([base, np.stack([thumb(change(image)) for image in pictures])]))
        planted = {(number, count + number) for number in range(count)}
        # A copy of a picture is also one of that picture's own copies.
        related = {tuple(sorted((one % count, other % count))) for one, other in pairs - planted}
        false = {pair for pair in related if pair[0] != pair[1]} - own_pairs
        print(
            f"{name:24} recall {len(pairs & planted) / count:.3f}, other pairs per 1,000 {500 * len(false) / count:.1f}"
        )


def speed(pictures: list[Image.Image], images: int) -> None:
    """Print how fast the audit is on so many files."""
    with tempfile.TemporaryDirectory() as place:
        for number in range(images):
            path = Path(place) / "ab"[number % 2] / f"{number}.jpg"
            path.parent.mkdir(exist_ok=True)
            image = pictures[number % len(pictures)]
            (image if number < len(pictures) else cropped(image, 0.6)).convert("L").save(path, quality=90)
        started, used = time.perf_counter(), time.process_time()
        listing = listing_of(place)
        assert listing is not None  # noqa: S101  # a folder
        survey = survey_files(listing, lambda *_: None)
        looked = time.perf_counter() - started
        find_pairs(survey, lambda *_: None)
        seconds, used = time.perf_counter() - started, time.process_time() - used
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{images} images: {images / seconds:.0f} a second ({images / looked:.0f} in the survey alone), "
        f"{1000 * used / images:.1f} ms of processor each, peak {peak:.0f} MiB"
    )


def main() -> None:
    """Read the arguments and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--images", type=int, default=1000)
    arguments = parser.parse_args()
    listing = listing_of(arguments.data)
    if listing is None:
        parser.error("name a folder, a .zip or a table of image files")
    pictures = []
    with listing.reader() as read:
        for path in listing.paths:
            with read(path) as content:
                pictures.append(Image.open(io.BytesIO(content)).convert("L"))
    recall(pictures)
    speed(pictures, arguments.images)


if __name__ == "__main__":
    main()
