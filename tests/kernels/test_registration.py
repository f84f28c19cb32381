"""The operators inside torch: compile, export, autocast, function transforms, opcheck."""

import contextlib
import subprocess
import sys

import pytest
import torch
from torch import library

import alexnet_kernels
from alexnet_kernels import _backends, _registration, local_response_norm, relu_lrn, relu_lrn_maxpool

DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
LAYOUTS = [torch.contiguous_format, torch.channels_last]


def block(x):
    return relu_lrn_maxpool(local_response_norm(relu_lrn(x, 3, groups=2), 5), 5, 1e-2, 0.75, 2.0, window="sum")


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # opcheck's, from torch 2.14
@pytest.mark.parametrize("memory_format", LAYOUTS)
def test_torch_finds_the_operators_well_made(device, backend, memory_format):
    x = torch.randn(2, 6, 7, 7, device=device).to(memory_format=memory_format).requires_grad_()
    gradient = torch.randn(2, 6, 7, 7, device=device, requires_grad=True)
    numbers = 3, 1e-2, 0.75, 1.0, 2
    library.opcheck(_registration.lrn, (x, *numbers, False, backend))
    library.opcheck(_registration.lrn_backward, (gradient, x, *numbers, True, backend))
    library.opcheck(_registration.relu_lrn_maxpool, (x, *numbers, 3, 2, True, backend))
    y, winners = _registration.relu_lrn_maxpool(x, *numbers, 3, 2, True, backend)
    inputs = torch.randn_like(y).requires_grad_(), x, winners, *numbers, 3, 2, backend
    library.opcheck(_registration.relu_lrn_maxpool_backward, inputs)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("memory_format", LAYOUTS)
def test_a_whole_graph_compiles_and_trains_alike(device, memory_format):
    x = torch.randn(2, 6, 9, 9, device=device).to(memory_format=memory_format)
    eager, compiled = x.clone().requires_grad_(), x.clone().requires_grad_()
    block(eager).square().sum().backward()
    torch.compile(block, fullgraph=True, backend="aot_eager")(compiled).square().sum().backward()
    torch.testing.assert_close(compiled.grad, eager.grad, rtol=1e-6, atol=1e-7)


@pytest.mark.long
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("memory_format", LAYOUTS)
def test_the_default_compiler_trains_alike(device, memory_format):
    weight = torch.randn(6, 6, 3, 3, device=device)

    def network(x):
        return block(torch.nn.functional.conv2d(x, weight).mul(1.5)).exp().square().mean()

    x = torch.randn(2, 6, 9, 9, device=device).to(memory_format=memory_format)
    eager, compiled = x.clone().requires_grad_(), x.clone().requires_grad_()
    network(eager).backward()
    torch.compile(network, fullgraph=True)(compiled).backward()
    torch.testing.assert_close(compiled.grad, eager.grad, rtol=1e-4, atol=1e-6 * eager.grad.abs().max().item())
    assert eager.grad.any()


def test_an_exported_program_serves_any_batch():
    class Block(torch.nn.Module):
        def forward(self, x):
            return block(x)

    x = torch.randn(3, 6, 9, 9)
    program = torch.export.export(Block(), (x,), dynamic_shapes=({0: torch.export.Dim("n")},))
    for n in (2, 5):
        x = torch.randn(n, 6, 9, 9)
        assert torch.equal(program.module()(x), block(x))


@pytest.mark.parametrize("device", DEVICES)
def test_under_autocast_the_dtype_that_comes_goes(device):
    weight = torch.randn(6, 6, 1, 1, device=device, requires_grad=True)
    with torch.autocast(device, dtype=torch.bfloat16):
        hidden = torch.nn.functional.conv2d(torch.randn(2, 6, 9, 9, device=device), weight)
        y = block(hidden)
    y.float().sum().backward()
    assert hidden.dtype == y.dtype == torch.bfloat16
    assert weight.grad.isfinite().all()
    assert weight.grad.any()


@pytest.mark.parametrize("device", DEVICES)
def test_vmap_goes_over_batches(device):
    x = torch.randn(4, 3, 2, 6, 7, 7, device=device)
    mapped = torch.func.vmap(torch.func.vmap(block, in_dims=1), in_dims=0)(x)
    loop = torch.stack([torch.stack([block(x[i, :, j]) for j in range(2)]) for i in range(4)])
    assert torch.equal(mapped, loop)


@pytest.mark.parametrize("device", DEVICES)
def test_per_sample_gradients_are_the_gradients_of_samples(device):
    x = torch.randn(4, 6, 7, 7, device=device)

    def loss(sample):
        return block(sample[None]).square().sum()

    got = torch.func.vmap(torch.func.grad(loss))(x)
    for sample, gradient in zip(x, got, strict=True):
        leaf = sample.clone().requires_grad_()
        loss(leaf).backward()
        torch.testing.assert_close(gradient, leaf.grad)


def test_a_hessian_through_function_transforms_equals_autograds():
    x = torch.randn(1, 4, 3, 3, dtype=torch.float64)

    def loss(x):
        return relu_lrn_maxpool(local_response_norm(x, 3, 0.5), 3, 0.5).square().sum()

    got = torch.func.jacrev(torch.func.grad(loss))(x)
    torch.testing.assert_close(got, torch.autograd.functional.hessian(loss, x))
    assert got.abs().max() > 1e-3


def test_the_exported_names_are_these():
    assert alexnet_kernels.__all__ == [
        "LocalResponseNorm",
        "exponent_histogram",
        "local_response_norm",
        "off_counts",
        "relu_lrn",
        "relu_lrn_maxpool",
        "triton_trouble",
    ]
    for name in alexnet_kernels.__all__:
        assert callable(getattr(alexnet_kernels, name))
    with pytest.raises(AttributeError, match="no attribute 'lrn'"):
        _ = alexnet_kernels.lrn


def test_triton_is_not_imported_for_work_on_the_cpu():
    code = (
        "import sys, alexnet_kernels; assert 'torch' not in sys.modules\n"
        "import torch; before = 'triton' in sys.modules\n"
        "alexnet_kernels.relu_lrn_maxpool(torch.rand(1, 3, 5, 5), 3)\n"
        "assert ('triton' in sys.modules) == before, 'triton came along'\n"
        "assert 'alexnet_kernels._triton_lrn' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_auto_on_cuda_without_triton_warns_once_and_takes_the_reference(monkeypatch):
    """Choosing is a pure function of the device, so this needs no GPU."""
    monkeypatch.setattr(_backends, "triton_trouble", lambda device: "not here; pip install 'triton>=3.6,<3.9'")
    _backends.warn_once.cache_clear()
    homes = {"cpu": "_cpu", "triton": "alexnet_kernels._triton_lrn", "reference": "alexnet_kernels._reference"}
    with pytest.warns(UserWarning, match="pip install 'triton") as caught:
        for _ in range(2):
            chosen = _backends.choose(torch.device("cuda"), "auto", **homes)
    assert chosen.__name__ == "alexnet_kernels._reference"
    assert len(caught) == 1
    with pytest.raises(RuntimeError, match="pip install 'triton"):
        _backends.choose(torch.device("cuda"), "triton", **homes)
    _backends.warn_once.cache_clear()


@pytest.fixture
def gpu(monkeypatch):
    """A GPU as far as `triton_trouble` looks at one, with a first launch that ends as the test says."""
    pytest.importorskip("triton", exc_type=ImportError)
    zeros = torch.zeros

    def on_the_cpu(*size, device, **options):
        return zeros(*size, **options)

    monkeypatch.setattr(torch, "zeros", on_the_cpu)

    def make(capability=(9, 0), error=None):
        from alexnet_kernels import _triton_probe

        launches = []

        def launch(out):
            launches.append(out)
            if error is not None:
                raise error

        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
        monkeypatch.setattr(_triton_probe, "launch", launch)
        _backends.triton_trouble.cache_clear()
        return launches

    yield make
    _backends.triton_trouble.cache_clear()


FAILURES = [
    RuntimeError("Failed to find C compiler. Please specify via CC environment variable"),
    subprocess.CalledProcessError(1, ["gcc", "main.c"]),
    PermissionError(13, "Permission denied", "/root/.triton"),
    AssertionError("libcuda.so cannot found!"),
    ImportError("cuda_utils.so: undefined symbol"),
]


@pytest.mark.parametrize("error", FAILURES, ids=lambda error: type(error).__name__)
def test_a_first_launch_that_fails_says_what_to_install(gpu, error):
    launches = gpu(error=error)
    trouble = _backends.triton_trouble(torch.device("cuda:0"))
    assert "apt install gcc python3-dev" in trouble
    assert str(error) in trouble
    assert _backends.triton_trouble(torch.device("cuda:0")) == trouble
    assert len(launches) == 1, "it is tried once for each device"


def test_a_first_launch_that_goes_well_is_no_trouble(gpu):
    launches = gpu()
    assert _backends.triton_trouble(torch.device("cuda:0")) is None
    assert len(launches) == 1


def test_a_gpu_too_old_for_triton_is_named(gpu):
    launches = gpu(capability=(6, 1))
    assert "cuda:0 has 6.1" in _backends.triton_trouble(torch.device("cuda:0"))
    assert not launches


@pytest.mark.parametrize("device", ["cpu", "cuda:0"])
def test_triton_that_is_absent_or_broken_is_named(gpu, monkeypatch, device):
    launches = gpu()
    monkeypatch.setitem(sys.modules, "triton.language", None)  # an import of it raises ImportError
    assert "pip install 'triton>=3.6,<3.9'" in _backends.triton_trouble(torch.device(device))
    assert not launches
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(RuntimeError, match="backend='triton' needs Triton: it does not import here"):
        local_response_norm(torch.ones(1, 3, 4), 3, backend="triton")


def test_the_kernel_of_the_probe_writes_one(device, backend, monkeypatch):
    if backend != "triton":
        pytest.skip("a Triton kernel")
    from alexnet_kernels import _triton_probe

    out = torch.zeros(1, dtype=torch.int32, device=device)
    if device == "cpu":
        monkeypatch.setattr(torch.cuda, "device", contextlib.nullcontext)
    _triton_probe.launch(out)
    assert out.item() == 1


def test_a_mistake_in_the_probe_is_not_taken_for_a_missing_compiler(gpu):
    gpu(error=ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        _backends.triton_trouble(torch.device("cuda:0"))


class Copies(torch.utils._python_dispatch.TorchDispatchMode):
    """Counts the allocations and copies that torch is asked for."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, arguments=(), named=None):
        if (named or {}).get("device") != torch.device("meta"):
            self.names.append(function._schema.name.removeprefix("aten::"))
        return function(*arguments, **(named or {}))


def copies(run):
    with Copies() as seen:
        run()
    return sum(name in {"copy_", "clone", "_to_copy"} for name in seen.names)


@pytest.mark.parametrize("memory_format", LAYOUTS)
@pytest.mark.parametrize("pool", [0, 3, 4])
def test_a_gradient_in_another_memory_order_is_copied_once(device, backend, memory_format, pool):
    """And one in the same order never."""
    if backend != "triton":
        pytest.skip("the others copy block by block, into the cache")
    from alexnet_kernels import _triton_lrn

    numbers = 5, 1e-2, 0.75, 1.0, 1
    x = torch.randn(2, 6, 9, 11, device=device).to(memory_format=memory_format)
    y, winners = (x, x) if not pool else _triton_lrn.relu_lrn_maxpool(x, *numbers, pool, 2, True)
    other = LAYOUTS[memory_format == LAYOUTS[0]]
    for layout, most in ((memory_format, 0), (other, 1)):
        gradient = torch.randn_like(y).contiguous(memory_format=layout)

        def run(gradient=gradient):
            if not pool:
                return _registration.lrn_backward(gradient, x, *numbers, False, backend)
            return _registration.relu_lrn_maxpool_backward(gradient, x, winners, *numbers, pool, 2, backend)

        # Scattering gradients of wide pools takes a copy of its own into a channels-last image.
        spread = 2 if pool == 4 and memory_format == torch.channels_last else 1 if pool == 4 else 0
        assert copies(run) <= most + spread
