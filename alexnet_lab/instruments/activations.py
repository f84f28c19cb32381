"""Which modules and which functions of torch are activations, and by which name the records know them.

An activation called as a function (`F.relu(x)`, `torch.relu(x)`, `x.relu()`, `x.clamp(min=0)`) has the name of the
module that does the same.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MODULES: tuple[type[nn.Module], ...] = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish),
    *(nn.Tanh, nn.Sigmoid, nn.LogSigmoid, nn.Softplus, nn.Softsign, nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh),
    *(nn.Tanhshrink, nn.Threshold, nn.Hardshrink, nn.Softshrink),
)

_NAMES = {module.__name__.lower(): module.__name__ for module in MODULES}
_NAMES |= {"leaky_relu": "LeakyReLU", "expit": "Sigmoid"}
_CLAMPS = ("clamp", "clip", "clamp_min")
_MOVES = ("permute", "transpose", "swapaxes", "swapdims", "movedim", "moveaxis", "t")


def _functions(names: Sequence[str]) -> dict[Callable[..., Any], str]:
    """Return the functions and methods of these names, those that work in place among them."""
    spaces = (torch, Tensor, F, torch.special)
    named = [(getattr(space, name + end, None), name) for space in spaces for name in names for end in ("", "_")]
    return {function: name for function, name in named if callable(function)}


FUNCTIONS = _functions((*_NAMES, *_CLAMPS))
MOVES = {*_functions(_MOVES), Tensor.T.__get__, Tensor.mT.__get__}  # type: ignore[attr-defined]


def activation_of(module: nn.Module) -> str | None:
    """Return the name of an activation module, or None.

    A subclass of torch's modules is one only if it computes what its parent does. One with a `forward` of its own is
    known by the functions that it calls.
    """
    for ancestor in type(module).__mro__:
        if ancestor in MODULES:
            return ancestor.__name__
        if "forward" in vars(ancestor):
            return None
    return None


def activation_called(function: Callable[..., Any], args: Sequence[Any], named: Mapping[str, Any]) -> str | None:
    """Return the name of the activation that a call of a torch function computes, or None.

    `clamp` with a minimum of 0 and no maximum is a ReLU, and one with a maximum of 6 a ReLU6.
    """
    name = FUNCTIONS.get(function)
    if name not in _CLAMPS:
        return None if name is None else _NAMES[name]
    low = args[1] if len(args) > 1 else named.get("min")
    high = args[2] if len(args) > 2 else named.get("max")
    if not isinstance(low, int | float) or low != 0:
        return None
    if high is None:
        return "ReLU"
    return "ReLU6" if isinstance(high, int | float) and high == 6 else None
