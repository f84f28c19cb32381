"""Measure local response normalisation on this machine: python -m alexnet_kernels.bench.

- Correctness first: every case is compared with float64 before any is timed; one wrong case stops the run.
- Ratios within one run: every rival runs once in every round, in a new order, so a busy machine slows all of them.
- A figure is a median with its 20% and 80% quantiles, beside how long a plain copy takes: one for forward (a value
  read, a value written), two for forward and backward.
- On a GPU a time is that of the kernels alone: many calls, over inputs that together exceed three times the L2 cache,
  are captured in one CUDA graph, and its replay is timed. `--timing launches` times the calls from Python.
"""

# ruff: noqa: T201  (a benchmark prints)

import argparse
import collections
import csv
import datetime
import itertools
import os
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

SHAPES = {"conv1": (96, 55, 55), "conv2": (256, 27, 27)}  # where AlexNet normalises
NUMBERS = {"size": 5, "alpha": 1e-4, "beta": 0.75, "k": 2.0}  # section 3.3 of the 2012 paper
TOLERANCE = {"float32": 1e-5, "bfloat16": 3e-2}
# Values that must pass through memory at the least, per value of the input: forward reads x and writes y; backward
# reads x and the gradient and writes one. Pooled tensors have a quarter of the values, less the border, and the winners
# a byte for each.
FEWEST = {("lrn", "forward"): 2.0, ("lrn", "both"): 5.0, ("pooled", "forward"): 1.24, ("pooled", "both"): 3.6}


@dataclass(frozen=True)
class Case:
    """What is run."""

    operation: str  # lrn, or pooled: ReLU, LRN and max-pooling in a row
    shape: str
    batch: int
    dtype: str
    layout: str
    direction: str  # forward, or both: forward and backward


@dataclass(frozen=True)
class Figure:
    """One row of the results: a case, who ran it, how fast, and on what."""

    date: str
    hardware: str
    device: str
    threads: int
    load: float
    torch: str
    triton: str
    python: str
    timing: str  # call: one call at a time; launches or graph: many calls, as described above
    operation: str
    shape: str
    batch: int
    dtype: str
    layout: str
    direction: str
    rival: str
    rounds: int
    milliseconds: float
    milliseconds_20: float
    milliseconds_80: float
    over_eager: float
    over_eager_20: float
    over_eager_80: float
    copies: float
    copies_20: float
    copies_80: float
    useful_gigabytes_per_second: float


def main(arguments: list[str] | None = None, command: str = "python -m alexnet_kernels.bench") -> int:
    """Run the benchmark, called by that command; return 0, or 1 if a case computes the wrong numbers."""
    parser = argparse.ArgumentParser(prog=command, description=__doc__.split("\n\n")[0])
    parser.add_argument("--threads", type=int, help="threads on the CPU (default: as many as torch takes)")
    parser.add_argument("--quick", action="store_true", help="a batch of 8 and few rounds: a minute, for a first look")
    parser.add_argument("--out", type=Path, default=Path("lrn-benchmark"), help="folder for the table and the picture")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="where to run")
    parser.add_argument(
        "--timing", choices=["graph", "launches"], default="graph", help="on a GPU: time a CUDA graph, or calls"
    )
    options = parser.parse_args(arguments)
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:  # before anything is measured for it
        parser.error(f"--out needs a folder that can be written, got {options.out} ({error.strerror}); name another")

    import torch

    device = options.device if options.device != "auto" else ("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda needs a GPU that torch can see; use --device cpu")
    if options.threads is not None and options.threads < 1:
        parser.error(f"--threads needs at least 1, got {options.threads}")
    if options.threads:
        torch.set_num_threads(options.threads)

    machine = _machine(device) | {"timing": options.timing if device == "cuda" else "call"}
    print(f"{machine['hardware']}, {machine['threads']} threads, torch {machine['torch']}, load {machine['load']:.2f}")
    cases = _cases(device, options.quick)
    worst = _gate(cases, device)
    if worst is None:
        return 1
    print(f"every case is right: largest error {worst:.1e} of its tolerance\n")

    name = f"lrn-cpu-{machine['threads']}-threads" if device == "cpu" else "lrn-cuda"
    figures: list[Figure] = []
    for number, case in enumerate(cases, 1):
        print(f"[{number}/{len(cases)}] {_title(case)} ...", file=sys.stderr, flush=True)
        rounds = (5 if options.quick else 9) if device == "cpu" else 15
        figures += _measure(case, device, max(3, rounds // 3) if case.batch > 32 else rounds, machine)
        _write_table(figures, options.out / f"{name}.csv")  # after each case: a run cut short leaves what it has
    _print_table(figures)
    print(f"\nwrote {options.out / name}.csv")
    _draw(figures, options.out / f"{name}.png")
    return 0


def _cases(device: str, quick: bool) -> list[Case]:
    batches = (8,) if quick else (32, 128)
    dtypes = ("float32",) if quick else ("float32", "bfloat16")
    cases = []
    for operation, batch, shape, dtype, layout, direction in itertools.product(
        ("lrn", "pooled"), batches, SHAPES, dtypes, ("channels_first", "channels_last"), ("forward", "both")
    ):
        # A CPU takes minutes for the large batch: the plain case answers whether a batch scales.
        plain = dtype == "float32" and layout == "channels_first" and operation == "lrn"
        if device == "cpu" and not plain and (batch > 32 or (dtype == "bfloat16" and layout == "channels_last")):
            continue
        if device == "cuda" and batch == 32 and dtype == "bfloat16":
            continue
        cases.append(Case(operation, shape, batch, dtype, layout, direction))
    return cases


def _title(case: Case) -> str:
    return f"{case.operation} {case.shape} N={case.batch} {case.dtype} {case.layout} {case.direction}"


def _input(case: Case, device: str, batch: int | None = None) -> "Tensor":
    import torch

    generator = torch.Generator(device).manual_seed(0)
    shape = (batch or case.batch, *SHAPES[case.shape])
    x = torch.randn(shape, generator=generator, device=device).to(getattr(torch, case.dtype))
    return x.to(memory_format=torch.channels_last) if case.layout == "channels_last" else x


def _ours(case: Case) -> Callable[["Tensor"], "Tensor"]:
    from alexnet_kernels import local_response_norm, relu_lrn_maxpool

    function: Any = local_response_norm if case.operation == "lrn" else relu_lrn_maxpool
    return lambda x: function(x, **NUMBERS)


def _torchs(case: Case) -> Callable[["Tensor"], "Tensor"]:
    import torch.nn.functional as F

    if case.operation == "lrn":
        return lambda x: F.local_response_norm(x, **NUMBERS)  # type: ignore[arg-type]
    return lambda x: F.max_pool2d(F.local_response_norm(F.relu(x), **NUMBERS), 3, 2)  # type: ignore[arg-type]


def _separate(case: Case) -> Callable[["Tensor"], "Tensor"]:
    """The best path in two steps: our normalisation, torch's pooling."""
    import torch.nn.functional as F

    from alexnet_kernels import relu_lrn

    return lambda x: F.max_pool2d(relu_lrn(x, **NUMBERS), 3, 2)  # type: ignore[arg-type]


def _gate(cases: list[Case], device: str) -> float | None:
    """Return the largest error as a share of its tolerance, or None after saying which case is wrong."""
    import torch

    worst = 0.0
    for case in cases:
        x = _input(case, device, batch=2).requires_grad_()
        truth = x.detach().double().requires_grad_()
        y, want = _ours(case)(x), _torchs(case)(truth)
        gradient = torch.randn_like(want)
        (dx,) = torch.autograd.grad(y, x, gradient.to(y.dtype))
        (want_dx,) = torch.autograd.grad(want, truth, gradient.to(y.dtype).double())
        if case.operation == "pooled":
            # Two values that round to a tie may change places, and a gradient with them; each column's sum stays.
            dx, want_dx = dx.double().sum((2, 3)), want_dx.sum((2, 3))
        for got, exact in ((y, want), (dx, want_dx)):
            error = ((got.double() - exact).abs().max() / exact.abs().max()).item() / TOLERANCE[case.dtype]
            if not error <= 1:
                print(f"WRONG: {_title(case)} is off by {error:.1f} times its tolerance; nothing was timed")
                return None
            worst = max(worst, error)
    return worst


def _measure(case: Case, device: str, rounds: int, machine: dict[str, Any]) -> list[Figure]:
    import torch

    x = _input(case, device)
    copies = 1 if device == "cpu" else buffers_beyond_cache(x.nbytes, _second_level_cache())
    inputs = itertools.cycle([x.clone().requires_grad_(case.direction == "both") for _ in range(copies)])
    results: collections.deque[Any] = collections.deque(maxlen=copies)  # kept, so that each lands in memory of its own
    torch._dynamo.reset()
    functions = {"ours": _ours(case)}
    if case.operation == "pooled":
        functions["separate"] = _separate(case)
    if case.dtype == "float32" or device == "cuda":  # torch's own has no half precision on the CPU (2.13)
        functions["eager"] = _torchs(case)
        functions["compile"] = torch.compile(_torchs(case), dynamic=False)
    gradient = torch.randn_like(functions["ours"](next(inputs)).detach())

    def once(function: Callable[["Tensor"], "Tensor"]) -> None:
        x = next(inputs)
        y = function(x)
        results.append(torch.autograd.grad(y, x, gradient) if case.direction == "both" else y)

    def copy() -> None:
        for _ in range(1 if case.direction == "forward" else 2):
            results.append(next(inputs).detach().clone())

    rivals: dict[str, Callable[[], None]] = {"copy": copy}
    for name, function in functions.items():
        rivals[name] = lambda function=function: once(function)  # type: ignore[misc]
    timed = {name: _timer(run, machine["timing"], calls_per_timing(copies)) for name, run in rivals.items()}
    seconds: dict[str, list[float]] = {name: [] for name in rivals}
    order = list(rivals)
    shuffle = random.Random(0)  # noqa: S311  (an order, not a secret)
    for turn in range(rounds + 2):
        shuffle.shuffle(order)
        for name in order:
            measured = timed[name]()
            if turn >= 2:  # the first two compile and warm up
                seconds[name].append(measured)
    useful = FEWEST[case.operation, case.direction] * x.nbytes
    return [_figure(case, name, seconds, useful, machine) for name in rivals]


def buffers_beyond_cache(size: int, cache: int) -> int:
    """Return how many buffers of `size` bytes exceed three times the cache, so that none is still in it on its turn."""
    return max(2, 3 * cache // size + 1)


def calls_per_timing(copies: int) -> int:
    """Return how many calls are timed together: at least 20, and each buffer equally often."""
    return -(-20 // copies) * copies


def _second_level_cache() -> int:
    import torch

    return int(torch.cuda.get_device_properties().L2_cache_size)


def _timer(run: Callable[[], None], timing: str, calls: int) -> Callable[[], float]:
    """Return what measures the seconds of one call of `run`."""
    if timing == "call":

        def one() -> float:
            began = time.perf_counter()
            run()
            return time.perf_counter() - began

        return one

    def many() -> None:
        for _ in range(calls):
            run()

    return _events_around(_captured(many, run) if timing == "graph" else many, calls)


def _captured(many: Callable[[], None], run: Callable[[], None]) -> Callable[[], None]:
    """Capture the kernels of many calls in a CUDA graph; return what replays it."""
    import torch

    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # compile and load everything first: neither is possible while capturing
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        many()
    return graph.replay


def _events_around(run: Callable[[], None], calls: int) -> Callable[[], float]:
    import torch

    def timed() -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()
        start.record()
        run()
        end.record()
        torch.cuda.synchronize()
        return float(start.elapsed_time(end)) / 1e3 / calls

    return timed


def _quantiles(values: list[float]) -> tuple[float, float, float]:
    """Return the median and the 20% and 80% quantiles."""
    fifths = statistics.quantiles(values, n=5, method="inclusive")
    return statistics.median(values), fifths[0], fifths[3]


def _figure(case: Case, rival: str, seconds: dict[str, list[float]], useful: float, machine: dict[str, Any]) -> Figure:
    own = seconds[rival]
    nothing = (float("nan"),) * 3
    over_eager = (
        _quantiles([e / s for e, s in zip(seconds["eager"], own, strict=True)]) if "eager" in seconds else nothing
    )
    copies = _quantiles([s / c for c, s in zip(seconds["copy"], own, strict=True)])
    times = _quantiles([s * 1e3 for s in own])
    values = (*times, *over_eager, *copies, useful / statistics.median(own) / 1e9)
    names = [field.name for field in fields(Figure)][-len(values) :]
    numbers: dict[str, Any] = {name: float(f"{value:.4g}") for name, value in zip(names, values, strict=True)}
    return Figure(**machine, **asdict(case), rival=rival, rounds=len(own), **numbers)


def _machine(device: str) -> dict[str, Any]:
    import importlib.metadata

    import torch

    hardware = torch.cuda.get_device_name() if device == "cuda" else _processor()
    try:
        triton = importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        triton = "none"
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "hardware": hardware,
        "device": device,
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else float("nan"),
        "torch": torch.__version__,
        "triton": triton,
        "python": platform.python_version(),
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    names = [line for line in cpuinfo.read_text().splitlines() if "model name" in line] if cpuinfo.exists() else []
    name = names[0].split(":")[1].strip() if names else platform.processor() or platform.machine()
    return f"{name}, {os.cpu_count()} cores"


def _print_table(figures: list[Figure]) -> None:
    print(f"{'case':56}{'rival':>10}{'ms':>9}{'x eager (20%, 80%)':>24}{'copies (20%, 80%)':>24}")
    for figure in figures:
        case = Case(*(getattr(figure, field.name) for field in fields(Case)))
        eager = f"{figure.over_eager:.2f} ({figure.over_eager_20:.2f}, {figure.over_eager_80:.2f})"
        copies = f"{figure.copies:.2f} ({figure.copies_20:.2f}, {figure.copies_80:.2f})"
        title = _title(case) if figure.rival == "copy" else ""
        print(f"{title:56}{figure.rival:>10}{figure.milliseconds:>9.2f}{eager:>24}{copies:>24}")


def _write_table(figures: list[Figure], table: Path) -> None:
    table.parent.mkdir(parents=True, exist_ok=True)
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Figure)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(figure) for figure in figures)


def _draw(figures: list[Figure], picture: Path) -> None:
    try:
        from alexnet_kernels import bench_plot
    except ImportError as error:
        print(f"no picture: {error}; pip install matplotlib")
        return
    bench_plot.draw([asdict(figure) for figure in figures], FEWEST, picture)
    print(f"wrote {picture}")


if __name__ == "__main__":
    sys.exit(main())
