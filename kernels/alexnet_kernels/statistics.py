"""Counting kernels for monitoring training: exact int64 counts, added to a buffer on the tensor's device.

Nothing here waits for the device, so a training step can call it and read the buffer once in a while.
"""

import torch
from torch import Tensor, library

from alexnet_kernels import _backends
from alexnet_kernels._backends import Backend
from alexnet_kernels._geometry import check_strided

_HISTOGRAM = "alexnet_kernels::add_exponent_histogram"
_OFF = "alexnet_kernels::add_off_counts"

_DTYPES = (
    torch.float64,
    torch.float32,
    torch.bfloat16,
    torch.float16,
    torch.float8_e4m3fn,
    torch.float8_e4m3fnuz,
    torch.float8_e5m2,
    torch.float8_e5m2fnuz,
)


def exponent_histogram(x: Tensor, *, into: Tensor | None = None, backend: Backend = "auto") -> Tensor:
    """Count the values of x by sign and by power of two, exactly.

    Returns int64 counts of shape (2, columns): row 0 for values without a minus sign, row 1 for those with one. Column
    0 counts zeros, column 1 subnormals of x's dtype, the last but one infinities, the last NaN. Between them, column
    e - first_exponent(x.dtype) + 2 counts 2**e <= |x| < 2**(e + 1). float64 has 2050 columns; every other dtype shares
    the 258 of float32, so that tensors of different precision can be laid side by side.

    `into` is such a tensor to add the counts to; it is returned.
    """
    _check("exponent_histogram", x)
    _backends.check_name(backend)
    counts = _buffer("exponent_histogram", into, (2, histogram_columns(x.dtype)), x.device)
    torch.ops.alexnet_kernels.add_exponent_histogram(x.detach(), counts, backend)
    return counts


def off_counts(pre_activation: Tensor, *, into: Tensor | None = None, backend: Backend = "auto") -> Tensor:
    """Count, for each unit, the inputs on which it is off, and its elements that are <= 0.

    A unit is a column of (N, C) or a channel of (N, C, *). It is off on an input when its pre-activation is <= 0 at
    every position; a NaN is not <= 0. Returns int64 counts of shape (2, C): row 0 inputs, row 1 elements.

    `into` is such a tensor to add the counts to; it is returned.
    """
    x = pre_activation
    _check("off_counts", x)
    if x.dim() < 2:
        raise ValueError(f"off_counts needs N and C, got shape {tuple(x.shape)}")
    if x.dtype.itemsize == 1:
        x = x.bfloat16()  # exact; torch has no comparison for float8
    _backends.check_name(backend)
    counts = _buffer("off_counts", into, (2, x.shape[1]), x.device)
    torch.ops.alexnet_kernels.add_off_counts(x.detach(), counts, backend)
    return counts


def first_exponent(dtype: torch.dtype) -> int:
    """Return the power of two that column 2 of the histogram stands for."""
    return -1022 if dtype == torch.float64 else -126


def histogram_columns(dtype: torch.dtype) -> int:
    """Return how many columns the histogram has: every normal exponent, and zero, subnormal, infinity and NaN."""
    return 2050 if dtype == torch.float64 else 258


def _check(name: str, x: Tensor) -> None:
    check_strided(name, x)
    if x.dtype not in _DTYPES:
        raise TypeError(
            f"{name} needs float64, float32, bfloat16, float16 or float8 (e4m3, e5m2), got {x.dtype}; "
            "convert it with x.float()"
        )


def _buffer(name: str, into: Tensor | None, shape: tuple[int, int], device: torch.device) -> Tensor:
    if into is None:
        return torch.zeros(shape, dtype=torch.int64, device=device)
    if into.shape != shape or into.dtype != torch.int64 or into.device != device or not into.is_contiguous():
        raise ValueError(
            f"{name} adds to a contiguous int64 tensor of shape {shape} on {device}, "
            f"got {into.dtype} of shape {tuple(into.shape)} on {into.device}; make one with {name}(x)"
        )
    return into


def _code(x: Tensor, backend: str) -> object:
    return _backends.choose(
        x.device,
        backend,
        cpu="alexnet_kernels._statistics",
        triton="alexnet_kernels._triton_statistics",
        reference="alexnet_kernels._statistics",
    )


def _add_exponent_histogram(x: Tensor, counts: Tensor, backend: str) -> None:
    _code(x, backend).add_exponent_histogram(x, counts)  # type: ignore[attr-defined]


def _add_off_counts(x: Tensor, counts: Tensor, backend: str) -> None:
    _code(x, backend).add_off_counts(x, counts)  # type: ignore[attr-defined]


for _name, _function in ((_HISTOGRAM, _add_exponent_histogram), (_OFF, _add_off_counts)):
    _schema = library.infer_schema(_function, mutates_args={"counts"})
    library.define(_name, _schema, tags=(torch.Tag.pt2_compliant_tag,))
    library.impl(_name, "CompositeExplicitAutograd", _function)
    library.register_fake(_name, lambda _x, _counts, _backend: None)
