"""Published sets, as their authors publish them: fetched once and checked, or read from a copy at hand.

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
from alexnet_lab.data.images import Images
from alexnet_lab.data.medmnist import MEDMNIST, ONE_LABEL, published_set
from alexnet_lab.data.plain_pickle import read_plain_pickle
from alexnet_lab.locks import lock_file

Copies = Mapping[Path, str]  # files at hand, and the MD5 that the published ones have; empty where unknown

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
    """Refuse a set that is not known, or a copy that is not there."""
    if name == "medmnist" and not argument.endswith(".npz"):
        published_set(argument)
    elif argument:
        _copy(argument)


def load_published(name: str, argument: str, side: int, fit: str, progress: Progress) -> Images:
    """Load a published set at no more than that side; the argument is a path, or for medmnist which of them."""
    if name == "medmnist":
        known = ""
        if argument.endswith(".npz"):
            path = _copy(argument)
            set_name = path.stem.partition("_")[0]
        else:
            set_name, file = published_set(argument)
            path, known = fetched(file, progress), file.md5
        return _cached(
            f"medmnist {set_name}", {path: known}, side, fit, lambda a: _medical(path, set_name, side, fit, a)
        )
    if name == "fashion-mnist":
        files = {part: [_copy_or_fetched(f, argument, progress) for f in pair] for part, pair in FASHION.items()}
        copies = {path: file.md5 for part in FASHION for path, file in zip(files[part], FASHION[part], strict=True)}
        return _cached(name, copies, side, fit, lambda _: _fashion(files))
    path = _copy(argument) if argument else fetched(CIFAR[name], progress)
    return _cached(name, {path: CIFAR[name].md5}, side, fit, lambda _: _cifar(name, path))


def _copy(argument: str) -> Path:
    path = Path(argument).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"no copy at {path}; without a path, the published file is downloaded")
    return path


def _copy_or_fetched(file: Published, folder: str, progress: Progress) -> Path:
    return _copy(f"{folder}/{file.name}") if folder else fetched(file, progress)


def _cached(name: str, copies: Copies, side: int, fit: str, read: Callable[[Allocate], Images]) -> Images:
    def build(allocate: Allocate) -> Images:
        found = {path: md5_of(path) for path in copies}
        try:
            with ExitStack() as held:
                for path in copies:
                    # upkeep.py removes nothing that is read
                    lock_file(held.enter_context(path.open("rb")), shared=True)
                images = read(allocate)
        except DAMAGED as error:
            listed = ", ".join(map(str, copies))
            hint = "" if isinstance(error, ValueError) else "; was a download cut short?"
            raise ValueError(f"{listed} cannot be read as {name}: {error}{hint}") from error
        other = [str(path) for path, known in copies.items() if known and found[path] != known]
        notes = (f"by its MD5 not the published file: {', '.join(other)}",) if other else ()
        digest = hashlib.blake2b("\n".join([name, *found.values()]).encode(), digest_size=16).hexdigest()
        return replace(images, name=name, pixels=shrink(images.pixels, side, fit), notes=notes, digest=digest)

    states = [f"{path.resolve()},{path.stat().st_size},{path.stat().st_mtime_ns}" for path in copies]
    return cached_images(f"published {name} {states} at most {side}, {fit}", build)


def _cifar(name: str, path: Path) -> Images:
    train, test, meta, label_key, name_key = CIFAR_FILES[name]
    content = {file: read_plain_pickle(text) for file, text in read_tar(path, {*train, test, meta}).items()}
    if not all(isinstance(value, dict) for value in content.values()):
        raise ValueError("its pickles do not hold what CIFAR's do")
    batches = [content[file] for file in (*train, test)]
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
        labels = [ArchivedArray(archive, f"{part}_labels").whole() for part in parts]
        if any(part.ndim != 2 or part.shape[1] != 1 for part in labels):
            raise ValueError(f"its images have several labels each, and {ONE_LABEL}")
        numbers = np.concatenate(labels)[:, 0].astype(np.int64)
        shape = images["train"].shape  # N H W, and 3 where there is colour
        stored = min(side, fitted_side(shape[1], shape[2], fit))
        counts = [array.shape[0] for array in images.values()]
        pixels = allocate((sum(counts), 3 if len(shape) == 4 else 1, stored, stored))
        row = 0
        for part in parts:
            for block in images[part].blocks():
                channels_first = block.transpose(0, 3, 1, 2) if block.ndim == 4 else block[:, None]
                pixels[row : row + len(block)] = shrink(channels_first, stored, fit)
                row += len(block)
    known = MEDMNIST.get(name)
    classes = known.classes if known else tuple(map(str, range(int(numbers.max()) + 1)))
    return _checked(Images(name, pixels, numbers, classes, np.repeat(list(parts.values()), counts)))


def _checked(images: Images) -> Images:
    """Refuse a set whose pieces do not belong together."""
    if len(images.pixels) != len(images.labels) or images.pixels.dtype != np.uint8:
        raise ValueError(f"it has {len(images.pixels)} images of {images.pixels.dtype} and {len(images.labels)} labels")
    outside = _outside(images.labels, len(images.classes))
    if outside.size:
        raise ValueError(f"label {outside[0]} is none of its {len(images.classes)} classes")
    return images


def _outside(labels: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    return labels[(labels < 0) | (labels >= classes)]
