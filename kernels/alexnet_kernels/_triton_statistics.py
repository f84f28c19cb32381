"""The counting kernels in Triton: integer arithmetic, so every count is exact in any order of additions."""

# mypy: ignore-errors
# ruff: noqa: N803, N806
# Jitted functions are Triton's own language in Python's syntax: its values have no Python types and its compile-time
# constants are written in capitals.

import contextlib

import torch
import triton
import triton.language as tl
from torch import Tensor

from alexnet_kernels._geometry import memory_order
from alexnet_kernels._statistics import FORMATS, smallest_normal_field
from alexnet_kernels._triton_probe import COMPILED

BLOCK = 1024
TURNS = 32  # blocks that a program counts before it adds its histogram to the result
UNITS = 32
SAMPLES = 64


@triton.jit
def histogram_kernel(
    bits_ptr,  # the bit patterns of the values, as integers: arithmetic may flush subnormals
    counts_ptr,
    size,
    WIDTH: tl.constexpr,  # bits of the exponent
    MANTISSA: tl.constexpr,
    SMALLEST: tl.constexpr,  # exponent field of the smallest number that counts as normal
    COLUMNS: tl.constexpr,
    OFFSET: tl.constexpr,  # from an exponent field to its column
    BLOCK: tl.constexpr,
    TURNS: tl.constexpr,
):
    FIELDS: tl.constexpr = 2 * 2**WIDTH
    TOP: tl.constexpr = 2**WIDTH - 1
    fields = tl.zeros([FIELDS], tl.int32)
    zeros = tl.zeros([BLOCK], tl.int32)
    negative_zeros = tl.zeros([BLOCK], tl.int32)
    nans = tl.zeros([BLOCK], tl.int32)
    negative_nans = tl.zeros([BLOCK], tl.int32)
    start = tl.program_id(0).to(tl.int64) * BLOCK * TURNS
    for turn in range(TURNS):
        at = start + turn * BLOCK + tl.arange(0, BLOCK)
        inside = at < size
        bits = tl.load(bits_ptr + at, mask=inside, other=0).to(tl.int64)
        field = ((bits >> MANTISSA) & (FIELDS - 1)).to(tl.int32)
        exponent = field & TOP
        fraction = bits & (2**MANTISSA - 1)
        negative = inside & (field > TOP)
        zero = inside & (exponent == 0) & (fraction == 0)
        nan = inside & (exponent == TOP) & (fraction != 0)
        zeros += zero.to(tl.int32)
        negative_zeros += (zero & negative).to(tl.int32)
        nans += nan.to(tl.int32)
        negative_nans += (nan & negative).to(tl.int32)
        field = tl.where(exponent < SMALLEST, field - exponent, field)
        fields += tl.histogram(field, FIELDS, mask=inside & ~zero & ~nan)
    which = tl.arange(0, FIELDS)
    exponent = which & TOP
    column = tl.where(exponent == 0, 1, exponent + OFFSET)
    column = tl.where(exponent == TOP, COLUMNS - 2, column)
    tl.atomic_add(counts_ptr + (which // (TOP + 1)) * COLUMNS + column, fields.to(tl.int64), mask=fields > 0)
    negative_zero = tl.sum(negative_zeros).to(tl.int64)
    negative_nan = tl.sum(negative_nans).to(tl.int64)
    tl.atomic_add(counts_ptr, tl.sum(zeros).to(tl.int64) - negative_zero)
    tl.atomic_add(counts_ptr + COLUMNS, negative_zero)
    tl.atomic_add(counts_ptr + COLUMNS - 1, tl.sum(nans).to(tl.int64) - negative_nan)
    tl.atomic_add(counts_ptr + 2 * COLUMNS - 1, negative_nan)


@triton.jit
def off_kernel(
    x_ptr,
    counts_ptr,
    units,
    positions,
    unit_step,
    position_step,
    unit_blocks,
    UNITS: tl.constexpr,
    POSITIONS: tl.constexpr,
    TURNS: tl.constexpr,  # known when compiled, since Triton 3.6's interpreter cannot loop to a tensor
):
    """Count for one input and a block of units: units off at every position, and positions <= 0."""
    pid = tl.program_id(0)
    sample = (pid // unit_blocks).to(tl.int64)
    unit = (pid % unit_blocks) * UNITS + tl.arange(0, UNITS)
    x = x_ptr + sample * units * positions + unit[:, None].to(tl.int64) * unit_step
    low = tl.zeros([UNITS, POSITIONS], tl.int32)
    for turn in range(TURNS):
        position = turn * POSITIONS + tl.arange(0, POSITIONS)[None, :]
        inside = (unit[:, None] < units) & (position < positions)
        low += (tl.load(x + position.to(tl.int64) * position_step, mask=inside, other=1.0) <= 0.0).to(tl.int32)
    low_positions = tl.sum(low, 1).to(tl.int64)
    tl.atomic_add(
        counts_ptr + unit, (low_positions == positions).to(tl.int64), mask=(unit < units) & (low_positions == positions)
    )
    tl.atomic_add(counts_ptr + units + unit, low_positions, mask=(unit < units) & (low_positions > 0))


@triton.jit
def off_rows_kernel(x_ptr, counts_ptr, samples, units, unit_blocks, UNITS: tl.constexpr, SAMPLES: tl.constexpr):
    """Count for many inputs and a block of units with one position each, where off and <= 0 are the same."""
    pid = tl.program_id(0)  # one axis for both: CUDA allows 2**31 - 1 programs along the first, 65535 along the others
    first_unit = (pid % unit_blocks) * UNITS
    sample = (pid // unit_blocks).to(tl.int64) * SAMPLES + tl.arange(0, SAMPLES)[:, None]
    unit = first_unit + tl.arange(0, UNITS)[None, :]
    inside = (sample < samples) & (unit < units)
    low = (tl.load(x_ptr + sample * units + unit, mask=inside, other=1.0) <= 0.0).to(tl.int32)
    low_samples = tl.sum(low, 0).to(tl.int64)
    at = counts_ptr + first_unit + tl.arange(0, UNITS)
    counted = (first_unit + tl.arange(0, UNITS) < units) & (low_samples > 0)
    tl.atomic_add(at, low_samples, mask=counted)
    tl.atomic_add(at + units, low_samples, mask=counted)


def few_turns(turns: int) -> int:
    """Round up to three binary digits, so that images of ever new sizes share few kernels; at most a fifth is idle."""
    spare = max(0, turns.bit_length() - 3)
    return -(-turns >> spare) << spare


def _on(x: Tensor):
    return torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext()


def add_exponent_histogram(x: Tensor, counts: Tensor) -> None:
    """Add x's counts by sign and exponent."""
    if not x.numel():
        return
    columns = counts.shape[1]
    smallest = smallest_normal_field(x.dtype)
    if x.dtype.itemsize == 1:
        x = x.float()  # exact; half would make subnormals of normal numbers of float8_e5m2fnuz
    bits, width, mantissa, bias = FORMATS[x.dtype]
    x = x if memory_order(x) == "channels_last" else x.contiguous()  # the order of the values does not matter
    numbers = {
        "WIDTH": width,
        "MANTISSA": mantissa,
        "SMALLEST": smallest - bias,
        "COLUMNS": columns,
        "OFFSET": bias + 1,
    }
    programs = triton.cdiv(x.numel(), BLOCK * TURNS)
    with _on(x):
        histogram_kernel[(programs,)](x.view(bits), counts, x.numel(), **numbers, BLOCK=BLOCK, TURNS=TURNS, **COMPILED)


def add_off_counts(x: Tensor, counts: Tensor) -> None:
    """Add, for each unit, the inputs on which it is off and its elements that are <= 0."""
    if not x.numel():
        return
    samples, units = x.shape[:2]
    with _on(x):
        if x.numel() == samples * units:
            blocks = triton.cdiv(units, UNITS)
            grid = (triton.cdiv(samples, SAMPLES) * blocks,)
            off_rows_kernel[grid](
                x.contiguous(), counts, samples, units, blocks, UNITS=UNITS, SAMPLES=SAMPLES, **COMPILED
            )
            return
        last = memory_order(x) == "channels_last"
        x = x if last else x.contiguous()
        positions = x[0, 0].numel()
        steps = (1, units) if last else (positions, 1)
        tile = {"UNITS": 32, "POSITIONS": 64} if last else {"UNITS": 4, "POSITIONS": 512}  # the long side in memory
        blocks, turns = triton.cdiv(units, tile["UNITS"]), few_turns(triton.cdiv(positions, tile["POSITIONS"]))
        off_kernel[(samples * blocks,)](x, counts, units, positions, *steps, blocks, **tile, TURNS=turns, **COMPILED)
