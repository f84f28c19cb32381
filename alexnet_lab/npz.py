"""Arrays of an npz file: nothing is unpickled, and no file fills the memory.

numpy parses the header of every array as Python source, which takes longer than the reading of a small array. A study
of 1,000 runs has tens of thousands of small arrays with some dozens of headers, so each is parsed once.
"""

import io
import math
import struct
import tokenize
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from zipfile import BadZipFile, ZipFile

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# A file may inflate to the first, or to so many times its size.
FREELY_INFLATED, MOST_INFLATED = 2**28, 100
# What reading a damaged file raises: RuntimeError is zipfile's for an encryption that is none.
UNREADABLE_NPZ = (
    OSError, ValueError, EOFError, KeyError, TypeError, RuntimeError, OverflowError, MemoryError, BadZipFile,
    zlib.error, struct.error, tokenize.TokenError,
)  # fmt: skip
MAGIC = b"\x93NUMPY"
SUFFIX = ".npy"


@contextmanager
def opened_npz(path: Path) -> Iterator[Mapping[str, "NDArray[Any]"]]:
    """Open the arrays of an npz file; raises one of UNREADABLE_NPZ, also for one that would fill the memory."""
    if not path.is_file():  # a named pipe would be waited for
        raise ValueError("it is no regular file")
    with path.open("rb") as file, ZipFile(file) as archive:
        size = sum(member.file_size for member in archive.infolist())
        if size > max(FREELY_INFLATED, MOST_INFLATED * path.stat().st_size):
            raise ValueError(f"it would inflate to {size:,} bytes")
        yield _Arrays(archive)


class _Arrays(Mapping[str, "NDArray[Any]"]):
    """The arrays of an open archive by name, each read when it is asked for."""

    def __init__(self, archive: ZipFile) -> None:
        self._archive = archive
        self._members = {info.filename.removesuffix(SUFFIX): info for info in archive.infolist()}

    def __getitem__(self, name: str) -> "NDArray[Any]":
        return _array_of(self._archive.read(self._members[name]))

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)


def _array_of(content: bytes) -> "NDArray[Any]":
    """Return the array that the content of a .npy file holds."""
    import numpy as np  # here, since whoever only reads JSON need not wait for it

    if not content.startswith(MAGIC):
        raise ValueError("it has a member that is no array")
    start = (
        struct.unpack_from("<H", content, 8)[0] + 10
        if content[6:7] == b"\x01"
        else struct.unpack_from("<I", content, 8)[0] + 12
    )
    shape, is_fortran, dtype = _header(content[:start])
    count = math.prod(shape)
    if dtype.hasobject:
        raise ValueError("Object arrays cannot be loaded when allow_pickle=False")
    if min(shape, default=0) < 0 or not dtype.itemsize or len(content) - start < count * dtype.itemsize:
        raise ValueError("an array ends before its numbers do")
    order: Literal["C", "F"] = "F" if is_fortran else "C"
    if not count:
        return np.empty(shape, dtype, order)
    return np.frombuffer(content, dtype, count, start).copy().reshape(shape, order=order)


@lru_cache(maxsize=4096)
def _header(content: bytes) -> "tuple[tuple[int, ...], bool, np.dtype[Any]]":
    """Return shape, whether columns come first, and the type of the numbers."""
    from numpy.lib import format as npy

    file = io.BytesIO(content)
    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    version = npy.read_magic(file)
    if version not in readers:
        raise ValueError(
            f"its arrays are of version {version[0]}.{version[1]} of numpy's format, and 1.0 and 2.0 are read"
        )
    header: tuple[tuple[int, ...], bool, np.dtype[Any]] = readers[version](file)
    return header
