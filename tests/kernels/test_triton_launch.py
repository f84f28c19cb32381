"""The way from a tensor to a launch, as on a GPU: the real compiler for sm_90, and a driver that launches nothing.

What the host computes (grids, extents, constants) and what the kernels take must fit each other; the interpreter, which
takes anything, does not show it.
"""

import platform
from types import SimpleNamespace

import pytest
import torch

triton = pytest.importorskip("triton", reason="Triton is installed on Linux only", exc_type=ImportError)
pytestmark = [
    pytest.mark.skipif(platform.system() != "Linux", reason="Triton's compiler comes for Linux only"),
    pytest.mark.skipif(torch.cuda.is_available(), reason="where there is a GPU, every other test launches for real"),
]

NUMBERS = (5, 2e-5, 0.75, 2.0)  # size, scale, beta, k


class NoDevice:
    """What Triton asks of a driver, up to the launch, which is noted and not made."""

    def __init__(self):
        self.launched = []
        self.compiled = []
        self.utils = SimpleNamespace(
            get_device_properties=lambda device: {"max_shared_mem": 232448},
            load_binary=self._load,
            unload_module=lambda module: None,
        )

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0

    def get_current_target(self):
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", 90, 32)

    def launcher_cls(self, source, metadata):
        def launch(x, y, z, stream, function, packed, said, enter, leave, *arguments):
            self.launched.append((metadata.name, x * y * z, arguments))

        return launch

    def _load(self, name, binary, shared, device):
        self.compiled.append(name)
        return object(), object(), 0, 0, 1024


@pytest.fixture
def device(monkeypatch):
    from triton.runtime import driver

    from alexnet_kernels import _triton_lrn, _triton_rolling, _triton_tiles

    without = NoDevice()
    monkeypatch.setattr(driver, "_active", without)
    monkeypatch.setattr(_triton_lrn, "_known_shapes", set())
    for module in (_triton_rolling, _triton_tiles):
        for kernel in vars(module).values():
            if isinstance(kernel, triton.JITFunction):
                kernel.device_caches.clear()
    yield without
    for module in (_triton_rolling, _triton_tiles):
        for kernel in vars(module).values():
            if isinstance(kernel, triton.JITFunction):
                kernel.device_caches.clear()


@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
def test_every_operator_reaches_its_kernels(device, layout):
    from alexnet_kernels import _triton_lrn

    x = torch.randn(2, 96, 13, 13)
    if layout == "channels_last":
        x = x.to(memory_format=torch.channels_last)
    y = _triton_lrn.lrn(x, *NUMBERS, 1, False)
    _triton_lrn.lrn_backward(y, x, *NUMBERS, 1, True)
    pooled, winners = _triton_lrn.relu_lrn_maxpool(x, *NUMBERS, 1, 3, 2, True)
    _triton_lrn.relu_lrn_maxpool_backward(pooled, x, winners, *NUMBERS, 1, 3, 2)
    names = [name for name, _programs, _arguments in device.launched]
    kind = "rolling" if layout == "channels_first" else "tile"
    assert names == [f"{kind}_forward", f"{kind}_backward", f"{kind}_pool_forward", f"{kind}_backward"]
    # 338 pixels in blocks of 128, times three chunks of 32 channels; pooled 72 pixels, six chunks
    # of 16, and those six back. Or tiles of 16.
    grids = [programs for _name, programs, _arguments in device.launched]
    assert grids == ([9, 9, 6, 18] if kind == "rolling" else [22, 22, 5, 22])


def test_a_shape_is_compiled_once_and_known_when_compiled(device):
    from alexnet_kernels import _triton_lrn

    for batch in (2, 3, 3):
        _triton_lrn.lrn(torch.randn(batch, 32, 7, 7), *NUMBERS, 1, False)
    assert len(device.launched) == 3
    assert device.compiled == ["rolling_forward"]


def test_ever_new_shapes_share_a_kernel(device, monkeypatch):
    from alexnet_kernels import _triton_lrn

    monkeypatch.setattr(_triton_lrn, "SHAPES", 1)
    for extent in (7, 9, 11, 13, 7):
        _triton_lrn.lrn(torch.randn(2, 32, extent, extent), *NUMBERS, 1, False)
    assert len(device.launched) == 5
    # One for the first shape, one for all others: 81, 121 and 169 pixels differ in nothing that is known beforehand.
    assert device.compiled == ["rolling_forward"] * 2


@pytest.mark.parametrize(("channels", "groups", "chunks"), [(96, 1, 3), (96, 2, 4), (100, 1, 4), (7, 1, 1), (67, 1, 3)])
def test_channels_are_cut_into_equal_chunks_that_cover_them(channels, groups, chunks):
    from alexnet_kernels import _triton_lrn

    grid, extent = _triton_lrn.rolling_grid(1000, channels, groups, {"CHUNK": 32, "BLOCK": 128})
    assert grid == (8 * chunks,)
    in_a_group = chunks // groups * extent["CHUNK"]
    assert in_a_group >= channels // groups
    assert extent["WHOLE"] == (in_a_group == channels // groups)
    assert extent["CHUNK"] <= 32
