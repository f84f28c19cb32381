"""A network as a table: layer, output shape, parameters, multiply-adds, receptive field.

Measured by one forward pass on the meta device: shapes without numbers, so that no network is too large to look at.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Field:
    """The square of input pixels that one output value can see, and how far apart two neighbours' squares stand."""

    side: int = 1
    step: int = 1
    whole: bool = False  # a global pool or a fully connected layer has seen the whole image

    def through(self, kernel: int, stride: int) -> "Field":
        """Look through a window of that size."""
        return Field(self.side + (kernel - 1) * self.step, self.step * stride, self.whole)

    def __str__(self) -> str:
        return "all" if self.whole else str(self.side)


@dataclass(frozen=True)
class LayerRow:
    """One layer of a network, measured."""

    name: str
    kind: str
    output_shape: tuple[int, ...]  # without the batch
    parameters: int
    multiply_adds: int  # of convolutions and linear layers, for one image; all else is counted as none
    receptive_field: str


def summarise(network: nn.Module, image_size: int, in_channels: int = 3) -> list[LayerRow]:
    """Return one row per layer in the order of computation; the network may stand on the meta device."""
    rows: list[LayerRow] = []
    fields: dict[int, Field] = {}
    seen: list[Tensor] = []  # keeps every output alive, so that no id is given out twice

    def record(name: str, layer: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        known = [fields[id(x)] for x in inputs if isinstance(x, Tensor) and id(x) in fields]
        # A sum sees what the wider of its branches sees; what a plain function returned continues the layer before.
        field = max(known, key=lambda f: (f.whole, f.side)) if known else fields[id(seen[-1])]
        field = _field_behind(layer, field)
        fields[id(output)] = field
        seen.append(output)
        parameters = sum(p.numel() for p in layer.parameters())
        shape = tuple(output.shape[1:])
        rows.append(LayerRow(name, type(layer).__name__, shape, parameters, _multiply_adds(layer, output), str(field)))

    image = torch.empty(2, in_channels, image_size, image_size, device="meta")
    fields[id(image)] = Field()
    seen.append(image)
    was_training = network.training
    with _hooked(network, record), torch.no_grad():
        network.to("meta").eval()(image)
    network.train(was_training)
    return rows


@contextmanager
def _hooked(network: nn.Module, record: Any) -> Iterator[None]:
    handles = [
        layer.register_forward_hook(lambda module, inputs, output, name=name: record(name, module, inputs, output))
        for name, layer in network.named_modules()
        if not any(True for _ in layer.children())
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _field_behind(layer: nn.Module, field: Field) -> Field:
    if isinstance(layer, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d):
        kernel, stride = layer.kernel_size, layer.stride
        return field.through(
            kernel[0] if isinstance(kernel, tuple) else kernel, stride[0] if isinstance(stride, tuple) else int(stride)
        )
    if isinstance(layer, nn.Linear) or (isinstance(layer, nn.AdaptiveAvgPool2d) and layer.output_size in (1, (1, 1))):
        return Field(field.side, field.step, whole=True)
    return field


def _multiply_adds(layer: nn.Module, output: Tensor) -> int:
    if isinstance(layer, nn.Conv2d):
        return layer.weight[0].numel() * output[0].numel()
    if isinstance(layer, nn.Linear):
        return layer.weight.numel()
    return 0
