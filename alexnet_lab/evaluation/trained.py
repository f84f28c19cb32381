"""A finished run: its network, its metrics, and its predictions for new images.

run = load_run("runs/digits-alexnet-1f0c")
run.network()                            the trained module, in eval mode
run.metrics()                            a row per epoch
run.predict(["scan.png", "more/"]).table()
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from alexnet_lab.data.lists import in_brief
from alexnet_lab.data.preprocessing import Decoded, Preprocessing, preprocessing_of, restored
from alexnet_lab.display import Displayed
from alexnet_lab.evaluation.predictions import Decoder, ImageFile, Place, Predictions, Progress, image_files
from alexnet_lab.evaluation.thresholds import choose_threshold
from alexnet_lab.predictions_file import FILE as PREDICTIONS
from alexnet_lab.predictions_file import read_predictions
from alexnet_lab.records import RunFolder
from alexnet_lab.training import checkpoint
from alexnet_lab.training.checkpoint import Checkpoint
from alexnet_lab.training.embedding import embedding_of, features_of
from alexnet_lab.training.errors import DivergedError
from alexnet_lab.training.evaluation import evaluation_batch, images_at_once, probabilities_of
from alexnet_lab.training.recipe import Recipe
from alexnet_lab.training.reference import FILE, ImageFacts, Reference, facts_of, read_reference
from alexnet_lab.training.run import open_feed_of, torch_set_as_in
from alexnet_lab.training.trainer import network_of
from alexnet_lab.training.weight_sources import finished_run

if TYPE_CHECKING:
    import pandas as pd

# Files without which there is no network, or a wrong one.
NEEDED = ("state.json", "recipe.json", "provenance.json", "checkpoints/best.json", "checkpoints/best.safetensors")


@dataclass(frozen=True)
class Run(Displayed):
    """A run that ended well; `load_run` and `train` return it. A notebook shows its result and its figures."""

    shown_by = "alexnet_lab.reports.display:run_html"

    path: Path
    recipe: Recipe
    classes: tuple[str, ...]
    preprocessing: Preprocessing = field(repr=False)
    weights: Checkpoint = field(repr=False)  # the best epoch's, which were tested

    def network(self, device: str = "cpu") -> nn.Module:
        """Return a new copy of the trained network in eval mode; its output is scores, B K, before softmax."""
        _check_device(device)
        network = network_of(self.recipe, len(self.classes), self.preprocessing.channels)
        try:
            checkpoint.restore_network(network, self.weights.tensors)
        except RuntimeError:  # torch's, with a line for each tensor
            raise ValueError(
                f"the weights in {self.path} are of another network than its recipe's; the command that made the run "
                "makes it again"
            ) from None
        network.to(device)
        if self.recipe.channels_last:
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stub
        return network.eval()

    def metrics(self) -> "pd.DataFrame":
        """Return a row per epoch: losses, validation metrics, learning rate, seconds."""
        import pandas as pd

        folder = RunFolder(self.path)
        if "metrics.jsonl" in folder.damages():
            raise ValueError(_changed(self.path, "metrics.jsonl"))
        return pd.DataFrame(list(folder.metrics()))

    def predict(
        self, images: Place | Sequence[Place], device: str = "cpu", progress: Progress = lambda _done, _total: None
    ) -> Predictions:
        """Return the probabilities of every class for image files, and for those in folders and .zip archives.

        Images go through the steps of the run's own test: decoding, size, scale, and ten views if the recipe says so.
        The test's images, on its device and in its order, have the test's probabilities to the last bit; in other
        batches the network's sums may differ in it. Images that cannot be read are named in `unreadable`, and
        `warnings` says how each is unlike those of the run.
        """
        with image_files(images) as files:
            return self.predict_files(files, device, progress)

    def predict_files(
        self, files: Sequence[ImageFile], device: str = "cpu", progress: Progress = lambda _done, _total: None
    ) -> Predictions:
        """Return the same for files that the caller has opened a source of."""
        network = self.network(device)
        recipe, decoder = self.recipe, Decoder(self.preprocessing, self.recipe.fit)
        batch = evaluation_batch(recipe.batch_size, recipe.accumulate)
        at_once = images_at_once(batch, recipe.ten_views)
        names: list[str] = []
        rows = [np.empty((0, len(self.classes)))]
        reference = self.reference()
        warnings: list[dict[str, str]] = []
        with torch_set_as_in(recipe), embedding_of(network) as embedding:
            for batch_names, images in decoder.batches(files, at_once):
                pixels = np.stack([image.pixels for image in images])
                every = np.arange(len(pixels))
                feed = self.preprocessing.feed_of(pixels, self.classes, device, has_findings=recipe.has_findings)
                try:
                    rows.append(probabilities_of(network, feed, every, batch, recipe.ten_views))
                except DivergedError as error:
                    raise ValueError(f"the network of {self.path} cannot predict: {error}") from None
                features = embedding.take()
                if reference is not None:
                    if recipe.ten_views:  # the reference is of the view in the middle
                        features = features_of(network, feed, every, at_once)
                    warnings += reference.warnings(_facts_of(images, pixels, features))
                names += batch_names
                progress(len(names) + len(decoder.unreadable), len(files))
        notes: tuple[str, ...] = ()
        if decoder.greyed:
            count = f"{decoder.greyed} of {len(names)} images {'is' if decoder.greyed == 1 else 'are'} coloured"
            notes = (f"{count}, those of the run were grey: brightness was used",)
        notes += _notes_on(reference, warnings)
        probabilities = np.concatenate(rows)
        warned = None if reference is None else tuple(warnings)
        thresholds = self._thresholds() if recipe.has_findings else None
        if thresholds is not None and np.isnan(thresholds).any():
            lacking = [name for name, value in zip(self.classes, thresholds, strict=True) if np.isnan(value)]
            notes += (f"never predicted, since validation images all have or all lack them: {in_brief(lacking)}",)
        return Predictions(tuple(names), self.classes, probabilities, decoder.unreadable, notes, warned, thresholds)

    def _thresholds(self) -> tuple[float, ...]:
        """Return the probability from which on each finding counts, chosen on validation; NaN where it cannot be."""
        path = self.path / PREDICTIONS
        if PREDICTIONS in RunFolder(self.path).damages():
            raise ValueError(_changed(self.path, PREDICTIONS))
        validation = read_predictions(path, ["validation"])["validation"]
        chosen = [
            choose_threshold(validation.probabilities[:, k].astype(np.float64), validation.labels[:, k] == 1, "youden")
            for k in range(len(self.classes))
        ]
        return tuple(np.nan if one is None else one.value for one in chosen)

    def reference(self) -> Reference | None:
        """Return what the images of the run look like; None for a run of a version that did not measure it."""
        if FILE in RunFolder(self.path).damages():
            raise ValueError(_changed(self.path, FILE))
        return read_reference(self.path / FILE)


def _facts_of(images: list[Decoded], pixels: NDArray[np.uint8], features: NDArray[np.float64]) -> ImageFacts:
    coloured = np.array([image.is_coloured for image in images])
    return facts_of(pixels, coloured, [image.size for image in images], features)


def _notes_on(reference: Reference | None, warnings: list[dict[str, str]]) -> tuple[str, ...]:
    if reference is None:
        return (
            "whether images are unlike those of the run is not known: a run of an earlier version kept no "
            "reference.npz; train again to be warned",
        )
    count = sum(map(bool, warnings))
    if not count:
        return ()
    return (
        f"{count} of {len(warnings)} images {'is' if count == 1 else 'are'} unlike those that the network was trained "
        f"and chosen on, and its probabilities mean little there; of the run's own test images {reference.test_warned} "
        f"of {reference.test_images} would be warned of",
    )


def load_run(folder: Place) -> Run:
    """Return the finished run of a folder.

    Raises ValueError for a folder without a run, a run that has not ended with `ok`, and damaged files.
    """
    path = Path(folder).expanduser()
    records = RunFolder(path)
    damaged = [name for name in records.damages(weights=True) if name in NEEDED]
    if damaged:
        raise ValueError(_changed(path, ", ".join(damaged)))
    recipe, provenance, _ = finished_run(path)
    weights = checkpoint.load_checkpoint(path / "checkpoints", checkpoint.BEST)
    classes = tuple(provenance.get("classes", ()))
    if len(classes) < 2:
        raise ValueError(
            f"{path / 'provenance.json'} must name the classes of the run, at least two, and names {len(classes)}; "
            "the command that made the run makes it again"
        )
    facts = weights.facts.get("preprocessing")
    if facts is None:
        images = _measured_again(path, recipe, provenance.get("data_fingerprint", ""))
    else:
        try:
            images = restored(facts)
        except ValueError as error:
            raise ValueError(
                f"{path / 'checkpoints' / 'best.json'} is damaged ({error}); the command that made the run makes it "
                "again"
            ) from None
    return Run(path, recipe, classes, images, weights)


def predict(run: Place, images: Place | Sequence[Place], device: str = "cpu") -> Predictions:
    """Return the probabilities that the run of a folder gives to image files: `load_run(run).predict(images)`."""
    return load_run(run).predict(images, device)


def _measured_again(path: Path, recipe: Recipe, fingerprint: str) -> Preprocessing:
    """Return the preprocessing of a run that recorded none, as version 0.1.0 did, measured on its data."""
    missing = f"the run in {path} did not record the mean and spread of its training images"
    with torch_set_as_in(recipe):
        try:
            # It was trained when copies in two parts were only said.
            feed = open_feed_of(replace(recipe, allow_leaks=True), lambda _kind, _facts: None)
        except (ValueError, OSError) as error:
            why = str(error).partition("\n")[0]
            raise ValueError(
                f"{missing}, and its data cannot be opened to measure them ({why}); make {recipe.data} available "
                "where the run found it, or train again"
            ) from None
    if feed.fingerprint != fingerprint:
        raise ValueError(f"{missing}, and {recipe.data} has changed since; restore it, or train again")
    return preprocessing_of(feed)


def _changed(path: Path, names: str) -> str:
    return f"{names} in {path} changed after the run ended; the command that made the run makes it again"


def _check_device(device: str) -> None:
    if device.partition(":")[0] not in ("cpu", "cuda"):
        raise ValueError(f"device must be cpu or cuda, got {device!r}")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError("device cuda was asked for, and torch sees no GPU here; take device cpu")
