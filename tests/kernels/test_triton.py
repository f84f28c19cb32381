"""The Triton kernels where there is no GPU: real numbers from the interpreter, real machine code from the compiler.

The interpreter runs in a process of its own, because a kernel is bound to it, or not, when it is imported.
"""

import os
import platform
import re
import subprocess
import sys
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


@pytest.mark.long
@pytest.mark.parametrize("architecture", [80, 90, 100])
def test_every_kernel_compiles_without_spills_within_its_registers(architecture, tmp_path):
    for case in BUDGETS:
        assert_within_budget(case, architecture, tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("case", [BUDGETS[0], BUDGETS[6]], ids=lambda case: case[1])
def test_half_precision_compiles_within_the_same_registers(case, tmp_path):
    assert_within_budget(case, 90, tmp_path, values="bf16")


def configurations():
    from alexnet_kernels._triton_tuning import CONFIGURATIONS

    for kernel, choices in CONFIGURATIONS.items():
        pools = "pool" in kernel
        name = "_".join(part for part in kernel.split("_") if part != "pool" or kernel.endswith("pool_forward"))
        constants = {**LRN, **CONV1, "RELU": True, "KEEP": True, "WHOLE": True, "POOL": 3 * pools, "STRIDE": 1 + pools}
        module = "_triton_tiles" if kernel.startswith("tile") else "_triton_rolling"
        for choice in choices:
            tile = {"PIXELS": choice["TILE"] // 128, "WIDTH": 128} if "TILE" in choice else {}
            yield module, name, {**constants, **choice, **tile}


@pytest.mark.long
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


@pytest.mark.parametrize(("case", "at_least"), [(BUDGETS[0], 5), (BUDGETS[2], 8), (BUDGETS[8], 5), (BUDGETS[9], 8)])
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
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    run = subprocess.run(
        command, env={**os.environ, "TRITON_INTERPRET": "1"}, check=False, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout[-5000:] + run.stderr[-2000:]
    passed = re.search(r"(\d+) passed", run.stdout)
    assert passed, run.stdout
    return int(passed.group(1))


def test_normalisation_in_the_interpreter_is_the_formula():
    # Of the layouts those with 40 channels, which take more than one chunk; the long tests take all.
    passed = interpret(
        HERE / "test_normalisation.py", "-k", "cpu-triton and (are_the_formulas or cpu-triton-40 or nothing)"
    )
    assert passed == 1 + 10 + 3


@pytest.mark.long
@pytest.mark.parametrize(
    ("file", "left_out", "at_least"),
    [
        ("normalisation", "", 45),
        ("pooled", "", 4),
        ("statistics", "", 7),
        ("registration", "", 1),
        # Kept: unequal chunks, several to a group, a window as wide as two chunks, an even window.
        ("chunks", "40-1-5 or 100-1-4 or 70-2-2 or 64-1-3", 10),
        # The kernels tell two memory orders apart and copy all others: those with names are of each kind.
        ("layouts", "permuted", 60),
        ("derivatives", "", 60),
    ],
)
def test_all_but_repetitions_in_the_interpreter(file, left_out, at_least):
    # Nor plain torch behind the kernels, and finite differences, which need thousands of calls.
    left_out = " or ".join(filter(None, ["second_derivatives", "finite_differences", "memory_format0", left_out]))
    assert interpret(HERE / f"test_{file}.py", "-k", f"cpu-triton and not ({left_out})") >= at_least
