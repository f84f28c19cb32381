"""Predictions for image files, and the files themselves: one by one, in folders, in .zip archives."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from alexnet_lab.data.decoding import UNREADABLE, quiet_decoders, reason
from alexnet_lab.data.findings import text_of
from alexnet_lab.data.listings import image_paths, open_reader, read_file
from alexnet_lab.data.preprocessing import Decoded, Preprocessing

if TYPE_CHECKING:
    import pandas as pd

Place = str | Path
Progress = Callable[[int, int], None]  # done, total


@dataclass(frozen=True)
class Predictions:
    """Probabilities of every class, a row per image that could be read."""

    files: tuple[str, ...]  # N; a file in an archive is named ARCHIVE/PATH
    classes: tuple[str, ...]  # K
    probabilities: NDArray[np.float64] = field(repr=False)  # N K
    unreadable: Mapping[str, str]  # images without a prediction, and why
    notes: tuple[str, ...] = ()
    warnings: tuple[Mapping[str, str], ...] | None = None  # N: how an image is unlike the run's; None: not known

    thresholds: tuple[float, ...] | None = None  # K: from which on a finding counts; None: an image has one class

    @property
    def predicted(self) -> tuple[str, ...]:
        """Return the most probable class of each image; of findings all that reach their thresholds, joined by |."""
        if self.thresholds is None:
            return self.most_probable
        return tuple(
            text_of(row, self.classes) for row in (self.probabilities >= np.array(self.thresholds)).astype(int)
        )

    @property
    def most_probable(self) -> tuple[str, ...]:
        """Return the most probable class of each image."""
        return tuple(self.classes[number] for number in self.probabilities.argmax(1))

    def table(self) -> "pd.DataFrame":
        """Return a row per image: `file`, `predicted`, `probability of CLASS` for every class, and `warning`."""
        import pandas as pd

        columns = [f"probability of {name}" for name in self.classes]
        # As objects: names of files need not be UTF-8, which pandas' own strings must be.
        table = pd.DataFrame(self.probabilities, columns=pd.Index(columns, dtype=object))
        table.insert(0, "file", pd.Series(self.files, dtype=object))
        table.insert(1, "predicted", pd.Series(self.predicted, dtype=object))
        warned: Sequence[Mapping[str, str]] = self.warnings or [{} for _ in self.files]
        table["warning"] = pd.Series(["; ".join(one.values()) for one in warned], dtype=object)
        return table


@dataclass(frozen=True)
class ImageFile:
    """One image file: the name that a user knows it by, and how to open it as bytes."""

    name: str
    opened: Callable[[], AbstractContextManager[bytes]]


@contextmanager
def image_files(places: Place | Sequence[Place]) -> Iterator[list[ImageFile]]:
    """List image files, those of folders and .zip archives in order of their paths; readable within the block.

    A file that does not exist is listed, and raises when it is opened. Folders and archives without images are
    refused.
    """
    listed = [places] if isinstance(places, str | Path) else list(places)
    if not listed:
        raise ValueError("predictions are of at least one image, got none; name image files, a folder or a .zip")
    files: list[ImageFile] = []
    with ExitStack() as held:
        for place in (Path(place).expanduser() for place in listed):
            if place.is_dir() or (place.suffix.lower() == ".zip" and place.is_file()):
                paths = image_paths(place)
                read = held.enter_context(open_reader(place))
                files += [ImageFile(str(place / path), partial(read, path)) for path in paths]
            else:
                files.append(ImageFile(str(place), partial(read_file, place)))
        yield files


@dataclass
class Decoder:
    """Decodes image files in batches, on every core, and keeps the names of those that it could not read."""

    preprocessing: Preprocessing
    fit: str
    unreadable: dict[str, str] = field(default_factory=dict)
    greyed: int = 0  # coloured images of a network that knows grey ones

    def batches(self, files: Sequence[ImageFile], size: int) -> Iterator[tuple[list[str], list[Decoded]]]:
        """Yield names and images, `size` readable ones at a time; the last batch may be smaller."""
        names: list[str] = []
        images: list[Decoded] = []
        with ThreadPoolExecutor(os.cpu_count()) as pool, quiet_decoders():
            for start in range(0, len(files), size):
                part = files[start : start + size]
                for file, decoded in zip(part, pool.map(self._decode, part), strict=True):
                    if isinstance(decoded, str):
                        self.unreadable[file.name] = decoded
                        continue
                    names.append(file.name)
                    images.append(decoded)
                    self.greyed += decoded.is_greyed
                    if len(images) == size:
                        yield names, images
                        names, images = [], []
        if images:
            yield names, images

    def _decode(self, file: ImageFile) -> Decoded | str:
        """Return the image of a file, or why it cannot be read."""
        try:
            with file.opened() as content:
                return self.preprocessing.decoded(content, self.fit)
        except FileNotFoundError:
            return "there is no such file"
        except UNREADABLE as error:
            return reason(error)
