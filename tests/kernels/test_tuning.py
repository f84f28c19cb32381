"""Configurations of the Triton kernels: all right, and the fastest chosen once, by a timer that a test can replace."""

from types import SimpleNamespace

import pytest
import torch

tuning = pytest.importorskip("alexnet_kernels._triton_tuning", exc_type=ImportError)

from alexnet_kernels import relu_lrn, relu_lrn_maxpool  # noqa: E402

CHOICES = [{"BLOCK": 1}, {"BLOCK": 2}, {"BLOCK": 3}]


def timer(**seconds):
    """Time a launch of BLOCK=n as told; launches note their block in `launched`."""
    launched = []

    def launch(configuration):
        launched.append(configuration["BLOCK"])

    def measure(run):
        run()
        taken = seconds[f"block{launched[-1]}"]
        if isinstance(taken, Exception):
            raise taken
        return taken

    return launched, launch, measure


def test_the_fastest_configuration_is_chosen():
    launched, launch, measure = timer(block1=3.0, block2=2.0, block3=2.5)
    assert tuning.fastest(CHOICES, launch, measure) == {"BLOCK": 2}
    assert launched == [1, 2, 3]


def test_the_default_stays_where_the_others_are_hardly_faster():
    _launched, launch, measure = timer(block1=3.0, block2=2.95, block3=9.0)
    assert tuning.fastest(CHOICES, launch, measure) == {"BLOCK": 1}


def test_a_configuration_that_does_not_fit_the_gpu_is_passed_over():
    too_much = tuning.OutOfResources(300000, 232448, "shared memory")
    _launched, launch, measure = timer(block1=3.0, block2=too_much, block3=2.0)
    assert tuning.fastest(CHOICES, launch, measure) == {"BLOCK": 3}


def test_another_failure_is_not_hidden():
    _launched, launch, measure = timer(block1=3.0, block2=RuntimeError("an illegal memory access"), block3=2.0)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        tuning.fastest(CHOICES, launch, measure)


def on_gpu(*shape, dtype=torch.float32):
    """What the choice looks at of a tensor."""
    x = torch.empty(shape, dtype=dtype, device="meta")
    return SimpleNamespace(is_cuda=True, device=torch.device("cuda:0"), dtype=dtype, shape=x.shape, numel=x.numel)


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setitem(tuning.CONFIGURATIONS, "kernel", CHOICES)
    monkeypatch.setattr(tuning, "chosen", {})
    monkeypatch.delenv("ALEXNET_KERNELS_TUNE", raising=False)
    torch.use_deterministic_algorithms(False)
    launched, launch, measure = timer(block1=3.0, block2=2.0, block3=2.5)
    monkeypatch.setattr(tuning, "seconds_on_device", measure)
    return launched, launch


def test_a_class_of_shapes_is_measured_once(gpu):
    launched, launch = gpu
    for batch in (128, 130, 128):
        tuning.run("kernel", on_gpu(batch, 96, 55, 55), {"BETA": 0.75}, launch)
    assert launched == [1, 2, 3] + [2] * 3
    for other in (on_gpu(128, 64, 55, 55), on_gpu(128, 96, 55, 55, dtype=torch.bfloat16), on_gpu(16, 96, 55, 55)):
        launched.clear()
        tuning.run("kernel", other, {"BETA": 0.75}, launch)
        assert launched == [1, 2, 3, 2]
    launched.clear()
    tuning.run("kernel", on_gpu(128, 96, 55, 55), {"BETA": 0.5}, launch)
    assert launched == [1, 2, 3, 2]


def test_small_tensors_take_the_default(gpu):
    launched, launch = gpu
    tuning.run("kernel", on_gpu(2, 96, 13, 13), {}, launch)
    assert launched == [1]


@pytest.mark.parametrize("reason", ["switched off", "deterministic", "captured", "on the CPU"])
def test_the_default_is_taken_unmeasured(gpu, monkeypatch, reason):
    launched, launch = gpu
    x = on_gpu(128, 96, 55, 55)
    match reason:
        case "switched off":
            monkeypatch.setenv("ALEXNET_KERNELS_TUNE", "0")
        case "deterministic":
            torch.use_deterministic_algorithms(True)  # a fixture of all kernel tests ends it
        case "captured":
            monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
        case "on the CPU":
            x.is_cuda = False
    tuning.run("kernel", x, {}, launch)
    assert launched == [1]
    assert not tuning.chosen


def test_time_is_that_of_a_launch_at_its_best(monkeypatch):
    clock = iter([0.0, 60.0, 60.0, 100.0, 100.0, 150.0])

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            self.at = next(clock)

        def synchronize(self):
            pass

        def elapsed_time(self, other):
            return other.at - self.at

    monkeypatch.setattr(torch.cuda, "Event", Event)
    runs = []
    assert tuning.seconds_on_device(lambda: runs.append(1)) == pytest.approx(40e-3 / 20)
    assert len(runs) == 1 + 3 * 20


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_every_configuration_computes_the_same_bits(device, backend, monkeypatch, memory_format):
    if backend != "triton":
        pytest.skip("configurations are Triton's")
    x = (torch.randn(2, 40, 7, 9) * 10).to(device).contiguous(memory_format=memory_format)
    asked = set()

    def results(number):
        def run(kernel, x, constants, launch):
            asked.add(kernel)
            choices = tuning.CONFIGURATIONS[kernel]
            launch(choices[min(number, len(choices) - 1)])

        monkeypatch.setattr(tuning, "run", run)
        leaf = x.clone().requires_grad_()
        y, pooled = relu_lrn(leaf, 5, 0.1, backend=backend), relu_lrn_maxpool(leaf, 5, 0.1, backend=backend)
        gradients = (torch.autograd.grad(out.square().sum(), leaf)[0] for out in (y, pooled))
        return [y, pooled, *gradients]

    default = results(0)
    for number in range(1, max(map(len, tuning.CONFIGURATIONS.values()))):
        for got, want in zip(results(number), default, strict=True):
            assert torch.equal(got, want)
    assert len(asked) == 4
