"""What a GPU lacks is said in one sentence, with what to do; torch's answers are stand-ins."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from quick_runs import QUICK

from alexnet_lab.training import run
from alexnet_lab.training.errors import is_out_of_memory, memory_of_others
from alexnet_lab.training.parallel import Ranks
from alexnet_lab.training.run import check_gpu


@pytest.fixture
def gpu(monkeypatch):
    """Give what lets torch say that there is a GPU of a compute capability, and for which it has code."""

    def answers(capability, architectures=()):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _index: capability)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda _index: "Some GPU")
        monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: list(architectures))

    return answers


@pytest.mark.parametrize(
    ("capability", "architectures", "has_code"),
    [
        ((6, 1), ("sm_75", "sm_90"), False),
        ((7, 5), ("sm_75", "sm_90"), True),
        ((8, 9), ("sm_75", "sm_86", "sm_90"), True),
        ((8, 0), ("sm_75", "sm_86", "sm_90"), False),
        ((10, 3), ("sm_90", "sm_100"), True),
        ((12, 0), ("sm_90", "sm_100", "compute_100"), True),
        ((12, 0), ("sm_90", "sm_100"), False),
        ((9, 0), ("sm_90a",), True),
        ((10, 0), ("sm_100f_and_more",), False),
    ],
)
def test_a_gpu_that_torch_has_no_code_for_is_refused(gpu, capability, architectures, has_code):
    gpu(capability, architectures)
    recipe = replace(QUICK, device="cuda")
    if has_code:
        check_gpu(recipe)
        return
    with pytest.raises(ValueError, match="has no code for Some GPU, .* install a torch that was built for it"):
        check_gpu(recipe)


def test_compiling_for_a_gpu_without_a_compiler_is_refused_before_the_run(gpu, monkeypatch):
    gpu((9, 0))
    monkeypatch.setattr(run, "triton_trouble", lambda _device: "its first kernel does not start here")
    check_gpu(replace(QUICK, device="cuda"))
    with pytest.raises(ValueError, match="compile needs Triton on a GPU.*its first kernel does not start here; leave"):
        check_gpu(replace(QUICK, device="cuda", compile=True))


@pytest.mark.parametrize(("batch", "fitting", "accumulate"), [(64, 20, 4), (100, 20, 5), (97, 40, 97), (50, 13, 5)])
def test_the_advice_on_memory_is_a_batch_that_splits(monkeypatch, batch, fitting, accumulate):
    monkeypatch.setattr(run, "largest_fitting", lambda _batch, _attempt: fitting)
    feed = SimpleNamespace(classes=range(10), channels=1)
    advice = run._advice_on_memory(replace(QUICK, batch_size=batch), feed, Ranks())
    assert f"accumulate {accumulate}" in advice
    assert batch % accumulate == 0
    assert batch // accumulate <= fitting


def test_advice_on_a_gpus_memory_says_what_other_processes_hold(monkeypatch):
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 3 * 2**30)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (2**30, 16 * 2**30))
    assert "other processes hold 12.0 of the GPU's 16.0 GiB" in memory_of_others("cuda")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (12 * 2**30, 16 * 2**30))
    assert memory_of_others("cuda") == memory_of_others("cpu") == ""


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        MemoryError(),
    ],
)
def test_every_way_to_run_out_of_memory_is_known(error):
    assert is_out_of_memory(error)


def test_another_error_of_a_gpu_is_not_taken_for_lack_of_memory():
    assert not is_out_of_memory(RuntimeError("CUDA error: an illegal memory access was encountered"))
