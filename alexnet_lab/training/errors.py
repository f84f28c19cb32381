"""The errors that end a run: divergence, lack of memory, interruption; and what to say about each."""

import math
import traceback
from collections.abc import Callable

import torch
from torch import Tensor, nn


class DivergedError(Exception):
    """The loss or an output is infinite or NaN: a result of the run, not an error of the program."""


class OutOfMemoryError(Exception):
    """A batch does not fit; the message names one that does."""


class InterruptedRunError(Exception):
    """The run was asked to stop; it can continue from its checkpoint."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that memory ran out, on a GPU or a CPU (where torch raises RuntimeError)."""
    words = ("can't allocate memory", "not enough memory", "out of memory", "STATUS_ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and any(word in str(error) for word in words)
    )


def largest_fitting(batch_size: int, attempt: Callable[[int], None]) -> int:
    """Halve the batch until a step fits in memory; 0 if not even one image does."""
    size = batch_size // 2
    while size:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        try:
            attempt(size)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            traceback.clear_frames(error.__traceback__)  # they hold the activations of the attempt
            size //= 2
        else:
            return size
    return 0


def memory_of_others(device: str) -> str:
    """Return what to add to advice on memory where other processes hold a tenth of the GPU's or more; else nothing."""
    if device != "cuda":
        return ""
    free, total = torch.cuda.mem_get_info()
    others = total - free - torch.cuda.memory_reserved()
    if others < total / 10:
        return ""
    return (
        f"; other processes hold {others / 2**30:.1f} of the GPU's {total / 2**30:.1f} GiB (nvidia-smi names them); "
        "end them, or take another GPU with CUDA_VISIBLE_DEVICES"
    )


@torch.no_grad()
def largest_weights(network: nn.Module) -> Tensor:
    """Return the largest absolute value of each parameter, infinite or NaN where the parameter is; on the device."""
    return torch.stack(torch._foreach_norm([value.detach().float() for value in network.parameters()], math.inf))


@torch.no_grad()
def first_bad_layer(network: nn.Module, pixels: Tensor, largest: Tensor | None = None) -> str:
    """Name the first layer that is not finite, by its weights after an update or its output for this batch.

    `largest` is what `largest_weights` returned after that update; without it the update is the last one.
    """
    largest = largest_weights(network) if largest is None else largest
    finite = torch.isfinite(largest).tolist()
    broken = [name for (name, _), is_finite in zip(network.named_parameters(), finite, strict=True) if not is_finite]
    if broken:
        # Backward runs from the last layer to the first, so the last broken one is where the gradient broke first.
        return f"the last update made {broken[-1]} infinite or NaN" + (
            f", and {len(broken) - 1} more parameters" if len(broken) > 1 else ""
        )
    broken_layers: list[str] = []
    handles = []
    for name, layer in network.named_modules():
        if name and not any(True for _ in layer.children()):

            def look(_layer: nn.Module, _inputs: object, output: object, name: str = name) -> None:
                if isinstance(output, Tensor) and not bool(torch.isfinite(output).all()):
                    broken_layers.append(name)

            handles.append(layer.register_forward_hook(look))
    try:
        network(pixels)
    finally:
        for handle in handles:
            handle.remove()
    return (
        f"the output of {broken_layers[0]} is the first that is not finite"
        if broken_layers
        else "every layer's output was finite"
    )
