"""One image file to one square of uint8 pixels, whatever it is: 16 bits, grey, palette, transparent, turned by EXIF.

fit   crop     shorter side to the chosen side, then the square in the middle (paper, 2); the default
      stretch  both sides to the chosen side: all of the image, its proportions lost
      pad      longer side to the chosen side, black beside it: all of the image, its proportions kept
"""

import io
import struct
import zipfile
import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from alexnet_lab.choices import unknown_choice

FITS = ("crop", "stretch", "pad")
SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm", ".pbm", ".jp2"}
)
DEEP_MODES = frozenset({"I", "I;16", "I;16L", "I;16B", "I;16N"})  # more than 8 bits a pixel, always grey
GREY_MODES = frozenset({"1", "L", "LA", *DEEP_MODES})

# What Pillow, zipfile and the disk raise for a file that is damaged or no image; SyntaxError is Pillow's for a PNG.
UNREADABLE = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
    NotImplementedError,
    Image.DecompressionBombError,
)


@dataclass(frozen=True)
class Look:
    """What the header of an image file says, and of a deep one its brightest pixel."""

    width: int
    height: int
    grey: bool
    brightest: int  # 0 where 8 bits are all there is

    def side(self, fit: str) -> int:
        """Return the side of the square that holds every pixel of the image under that fit."""
        return fitted_side(self.width, self.height, fit)


def fitted_side(width: int, height: int, fit: str) -> int:
    """Return the side of the square that holds every pixel of an image under that fit."""
    return min(width, height) if fit == "crop" else max(width, height)


def check_fit(fit: str) -> None:
    """Refuse an unknown way to make an image square."""
    if fit not in FITS:
        raise unknown_choice("fit of images into a square", fit, FITS)


def look_at(content: bytes) -> Look:
    """Read the header; raises one of UNREADABLE."""
    with Image.open(io.BytesIO(content)) as image:
        if image.mode == "F":
            raise ValueError("its pixels are floating-point numbers, of unknown range; store it with 8 or 16 bits")
        brightest = 0
        if image.mode in DEEP_MODES:
            brightest = int(np.asarray(image).max())
        return Look(*image.size, image.mode in GREY_MODES, brightest)


def bits_for(brightest: int) -> int:
    """Return how many bits a set with that brightest pixel has: scanners write 10 or 12 bits into 16."""
    return next((bits for bits in (8, 10, 12, 14) if brightest < 2**bits), 16)


def decode(content: bytes, side: int, fit: str, grey: bool, deep_bits: int) -> NDArray[np.uint8]:
    """Return C T T pixels, T the side; raises one of UNREADABLE. Deep pixels lose deep_bits - 8 bits."""
    with Image.open(io.BytesIO(content)) as image:
        plain = _eight_bits(ImageOps.exif_transpose(image), deep_bits)
        squared = fit_into(plain.convert("L" if grey else "RGB"), side, fit)
        pixels = np.asarray(squared)
    return pixels[None] if grey else pixels.transpose(2, 0, 1)


def fit_into(image: Image.Image, side: int, fit: str) -> Image.Image:
    """Make an image a square of that side, bilinear, antialiased where it shrinks."""
    width, height = image.size
    if fit == "crop":
        short = min(width, height)
        left, top = (width - short) / 2, (height - short) / 2
        box = (left, top, left + short, top + short)
        return image.resize((side, side), Image.Resampling.BILINEAR, box=box)
    if fit == "pad":
        return ImageOps.pad(image, (side, side), Image.Resampling.BILINEAR, color=0)
    return image.resize((side, side), Image.Resampling.BILINEAR)


def _eight_bits(image: Image.Image, deep_bits: int) -> Image.Image:
    if image.mode in DEEP_MODES:
        deep = np.asarray(image).astype(np.int64).clip(0)
        return Image.fromarray((deep >> (deep_bits - 8)).clip(0, 255).astype(np.uint8))
    if image.mode == "P":
        # A palette may be transparent; RGBA knows both.
        image = image.convert("RGBA")
    if image.mode in ("LA", "RGBA", "PA", "La", "RGBa"):
        # What is transparent turns black, as the padding is: the colour stored under it was never meant to be seen.
        whole = image.convert("RGBA")
        black = Image.new("RGBA", whole.size, (0, 0, 0, 255))
        return Image.alpha_composite(black, whole).convert("L" if image.mode in ("LA", "La") else "RGB")
    return image


def shrink(pixels: NDArray[np.uint8], side: int, fit: str) -> NDArray[np.uint8]:
    """Bring decoded images, N C H W, to a square of at most that side; a smaller square is returned as it is."""
    height, width = pixels.shape[2:]
    side = min(side, fitted_side(width, height, fit))
    if height == width == side:
        return pixels
    small = np.empty((*pixels.shape[:2], side, side), np.uint8)
    for image, target in zip(pixels, small, strict=True):
        for channel, place in zip(image, target, strict=True):
            place[:] = np.asarray(fit_into(Image.fromarray(channel), side, fit))
    return small
