"""Image files: whatever folder, archive or table they come in, whatever they are, and whatever is wrong with them."""

import io
import random
import zipfile

import numpy as np
import pytest
from PIL import Image

from alexnet_lab.data.decoding import FITS, bits_for
from alexnet_lab.data.sources import check_source, load_images

LUCK = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ALEXNET_LAB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def coloured(side=16, width=None):
    return LUCK.integers(0, 256, (side, width or side, 3)).astype(np.uint8)


def write(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)
    return path


def make_folder(root, parts=("",), classes=("cat", "dog"), each=4, side=16):
    for part in parts:
        for name in classes:
            for number in range(each):
                write(root / part / name / f"{number}.png", coloured(side))
    return root


def zip_of(folder, path, below=""):
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, below + file.relative_to(folder).as_posix())
    return path


# --- where they stand -------------------------------------------------------------------------------------------------


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
    assert written == {"pixels.npy", "labels.npy", "names.npy", "parts.npy", "about.json"}


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
    assert "1 files that are no images were left aside (.txt 1)" in images.notes


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
    assert images.groups.tolist() == ["p1", "p2", "p3", "p1"]
    assert images.names.tolist() == ["scans/a/0.png", "scans/a/1.png", "scans/b/0.png", "scans/b/1.png"]
    assert images.groups.tolist() == load_images(str(table)).groups.tolist()  # from the cache


# --- what they are ----------------------------------------------------------------------------------------------------


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
    assert images.notes[-1].startswith(
        "1 of 2 images are coloured (b 1), the others grey: three channels. Where the tint"
    )


@pytest.mark.parametrize(("bits", "suffix"), [(16, "png"), (12, "png"), (10, "tif"), (16, "tif")])
def test_deep_images_keep_the_upper_8_of_the_bits_that_they_use(tmp_path, bits, suffix):
    deep = LUCK.integers(0, 2**bits, (16, 16)).astype(np.uint16)
    deep[0, 0] = 2**bits - 1
    pixels, notes = alone(tmp_path, f"x.{suffix}", deep)
    assert np.array_equal(pixels[0], (deep >> (bits - 8)).astype(np.uint8))
    assert any(f"deeper than 8 bits: {bits} hold the brightest" in note for note in notes)


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


# --- what is wrong with them ------------------------------------------------------------------------------------------


def with_damage(root):
    make_folder(root)
    photograph = write(root / "cat" / "5.jpg", coloured(64))
    photograph.write_bytes(photograph.read_bytes()[:400])
    cut = (root / "dog" / "0.png").read_bytes()
    (root / "dog" / "0.png").write_bytes(cut[: len(cut) // 2])
    (root / "dog" / "7.png").write_bytes(b"not an image at all")
    (root / "dog" / "8.png").write_bytes(b"")
    return root


@pytest.mark.parametrize("packed", [False, True])
def test_unreadable_images_are_listed_all_at_once_or_left_out(tmp_path, packed):
    root = with_damage(tmp_path / "pets")
    data = str(zip_of(root, tmp_path / "pets.zip") if packed else root)
    with pytest.raises(ValueError, match="4 of 11 images cannot be read; mend or remove them.*--skip-bad") as refusal:
        load_images(data)
    for name in ("cat/5.jpg", "dog/0.png", "dog/7.png", "dog/8.png"):
        assert f"\n  {name}: " in str(refusal.value)
    images = load_images(data, skip_bad=True)
    assert sorted(images.unreadable) == [4, 5, 9, 10]
    assert not images.notes  # the others are all coloured
    assert (images.pixels[[4, 5, 9, 10]] == 0).all()


def test_a_damaged_archive_member_is_an_unreadable_image(tmp_path):
    path = zip_of(make_folder(tmp_path / "pets"), tmp_path / "pets.zip")
    content = bytearray(path.read_bytes())
    at = content.find((tmp_path / "pets" / "dog" / "2.png").read_bytes())
    content[at + 60] ^= 255
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"1 of 8 images cannot be read.*\n  dog/2.png: Bad CRC-32"):
        load_images(str(path))


def test_a_set_of_unreadable_images_alone_is_refused(tmp_path):
    for name in ("a", "b"):
        (tmp_path / "set" / name).mkdir(parents=True)
        (tmp_path / "set" / name / "x.png").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="nothing is left to go on with"):
        load_images(str(tmp_path / "set"), skip_bad=True)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # Pillow remarks on damage that it can live with
def test_a_corrupt_image_of_any_kind_never_ends_in_anything_but_the_list(tmp_path):
    luck = random.Random(0)  # noqa: S311  # damage, not secrets
    whole = {}
    for suffix in ("png", "jpg", "gif", "bmp", "tif", "webp"):
        content = io.BytesIO()
        Image.fromarray(coloured(24)).save(content, {"jpg": "jpeg", "tif": "tiff"}.get(suffix, suffix))
        whole[suffix] = content.getvalue()
    for number in range(60):
        suffix = luck.choice(sorted(whole))
        damaged = bytearray(whole[suffix])
        for _ in range(luck.randint(1, 20)):
            damaged[luck.randrange(len(damaged))] = luck.randrange(256)
        path = tmp_path / "set" / "ab"[number % 2] / f"{number}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(damaged[: luck.choice([None, len(damaged) // 2])])
    with pytest.raises(ValueError, match="of 60 images cannot be read"):
        load_images(str(tmp_path / "set"), 24)


def empty_class(root):
    (make_folder(root) / "cow").mkdir()
    return root


def no_images(root):
    root.mkdir()
    (root / "readme.txt").write_text("soon")
    return root


def loose(root):
    write(make_folder(root) / "loose.png", coloured())
    return root


def cut_short(root):
    path = zip_of(make_folder(root), root.with_suffix(".zip"))
    path.write_bytes(path.read_bytes()[:-200])
    return path


def untrained(root):
    make_folder(root, ("train", "test"))
    write(root / "test" / "cow" / "0.png", coloured())
    return root


def strange_part(root):
    make_folder(root, ("train", "test"))
    write(root / "predict" / "any" / "0.png", coloured())
    return root


def unlabelled_test(root):
    make_folder(root, ("train",))
    write(root / "test" / "0.png", coloured())
    return root


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda root: root / "absent",
            "no data at .*absent; it must be a folder, a .zip, a .csv or a .parquet, or one",
        ),
        (empty_class, "these class folders hold no images: cow; fill or remove them"),
        (lambda root: make_folder(root, classes=("cat",)), "has one class, 'cat', and nothing to tell it from; add images of another class"),
        (no_images, "holds no images; expected class folders"),
        (loose, "1 images stand in no class folder:\n  loose.png"),
        (cut_short, "is no readable .zip .*; was the download cut short"),
        (strange_part, "beside a folder of training images stand predict; a part is called one of train, training"),
        (unlabelled_test, "1 images stand in no class folder:\n  test/0.png"),
        (untrained, "these classes have no training images: cow"),
        (lambda root: write(root / "x.png", coloured()), "cannot read .*x.png as data"),
    ],
)
def test_a_source_that_cannot_be_used_says_why(tmp_path, make, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load_images(str(make(tmp_path / "pets")))


def test_what_cannot_be_a_source_is_refused_before_anything_is_read(tmp_path, own_cache):
    root = make_folder(tmp_path / "pets")
    for data in ("digits", "synthetic", "cifar10", "medmnist:pathmnist@224", str(root)):
        check_source(data)
    for data in ("digit", "digits:8", "synthetic:side=big", "cifar10:nowhere", "medmnist:lung", str(root / "cow")):
        with pytest.raises((ValueError, FileNotFoundError)):
            check_source(data)
    assert not own_cache.exists()


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("file,label\n", "must have the columns path,label.*path is missing, it has: file, label"),
        ("", "must have the columns.*it has: nothing"),
        ("path,label\n", "names no image"),
        (
            "path,label\n0.png,\n1.png,x\n,y\n",
            "2 lines that cannot be used:\n  line 2: no label for 0.png\n  line 4: no path",
        ),
        ("path,label\n9.png,x\n", "line 2: no file at .*9.png"),
        ("path,label,split\n0.png,x,tset\n", "line 2: split must be one of train, .* got 'tset'"),
        ("path,label,group\n0.png,x,\n", "line 2: no group for 0.png"),
        ("path,label\n0.png,x\n0.png,y\n", "names 1 images twice"),
    ],
)
def test_a_table_that_cannot_be_used_says_which_lines(tmp_path, table, message):
    for number in (0, 1):
        write(tmp_path / f"{number}.png", coloured())
    (tmp_path / "scans.csv").write_text(table)
    with pytest.raises(ValueError, match=message):
        load_images(str(tmp_path / "scans.csv"))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("digit", "unknown data source 'digit'. Did you mean 'digits'"),
        ("synthetic:clases=3", "unknown argument .* 'clases'. Did you mean 'classes'"),
        ("synthetic:count=many", "count must be a whole number, got 'many'"),
        ("synthetic:difficulty=2", "difficulty must be from 0 to 1, got 2"),
        ("synthetic:classes=1", "classes must be from 2 to 1000, got 1"),
    ],
)
def test_an_unknown_source_says_which_are_known(data, message):
    with pytest.raises(ValueError, match=message):
        load_images(data)
