"""Histograms by power of two, added up over windows of measured steps, on the device until they are drained.

Every value is counted as float32 (float64 in a network of doubles), whose bins resolve what is subnormal in float16. A
tensor above 2^20 elements counts every k-th in memory order, about 2^18 of them, k sharing no factor with any side, so
that no channel or column is favoured. Weights are counted once per window, since they hardly move within it.

Shapes: R rows of a window, each one kind of tensor at one place; 2 signs; B bins.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alexnet_kernels.statistics import first_exponent, histogram_columns

LARGEST_WHOLE, SAMPLE = 2**20, 2**18  # elements of a tensor that is counted whole, at most; and of a larger one


_GRADIENT = 1  # index into flow.KINDS
_DTYPES: dict[str, Any] = {
    "kind": np.int8,
    "subject": np.int16,
    "first_step": np.int32,
    "last_step": np.int32,
    "tensors": np.int32,
    "stride": np.int32,
    "underflow": np.float32,
    "overflow": np.float32,
    "signal_to_noise": np.float32,
}


def stride_through(shape: Sequence[int], largest_whole: int = LARGEST_WHOLE, sample: int = SAMPLE) -> int:
    """Return 1, or for a larger tensor the smallest stride that leaves a sample and shares no factor with any side."""
    elements = math.prod(shape)
    if elements <= largest_whole:
        return 1
    stride = -(-elements // sample)
    while any(math.gcd(stride, side) > 1 for side in shape if side > 1):
        stride += 1
    return stride


def in_memory_order(x: Tensor) -> Tensor:
    """Return the elements as a vector, without a copy where they lie in a row."""
    if torch.compiler.is_compiling():  # compiled code decides on layouts itself, and must not ask about them
        return x.flatten()
    if x.is_contiguous() or (x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)):
        return x.as_strided((x.numel(),), (1,))
    return x.flatten()


@dataclass
class HistogramRow:
    """One tensor's histogram over the open window."""

    kind: int
    subject: int
    counts: Tensor
    stride: int = 0  # 0 until the first tensor, whose size decides it for good
    tensors: int = 0
    compiled_tensors: Tensor = field(default_factory=lambda: torch.zeros(0))

    def add(self, x: Tensor, factor: Tensor | float = 1.0) -> None:
        """Count a tensor, times a factor."""
        x = x.detach()
        if not self.stride:
            self.stride = stride_through(x.shape)
        flat = in_memory_order(x)[:: self.stride]
        # The bins of float32 resolve what is subnormal in float16.
        wide = torch.float64 if self.counts.shape[1] == histogram_columns(torch.float64) else torch.float32
        flat = flat.to(wide)
        if not isinstance(factor, float) or factor != 1.0:
            flat = flat * factor
        # The operator itself, not its public face: that looks at memory layouts, which breaks a compiled graph in two.
        torch.ops.alexnet_kernels.add_exponent_histogram(flat, self.counts, "auto")
        if torch.compiler.is_compiling():
            self.compiled_tensors.add_(1)
        else:
            self.tensors += 1

    def clear(self) -> None:
        """Count from nothing again; the stride stays."""
        self.counts.zero_()
        self.compiled_tensors.zero_()
        self.tensors = 0


def new_row(kind: int, subject: int, wide: bool, device: torch.device) -> HistogramRow:
    """Start a histogram; float64 has bins of its own."""
    columns = histogram_columns(torch.float64 if wide else torch.float32)
    counts = torch.zeros(2, columns, dtype=torch.int64, device=device)
    return HistogramRow(kind, subject, counts, compiled_tensors=torch.zeros((), dtype=torch.int64, device=device))


def bin_origin(wide: bool) -> int:
    """Return the power of two of column 2."""
    return first_exponent(torch.float64 if wide else torch.float32)


@dataclass
class ClosedWindow:
    """The rows of a window that is full."""

    first_step: int
    last_step: int
    keys: list[tuple[int, int, int]]  # kind, subject, stride
    tensors: Tensor  # (R,), how many were added up
    counts: Tensor  # (R, 2, B)
    signal_to_noise: Tensor  # of the parameters that have one, in their order


class Histograms:
    """The open window and those closed since the last drain."""

    def __init__(self, wide: bool) -> None:
        self.wide = wide
        self.rows: dict[tuple[int, int], HistogramRow] = {}
        self.closed: list[ClosedWindow] = []

    def row(self, kind: int, subject: int, device: torch.device) -> HistogramRow:
        """Return the open row of a kind and subject, a new one if there is none."""
        key = (kind, subject)
        if key not in self.rows:
            self.rows[key] = new_row(kind, subject, self.wide, device)
        return self.rows[key]

    def open_window(self, first_step: int = 0, last_step: int = 0, ratio: Tensor | None = None) -> ClosedWindow:
        """Return the open window as it stands."""
        rows = list(self.rows.values())
        keys = [(row.kind, row.subject, row.stride) for row in rows]
        device = rows[0].counts.device if rows else torch.device("cpu")
        own = torch.tensor([row.tensors for row in rows], dtype=torch.int64, device=device)
        ratio = torch.zeros(0, device=device) if ratio is None else ratio
        if not rows:
            columns = histogram_columns(torch.float64 if self.wide else torch.float32)
            return ClosedWindow(first_step, last_step, keys, own, own.new_zeros(0, 2, columns), ratio)
        tensors = own + torch.stack([row.compiled_tensors.to(device) for row in rows])
        counts = torch.stack([row.counts.to(device) for row in rows])
        return ClosedWindow(first_step, last_step, keys, tensors, counts, ratio)

    def close_window(self, first_step: int, last_step: int, ratio: Tensor) -> None:
        """Keep the open window as it is, with the signal-to-noise ratios that go with it, and start the next."""
        self.closed.append(self.open_window(first_step, last_step, ratio))
        self.forget_window()

    def forget_window(self) -> None:
        """Forget what the open window counted."""
        for row in self.rows.values():
            row.clear()

    def reopen(self, window: ClosedWindow) -> None:
        """Go on with a window as it stood."""
        for (kind, subject, stride), tensors, counts in zip(window.keys, window.tensors, window.counts, strict=True):
            row = self.row(kind, subject, counts.device)
            row.clear()
            row.counts.copy_(counts)
            row.stride, row.tensors = stride, int(tensors)


def shares_out_of_range(counts: NDArray[np.int64], precision: str, origin: int) -> tuple[Any, Any]:
    """Return, of each row, the share of values that a precision flushes to zero, and the share it has no number for.

    fp16: other than zero and below its smallest subnormal, 2^-24; 2^16 and above. bf16 and fp32 share a range: below
    the smallest normal number, 2^-126, where hardware may flush; infinite.
    """
    by_size = counts.sum(1)
    total = np.maximum(by_size.sum(1), 1)
    if precision == "fp16":
        below = by_size[:, 1 : max(1, 2 - 24 - origin)].sum(1)
        above = by_size[:, 2 + 16 - origin : -1].sum(1)
    else:
        below = by_size[:, 1 : max(2, 2 - 126 - origin)].sum(1)
        above = by_size[:, 2 + 128 - origin : -1].sum(1) if origin < -126 else by_size[:, -2]
    return below / total, above / total


def columns_of(
    windows: Sequence[ClosedWindow], noisy: Sequence[int], precision: str, origin: int
) -> tuple[dict[str, NDArray[Any]], NDArray[np.int64]]:
    """Lay out closed windows as the records' table of windows and the histograms beside it; empty rows are left out.

    `noisy` names the parameters that the signal-to-noise ratios belong to.
    """
    parts: dict[str, list[NDArray[Any]]] = {name: [] for name in _DTYPES}
    histograms = []
    for window in windows:
        tensors = window.tensors.cpu().numpy()
        is_used = tensors > 0
        kinds, subjects, strides = np.array(window.keys, np.int64).reshape(-1, 3).T[:, is_used]
        counts = window.counts.cpu().numpy()[is_used]
        ratio = dict(zip(noisy, window.signal_to_noise.tolist(), strict=True))
        below, above = shares_out_of_range(counts, precision, origin)
        values = {
            "kind": kinds,
            "subject": subjects,
            "first_step": np.full(len(kinds), window.first_step),
            "last_step": np.full(len(kinds), window.last_step),
            "tensors": tensors[is_used],
            "stride": strides,
            "underflow": below,
            "overflow": above,
            "signal_to_noise": [
                ratio.get(int(subject), math.nan) if kind == _GRADIENT else math.nan
                for kind, subject in zip(kinds, subjects, strict=True)
            ],
        }
        for name, column in values.items():
            parts[name].append(np.asarray(column))
        histograms.append(counts)
    columns = {
        name: np.concatenate(parts[name]).astype(dtype) if windows else np.zeros(0, dtype)
        for name, dtype in _DTYPES.items()
    }
    bins = histogram_columns(torch.float64 if origin < -126 else torch.float32)
    return columns, np.concatenate(histograms) if histograms else np.zeros((0, 2, bins), np.int64)
