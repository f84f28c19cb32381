"""The counting kernels against numpy: every count exact."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import library

from alexnet_kernels import exponent_histogram, off_counts
from alexnet_kernels.statistics import first_exponent, histogram_columns

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
DTYPES += [torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz]


def by_frexp(x):
    """numpy's frexp gives mantissa in [0.5, 1) and exponent, one more than ours."""
    values = x.double().numpy().ravel()
    smallest = torch.finfo(x.dtype).smallest_normal
    first, columns = first_exponent(x.dtype), histogram_columns(x.dtype)
    counts = np.zeros((2, columns), dtype=np.int64)
    # The sign is the top bit of the last byte; converting a NaN may lose it.
    signs = x.contiguous().view(-1).view(torch.uint8).view(-1, x.dtype.itemsize)[:, -1].numpy() >= 128
    if "fnuz" in str(x.dtype):  # these have one NaN, where others have minus zero
        signs &= ~np.isnan(values)
    for row in (0, 1):
        side = values[signs == row]
        counts[row, 0] = (side == 0).sum()
        counts[row, 1] = ((np.abs(side) < smallest) & (side != 0)).sum()
        counts[row, -2] = np.isinf(side).sum()
        counts[row, -1] = np.isnan(side).sum()
        normal = side[np.isfinite(side) & (np.abs(side) >= smallest)]
        np.add.at(counts[row], np.frexp(normal)[1] - 1 - first + 2, 1)
    return counts


@st.composite
def tensors(draw):
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    size = draw(st.sampled_from([2, 7, 100, 5000]))
    kind = draw(st.sampled_from(["normal", "every exponent", "any bits"]))
    if kind == "any bits":
        x = torch.from_numpy(random.integers(0, 2**64, size, dtype=np.uint64)).view(torch.float64)
    elif kind == "every exponent":
        x = torch.from_numpy(np.exp2(random.uniform(-1080, 1023, size)) * random.choice([-1, 1], size))
    else:
        x = torch.from_numpy(random.normal(size=size))
    dtype = draw(st.sampled_from(DTYPES))
    x = x.view(torch.uint8)[: size * dtype.itemsize].view(dtype) if kind == "any bits" else x.to(dtype)
    special = torch.tensor(
        [0.0, -0.0, float("inf"), -float("inf"), float("nan"), -float("nan"), 1e-320, 1e-40, -1e-7]
    ).to(dtype)
    return torch.cat([x.view(torch.uint8), special.view(torch.uint8)]).view(dtype)


@given(x=tensors())
def test_every_value_is_counted_in_its_column(device, backend, x):
    counts = exponent_histogram(x.to(device), backend=backend)
    np.testing.assert_array_equal(counts.cpu().numpy(), by_frexp(x))
    assert counts.sum() == x.numel()


def test_counts_add_up_in_the_callers_buffer_over_many_pieces(device, backend):
    x = torch.randn(3, 500_001, device=device)
    x[:, ::1000] = 0
    counts = exponent_histogram(x, backend=backend)
    same = exponent_histogram(x, into=counts, backend=backend)
    assert same is counts
    np.testing.assert_array_equal(counts.cpu().numpy(), 2 * by_frexp(x.cpu()))


def test_a_view_with_strides_counts_what_it_shows(device, backend):
    x = torch.randn(10, 20, device=device)[::2, ::3]
    counts = exponent_histogram(x, backend=backend)
    np.testing.assert_array_equal(counts.cpu().numpy(), by_frexp(x.cpu()))


@st.composite
def activations(draw):
    shape = draw(st.lists(st.integers(1, 5), min_size=2, max_size=5))
    if draw(st.booleans()):
        shape[0] *= 40
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    x = np.round(random.normal(loc=draw(st.sampled_from([-2.0, -1.0, 0.0])), size=shape), 1)
    x[random.random(shape) < 0.02] = np.nan
    x = torch.from_numpy(x).to(draw(st.sampled_from(DTYPES)))
    return x.movedim(1, -1).contiguous().movedim(-1, 1) if draw(st.booleans()) else x


@given(x=activations())
def test_units_are_off_where_no_position_is_above_zero(device, backend, x):
    low = (x.double().numpy() <= 0).reshape(*x.shape[:2], -1)
    want = np.stack([low.all(2).sum(0), low.sum((0, 2))])
    counts = off_counts(x.to(device), backend=backend)
    np.testing.assert_array_equal(counts.cpu().numpy(), want)
    off_counts(x.to(device), into=counts, backend=backend)
    np.testing.assert_array_equal(counts.cpu().numpy(), 2 * want)


@pytest.mark.parametrize("shape", [(64, 96, 27, 27), (4096, 100), (3, 5, 1000)])
def test_large_activations_are_counted_exactly(device, backend, shape):
    x = torch.randn(shape, device=device)
    x[:, 1] = -x[:, 1].abs()
    x[: shape[0] // 2, 2] = 0
    low = (x <= 0).reshape(*shape[:2], -1)
    want = torch.stack([low.all(2).sum(0), low.sum((0, 2))])
    assert torch.equal(off_counts(x, backend=backend), want)


def test_nothing_is_counted_in_nothing(device, backend):
    assert not off_counts(torch.empty(0, 3, 5, device=device), backend=backend).any()
    assert not exponent_histogram(torch.empty(2, 0, device=device), backend=backend).any()


class Launches:
    """Stands for a kernel: notes the grid and the constants of each launch."""

    def __init__(self):
        self.grids, self.constants = [], []

    def __getitem__(self, grid):
        self.grids.append(grid)
        return lambda *_arguments, **constants: self.constants.append(constants)


def test_grids_stay_within_what_cuda_allows(monkeypatch):
    statistics = pytest.importorskip("alexnet_kernels._triton_statistics", exc_type=ImportError)
    rows, others, histogram = Launches(), Launches(), Launches()
    monkeypatch.setattr(statistics, "off_rows_kernel", rows)
    monkeypatch.setattr(statistics, "off_kernel", others)
    monkeypatch.setattr(statistics, "histogram_kernel", histogram)
    units = 4_000_000  # 125,000 blocks of 32
    statistics.add_off_counts(torch.empty(1, units, dtype=torch.float16), None)
    statistics.add_off_counts(torch.empty(1, units, 2, dtype=torch.float16), None)
    statistics.add_exponent_histogram(torch.empty(units), torch.empty(2, 258))
    for launches in (rows, others, histogram):
        ((programs, *further),) = launches.grids
        assert programs < 2**31
        assert all(extent <= 65535 for extent in further)
    assert rows.grids[0][0] * statistics.UNITS >= units


def test_ever_new_image_sizes_share_few_kernels(monkeypatch):
    statistics = pytest.importorskip("alexnet_kernels._triton_statistics", exc_type=ImportError)
    launches = Launches()
    monkeypatch.setattr(statistics, "off_kernel", launches)
    for side in range(2, 1000):
        statistics.add_off_counts(torch.empty(1).expand(1, 1, side, side), None)
    turns = {constants["TURNS"] for constants in launches.constants}
    assert len(turns) < 50
    for side, constants in zip(range(2, 1000), launches.constants, strict=True):
        assert side**2 <= constants["TURNS"] * constants["POSITIONS"] <= 1.25 * side**2 + constants["POSITIONS"]


def test_counting_goes_on_inside_a_compiled_graph():
    def step(x, histogram, off):
        exponent_histogram(x, into=histogram)
        off_counts(x, into=off)
        return x.relu()

    x = torch.randn(4, 3, 5, requires_grad=True)
    histogram, off = exponent_histogram(x[:0]), off_counts(x[:0])
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    for _ in range(2):
        compiled(x, histogram, off).sum().backward()
    np.testing.assert_array_equal(histogram.numpy(), 2 * by_frexp(x.detach()))
    assert torch.equal(off, 2 * off_counts(x))


def test_torch_finds_the_operators_well_made():
    operators = torch.ops.alexnet_kernels
    library.opcheck(operators.add_exponent_histogram, (torch.randn(9), torch.zeros(2, 258, dtype=int), "auto"))
    library.opcheck(operators.add_off_counts, (torch.randn(9, 2, 3), torch.zeros(2, 2, dtype=int), "auto"))


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: exponent_histogram(torch.ones(3, dtype=int)), TypeError, "got torch.int64"),
        (lambda: off_counts(torch.ones(3, 3, dtype=bool)), TypeError, "got torch.bool"),
        (lambda: exponent_histogram(torch.ones(3).to(torch.float8_e8m0fnu)), TypeError, "got torch.float8_e8m0fnu"),
        (lambda: off_counts(torch.ones(2, 3).to(torch.float8_e8m0fnu)), TypeError, "convert it with x.float"),
        (lambda: off_counts(torch.ones(3)), ValueError, r"needs N and C, got shape \(3,\)"),
        (lambda: off_counts(torch.ones(3, 4), into=torch.zeros(2, 3, dtype=int)), ValueError, r"shape \(2, 4\) on cpu"),
        (lambda: exponent_histogram(torch.ones(3), into=torch.zeros(2, 258)), ValueError, r"got torch.float32"),
        (lambda: exponent_histogram(torch.ones(3), backend="cub"), ValueError, "got 'cub'"),
        (lambda: off_counts(torch.ones(3, 3), backend="triton"), ValueError, "needs a tensor on CUDA"),
    ],
)
def test_input_without_meaning_is_refused(call, error, says, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(error, match=says):
        call()
