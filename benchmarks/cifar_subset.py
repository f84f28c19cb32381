"""Takes the first images of every class out of a set in a .zip, for studies that a processor can carry.

    python benchmarks/cifar_subset.py cifar10.zip cifar-small.zip --train 500 --validation 100

The set has a folder for each part and in it one for each class: train/cat/0001.png, test/cat/0001.png. Of the training
images of each class, by name, the first become the training images of the new set and the next its validation images.
Of the test images all are kept, or the first of each class with --test. Images are copied as they are.
"""

import argparse
import zipfile
from collections import defaultdict
from pathlib import Path


def subset(source: Path, target: Path, train: int, validation: int, test: int | None) -> dict[str, int]:
    """Write the new set; return how many images each part has."""
    counts: dict[str, int] = defaultdict(int)
    with zipfile.ZipFile(source) as images, zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as out:
        classes: dict[tuple[str, str], list[str]] = defaultdict(list)
        for name in sorted(name for name in images.namelist() if not name.endswith("/")):
            part, kind, _ = name.split("/")
            classes[part, kind].append(name)
        for (part, kind), names in classes.items():
            parts = [("test", names[:test])]
            if part == "train":
                parts = [("train", names[:train]), ("val", names[train : train + validation])]
            for new_part, chosen in parts:
                for name in chosen:
                    out.writestr(f"{new_part}/{kind}/{name.rpartition('/')[2]}", images.read(name))
                counts[new_part] += len(chosen)
    return counts


def main() -> None:
    """Write one set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="a .zip with train/CLASS/IMAGE and test/CLASS/IMAGE")
    parser.add_argument("target", type=Path, help="the .zip to write")
    parser.add_argument("--train", type=int, required=True, help="training images of each class")
    parser.add_argument("--validation", type=int, required=True, help="validation images of each class")
    parser.add_argument("--test", type=int, help="test images of each class; all unless given")
    arguments = parser.parse_args()
    counts = subset(arguments.source, arguments.target, arguments.train, arguments.validation, arguments.test)
    print(f"{arguments.target}: " + ", ".join(f"{part} {count:,}" for part, count in counts.items()))


if __name__ == "__main__":
    main()
