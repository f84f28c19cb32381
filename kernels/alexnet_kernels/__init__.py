"""Local response normalisation and measuring kernels: tensors in, tensors out.

>>> import torch
>>> from alexnet_kernels import local_response_norm
>>> x = torch.rand(8, 96, 55, 55)
>>> y = local_response_norm(x, size=5, alpha=1e-4, beta=0.75, k=2.0, window="sum")  # the 2012 paper's formula
"""

from alexnet_kernels.normalisation import local_response_norm

__all__ = ["local_response_norm"]
