"""Local response normalisation against a float64 loop anyone can check by eye, on every backend this machine has."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from alexnet_kernels import _backends, local_response_norm, relu_lrn

# Relative to the sum of magnitudes that went into a value: rounding of the dtype, and of float32 inside.
TOLERANCE = {torch.float64: 1e-13, torch.float32: 3e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}
SMALLEST = {torch.float64: 1e-300, torch.float32: 1e-43, torch.float16: 6e-8, torch.bfloat16: 1e-40}


def window(c, channels, groups, size):
    tower = channels // groups
    first = c - c % tower
    return slice(max(first, c - size // 2), min(first + tower, c + (size - 1) // 2 + 1))


def loop(x, size, scale, beta, k, groups):
    """The formula, channel by channel, in float64."""
    y = np.empty_like(x)
    for c in range(x.shape[1]):
        y[:, c] = x[:, c] / (k + scale * (x[:, window(c, x.shape[1], groups, size)] ** 2).sum(1)) ** beta
    return y


def loop_gradient(g, x, size, scale, beta, k, groups):
    """dx[j] = g[j] z[j]^-beta - sum over the i whose window holds j of g[i] x[i] 2 scale beta x[j] z[i]^(-beta - 1).

    With it comes the sum of the magnitudes of these terms: what rounding errors are measured against.
    """
    channels = x.shape[1]
    z = np.stack([k + scale * (x[:, window(c, channels, groups, size)] ** 2).sum(1) for c in range(channels)], 1)
    dx = g * z**-beta
    magnitude = np.abs(dx)
    for i in range(channels):
        for j in range(channels)[window(i, channels, groups, size)]:
            term = 2 * scale * beta * g[:, i] * x[:, i] * x[:, j] * z[:, i] ** (-beta - 1)
            dx[:, j] -= term
            magnitude[:, j] += np.abs(term)
    return dx, magnitude


def assert_within(got, want, magnitude, dtype):
    got = got.detach().double().cpu().numpy()
    excess = np.abs(got - want) - TOLERANCE[dtype] * magnitude - SMALLEST[dtype]
    assert np.isfinite(got).all()
    assert (excess <= 0).all(), f"off by up to {np.abs(got - want).max()} where {magnitude.max()} is the magnitude"


@st.composite
def problems(draw):
    """An input with its numbers: random or adversarial values, any layout, windows wider than the channels."""
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    channels = groups * draw(st.integers(1, 7))
    spatial = draw(st.lists(st.integers(1, 6), min_size=1, max_size=3))
    dtype = draw(st.sampled_from([torch.float32, torch.float32, torch.float16, torch.bfloat16, torch.float64]))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = (draw(st.integers(1, 3)), channels, *spatial)
    x = random.normal(size=shape)
    match draw(st.sampled_from(["normal", "normal", "large", "zeros", "sparse", "hot", "denormal"])):
        case "large":
            x *= 1e4
        case "zeros":
            x *= 0
        case "sparse":
            x *= random.random(shape) < 0.3
        case "hot":
            x[:, random.integers(channels)] = 1e4
        case "denormal":
            x *= 1e-40 if dtype in (torch.float32, torch.bfloat16) else 1e-6
    numbers = {
        "size": draw(st.integers(1, 16)),
        "alpha": draw(st.sampled_from([1e-4, 1e-2, 1.0])),
        "beta": draw(st.sampled_from([0.75, 0.75, 0.5, 1.0, 0.6, 0.0, 2.5])),
        "k": draw(st.sampled_from([1.0, 2.0, 1e-3])),
        "window": draw(st.sampled_from(["mean", "sum"])),
        "groups": groups,
    }
    layout = draw(st.sampled_from(["first", "last", "transposed", "sliced"]))
    return laid_out(torch.from_numpy(x).to(dtype), layout), numbers, layout


def laid_out(x, layout):
    """The same values in another memory layout."""
    match layout:
        case "last":
            return x.movedim(1, -1).contiguous().movedim(-1, 1)
        case "transposed":
            return x.transpose(1, 2).contiguous().transpose(1, 2)
        case "sliced":
            return torch.stack([x, x], -1)[..., 0]
    return x


@given(problem=problems(), relu=st.booleans(), seed=st.integers(0, 1000))
def test_output_and_gradient_are_the_formulas(device, backend, problem, relu, seed):
    x, numbers, _ = problem
    x = x.to(device)
    x = x.detach().requires_grad_()
    y = (relu_lrn if relu else local_response_norm)(x, **numbers, backend=backend)
    gradient = laid_out(
        torch.randn(x.shape, generator=torch.Generator().manual_seed(seed)), ["first", "last"][seed % 2]
    )
    gradient = gradient.to(x)
    y.backward(gradient)

    exact = x.detach().double().cpu().numpy()
    if relu:
        exact = np.maximum(exact, 0)
    scale = numbers["alpha"] / (numbers["size"] if numbers["window"] == "mean" else 1)
    formula = exact, numbers["size"], scale, numbers["beta"], numbers["k"], numbers["groups"]
    want = loop(*formula)
    assert_within(y, want, np.abs(want), x.dtype)
    dx, magnitude = loop_gradient(gradient.double().cpu().numpy(), *formula)
    if relu:
        dx = np.where(exact > 0, dx, 0)
    if magnitude.max() < torch.finfo(x.dtype).max / 10:
        assert_within(x.grad, dx, magnitude, x.dtype)
    assert y.dtype == x.grad.dtype == x.dtype


@pytest.mark.parametrize("layout", ["first", "last"])
@pytest.mark.parametrize(("size", "groups"), [(4, 1), (4, 2), (5, 2), (16, 1), (1, 1)])
@pytest.mark.parametrize("channels", [8, 40])  # 40: more than the chunk a Triton thread walks
def test_every_layout_has_the_formulas_gradient(device, backend, layout, size, groups, channels):
    """Even windows are lopsided, and their gradient is the mirror image."""
    x = laid_out(torch.randn(2, channels, 3, 5), layout).to(device).requires_grad_()
    gradient = laid_out(torch.randn(2, channels, 3, 5), layout).to(device)
    local_response_norm(x, size, 1.0, groups=groups, window="sum", backend=backend).backward(gradient)
    dx, magnitude = loop_gradient(
        gradient.double().cpu().numpy(), x.detach().double().cpu().numpy(), size, 1.0, 0.75, 1.0, groups
    )
    assert_within(x.grad, dx, magnitude, torch.float32)


@pytest.mark.parametrize("shape", [(32, 96, 13, 13), (3, 256, 27, 27), (1, 5, 1100, 800), (2, 3, 5)])
@pytest.mark.parametrize("layout", ["first", "last"])
def test_blocks_join_without_a_seam(shape, layout):
    """Sizes at which the CPU's blocks hold many samples, one, or a part of one."""
    x = laid_out(torch.randn(shape, generator=torch.Generator().manual_seed(0)), layout).requires_grad_()
    gradient = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    y = local_response_norm(x, 5, 1e-2, backend="cpu")
    (dx,) = torch.autograd.grad(y, x, gradient)
    truth = x.detach().double().requires_grad_()
    want = local_response_norm(truth, 5, 1e-2, backend="reference")
    (want_dx,) = torch.autograd.grad(want, truth, gradient.double())
    torch.testing.assert_close(y.double(), want, rtol=2e-6, atol=1e-12)
    torch.testing.assert_close(dx.double(), want_dx, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("size", [3, 4, 5])
@pytest.mark.parametrize("shape", [(2, 7, 5), (2, 7, 5, 6), (1, 7, 2, 3, 4)])
def test_defaults_mean_what_they_mean_in_torch(device, backend, size, shape):
    x = torch.randn(shape, dtype=torch.float64, device=device)
    torch.testing.assert_close(local_response_norm(x, size, backend=backend), F.local_response_norm(x, size))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_survives_magnitudes_whose_squares_overflow(device, backend, dtype):
    x = torch.linspace(-1488, 1488, 8 * 5 * 5).reshape(1, 8, 5, 5).to(device, dtype)
    y = local_response_norm(x, 5, backend=backend)
    want = loop(x.double().cpu().numpy(), 5, 1e-4 / 5, 0.75, 1.0, 1)
    assert_within(y, want, np.abs(want), dtype)
    assert (y != 0).sum() == (x != 0).sum()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_stays_in_its_window(device, backend, bad):
    x = torch.ones(1, 16, 2, 3, device=device)
    x[0, 8, 1, 2] = bad
    x.requires_grad_()
    y = local_response_norm(x, 5, 1.0, backend=backend)
    y.sum().backward()
    assert y[0, 8, 1, 2].isnan()
    neighbours = y[0, [6, 7, 9, 10], 1, 2]
    assert neighbours.isnan().all() if np.isnan(bad) else (neighbours == 0).all()
    untouched = torch.ones_like(x, dtype=torch.bool)
    untouched[0, 6:11, 1, 2] = False
    far = torch.ones_like(x, dtype=torch.bool)
    far[0, 4:13, 1, 2] = False
    clean = torch.ones(1, 16, 2, 3, device=device, requires_grad=True)
    want = local_response_norm(clean, 5, 1.0, backend=backend)
    want.sum().backward()
    assert torch.equal(y[untouched], want[untouched])
    assert torch.equal(x.grad[far], clean.grad[far])


@pytest.mark.parametrize("layout", ["first", "last", "transposed"])
@pytest.mark.parametrize("shape", [(2, 6, 5), (2, 6, 5, 4), (2, 6, 3, 4, 5)])
def test_the_output_keeps_a_dense_layout(device, backend, layout, shape):
    x = laid_out(torch.randn(shape), layout).to(device).requires_grad_()
    y = local_response_norm(x, 3, backend=backend)
    y.sum().backward()
    if backend != "reference":
        assert y.stride() == x.stride()
        assert x.grad.stride() == x.stride()


@pytest.mark.parametrize("shape", [(0, 4, 3, 3), (2, 4, 0, 3), (2, 0, 3)])
def test_nothing_in_nothing_out(device, backend, shape):
    x = torch.empty(shape, device=device, requires_grad=True)
    y = local_response_norm(x, 5, backend=backend)
    y.sum().backward()
    assert y.shape == x.grad.shape == x.shape


def test_second_derivatives_are_right(device, backend):
    x = torch.randn(2, 6, 2, 2, dtype=torch.float64, device=device, requires_grad=True)
    for numbers in ({"size": 4}, {"size": 5, "groups": 2, "beta": 0.6}):

        def run(x, numbers=numbers):
            return local_response_norm(x, alpha=0.5, backend=backend, **numbers)

        assert torch.autograd.gradcheck(run, x, nondet_tol=0.0)
        assert torch.autograd.gradgradcheck(run, x)
        assert torch.autograd.gradgradcheck(lambda x, run=run: run(x.relu()), x)
        assert torch.autograd.gradgradcheck(lambda x, n=numbers: relu_lrn(x, alpha=0.5, backend=backend, **n), x)


def test_only_the_input_is_kept_for_the_backward_pass():
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    x = torch.randn(4, 96, 27, 27, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        local_response_norm(x, 5)
    assert sum(kept.values()) <= 1.05 * x.nbytes
    assert x.data_ptr() in kept


def test_cross_map_lrn_of_torch_is_no_oracle():
    """torch.nn.CrossMapLRN2d never lets the first channel's square leave its window; users will compare."""
    x = torch.rand(1, 16, 4, 4, dtype=torch.float64) * 30
    want = torch.from_numpy(loop(x.numpy(), 5, 1e-2 / 5, 0.75, 1.0, 1))
    theirs = torch.nn.CrossMapLRN2d(5, 1e-2, 0.75, 1.0)(x.float()).double()
    ours = local_response_norm(x.float(), 5, 1e-2, 0.75, 1.0).double()
    assert ((theirs - want).abs() / want).max() > 0.01
    assert ((ours - want).abs() / want).max() < 1e-6


BAD = [
    ({"size": 0}, "window size of at least 1, got 0"),
    ({"k": 0.0}, "k must be positive"),
    ({"k": -1.0, "beta": 0.5}, "k must be positive"),
    ({"k": float("nan")}, "k must be positive"),
    ({"groups": 4}, "groups must divide the 6 channels, got 4"),
    ({"groups": 0}, "groups must divide"),
    ({"window": "median"}, "'mean' or 'sum', got 'median'"),
    ({"backend": "cudnn"}, "'auto', 'reference', 'cpu', 'triton', got 'cudnn'"),
]


@pytest.mark.parametrize(("numbers", "says"), BAD)
@pytest.mark.parametrize("function", [local_response_norm, relu_lrn])
def test_numbers_without_meaning_are_refused(function, numbers, says):
    with pytest.raises(ValueError, match=says):
        function(torch.ones(2, 6, 3, 3), **{"size": 5, **numbers})


def test_tensors_without_meaning_are_refused():
    with pytest.raises(ValueError, match=r"at least one more dimension, got shape \(2, 6\)"):
        local_response_norm(torch.ones(2, 6), 5)
    for dtype in (torch.int64, torch.bool, torch.complex64, torch.float8_e4m3fn):
        with pytest.raises(TypeError, match=str(dtype)):
            local_response_norm(torch.ones(2, 6, 3).to(dtype), 5)


def test_k_of_zero_is_fine_where_nothing_is_divided():
    x = torch.randn(1, 3, 4)
    assert torch.equal(local_response_norm(x, 3, beta=0.0, k=0.0, backend="cpu"), x)


def test_a_backend_asked_for_by_name_is_never_replaced(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ValueError, match="needs a tensor on CUDA, got one on cpu"):
        local_response_norm(torch.ones(1, 3, 4), 3, backend="triton")
    with pytest.raises(ValueError, match="needs a tensor on the CPU, got one on cuda"):
        _backends.choose(torch.device("cuda"), "cpu", cpu="", triton="", reference="")
