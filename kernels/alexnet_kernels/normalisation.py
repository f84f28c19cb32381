"""Local response normalisation, for any device.

Shapes: N batch, C channels, * any number of further dimensions.
"""

from typing import Literal

import torch
from torch import Tensor

from alexnet_kernels import _reference

Window = Literal["mean", "sum"]
Backend = Literal["auto", "reference", "cpu", "triton"]


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
    """
    if x.dim() < 3:
        raise ValueError(f"local_response_norm needs N, C and at least one more dimension, got shape {tuple(x.shape)}")
    if not x.is_floating_point():
        raise TypeError(f"local_response_norm needs a floating-point tensor, got {x.dtype}; convert it with x.float()")
    if size < 1:
        raise ValueError(f"local_response_norm needs a window size of at least 1, got {size}")
    if backend not in ("auto", "reference"):
        raise ValueError(f"backend is 'auto' or 'reference' so far, got {backend!r}")
    if window not in ("mean", "sum"):
        raise ValueError(f"window is 'mean' or 'sum', got {window!r}")
    if groups < 1 or x.shape[1] % groups:
        raise ValueError(f"groups must divide the {x.shape[1]} channels, got {groups}")
    # Sums of squares overflow float16 from |x| = 256 on, and bfloat16 keeps too few digits of them.
    wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    y = _reference.local_response_norm(wide, size, alpha / size if window == "mean" else alpha, beta, k, groups)
    return y.to(x.dtype)
