"""The parts that networks are built from and torch does not have, and the sequence that runs them.

Shapes: N batch, C channels, H W pixels.
"""

from collections.abc import Sequence

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

    def forward(self, x: Tensor) -> Tensor:
        """Normalise each value by its neighbours across channels."""
        return local_response_norm(x, self.size, self.alpha, self.beta, self.k, window=self.window, groups=self.groups)

    def after_relu(self, x: Tensor) -> Tensor:
        """Normalise relu(x), in one pass."""
        return relu_lrn(x, self.size, self.alpha, self.beta, self.k, window=self.window, groups=self.groups)

    def after_relu_pooled(self, x: Tensor) -> Tensor:
        """Normalise relu(x) and take the maximum over 3x3 at stride 2, in one pass."""
        return relu_lrn_maxpool(x, self.size, self.alpha, self.beta, self.k, window=self.window, groups=self.groups)

    def extra_repr(self) -> str:
        """Show the constants, since five conventions go by the same name."""
        return (
            f"size={self.size}, alpha={self.alpha}, beta={self.beta}, k={self.k}, "
            f"window={self.window}, groups={self.groups}"
        )


class WithinMapNorm(nn.Module):
    """The 2012 code's second norm in layer 2: the same formula over a square of pixels inside one feature map."""

    def __init__(self, size: int = 5, scale: float = 1e-3 / 25, beta: float = 0.75) -> None:
        super().__init__()
        self.size, self.scale, self.beta = size, scale, beta

    def forward(self, x: Tensor) -> Tensor:
        """Normalise each value by its neighbours on the map; beyond the edge there is nothing to add."""
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        energy = F.avg_pool2d(wide.square(), self.size, stride=1, padding=self.size // 2, divisor_override=1)
        return (wide / (1 + self.scale * energy).pow(self.beta)).to(x.dtype)


class Dropout(nn.Module):
    """Dropout in both conventions, with masks that can be drawn from a named stream.

    inverted=True scales by 1/(1-p) while training, as everyone does now; inverted=False scales by (1-p) at test,
    as in 2012. `generator`, when set, is where the masks come from; `part` = (index, count) says that the batch is that
    part of a larger one, whose mask is drawn whole and cut: a batch computed in parts has the masks of the whole one.
    """

    def __init__(self, p: float, inverted: bool = True) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, got {p}")
        self.p, self.inverted = p, inverted
        self.generator: Generator | None = None
        self.part = (0, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Silence each value with probability p while training."""
        if not self.training:
            return x if self.inverted else x * (1 - self.p)
        index, count = self.part
        whole = torch.empty(len(x) * count, *x.shape[1:], dtype=x.dtype, device=x.device)
        keep = whole.bernoulli_(1 - self.p, generator=self.generator)[index * len(x) : (index + 1) * len(x)]
        return x * keep.div_(1 - self.p) if self.inverted else x * keep

    def extra_repr(self) -> str:
        """Show both settings."""
        return f"p={self.p}, inverted={self.inverted}"


class Add(nn.Module):
    """The sum that closes a residual block: a module, so that instruments and tables see it."""

    def forward(self, shortcut: Tensor, residual: Tensor) -> Tensor:
        """Return shortcut + residual."""
        return shortcut + residual


class PartSequence(nn.Sequential):
    """A sequence that runs ReLU, LRN and a 3/2 max-pool in one pass where they stand in a row.

    The numbers are those of the parts one by one, to rounding. Who listens to a ReLU's input is called before the pass,
    so that watching it changes no number; a part that somebody has hooked in any other way is run by itself, so that
    the hook sees what it came for.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Run the parts in order."""
        layers = list(self.children())
        at = 0
        while at < len(layers):
            norm = layers[at + 1] if at + 1 < len(layers) else None
            if not isinstance(norm, LocalResponseNorm) or not _can_fuse(layers[at], norm):
                x = layers[at](x)
                at += 1
                continue
            x = _announced(layers[at], x)
            if at + 2 < len(layers) and _is_three_two_pool(layers[at + 2], x):
                x = norm.after_relu_pooled(x)
                at += 3
            else:
                x = norm.after_relu(x)
                at += 2
        return x


def _can_fuse(relu: nn.Module, norm: nn.Module) -> bool:
    """Say whether ReLU and norm may run as one: nobody listens to what lies between them, or to their gradients."""
    unheard = not (relu._forward_hooks or relu._backward_hooks or relu._backward_pre_hooks)
    return type(relu) is nn.ReLU and unheard and _is_plain([norm], LocalResponseNorm)


def _announced(relu: nn.Module, x: Tensor) -> Tensor:
    """Call the forward pre-hooks of a module as running it would, and return the input it would then have."""
    for number, hook in relu._forward_pre_hooks.items():
        if number in relu._forward_pre_hooks_with_kwargs:
            answer = hook(relu, (x,), {})
            answer = None if answer is None else answer[0]
        else:
            answer = hook(relu, (x,))
        if answer is not None:
            x = answer[0] if isinstance(answer, tuple) else answer
    return x


def _is_plain(layers: Sequence[nn.Module], first: type[nn.Module]) -> bool:
    """Say whether the first layer is of that very type and nobody listens to any of them."""
    return type(layers[0]) is first and not any(
        layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks
        for layer in layers
    )


def _is_three_two_pool(layer: nn.Module, x: Tensor) -> bool:
    if not isinstance(layer, nn.MaxPool2d) or not _is_plain([layer], nn.MaxPool2d):
        return False
    shape_fits = (layer.kernel_size, layer.stride, layer.padding, layer.dilation) == (3, 2, 0, 1)
    # Rounding up makes no difference where the last window ends on the last pixel.
    rounds_down = not layer.ceil_mode or all((side - 3) % 2 == 0 for side in x.shape[-2:])
    return shape_fits and rounds_down and min(x.shape[-2:]) >= 3
