"""Arrays of npz files: what numpy reads, bit for bit, and a refusal of what it would not have written."""

import io
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as of_numpy

from alexnet_lab.npz import UNREADABLE_NPZ, opened_npz

DTYPES = st.one_of(
    of_numpy.integer_dtypes(), of_numpy.unsigned_integer_dtypes(), of_numpy.floating_dtypes(),
    of_numpy.boolean_dtypes(), of_numpy.unicode_string_dtypes(max_len=5),
)  # fmt: skip


def npy(header, data=b"", version=b"\x01\x00"):
    """The content of a .npy file with a header of one's own."""
    text = header.encode() + b"\n"
    length = len(text).to_bytes(2 if version == b"\x01\x00" else 4, "little")
    return b"\x93NUMPY" + version + length + text + data


def read(path):
    with opened_npz(path) as arrays:
        return {name: arrays[name] for name in arrays}


@settings(max_examples=60, deadline=None)
@given(
    array=of_numpy.arrays(DTYPES, of_numpy.array_shapes(min_dims=0, min_side=0)),
    compressed=st.booleans(),
    turned=st.booleans(),
)
def test_every_array_is_read_as_numpy_reads_it(array, compressed, turned, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "arrays.npz"
    written = array.T if turned else array
    (np.savez_compressed if compressed else np.savez)(path, one=written, two=np.arange(3))
    expected = np.load(path)["one"]
    found = read(path)
    assert list(found) == ["one", "two"]
    assert (found["one"].dtype, found["one"].shape) == (expected.dtype, expected.shape)
    assert found["one"].tobytes() == expected.tobytes()
    assert found["one"].flags.writeable


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no array", "it has a member that is no array"),
        (npy("{'descr': '<f8', 'fortran_order': False, 'shape': (9,), }", bytes(8)), "ends before its numbers do"),
        (npy("{'descr': '<f8', 'fortran_order': False, 'shape': (-1,), }", bytes(8)), "ends before its numbers do"),
        (npy("{'descr': '<U0', 'fortran_order': False, 'shape': (9,), }"), "ends before its numbers do"),
        (npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", bytes(8)), "allow_pickle=False"),
        (npy("{'descr': '<f8', 'fortran_order': False, 'shape': (100000000000000000000,), }"), "ends before"),
        (npy("{'descr': '<f8', 'fortran_order': False, 'shape': (1,), }", bytes(8), b"\x03\x00"), "of version 3.0"),
        (npy("__import__('os').abort()"), "malformed node"),
        (b"\x93NUMPY", "buffer"),
        (b"\x93NUMPY\x01", "buffer"),
    ],
)
def test_an_array_that_no_run_has_written_is_refused(content, message, tmp_path):
    with zipfile.ZipFile(tmp_path / "own.npz", "w") as archive:
        archive.writestr("one.npy", content)
    with pytest.raises(UNREADABLE_NPZ, match=message):
        read(tmp_path / "own.npz")


def test_a_file_that_is_no_archive_or_whose_bytes_changed_is_refused(tmp_path):
    path = tmp_path / "arrays.npz"
    path.write_bytes(b"PK is not enough")
    with pytest.raises(UNREADABLE_NPZ):
        read(path)
    content = io.BytesIO()
    np.savez(content, one=np.arange(100))
    changed = bytearray(content.getvalue())
    changed[400] ^= 1
    path.write_bytes(changed)
    with pytest.raises(UNREADABLE_NPZ, match="CRC"):
        read(path)
