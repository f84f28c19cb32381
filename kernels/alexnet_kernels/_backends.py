"""Which code runs a call: by the device, unless the caller says."""

import functools
import importlib
import os
import warnings
from types import ModuleType
from typing import Literal, get_args

import torch

Backend = Literal["auto", "reference", "cpu", "triton"]


def check_name(backend: str) -> None:
    """Refuse a backend that does not exist, before anything runs."""
    if backend not in get_args(Backend):
        raise ValueError(f"backend is one of {', '.join(map(repr, get_args(Backend)))}, got {backend!r}")


def choose(device: torch.device, backend: str, *, cpu: str, triton: str, reference: str) -> ModuleType:
    """Return the module that serves this device, named for each backend by the caller.

    `auto` never fails; a backend asked for by name that cannot serve the device is an error.
    """
    if backend == "cpu":
        if device.type != "cpu":
            raise ValueError(f"backend='cpu' needs a tensor on the CPU, got one on {device}; use backend='auto'")
        return importlib.import_module(cpu)
    if backend == "triton":
        if device.type != "cuda" and not (device.type == "cpu" and interpreting()):
            raise ValueError(
                f"backend='triton' needs a tensor on CUDA, got one on {device}; use backend='auto', "
                "or set TRITON_INTERPRET=1 before the first call to run the kernels in Triton's interpreter"
            )
        if (trouble := triton_trouble()) is not None:
            raise RuntimeError(f"backend='triton' needs Triton: {trouble}; use backend='auto' for the reference")
        return importlib.import_module(triton)
    if backend == "auto" and device.type == "cpu":
        return importlib.import_module(cpu)
    if backend == "auto" and device.type == "cuda":
        if (trouble := triton_trouble()) is None:
            return importlib.import_module(triton)
        warn_once(trouble)
    return importlib.import_module(reference)


def interpreting() -> bool:
    """Say whether Triton kernels run in Triton's interpreter, where tensors lie on the CPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"


@functools.cache
def triton_trouble() -> str | None:
    """Return why Triton cannot be used here and what to install, or None. Imports Triton."""
    try:
        import triton.language  # noqa: F401
    except (ImportError, OSError, AttributeError, RuntimeError) as error:  # absent, or installed and broken
        return f"it does not import here ({error}); pip install 'triton>=3.6,<3.9'"
    return None


@functools.cache
def warn_once(trouble: str) -> None:
    """Say once that CUDA tensors take the slow path, and what would make it fast."""
    warnings.warn(f"alexnet_kernels uses its plain torch reference on CUDA: Triton: {trouble}", stacklevel=4)
