"""Local response normalisation and measuring kernels: tensors in, tensors out.

>>> import torch
>>> from alexnet_kernels import LocalResponseNorm, local_response_norm
>>> x = torch.rand(8, 96, 55, 55)
>>> y = local_response_norm(x, size=5, alpha=1e-4, beta=0.75, k=2.0, window="sum")  # the 2012 paper's formula
>>> layer = LocalResponseNorm(5)  # in the place of torch.nn.LocalResponseNorm
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from alexnet_kernels._backends import triton_trouble
    from alexnet_kernels.modules import LocalResponseNorm
    from alexnet_kernels.normalisation import local_response_norm, relu_lrn, relu_lrn_maxpool
    from alexnet_kernels.statistics import exponent_histogram, off_counts

__all__ = [
    "LocalResponseNorm",
    "exponent_histogram",
    "local_response_norm",
    "off_counts",
    "relu_lrn",
    "relu_lrn_maxpool",
    "triton_trouble",
]

_HOME = {
    "triton_trouble": "alexnet_kernels._backends",
    "LocalResponseNorm": "alexnet_kernels.modules",
    "local_response_norm": "alexnet_kernels.normalisation",
    "relu_lrn": "alexnet_kernels.normalisation",
    "relu_lrn_maxpool": "alexnet_kernels.normalisation",
    "exponent_histogram": "alexnet_kernels.statistics",
    "off_counts": "alexnet_kernels.statistics",
}


def __getattr__(name: str) -> object:
    """Import a name when it is first used, so that the benchmark's --help answers without torch."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
