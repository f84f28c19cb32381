"""A network as a table: layer, output shape, parameters, multiply-adds, receptive field.

Shapes come from one forward pass of a copy on the meta device, which holds no numbers: the network itself stays
untouched, and none is too large.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from alexnet_lab.networks.parts import WithinMapNorm


@dataclass(frozen=True)
class Field:
    """The square of input pixels that one output value depends on, and the distance between neighbouring squares."""

    side: int = 1
    step: int = 1
    whole: bool = False  # the whole image, as after a global pool or a fully connected layer

    def through(self, window: int, stride: int) -> "Field":
        """Return the field after a layer with that window and stride."""
        return Field(self.side + (window - 1) * self.step, self.step * stride, self.whole)

    def __str__(self) -> str:
        return "all" if self.whole else str(self.side)


@dataclass(frozen=True)
class LayerRow:
    """One layer of a network."""

    name: str
    kind: str
    output_shape: tuple[int, ...]  # without the batch
    parameters: int
    multiply_adds: int  # for one image; 0 for every layer but convolutions and linear layers
    receptive_field: str  # side in pixels, or "all"


def summarise(network: nn.Module, image_size: int, in_channels: int = 3) -> list[LayerRow]:
    """Return one row per layer in the order of computation, for square images; the network is not changed."""
    rows: list[LayerRow] = []
    fields: dict[int, Field] = {}
    outputs: list[Tensor] = []  # keeps every output alive, so that no id is given out twice

    def record(name: str, layer: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        of_inputs = [fields[id(x)] for x in inputs if isinstance(x, Tensor) and id(x) in fields]
        # A sum has the larger field of its two inputs. An input that no layer returned continues the layer before.
        field = max(of_inputs, key=lambda f: (f.whole, f.side)) if of_inputs else fields[id(outputs[-1])]
        field = _field_after(layer, field, inputs[0].shape)
        fields[id(output)] = field
        outputs.append(output)
        parameters = sum(p.numel() for p in layer.parameters())
        shape = tuple(output.shape[1:])
        rows.append(LayerRow(name, type(layer).__name__, shape, parameters, _multiply_adds(layer, output), str(field)))

    dtype = next((p.dtype for p in network.parameters() if p.is_floating_point()), None)
    image = torch.empty(2, in_channels, image_size, image_size, device="meta", dtype=dtype)
    fields[id(image)] = Field()
    outputs.append(image)
    skeleton = _meta_copy(network).eval()
    with _hooked(skeleton, record), torch.no_grad():
        skeleton(image)
    return rows


def _meta_copy(network: nn.Module) -> nn.Module:
    """Copy a network onto the meta device, without its hooks, which may lead to anything and would be called."""
    replaced: dict[int, Any] = {}  # by id of the original: deepcopy takes these in place of copies
    for parameter in network.parameters():
        replaced[id(parameter)] = nn.Parameter(
            torch.empty_like(parameter, device="meta"), requires_grad=parameter.requires_grad
        )
    for module in network.modules():
        for name, value in [*module.named_buffers(recurse=False), *vars(module).items()]:
            if isinstance(value, Tensor):
                replaced.setdefault(id(value), torch.empty_like(value, device="meta"))
            elif isinstance(value, dict) and "_hooks" in name:
                replaced[id(value)] = type(value)()
    return copy.deepcopy(network, replaced)


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


def _field_after(layer: nn.Module, field: Field, input_shape: torch.Size) -> Field:
    match layer:
        case nn.Conv2d() | nn.MaxPool2d():
            window = _side(layer.dilation) * (_side(layer.kernel_size) - 1) + 1
            return field.through(window, _side(layer.stride))
        case nn.AvgPool2d():
            return field.through(_side(layer.kernel_size), _side(layer.stride))
        case WithinMapNorm():
            return field.through(layer.size, 1)
        case nn.AdaptiveAvgPool2d() if layer.output_size not in (1, (1, 1)):
            before, after = input_shape[-1], _side(layer.output_size)
            # Window i of m over n pixels goes from floor(i n / m) to ceil((i + 1) n / m).
            window = max(-(-(i + 1) * before // after) - i * before // after for i in range(after))
            return field.through(window, max(1, before // after))
        # Group and instance norm divide by statistics of the whole map, also at test.
        case nn.Linear() | nn.AdaptiveAvgPool2d() | nn.GroupNorm() | nn.InstanceNorm2d(track_running_stats=False):
            return Field(field.side, field.step, whole=True)
    return field


def _side(size: Any) -> int:
    """Read one number out of torch's int or (height, width), the larger of the two."""
    return max(size) if isinstance(size, tuple) else int(size)


def _multiply_adds(layer: nn.Module, output: Tensor) -> int:
    if isinstance(layer, nn.Conv2d):
        return layer.weight[0].numel() * output[0].numel()
    if isinstance(layer, nn.Linear):
        return layer.weight.numel()
    return 0
