"""The Triton kernels where there is no GPU: real numbers from the interpreter, real machine code from the compiler.

The interpreter runs in a process of its own, because a kernel is bound to it, or not, when it is imported.
"""

import os
import platform
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

triton = pytest.importorskip("triton", reason="Triton is installed on Linux only", exc_type=ImportError)
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from machine_code import BUDGETS, CONV1, LRN, NO_POOL, TILE, compiled, loads_in_flight, resources  # noqa: E402  # needs Triton

pytestmark = pytest.mark.skipif(platform.system() != "Linux", reason="Triton's compiler comes for Linux only")

HERE = Path(__file__).parent


def assert_within_budget(case, architecture, folder, values="fp32"):
    module, name, constants, budget = case
    used = resources(compiled(module, name, constants, architecture, values), folder)
    assert used["LOCAL"] == used["STACK"] == 0, f"{name} spills on sm_{architecture}: {used}"
    assert 8 <= used["REG"] <= budget, f"{name} uses {used['REG']} registers on sm_{architecture}, {budget} allowed"


def test_forward_and_backward_compile_within_their_registers(tmp_path):
    for case in (BUDGETS[0], BUDGETS[2]):
        assert_within_budget(case, 90, tmp_path)


@pytest.mark.parametrize(
    "architecture",
    [
        pytest.param(80, marks=pytest.mark.campaign),
        pytest.param(90, marks=pytest.mark.long),
        pytest.param(100, marks=pytest.mark.campaign),
    ],
)
def test_every_kernel_compiles_without_spills_within_its_registers(architecture, tmp_path):
    for case in BUDGETS:
        assert_within_budget(case, architecture, tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("case", [BUDGETS[0], BUDGETS[6]], ids=lambda case: case[1])
def test_half_precision_compiles_within_the_same_registers(case, tmp_path):
    assert_within_budget(case, 90, tmp_path, values="bf16")


def registers_wanted(choice):
    """Return what makes one configuration of a kernel need more registers than another: values of a thread, loads."""
    values = choice.get("BLOCK", choice.get("TILE", 0)) / (32 * choice["num_warps"])
    return values, choice.get("AHEAD", 0) + choice.get("AHEAD_G", 0), choice.get("CHUNK", 0)


def configurations():
    """Yield every configuration but the first of each kernel, which is in BUDGETS.

    In CI the one of each kernel that needs the most registers is compiled; the others are of the campaign.
    """
    from alexnet_kernels._triton_tuning import CONFIGURATIONS

    for kernel, (_, *choices) in CONFIGURATIONS.items():
        hungriest = max(choices, key=registers_wanted)
        pools = "pool" in kernel
        name = "_".join(part for part in kernel.split("_") if part != "pool" or kernel.endswith("pool_forward"))
        constants = {**LRN, **CONV1, "RELU": True, "KEEP": True, "WHOLE": True, "POOL": 3 * pools, "STRIDE": 1 + pools}
        module = "_triton_tiles" if kernel.startswith("tile") else "_triton_rolling"
        for choice in choices:
            tile = {"PIXELS": choice["TILE"] // 128, "WIDTH": 128} if "TILE" in choice else {}
            mark = pytest.mark.long if choice is hungriest else pytest.mark.campaign
            yield pytest.param((module, name, {**constants, **choice, **tile}), marks=mark)


@pytest.mark.parametrize("case", list(configurations()), ids=lambda case: f"{case[1]} {case[2]}")
def test_every_configuration_compiles_without_spills(case, tmp_path):
    used = resources(compiled(*case, 90, num_warps=case[2]["num_warps"]), tmp_path)
    assert used["LOCAL"] == used["STACK"] == 0, used


def test_a_spill_would_be_noticed(tmp_path):
    """The same kernel with fewer registers than it needs: the measure is no constant."""
    module, name, constants, _budget = BUDGETS[2]
    used = resources(compiled(module, name, constants, 90, maxnreg=24), tmp_path)
    assert used["REG"] <= 24
    assert used["STACK"] > 0


@pytest.mark.parametrize(
    ("case", "at_least"),
    [
        (BUDGETS[0], 5),
        (BUDGETS[2], 8),
        pytest.param(BUDGETS[8], 5, marks=pytest.mark.long),
        pytest.param(BUDGETS[9], 8, marks=pytest.mark.long),
    ],
)
def test_values_are_asked_for_long_before_they_are_needed(case, at_least, tmp_path):
    """One read at a time would leave memory idle most of the time; with hundreds of cycles to wait, many must fly."""
    module, name, constants, _budget = case
    assert loads_in_flight(compiled(module, name, constants, 90), tmp_path) >= at_least
    at_once = {**constants, "AHEAD": 1, "AHEAD_G": 1}
    assert loads_in_flight(compiled(module, name, at_once, 90), tmp_path) < at_least / 2


def test_channels_last_memory_is_read_sixteen_bytes_at_a_time():
    for name, constants in (("tile_forward", {"RELU": False}), ("tile_backward", {**NO_POOL, "RELU": False})):
        code = compiled("_triton_tiles", name, {**LRN, **TILE, **constants}, 90).asm["ptx"]
        assert re.search(r"ld\.global[.\w:]*\.v4\.b32", code)
        assert re.search(r"st\.global[.\w:]*\.v4\.b32", code)


def interpret(*arguments):
    """Run tests in the interpreter; return how many of each file passed."""
    command = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", *arguments]
    run = subprocess.run(
        command, env={**os.environ, "TRITON_INTERPRET": "1"}, check=False, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout[-5000:] + run.stderr[-2000:]
    return Counter(re.findall(r"test_(\w+)\.py::.* PASSED", run.stdout))


def test_normalisation_in_the_interpreter_is_the_formula():
    # Of the layouts two with 40 channels, which take more than one chunk, and two groups; the long tests take all.
    passed = interpret(
        HERE / "test_normalisation.py", "-k", "cpu-triton and (are_the_formulas or cpu-triton-40-5-2 or nothing)"
    )
    assert passed == {"normalisation": 1 + 2 + 3}


# Files with a kernel in them, and how many of their tests the interpreter runs at least in CI.
INTERPRETED = {
    "normalisation": 45,
    "pooled": 4,
    "statistics": 5,
    "registration": 1,
    "chunks": 10,
    "layouts": 55,
    "derivatives": 60,
}
# Plain torch behind the kernels, and finite differences, which need thousands of calls.
OUTSIDE = "second_derivatives or finite_differences or memory_format0"
REPETITIONS = [
    # Kept: unequal chunks, several to a group, a window as wide as two chunks, an even window.
    "40-1-5 or 100-1-4 or 70-2-2 or 64-1-3",
    # The kernels tell two memory orders apart and copy all others: kept are both, and strides of each kind to copy.
    "permuted or image or columns or windows",
    # More programs of a kernel that other tests run.
    "large_activations",
]


@pytest.mark.long
def test_all_but_repetitions_in_the_interpreter():
    left_out = " or ".join([OUTSIDE, *REPETITIONS])
    passed = interpret(*(HERE / f"test_{file}.py" for file in INTERPRETED), "-k", f"cpu-triton and not ({left_out})")
    assert {file: count for file, count in INTERPRETED.items() if passed[file] < count} == {}


@pytest.mark.campaign
@pytest.mark.parametrize("file", INTERPRETED)
def test_everything_in_the_interpreter(file):
    assert interpret(HERE / f"test_{file}.py", "-k", f"cpu-triton and not ({OUTSIDE})")[file] >= INTERPRETED[file]
