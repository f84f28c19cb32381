"""Deterministic runs on a GPU use no operation that torch refuses there, for every network and preset.

torch documents these operations at torch.use_deterministic_algorithms; a stand-in refuses them on a processor.
"""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from quick_runs import QUICK, run_in
from torch.utils._python_dispatch import TorchDispatchMode

from alexnet_lab.networks import build_network, parts
from alexnet_lab.networks.catalogue import CATALOGUE
from alexnet_lab.networks.parts import AdaptiveAvgPool2d, averaged_to
from alexnet_lab.records import RunFolder

pytestmark = pytest.mark.usefixtures("torch_settings")

# What raises on CUDA, by the names that torch dispatches on; average pools have names of their own for 3-D.
REFUSED = {
    *("_adaptive_avg_pool2d_backward", "_adaptive_avg_pool3d_backward", "avg_pool3d_backward"),
    *("adaptive_max_pool2d_backward", "fractional_max_pool2d_backward", "fractional_max_pool3d_backward"),
    *("max_unpool2d", "max_unpool3d", "put_", "put", "histc", "kthvalue", "nll_loss2d_forward", "_ctc_loss_backward"),
    *("upsample_linear1d_backward", "upsample_bilinear2d_backward", "upsample_bicubic2d_backward"),
    *("upsample_trilinear3d_backward", "grid_sampler_2d_backward", "grid_sampler_3d_backward"),
    *("reflection_pad1d_backward", "reflection_pad2d_backward", "reflection_pad3d_backward"),
    *("median", "nanmedian"),
}


class AsOnGpu(TorchDispatchMode):
    """Raise as torch does on CUDA for what has no deterministic algorithm there."""

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        name = function.overloadpacket.__name__
        summed = name == "cumsum" and arguments[0].is_floating_point()
        weighted = name == "bincount" and arguments[1:2] not in ((), (None,))
        if name in REFUSED or summed or weighted:
            raise RuntimeError(f"{name}_cuda does not have a deterministic implementation")
        return function(*arguments, **(keywords or {}))


@pytest.fixture
def as_on_gpu(monkeypatch):
    monkeypatch.setattr(parts, "_is_deterministic_on_gpu", lambda _x: torch.are_deterministic_algorithms_enabled())
    torch.use_deterministic_algorithms(True)
    with AsOnGpu():
        yield


def networks():
    for name, entry in CATALOGUE.items():
        for preset in entry.presets or (None,):
            yield pytest.param(name, preset, id=preset or name)


@pytest.mark.parametrize(("name", "preset"), list(networks()))
def test_a_step_of_every_network_is_deterministic_on_a_gpu(as_on_gpu, name, preset):
    network = build_network(name, 5, preset=preset, width=1 / 16, image_size=67, seed=0)
    x, labels = torch.randn(4, 3, 67, 67), torch.arange(4)
    F.cross_entropy(network(x), labels).backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


@pytest.mark.parametrize("slots", [{"network": "vgg11"}, {"preset": "torchvision", "norm": "gn", "act": "prelu"}])
def test_a_whole_run_is_deterministic_on_a_gpu_instruments_included(as_on_gpu, tmp_path, slots):
    recipe = replace(QUICK, **{"norm": None, **slots}, epochs=1, batch_size=512, deterministic=True, width=1 / 32)
    run_in(tmp_path, replace(recipe, instruments="all", class_weights="balanced", augment="flip,crop,rotate:10"))
    verdict = RunFolder(tmp_path).verdict()
    assert verdict["state"] == "ok", verdict["why"]


def test_the_stand_in_refuses_what_torch_refuses():
    pooled = F.adaptive_avg_pool2d(torch.ones(1, 1, 5, 5, requires_grad=True), 2)
    with AsOnGpu(), pytest.raises(RuntimeError, match="_adaptive_avg_pool2d_backward_cuda"):
        pooled.sum().backward()


@pytest.mark.parametrize("shape", [(13, 13), (6, 6), (12, 6), (2, 2), (7, 3), (1, 20)])
def test_the_deterministic_average_is_torchs(shape):
    x = torch.randn(2, 3, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    upstream = torch.arange(2 * 3 * 36.0, dtype=torch.float64).view(2, 3, 6, 6)
    averaged, pooled = averaged_to(ours, 6), F.adaptive_avg_pool2d(theirs, 6)
    torch.testing.assert_close(averaged, pooled, rtol=1e-13, atol=1e-13)
    (averaged * upstream).sum().backward()
    (pooled * upstream).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-13, atol=1e-12)


def test_half_precision_is_averaged_in_single():
    x = torch.full((1, 1, 9, 9), 300.0, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        averaged = averaged_to(x, 7)
    assert averaged.dtype == torch.bfloat16
    assert torch.equal(averaged, torch.full((1, 1, 7, 7), 300.0, dtype=torch.bfloat16))


def test_elsewhere_the_average_is_torchs_to_the_bit():
    x = torch.randn(2, 3, 13, 13, generator=torch.Generator().manual_seed(0))
    torch.use_deterministic_algorithms(True)
    assert torch.equal(AdaptiveAvgPool2d(6)(x), F.adaptive_avg_pool2d(x, 6))
