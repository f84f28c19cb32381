"""The Triton kernels compiled without a GPU: a table of their variants, and what their machine code uses.

benchmarks/compiled_kernels.py prints it, and tests/kernels/test_triton.py holds it to limits. Linux only, like Triton's
compiler.
"""

import importlib
import re
import subprocess
from pathlib import Path
from typing import Any

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from alexnet_kernels._triton_probe import COMPILED

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
BUDGETS: list[tuple[str, str, dict[str, Any], int]] = [
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


def compiled(
    module: str, name: str, constants: dict[str, Any], architecture: int, values: str = "fp32", **options: Any
) -> Any:
    """Compile a kernel ahead of time, as for arrays that start on 16 bytes and a channel count divisible by 16."""
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
    return triton.compile(
        source, target=GPUTarget("cuda", architecture, 32), options={"num_warps": 4, **COMPILED, **options}
    )


def resources(binary: Any, folder: Path) -> dict[str, int]:
    """Return what the machine code uses, by NVIDIA's tool that comes with Triton: REG, STACK, SHARED, LOCAL."""
    path = folder / "kernel.cubin"
    path.write_bytes(binary.asm["cubin"])
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    printed = subprocess.run([tool, "-res-usage", path], check=True, capture_output=True, text=True).stdout
    return {key: int(value) for key, value in re.findall(r"(REG|STACK|SHARED|LOCAL):(\d+)", printed)}


def loads_in_flight(binary: Any, folder: Path) -> float:
    """Return how many reads are under way, on average, when the value of a read is first used; it counts itself."""
    path = folder / "kernel.cubin"
    path.write_bytes(binary.asm["cubin"])
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/nvdisasm"
    printed = subprocess.run([tool, "-c", path], check=True, capture_output=True, text=True).stdout
    code = re.findall(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?(\S+) ([^;]*);", printed, re.MULTILINE)
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
