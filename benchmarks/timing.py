"""What the benchmarks share: spreads of ratios, the machine they ran on, rows in a CSV file.

A benchmark interleaves what it compares, takes ratios within a round, and reports the median of the rounds with the
20% and 80% quantiles.
"""

import csv
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

SPREAD = ("median", "q20", "q80", "rounds")
MACHINE = ("machine", "torch", "date")


class Spread(NamedTuple):
    """Median and 20/80 quantiles of what several rounds measured."""

    median: float
    low: float
    high: float
    rounds: int

    def text(self, digits: int = 2) -> str:
        """Write it as `1.23  [1.20, 1.31]`."""
        return f"{self.median:6.{digits}f}  [{self.low:.{digits}f}, {self.high:.{digits}f}]"


def spread(values: Sequence[float]) -> Spread:
    """Summarise the values of several rounds, one at least."""
    low, *_, high = statistics.quantiles(values, n=5) if len(values) > 1 else (values[0], values[0])
    return Spread(statistics.median(values), low, high, len(values))


def ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """Divide round by round."""
    return [a / b for a, b in zip(above, below, strict=True)]


def interleave(contenders: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Measure every contender once a round, in turn; one more round comes first and is not kept."""
    measured: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name, measure in contenders.items():
            value = measure()
            if number:  # the first round fills caches and allocators
                measured[name].append(value)
    return measured


def synchronise(device: str) -> None:
    """Wait until a GPU has finished."""
    if device == "cuda":
        import torch

        torch.cuda.synchronize()


def machine(device: str) -> tuple[str, str, str]:
    """Return what MACHINE names: the processor or GPU, torch's version, today's date."""
    import torch

    name = torch.cuda.get_device_name() if device == "cuda" else f"{platform.machine()} cpu"
    return name, torch.__version__, time.strftime("%Y-%m-%d")


def append_rows(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Append rows to a CSV file, which gets the header if it is new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    is_new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if is_new:
            writer.writerow(header)
        writer.writerows(rows)
