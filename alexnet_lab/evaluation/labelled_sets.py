"""The labelled sets that a run is judged on: its own validation and test images, and sets from elsewhere.

A set from elsewhere goes through the preprocessing of the run, image by image, as `predict` does it.
"""

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from alexnet_lab.data.feed import Feed
from alexnet_lab.data.findings import JOIN
from alexnet_lab.data.lists import in_brief
from alexnet_lab.data.medmnist import has_findings
from alexnet_lab.data.sources import listing_of, load_images
from alexnet_lab.evaluation.assessment import Predicted
from alexnet_lab.evaluation.predictions import ImageFile
from alexnet_lab.evaluation.trained import Run
from alexnet_lab.predictions_file import FILE, PARTS, PartPredictions, read_predictions
from alexnet_lab.records import RunFolder
from alexnet_lab.training.evaluation import evaluation_batch, probabilities_of
from alexnet_lab.training.run import open_feed_of, torch_set_as_in

Told = Callable[[str, int, int], None]  # what, done, total


@dataclass(frozen=True)
class LabelledSet:
    """A set with its predictions, and its pixels where they can be had."""

    predicted: Predicted
    pixels: Callable[[int], NDArray[np.uint8]] | None  # of an image of the set, as stored: C T T
    notes: tuple[str, ...] = ()


def own_sets(run: Run, device: str, told: Told) -> dict[str, LabelledSet]:
    """Return a run's validation and test sets: its predictions as it recorded them, else from its weights and data.

    Without its data a run that recorded its predictions has numbers for names, and no pixels.
    """
    feed: Feed | None = None
    why = ""
    try:
        feed = _feed_of(run, device, told)
    except (ValueError, OSError) as error:
        why = str(error).partition("\n")[0]
    path = run.path / FILE
    if path.exists():
        if FILE in RunFolder(run.path).damages():
            raise ValueError(f"{path} changed after the run ended; the command that made the run makes it again")
        parts = read_predictions(path, PARTS)
        for part, predictions in parts.items():
            _check_recorded(predictions, feed, len(run.classes), f"{part} in {path}")
        return {part: _recorded(predictions, feed, why) for part, predictions in parts.items()}
    if feed is None:
        raise ValueError(
            f"the run in {run.path} kept no predictions, and they cannot be computed from its data ({why}); make "
            f"{run.recipe.data} available where the run found it, or train again"
        )
    return _computed(run, feed, device, told)


def _check_recorded(predictions: PartPredictions, feed: Feed | None, classes: int, what: str) -> None:
    """Refuse predictions that are not of this run: of other images, of other classes, or that add up to nothing."""
    again = "the command that made the run makes it again"
    if predictions.probabilities.shape[1] != classes:
        raise ValueError(
            f"{what} is of {predictions.probabilities.shape[1]} classes, and the run has {classes}; {again}"
        )
    if predictions.labels.ndim == 1 and not (predictions.probabilities.sum(1) > 0).all():
        raise ValueError(f"{what} has an image whose probabilities are all 0; {again}")
    if feed is not None and len(predictions.ids) and predictions.ids.max() >= len(feed.labels):
        raise ValueError(f"{what} has image {predictions.ids.max()}, and the data has {len(feed.labels)}; {again}")


def _recorded(predictions: PartPredictions, feed: Feed | None, why: str) -> LabelledSet:
    probabilities = predictions.probabilities.astype(np.float64)
    if predictions.labels.ndim == 1:
        probabilities /= probabilities.sum(1, keepdims=True)  # stored in float32
    if feed is not None:
        of_feed = _set_of(feed, predictions.ids, probabilities)
        if predictions.groups is None:
            return of_feed
        # As recorded: runs of earlier versions have the patients' own names, whose order the bootstrap draws by.
        return replace(of_feed, predicted=replace(of_feed.predicted, groups=predictions.groups))
    names = tuple(f"image {index}" for index in predictions.ids)
    note = f"the data of the run is not here ({why}): images have numbers for names, and pictures are not shown"
    return LabelledSet(Predicted(names, predictions.labels, probabilities, predictions.groups), None, (note,))


def external_set(run: Run, data: str, device: str, told: Told) -> LabelledSet:
    """Return a labelled set from elsewhere, all parts of it; its classes must be among those of the run."""
    with _opened(data, run) as source:
        files = source.files
        strange = [name for name in source.classes if name not in run.classes]
        if strange:
            kind = "findings" if run.recipe.has_findings else "classes"
            raise ValueError(
                f"{data} must have the {kind} of the run ({in_brief(list(run.classes))}), and has others: "
                f"{in_brief(strange)}; rename or remove these"
            )
        predictions = run.predict_files(files, device, partial(told, "predicting"))
        place_of = {file.name: place for place, file in enumerate(files)}
        readable = [place_of[name] for name in predictions.files]
        if not readable:
            name, why = next(iter(predictions.unreadable.items()))
            raise ValueError(f"none of the {len(files)} images of {data} can be read; the first is {name}: {why}")
    notes = predictions.notes
    if predictions.unreadable:
        listed = in_brief([f"{name}: {why}" for name, why in predictions.unreadable.items()])
        notes = (
            *notes,
            f"{len(predictions.unreadable)} of {len(files)} images cannot be read and are left out ({listed})",
        )
    number = np.array([run.classes.index(name) for name in source.classes])
    groups = None if source.groups is None else source.groups[readable]
    labels = source.labels[readable]
    if run.recipe.has_findings:  # one that the table never names is in none of its images
        of_table, labels = labels, np.zeros((len(readable), len(run.classes)), np.int64)
        labels[:, number] = of_table
    else:
        labels = number[labels]
    of_set = Predicted(predictions.files, labels, predictions.probabilities, groups)

    def pixels(image: int) -> NDArray[np.uint8]:
        with _opened(data, run) as again, again.files[readable[image]].opened() as content:
            return run.preprocessing.decoded(content, run.recipe.fit).pixels

    return LabelledSet(of_set, pixels, notes)


def _feed_of(run: Run, device: str, told: Told) -> Feed:
    """Open the data of a run and refuse it if it is not what the run was trained on."""

    def report(_kind: str, facts: dict[str, Any]) -> None:
        told(facts["what"], facts["done"], facts["total"])

    with torch_set_as_in(run.recipe):
        # A leaking split was trained on before leaks were refused, and is evaluated as it was; the notes say it.
        placed = replace(run.recipe, device="cuda" if device.startswith("cuda") else "cpu", allow_leaks=True)
        feed = open_feed_of(placed, report)
    provenance = RunFolder(run.path).provenance() or {}
    if feed.fingerprint != provenance.get("data_fingerprint"):
        raise ValueError(f"{run.recipe.data} has changed since the run")
    return feed


def _computed(run: Run, feed: Feed, device: str, told: Told) -> dict[str, LabelledSet]:
    """Compute the predictions as the run's own test did: ten views of test images if the recipe says so."""
    folder, recipe = RunFolder(run.path), run.recipe
    split = folder.split()
    if split is None or "split.json" in folder.damages():
        raise ValueError(
            f"split.json in {run.path} is missing or damaged, and names the images of the test; train again"
        )
    network = run.network(device)
    batch = evaluation_batch(recipe.batch_size, recipe.accumulate)
    sets = {}
    with torch_set_as_in(recipe):
        for part in PARTS:
            ids = np.array(split[part], np.int64)
            told(f"predicting {part} images", 0, len(ids))
            probabilities = probabilities_of(network, feed, ids, batch, recipe.ten_views and part == "test")
            told(f"predicting {part} images", len(ids), len(ids))
            sets[part] = _set_of(feed, ids, probabilities)
    return sets


def _set_of(feed: Feed, ids: NDArray[np.int64], probabilities: NDArray[np.float64]) -> LabelledSet:
    names = tuple(f"image {index}" for index in ids) if feed.names is None else tuple(map(str, feed.names[ids]))
    groups = None if feed.groups is None else feed.groups[ids]
    predicted = Predicted(names, feed.labels.cpu().numpy()[ids], probabilities, groups)
    return LabelledSet(predicted, lambda image: np.asarray(feed.stored[ids[image]]))


@dataclass(frozen=True)
class _Source:
    """Labelled image files, readable while the source is open."""

    files: list[ImageFile]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    groups: NDArray[np.str_] | None


@contextmanager
def _opened(data: str, run: Run) -> Iterator[_Source]:
    recipe = run.recipe
    # Of findings the patients are in the column that the run was told of; else in the column `group`.
    listing = listing_of(data, recipe.group if recipe.findings else "", findings=_columns_of_findings(data, run))
    if listing is None:
        images = load_images(data)
        files = [ImageFile(f"image {at}", partial(_as_png, pixels)) for at, pixels in enumerate(images.pixels)]
        yield _Source(files, images.labels, images.classes, images.groups)
        return
    with listing.reader() as read:
        files = [ImageFile(path, partial(read, path)) for path in listing.paths]
        yield _Source(files, listing.labels, listing.classes, listing.groups)


def _columns_of_findings(data: str, run: Run) -> str:
    """Return the columns that hold the findings: those of the run, or for a run on a published set one for each."""
    if not run.recipe.has_findings or has_findings(data):
        return ""
    return run.recipe.findings or JOIN.join(run.classes)


def _as_png(pixels: NDArray[np.uint8]) -> nullcontext[bytes]:
    """Return an image as the bytes of a PNG file, which keeps every pixel."""
    content = io.BytesIO()
    Image.fromarray(pixels[0] if len(pixels) == 1 else np.moveaxis(pixels, 0, 2)).save(content, "PNG")
    return nullcontext(content.getvalue())
