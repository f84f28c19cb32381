"""Image files: whatever is wrong with them is said at once, each with its name."""

import io
import random

import pytest
from pictures import coloured, make_folder, write, zip_of
from PIL import Image

from alexnet_lab.data.sources import check_source, load_images

pytestmark = pytest.mark.usefixtures("own_cache")


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
    with pytest.raises(
        ValueError, match="4 of 11 images cannot be read; replace or remove them.*--skip-bad"
    ) as refusal:
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
    with pytest.raises(
        ValueError,
        match="2 of 2 images cannot be read, so none is left; the first is a/x.png: it is no image, or not in one",
    ):
        load_images(str(tmp_path / "set"), skip_bad=True)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # Pillow remarks on damage that it can live with
def test_a_corrupt_image_of_any_kind_never_ends_in_anything_but_the_list(tmp_path):
    rng = random.Random(0)  # noqa: S311  # damage, not secrets
    whole = {}
    for suffix in ("png", "jpg", "gif", "bmp", "tif", "webp"):
        content = io.BytesIO()
        Image.fromarray(coloured(24)).save(content, {"jpg": "jpeg", "tif": "tiff"}.get(suffix, suffix))
        whole[suffix] = content.getvalue()
    for number in range(60):
        suffix = rng.choice(sorted(whole))
        damaged = bytearray(whole[suffix])
        for _ in range(rng.randint(1, 20)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        path = tmp_path / "set" / "ab"[number % 2] / f"{number}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(damaged[: rng.choice([None, len(damaged) // 2])])
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
        (
            lambda root: make_folder(root, classes=("cat",)),
            "has one class, 'cat'; a network needs at least two: add images of another class",
        ),
        (no_images, "holds no images; expected class folders"),
        (loose, "1 images are in no class folder:\n  loose.png"),
        (cut_short, "is no readable .zip .*; was the download cut short"),
        (
            strange_part,
            "next to a folder of training images, these folders are no parts: predict. A part is called one",
        ),
        (unlabelled_test, "1 images are in no class folder:\n  test/0.png"),
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
