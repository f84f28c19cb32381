"""Local response normalisation, alone and with the ReLU before it and the max-pooling after it, for any device.

Shapes: N batch, C channels, * any number of further dimensions.
"""

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from alexnet_kernels import _backends, _onnx, _reference, _registration
from alexnet_kernels._backends import Backend
from alexnet_kernels._geometry import check_strided

Window = Literal["mean", "sum"]

_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
_WIDEST_POOL = 16  # the place of a maximum in its window is kept in one byte


def local_response_norm(
    x: Tensor,
    size: int,
    alpha: float = 1e-4,
    beta: float = 0.75,
    k: float = 1.0,
    *,
    window: Window = "mean",
    groups: int = 1,
    backend: Backend = "auto",
) -> Tensor:
    """Divide each value by a power of the energy of its neighbours across channels.

    y[c] = x[c] / (k + alpha * s[c]) ** beta, with s[c] the sum of squares over `size` channels around c.

    window="mean" divides that sum by `size`, as torch.nn.functional.local_response_norm, Caffe and the 2012 code do;
    window="sum" does not, as the 2012 paper writes it. `groups` splits the channels into that many towers, and no
    window crosses from one to the next.

    Arithmetic is in float32 for half-precision input. The output has the memory layout of x, and only x is kept for the
    backward pass. `backend` is "reference" (plain torch), "cpu", "triton", or "auto", which goes by the device.
    """
    scale = _checked("local_response_norm", x, size, alpha, beta, k, window, groups, backend)
    if _onnx.exporting():
        return _onnx.lrn(x, size, scale, beta, k, groups, False)
    if backend == "reference":
        return _reference.lrn(x, size, scale, beta, k, groups, False)
    y: Tensor = _registration.call_lrn(x, size, scale, beta, k, groups, False, backend)
    return y


def relu_lrn(
    x: Tensor,
    size: int,
    alpha: float = 1e-4,
    beta: float = 0.75,
    k: float = 1.0,
    *,
    window: Window = "mean",
    groups: int = 1,
    backend: Backend = "auto",
) -> Tensor:
    """Return local_response_norm(relu(x), ...) in one pass, forward and backward."""
    scale = _checked("relu_lrn", x, size, alpha, beta, k, window, groups, backend)
    if _onnx.exporting():
        return _onnx.lrn(x, size, scale, beta, k, groups, True)
    if backend == "reference":
        return _reference.lrn(x, size, scale, beta, k, groups, True)
    y: Tensor = _registration.call_lrn(x, size, scale, beta, k, groups, True, backend)
    return y


def relu_lrn_maxpool(
    x: Tensor,
    size: int,
    alpha: float = 1e-4,
    beta: float = 0.75,
    k: float = 1.0,
    *,
    window: Window = "mean",
    groups: int = 1,
    pool: int = 3,
    stride: int = 2,
    backend: Backend = "auto",
) -> Tensor:
    """Return max_pool2d(local_response_norm(relu(x), ...), pool, stride) in one pass, forward and backward.

    No padding, partial windows dropped, ties and NaN as torch has them. Only x and one byte for each output are kept
    for the backward pass.
    """
    scale = _checked("relu_lrn_maxpool", x, size, alpha, beta, k, window, groups, backend)
    _check_pool(x, pool, stride)
    if _onnx.exporting():
        return F.max_pool2d(_onnx.lrn(x, size, scale, beta, k, groups, True), pool, stride)
    if backend == "reference":
        return _reference.relu_lrn_maxpool(x, size, scale, beta, k, groups, pool, stride, False)[0]
    keep_winners = torch.is_grad_enabled() and x.requires_grad
    y: Tensor
    y, _ = _registration.call_relu_lrn_maxpool(x, size, scale, beta, k, groups, pool, stride, keep_winners, backend)
    return y


def _checked(
    name: str, x: Tensor, size: int, alpha: float, beta: float, k: float, window: str, groups: int, backend: str
) -> float:
    """Check the arguments, and return the factor of the window's sum of squares."""
    check_strided(name, x)
    if x.dim() < 3:
        raise ValueError(f"{name} needs N, C and at least one more dimension, got shape {tuple(x.shape)}")
    if x.dtype not in _DTYPES:
        raise TypeError(f"{name} needs float16, bfloat16, float32 or float64, got {x.dtype}; convert with x.float()")
    if size < 1:
        raise ValueError(f"{name} needs a window size of at least 1, got {size}")
    if window not in get_args(Window):
        raise ValueError(f"window must be 'mean' or 'sum', got {window!r}")
    if groups < 1 or x.shape[1] % groups:
        raise ValueError(f"groups must divide the {x.shape[1]} channels, got {groups}")
    if not (k > 0 or (k == 0 and beta <= 0)):
        raise ValueError(f"k must be positive, else zeros in x are divided by zero; got k={k} with beta={beta}")
    _backends.check_name(backend)
    return alpha / size if window == "mean" else alpha


def _check_pool(x: Tensor, pool: int, stride: int) -> None:
    if x.dim() != 4:
        raise ValueError(f"relu_lrn_maxpool needs N, C, H and W, got shape {tuple(x.shape)}")
    if not 1 <= pool <= _WIDEST_POOL:
        raise ValueError(f"pool must be from 1 to {_WIDEST_POOL}, got {pool}; use max_pool2d(relu_lrn(x, ...)) instead")
    if stride < 1:
        raise ValueError(f"stride must be at least 1, got {stride}")
    if min(x.shape[2:]) < pool:
        raise ValueError(f"the pool of {pool} does not fit into an image of {tuple(x.shape[2:])}; use a smaller pool")
