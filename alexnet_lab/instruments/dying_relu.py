"""Per unit, at every step: on how many inputs it was off.

A unit is a neuron of a fully connected layer or a channel of a convolution. It is off on an input when its
pre-activation, the activation function's input, is <= 0 at every position: what a ReLU then passes on is zero, and so
is the gradient it passes back. Other activations are counted alike, on their negative side.

Dead over a set of N inputs: off on each. With 95% confidence, such a unit fires on fewer than 3/N of inputs like them.

Shapes: N inputs, C units.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alexnet_kernels import off_counts
from alexnet_lab.instruments.flow import SPLITS, Columns, Site

ROW = 4  # off inputs, elements <= 0, inputs, elements


class UnitCounts:
    """The counts of one site over one split, on the device of its tensors until they are drained."""

    def __init__(self, units: int, device: torch.device) -> None:
        self.counts = torch.zeros(2, units, dtype=torch.int64, device=device)
        # How many were counted. Python's integers cost nothing; code that is compiled adds to the tensor instead, since
        # an integer that changes at every step would have to be compiled anew at every step.
        self.inputs, self.elements = 0, 0
        self.compiled_totals = torch.zeros(2, dtype=torch.int64, device=device)

    def add(self, x: Tensor) -> None:
        """Count one batch of pre-activations, (N, C) or (N, C, *)."""
        off_counts(x, into=self.counts)
        elements = x.shape[0]
        for side in x.shape[2:]:
            elements *= side
        if torch.compiler.is_compiling():
            self.compiled_totals[0].add_(x.shape[0])
            self.compiled_totals[1].add_(elements)
        else:
            self.inputs += x.shape[0]
            self.elements += elements

    def drained(self) -> Tensor:
        """Return the counts as (ROW, C), still on the device; the totals are the same for every unit."""
        own = torch.tensor([self.inputs, self.elements], device=self.counts.device)
        return torch.cat([self.counts, (own + self.compiled_totals)[:, None].expand(2, self.counts.shape[1])])

    def restore(self, drained: Tensor) -> None:
        """Go on from counts that were drained earlier."""
        self.counts.copy_(drained[:2])
        self.inputs, self.elements = (int(total) for total in drained[2:, 0]) if drained.shape[1] else (0, 0)
        self.compiled_totals.zero_()

    def clear(self) -> None:
        """Count from nothing again."""
        self.counts.zero_()
        self.compiled_totals.zero_()
        self.inputs, self.elements = 0, 0


def off_rate(off: NDArray[np.int64], inputs: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the share of inputs on which a unit was off; NaN where none was counted."""
    return np.where(inputs > 0, off / np.maximum(inputs, 1), np.nan)


def is_dead(off: NDArray[np.int64], inputs: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Say which units were off on every input that was counted."""
    dead: NDArray[np.bool_] = (off == inputs) & (inputs > 0)
    return dead


def largest_firing_rate(inputs: int) -> float:
    """Bound, with 95% confidence, how often a unit fires that was off on all of that many inputs: the rule of three."""
    return min(1.0, 3 / inputs) if inputs else 1.0


def is_revived(dead: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Say which units fire in an epoch after one in which they were dead; rows are epochs, and so are the answer's."""
    revived = np.zeros_like(dead)
    revived[1:] = dead[:-1] & ~dead[1:]
    return revived


def dead_since(dead: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return from which row (epoch) on a unit was dead in every one to the last; the number of rows if it is alive."""
    alive_last = np.argmax(~dead[::-1], axis=0) if len(dead) else np.zeros(dead.shape[1:], np.int64)
    run = np.where(dead.all(0), len(dead), alive_last)
    since: NDArray[np.int64] = (len(dead) - run).astype(np.int64)
    return since


def columns_of(drained: list[tuple[int, int, NDArray[np.int64]]]) -> Columns:
    """Lay out drained counts, given as (site, split, (ROW, C)), as the records' table of units."""
    rows = [(site, split, counts) for site, split, counts in drained if counts.shape[1] and counts[2, 0]]
    sizes = [counts.shape[1] for *_, counts in rows]
    off, elements_off, inputs, elements = (
        np.concatenate([counts for *_, counts in rows], axis=1) if rows else np.zeros((ROW, 0), np.int64)
    )
    return {
        "site": np.repeat(np.array([site for site, *_ in rows], np.int16), sizes),
        "unit": np.concatenate([np.arange(size, dtype=np.int32) for size in sizes] or [np.zeros(0, np.int32)]),
        "split": np.repeat(np.array([split for _, split, _ in rows], np.int8), sizes),
        "inputs": inputs,
        "off": off,
        "elements": elements,
        "elements_off": elements_off,
    }


def units_as_text(epoch: int, units: Columns, sites: Sequence[Site]) -> str:
    """Write an epoch's table of units as one line per site and split: how many were dead, how often units were off."""
    lines = [f"epoch {epoch}: {'site':24} {'split':9} {'units':>6} {'dead':>5} {'off-rate':>9} {'N':>8}  word"]
    for at, site in enumerate(sites):
        for split, name in enumerate(SPLITS):
            rows = (units["site"] == at) & (units["split"] == split)
            if not rows.any():
                continue
            off, inputs = units["off"][rows], units["inputs"][rows]
            dead, rate = is_dead(off, inputs).sum(), off_rate(off, inputs).mean()
            facts = f"{rows.sum():6} {dead:5} {rate:9.3f} {inputs[0]:8}  {site.word}"
            lines.append(f"{'':9}{site.name:24} {name:9} {facts}")
    return "\n".join(lines)
