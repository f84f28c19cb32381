"""Local response normalisation in an ONNX graph: the operator LRN where it says the same, else plain operations."""

from typing import Any

import torch
from torch import Tensor

from alexnet_kernels import _reference


def exporting() -> bool:
    """Return whether torch.onnx.export is at work; cheap where nothing is traced."""
    tracing: bool = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    return (torch.compiler.is_exporting() or tracing) and torch.onnx.is_in_onnx_export()


def lrn(x: Tensor, size: int, scale: float, beta: float, k: float, groups: int, relu: bool) -> Tensor:
    """Return what _reference.lrn returns, as ONNX operators.

    ONNX's LRN centres even windows elsewhere than torch does, its graphs of before torch.export have no symbolic
    operators, and onnxruntime runs it for float32 images alone: the rest is written in plain operations.
    """
    if size % 2 == 0 or x.dim() != 4 or x.dtype != torch.float32 or not torch.compiler.is_exporting():
        return _reference.lrn(x, size, scale, beta, k, groups, relu)
    batch, channels, height, width = x.shape
    x = torch.relu(x) if relu else x
    towers = x if groups == 1 else x.reshape(batch * groups, channels // groups, height, width)
    numbers: dict[str, Any] = {"alpha": scale * size, "beta": float(beta), "bias": float(k), "size": size}
    y = torch.onnx.ops.symbolic("LRN", (towers,), numbers, dtype=x.dtype, shape=towers.shape, version=13)
    return y if groups == 1 else y.reshape(batch, channels, height, width)
