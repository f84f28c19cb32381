"""ReLU, normalisation and max-pooling in one against the three in a row."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from alexnet_kernels import relu_lrn, relu_lrn_maxpool


def three_in_a_row(x, numbers, pool, stride, backend):
    """torch's own pooling, on the CPU, of our own normalisation: the same values, so the same ties."""
    y = relu_lrn(x, **numbers, backend=backend)
    pooled = F.max_pool2d(y.cpu().double(), pool, stride)
    return pooled.to(y)


@st.composite
def problems(draw):
    groups = draw(st.sampled_from([1, 1, 2]))
    pool = draw(st.sampled_from([1, 2, 3, 3, 3, 4]))
    shape = (
        draw(st.integers(1, 3)),
        groups * draw(st.integers(1, 9)),
        draw(st.integers(pool, 12)),
        draw(st.integers(pool, 12)),
    )
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    x = random.normal(size=shape)
    match draw(st.sampled_from(["normal", "ties", "constant", "nan", "inf"])):
        case "ties":
            x = np.round(x)
        case "constant":
            x = np.ones(shape)
        case "nan":
            x[random.random(shape) < 0.05] = np.nan
        case "inf":
            x[random.random(shape) < 0.02] = np.inf
    dtype = draw(st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16]))
    x = torch.from_numpy(x).to(dtype)
    if draw(st.booleans()):
        x = x.to(memory_format=torch.channels_last)
    numbers = {
        "size": draw(st.integers(1, 7)),
        "alpha": 1e-2,
        "beta": draw(st.sampled_from([0.75, 0.6])),
        "groups": groups,
    }
    return x, numbers, pool, draw(st.integers(1, 4))


@given(problem=problems(), seed=st.integers(0, 1000))
def test_equals_the_three_in_a_row(device, backend, problem, seed):
    x, numbers, pool, stride = problem
    x = x.to(device)
    x = x.detach().requires_grad_()
    want = three_in_a_row(x, numbers, pool, stride, backend)
    gradient = torch.randn(want.shape, generator=torch.Generator().manual_seed(seed)).to(want)
    (want_dx,) = torch.autograd.grad(want, x, gradient)

    y = relu_lrn_maxpool(x, **numbers, pool=pool, stride=stride, backend=backend)
    (dx,) = torch.autograd.grad(y, x, gradient)
    # A winner that differs moves a whole gradient, so this sees every tie; overlapping windows add in any order.
    rounding = {torch.float64: 1e-13, torch.float32: 2e-6, torch.float16: 4e-3, torch.bfloat16: 4e-2}[x.dtype]
    if device == "cpu":
        assert torch.equal(y.isnan(), want.isnan())
        assert torch.equal(y.nan_to_num(), want.nan_to_num())
    torch.testing.assert_close(y, want, rtol=rounding, atol=1e-30, equal_nan=True)
    torch.testing.assert_close(dx, want_dx, rtol=rounding, atol=rounding * 4, equal_nan=True)
    assert y.dtype == dx.dtype == x.dtype

    with torch.no_grad():
        assert torch.equal(
            relu_lrn_maxpool(x, **numbers, pool=pool, stride=stride, backend=backend).nan_to_num(), y.nan_to_num()
        )


def test_second_derivatives_are_right(device, backend):
    x = torch.randn(2, 4, 5, 6, dtype=torch.float64, device=device, requires_grad=True)

    def run(x):
        return relu_lrn_maxpool(x, 3, alpha=0.5, groups=2, backend=backend)

    assert torch.autograd.gradcheck(run, x)
    assert torch.autograd.gradgradcheck(run, x)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_the_output_keeps_the_layout(device, backend, memory_format):
    x = torch.randn(2, 6, 9, 9, device=device).to(memory_format=memory_format).requires_grad_()
    y = relu_lrn_maxpool(x, 5, backend=backend)
    y.sum().backward()
    assert y.is_contiguous(memory_format=memory_format)
    assert x.grad.is_contiguous(memory_format=memory_format)


def test_strides_that_are_not_dense_are_read_right(device, backend):
    whole = torch.randn(2, 6, 9, 18, device=device)
    part = whole[:, :, :, ::2].requires_grad_()
    dense = part.detach().contiguous().requires_grad_()
    for x in (part, dense):
        relu_lrn_maxpool(x, 5, backend=backend).square().sum().backward(inputs=[x])
    assert torch.equal(part.grad, dense.grad)


def test_little_is_kept_for_the_backward_pass():
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    x = torch.randn(4, 96, 55, 55, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        relu_lrn_maxpool(x, 5)
    assert sum(kept.values()) <= 1.07 * x.nbytes  # x, and one byte for each of 27 x 27 outputs


def test_empty_batches_pass(device, backend):
    x = torch.empty(0, 6, 9, 9, device=device, requires_grad=True)
    y = relu_lrn_maxpool(x, 5, backend=backend)
    y.sum().backward()
    assert y.shape == (0, 6, 4, 4)
    assert x.grad.shape == x.shape


@pytest.mark.parametrize(
    ("shape", "numbers", "says"),
    [
        ((2, 6, 9), {}, "needs N, C, H and W"),
        ((2, 6, 9, 9), {"pool": 0}, "pool must be from 1 to 16, got 0"),
        ((2, 6, 99, 99), {"pool": 17}, r"use max_pool2d\(relu_lrn"),
        ((2, 6, 9, 9), {"stride": 0}, "stride must be at least 1"),
        ((2, 6, 9, 2), {}, r"pool of 3 does not fit into an image of \(9, 2\)"),
        ((2, 6, 9, 9), {"groups": 4}, "groups must divide"),
    ],
)
def test_input_without_meaning_is_refused(shape, numbers, says):
    with pytest.raises(ValueError, match=says):
        relu_lrn_maxpool(torch.ones(shape), 5, **numbers)


@pytest.mark.parametrize("shape", [(75, 24, 15, 15), (32, 24, 15, 15), (1500, 4, 9, 7)])
def test_small_samples_pooled_by_the_handful_are_the_samples_one_by_one(shape):
    # 36 of the first are pooled at once on the CPU, so the last cut is of three.
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).requires_grad_()
    gradient = torch.randn(())
    whole = relu_lrn_maxpool(x, 5, 0.1)
    one_by_one = torch.cat([relu_lrn_maxpool(sample, 5, 0.1) for sample in x.split(1)])
    torch.testing.assert_close(whole, one_by_one, rtol=0, atol=0)
    (ours,) = torch.autograd.grad((whole * gradient).square().sum(), x)
    (theirs,) = torch.autograd.grad((one_by_one * gradient).square().sum(), x)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("shape", "pool"), [((1, 2, 16, 5001), 16), ((1, 2, 3, 40001), 3), ((2, 1, 70, 65), 16)])
def test_places_are_told_apart_in_images_of_any_width(shape, pool):
    """A place is found by multiplying with a reciprocal, which is exact only as far as it has digits for."""
    random = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=random).requires_grad_()
    truth = x.detach().clone().requires_grad_()
    want = F.max_pool2d(relu_lrn(truth, 1), pool, pool)
    got = relu_lrn_maxpool(x, 1, pool=pool, stride=pool)
    gradient = torch.randn(want.shape, generator=random)
    want.backward(gradient)
    got.backward(gradient)
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(x.grad, truth.grad)
