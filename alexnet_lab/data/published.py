"""Published sets, as their authors publish them: downloaded once and checked, or read from a copy.

cifar10  cifar100         Krizhevsky 2009: 32x32, colour         cifar10:copies/cifar-10-python.tar.gz
fashion-mnist             Xiao et al. 2017: 28x28, grey          fashion-mnist:folder-of-its-four-files
medmnist:bloodmnist@64    Yang et al. 2023: 28, 64, 128 or 224   medmnist:copies/bloodmnist_64.npz
"""

import hashlib
import zipfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from alexnet_lab.data.archives import DAMAGED, ArchivedArray, read_idx, read_tar
from alexnet_lab.data.cache import Allocate, cached_images
from alexnet_lab.data.decoding import fitted_side, shrink
from alexnet_lab.data.download import Progress, Published, fetched, md5_of
from alexnet_lab.data.images import Images, first_alike, same_sizes
from alexnet_lab.data.medmnist import MEDMNIST, published_set, set_named
from alexnet_lab.data.near_copies import near_copies
from alexnet_lab.data.plain_pickle import read_plain_pickle
from alexnet_lab.data.reading import check_regular, is_of_content
from alexnet_lab.locks import lock_file

Copies = Mapping[Path, str]  # local files, and the MD5 of the published ones; empty where unknown
MOST_BYTES = 2**30  # of a file: the largest, CIFAR, have 170 MB
MOST_MEDICAL_BYTES = 2**36  # the largest, at 224 pixels, has 13 GB

CIFAR_ADDRESS = "https://www.cs.toronto.edu/~kriz/"
CIFAR: Mapping[str, Published] = {
    "cifar10": Published(CIFAR_ADDRESS + "cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a"),
    "cifar100": Published(CIFAR_ADDRESS + "cifar-100-python.tar.gz", "eb9058c3a382ffc7106e4002c42a8d85"),
}
# name -> files to train on, file to test on, file of the class names, key of the labels, key of those names
CIFAR_FILES: Mapping[str, tuple[list[str], str, str, str, str]] = {
    "cifar10": ([f"data_batch_{k}" for k in range(1, 6)], "test_batch", "batches.meta", "labels", "label_names"),
    "cifar100": (["train"], "test", "meta", "fine_labels", "fine_label_names"),
}

FASHION_ADDRESS = "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/"
# part -> images, labels
FASHION: Mapping[str, tuple[Published, Published]] = {
    "train": (
        Published(FASHION_ADDRESS + "train-images-idx3-ubyte.gz", "8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
        Published(FASHION_ADDRESS + "train-labels-idx1-ubyte.gz", "25c81989df183df01b3e8a0aad5dffbe"),
    ),
    "test": (
        Published(FASHION_ADDRESS + "t10k-images-idx3-ubyte.gz", "bef4ecab320f06d8554ea6380940ec79"),
        Published(FASHION_ADDRESS + "t10k-labels-idx1-ubyte.gz", "bb300cfdad3c16e7a12a480ee83cd310"),
    ),
}
FASHION_CLASSES = (
    *("T-shirt/top", "trouser", "pullover", "dress", "coat"),
    *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
)

PUBLISHED: Mapping[str, str] = {
    "cifar10": "60,000 small photographs in 10 classes, 32x32",
    "cifar100": "60,000 small photographs in 100 classes, 32x32",
    "fashion-mnist": "70,000 articles of clothing in 10 classes, 28x28, grey",
    "medmnist": "medmnist:NAME@SIDE, medical images; SIDE is 28, 64, 128 or 224, NAME one of " + ", ".join(MEDMNIST),
}


def check_published(name: str, argument: str) -> None:
    """Refuse an unknown set, and a copy that does not exist or is no regular file."""
    if name == "medmnist" and not argument.endswith(".npz"):
        published_set(argument)
    elif name == "fashion-mnist" and argument:
        for pair in FASHION.values():
            for file in pair:
                _copy(f"{argument}/{file.name}")
    elif argument:
        _copy(argument)


def load_published(name: str, argument: str, side: int, fit: str, progress: Progress) -> Images:
    """Load a published set at no more than that side; the argument is a path, or for medmnist which of them."""
    if name == "medmnist":
        known = ""
        if argument.endswith(".npz"):
            path = _copy(argument)
            set_name = set_named(argument)
        else:
            set_name, file = published_set(argument)
            path, known = fetched(file, progress), file.md5
        return _cached(
            f"medmnist {set_name}", {path: known}, side, fit, progress, lambda a: _medical(path, set_name, side, fit, a)
        )
    if name == "fashion-mnist":
        files = {part: [_copy_or_fetched(f, argument, progress) for f in pair] for part, pair in FASHION.items()}
        copies = {path: file.md5 for part in FASHION for path, file in zip(files[part], FASHION[part], strict=True)}
        return _cached(name, copies, side, fit, progress, lambda _: _fashion(files))
    path = _copy(argument) if argument else fetched(CIFAR[name], progress)
    return _cached(name, {path: CIFAR[name].md5}, side, fit, progress, lambda _: _cifar(name, path))


def _copy(argument: str) -> Path:
    path = Path(argument).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"no copy at {path}; without a path, the published file is downloaded")
    check_regular(path, MOST_MEDICAL_BYTES if path.suffix == ".npz" else MOST_BYTES)
    return path


def _copy_or_fetched(file: Published, folder: str, progress: Progress) -> Path:
    return _copy(f"{folder}/{file.name}") if folder else fetched(file, progress)


def _cached(
    name: str, copies: Copies, side: int, fit: str, progress: Progress, read: Callable[[Allocate], Images]
) -> Images:
    def build(allocate: Allocate) -> Images:
        try:
            with ExitStack() as held:
                for path in copies:
                    # so that upkeep.py does not remove it
                    lock_file(held.enter_context(path.open("rb")), shared=True)
                images = read(allocate)
        except (*DAMAGED, OSError) as error:
            if not isinstance(error, DAMAGED) and not is_of_content(error):
                raise
            listed = ", ".join(map(str, copies))
            hint = "" if isinstance(error, ValueError) else "; was a download cut short?"
            text = str(error)[:300]  # zipfile quotes what stands in place of a name, however long
            raise ValueError(f"{listed} cannot be read as {name}: {text}{hint}") from error
        md5s = {path: md5_of(path) for path in copies}  # after the reading, which refuses other files at once
        other = [str(path) for path, known in copies.items() if known and md5s[path] != known]
        notes = (f"by its MD5 not the published file: {', '.join(other)}",) if other else ()
        digest = hashlib.blake2b("\n".join([name, *md5s.values()]).encode(), digest_size=16).hexdigest()
        sizes = same_sizes(images.pixels.shape) if images.sizes is None else images.sizes
        pixels = shrink(images.pixels, side, fit)
        contents = first_alike([hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in pixels])
        return replace(
            images,
            name=name,
            pixels=pixels,
            contents=contents,
            near_copies=near_copies(
                pixels, np.unique(contents), lambda done, total: progress("looking for copies", done, total)
            ),
            notes=notes,
            digest=digest,
            sizes=sizes,
        )

    states = [f"{path.resolve()},{path.stat().st_size},{path.stat().st_mtime_ns}" for path in copies]
    return cached_images(f"published {name} {states} at most {side}, {fit}", build)


def _cifar(name: str, path: Path) -> Images:
    train, test, meta, label_key, name_key = CIFAR_FILES[name]
    content = {file: read_plain_pickle(text) for file, text in read_tar(path, {*train, test, meta}).items()}
    if not all(isinstance(value, dict) for value in content.values()):
        raise ValueError("its pickles do not hold what CIFAR's do")
    batches = [content[file] for file in (*train, test)]
    if not all(isinstance(batch["data"], np.ndarray) and isinstance(batch[label_key], list) for batch in batches):
        raise ValueError("its pickles do not hold what CIFAR's do")
    pixels = np.concatenate([batch["data"] for batch in batches]).reshape(-1, 3, 32, 32)
    counts = [sum(len(content[file][label_key]) for file in train), len(content[test][label_key])]
    return _checked(
        Images(
            name,
            pixels,
            np.concatenate([np.array(batch[label_key], np.int64) for batch in batches]),
            tuple(content[meta][name_key]),
            np.repeat(["train", "test"], counts),
        )
    )


def _fashion(files: Mapping[str, list[Path]]) -> Images:
    images = [read_idx(files[part][0]) for part in files]
    labels = [read_idx(files[part][1]).astype(np.int64) for part in files]
    return _checked(
        Images(
            "fashion-mnist",
            np.concatenate(images)[:, None],
            np.concatenate(labels),
            FASHION_CLASSES,
            np.repeat(list(files), [len(part) for part in labels]),
        )
    )


def _medical(path: Path, name: str, side: int, fit: str, allocate: Allocate) -> Images:
    with zipfile.ZipFile(path) as archive:
        parts = {"train": "train", "val": "validation", "test": "test"}
        images = {part: ArchivedArray(archive, f"{part}_images") for part in parts}
        labels = {part: ArchivedArray(archive, f"{part}_labels") for part in parts}
        shape = images["train"].shape  # N H W, and 3 where there is colour
        known = MEDMNIST.get(name)
        findings = len(known.classes) if known is not None and known.has_findings else 0
        for part in parts:
            _check_medical(part, images[part], labels[part], shape, findings)
        numbers = np.concatenate([array.whole() for array in labels.values()]).astype(np.int64)
        numbers = numbers if findings else numbers[:, 0]
        stored = min(side, fitted_side(shape[1], shape[2], fit))
        counts = [array.shape[0] for array in images.values()]
        pixels = allocate((sum(counts), 3 if len(shape) == 4 else 1, stored, stored))
        row = 0
        for part in parts:
            for block in images[part].blocks():
                channels_first = block.transpose(0, 3, 1, 2) if block.ndim == 4 else block[:, None]
                pixels[row : row + len(block)] = shrink(channels_first, stored, fit)
                row += len(block)
    classes = known.classes if known else tuple(map(str, range(int(numbers.max()) + 1)))
    sizes = same_sizes((len(numbers), 1, *shape[1:3]))
    return _checked(Images(name, pixels, numbers, classes, np.repeat(list(parts.values()), counts), sizes=sizes))


def _check_medical(
    part: str, images: ArchivedArray, labels: ArchivedArray, shape: tuple[int, ...], findings: int
) -> None:
    """Refuse arrays that are not images, N H W or N H W 3 of bytes, of one size, with a label each, or N K findings."""
    if len(labels.shape) == 2 and labels.shape[1] > 1 and not findings:
        raise ValueError(
            "its images have several labels each, whose names are known of chestmnist alone; name the file "
            "chestmnist.npz if it is that set, or take a table (CSV or Parquet) of path and findings, with --findings"
        )
    if labels.shape != (images.shape[0], findings or 1) or labels.dtype.kind not in "iu":
        raise ValueError(
            f"{part}_labels must be whole numbers, {images.shape[0]} x {findings or 1}, for {images.shape[0]} images; "
            f"it has {labels.dtype}, {labels.shape}"
        )
    if images.dtype != np.uint8 or len(shape) not in (3, 4) or shape[3:] not in ((), (3,)) or 0 in images.shape:
        raise ValueError(
            f"{part}_images must be bytes, N x H x W or N x H x W x 3, none of them 0; it has {images.dtype}, "
            f"{images.shape}"
        )
    if images.shape[1:] != shape[1:]:
        raise ValueError(f"train_images and {part}_images have different shapes, {shape} and {images.shape}")


def _checked(images: Images) -> Images:
    """Refuse a set whose parts do not fit together."""
    if len(images.pixels) != len(images.labels) or images.pixels.dtype != np.uint8:
        raise ValueError(f"it has {len(images.pixels)} images of {images.pixels.dtype} and {len(images.labels)} labels")
    if images.labels.ndim == 2:
        outside = _outside(images.labels, 2)
        if outside.size:
            raise ValueError(f"a finding is 0 or 1; {outside[0]} is neither")
        return images
    outside = _outside(images.labels, len(images.classes))
    if outside.size:
        raise ValueError(f"label {outside[0]} is none of its {len(images.classes)} classes")
    return images


def _outside(labels: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    return labels[(labels < 0) | (labels >= classes)]
