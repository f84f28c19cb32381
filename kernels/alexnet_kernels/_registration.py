"""The operators as torch knows them: torch.compile, torch.export, vmap and double backward see one opaque call.

The backend is an argument of the operator, and its code is looked up when it runs: a program exported on a CPU uses the
Triton kernels when it runs on CUDA.

Each operator has three ways to a derivative:

- Reverse mode: a closed form, registered as the operator's Autograd kernel.
- torch.func.grad and vmap, which do not see that kernel's autograd.Function: `call_...` applies another one.
- Forward mode, alone or mixed with the others: the Autograd kernel computes the reference's formula in torch's own
  operations, which torch differentiates in every mode.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, library
from torch.autograd import forward_ad

from alexnet_kernels import _backends, _reference
from alexnet_kernels._geometry import pooled_layout, pooled_outputs, window_reach

_WIDEST_ROLLING = 16  # channels: the widest window that a Triton kernel keeps in registers


def _code(x: Tensor, backend: str, size: int, groups: int) -> Any:
    code = _backends.choose(
        x.device,
        backend,
        cpu="alexnet_kernels._cpu",
        triton="alexnet_kernels._triton_lrn",
        reference="alexnet_kernels._reference",
    )
    if code.__name__.endswith("_triton_lrn") and sum(window_reach(size, x.shape[1] // groups)) >= _WIDEST_ROLLING:
        if backend == "triton":
            raise ValueError(
                f"backend='triton' covers windows of up to {_WIDEST_ROLLING} channels, got {size}; use backend='auto'"
            )
        return _reference
    return code


def _operator(name: str) -> Callable[[Callable[..., Any]], Any]:
    """Define an operator for every device from a typed function.

    torch's custom_op does the same, but its first call imports the compiler and Triton (1.2 s), and every call
    takes some microseconds more.
    """

    def define(function: Callable[..., Any]) -> Any:
        schema = library.infer_schema(function, mutates_args=())
        library.define(name, schema, tags=(torch.Tag.pt2_compliant_tag,))
        library.impl(name, "CompositeExplicitAutograd", function)
        namespace, short = name.split("::")
        return getattr(getattr(torch.ops, namespace), short).default

    return define


def _laid_out_as(x: Tensor, values: Tensor) -> Tensor:
    """Return `values`, newly made, in the memory layout of empty_like(x), which the fake tensors promise."""
    if values.stride() == x.stride():  # then x is dense, as `values` is, and empty_like keeps its strides
        return values
    promised = torch.empty_like(x, device="meta").stride()  # no memory, and no kernel that fills it
    return values if values.stride() == promised else torch.empty_like(x).copy_(values)


def _differentiable(
    operator: Any, formula: Callable[..., Any], save: Callable[..., None], differentiate: Callable[..., tuple[Any, ...]]
) -> Callable[..., Any]:
    """Give an operator its derivatives, and return what calls it with or without function transforms active.

    `formula` takes the operator's arguments and returns what it returns, computed in torch's own operations.
    """

    def below_autograd(*inputs: Any) -> Any:
        with torch._C._AutoDispatchBelowAutograd():
            return operator(*inputs)

    def forward(ctx: Any, *inputs: Any) -> Any:
        output = below_autograd(*inputs)
        save(ctx, inputs, output)
        return output

    methods = {"forward": staticmethod(forward), "backward": staticmethod(differentiate)}
    recorded: Any = type(f"{operator._opname}_recorded", (torch.autograd.Function,), methods)

    def autograd_kernel(*inputs: Any) -> Any:
        if forward_ad._current_level >= 0 or torch._C._are_functorch_transforms_active():
            return formula(*inputs)
        if torch.is_grad_enabled() and torch._C._any_requires_grad(*inputs):
            return recorded.apply(*inputs)
        return below_autograd(*inputs)

    library.impl(operator.name(), "Autograd", autograd_kernel)

    methods = {
        "forward": staticmethod(operator),
        "setup_context": staticmethod(save),
        "backward": staticmethod(differentiate),
        "generate_vmap_rule": True,  # type: ignore[dict-item]
    }
    transformed: Any = type(f"{operator._opname}_transformed", (torch.autograd.Function,), methods)

    def call(*inputs: Any) -> Any:
        transforming = not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active()
        if transforming and forward_ad._current_level < 0:
            return transformed.apply(*inputs)
        return operator(*inputs)

    return call


# ---- x -> lrn(x) ----


@_operator("alexnet_kernels::lrn")
def lrn(x: Tensor, size: int, scale: float, beta: float, k: float, groups: int, relu: bool, backend: str) -> Tensor:
    """Return x, rectified if `relu`, over (k + scale * window energy) ** beta."""
    return _laid_out_as(x, _code(x, backend, size, groups).lrn(x, size, scale, beta, k, groups, relu))


@_operator("alexnet_kernels::lrn_backward")
def lrn_backward(
    gradient: Tensor,
    x: Tensor,
    size: int,
    scale: float,
    beta: float,
    k: float,
    groups: int,
    relu: bool,
    backend: str,
) -> Tensor:
    """Return the gradient of lrn with respect to x."""
    return _laid_out_as(
        x, _code(x, backend, size, groups).lrn_backward(gradient, x, size, scale, beta, k, groups, relu)
    )


library.register_fake("alexnet_kernels::lrn", lambda x, *_numbers: torch.empty_like(x))
library.register_fake("alexnet_kernels::lrn_backward", lambda _gradient, x, *_numbers: torch.empty_like(x))


def _save_lrn(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, *ctx.numbers = inputs
    ctx.save_for_backward(x)


def _differentiate_lrn(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
    (x,) = ctx.saved_tensors
    return call_lrn_backward(gradient, x, *ctx.numbers), *(None for _ in ctx.numbers)


def _save_lrn_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    gradient, x, *ctx.numbers = inputs
    ctx.save_for_backward(gradient, x)


def _differentiate_lrn_backward(ctx: Any, v: Tensor) -> tuple[Any, ...]:
    gradient, x = ctx.saved_tensors
    ddg, ddx = _reference.lrn_double_backward(v, gradient, x, *ctx.numbers[:-1])
    return ddg, ddx, *(None for _ in ctx.numbers)


def _lrn_formula(x: Tensor, *numbers: Any) -> Tensor:
    return _reference.lrn(x, *numbers[:-1])


def _lrn_backward_formula(gradient: Tensor, x: Tensor, *numbers: Any) -> Tensor:
    return _reference.lrn_backward(gradient, x, *numbers[:-1])


call_lrn = _differentiable(lrn, _lrn_formula, _save_lrn, _differentiate_lrn)
call_lrn_backward = _differentiable(
    lrn_backward, _lrn_backward_formula, _save_lrn_backward, _differentiate_lrn_backward
)


# ---- x -> maxpool(lrn(relu(x))) ----


@_operator("alexnet_kernels::relu_lrn_maxpool")
def relu_lrn_maxpool(
    x: Tensor,
    size: int,
    scale: float,
    beta: float,
    k: float,
    groups: int,
    pool: int,
    stride: int,
    keep_winners: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """Return the pooled output and the winners' places in their windows (empty unless kept)."""
    y, winners = _code(x, backend, size, groups).relu_lrn_maxpool(
        x, size, scale, beta, k, groups, pool, stride, keep_winners
    )
    layout = pooled_layout(x)
    # Every backend but the reference has made them so already, and then nothing is copied.
    return y.contiguous(memory_format=layout), winners.contiguous(memory_format=layout) if keep_winners else winners


@_operator("alexnet_kernels::relu_lrn_maxpool_backward")
def relu_lrn_maxpool_backward(
    gradient: Tensor,
    x: Tensor,
    winners: Tensor,
    size: int,
    scale: float,
    beta: float,
    k: float,
    groups: int,
    pool: int,
    stride: int,
    backend: str,
) -> Tensor:
    """Return the gradient of relu_lrn_maxpool with respect to x."""
    code = _code(x, backend, size, groups)
    return _laid_out_as(
        x, code.relu_lrn_maxpool_backward(gradient, x, winners, size, scale, beta, k, groups, pool, stride)
    )


# The last four numbers are pool, stride, whether to keep the winners, and the backend.
library.register_fake("alexnet_kernels::relu_lrn_maxpool", lambda x, *numbers: pooled_outputs(x, *numbers[-4:-1]))
library.register_fake("alexnet_kernels::relu_lrn_maxpool_backward", lambda _gradient, x, *_: torch.empty_like(x))


def _save_pooled(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, *ctx.numbers = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(x, output[1])


def _differentiate_pooled(ctx: Any, gradient: Tensor, _of_winners: Any) -> tuple[Any, ...]:
    x, winners = ctx.saved_tensors
    *shape, keep_winners, backend = ctx.numbers
    if not keep_winners:  # the winners were not kept, since no gradient was expected: compute them again
        _, winners = relu_lrn_maxpool(x.detach(), *shape, True, backend)
    return call_relu_lrn_maxpool_backward(gradient, x, winners, *shape, backend), *(None for _ in ctx.numbers)


def _save_pooled_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    gradient, x, winners, *ctx.numbers = inputs
    ctx.save_for_backward(gradient, x, winners)


def _differentiate_pooled_backward(ctx: Any, v: Tensor) -> tuple[Any, ...]:
    gradient, x, winners = ctx.saved_tensors
    size, scale, beta, k, groups, pool, stride, _ = ctx.numbers
    flat = _reference.winner_indices(winners, x.shape[3], pool, stride).flatten(2)
    spread = _reference.unpooled(gradient, x, winners, pool, stride)
    ddg, ddx = _reference.lrn_double_backward(v, spread, x, size, scale, beta, k, groups, True)
    return ddg.flatten(2).gather(2, flat).view_as(gradient), ddx, *(None for _ in range(len(ctx.numbers) + 1))


def _pooled_formula(x: Tensor, *numbers: Any) -> tuple[Tensor, Tensor]:
    return _reference.relu_lrn_maxpool(x, *numbers[:-1])


def _pooled_backward_formula(gradient: Tensor, x: Tensor, winners: Tensor, *numbers: Any) -> Tensor:
    return _reference.relu_lrn_maxpool_backward(gradient, x, winners, *numbers[:-1])


call_relu_lrn_maxpool = _differentiable(relu_lrn_maxpool, _pooled_formula, _save_pooled, _differentiate_pooled)
call_relu_lrn_maxpool_backward = _differentiable(
    relu_lrn_maxpool_backward, _pooled_backward_formula, _save_pooled_backward, _differentiate_pooled_backward
)


# ---- vmap: the mapped dimension joins the batch ----


def _folded(tensor: Tensor, dimension: int | None, mapped: int) -> Tensor:
    if dimension is None:
        return tensor.expand(mapped, *tensor.shape).flatten(0, 1)
    return tensor.movedim(dimension, 0).flatten(0, 1)


def _map_over_batch(operator: Any, tensors: int) -> None:
    def rule(info: Any, dimensions: tuple[Any, ...], *inputs: Any) -> tuple[Any, Any]:
        mapped = info.batch_size
        folded = [_folded(inputs[i], dimensions[i], mapped) for i in range(tensors)]
        result = operator(*folded, *inputs[tensors:])
        batch = inputs[0].shape[1 if dimensions[0] == 0 else 0]  # not part.shape[0] // mapped, since mapped may be 0

        def unfold(part: Tensor) -> Tensor:
            return part.view(mapped, batch, *part.shape[1:])

        if isinstance(result, Tensor):
            return unfold(result), 0
        # Winners that were not kept are one empty tensor, the same for all.
        mapped_of = [None if part.dim() == 1 else 0 for part in result]
        return tuple(part if part.dim() == 1 else unfold(part) for part in result), tuple(mapped_of)

    library.register_vmap(operator.name(), rule)


_map_over_batch(lrn, 1)
_map_over_batch(lrn_backward, 2)
_map_over_batch(relu_lrn_maxpool, 1)
_map_over_batch(relu_lrn_maxpool_backward, 3)
