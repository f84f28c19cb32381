"""The counting kernels in torch's own operations, for the CPU and as the reference on any device."""

from functools import cache

import torch
from torch import Tensor

# Values counted at a time, so that their bit patterns stay in the cache.
_PIECE = 2**18
# Leading bits of the mantissa that get counters of their own, summed at the end. Increments of one counter wait for
# each other, and more counters make that rarer. For few values the sum costs more than it saves.
_APART, _FEW = 2, 2**14
# Up to here float32 counts without a gap.
_EXACT = 2**24


# Integers of the same size, bits of exponent and mantissa, and how far its exponent field lies below float32's.
FORMATS = {
    torch.float64: (torch.int64, 11, 52, 0),
    torch.float32: (torch.int32, 8, 23, 0),
    torch.bfloat16: (torch.int16, 8, 7, 0),
    torch.float16: (torch.int16, 5, 10, 112),
}


def add_exponent_histogram(x: Tensor, counts: Tensor) -> None:
    """Add x's counts by sign and exponent, from its bits: arithmetic may flush subnormals or lose a NaN's sign."""
    normal = smallest_normal_field(x.dtype)
    if x.dtype.itemsize == 1:
        x = x.float()  # exact; half would make subnormals of normal numbers of float8_e5m2fnuz
    bits, width, mantissa, bias = FORMATS[x.dtype]
    top = 2**width - 1  # the exponent field of infinities and NaN
    x = x.flatten()
    apart = _APART if x.numel() > _FEW else 0
    size = 2 * (top + 1) << apart
    pieces = []
    for piece in torch.split(x, _PIECE):
        # The arithmetic shift leaves sign and exponent; the mask makes the negative ones the upper half.
        field = (piece.view(bits) >> (mantissa - apart)).bitwise_and_(size - 1)
        pieces.append(torch.bincount(field, minlength=size))
    counted = pieces[0] if len(pieces) == 1 else torch.stack(pieces).sum(0)
    fields = counted.view(2, top + 1, 1 << apart).sum(2) if apart else counted.view(2, top + 1)
    normal -= bias
    # Zeros and NaN share their field with others. On the CPU looking first is cheap, and they are rare; elsewhere
    # looking would wait for the device.
    edges = fields[:, ::top].tolist() if x.device.type == "cpu" else [[1, 1], [1, 1]]
    (small, large), (small_negative, large_negative) = edges
    if not (small or small_negative or large or large_negative) and normal == 1:
        counts[:, bias + 2 : top + bias + 1] += fields[:, 1:top]
        return
    zeros, nans = torch.zeros(2, 2, dtype=torch.int64, device=x.device)
    if x.device.type == "cpu" and _count_zeros(x) == small + small_negative:
        zeros += fields[:, 0]  # and no subnormal among them
    elif small or small_negative:
        _add_signed(zeros, x == 0, x)
    if large or large_negative:
        _add_signed(nans, x.isnan(), x)
    counts[:, 0] += zeros
    counts[:, 1] += fields[:, :normal].sum(1) - zeros
    counts[:, normal + bias + 1 : top + bias + 1] += fields[:, normal:top]
    counts[:, -2] += fields[:, top] - nans
    counts[:, -1] += nans


def _count_zeros(x: Tensor) -> int:
    zeros = 0
    for piece in torch.split(x, _PIECE):
        # Summing floats is faster than summing booleans, and free of count_nonzero's branches.
        zeros += int(torch.eq(piece, 0, out=torch.empty_like(piece)).sum(dtype=torch.float32))
    return zeros


def _add_signed(total: Tensor, chosen: Tensor, values: Tensor) -> None:
    negative = (chosen & values.signbit()).sum()
    total[0] += chosen.sum() - negative
    total[1] += negative


@cache
def smallest_normal_field(dtype: torch.dtype) -> int:
    """Return the exponent field, in float32 (or float64), of the dtype's smallest normal number.

    1 for float32 itself, 113 for float16, 121 for float8_e4m3fn.
    """
    if dtype == torch.float64:
        return 1
    smallest = torch.tensor(torch.finfo(dtype).smallest_normal, dtype=torch.float32)
    return int(smallest.view(torch.int32)) >> 23


def add_off_counts(x: Tensor, counts: Tensor) -> None:
    """Add, for each unit, the inputs on which it is off and its elements that are <= 0."""
    if not x.numel():
        return
    if x.dim() == 2:  # one position: off and <= 0 are the same
        truths = torch.le(x, 0, out=torch.empty_like(x, dtype=torch.float32))
        counts += truths.sum(0, dtype=torch.float32 if len(x) <= _EXACT else torch.float64).long()
        return
    positions = x[0, 0].numel()
    # Comparing into floats and summing those is ten times faster here than summing booleans.
    exact = torch.float32 if positions <= _EXACT else torch.float64
    ones = torch.ones(positions, dtype=exact, device=x.device)
    for piece in torch.split(x, max(1, _PIECE * x.shape[0] // x.numel())):
        truths = torch.le(piece, 0, out=torch.empty_like(piece, dtype=exact))
        low = torch.empty(2, *piece.shape[:2], dtype=exact, device=x.device)  # off, elements <= 0; N C each
        if truths.is_contiguous():
            torch.mv(truths.view(-1, positions), ones, out=low[1].view(-1))
        else:
            torch.sum(truths, tuple(range(2, x.dim())), out=low[1])
        torch.eq(low[1], positions, out=low[0])
        # Of several inputs a piece has at most 2**18 elements, so these sums are exact as well.
        counts += low.sum(1).long()
