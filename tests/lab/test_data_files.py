"""Image files: whatever folder, archive or table they come in, and whatever they are."""

import zipfile

import numpy as np
import pytest
from pictures import RNG, coloured, make_folder, write, zip_of
from PIL import Image

from alexnet_lab.data.decoding import FITS, bits_for
from alexnet_lab.data.feed import open_feed
from alexnet_lab.data.sources import load_images

pytestmark = pytest.mark.usefixtures("own_cache")


def test_a_folder_of_class_folders_is_read_as_it_is(tmp_path):
    root = make_folder(tmp_path / "pets")
    images = load_images(str(root))
    assert images.classes == ("cat", "dog")
    assert images.labels.tolist() == [0] * 4 + [1] * 4
    assert images.pixels.shape == (8, 3, 16, 16)
    assert images.parts is None
    for row, path in enumerate(sorted(root.rglob("*.png"))):
        assert np.array_equal(images.pixels[row].transpose(1, 2, 0), np.asarray(Image.open(path)))


@pytest.mark.parametrize(
    ("train", "validation", "test"),
    [("train", "val", "test"), ("Train", "valid", "Testing"), ("TRAINING", "dev", "TEST")],
)
def test_parts_are_known_by_their_usual_names(tmp_path, train, validation, test):
    images = load_images(str(make_folder(tmp_path / "pets", (train, validation, test), each=2)))
    assert images.classes == ("cat", "dog")
    counts = {str(name): int((images.parts == name).sum()) for name in np.unique(images.parts)}
    assert counts == {"train": 4, "validation": 4, "test": 4}


def test_a_zip_reads_as_the_folder_it_holds_in_place_and_under_the_same_fingerprint(tmp_path, own_cache):
    root = make_folder(tmp_path / "pets", ("train", "test"))
    folder, archive = load_images(str(root)), load_images(str(zip_of(root, tmp_path / "pets.zip")))
    assert np.array_equal(folder.pixels, archive.pixels)
    assert np.array_equal(folder.parts, archive.parts)
    assert folder.fingerprint == archive.fingerprint
    written = {path.name for path in own_cache.rglob("*") if path.is_file() and path.suffix != ".lock"}
    assert written == {
        "pixels.npy",
        "labels.npy",
        "names.npy",
        "contents.npy",
        "near_copies.npy",
        "sizes.npy",
        "coloured.npy",
        "parts.npy",
        "about.json",
    }


def test_wrapping_folders_hidden_files_and_leftovers_of_a_mac_are_seen_through(tmp_path):
    root = make_folder(tmp_path / "pets")
    (root / ".DS_Store").write_bytes(b"x")
    (root / "cat" / "Thumbs.db").write_bytes(b"x")
    (root / "dog" / "notes.txt").write_text("bites")
    path = zip_of(root, tmp_path / "pets.zip", below="download/pets/")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("__MACOSX/download/._pets.png", b"x")
    images = load_images(str(path))
    assert images.classes == ("cat", "dog")
    assert "1 files that are no images were left out (.txt 1)" in images.notes


def test_an_archive_whose_names_lead_elsewhere_writes_nothing_there(tmp_path):
    root = make_folder(tmp_path / "deep" / "pets")
    path = zip_of(root, tmp_path / "deep" / "pets.zip", below="../../escaped/")
    before = {p for p in tmp_path.rglob("*") if "cache" not in p.parts}
    assert load_images(str(path)).classes == ("cat", "dog")
    assert {p for p in tmp_path.rglob("*") if "cache" not in p.parts} == before


def test_classes_that_are_numbers_stand_in_their_order(tmp_path):
    assert load_images(str(make_folder(tmp_path / "n", classes=("10", "9", "2"), each=1))).classes == ("2", "9", "10")


def test_a_table_names_paths_labels_parts_and_groups(tmp_path):
    make_folder(tmp_path / "scans", classes=("a", "b"), each=2)
    table = tmp_path / "scans.csv"
    table.write_text(
        "path,label,split,group\nscans/a/0.png,sick,train,p1\nscans/a/1.png,well,Val,p2\n"
        "scans/b/0.png,sick,test,p3\nscans/b/1.png,well,train,p1\n"
    )
    images = load_images(str(table))
    assert images.classes == ("sick", "well")
    assert images.labels.tolist() == [0, 1, 0, 1]
    assert images.parts.tolist() == ["train", "validation", "test", "train"]
    assert images.groups[0] == images.groups[3]
    assert len(set(images.groups)) == 3
    assert images.grouping.tolist() == [0, 1, 2, 0]
    assert images.names.tolist() == ["scans/a/0.png", "scans/a/1.png", "scans/b/0.png", "scans/b/1.png"]
    assert images.groups.tolist() == load_images(str(table)).groups.tolist()  # from the cache


def alone(tmp_path, name, array, **options):
    """Return the pixels of one image file, read as part of a set of its like."""
    write(tmp_path / "set" / "a" / name, array, **options)
    write(tmp_path / "set" / "b" / name, array, **options)
    images = load_images(str(tmp_path / "set"))
    assert np.array_equal(images.pixels[0], images.pixels[1])
    return images.pixels[0], images.notes


def test_grey_images_have_one_channel(tmp_path):
    grey = coloured()[..., 0]
    pixels, notes = alone(tmp_path, "x.png", grey)
    assert np.array_equal(pixels, grey[None])
    assert "all 2 images are grey: one channel" in notes


def test_grey_images_stored_in_colour_have_one_channel_too(tmp_path):
    grey = coloured()[..., 0]
    pixels, _ = alone(tmp_path, "x.png", np.repeat(grey[..., None], 3, 2))
    assert np.array_equal(pixels, grey[None])


def test_one_coloured_image_makes_three_channels(tmp_path):
    grey = coloured()[..., 0]
    write(tmp_path / "set" / "a" / "x.png", grey)
    write(tmp_path / "set" / "b" / "x.png", coloured())
    images = load_images(str(tmp_path / "set"))
    assert np.array_equal(images.pixels[0], np.repeat(grey[None], 3, 0))
    assert images.coloured.tolist() == [False, True]
    assert load_images(str(tmp_path / "set")).coloured.tolist() == [False, True]  # from the cache


def test_nothing_is_said_of_a_tint_that_grey_removes(tmp_path):
    noise = np.random.default_rng(0)
    for number in range(20):
        shade = noise.integers(0, 256, (16, 16, 1)).astype(np.uint8)
        write(
            tmp_path / "set" / "ab"[number % 2] / f"{number}.png",
            np.repeat(shade, 3, 2) // np.array([1, 1, 1 + number % 2], np.uint8),
        )
    seen = open_feed(str(tmp_path / "set"), image_size=16)
    assert (
        "10 of 20 images are coloured (b 10), the others grey: three channels. If the tint depends on the class, a "
        "network learns the tint; channels=grey removes it"
    ) in seen.notes
    in_grey = open_feed(str(tmp_path / "set"), image_size=16, channels="grey")
    assert "10 of 20 images are coloured (b 10), the others grey: brightness alone is used" in in_grey.notes
    assert not any("tint" in note for note in in_grey.notes)


@pytest.mark.parametrize(("bits", "suffix"), [(16, "png"), (12, "png"), (10, "tif"), (16, "tif")])
def test_deep_images_keep_the_upper_8_of_the_bits_that_they_use(tmp_path, bits, suffix):
    deep = RNG.integers(0, 2**bits, (16, 16)).astype(np.uint16)
    deep[0, 0] = 2**bits - 1
    pixels, notes = alone(tmp_path, f"x.{suffix}", deep)
    assert np.array_equal(pixels[0], (deep >> (bits - 8)).astype(np.uint8))
    assert any(f"have more than 8 bits: the brightest needs {bits}" in note for note in notes)


def test_bits_are_counted_as_scanners_have_them():
    assert [bits_for(brightest) for brightest in (0, 255, 256, 1023, 1024, 4095, 4096, 16384, 65535)] == [
        *(8, 8, 10, 10, 12, 12, 14, 16, 16)
    ]


def test_the_bits_in_use_are_those_of_the_whole_set(tmp_path):
    dim, bright = np.full((8, 8), 1000, np.uint16), np.full((8, 8), 4000, np.uint16)
    write(tmp_path / "set" / "a" / "x.png", dim)
    write(tmp_path / "set" / "b" / "x.png", bright)
    assert load_images(str(tmp_path / "set")).pixels[:, 0, 0, 0].tolist() == [1000 >> 4, 4000 >> 4]


def test_a_palette_is_looked_up(tmp_path):
    few = Image.fromarray(coloured()).quantize(8)
    (tmp_path / "set" / "a").mkdir(parents=True)
    (tmp_path / "set" / "b").mkdir()
    few.save(tmp_path / "set" / "a" / "x.gif")
    few.save(tmp_path / "set" / "b" / "x.png")
    pixels = load_images(str(tmp_path / "set")).pixels
    for index in (0, 1):
        assert np.array_equal(pixels[index].transpose(1, 2, 0), np.asarray(few.convert("RGB")))


def test_what_is_transparent_turns_black(tmp_path):
    image = np.concatenate([coloured(), np.full((16, 16, 1), 255, np.uint8)], 2)
    image[:8, :, 3] = 0
    pixels, _ = alone(tmp_path, "x.png", image)
    assert (pixels[:, :8] == 0).all()
    assert np.array_equal(pixels[:, 8:], image[8:, :, :3].transpose(2, 0, 1))


def test_a_photograph_is_turned_as_its_camera_was(tmp_path):
    sideways = coloured(16, 24)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter clockwise to see it upright
    pixels, notes = alone(tmp_path, "x.png", sideways, exif=exif)
    upright = np.rot90(sideways, -1)
    assert np.array_equal(pixels, upright[4:20].transpose(2, 0, 1))  # the square in the middle of 24 x 16
    assert any("2 images are far from square" in note for note in notes)


@pytest.mark.parametrize("fit", FITS)
def test_images_are_made_square_as_asked(tmp_path, fit):
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, :10], wide[:, 10:20], wide[:, 20:] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    write(tmp_path / "set" / "a" / "x.png", wide)
    write(tmp_path / "set" / "b" / "x.png", wide)
    pixels = load_images(str(tmp_path / "set"), 30, fit).pixels[0]
    side = {"crop": 10, "stretch": 30, "pad": 30}[fit]
    assert pixels.shape == (3, side, side)
    row, blank = pixels[:, side // 2].argmax(0), pixels[:, 2].max()
    assert row.tolist() == ([1] * 10 if fit == "crop" else [0] * 10 + [1] * 10 + [2] * 10)
    assert blank == (0 if fit == "pad" else 255)


def test_no_more_pixels_are_stored_than_images_have_or_anyone_asked_for(tmp_path):
    root = make_folder(tmp_path / "pets", side=20)
    assert load_images(str(root), 227).pixels.shape[2:] == (20, 20)
    assert load_images(str(root), 9).pixels.shape[2:] == (9, 9)
    small = Image.fromarray(np.asarray(Image.open(root / "cat" / "0.png"))).resize((9, 9), Image.Resampling.BILINEAR)
    assert np.array_equal(load_images(str(root), 9).pixels[0].transpose(1, 2, 0), np.asarray(small))


def test_images_of_mixed_sizes_come_to_one(tmp_path):
    write(tmp_path / "set" / "a" / "x.png", coloured(12))
    write(tmp_path / "set" / "b" / "x.png", coloured(30, 40))
    images = load_images(str(tmp_path / "set"), 227)
    assert images.pixels.shape == (2, 3, 30, 30)
    assert "1 images have fewer than the 30 pixels a side that are stored: enlarged" in images.notes
