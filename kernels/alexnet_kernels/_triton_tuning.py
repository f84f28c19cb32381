"""Which configuration a Triton kernel runs with: measured on the device, once for each class of shapes.

A configuration sets how work is cut up, never what is computed for a value. The first of each list is the default. It
is used without measuring

- for tensors of fewer than 2^20 elements,
- under torch.use_deterministic_algorithms: two processes may choose differently, and compilers may round differently,
- while a CUDA graph is captured, in Triton's interpreter, and where ALEXNET_KERNELS_TUNE=0 is set.
"""

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from triton.runtime.errors import OutOfResources

Configuration = dict[str, int]

# Rolling kernels: the most channels of a CHUNK, how far AHEAD values and gradients (AHEAD_G) are loaded, pixels of a
# BLOCK. Tiles: the values of a TILE.
CONFIGURATIONS: dict[str, list[Configuration]] = {
    "rolling_forward": [
        {"CHUNK": 32, "AHEAD": 8, "BLOCK": 128, "num_warps": 4},
        {"CHUNK": 32, "AHEAD": 8, "BLOCK": 256, "num_warps": 8},
        {"CHUNK": 32, "AHEAD": 8, "BLOCK": 256, "num_warps": 4},
        {"CHUNK": 16, "AHEAD": 8, "BLOCK": 128, "num_warps": 4},
    ],
    "rolling_backward": [
        {"CHUNK": 32, "AHEAD": 6, "AHEAD_G": 6, "BLOCK": 128, "num_warps": 4},
        {"CHUNK": 32, "AHEAD": 6, "AHEAD_G": 6, "BLOCK": 256, "num_warps": 8},
        {"CHUNK": 32, "AHEAD": 8, "AHEAD_G": 8, "BLOCK": 128, "num_warps": 4},
        {"CHUNK": 16, "AHEAD": 6, "AHEAD_G": 6, "BLOCK": 128, "num_warps": 4},
    ],
    "rolling_pool_forward": [
        {"CHUNK": 16, "BLOCK": 128, "num_warps": 4},
        {"CHUNK": 16, "BLOCK": 256, "num_warps": 8},
        {"CHUNK": 8, "BLOCK": 128, "num_warps": 4},
    ],
    "rolling_pool_backward": [
        {"CHUNK": 16, "AHEAD": 2, "AHEAD_G": 1, "BLOCK": 128, "num_warps": 4},
        {"CHUNK": 16, "AHEAD": 2, "AHEAD_G": 1, "BLOCK": 64, "num_warps": 2},
        {"CHUNK": 8, "AHEAD": 2, "AHEAD_G": 1, "BLOCK": 128, "num_warps": 4},
    ],
    **{
        f"tile_{pass_}": [
            {"TILE": 2048, "num_warps": 4},
            {"TILE": 4096, "num_warps": 8},
            {"TILE": 1024, "num_warps": 4},
            {"TILE": 1024, "num_warps": 2},
        ]
        for pass_ in ("forward", "backward", "pool_forward", "pool_backward")
    },
}
SMALLEST = 2**20  # elements of a tensor for which measuring is worth its time
MARGIN = 0.97  # another configuration replaces the default if it takes less than this share of its time

chosen: dict[tuple[Any, ...], Configuration] = {}  # by kernel, device and class of shapes


def run(kernel: str, x: Tensor, constants: dict[str, Any], launch: Callable[[Configuration], None]) -> None:
    """Launch a kernel over x in the configuration for its class of shapes, which is measured first if it is new.

    `launch` may be called many times: kernels write the same output each time.
    """
    choices = CONFIGURATIONS[kernel]
    if not _worth_measuring(x):
        launch(choices[0])
        return
    numbers = tuple(sorted((name, str(value)) for name, value in constants.items()))
    key = (kernel, x.device, x.dtype, x.shape[1], x.numel().bit_length(), numbers)
    if key not in chosen:
        chosen[key] = fastest(choices, launch, seconds_on_device)
    launch(chosen[key])


def _worth_measuring(x: Tensor) -> bool:
    return (
        x.is_cuda
        and x.numel() >= SMALLEST
        and os.environ.get("ALEXNET_KERNELS_TUNE") != "0"
        and not torch.are_deterministic_algorithms_enabled()
        and not torch.cuda.is_current_stream_capturing()
    )


def fastest(
    choices: list[Configuration],
    launch: Callable[[Configuration], None],
    seconds: Callable[[Callable[[], None]], float],
) -> Configuration:
    """Return the fastest configuration, or the first unless another is faster by a margin."""
    best, least = choices[0], seconds(lambda: launch(choices[0])) * MARGIN
    for choice in choices[1:]:
        try:
            taken = seconds(lambda choice=choice: launch(choice))  # type: ignore[misc]
        except OutOfResources:  # it needs more shared memory or threads than this GPU has
            continue
        if taken < least:
            best, least = choice, taken
    return best


def seconds_on_device(run: Callable[[], None], launches: int = 20, rounds: int = 3) -> float:
    """Return the least time of a launch, compiled before: `launches` of them between two events, `rounds` times."""
    run()
    times: list[float] = []
    for _ in range(rounds):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        start.record()
        for _ in range(launches):
            run()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1e3 / launches)
    return min(times)
