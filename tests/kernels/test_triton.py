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
pytestmark = pytest.mark.skipif(platform.system() != "Linux", reason="Triton's compiler comes for Linux only")

HERE = Path(__file__).parent

# What a kernel may use, in registers per thread, on any of the three architectures. 65536 registers serve one
# multiprocessor: 64 of them for each thread let half of its 2048 threads run at once, 128 a quarter.
LRN = {"FRONT": 2, "BACK": 2, "SCALE": 2e-5, "BETA": 0.75, "K": 2.0, "GROUPS": 1}
WIDE_WINDOW = {**LRN, "FRONT": 7, "BACK": 7}
ROLL = {"CHUNK": 32, "WHOLE": True, "BLOCK": 128}
POOL = {"CHUNK": 16, "WHOLE": True, "BLOCK": 128, "POOL": 3, "STRIDE": 2}
NO_POOL = {"POOL": 0, "STRIDE": 1}
FORWARD = {**ROLL, "AHEAD": 8}
BACKWARD = {**ROLL, **NO_POOL, "AHEAD": 6, "AHEAD_G": 6}
POOL_BACKWARD = {**POOL, "AHEAD": 2, "AHEAD_G": 1}
TILE = {"PIXELS": 16, "WIDTH": 128, "POOL": 3, "STRIDE": 2}  # 96 channels
CONV1 = {"pixels": 55 * 55, "width": 55, "pooled_height": 27, "pooled_width": 27}
STRIDE_1 = {"STRIDE": 1, "pooled_height": 53, "pooled_width": 53}
COUNT = {"WIDTH": 8, "MANTISSA": 23, "SMALLEST": 1, "COLUMNS": 258, "OFFSET": 1, "BLOCK": 1024, "TURNS": 32}
BUDGETS = [
    ("_triton_rolling", "rolling_forward", {**LRN, **FORWARD, **CONV1, "RELU": False}, 40),
    ("_triton_rolling", "rolling_forward", {**WIDE_WINDOW, **FORWARD, **CONV1, "RELU": False}, 64),
    ("_triton_rolling", "rolling_backward", {**LRN, **BACKWARD, **CONV1, "RELU": True}, 48),
    ("_triton_rolling", "rolling_backward", {**WIDE_WINDOW, **BACKWARD, **CONV1, "RELU": False}, 80),
    ("_triton_rolling", "rolling_backward", {**LRN, **POOL_BACKWARD, **CONV1, "RELU": True}, 80),
    ("_triton_rolling", "rolling_backward", {**LRN, **POOL_BACKWARD, **CONV1, **STRIDE_1, "RELU": True}, 96),
    ("_triton_rolling", "rolling_pool_forward", {**LRN, **POOL, **CONV1, "KEEP": True}, 64),
    ("_triton_rolling", "rolling_pool_forward", {**LRN, **POOL, **CONV1, **STRIDE_1, "KEEP": True}, 64),
    # The same where the extent of an image is not known when compiled.
    ("_triton_rolling", "rolling_forward", {**LRN, **FORWARD, "RELU": True}, 64),
    ("_triton_rolling", "rolling_backward", {**LRN, **BACKWARD, "RELU": False}, 64),
    ("_triton_rolling", "rolling_backward", {**LRN, **POOL_BACKWARD, "RELU": True}, 96),
    ("_triton_rolling", "rolling_backward", {**LRN, **POOL_BACKWARD, "STRIDE": 1, "RELU": True}, 128),
    ("_triton_rolling", "rolling_pool_forward", {**LRN, **POOL, "KEEP": False}, 72),
    ("_triton_tiles", "tile_forward", {**LRN, **TILE, "RELU": False}, 96),
    ("_triton_tiles", "tile_backward", {**LRN, **TILE, **NO_POOL, "RELU": True}, 128),
    ("_triton_tiles", "tile_backward", {**LRN, **TILE, **CONV1, "RELU": True}, 160),
    ("_triton_tiles", "tile_pool_forward", {**LRN, **TILE, **CONV1, "KEEP": True}, 160),
    ("_triton_tiles", "tile_pool_forward", {**LRN, **TILE, **CONV1, **STRIDE_1, "KEEP": True}, 160),
    ("_triton_statistics", "histogram_kernel", COUNT, 128),
    ("_triton_statistics", "off_kernel", {"UNITS": 4, "POSITIONS": 512, "TURNS": 6}, 96),
    ("_triton_statistics", "off_kernel", {"UNITS": 32, "POSITIONS": 64, "TURNS": 12}, 128),
    ("_triton_statistics", "off_rows_kernel", {"UNITS": 32, "SAMPLES": 64}, 64),
]


def compiled(module, name, constants, architecture, values="fp32", **options):
    """Compile a kernel ahead of time, as for arrays that start on 16 bytes and a channel count divisible by 16."""
    import importlib

    import triton.language as tl
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kernel = getattr(importlib.import_module(f"alexnet_kernels.{module}"), name)
    constants = {name: value for name, value in constants.items() if name in kernel.arg_names}
    if "WIDE" in kernel.arg_names:
        constants["WIDE"] = tl.float32
    pointers = {"winners_ptr": "*u8", "counts_ptr": "*i64", "bits_ptr": "*i32"}
    signature, hints = {}, {}
    for position, argument in enumerate(kernel.arg_names):
        if argument in constants:
            signature[argument] = "constexpr"
        else:
            signature[argument] = pointers.get(argument, f"*{values}" if argument.endswith("_ptr") else "i32")
        if argument not in constants and (argument.endswith("_ptr") or argument == "channels"):
            hints[(position,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, constexprs=constants, attrs=hints)
    return triton.compile(source, target=GPUTarget("cuda", architecture, 32), options={"num_warps": 4, **options})


def resources(binary, folder):
    """Ask NVIDIA's own tool, which comes with Triton, what the machine code uses."""
    path = folder / "kernel.cubin"
    path.write_bytes(binary.asm["cubin"])
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    said = subprocess.run([tool, "-res-usage", path], check=True, capture_output=True, text=True).stdout
    return {key: int(value) for key, value in re.findall(r"(REG|STACK|SHARED|LOCAL):(\d+)", said)}


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


def loads_in_flight(binary, folder):
    """For each read of memory: how many are under way, itself among them, when its value is first used."""
    path = folder / "kernel.cubin"
    path.write_bytes(binary.asm["cubin"])
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/nvdisasm"
    said = subprocess.run([tool, "-c", path], check=True, capture_output=True, text=True).stdout
    code = re.findall(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?(\S+) ([^;]*);", said, re.MULTILINE)
    flying = []
    for start, (name, operands) in enumerate(code):
        if name.startswith("LDG"):
            value = re.compile(rf"\b{operands.split(',')[0]}\b")
            under_way = 1
            for later, said_of in code[start + 1 :]:
                written = 0 if later.startswith(("ST", "BRA")) else 1  # a store reads its first operand, too
                if value.search(",".join(said_of.split(",")[written:])):
                    break
                under_way += later.startswith("LDG")
            flying.append(under_way)
    return sum(flying) / len(flying)


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
    passed = interpret(HERE / "test_normalisation.py", "-k", "cpu-triton and (formulas or dense_layout or nothing)")
    assert passed == 1 + 20 + 9 + 3


@pytest.mark.long
@pytest.mark.parametrize(
    ("file", "at_least"),
    [
        ("normalisation", 45),
        ("pooled", 4),
        ("statistics", 7),
        ("registration", 1),
        ("chunks", 20),
        ("layouts", 200),
        ("derivatives", 60),
    ],
)
def test_everything_in_the_interpreter(file, at_least):
    # Left out: plain torch behind the kernels, and finite differences, which need thousands of calls.
    passed = interpret(
        HERE / f"test_{file}.py",
        "-k",
        "cpu-triton and not second_derivatives and not finite_differences and not memory_format0",
    )
    assert passed >= at_least
