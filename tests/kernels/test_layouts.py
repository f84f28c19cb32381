"""Every memory layout that torch can show a tensor in: counted and normalised right, or refused by name."""

import itertools

import numpy as np
import pytest
import torch

from alexnet_kernels import exponent_histogram, local_response_norm, off_counts, relu_lrn, relu_lrn_maxpool

CONTIGUOUS = torch.contiguous_format


def values(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


FLAT = {
    "scalar": values,
    "every third": lambda: values(100)[::3],
    "one column": lambda: values(10, 7)[:, 2],
    "expanded": lambda: values(1).expand(9),
    "one element of many": lambda: values(9)[3:4],
    "nothing of many": lambda: values(9)[9::2],
}
MATRICES = {
    "every third column": lambda: values(10, 20)[:, ::3],
    "transposed": lambda: values(10, 20).t(),
    "expanded over columns": lambda: values(10, 1).expand(10, 5),
    "expanded over rows": lambda: values(10).expand(5, 10),
}
PERMUTED = {
    f"permuted {order}": lambda order=order: values(3, 4, 5, 6).permute(order)
    for order in itertools.permutations(range(4))
}
IMAGES = PERMUTED | {
    "channels last": lambda: values(3, 6, 5, 7).to(memory_format=torch.channels_last),
    "sides of 1": lambda: values(1, 6, 1, 1),
    "one channel": lambda: values(4, 5, 6, 1).permute(0, 3, 1, 2),
    "one image": lambda: values(1, 5, 6, 4).permute(0, 3, 1, 2),
    "sliced": lambda: values(2, 8, 7, 12)[:, ::2, 1:, ::3],
    "sliced channels last": lambda: values(2, 8, 7, 12).to(memory_format=torch.channels_last)[:, 1:4, ::2],
    "expanded over images": lambda: values(1, 4, 5, 6).expand(3, 4, 5, 6),
    "expanded over channels": lambda: values(3, 1, 5, 6).expand(3, 4, 5, 6),
    "expanded over columns": lambda: values(3, 4, 5, 1).expand(3, 4, 5, 6),
    "overlapping": lambda: values(100).as_strided((3, 6, 4, 5), (7, 3, 2, 1)),
    "negated when read": lambda: torch.view_as_complex(values(2, 4, 5, 6, 2)).conj().imag,
    "an odd offset": lambda: values(481)[1:].view(2, 6, 8, 5),
}
OTHERS = {
    "a sequence, transposed": lambda: values(3, 9, 4).transpose(1, 2),
    "windows of a sequence": lambda: values(2, 5, 9).unfold(2, 3, 1),
    "volumes, channels last": lambda: values(2, 5, 3, 4, 6).to(memory_format=torch.channels_last_3d),
}


def dense(x):
    return x.detach().resolve_neg().clone(memory_format=CONTIGUOUS)


@pytest.mark.parametrize("layout", FLAT | MATRICES | IMAGES | OTHERS)
def test_a_histogram_counts_what_the_tensor_shows(device, backend, layout):
    x = (FLAT | MATRICES | IMAGES | OTHERS)[layout]().to(device)
    mantissa, exponent = np.frexp(dense(x).cpu().numpy().ravel())
    want = np.zeros((2, 258), np.int64)
    np.add.at(want, (np.signbit(mantissa).astype(int), exponent - 1 + 126 + 2), 1)
    np.testing.assert_array_equal(exponent_histogram(x, backend=backend).cpu().numpy(), want)


@pytest.mark.parametrize("layout", MATRICES | IMAGES | OTHERS)
def test_units_are_counted_as_the_tensor_shows_them(device, backend, layout):
    x = (MATRICES | IMAGES | OTHERS)[layout]().to(device)
    low = dense(x).cpu().numpy().reshape(*x.shape[:2], -1) <= 0
    want = np.stack([low.all(2).sum(0), low.sum((0, 2))])
    np.testing.assert_array_equal(off_counts(x, backend=backend).cpu().numpy(), want)


def gradients_like(y):
    """The same gradient in several layouts."""
    gradient = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y)
    yield gradient
    yield gradient.movedim(1, -1).contiguous().movedim(-1, 1)
    yield torch.stack([gradient, gradient], -1)[..., 0]
    yield gradient.flatten()[:1].expand(y.shape)


def assert_same_with_every_gradient(function, x):
    """Compare with float64 and contiguous memory, where torch's own operations do the work."""
    truth = dense(x).double().requires_grad_()
    x = x.detach().requires_grad_()
    want, y = function(truth, backend="reference"), None
    for gradient in gradients_like(want):
        y = function(x)
        (dx,) = torch.autograd.grad(y, x, gradient.float())
        (want_dx,) = torch.autograd.grad(want, truth, gradient.float().double(), retain_graph=True)
        torch.testing.assert_close(dx.double(), want_dx, rtol=1e-5, atol=5e-6)
        assert dx.stride() == torch.empty_like(x).stride()
    torch.testing.assert_close(y.double(), want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("layout", IMAGES | OTHERS)
def test_normalisation_reads_every_layout(device, backend, layout):
    x = (IMAGES | OTHERS)[layout]().to(device)
    for function, size in ((local_response_norm, 4), (relu_lrn, 3)):

        def run(x, backend=backend, function=function, size=size):
            return function(x, size, 0.5, backend=backend)

        if backend != "reference":
            assert_same_with_every_gradient(run, x)


# Equal values that lie side by side tie, and rounding would decide which one wins: those layouts are left out.
POOLED = [(layout, (3, 2)) for layout in sorted(IMAGES.keys() - {"overlapping", "expanded over columns"})]
# Other pools in each memory order that the kernels tell apart: channels first, channels last, and what they copy.
POOLED += [(layout, pool) for layout in ("an odd offset", "channels last", "sliced") for pool in ((3, 1), (4, 3))]


@pytest.mark.parametrize(("layout", "pool"), POOLED, ids=str)
def test_pooling_reads_every_layout(device, backend, layout, pool):
    x = IMAGES[layout]().to(device)

    def run(x, backend=backend):
        return relu_lrn_maxpool(x, 3, 0.5, pool=pool[0], stride=pool[1], backend=backend)

    if backend != "reference" and min(x.shape[2:]) >= pool[0]:
        assert_same_with_every_gradient(run, x)


NO_STRIDES = {
    "sparse": (lambda: torch.ones(2, 3, 4, 5).to_sparse(), "layout torch.sparse_coo"),
    "sparse rows": (lambda: torch.ones(4, 5).to_sparse_csr(), "layout torch.sparse_csr"),
    "nested": (lambda: torch.nested.nested_tensor([torch.ones(3, 4), torch.ones(3, 2)]), "a nested tensor"),
    "jagged": (
        lambda: torch.nested.nested_tensor([torch.ones(3, 4), torch.ones(2, 4)], layout=torch.jagged),
        "a nested tensor",
    ),
    "of oneDNN": (lambda: torch.ones(2, 3, 4, 5).to_mkldnn(), "layout torch._mkldnn"),
}


@pytest.mark.filterwarnings("ignore:.*(Sparse|nested).*:UserWarning")
@pytest.mark.parametrize("kind", NO_STRIDES)
@pytest.mark.parametrize("function", [local_response_norm, relu_lrn, relu_lrn_maxpool, exponent_histogram, off_counts])
def test_tensors_without_strides_are_refused_by_name(function, kind):
    make, says = NO_STRIDES[kind]
    arguments = () if function in (exponent_histogram, off_counts) else (3,)
    with pytest.raises(TypeError, match=f"{function.__name__} needs a dense tensor with strides, got {says}"):
        function(make(), *arguments)


def test_a_panel_watches_tensors_of_more_than_a_million_elements(device, backend, monkeypatch, tmp_path):
    """Those are sampled with a stride, so what is counted is neither contiguous nor small."""
    from alexnet_kernels import _backends
    from alexnet_lab.instruments.panel import Panel

    choose, asked = _backends.choose, []

    def routed(device, asked_for, **homes):
        asked.append(asked_for)
        return choose(device, backend, **homes)

    def trained(folder):
        torch.manual_seed(0)
        network = torch.nn.Sequential(
            torch.nn.Conv2d(1, 16, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(8), torch.nn.Flatten(),
            torch.nn.Linear(1024, 1100), torch.nn.ReLU(), torch.nn.Linear(1100, 2),
        ).to(device)  # fmt: skip
        optimiser = torch.optim.SGD(network.parameters(), 0.1)
        with Panel(network, optimiser, every=1, folder=folder) as panel:
            for _ in range(2):
                optimiser.zero_grad()
                network(torch.randn(4, 1, 130, 130).to(device)).square().mean().backward()
                optimiser.step()
                panel.step()
            panel.end_epoch()
        return {path.relative_to(folder): dict(np.load(path)) for path in sorted(folder.rglob("*.npz"))}

    plain = trained(tmp_path / "plain")
    monkeypatch.setattr(_backends, "choose", routed)
    got = trained(tmp_path / "routed")
    assert len(asked) > 20
    assert got.keys() == plain.keys()
    assert got
    for name, columns in plain.items():
        for column in columns:
            if not column.startswith("cost."):  # seconds
                np.testing.assert_array_equal(got[name][column], columns[column], err_msg=f"{name}: {column}")
