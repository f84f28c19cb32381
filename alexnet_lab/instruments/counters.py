"""Everything that a panel has counted: met on the device, drained to columns, saved for a checkpoint and restored.

Counts of activations are those of all processes that share the work: they are added up here, and only here. Weights,
gradients after averaging, and the probe set are the same in each, and the first one's are taken.
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from alexnet_lab.instruments import dying_relu, histograms, limits
from alexnet_lab.instruments.flow import KINDS, SPLITS, Columns, Layout, Parameter, Site
from alexnet_lab.instruments.gradient_flow import ParameterMeter
from alexnet_lab.instruments.histograms import ClosedWindow, HistogramRow, Histograms, stride_through
from alexnet_lab.instruments.limits import Limits
from alexnet_lab.instruments.sites import (
    FIRST,
    LAST,
    SECOND,
    WatchedSite,
    by_unit,
    is_countable,
    new_site,
    units_of,
)
from alexnet_lab.instruments.watching import Place, label_of, layer_of

WEIGHT, GRADIENT, ACTIVATION, ACTIVATION_GRADIENT = range(4)  # as in flow.KINDS
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


class Counters:
    """What was counted at the sites of a network, and measured of its parameters, since the last drain."""

    def __init__(self, model: nn.Module, precision: str, processes: Processes, limits: Limits) -> None:
        self.model, self.precision, self.processes, self.limits = model, precision, processes, limits
        self.ran: dict[str, None] = {}  # modules with parameters, in the order in which they ran
        self.sites: dict[Place, WatchedSite] = {}
        self.histograms = Histograms(any(p.dtype == torch.float64 for p in model.parameters()))
        self.steps: list[tuple[int, Tensor]] = []  # measured steps, and their norms, (3, P)
        self.window_steps: list[int] = []  # of the open window
        self._described: tuple[Parameter, ...] = ()
        self._meter: ParameterMeter | None = None

    @property
    def meter(self) -> ParameterMeter:
        """The measured parameters; asked for first, it takes them in the order in which their modules ran so far."""
        if self._meter is None:
            parameters, self._described = self._in_order()
            self._meter = ParameterMeter(parameters)
        return self._meter

    def describe(self, **facts: Any) -> Layout:
        """Describe what the columns' indices stand for."""
        described = self._described if self._meter is not None else self._in_order()[1]
        return Layout(
            parameters=described,
            sites=tuple(site.site for site in self.sites.values()),
            precision=self.precision,
            first_exponent=histograms.bin_origin(self.histograms.wide),
            **facts,
        )

    def row(self, kind: int, subject: int, device: torch.device) -> HistogramRow:
        """Return the open window's histogram of a kind and subject."""
        return self.histograms.row(kind, subject, device)

    def site(self, place: Place, activation: str, x: Tensor, moved: bool, batch: int | None) -> WatchedSite | None:
        """Return the site of a place, which its first pre-activation describes; None if it cannot be counted."""
        site = self.sites.get(place)
        if site is None and not torch.compiler.is_compiling():
            site = self._new_site(place, activation, x, moved, batch)
        if site is None:
            return None
        why_not = site.why_not(x)
        if why_not is not None:
            self.limits.add(why_not, site.site.name)
            return None
        return site

    def meet(self, site: WatchedSite, x: Tensor, probing: bool, sizes: bool) -> None:
        """Count one batch of pre-activations, and with `sizes` its histogram."""
        site.count(x, probing)
        if sizes:
            self.row(ACTIVATION, site.place, x.device).add(x)

    def expect(self, site: WatchedSite, x: Tensor) -> None:
        """Make the histograms of a site beforehand, for tensors of that shape, as compiled code needs it."""
        for kind in (ACTIVATION, ACTIVATION_GRADIENT):
            self.row(kind, site.place, x.device).stride = stride_through(x.shape)

    def read_parameters(self, sizes: bool) -> None:
        """Read weights and gradients: their norms, and with `sizes` their histograms; weights once a window."""
        self.meter.read()
        for at, (parameter, gradient) in enumerate(zip(self.meter.parameters, self.meter.gradients(), strict=True)):
            if parameter.dim() > 1:
                if not self.window_steps:
                    self.row(WEIGHT, at, parameter.device).add(parameter)
                if gradient is not None and sizes:
                    self.row(GRADIENT, at, parameter.device).add(gradient)

    def finish_step(self, step: int, update_is_known: bool) -> None:
        """Keep the norms of a measured step, counted from 1."""
        self.steps.append((step, self.meter.finish(update_is_known)))
        self.window_steps.append(step)

    def close_window(self) -> None:
        """Keep the open window, if any step of it was measured, and start the next."""
        if self.window_steps:
            self.histograms.close_window(self.window_steps[0], self.window_steps[-1], self.meter.close_window())
            self.window_steps.clear()

    def forget_window(self) -> None:
        """Forget what the open window counted."""
        self.histograms.forget_window()
        self.window_steps.clear()

    def seen(self, in_training: bool) -> bool:
        """Say whether any unit was counted since the last drain."""
        counts = [site.training if in_training else site.probe for site in self.sites.values()]
        return any(c.inputs or int(c.compiled_totals[0]) for c in counts)

    def drain(self) -> dict[str, Columns]:
        """Return the columns of what was measured since the last drain; every window must be closed."""
        noisy = self.meter.noisy
        self._note_new_parameters()
        units, closed = self._summed(self.histograms.closed)
        origin = histograms.bin_origin(self.histograms.wide)
        windows, counts = histograms.columns_of(closed, noisy, self.precision, origin)
        of_splits = (units, [site.probe.drained() for site in self.sites.values()])
        drained = [
            (place, split, counted.cpu().numpy())
            for split in range(len(SPLITS))
            for place, counted in enumerate(of_splits[split])
        ]
        return {
            "steps": self._step_columns(),
            "windows": windows,
            "histograms": {"counts": counts},
            "units": dying_relu.columns_of(drained),
        }

    def clear(self) -> None:
        """Begin again from nothing, but for the open window."""
        for site in self.sites.values():
            site.training.clear()
            site.probe.clear()
        self.histograms.closed.clear()
        self.steps.clear()

    def save(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return what a checkpoint keeps of an epoch under way: tensors by name, and facts for JSON."""
        units, windows = self._summed([*self.histograms.closed, self.histograms.open_window()])
        tensors = {f"units.{place}": counts for place, counts in enumerate(units)}
        for at, window in enumerate(windows):
            tensors[f"window.{at}.counts"], tensors[f"window.{at}.tensors"] = window.counts, window.tensors
            tensors[f"window.{at}.signal_to_noise"] = window.signal_to_noise
        meter = self.meter
        tensors |= {"noise.sums": meter.sums, "noise.energy": meter.energy, "noise.counted": meter.counted}
        if self.steps:
            tensors["steps"] = torch.stack([norms for _, norms in self.steps])
        facts = {
            "ran": list(self.ran),
            "sites": [
                {"place": name, "use": use, "axis": site.axis, **asdict(site.site)}
                for (name, _, use), site in self.sites.items()
            ],
            "windows": [{"first": w.first_step, "last": w.last_step, "keys": w.keys} for w in windows],
            "steps": [step for step, _ in self.steps],
            "window_steps": list(self.window_steps),
        }
        return tensors, facts

    def restore(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Go on from what was saved; of what was added up over processes, the first one takes all."""
        for name in facts["ran"]:
            self.ran.setdefault(name)
        device = self.meter.device
        mine = self.processes.rank == 0
        for number, (place, axis, described) in enumerate(_saved_sites(facts["sites"])):
            if place not in self.sites:
                self.sites[place] = new_site(described, number, axis, device)
            if mine:
                self.sites[place].training.restore(tensors[f"units.{number}"])
        windows = []
        for at, window in enumerate(facts["windows"]):
            counts, added = tensors[f"window.{at}.counts"].to(device), tensors[f"window.{at}.tensors"].to(device)
            keys = [(kind, subject, stride) for kind, subject, stride in window["keys"]]
            if not mine:
                shared = [key[0] in SHARED_KINDS for key in keys]
                counts[shared], added[shared] = 0, 0
            ratio = tensors[f"window.{at}.signal_to_noise"].to(device)
            windows.append(ClosedWindow(window["first"], window["last"], keys, added, counts, ratio))
        self.histograms.closed = windows[:-1]
        self.histograms.reopen(windows[-1])
        meter = self.meter
        for total, name in ((meter.sums, "sums"), (meter.energy, "energy"), (meter.counted, "counted")):
            total.copy_(tensors[f"noise.{name}"])
        norms = tensors.get("steps", torch.zeros(0)).to(device)
        self.steps[:] = list(zip(facts["steps"], norms, strict=True))
        self.window_steps[:] = facts["window_steps"]

    def layers_without_site(self) -> list[str]:
        """Return the layers with weights that ran, and behind which no activation was met before the next layer ran."""
        fed = {site.site.fed_by for site in self.sites.values()}
        layers = dict.fromkeys(p.layer for p in self._described if len(p.shape) > 1 and p.layer in self.ran)
        return [layer for layer in layers if layer not in fed]

    def _new_site(self, place: Place, activation: str, x: Tensor, moved: bool, batch: int | None) -> WatchedSite | None:
        name, layer, _ = place
        label = label_of(name, layer)
        earlier = sum(label_of(*other[:2]) == label for other in self.sites)
        label += f"#{earlier + 1}" if earlier else ""
        if not is_countable(x):
            self.limits.add(limits.TENSOR, label)
            return None
        where = units_of(x, self.model.get_submodule(layer) if layer else None, moved)
        inputs, units = by_unit(x, where.axis).shape[:2]
        if where.limit is not None:
            self.limits.add(where.limit, label)
        if batch not in (None, inputs) and x.dim() > 1 and where.axis != FIRST:
            self.limits.add(limits.BATCH, label)
        described = Site(label, layer, activation, where.unit, units)
        self.sites[place] = new_site(described, len(self.sites), where.axis, x.device)
        return self.sites[place]

    def _in_order(self) -> tuple[list[nn.Parameter], tuple[Parameter, ...]]:
        """Return the parameters that can be measured, in the order of the forward pass; those never used come last."""
        places = {name: at for at, name in enumerate(self.ran)}
        named = [(name, layer_of(name), p) for name, p in self.model.named_parameters() if _is_measurable(p)]
        named.sort(key=lambda parameter: places.get(parameter[1], len(places)))
        described = tuple(Parameter(name, layer, tuple(p.shape), p.requires_grad) for name, layer, p in named)
        return [p for *_, p in named], described

    def _note_new_parameters(self) -> None:
        described = {parameter.name for parameter in self._described}
        for name, _ in self.model.named_parameters():
            if name not in described:
                self.limits.add(limits.PARAMETERS, name)

    def _step_columns(self) -> Columns:
        parameters = len(self.meter.parameters)
        norms = (
            torch.stack([norms for _, norms in self.steps]).cpu().numpy()
            if self.steps
            else np.zeros((0, 3, parameters))
        )
        return {
            "step": np.repeat(np.array([step for step, _ in self.steps], np.int32), parameters),
            "parameter": np.tile(np.arange(parameters, dtype=np.int16), len(self.steps)),
            **{
                name: norms[:, row].reshape(-1).astype(np.float32)
                for row, name in enumerate(("weight_norm", "gradient_norm", "update_norm"))
            },
        }

    def _summed(self, windows: Sequence[ClosedWindow]) -> tuple[list[Tensor], list[ClosedWindow]]:
        """Add up what the processes counted, leaving their own counters as they are: of each site, (ROW, C)."""
        units = [site.training.drained() for site in self.sites.values()]
        shared = [torch.tensor([key[0] in SHARED_KINDS for key in w.keys], dtype=torch.bool) for w in windows]
        parts = [*units]
        for window, mine in zip(windows, shared, strict=True):
            parts += [window.counts[mine.to(window.counts.device)], window.tensors[mine.to(window.tensors.device)]]
        if self.processes.count == 1 or not self._processes_agree(windows) or not parts:
            return units, list(windows)
        device = parts[0].device
        sizes = [part.numel() for part in parts]
        total = self.processes.sum(torch.cat([part.flatten().to(device) for part in parts]))
        summed = [one.view(part.shape) for one, part in zip(torch.split(total, sizes), parts, strict=True)]
        added_up = []
        for at, (window, mine) in enumerate(zip(windows, shared, strict=True)):
            counts, tensors = window.counts.to(device, copy=True), window.tensors.to(device, copy=True)
            counts[mine.to(device)], tensors[mine.to(device)] = summed[len(units) + 2 * at : len(units) + 2 * at + 2]
            added_up.append(replace(window, counts=counts, tensors=tensors))
        return summed[: len(units)], added_up

    def _processes_agree(self, windows: Sequence[ClosedWindow]) -> bool:
        """Say whether all processes have the same sites and windows, in the same order; every one gets the same answer.

        They do if a number made of the names has no variance over the processes.
        """
        names = [(*place, site.site.units) for place, site in self.sites.items()]
        number = zlib.crc32(repr((names, [window.keys for window in windows])).encode()) >> 8  # its square fits int64
        total, squares = self.processes.sum(torch.tensor([number, number**2], device=self.meter.device)).tolist()
        if total**2 == squares * self.processes.count:
            return True
        self.limits.add(limits.PROCESSES, f"{len(self.sites)} in this one")
        return False


def _is_measurable(parameter: nn.Parameter) -> bool:
    return parameter.is_floating_point() and not is_lazy(parameter)


def _saved_sites(described: Sequence[Mapping[str, Any]]) -> list[tuple[Place, int, Site]]:
    """Read the sites of a checkpoint: place, dimension of the units, description.

    Earlier versions kept no dimension, and `use` counted the uses in the whole pass.
    """
    sites: list[tuple[Place, int, Site]] = []
    for entry in described:
        values = dict(entry)
        name, use, axis = values.pop("place"), values.pop("use"), values.pop("axis", None)
        site = Site(**values)
        if axis is None:
            axis = LAST if site.unit == "neuron" else SECOND
            use = 1 + sum(place[:2] == (name, site.fed_by) for place, *_ in sites)
        sites.append(((name, site.fed_by, use), axis, site))
    return sites
