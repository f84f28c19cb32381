"""Modules that networks are built from and torch does not have, and the sequence that runs them.

Shapes: N batch, C channels, H W pixels.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from alexnet_kernels import local_response_norm, relu_lrn, relu_lrn_maxpool
from alexnet_kernels.normalisation import Window


class LocalResponseNorm(nn.Module):
    """LRN with the paper's constants by default: size 5, alpha 1e-4 not divided by the size, beta 3/4, k 2."""

    def __init__(
        self,
        size: int = 5,
        alpha: float = 1e-4,
        beta: float = 0.75,
        k: float = 2.0,
        window: Window = "sum",
        groups: int = 1,
    ) -> None:
        super().__init__()
        self.size, self.alpha, self.beta, self.k, self.groups = size, alpha, beta, k, groups
        self.window: Window = window
        self.backend: Literal["auto", "reference"] = "auto"  # "reference" is written in torch's own operators

    def forward(self, x: Tensor) -> Tensor:
        """Divide every value of x (N, C, H, W) by its neighbours across channels; keep the shape."""
        return local_response_norm(
            x, self.size, self.alpha, self.beta, self.k, window=self.window, groups=self.groups, backend=self.backend
        )

    def after_relu(self, x: Tensor) -> Tensor:
        """Return the norm of relu(x), in one pass."""
        return relu_lrn(
            x, self.size, self.alpha, self.beta, self.k, window=self.window, groups=self.groups, backend=self.backend
        )

    def after_relu_pooled(self, x: Tensor) -> Tensor:
        """Return the maximum over 3x3 at stride 2 of the norm of relu(x), in one pass."""
        return relu_lrn_maxpool(
            x, self.size, self.alpha, self.beta, self.k, window=self.window, groups=self.groups, backend=self.backend
        )

    def extra_repr(self) -> str:
        """Show the constants, which differ between five conventions."""
        return (
            f"size={self.size}, alpha={self.alpha}, beta={self.beta}, k={self.k}, "
            f"window={self.window}, groups={self.groups}"
        )


class WithinMapNorm(nn.Module):
    """The second norm of layer 2 in the 2012 code: LRN's formula over a square of pixels in one feature map."""

    def __init__(self, size: int = 5, scale: float = 1e-3 / 25, beta: float = 0.75) -> None:
        super().__init__()
        self.size, self.scale, self.beta = size, scale, beta

    def forward(self, x: Tensor) -> Tensor:
        """Divide every value by its neighbours on the map; pixels beyond the edge count as 0."""
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        half = self.size // 2
        if torch.compiler.is_exporting():  # torch's ONNX exporter passes over the divisor
            energy = self.size**2 * F.avg_pool2d(wide.square(), self.size, stride=1, padding=half)
        else:
            energy = F.avg_pool2d(wide.square(), self.size, stride=1, padding=half, divisor_override=1)
        return (wide / (1 + self.scale * energy).pow(self.beta)).to(x.dtype)


class AdaptiveAvgPool2d(nn.AdaptiveAvgPool2d):
    """torch's, to a square, whose gradient can be computed by deterministic algorithms on a GPU too.

    There torch's own raises an error at the first backward pass, unless one value of each map is left.
    """

    def __init__(self, side: int) -> None:
        super().__init__(side)
        self.side = side

    def forward(self, x: Tensor) -> Tensor:
        """Average x (N, C, H, W) to (N, C, side, side)."""
        if self.side > 1 and _is_deterministic_on_gpu(x):
            return averaged_to(x, self.side)
        return super().forward(x)


def _is_deterministic_on_gpu(x: Tensor) -> bool:
    return x.is_cuda and torch.are_deterministic_algorithms_enabled()


def averaged_to(x: Tensor, side: int) -> Tensor:
    """Return the means over the windows of torch's adaptive pooling, as two products, whose gradients are products."""
    if x.shape[-2:] == (side, side):  # every window is one value
        return x
    with torch.autocast(x.device.type, enabled=False):
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        down, across = (_window_weights(length, side).to(wide) for length in x.shape[-2:])
        return (down @ wide @ across.T).to(x.dtype)


def _window_weights(length: int, side: int) -> Tensor:
    """Return a row for each window: 1 / its length inside, 0 elsewhere; from floor(i n / m) to ceil((i + 1) n / m)."""
    weights = torch.zeros(side, length, dtype=torch.float64)
    for i in range(side):
        start, end = i * length // side, -(-(i + 1) * length // side)
        weights[i, start:end] = 1 / (end - start)
    return weights


class Dropout(nn.Module):
    """Dropout in both conventions, with masks that can be drawn from a generator of its own.

    inverted=True scales by 1/(1-p) in training, as is usual today; inverted=False scales by (1-p) at test, as in 2012.
    Masks come from `generator`, or from torch's default one if it is None. `part` = (index, count) declares the batch
    to be that part of a larger one: the mask of the larger batch is drawn and cut, so that a batch computed in parts
    gets the masks of the whole. An index that is a tensor of one element may change without compiling again.
    """

    def __init__(self, p: float, inverted: bool = True) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, got {p}")
        self.p, self.inverted = p, inverted
        self.generator: Generator | None = None
        self.part: tuple[int | Tensor, int] = (0, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Set every value to 0 with probability p in training."""
        if not self.training:
            return x if self.inverted else x * (1 - self.p)
        index, count = self.part
        all_parts = torch.empty(count, *x.shape, dtype=x.dtype, device=x.device)
        keep = all_parts.bernoulli_(1 - self.p, generator=self.generator)[index].view(x.shape)
        return x * keep.div_(1 - self.p) if self.inverted else x * keep

    def extra_repr(self) -> str:
        """Show both settings."""
        return f"p={self.p}, inverted={self.inverted}"


class Add(nn.Module):
    """The sum of a residual block, as a module, so that instruments and summaries see it."""

    def forward(self, shortcut: Tensor, residual: Tensor) -> Tensor:
        """Return shortcut + residual."""
        return shortcut + residual


class PartSequence(nn.Sequential):
    """A sequence that runs a ReLU, an LRN and a 3/2 max-pool that follow each other in one pass.

    The results equal those of the modules one by one, up to rounding. Forward pre-hooks of the ReLU are called before
    the pass. A module with any other hook is run by itself, so that the hook gets its inputs and outputs.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Run the modules in order."""
        layers = list(self.children())
        at = 0
        while at < len(layers):
            norm = layers[at + 1] if at + 1 < len(layers) else None
            if not isinstance(norm, LocalResponseNorm) or not _can_fuse(layers[at], norm):
                x = layers[at](x)
                at += 1
                continue
            x = _call_pre_hooks(layers[at], x)
            if at + 2 < len(layers) and _is_three_two_pool(layers[at + 2], x):
                x = norm.after_relu_pooled(x)
                at += 3
            else:
                x = norm.after_relu(x)
                at += 2
        return x


def _can_fuse(relu: nn.Module, norm: nn.Module) -> bool:
    """Return whether ReLU and norm may run in one pass: no hook sees the values between them, or their gradients."""
    unhooked = not (relu._forward_hooks or relu._backward_hooks or relu._backward_pre_hooks)
    return type(relu) is nn.ReLU and unhooked and _is_plain(norm, LocalResponseNorm)


def _call_pre_hooks(relu: nn.Module, x: Tensor) -> Tensor:
    """Call the forward pre-hooks of a module as torch does, and return the input that they leave."""
    for number, hook in relu._forward_pre_hooks.items():
        if number in relu._forward_pre_hooks_with_kwargs:
            answer = hook(relu, (x,), {})
            answer = None if answer is None else answer[0]
        else:
            answer = hook(relu, (x,))
        if answer is not None:
            x = answer[0] if isinstance(answer, tuple) else answer
    return x


def _is_plain(layer: nn.Module, kind: type[nn.Module]) -> bool:
    """Return whether the layer is of exactly that type and has no hook."""
    return type(layer) is kind and not (
        layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks
    )


def _is_three_two_pool(layer: nn.Module, x: Tensor) -> bool:
    if not isinstance(layer, nn.MaxPool2d) or not _is_plain(layer, nn.MaxPool2d):
        return False
    shape_fits = (layer.kernel_size, layer.stride, layer.padding, layer.dilation) == (3, 2, 0, 1)
    # Rounding up makes no difference if the last window ends on the last pixel.
    rounds_down = not layer.ceil_mode or all((side - 3) % 2 == 0 for side in x.shape[-2:])
    return shape_fits and rounds_down and min(x.shape[-2:]) >= 3
