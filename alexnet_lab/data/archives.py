"""The formats of published archives, read in place: files in a .tar.gz, an .idx.gz, arrays in an .npz."""

import gzip
import math
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from alexnet_lab.data.reading import Limited, check_member, read_whole

# Of what an archive holds when inflated; the largest, CIFAR-100 in a .tar.gz, has 186 MB.
MOST_INFLATED = 2**29
MOST_ROW_BYTES = 2**26  # of an array in an .npz; as much is read at a time

# What a damaged archive raises, in any of the formats.
DAMAGED = (
    gzip.BadGzipFile,  # no other OSError: a full disk or a file without permission is not a damaged one
    EOFError,
    ValueError,
    KeyError,
    struct.error,
    zlib.error,
    tarfile.TarError,
    zipfile.BadZipFile,
    NotImplementedError,  # zipfile's, for a compression that it does not know
)


def read_tar(path: Path, names: set[str]) -> dict[str, bytes]:
    """Return the content of the files of those names in a .tar.gz, in whatever folder of it they are."""
    contents: dict[str, bytes] = {}
    with gzip.open(path) as inflated, tarfile.open(fileobj=Limited(inflated, MOST_INFLATED), mode="r|") as archive:
        for member in archive:
            name = member.name.rpartition("/")[2]
            if name in names and member.isfile():
                content = archive.extractfile(member)
                if content is not None:
                    contents[name] = read_whole(content, MOST_INFLATED)  # a sparse member may state any size
    missing = sorted(names - contents.keys())
    if missing:
        raise ValueError(f"it does not hold {', '.join(missing)}")
    return contents


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Read an .idx.gz of bytes: two zeros, the type (8 is bytes), the number of axes, their lengths, the content."""
    with gzip.open(path) as file:
        content = read_whole(file, MOST_INFLATED)
    zeros, kind, axes = struct.unpack(">HBB", content[:4])
    if zeros or kind != 8 or not 1 <= axes <= 4:
        raise ValueError("it does not begin as an .idx file of bytes does")
    shape = struct.unpack(f">{axes}I", content[4 : 4 + 4 * axes])
    values = np.frombuffer(content, np.uint8, offset=4 + 4 * axes)
    if values.size != math.prod(shape):
        raise ValueError(f"it should hold {shape} bytes and holds {values.size}")
    return values.reshape(shape)


class ArchivedArray:
    """An array in an .npz, read a block of rows at a time: the largest MedMNIST set has 16 GB."""

    def __init__(self, archive: zipfile.ZipFile, name: str) -> None:
        check_member(archive.getinfo(f"{name}.npy"))
        self._open: Callable[[], IO[bytes]] = lambda: archive.open(f"{name}.npy")
        with self._open() as file:
            self.shape, self.dtype = self._header(file)

    @staticmethod
    def _header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, by_column, dtype = read(file)
        if by_column or dtype.hasobject or not shape:
            raise ValueError(
                f"arrays in column order, of objects or without axes are not read; this has {dtype}, {shape}"
            )
        return shape, dtype

    def blocks(self, rows: int = 1024) -> Iterator[NDArray[Any]]:
        """Yield the rows in order."""
        with self._open() as file:
            self._header(file)
            row = math.prod(self.shape[1:]) * self.dtype.itemsize
            if row > MOST_ROW_BYTES:
                raise ValueError(f"a row of it has {row:,} bytes; at most {MOST_ROW_BYTES:,} are read")
            rows = max(1, min(rows, MOST_ROW_BYTES // max(row, 1)))
            for start in range(0, self.shape[0], rows):
                count = min(rows, self.shape[0] - start)
                content = file.read(count * row)
                if len(content) < count * row:
                    raise EOFError("it ends too early")
                yield np.frombuffer(content, self.dtype).reshape(count, *self.shape[1:])

    def whole(self) -> NDArray[Any]:
        """Return all rows."""
        return np.concatenate(list(self.blocks()))
