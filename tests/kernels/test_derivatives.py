"""Derivatives in every mode torch has, beside those of torch's own normalisation and pooling, in float64."""

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import forward_ad

from alexnet_kernels import local_response_norm, relu_lrn, relu_lrn_maxpool

TORCHS = {
    local_response_norm: lambda x: F.local_response_norm(x, 5, 0.5),
    relu_lrn: lambda x: F.local_response_norm(F.relu(x), 5, 0.5),
    relu_lrn_maxpool: lambda x: F.max_pool2d(F.local_response_norm(F.relu(x), 5, 0.5), 3, 2),
}
functions = pytest.mark.parametrize("function", TORCHS)


def tensor(seed, *shape):
    return torch.randn(shape or (2, 6, 5, 7), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def ours(function, backend):
    return lambda x: function(x, 5, 0.5, backend=backend)


def cubed(function):
    return lambda x: function(x).pow(3).sum()


def by_dual_tensors(function, x, v):
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(function(forward_ad.make_dual(x, v))).tangent


def beside_a_sum(function, x, v):
    """The sum keeps a tangent of its own, so one that the function drops would not show as missing."""
    return by_dual_tensors(lambda x: x.sum() + function(x), x, v)


def backward_under_dual_tensors(function, x, v):
    with forward_ad.dual_level():
        x = forward_ad.make_dual(x.clone().requires_grad_(), v)
        (gradient,) = torch.autograd.grad(cubed(function)(x), x, create_graph=True)
        return forward_ad.unpack_dual(gradient).tangent


def dual_gradient_of_an_earlier_forward(function, x, v):
    x = x.clone().requires_grad_()
    y = function(x)
    with forward_ad.dual_level():
        gradient = forward_ad.make_dual(y.detach().cos(), y.detach().sin())
        (dx,) = torch.autograd.grad(y, x, gradient, create_graph=True)
        return forward_ad.unpack_dual(dx).tangent


def exported(function, x):
    class Module(torch.nn.Module):
        def forward(self, x):
            return function(x)

    return torch.export.export(Module(), (x,)).module()


def compiled(function):
    torch._dynamo.reset()
    return torch.compile(function, backend="aot_eager")


def compiled_before(function, x):
    function = compiled(function)
    function(x)
    return function


MODES = {
    "dual tensors": by_dual_tensors,
    "dual tensors beside a sum": beside_a_sum,
    "dual tensors without gradients": torch.no_grad()(by_dual_tensors),
    "dual tensors that require a gradient": lambda f, x, v: by_dual_tensors(f, x.clone().requires_grad_(), v),
    "dual tensors into an exported program": lambda f, x, v: by_dual_tensors(exported(f, x), x, v),
    "dual tensors into a compiled function": lambda f, x, v: by_dual_tensors(compiled_before(f, x), x, v),
    "jvp": lambda f, x, v: torch.func.jvp(f, (x,), (v,))[1],
    "jvp of a compiled function": lambda f, x, v: torch.func.jvp(compiled(f), (x,), (v,))[1],
    "compiled jvp": lambda f, x, v: compiled(lambda x, v: torch.func.jvp(f, (x,), (v,))[1])(x, v),
    "linearize": lambda f, x, v: torch.func.linearize(f, x)[1](v),
    "vmap of jvp": lambda f, x, v: torch.func.vmap(lambda x, v: torch.func.jvp(lambda x: f(x[None]), (x,), (v,))[1])(
        x, v
    ),
    "jvp of vmap": lambda f, x, v: torch.func.jvp(torch.func.vmap(lambda x: f(x[None])), (x,), (v,))[1],
    "jvp of grad": lambda f, x, v: torch.func.jvp(torch.func.grad(cubed(f)), (x,), (v,))[1],
    "grad of jvp": lambda f, x, v: torch.func.grad(lambda x: torch.func.jvp(f, (x,), (v,))[1].square().sum())(x),
    "backward under dual tensors": backward_under_dual_tensors,
    "dual gradient of an earlier forward": dual_gradient_of_an_earlier_forward,
    "grad": lambda f, x, v: torch.func.grad(cubed(f))(x),
    "grad of an exported program": lambda f, x, v: torch.func.grad(cubed(exported(f, x)))(x),
    "compiled grad": lambda f, x, v: compiled(torch.func.grad(cubed(f)))(x),
    "vmap of vjp": lambda f, x, v: torch.func.vmap(torch.func.vjp(f, x)[1])(torch.stack([f(x), f(x).cos()]))[0],
    "grad three times": lambda f, x, v: torch.func.grad(
        lambda x: torch.func.grad(lambda x: torch.func.grad(cubed(f))(x).square().sum())(x).square().sum()
    )(x),
}


# What is traced takes most of the time: without its ReLU the normalisation is traced in the long tests.
TRACED = {mode for mode in MODES if "compiled" in mode or "exported" in mode}
CASES = [
    pytest.param(mode, function, marks=pytest.mark.long)
    if mode in TRACED and function is local_response_norm
    else (mode, function)
    for mode in MODES
    for function in TORCHS
]


@pytest.mark.filterwarnings("ignore:Attempted to insert a get_attr Node:UserWarning")  # torch's own linearize
@pytest.mark.parametrize(("mode", "function"), CASES)
def test_a_derivative_is_torchs(device, backend, mode, function):
    x, v = tensor(0).to(device), tensor(1).to(device)
    got = MODES[mode](ours(function, backend), x, v)
    assert got is not None, "the tangent was dropped"
    torch.testing.assert_close(got, MODES[mode](TORCHS[function], x, v), rtol=1e-9, atol=1e-10)


@functions
@pytest.mark.parametrize(
    "second",
    [
        torch.func.hessian,
        lambda f: torch.func.jacfwd(torch.func.jacfwd(f)),
        lambda f: torch.func.jacrev(torch.func.jacfwd(f)),
    ],
    ids=["forward over reverse", "forward over forward", "reverse over forward"],
)
def test_second_derivatives_in_any_order_are_torchs(device, backend, second, function):
    x = tensor(0, 1, 4, 4, 3).to(device)
    got = second(cubed(ours(function, backend)))(x)
    torch.testing.assert_close(got, second(cubed(TORCHS[function]))(x), rtol=1e-9, atol=1e-10)
    assert got.any()


@functions
def test_tangents_are_finite_differences(device, backend, function):
    x = tensor(0, 1, 4, 4, 3).to(device).requires_grad_()
    assert torch.autograd.gradcheck(ours(function, backend), x, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(ours(function, backend), x, check_fwd_over_rev=True)


@functions
def test_an_empty_batch_can_be_mapped(device, backend, function):
    x = tensor(0)[None][:0].to(device)
    if backend != "reference":  # its pooling is torch's, which forgets the batch
        assert torch.func.vmap(ours(function, backend))(x).shape == (0, *function(tensor(0), 5).shape)


@functions
def test_a_plain_tensor_under_an_open_dual_level_is_normalised_as_ever(device, backend, function):
    x = tensor(0).to(device)
    with forward_ad.dual_level():
        y = ours(function, backend)(x)
    torch.testing.assert_close(y, TORCHS[function](x), rtol=1e-12, atol=1e-12)
