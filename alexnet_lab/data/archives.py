"""The formats of published archives, read in place: pickles in .tar.gz (CIFAR), .idx.gz (MNIST), arrays in .npz."""

import gzip
import io
import pickle
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

# What a damaged archive raises, whichever of the formats it is.
DAMAGED = (
    gzip.BadGzipFile,  # no other OSError: a full disk or a forbidden file is not a damaged one
    EOFError,
    ValueError,
    KeyError,
    struct.error,
    zlib.error,
    tarfile.TarError,
    zipfile.BadZipFile,
    pickle.UnpicklingError,
)


def read_tar(path: Path, wanted: set[str]) -> dict[str, bytes]:
    """Return the content of the files of those names in a .tar.gz, wherever in it they stand."""
    found: dict[str, bytes] = {}
    with tarfile.open(path, "r:gz") as archive:
        for member in archive:
            name = member.name.rpartition("/")[2]
            if name in wanted and member.isfile():
                content = archive.extractfile(member)
                if content is not None:
                    found[name] = content.read()
    missing = sorted(wanted - found.keys())
    if missing:
        raise ValueError(f"it does not hold {', '.join(missing)}")
    return found


def _blank_array(kind: object, shape: tuple[int, ...], _typecode: object) -> NDArray[Any]:
    """Do what numpy's pickles begin with, an empty array whose content follows, and that alone."""
    if kind is not np.ndarray or shape not in ((0,), [0]):
        raise pickle.UnpicklingError(f"expected an empty numpy array, got {kind!r} of shape {shape!r}")
    return np.empty(0, np.uint8)


def _latin_bytes(text: str, encoding: str) -> bytes:
    """Do what Python 3 writes for bytes at protocol 2, and that alone."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"expected bytes as latin1, got {encoding!r}")
    return text.encode("latin1")


# Everything that a pickle may call. None of these reaches the system, or another name.
ALLOWED: Mapping[tuple[str, str], Callable[..., Any]] = {
    ("numpy.core.multiarray", "_reconstruct"): _blank_array,
    ("numpy._core.multiarray", "_reconstruct"): _blank_array,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _latin_bytes,
}


class _PlainUnpickler(pickle.Unpickler):
    """Reads pickles of dictionaries, lists, numbers, text and arrays; anything else is refused before it runs."""

    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, and only arrays, lists and text are read")
        return ALLOWED[module, name]


def read_plain_pickle(content: bytes) -> Any:
    """Read a pickle that holds plain data; one that holds more is refused, and runs nothing."""
    # Python 2 wrote CIFAR: its byte strings, array contents among them, come back through latin1.
    try:
        return _PlainUnpickler(io.BytesIO(content), encoding="latin1").load()
    except (AttributeError, EOFError, IndexError, KeyError, MemoryError, OverflowError, TypeError, ValueError) as error:
        raise pickle.UnpicklingError(f"its pickle is malformed ({type(error).__name__}: {error})") from error


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Read an .idx.gz of bytes: two zeros, the type (8 is bytes), the number of axes, their lengths, the content."""
    with gzip.open(path) as file:
        content = file.read()
    zeros, kind, axes = struct.unpack(">HBB", content[:4])
    if zeros or kind != 8 or not 1 <= axes <= 4:
        raise ValueError("it does not begin as an .idx file of bytes does")
    shape = struct.unpack(f">{axes}I", content[4 : 4 + 4 * axes])
    values = np.frombuffer(content, np.uint8, offset=4 + 4 * axes)
    if values.size != np.prod(shape):
        raise ValueError(f"it should hold {shape} bytes and holds {values.size}")
    return values.reshape(shape)


class ArchivedArray:
    """An array in an .npz, read a block of rows at a time: the largest MedMNIST set has 16 GB."""

    def __init__(self, archive: zipfile.ZipFile, name: str) -> None:
        self._open: Callable[[], IO[bytes]] = lambda: archive.open(f"{name}.npy")
        with self._open() as file:
            self.shape, self.dtype = self._header(file)

    @staticmethod
    def _header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, by_column, dtype = read(file)
        if by_column or dtype.hasobject or not shape:
            raise ValueError(f"an array of {dtype} in column order or with objects is not read")
        return shape, dtype

    def blocks(self, rows: int = 1024) -> Iterator[NDArray[Any]]:
        """Yield the rows in order."""
        with self._open() as file:
            self._header(file)
            row = int(np.prod(self.shape[1:])) * self.dtype.itemsize
            for start in range(0, self.shape[0], rows):
                count = min(rows, self.shape[0] - start)
                content = file.read(count * row)
                if len(content) < count * row:
                    raise EOFError("it ends too early")
                yield np.frombuffer(content, self.dtype).reshape(count, *self.shape[1:])

    def whole(self) -> NDArray[Any]:
        """Return all rows."""
        return np.concatenate(list(self.blocks()))
