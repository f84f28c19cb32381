"""From counters on a device to columns, and to what a checkpoint keeps, so that a run which goes on counts on.

Counts of activations are those of all processes that share the work: they are added up here, and only here. Weights,
gradients after averaging, and the probe set are the same in each, and the first one's are taken.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from alexnet_lab.instruments import dying_relu, histograms
from alexnet_lab.instruments.flow import KINDS, SPLITS, Columns, Site
from alexnet_lab.instruments.gradient_flow import ParameterMeter
from alexnet_lab.instruments.histograms import ClosedWindow, Histograms
from alexnet_lab.instruments.sites import ForwardOrder, WatchedSite, restored_site

SHARED_KINDS = (KINDS.index("activation"), KINDS.index("activation gradient"))


class Processes(Protocol):
    """Who shares the work, as training.parallel.Ranks says it."""

    @property
    def rank(self) -> int: ...  # noqa: D102

    @property
    def count(self) -> int: ...  # noqa: D102

    def sum(self, values: Tensor) -> Tensor: ...  # noqa: D102


class Alone:
    """One process."""

    rank, count = 0, 1

    def sum(self, values: Tensor) -> Tensor:
        """Return them as they are."""
        return values


@dataclass
class Gauges:
    """Everything a panel reads."""

    order: ForwardOrder
    sites: dict[tuple[str, int], WatchedSite]
    histograms: Histograms
    meter: ParameterMeter
    steps: list[tuple[int, Tensor]]  # measured steps since the last drain, and their norms, (3, P)


@dataclass
class Snapshot:
    """What all processes counted since the last drain."""

    units: list[Tensor]  # of each site, (ROW, C)
    windows: list[ClosedWindow]


def snapshot(gauges: Gauges, windows: list[ClosedWindow], processes: Processes) -> Snapshot:
    """Add up what the processes counted, leaving their own counters as they are."""
    units = [site.training.drained() for site in gauges.sites.values()]
    shared = [torch.tensor([key[0] in SHARED_KINDS for key in window.keys], dtype=torch.bool) for window in windows]
    parts = [*units]
    for window, mine in zip(windows, shared, strict=True):
        parts += [window.counts[mine.to(window.counts.device)], window.tensors[mine.to(window.tensors.device)]]
    if processes.count == 1 or not parts:
        return Snapshot(units, windows)
    device = parts[0].device
    sizes = [part.numel() for part in parts]
    total = processes.sum(torch.cat([part.flatten().to(device) for part in parts]))
    summed = [one.view(part.shape) for one, part in zip(torch.split(total, sizes), parts, strict=True)]
    found = []
    for at, (window, mine) in enumerate(zip(windows, shared, strict=True)):
        counts, tensors = window.counts.to(device, copy=True), window.tensors.to(device, copy=True)
        counts[mine.to(device)], tensors[mine.to(device)] = summed[len(units) + 2 * at : len(units) + 2 * at + 2]
        found.append(replace(window, counts=counts, tensors=tensors))
    return Snapshot(summed[: len(units)], found)


def tables_of(gauges: Gauges, processes: Processes, precision: str) -> dict[str, Columns]:
    """Return the columns of what was measured since the last drain; every window must be closed."""
    found = snapshot(gauges, gauges.histograms.closed, processes)
    origin = histograms.bin_origin(gauges.histograms.wide)
    windows, counts = histograms.columns_of(found.windows, gauges.meter.noisy, precision, origin)
    drained = [
        (place, split, counted.cpu().numpy())
        for split in range(len(SPLITS))
        for place, counted in enumerate(
            found.units if split == 0 else [site.probe.drained() for site in gauges.sites.values()]
        )
    ]
    return {
        "steps": _step_columns(gauges),
        "windows": windows,
        "histograms": {"counts": counts},
        "units": dying_relu.columns_of(drained),
    }


def clear(gauges: Gauges) -> None:
    """Begin again from nothing; what a window holds open is forgotten too."""
    for site in gauges.sites.values():
        site.training.clear()
        site.probe.clear()
    gauges.histograms.closed.clear()
    gauges.steps.clear()


def _step_columns(gauges: Gauges) -> Columns:
    parameters = len(gauges.meter.parameters)
    norms = (
        torch.stack([found for _, found in gauges.steps]).cpu().numpy()
        if gauges.steps
        else np.zeros((0, 3, parameters))
    )
    return {
        "step": np.repeat(np.array([step for step, _ in gauges.steps], np.int32), parameters),
        "parameter": np.tile(np.arange(parameters, dtype=np.int16), len(gauges.steps)),
        **{
            name: norms[:, row].reshape(-1).astype(np.float32)
            for row, name in enumerate(("weight_norm", "gradient_norm", "update_norm"))
        },
    }


def saved(gauges: Gauges, processes: Processes) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return what a checkpoint keeps of an epoch under way: tensors by name, and facts for JSON."""
    now = gauges.histograms.open_window()
    found = snapshot(gauges, [*gauges.histograms.closed, now], processes)
    tensors = {f"units.{place}": counts for place, counts in enumerate(found.units)}
    for at, window in enumerate(found.windows):
        tensors[f"window.{at}.counts"], tensors[f"window.{at}.tensors"] = window.counts, window.tensors
        tensors[f"window.{at}.signal_to_noise"] = window.signal_to_noise
    meter = gauges.meter
    tensors |= {"noise.sums": meter.sums, "noise.energy": meter.energy, "noise.counted": meter.counted}
    if gauges.steps:
        tensors["steps"] = torch.stack([norms for _, norms in gauges.steps])
    facts = {
        "ran": list(gauges.order.ran),
        "sites": [{"place": name, "use": use, **asdict(site.site)} for (name, use), site in gauges.sites.items()],
        "windows": [{"first": w.first_step, "last": w.last_step, "keys": w.keys} for w in found.windows],
        "steps": [step for step, _ in gauges.steps],
    }
    return tensors, facts


def restore(gauges: Gauges, tensors: Mapping[str, Tensor], facts: Mapping[str, Any], processes: Processes) -> None:
    """Go on from what a checkpoint kept; of what was added up over processes, the first one takes all."""
    device = gauges.meter.device
    mine = processes.rank == 0
    for place, described in enumerate(facts["sites"]):
        values = dict(described)
        key = (values.pop("place"), values.pop("use"))
        if key not in gauges.sites:
            gauges.sites[key] = restored_site(Site(**values), place, device)
        if mine:
            gauges.sites[key].training.restore(tensors[f"units.{place}"])
    windows = []
    for at, described in enumerate(facts["windows"]):
        counts, added = tensors[f"window.{at}.counts"].to(device), tensors[f"window.{at}.tensors"].to(device)
        keys = [(kind, subject, stride) for kind, subject, stride in described["keys"]]
        if not mine:
            shared = [key[0] in SHARED_KINDS for key in keys]
            counts[shared], added[shared] = 0, 0
        ratio = tensors[f"window.{at}.signal_to_noise"].to(device)
        windows.append(ClosedWindow(described["first"], described["last"], keys, added, counts, ratio))
    gauges.histograms.closed = windows[:-1]
    gauges.histograms.reopen(windows[-1])
    meter = gauges.meter
    for total, name in ((meter.sums, "sums"), (meter.energy, "energy"), (meter.counted, "counted")):
        total.copy_(tensors[f"noise.{name}"])
    norms = tensors.get("steps", torch.zeros(0)).to(device)
    gauges.steps[:] = list(zip(facts["steps"], norms, strict=True))


def units_as_text(epoch: int, units: Columns, sites: Sequence[Site]) -> str:
    """Write an epoch's table of units as one line per site and split: how many were dead, how often units were off."""
    lines = [f"epoch {epoch}: {'site':24} {'split':9} {'units':>6} {'dead':>5} {'off-rate':>9} {'N':>8}  word"]
    for at, site in enumerate(sites):
        for split, name in enumerate(SPLITS):
            rows = (units["site"] == at) & (units["split"] == split)
            if not rows.any():
                continue
            off, inputs = units["off"][rows], units["inputs"][rows]
            dead, rate = dying_relu.is_dead(off, inputs).sum(), dying_relu.off_rate(off, inputs).mean()
            facts = f"{rows.sum():6} {dead:5} {rate:9.3f} {inputs[0]:8}  {site.word}"
            lines.append(f"{'':9}{site.name:24} {name:9} {facts}")
    return "\n".join(lines)
