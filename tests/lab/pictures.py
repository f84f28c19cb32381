"""Make image files: one, a folder of class folders, an archive of it."""

import zipfile

import numpy as np
from PIL import Image

RNG = np.random.default_rng(0)


def coloured(side=16, width=None):
    return RNG.integers(0, 256, (side, width or side, 3)).astype(np.uint8)


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
