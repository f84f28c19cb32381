"""A finished run as an ONNX file that takes pixels and gives probabilities, checked against the run, with a card.

    model.onnx   pixels, uint8, images x channels x side x side  ->  probabilities, float32, images x classes
    card.json    what it is, what goes in, thresholds, training data, test figures; what only people know is NOT FILLED

Scale, channels, the window that the network sees and ten views are inside. Decoding a file and resizing it to the side
are not: the card says how the run did it. The file is written only if onnxruntime gives the run's own probabilities.

Shapes: B images, C channels, T the stored side, S the side that the network sees, V views, K classes.
"""

import contextlib
import io
import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from alexnet_lab.data.feed import ten_view_geometry
from alexnet_lab.data.preprocessing import Preprocessing
from alexnet_lab.data.scaling import with_channels
from alexnet_lab.data.views import middle_weights, ten_view_weights
from alexnet_lab.evaluation.evaluating import Evaluation, evaluated_if_possible
from alexnet_lab.evaluation.resampling import REPLICATES
from alexnet_lab.evaluation.trained import Run, load_run
from alexnet_lab.records import RunFolder, title_of, write_atomically
from alexnet_lab.training.evaluation import probabilities_of
from alexnet_lab.training.run import torch_set_as_in
from alexnet_lab.version import __version__

MODEL, CARD = "model.onnx", "card.json"
CLOSE = 1e-5  # probabilities of the file and of the run differ by no more
CHECKED = 64  # images
AT_ONCE = 16
NOT_FILLED = "NOT FILLED"


class FromPixels(nn.Module):
    """A run's network with the preprocessing of its test before it and softmax behind it, or a sigmoid for findings."""

    mean: Tensor
    spread: Tensor
    rows: Tensor
    columns: Tensor

    def __init__(
        self, network: nn.Module, preprocessing: Preprocessing, ten_views: bool, *, has_findings: bool = False
    ) -> None:
        super().__init__()
        self.has_findings = has_findings
        self.network = network
        self.channels = preprocessing.channels
        geometry = preprocessing.geometry
        if ten_views:
            rows, columns = ten_view_weights(ten_view_geometry(geometry))
        else:
            rows = columns = middle_weights(geometry)[None]
        self.views = len(rows)
        # Evaluation cuts its window out where no pixel is between two stored ones; products with 0 and 1 are the same.
        self.is_cut = not ten_views and geometry.stored == geometry.whole
        self.start, self.end = geometry.middle, geometry.middle + geometry.seen
        self.register_buffer("mean", preprocessing.scaling.mean)
        self.register_buffer("spread", preprocessing.scaling.spread)
        self.register_buffer("rows", rows)  # V S T
        self.register_buffer("columns", columns.transpose(1, 2).contiguous())  # V T S

    def forward(self, pixels: Tensor) -> Tensor:
        """Return probabilities, B K, of pixels, B C T T."""
        x = (with_channels(pixels.float(), self.channels) - self.mean) / self.spread
        if self.is_cut:
            return self._probabilities(x[..., self.start : self.end, self.start : self.end])
        views = self.rows[:, None] @ x[:, None] @ self.columns[:, None]  # B V C S S
        probabilities = self._probabilities(views.flatten(0, 1))  # BV K
        return probabilities.reshape(-1, self.views, probabilities.shape[1]).mean(1)

    def _probabilities(self, views: Tensor) -> Tensor:
        scores: Tensor = self.network(views)
        return scores.sigmoid() if self.has_findings else scores.softmax(1)


def export_onnx(folder: Path, out: Path, replicates: int = REPLICATES) -> list[Path]:
    """Write model.onnx and card.json; return their paths.

    Raises ValueError where the packages are missing, and where the file does not give the run's probabilities.
    """
    try:
        import onnx  # noqa: F401  # torch's exporter needs these two, and says so in a paragraph
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ValueError(
            f"ONNX needs onnx, onnxscript and onnxruntime, and {error.name} is missing: pip install "
            '"alexnet-lab[medical]"'
        ) from None
    by = f"onnxruntime {onnxruntime.__version__}"
    return export_checked(folder, out, MODEL, "ONNX file", _write_model, _probabilities, by, replicates)


def export_checked(
    folder: Path,
    out: Path,
    name: str,
    kind: str,
    write: Callable[[Run, Path], None],
    probabilities: Callable[[Path, NDArray[np.uint8]], NDArray[np.float32]],
    by: str,
    replicates: int,
) -> list[Path]:
    """Write a file of a run and card.json, where `probabilities` of the file are the run's own; return their paths.

    `kind` and `by` name the file and what reads it back. Raises ValueError where the probabilities differ.
    """
    run = load_run(folder)
    evaluation, why = evaluated_if_possible(folder, replicates)
    pixels, source = pixels_to_check(run, evaluation)
    out.mkdir(parents=True, exist_ok=True)
    scratch = out / f".{os.getpid()}.{name}"
    try:
        with torch_set_as_in(run.recipe):
            write(run, scratch)
            difference = check_close(run, probabilities(scratch, pixels), pixels, kind)
        scratch.replace(out / name)
    finally:
        scratch.unlink(missing_ok=True)
    checked = {"images": len(pixels), "of": source, "largest_difference": difference, "by": by}
    card = {**card_of(run, evaluation, why), "checked": checked}
    write_atomically(out / CARD, json.dumps(card, indent=2, allow_nan=False) + "\n")
    return [out / name, out / CARD]


def card_of(run: Run, evaluation: Evaluation | None, why: str) -> dict[str, Any]:
    """Return what a user of the file must know; `why` says why there is no evaluation."""
    folder, recipe, preprocessing = RunFolder(run.path), run.recipe, run.preprocessing
    provenance, split = folder.provenance() or {}, folder.split() or {}
    side, bits = preprocessing.geometry.stored, preprocessing.deep_bits
    decoding = [
        "decode the file; apply its EXIF orientation",
        f"keep the upper 8 of {bits} bits" if bits > 8 else "8 bits a channel",
        "one channel: grey, by 0.299 red + 0.587 green + 0.114 blue"
        if preprocessing.stored_channels == 1
        else "three channels: red, green, blue; a grey image repeated three times",
        f"make it a square by fit={recipe.fit} and resize it to {side} x {side}: alexnet_lab.data.decoding.decode",
    ]
    test: Any = why
    thresholds: Any = why
    if evaluation is not None:
        facts = evaluation.facts()["test"]
        test = {
            name: facts[name] for name in ("images", "unit", "units", "population", "macro_auroc_delong", "figures")
        }
        test["classes"] = {one["name"]: {"images": one["images"], **one["figures"]} for one in facts["classes"]}
        rules = evaluation.rules
        thresholds = {
            name: None if threshold is None else threshold.value
            for name, threshold in zip(run.classes, rules.thresholds, strict=True)
        }
        thresholds = {"rule": rules.rule, "chosen_on": "validation", "at_or_above_is_positive": thresholds}
        thresholds["temperature_not_applied"] = rules.temperature
    return {
        "model": f"{recipe.network} of {title_of(run.path)}",
        "made_by": f"alexnet-lab {__version__}, torch {torch.__version__}",
        "classes": list(run.classes),
        "input": {
            "name": "pixels",
            "type": "uint8",
            "shape": ["images", preprocessing.stored_channels, side, side],
            "inside": f"scale {recipe.input_scale} with the training images' mean and spread, channels, window, views",
            "outside": decoding,
        },
        "output": {"name": "probabilities", "type": "float32", "shape": ["images", len(run.classes)]},
        "thresholds": thresholds,
        "training_data": {
            "source": recipe.data,
            "fingerprint": provenance.get("data_fingerprint"),
            "images": {part: len(split.get(part, ())) for part in ("train", "validation", "test")},
            "notes": provenance.get("notes", []),
            "population": NOT_FILLED,
        },
        "test": test,
        "recipe": asdict(recipe),
        "intended_use": NOT_FILLED,
        "not_intended_for": NOT_FILLED,
        "responsible": NOT_FILLED,
    }


def pixels_to_check(run: Run, evaluation: Evaluation | None) -> tuple[NDArray[np.uint8], str]:
    """Return test images as they are stored, and noise where the data is not here."""
    labelled = None if evaluation is None else evaluation.sets["test"]
    if labelled is not None and labelled.pixels is not None:
        count = min(CHECKED, len(labelled.predicted.labels))
        return np.stack([labelled.pixels(image) for image in range(count)]), "the test"
    side, channels = run.preprocessing.geometry.stored, run.preprocessing.stored_channels
    noise = np.random.default_rng(0).integers(0, 256, (CHECKED, channels, side, side), np.uint8)
    return noise, "noise, since the data of the run is not here"


def from_pixels(run: Run) -> tuple[FromPixels, Tensor]:
    """Return a run's network from pixels to probabilities, and two images to trace it with."""
    network = run.network().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # missing in torch's stub
    has_findings = run.recipe.has_findings
    model = FromPixels(network, run.preprocessing, run.recipe.ten_views, has_findings=has_findings).eval()
    side, channels = run.preprocessing.geometry.stored, run.preprocessing.stored_channels
    return model, torch.zeros(2, channels, side, side, dtype=torch.uint8)


def _write_model(run: Run, path: Path) -> None:
    model, sample = from_pixels(run)
    with quiet():
        torch.onnx.export(
            model,
            (sample,),
            path,
            dynamo=True,
            external_data=False,
            input_names=["pixels"],
            output_names=["probabilities"],
            dynamic_shapes=({0: torch.export.Dim("images")},),
            verbose=False,
        )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep to itself what the exporter tells of its own affairs."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _probabilities(path: Path, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return what the file gives for pixels, N K, some images at a time."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    parts = [session.run(None, {"pixels": pixels[at : at + AT_ONCE]})[0] for at in range(0, len(pixels), AT_ONCE)]
    got: NDArray[np.float32] = np.concatenate(parts)
    return got


def check_close(run: Run, got: NDArray[np.float32], pixels: NDArray[np.uint8], what: str) -> float:
    """Return the largest difference of probabilities from those of the run; refuse one of more than CLOSE."""
    feed = run.preprocessing.feed_of(pixels, run.classes, "cpu", has_findings=run.recipe.has_findings)
    own = probabilities_of(run.network(), feed, np.arange(len(pixels)), AT_ONCE, run.recipe.ten_views)
    difference = float(np.abs(got - own).max())
    if not difference <= CLOSE:
        raise ValueError(
            f"the {what} must give the run's probabilities to {CLOSE:g}, and differs by {difference:.2g} on "
            f"{len(pixels)} images; it was not written. Please report the recipe of {run.path}"
        )
    return difference
