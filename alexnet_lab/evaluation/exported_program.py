"""A finished run as a torch.export program that takes pixels and gives probabilities, checked against the run.

    model.pt2    torch.export.load("model.pt2").module()(pixels)
                 pixels, uint8, images x channels x side x side  ->  probabilities, float32, images x classes
    card.json    the card of the ONNX file (onnx_model.py)

It is the module that goes to ONNX. Local response normalisation is written in torch's own operators, so that torch
alone loads it. The file is written only if it gives the run's own probabilities when it is read back.
"""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from alexnet_lab.evaluation.onnx_model import AT_ONCE, export_checked, from_pixels, quiet
from alexnet_lab.evaluation.resampling import REPLICATES
from alexnet_lab.evaluation.trained import Run
from alexnet_lab.networks.parts import LocalResponseNorm

MODEL = "model.pt2"


def export_program(folder: Path, out: Path, replicates: int = REPLICATES) -> list[Path]:
    """Write model.pt2 and card.json; return their paths.

    Raises ValueError where the file does not give the run's probabilities.
    """
    by = f"torch {torch.__version__}"
    return export_checked(folder, out, MODEL, "torch.export program", _write_program, _probabilities, by, replicates)


def _write_program(run: Run, path: Path) -> None:
    model, sample = from_pixels(run)
    for module in model.modules():
        if isinstance(module, LocalResponseNorm):
            module.backend = "reference"
    with quiet():
        program = torch.export.export(model, (sample,), dynamic_shapes=({0: torch.export.Dim("images")},))
        torch.export.save(program, path)


def _probabilities(path: Path, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return what the file gives for pixels, N K, some images at a time."""
    with quiet(), torch.no_grad():
        module = torch.export.load(path).module()
        parts = [
            module(torch.from_numpy(np.array(pixels[at : at + AT_ONCE]))).numpy()
            for at in range(0, len(pixels), AT_ONCE)
        ]
    got: NDArray[np.float32] = np.concatenate(parts)
    return got
