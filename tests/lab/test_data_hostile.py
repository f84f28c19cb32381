"""Files that are no images, endless, enormous or of another format are refused in bounded time and memory.

Each limit is tried with files that are small on the disk: sparse, compressed, or with a header that states too much.
"""

import contextlib
import io
import os
import shutil
import socket
import struct
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
import zlib

import numpy as np
import pytest
from pictures import coloured, make_folder, zip_of
from PIL import Image

from alexnet_lab.data import decoding, listings, tables
from alexnet_lab.data.decoding import FORMATS, MOST_BYTES, MOST_PIXELS, decode
from alexnet_lab.data.listings import list_folder
from alexnet_lab.data.reading import Budget, Limited, read_regular
from alexnet_lab.data.sources import load_images

pytestmark = pytest.mark.usefixtures("own_cache")


def problems(data):
    with pytest.raises(ValueError) as refusal:
        load_images(str(data))
    return str(refusal.value)


@pytest.mark.parametrize("kind", ["EPS", "PDF", "ICO", "TGA", "DDS", "JPEG2000", "PCX"])
def test_a_format_that_is_not_meant_is_refused_whatever_the_file_is_called(tmp_path, monkeypatch, kind):
    def started(*_arguments, **_options):
        pytest.fail("a program was started for an image")

    monkeypatch.setattr(subprocess, "Popen", started)
    root = make_folder(tmp_path / "set")
    content = io.BytesIO()
    Image.fromarray(coloured(32)).save(content, kind)
    (root / "cat" / "x.png").write_bytes(content.getvalue())
    listed = "PNG, JPEG, BMP, TIFF, GIF, WEBP, PPM"
    assert f"\n  cat/x.png: it is no image, or not in one of these formats: {listed}" in problems(root)
    assert "BytesIO" not in problems(root)


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_that_is_meant_is_read(kind):
    content = io.BytesIO()
    Image.fromarray(np.full((20, 20, 3), 90, np.uint8)).save(content, kind)
    assert decode(content.getvalue(), 20, "crop", grey=False, deep_bits=8).mean() == pytest.approx(90, abs=2)


def png_that_states(width, height):
    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("width", "height"), [(8945, 8945), (13_300, 13_300), (60_000, 60_000), (2**31 - 1, 1)])
def test_an_image_with_too_many_pixels_is_refused_by_its_header(tmp_path, width, height):
    assert width * height > MOST_PIXELS
    root = make_folder(tmp_path / "set")
    (root / "cat" / "x.png").write_bytes(png_that_states(width, height))
    assert f"\n  cat/x.png: it has {'more than' if width * height > 1.79e8 else width}" in problems(root)
    assert "save it smaller" in problems(root)


def test_what_is_decoded_at_once_is_bounded(monkeypatch):
    content = io.BytesIO()
    Image.fromarray(coloured(60)).save(content, "PNG")
    budget = Budget(2 * 60 * 60)
    seen = []
    monkeypatch.setattr(decoding, "IN_PROGRESS", budget)
    original = decoding.fit_into

    def watched(*arguments):
        seen.append(budget._held)
        time.sleep(0.02)
        return original(*arguments)

    monkeypatch.setattr(decoding, "fit_into", watched)
    threads = [threading.Thread(target=decode, args=(content.getvalue(), 8, "crop", False, 8)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(seen) == 2 * 60 * 60
    assert budget._held == 0


def test_a_budget_admits_what_is_larger_than_itself_alone():
    budget = Budget(10)
    with budget.hold(100):
        assert budget._held == 100
    with budget.hold(4), budget.hold(6):
        assert budget._held == 10


def test_pipes_sockets_devices_folders_and_links_that_lead_nowhere_are_unreadable_images(tmp_path):
    root = make_folder(tmp_path / "set")
    os.mkfifo(root / "cat" / "pipe.png")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(root / "cat" / "socket.png"))
        (root / "cat" / "device.png").symlink_to("/dev/zero")
        (root / "cat" / "self.png").symlink_to("self.png")
        (root / "cat" / "linked.png").symlink_to(root / "dog" / "0.png")
        said = problems(root)
    assert said.startswith("4 of 13 images cannot be read")
    assert "cat/pipe.png: it is a pipe; only regular files are read" in said
    assert "cat/socket.png: it is a socket; only" in said
    assert "cat/device.png: it is a device; only" in said
    assert "cat/self.png: " in said


@pytest.mark.parametrize("name", ["x.csv", "x.zip", "x.parquet"])
def test_a_pipe_as_data_is_refused_at_once(tmp_path, name):
    os.mkfifo(tmp_path / name)
    assert problems(tmp_path / name).endswith("is a pipe; only regular files are read")


@pytest.mark.parametrize("data", ["/dev/zero", "cifar10:/dev/zero", "cifar100:/dev/zero"])
def test_a_device_as_data_is_refused_at_once(data):
    assert problems(data) == "/dev/zero is a device; only regular files are read"


def sparse(path, size):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.truncate(size)
    return path


def test_a_sparse_file_of_200_gb_is_refused_by_its_size(tmp_path):
    root = make_folder(tmp_path / "set")
    sparse(root / "cat" / "x.png", 2 * 10**11)
    assert "cat/x.png: it has 200,000,000,000 bytes; at most 268,435,456 are read" in problems(root)
    assert "has 200,000,000,000 bytes; at most" in problems(sparse(tmp_path / "x.csv", 2 * 10**11))
    assert "has 200,000,000,000 bytes; at most" in problems(f"cifar10:{sparse(tmp_path / 'x.tar.gz', 2 * 10**11)}")
    assert "has 200,000,000,000 bytes; at most" in problems(f"medmnist:{sparse(tmp_path / 'x.npz', 2 * 10**11)}")


def test_a_file_that_grows_while_it_is_read_is_refused(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(bytes(2000))
    assert read_regular(path, 2000) == bytes(2000)
    with pytest.raises(ValueError, match="it has 2,000 bytes; at most 1,999 are read"):
        read_regular(path, 1999)
    with pytest.raises(ValueError, match="inflated it has more than 100 bytes"):
        Limited(io.BytesIO(bytes(101)), 100).read()
    assert Limited(io.BytesIO(bytes(100)), 100).read() == bytes(100)


MEMORY_OF = """
import resource, sys
from alexnet_lab.data.sources import load_images
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    load_images(sys.argv[1])
except ValueError as error:
    print(error)
print("grown by", (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def said_and_grown(data):
    done = subprocess.run(
        [sys.executable, "-c", MEMORY_OF, str(data)], capture_output=True, text=True, check=True, timeout=300
    )
    said, grown = done.stdout.rsplit("grown by", 1)
    return said, int(grown)


def test_zeros_in_a_zip_are_not_inflated(tmp_path):
    path = zip_of(make_folder(tmp_path / "set"), tmp_path / "set.zip")
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive, archive.open("cat/x.png", "w") as file:
        for _ in range(300):
            file.write(bytes(2**20))
    said, grown = said_and_grown(path)
    assert "cat/x.png: it has 314,572,800 bytes; at most 268,435,456 are read" in said
    assert grown < 100


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_compression_that_cannot_be_inflated_in_pieces_is_refused(tmp_path, compression):
    path = zip_of(make_folder(tmp_path / "set"), tmp_path / "set.zip")
    with zipfile.ZipFile(path, "a", compression) as archive:
        archive.writestr("cat/x.png", bytes(2**20))
    assert problems(path).endswith("cat/x.png is compressed by another method than deflate; pack it again with that")


def test_a_zip_that_states_a_small_size_for_much_content_is_not_inflated_either(tmp_path):
    path = zip_of(make_folder(tmp_path / "set"), tmp_path / "set.zip")
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive, archive.open("cat/x.png", "w") as file:
        for _ in range(300):
            file.write(bytes(2**20))
    content = bytearray(path.read_bytes())
    true = struct.pack("<I", 300 * 2**20)
    assert content.count(true) >= 1
    path.write_bytes(content.replace(true, struct.pack("<I", 1000)))
    said, grown = said_and_grown(path)
    assert "cat/x.png: Bad CRC-32 for file 'cat/x.png'" in said
    assert grown < 100


def test_palette_images_of_many_pixels_are_refused_in_little_memory(tmp_path):
    root = make_folder(tmp_path / "set", each=1)
    large = Image.new("P", (13_300, 13_300))
    large.putpalette(list(range(256)) * 3)
    large.save(root / "cat" / "x0.png")
    for number in range(1, 8):
        shutil.copy(root / "cat" / "x0.png", root / "cat" / f"x{number}.png")
    said, grown = said_and_grown(root)
    assert "8 of 10 images cannot be read" in said
    assert grown < 100


def test_links_to_a_folder_above_are_refused_and_links_to_other_folders_are_followed(tmp_path):
    root = make_folder(tmp_path / "set")
    (root / "cow").symlink_to(root / "dog")
    assert list_folder(root).classes == ("cat", "cow", "dog")
    for name in ("cat", "dog"):
        (root / name / "again").symlink_to(root)
    assert "links lead to the folder" in problems(root)
    assert "again and again, the last time by" in problems(root)


def test_a_folder_that_cannot_be_listed_is_not_left_out(tmp_path, monkeypatch):
    root = make_folder(tmp_path / "set")
    original = os.scandir

    def scandir(path):
        if str(path).endswith("dog"):
            raise PermissionError(13, "Permission denied", str(path))
        return original(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(PermissionError, match="dog"):
        load_images(str(root))


def rows_of(root):
    return "path,label\n" + "".join(f"{path},{path.parent.name}\n" for path in sorted(root.rglob("*.png")))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda text: text.encode("utf-16"), "is not UTF-8 (byte 0xff); save it as UTF-8, in a spreadsheet as `CSV"),
        (lambda text: text.replace(",dog", ",ch\u00e4t").encode("latin-1"), "is not UTF-8 (byte 0xe4); save it"),
        (lambda text: (text + "x" * 200_000 + ",dog\n").encode(), "after line 9 (field larger than field limit"),
        (lambda text: (text + '"' + "x,y\n" * 100_000).encode(), "is a quotation mark left open?"),
        (lambda text: (text + "a\0b.png,dog\n").encode(), "has a NUL character in line 10; is it a CSV?"),
        (lambda text: (text + "y" * 5000 + ",dog\n").encode(), "line 10: no file at"),
        (lambda _: bytes(300_000), "after line 1 (field larger than field limit"),
    ],
)  # fmt: skip
def test_a_table_that_is_no_utf_8_csv_is_named_with_what_to_do(tmp_path, content, message):
    root = make_folder(tmp_path / "set")
    (tmp_path / "x.csv").write_bytes(content(rows_of(root)))
    said = problems(tmp_path / "x.csv")
    assert said.startswith(str(tmp_path / "x.csv"))
    assert message in said
    assert len(said) < 700


def test_a_table_with_too_many_rows_is_refused(tmp_path, monkeypatch):
    root = make_folder(tmp_path / "set")
    (tmp_path / "x.csv").write_text(rows_of(root))
    monkeypatch.setattr(tables, "MOST_ROWS", 8)
    assert len(load_images(str(tmp_path / "x.csv")).labels) == 8
    monkeypatch.setattr(tables, "MOST_ROWS", 7)
    assert "has more than 7 rows" in problems(tmp_path / "x.csv")


def test_lists_of_bad_files_are_cut_short_and_counted(tmp_path):
    root = make_folder(tmp_path / "set")
    for number in range(500):
        (root / "cat" / f"bad{number}.png").write_bytes(b"x")
    lines = problems(root).splitlines()
    assert lines[0].startswith("500 of 508 images cannot be read")
    assert lines[-1] == "  ... and 480 more"
    assert len(lines) == 22
    (tmp_path / "x.csv").write_text("path,label\n" + "".join(f"gone{number}.png,a\n" for number in range(500)))
    lines = problems(tmp_path / "x.csv").splitlines()
    assert lines[0].endswith("has 500 lines that cannot be used:")
    assert lines[-1] == "  ... and 480 more"


@pytest.mark.parametrize("name", ["/", ".", "./", "//"])
def test_a_member_of_a_zip_without_a_name_is_clutter(tmp_path, name):
    path = zip_of(make_folder(tmp_path / "set"), tmp_path / "set.zip")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(zipfile.ZipInfo(name), b"")
    assert len(load_images(str(path)).labels) == 8


def test_an_archive_that_points_before_its_own_beginning_is_named(tmp_path):
    arrays = {
        f"{part}_{kind}": np.zeros((5, 28, 28) if kind == "images" else (5, 1), np.uint8)
        for part in ("train", "val", "test")
        for kind in ("images", "labels")
    }
    np.savez(tmp_path / "own.npz", **arrays)
    content = bytearray((tmp_path / "own.npz").read_bytes())
    at = content.rfind(b"PK\x05\x06") + 16  # where the directory is said to begin
    struct.pack_into("<I", content, at, struct.unpack_from("<I", content, at)[0] + 1000)
    (tmp_path / "own.npz").write_bytes(content)
    assert f"{tmp_path / 'own.npz'} cannot be read as medmnist own: " in problems(f"medmnist:{tmp_path / 'own.npz'}")


def test_what_decoders_warn_of_stays_in_the_program(tmp_path, recwarn):
    content = io.BytesIO()
    Image.fromarray(coloured(20)).save(content, "TIFF")
    for length in range(len(content.getvalue()) - 60, len(content.getvalue()), 3):  # cut within its list of tags
        with decoding.quiet_decoders(), contextlib.suppress(*decoding.UNREADABLE):
            decode(content.getvalue()[:length], 8, "crop", grey=False, deep_bits=8)
    assert not recwarn.list


def test_an_encrypted_zip_is_named(tmp_path):
    path = zip_of(make_folder(tmp_path / "set"), tmp_path / "set.zip")
    content = bytearray(path.read_bytes())
    at = content.rfind(b"PK\x01\x02")
    content[at + 8] |= 1
    path.write_bytes(content)
    assert "set.zip cannot be read: dog/3.png is encrypted; decrypt it first" in problems(path)


def test_an_archive_that_inflates_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("alexnet_lab.data.archives.MOST_INFLATED", 10**7)
    names = ["data_batch_1"] * 30
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        for name in names:
            entry = tarfile.TarInfo(name)
            entry.size = 10**6
            archive.addfile(entry, io.BytesIO(bytes(10**6)))
    (tmp_path / "x.tar.gz").write_bytes(content.getvalue())
    assert "cannot be read as cifar10: inflated it has more than 10,000,000 bytes" in problems(
        f"cifar10:{tmp_path / 'x.tar.gz'}"
    )


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("train_images", np.zeros((5, 28), np.uint8), "train_images must be bytes, N x H x W or N x H x W x 3"),
        ("train_images", np.zeros((5, 28, 28), np.float64), "it has float64, (5, 28, 28)"),
        ("train_images", np.zeros((5, 28, 28, 4), np.uint8), "it has uint8, (5, 28, 28, 4)"),
        ("train_images", np.zeros((5, 0, 28), np.uint8), "none of them 0"),
        ("train_images", np.array(3, np.uint8), "or without axes are not read"),
        ("test_images", np.zeros((5, 14, 14), np.uint8), "different shapes, (5, 28, 28) and (5, 14, 14)"),
        ("val_labels", np.zeros((5, 1), np.float32), "val_labels must be whole numbers, 5 x 1"),
        ("val_labels", np.zeros(5, np.uint8), "val_labels must be whole numbers, 5 x 1"),
    ],
)
def test_a_wrongly_shaped_npz_is_refused_by_its_headers(tmp_path, name, array, message):
    arrays = {
        f"{part}_{kind}": np.zeros((5, 28, 28) if kind == "images" else (5, 1), np.uint8)
        for part in ("train", "val", "test")
        for kind in ("images", "labels")
    }
    np.savez(tmp_path / "own.npz", **{**arrays, name: array})
    assert message in problems(f"medmnist:{tmp_path / 'own.npz'}")


def test_limits_leave_room_for_what_people_have():
    assert MOST_PIXELS > 8000 * 9000
    assert MOST_BYTES > 3 * MOST_PIXELS
    assert listings.IN_MEMORY.limit == MOST_BYTES
