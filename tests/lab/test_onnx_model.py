"""A run as an ONNX file: it gives the probabilities of the run for pixels, and is written only then."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from pictures import write

from alexnet_lab import load_run
from alexnet_lab.data.sources import load_images
from alexnet_lab.evaluation import onnx_model
from alexnet_lab.evaluation.onnx_model import export_onnx
from alexnet_lab.predictions_file import read_predictions
from alexnet_lab.records import RunFolder
from alexnet_lab.reports.export import export
from alexnet_lab.training.recipe import Recipe
from alexnet_lab.training.run import train_with_verdict

onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("torch_settings")]

TINY = Recipe(width=1 / 16, epochs=1, batch_size=16, instruments="off", threads=1)


def coloured(root):
    rng = np.random.default_rng(3)
    for label in (0, 1):
        for number in range(30):
            pixels = rng.integers(90 * label, 160 + 90 * label, (30, 40, 3)).astype(np.uint8)
            write(root / f"class {label}" / f"{number}.png", pixels)
    return str(root)


def probabilities(path, pixels):
    return runtime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"pixels": pixels})[0]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "run"
    before = torch.get_num_threads()
    assert train_with_verdict(TINY, RunFolder(path)) == 0
    torch.set_num_threads(before)
    return path


def test_the_file_gives_what_training_recorded_and_predict_says_with_lrn_as_its_operator(run, tmp_path):
    model, card = export_onnx(run, tmp_path / "out", replicates=200)
    test = read_predictions(run / "predictions.npz")["test"]
    pixels = load_images("digits").pixels[test.ids]
    got = probabilities(model, pixels)
    np.testing.assert_allclose(got, test.probabilities, atol=1e-5)
    files = [write(tmp_path / "files" / f"{at}.png", image[0]) for at, image in enumerate(pixels[:9])]
    np.testing.assert_allclose(got[:9], load_run(run).predict(files).probabilities, atol=1e-5)
    assert [node.op_type for node in onnx.load(model).graph.node].count("LRN") == 2
    facts = json.loads(card.read_text())
    assert facts["classes"] == list("0123456789")
    assert facts["input"]["shape"] == ["images", 1, 8, 8]
    assert facts["checked"]["largest_difference"] <= 1e-5
    assert facts["intended_use"] == "NOT FILLED"
    accuracy = RunFolder(run).verdict()["result"]["test"]["accuracy"]
    assert facts["test"]["figures"]["accuracy"]["value"] == accuracy


@pytest.mark.long
@pytest.mark.parametrize(
    "changes",
    [
        {"data": "digits", "ten_views": True, "norm": "bn"},
        {"data": "files", "augment": "crop,flip", "input_scale": "mean-image", "ten_views": True},
        {"data": "files", "channels": "grey", "channels_last": True, "norm": "gn", "act": "prelu"},
        {"data": "files", "network": "resnet18", "augment": "crop", "input_scale": "pixels"},
        {"data": "files", "preset": "source2012", "image_size": 67},
    ],
)
def test_preprocessing_of_every_kind_is_inside(changes, tmp_path):
    data = coloured(tmp_path / "data") if changes["data"] == "files" else "digits"
    recipe = replace(TINY, **{**changes, "data": data})
    assert train_with_verdict(recipe, RunFolder(tmp_path / "run")) == 0
    model, _ = export_onnx(tmp_path / "run", tmp_path / "out", replicates=200)
    images = load_images(data, load_run(tmp_path / "run").preprocessing.geometry.stored)
    test = read_predictions(tmp_path / "run" / "predictions.npz")["test"]
    np.testing.assert_allclose(probabilities(model, images.pixels[test.ids]), test.probabilities, atol=1e-5)


def test_a_file_that_differs_from_the_run_is_not_written(run, tmp_path, monkeypatch):

    class Blurred(onnx_model.FromPixels):
        def forward(self, pixels):
            return super().forward(pixels // 4 * 4)

    monkeypatch.setattr(onnx_model, "FromPixels", Blurred)
    with pytest.raises(ValueError, match="must give the run's probabilities to 1e-05, and differs by"):
        export_onnx(run, tmp_path / "out", replicates=200)
    assert list((tmp_path / "out").iterdir()) == []
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ValueError, match=r'onnxruntime is missing: pip install "alexnet-lab\[medical\]"'):
        export(run, "onnx", tmp_path / "out")


def test_ten_views_by_products_are_those_of_the_feed():
    from alexnet_lab.data.views import Geometry, ten_view_weights, ten_views

    for geometry in (Geometry(20, 8, 23), Geometry(20, 23, 23), Geometry(12, 60, 64)):
        rows, columns = ten_view_weights(geometry)
        pixels = torch.randn(2, 3, geometry.stored, geometry.stored)
        views = rows[:, None] @ pixels[:, None] @ columns.transpose(1, 2)[:, None]
        torch.testing.assert_close(views, ten_views(pixels, geometry), atol=1e-5, rtol=1e-5)
