"""Turn one image file into a square of uint8 pixels: 16 bits, grey, palette, transparent or rotated by EXIF.

fit   crop     shorter side to the chosen side, then the square in the middle (paper, 2); the default
      stretch  both sides to the chosen side: all of the image, its proportions lost
      pad      longer side to the chosen side, black beside it: all of the image, its proportions kept

DICOM is read by dicom.py. Only that and the formats in FORMATS are opened, whatever a file is called: Pillow knows
others that start programs.
"""

import io
import struct
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from alexnet_lab.choices import unknown_choice
from alexnet_lab.data.dicom import SUFFIXES as DICOM_SUFFIXES
from alexnet_lab.data.dicom import is_dicom, picture_of, silence_pydicom
from alexnet_lab.data.reading import Budget

FITS = ("crop", "stretch", "pad")
FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "GIF", "WEBP", "PPM")  # PPM reads every PNM
SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm", ".pbm", ".pnm", *DICOM_SUFFIXES}
)
DEEP_MODES = frozenset({"I", "I;16", "I;16L", "I;16B", "I;16N"})  # more than 8 bits a pixel, always grey
GREY_MODES = frozenset({"1", "L", "LA", *DEEP_MODES})
TRANSPARENT_MODES = frozenset({"LA", "RGBA", "PA", "La", "RGBa"})

MOST_BYTES = 2**28  # of an image file: room for MOST_PIXELS in three channels without compression
MOST_PIXELS = 80_000_000  # of one image, and of all that are decoded at the same time
BAND = 256  # rows
IN_PROGRESS = Budget(MOST_PIXELS)

# What Pillow, zipfile and the disk raise for a file that is damaged or no image: SyntaxError for a PNG, TypeError for a
# TIFF whose numbers have the wrong type.
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
    TypeError,
)


@dataclass(frozen=True)
class Look:
    """What the header of an image file says, and the brightest pixel of a deep one."""

    width: int
    height: int
    grey: bool
    brightest: int  # 0 for an image of 8 bits

    def side(self, fit: str) -> int:
        """Return the side of the square that holds every pixel of the image under that fit."""
        return fitted_side(self.width, self.height, fit)


def fitted_side(width: int, height: int, fit: str) -> int:
    """Return the side of the square that holds every pixel of an image under that fit."""
    return min(width, height) if fit == "crop" else max(width, height)


@contextmanager
def quiet_decoders() -> Iterator[None]:
    """Silence what decoders warn of, for a block: what is refused for its size is refused here with its name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        warnings.filterwarnings("ignore", module=r"PIL(\.|$)")  # of damaged tags, with a path of Pillow's own
        silence_pydicom()
        yield


def check_fit(fit: str) -> None:
    """Refuse an unknown way to make an image square."""
    if fit not in FITS:
        raise unknown_choice("fit of images into a square", fit, FITS)


def look_at(content: bytes) -> Look:
    """Read the header; raises one of UNREADABLE."""
    with _opened(content) as image:
        if image.mode == "F":
            raise ValueError("its pixels are floating-point numbers, of unknown range; store it with 8 or 16 bits")
        brightest = 0
        if image.mode in DEEP_MODES:
            with IN_PROGRESS.hold(image.width * image.height):
                brightest = int(np.asarray(image).max())
        return Look(*image.size, image.mode in GREY_MODES, brightest)


@contextmanager
def _opened(content: bytes) -> Iterator[Image.Image]:
    """Open an image of a known format and a size that can be decoded; only DICOM is decoded yet."""
    if is_dicom(content):
        with picture_of(content, MOST_PIXELS) as image:
            yield image
        return
    try:
        image = Image.open(io.BytesIO(content), formats=FORMATS)
    except UnidentifiedImageError:
        raise ValueError(f"it is no image, or not in one of these formats: {', '.join(FORMATS)}, DICOM") from None
    except Image.DecompressionBombError:
        raise ValueError(f"it has more than {MOST_PIXELS:,} pixels; save it smaller") from None
    with image:
        if image.width * image.height > MOST_PIXELS:
            raise ValueError(
                f"it has {image.width} x {image.height} pixels, more than {MOST_PIXELS:,}; save it smaller"
            )
        yield image


@dataclass(frozen=True)
class Facts:
    """What can be known of an image file without looking at its picture."""

    width: int
    height: int
    mode: str
    format: str
    bits: int
    tint: float  # mean distance of its highest from its lowest channel, grey levels


def small_picture(content: bytes, side: int) -> tuple[Facts, NDArray[np.uint8]]:
    """Return the facts of an image file and all of its picture as a grey square of that side; raises as `decode`."""
    with _opened(content) as image, IN_PROGRESS.hold(image.width * image.height):
        size, mode, kind = image.size, image.mode, image.format or ""
        image.draft(None, (2 * side, 2 * side))  # a JPEG is decoded no larger than needed
        ImageOps.exif_transpose(image, in_place=True)
        brightest = int(np.asarray(image).max()) if mode in DEEP_MODES else 0
        plain = _eight_bits(image, bits_for(brightest))
        small = plain.convert("L" if plain.mode in GREY_MODES else "RGB").resize(
            (side, side), Image.Resampling.BILINEAR
        )
        pixels = np.asarray(small)
        tint = float(np.ptp(pixels, axis=2).mean()) if pixels.ndim == 3 else 0.0
        bits = 1 if mode == "1" else 16 if mode in DEEP_MODES else 8
        return Facts(*size, mode, kind, bits, round(tint, 2)), np.asarray(small.convert("L"))


def reason(error: BaseException) -> str:
    """Return why an image cannot be read, on one line."""
    lines = str(error).splitlines()
    text = lines[0] if lines else ""
    if isinstance(error, TypeError) or not text:
        return f"it is damaged ({type(error).__name__}{': ' + text if text else ''})"[:200]
    return text[:200]


def bits_for(brightest: int) -> int:
    """Return how many bits a set with that brightest pixel has: scanners write 10 or 12 bits into 16."""
    return next((bits for bits in (8, 10, 12, 14) if brightest < 2**bits), 16)


def decode(content: bytes, side: int, fit: str, grey: bool, deep_bits: int) -> NDArray[np.uint8]:
    """Return C T T pixels, T the side; raises one of UNREADABLE. Deep pixels lose deep_bits - 8 bits."""
    with _opened(content) as image, IN_PROGRESS.hold(image.width * image.height):
        ImageOps.exif_transpose(image, in_place=True)
        plain = _eight_bits(image, deep_bits)
        mode = "L" if grey else "RGB"
        squared = fit_into(plain if plain.mode == mode else plain.convert(mode), side, fit)
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
        deep = np.asarray(image).clip(0)
        return Image.fromarray((deep >> (deep_bits - 8)).clip(0, 255).astype(np.uint8))
    if image.mode in TRANSPARENT_MODES or (image.mode == "P" and image.has_transparency_data):
        return _over_black(image)
    return image.convert("RGB") if image.mode == "P" else image


def _over_black(image: Image.Image) -> Image.Image:
    """Make what is transparent black, as padding is: the colour stored under it is not meant to be seen."""
    flat = Image.new("L" if image.mode in ("LA", "La") else "RGB", image.size)
    for top in range(0, image.height, BAND):  # in bands, since whole copies with transparency would take much memory
        band = image.crop((0, top, image.width, min(top + BAND, image.height))).convert("RGBA")
        black = Image.new("RGBA", band.size, (0, 0, 0, 255))
        flat.paste(Image.alpha_composite(black, band).convert(flat.mode), (0, top))
    return flat


def shrink(pixels: NDArray[np.uint8], side: int, fit: str) -> NDArray[np.uint8]:
    """Bring decoded images, N C H W, to a square of at most that side; a square that is no larger is returned as is."""
    height, width = pixels.shape[2:]
    side = min(side, fitted_side(width, height, fit))
    if height == width == side:
        return pixels
    small = np.empty((*pixels.shape[:2], side, side), np.uint8)
    for image, target in zip(pixels, small, strict=True):
        for channel, small_channel in zip(image, target, strict=True):
            small_channel[:] = np.asarray(fit_into(Image.fromarray(channel), side, fit))
    return small
