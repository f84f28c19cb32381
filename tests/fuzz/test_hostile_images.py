"""Pictures, DICOM, archives and tables from elsewhere, changed at random: read as what they are, or refused."""

import gzip
import io
import pickle
import struct
import tarfile
import zipfile
import zlib

import numpy as np
import pytest
from hostile import Told, changed, fuzzed, told_by, watched
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ComputedRadiographyImageStorage, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian

from alexnet_lab.data.decoding import (
    FORMATS,
    UNREADABLE,
    decode,
    look_at,
    quiet_decoders,
    reason,
    small_picture,
)
from alexnet_lab.data.dicom import patient_of
from alexnet_lab.data.listings import list_archive, list_table
from alexnet_lab.data.plain_pickle import read_plain_pickle
from alexnet_lab.data.sources import load_images
from alexnet_lab.data.tables import read_table

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (24, 20, 3)).astype(np.uint8)


def picture(kind, pixels=PIXELS, **options):
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, kind, **options)
    return content.getvalue()


def with_exif(kind):
    """A picture that says it is turned, and has a text beside it."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a picture"
    return picture(kind, exif=exif)


def palette():
    content = io.BytesIO()
    Image.fromarray(PIXELS).quantize(8).save(content, "PNG", transparency=3)
    return content.getvalue()


PICTURES = {
    **{kind: picture(kind) for kind in FORMATS},
    "turned JPEG": with_exif("JPEG"),
    "turned WEBP": with_exif("WEBP"),
    "turned PNG": with_exif("PNG"),
    "PNG of 16 bits": picture("PNG", RNG.integers(0, 4096, (20, 20)).astype(np.uint16)),
    "TIFF of 16 bits": picture("TIFF", RNG.integers(0, 4096, (20, 20)).astype(np.uint16)),
    "TIFF in LZW": picture("TIFF", compression="tiff_lzw"),
    "PNG with a palette": palette(),
}


def read_picture(content):
    """Read one image file as every source does; return its pixels, or why it cannot be read."""
    try:
        with quiet_decoders():
            seen = look_at(content)
            facts, grey = small_picture(content, 16)
            pixels = decode(content, 12, "crop", grey=False, deep_bits=8)
    except UNREADABLE as error:
        assert reason(error).strip()
        assert "\n" not in reason(error)
        return Told(reason(error))
    assert seen.width * seen.height > 0
    assert (facts.width, facts.height) == (seen.width, seen.height)
    assert grey.shape == (16, 16)
    assert pixels.shape == (3, 12, 12)
    return pixels


@pytest.mark.parametrize("kind", PICTURES)
def test_a_changed_picture(tmp_path, kind):
    assert not isinstance(read_picture(PICTURES[kind]), Told)

    @fuzzed
    @given(content=changed(PICTURES[kind]))
    def check(content):
        with watched(tmp_path):
            read_picture(content)

    check()


def dicom(syntax=ExplicitVRLittleEndian, **elements):
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = ComputedRadiographyImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = "1.2.3"
    dataset.PatientName, dataset.PatientID = "Quagmire^Hildegard", "MRN-774411"
    dataset.Rows, dataset.Columns = 12, 16
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    dataset.WindowCenter, dataset.WindowWidth = [1000, 2000], [500, 900]
    dataset.RescaleSlope, dataset.RescaleIntercept = 2, -100
    dataset.add_new("PixelData", "OW", (np.arange(12 * 16, dtype=np.uint16) * 20).tobytes())
    for name, value in elements.items():
        setattr(dataset, name, value)
    content = io.BytesIO()
    dataset.save_as(content, enforce_file_format=True)
    return content.getvalue()


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian])
def test_a_changed_dicom_file_which_names_no_patient(tmp_path, syntax):
    valid = dicom(syntax)
    assert not isinstance(read_picture(valid), Told)

    @fuzzed
    @given(
        content=changed(valid, tokens=(b"\xff\xff\xff\xff", b"\0\0", b"SQ\0\0\xff\xff\xff\xff", b"1e999", b"\\", b"DS"))
    )
    def check(content):
        with watched(tmp_path):
            said = read_picture(content)
            told = told_by(lambda: patient_of(content))
        for text in (said, told):
            assert not (isinstance(text, Told) and ("Hildegard" in text or "774411" in text))

    check()


ELEMENTS = ("Rows", "Columns", "BitsStored", "BitsAllocated", "SamplesPerPixel", "NumberOfFrames", "WindowCenter")
ELEMENTS += ("WindowWidth", "RescaleSlope", "PixelRepresentation", "PhotometricInterpretation", "PatientID")


@fuzzed
@given(
    values=st.dictionaries(
        st.sampled_from(ELEMENTS),
        st.sampled_from((b"", b"\0\0", b"\xff\xff", b"1e999 ", b"nan ", b"-1", b"9" * 16, b"a\\b\\c ")),
    )
)
def test_a_dicom_file_with_nonsense_for_values(tmp_path, values):
    content = dicom()
    for name, value in values.items():
        content = with_element(content, name, value)
    with watched(tmp_path):
        read_picture(content)
        told_by(lambda: patient_of(content))


def with_element(content, name, value):
    """Set an element to bytes that pydicom would refuse to write."""
    from pydicom.datadict import dictionary_VR, tag_for_keyword

    tag, kind = tag_for_keyword(name), dictionary_VR(name).encode()
    element = struct.pack("<HH", tag >> 16, tag & 0xFFFF) + kind + struct.pack("<H", len(value)) + value
    key = element[:6]
    at = content.find(key, 132)
    if at < 0:
        at = content.find(struct.pack("<HH", 0x7FE0, 0x10), 132)
        return content[:at] + element + content[at:]
    length = struct.unpack("<H", content[at + 6 : at + 8])[0]
    return content[:at] + element + content[at + 8 + length :]


def test_a_deflated_dicom_file_is_not_inflated_without_end(tmp_path, monkeypatch):
    monkeypatch.setattr("alexnet_lab.data.dicom.MOST_INFLATED", 2**23)
    bomb = deflated(bytes(2**26))
    with watched(tmp_path, mebibytes=40):
        said = read_picture(bomb)
        told = told_by(lambda: patient_of(bomb))
    assert said == told == "inflated it has more than 8,388,608 bytes, and no more are read"


def test_a_dicom_file_of_elements_without_end_is_refused(tmp_path, monkeypatch):
    assert "without a picture" in read_picture(deflated(bytes(2**12)))
    monkeypatch.setattr("alexnet_lab.data.dicom.MOST_ELEMENTS", 100)
    with watched(tmp_path):
        said = read_picture(deflated(bytes(2**12)))
    assert said == "it has more than 100 elements, and no more are read"


def deflated(elements):
    """A deflated DICOM file with these bytes for its elements."""
    valid = dicom(DeflatedExplicitVRLittleEndian)
    meta = struct.unpack("<I", valid[140:144])[0]
    packer = zlib.compressobj(1, zlib.DEFLATED, -15)
    return valid[: 144 + meta] + packer.compress(elements) + packer.flush()


def zipped(names=("cat/a.png", "cat/b.png", "dog/c.png", "dog/d.png"), method=zipfile.ZIP_DEFLATED):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", method) as archive:
        for number, name in enumerate(names):
            archive.writestr(name, picture("PNG", np.roll(PIXELS, number, 0)))
    return content.getvalue()


@fuzzed
@given(content=changed(zipped()))
def test_a_changed_zip(tmp_path, content):
    path = tmp_path / "set.zip"
    path.write_bytes(content)
    with watched(tmp_path):
        told_by(lambda: list_archive(path), names=path)
        told_by(lambda: load_images(str(path)))  # an image that cannot be read is named by its own path


NAMES = st.one_of(
    st.sampled_from(
        (".", "/", "..", "../../evil.png", "/etc/passwd.png", "a/../../b.png", "cat/\x1b]0;x\x07.png", "cat/",
         "cat/\u202egnp.png", "C:\\x.png", "cat/.png", "cat//a.png", "./cat/a.png", "cat/a.png/b.png", "cat/\x01",
         "cat/" + "n" * 4000 + ".png")
    ),
    st.text(alphabet="ab/.\\\x1b\n\u202e", min_size=1, max_size=12).map(lambda text: text + ".png"),
)  # fmt: skip


@fuzzed
@given(names=st.lists(NAMES, min_size=1, max_size=5, unique=True))
def test_a_zip_with_hostile_names(tmp_path, names):
    path = tmp_path / "set.zip"
    path.write_bytes(zipped(["cat/a.png", "dog/b.png", *names]))
    with watched(tmp_path):
        told_by(lambda: load_images(str(path)))  # an image that cannot be read is named by its own path
    assert {item.name for item in tmp_path.iterdir()} <= {"set.zip", "cache"}


TABLE = 'path,label,split,group\r\na.png,cat,train,p1\r\nb.png,"dog, large",test,p2\r\n"a.png",c,val,"p""3"\r\n'
CELLS = (
    b'"',
    b'""',
    b",",
    b"\n",
    b"\r",
    b"\0",
    b"\xef\xbb\xbf",
    b"\xff",
    b"=cmd|' /C calc'!A0",
    b"\x1b[2J",
    b"x" * 140_000,
)
CELLS += (
    "ä".encode(),
    "ä".encode("latin-1"),
    "a".encode("utf-16"),
    b"../../../etc/passwd",
    b"/dev/zero",
    b"path,label\n",
)


@fuzzed
@given(content=changed(TABLE.encode(), tokens=CELLS))
def test_a_changed_table(tmp_path, content):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(PICTURES["PNG"])
    path = tmp_path / "table.csv"
    path.write_bytes(content)
    with watched(tmp_path):
        table = told_by(lambda: read_table(path, every=True), names=path)
        told_by(lambda: list_table(path), names=path)
    if not isinstance(table, Told):
        assert all(row.keys() == set(table.columns) for row in table.rows)
        assert all(len(values) == len(table.rows) for values in table.others.values())


def test_a_changed_parquet_table(tmp_path):
    import pandas as pd

    path = tmp_path / "table.parquet"
    pd.DataFrame({"path": ["a.png", "b.png"], "label": ["x", "y"], "age": [3, 4]}).to_parquet(path)
    valid = path.read_bytes()
    assert not isinstance(told_by(lambda: read_table(path, every=True)), Told)

    @fuzzed
    @given(content=changed(valid))
    def check(content):
        path.write_bytes(content)
        with watched(tmp_path):
            told_by(lambda: read_table(path, every=True), names=path)

    check()


def cifar():
    batch = pickle.dumps({"data": np.zeros((4, 3072), np.uint8), "labels": [0, 1, 0, 1]}, 2)
    files = {**{f"data_batch_{n}": batch for n in range(1, 6)}, "test_batch": batch}
    files["batches.meta"] = pickle.dumps({"label_names": ["a", "b"]}, 2)
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(f"cifar/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return content.getvalue()


@fuzzed
@given(content=changed(cifar()), is_inside=st.booleans())
def test_a_changed_cifar_archive(tmp_path, content, is_inside):
    path = tmp_path / "cifar.tar.gz"
    packed = gzip.compress(content, 1)
    path.write_bytes(packed if is_inside else packed[: len(content) % len(packed)])
    with watched(tmp_path):
        told_by(lambda: load_images(f"cifar10:{path}"), names=path)


BATCH = pickle.dumps({"data": np.zeros((2, 6), np.uint8), "labels": [0, 1], "b": b"x", "t": (1, 2.5, None, True)}, 2)


@fuzzed
@given(
    content=changed(
        BATCH, tokens=(b"cos\nsystem\n", b"\x85R", b"b", b"}", b"(", b"0", b"h\x07", b"K\xff", b"\x8c\x02os\x93")
    )
)
def test_a_changed_pickle_of_plain_data(tmp_path, content):
    with watched(tmp_path):
        told_by(lambda: read_plain_pickle(content))


def medical():
    content = io.BytesIO()
    arrays = {}
    for part in ("train", "val", "test"):
        arrays[f"{part}_images"] = RNG.integers(0, 256, (4, 12, 12)).astype(np.uint8)
        arrays[f"{part}_labels"] = np.array([[0], [1], [0], [1]], np.uint8)
    np.savez(content, **arrays)
    return content.getvalue()


@fuzzed
@given(content=changed(medical()))
def test_a_changed_medmnist_file(tmp_path, content):
    path = tmp_path / "own.npz"
    path.write_bytes(content)
    with watched(tmp_path):
        told_by(lambda: load_images(f"medmnist:{path}"), names=path)


def test_changed_files_of_fashion_mnist(tmp_path):
    folder = tmp_path / "fashion"
    folder.mkdir()
    files = {}
    for part in ("train", "t10k"):
        files[f"{part}-images-idx3-ubyte.gz"] = struct.pack(">HBBIII", 0, 8, 3, 10, 28, 28) + bytes(7840)
        files[f"{part}-labels-idx1-ubyte.gz"] = struct.pack(">HBBI", 0, 8, 1, 10) + bytes(range(10))
    for name, content in files.items():
        (folder / name).write_bytes(gzip.compress(content))
    assert len(load_images(f"fashion-mnist:{folder}").labels) == 20

    @fuzzed
    @given(name=st.sampled_from(sorted(files)), data=st.data())
    def check(name, data):
        content = data.draw(changed(files[name][:300]))
        (folder / name).write_bytes(gzip.compress(content))
        with watched(tmp_path):
            told_by(lambda: load_images(f"fashion-mnist:{folder}"), names=folder)
        (folder / name).write_bytes(gzip.compress(files[name]))

    check()
