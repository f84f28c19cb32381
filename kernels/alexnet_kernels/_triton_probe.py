"""The smallest Triton kernel, launched to find out whether Triton works on a device."""

# mypy: ignore-errors
# Jitted functions are Triton's own language in Python's syntax.

import torch
import triton
import triton.language as tl

# Of every kernel. A product and a sum become one instruction, as up to Triton 3.9 by default, which warns of a change.
COMPILED = {"enable_fp_fusion": True}


@triton.jit
def one_kernel(out_ptr):
    tl.store(out_ptr, 1)


def launch(out: torch.Tensor) -> None:
    """Write 1 into `out`; raise what Triton raises. Does not wait, so a graph may be under capture."""
    with torch.cuda.device(out.device):
        one_kernel[(1,)](out, **COMPILED)
