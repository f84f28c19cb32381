"""The smallest Triton kernel, launched to find out whether Triton works on a device."""

# mypy: ignore-errors
# Jitted functions are Triton's own language in Python's syntax.

import torch
import triton
import triton.language as tl


@triton.jit
def one_kernel(out_ptr):
    tl.store(out_ptr, 1)


def launch(out: torch.Tensor) -> None:
    """Write 1 into `out`; raise what Triton raises. Does not wait, so a graph may be under capture."""
    with torch.cuda.device(out.device):
        one_kernel[(1,)](out)
