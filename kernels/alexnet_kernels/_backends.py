"""Which module computes a call: by the device, unless the caller names a backend."""

import functools
import importlib
import os
import subprocess
import warnings
from types import ModuleType
from typing import Literal, get_args

import torch

Backend = Literal["auto", "reference", "cpu", "triton"]


def check_name(backend: str) -> None:
    """Raise ValueError if there is no such backend."""
    if backend not in get_args(Backend):
        raise ValueError(f"backend must be one of {', '.join(map(repr, get_args(Backend)))}, got {backend!r}")


def choose(device: torch.device, backend: str, *, cpu: str, triton: str, reference: str) -> ModuleType:
    """Return the module for this device; the caller gives the module's name for each backend.

    "auto" never fails. Any other backend that cannot run on the device raises.
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
        if (trouble := triton_trouble(device)) is not None:
            raise RuntimeError(f"backend='triton' needs Triton: {trouble}; use backend='auto' for the reference")
        return importlib.import_module(triton)
    if backend == "auto" and device.type == "cpu":
        return importlib.import_module(cpu)
    if backend == "auto" and device.type == "cuda":
        if (trouble := triton_trouble(device)) is None:
            return importlib.import_module(triton)
        warn_once(trouble)
    return importlib.import_module(reference)


def interpreting() -> bool:
    """Return whether Triton kernels run in Triton's interpreter, which takes tensors on the CPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"


OLDEST_GPU = (7, 0)  # compute capability; for older ones Triton makes no code

# What a first launch raises where something is missing: RuntimeError without a C compiler or a usable driver,
# CalledProcessError without Python's headers, OSError where the cache cannot be written, AssertionError without
# libcuda, ImportError for what was built and does not load.
_FAILURES = (ImportError, OSError, RuntimeError, AssertionError, AttributeError, subprocess.SubprocessError)


@functools.cache
def triton_trouble(device: torch.device) -> str | None:
    """Return why Triton cannot be used on this device and what to do about it, or None.

    Imports Triton and, on CUDA, launches a tiny kernel, which takes about a second the first time on a machine.
    """
    try:
        import triton.language  # noqa: F401
        from triton.errors import TritonError
    except (ImportError, OSError, AttributeError, RuntimeError) as error:  # absent, or installed and broken
        return f"it does not import here ({error}); pip install 'triton>=3.6,<3.9'"
    if device.type != "cuda":
        return None
    capability = torch.cuda.get_device_capability(device)
    if capability < OLDEST_GPU:
        return (
            f"it needs a GPU of compute capability {_dotted(OLDEST_GPU)} or newer, and {device} has "
            f"{_dotted(capability)}; the reference is all that runs there"
        )
    out = torch.zeros(1, dtype=torch.int32, device=device)  # outside, so that a full GPU says that it is full
    try:
        from alexnet_kernels import _triton_probe

        _triton_probe.launch(out)
    except (*_FAILURES, TritonError) as error:
        return (
            f"its first kernel does not start here ({type(error).__name__}: {error}); it needs a C compiler and "
            "Python's headers (Debian: apt install gcc python3-dev) and a cache folder that can be written"
        )
    return None


def _dotted(capability: tuple[int, int]) -> str:
    return ".".join(map(str, capability))


@functools.cache
def warn_once(trouble: str) -> None:
    """Warn once that CUDA tensors use the reference, and say what to install."""
    warnings.warn(
        f"alexnet_kernels uses its slow reference on CUDA, because Triton does not work: {trouble}", stacklevel=4
    )
