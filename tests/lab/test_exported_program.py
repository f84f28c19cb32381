"""A run as a torch.export program: it gives the probabilities of the run and needs torch alone."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from alexnet_lab.data.sources import load_images
from alexnet_lab.evaluation import onnx_model
from alexnet_lab.evaluation.exported_program import export_program
from alexnet_lab.predictions_file import read_predictions
from alexnet_lab.records import RunFolder
from alexnet_lab.training.recipe import Recipe
from alexnet_lab.training.run import train_with_verdict

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("torch_settings")]

TINY = Recipe(width=1 / 16, epochs=1, batch_size=16, instruments="off", threads=1)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("program") / "run"
    before = torch.get_num_threads()
    assert train_with_verdict(TINY, RunFolder(path)) == 0
    torch.set_num_threads(before)
    return path


@pytest.fixture(scope="module")
def written(run, tmp_path_factory):
    return export_program(run, tmp_path_factory.mktemp("out"), replicates=200)


def test_the_program_gives_what_training_recorded_for_any_number_of_images(run, written):
    model, card = written
    program = torch.export.load(model).module()
    test = read_predictions(run / "predictions.npz")["test"]
    pixels = torch.from_numpy(load_images("digits").pixels[test.ids].copy())
    for count in (1, 2, 37):
        np.testing.assert_allclose(program(pixels[:count]).detach(), test.probabilities[:count], atol=1e-5)
    facts = json.loads(card.read_text())
    assert facts["checked"]["largest_difference"] <= 1e-5
    assert facts["checked"]["of"] == "the test"
    assert facts["input"]["shape"] == ["images", 1, 8, 8]


@pytest.mark.long
def test_torch_alone_loads_the_program(written):
    code = (
        "import sys, torch; module = torch.export.load(sys.argv[1]).module(); "
        "assert not any(name.startswith('alexnet') for name in sys.modules); "
        "print(module(torch.zeros(3, 1, 8, 8, dtype=torch.uint8)).shape[1])"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, str(written[0])], check=False, capture_output=True, text=True
    )
    assert done.stdout.strip() == "10", done.stderr


def test_the_program_has_no_operator_of_this_package(written):
    nodes = torch.export.load(written[0]).graph.nodes
    assert not [node.target for node in nodes if "alexnet_kernels" in str(node.target)]
    assert any("pow" in str(node.target) for node in nodes)  # LRN's, in torch's own operators


def test_a_program_that_differs_from_the_run_is_not_written(run, tmp_path, monkeypatch):
    class Blurred(onnx_model.FromPixels):
        def forward(self, pixels):
            return super().forward(pixels // 4 * 4)

    monkeypatch.setattr(onnx_model, "FromPixels", Blurred)
    with pytest.raises(ValueError, match=r"torch\.export program must give the run's probabilities to 1e-05"):
        export_program(run, tmp_path / "out", replicates=200)
    assert list((tmp_path / "out").iterdir()) == []
