"""How simulations print: shares with their Monte Carlo error, tables as Markdown."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def share(hits: Sequence[bool] | NDArray[np.bool_]) -> str:
    """Write a share in percent with its Monte Carlo error; a dash where nothing was tried."""
    if not len(hits):
        return "-"
    mean = float(np.mean(hits))
    return f"{100 * mean:.1f} ± {100 * math.sqrt(mean * (1 - mean) / len(hits)):.1f}"


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table as Markdown."""
    print(f"\n### {title}\n")
    print("| " + " | ".join(header) + " |")
    print("|" + "---|" * len(header))
    for row in rows:
        print("| " + " | ".join(row) + " |", flush=True)
