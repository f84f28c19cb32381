"""One DICOM file to a picture as a viewer shows it, by pydicom, and whose it is, without a name.

The steps, in the order of the standard (PS3.4, N.2): stored values; rescale or modality table; window or table of
values of interest (VOI); presentation table; then inversion, once, where MONOCHROME1 or a presentation shape INVERSE
says that low values are white. A picture with a window has 8 bits. One without keeps the bits that it has, as a PNG of
16 bits does, so that DICOM and PNG of one picture become the same pixels.

Nothing that identifies a patient leaves this module: errors have no text of pydicom or the file in them, and a patient
is known by a digest under a key that no one keeps, until the images of a set are numbered.
"""

import hashlib
import io
import logging
import os
import warnings
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from alexnet_lab.data.reading import PIECE

if TYPE_CHECKING:
    from pydicom.dataset import FileDataset
    from pydicom.tag import BaseTag

SUFFIXES = (".dcm", ".dicom")
INSTALL = 'pip install "alexnet-lab[medical]"'
MOST_INFLATED = 2**28  # bytes of a deflated file; as many as of one that is not
MOST_ELEMENTS = 2**16  # outside of sequences; a picture has some hundred
_PIXELS = (0x7FE00008, 0x7FE00009, 0x7FE00010)  # Float, Double Float and plain Pixel Data
_KEY = os.urandom(32)  # of this process: a patient's number is the same everywhere, the digest nowhere
Values = NDArray[Any]
Range = tuple[float, float]


def is_dicom(content: bytes) -> bool:
    """Return whether a file is DICOM: its 129th byte begins the letters DICM."""
    return content[128:132] == b"DICM"


def silence_pydicom() -> None:
    """Ignore pydicom's warnings until the warnings' filters change; they may quote the file."""
    warnings.filterwarnings("ignore", module=r"pydicom(\.|$)")
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)


def picture_of(content: bytes, most_pixels: int) -> Image.Image:
    """Return the picture of a DICOM file: grey of 8 bits or more (L, I;16), or RGB; raise ValueError for any other."""
    dataset = _read(content, pixels=True)
    try:
        problem = _problem_of(dataset, most_pixels)
    except Exception:  # noqa: BLE001  # of pydicom, for values that are none of their kind: whatever it raises
        problem = "what it says of its picture is not to be understood; is the file damaged?"
    if problem:
        raise ValueError(problem)
    try:
        image = _coloured(dataset) if dataset.SamplesPerPixel == 3 or _is_palette(dataset) else _grey(dataset)
    except (RuntimeError, NotImplementedError, ImportError):
        syntax = dataset.file_meta.get("TransferSyntaxUID")
        how = "in a way without a public name" if syntax is None or syntax.is_private else f"as {syntax.name}"
        raise ValueError(
            f"its pixels are compressed {how}, and no decoder for that is installed, or it failed; {INSTALL}, or "
            "save it uncompressed"
        ) from None
    except Exception as error:  # noqa: BLE001  # any message of pydicom may quote the file, which names a patient
        raise ValueError(f"its pixels cannot be decoded ({type(error).__name__}); is the file damaged?") from None
    image.format = "DICOM"
    return image


def patient_of(content: bytes) -> bytes:
    """Return a digest of the patient's identifier, the same for one patient within this process; empty if unknown."""
    if not is_dicom(content):
        return b""
    dataset = _read(content, pixels=False)
    try:
        identifier = str(dataset.get("PatientID") or "").strip().encode()
    except Exception:  # noqa: BLE001  # any message of pydicom may quote the file, which names a patient
        raise ValueError("its patient's identifier is no text; is the file damaged?") from None
    return hashlib.blake2b(identifier, key=_KEY, digest_size=16).digest() if identifier else b""


def numbered(patients: Sequence[bytes]) -> NDArray[np.str_] | None:
    """Return `patient 1` and so on, in the order of the images; who is unknown is alone. None where nobody is known."""
    if not any(patients):
        return None
    number_of: dict[object, int] = {}
    keys = [patient or index for index, patient in enumerate(patients)]
    return np.array([f"patient {number_of.setdefault(key, len(number_of) + 1)}" for key in keys])


def _read(content: bytes, *, pixels: bool) -> "FileDataset":
    try:
        import pydicom
        from pydicom.filereader import read_partial
    except ImportError:
        raise ValueError(f"reading DICOM needs pydicom, which is not installed: {INSTALL}") from None
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    count = 0

    def stop_when(tag: "BaseTag", _kind: str | None, _length: int) -> bool:
        nonlocal count
        count += 1
        if count > MOST_ELEMENTS:
            raise _TooMuchError(f"it has more than {MOST_ELEMENTS:,} elements, and no more are read")
        return tag in _PIXELS and not pixels

    try:
        _check_inflated(content)
        return read_partial(io.BytesIO(content), stop_when)
    except _TooMuchError as error:
        raise ValueError(str(error)) from None
    except Exception as error:  # noqa: BLE001  # any message of pydicom may quote the file, which names a patient
        raise ValueError(f"it is no DICOM that can be read ({type(error).__name__}); is the file damaged?") from None


class _TooMuchError(Exception):
    """A file that would take too long, or too much memory; the message says so and quotes nothing."""


def _check_inflated(content: bytes) -> None:
    """Refuse a deflated file that inflates to more than MOST_INFLATED: pydicom inflates it in one go."""
    from pydicom.filereader import read_dataset
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    file = io.BytesIO(content)
    file.seek(132)  # the preamble, and DICM
    meta = read_dataset(
        file, is_implicit_VR=False, is_little_endian=True, stop_when=lambda tag, _kind, _length: tag >> 16 != 2
    )
    if meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
        return
    inflating = zlib.decompressobj(-zlib.MAX_WBITS)
    left, size = file.read(), 0
    while left and not inflating.eof:
        size += len(inflating.decompress(left, PIECE))
        left = inflating.unconsumed_tail
        if size > MOST_INFLATED:
            raise _TooMuchError(f"inflated it has more than {MOST_INFLATED:,} bytes, and no more are read")


def _problem_of(dataset: "FileDataset", most_pixels: int) -> str:
    """Say why it is no single picture of 8 to 16 bits, by the standard's name of the object; empty for one that is."""
    known = dataset.get("SOPClassUID")
    kind = known.name if known is not None and not known.is_private else "DICOM object of an unknown kind"
    if "PixelData" not in dataset:
        return f"it is a {kind} without a picture of whole numbers; leave it out"
    frames = int(dataset.get("NumberOfFrames") or 1)
    if frames > 1:
        return f"it is a {kind} of {frames} frames; save the frames that you mean as images of their own"
    missing = [
        name
        for name in ("Rows", "Columns", "BitsAllocated", "BitsStored", "SamplesPerPixel", "PhotometricInterpretation")
        if dataset.get(name) is None
    ]
    if missing:
        return f"it is a {kind} that does not say its {', '.join(missing)}; is the file damaged?"
    if not (dataset.BitsAllocated in (8, 16) and 1 < dataset.BitsStored <= 16):
        return f"its pixels have {dataset.BitsStored} of {dataset.BitsAllocated} bits; 8 to 16 are read"
    if dataset.Rows * dataset.Columns > most_pixels:
        return f"it has {dataset.Columns} x {dataset.Rows} pixels, more than {most_pixels:,}; save it smaller"
    return ""


def _is_palette(dataset: "FileDataset") -> bool:
    return bool(dataset.PhotometricInterpretation == "PALETTE COLOR")


def _coloured(dataset: "FileDataset") -> Image.Image:
    from pydicom.pixels.processing import apply_color_lut

    pixels = dataset.pixel_array  # pydicom turns YBR into RGB
    bits = int(dataset.BitsStored)
    if _is_palette(dataset):
        pixels = apply_color_lut(pixels, dataset)
        bits = 8 * pixels.dtype.itemsize
    return Image.fromarray((pixels.astype(np.uint32) >> max(bits - 8, 0)).astype(np.uint8))


def _grey(dataset: "FileDataset") -> Image.Image:
    from pydicom.pixels.processing import apply_modality_lut, apply_presentation_lut, apply_voi_lut

    values: Values = dataset.pixel_array
    low, high = _stored_range(dataset)
    rescaled = apply_modality_lut(values, dataset)
    if "ModalityLUTSequence" in dataset:
        values, (low, high) = rescaled, _range_of_table(dataset.ModalityLUTSequence[0])
    falls = float(dataset.get("RescaleSlope") or 1) < 0
    has_window = "WindowCenter" in dataset and dataset.get("WindowWidth") is not None
    if "VOILUTSequence" in dataset or has_window:
        values = apply_voi_lut(rescaled, dataset)
        if "VOILUTSequence" in dataset:
            low, high = _range_of_table(dataset.VOILUTSequence[0])
        else:  # a window gives values in the range of the rescaled ones
            slope, intercept = float(dataset.get("RescaleSlope") or 1), float(dataset.get("RescaleIntercept") or 0)
            low, high = sorted((low * slope + intercept, high * slope + intercept))
        values, (low, high) = _in_bits(values, (low, high), 8)
    elif falls:
        values = low + high - values.astype(np.int32)
    if "PresentationLUTSequence" in dataset:
        table = dataset.PresentationLUTSequence[0]
        entries = int(table.LUTDescriptor[0]) or 2**16
        steps, _ = _in_bits(values, (low, high), int(np.log2(entries)))
        values, (low, high) = apply_presentation_lut(steps, dataset), _range_of_table(table)
    is_white_low = dataset.PhotometricInterpretation == "MONOCHROME1"
    if is_white_low or dataset.get("PresentationLUTShape") == "INVERSE":
        values = low + high - values.astype(np.float64)
    shifted = np.clip(values.astype(np.float64) - low, 0, high - low)
    kind = np.uint8 if high - low < 2**8 else np.uint16
    return Image.fromarray(np.rint(shifted).astype(kind))


def _stored_range(dataset: "FileDataset") -> Range:
    bits = int(dataset.BitsStored)
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if dataset.PixelRepresentation else (0, 2**bits - 1)


def _range_of_table(table: Any) -> Range:
    return 0, 2 ** min(int(table.LUTDescriptor[2]), 16) - 1


def _in_bits(values: Values, between: Range, bits: int) -> tuple[NDArray[np.uint16], Range]:
    """Return values as whole numbers of so many bits."""
    low, high = between
    most = 2**bits - 1
    return np.rint(np.clip((values - low) / (high - low), 0, 1) * most).astype(np.uint16), (0, most)
