"""What a run carries to see inside its network while it learns: one panel, on any torch module.

    with Panel(model, optimiser, every=10) as panel:
        for x, y in batches:
            optimiser.zero_grad()
            loss(model(x), y).backward()
            panel.gradients_ready()  # after unscaling, before clipping; left out, gradients are read as the step begins
            optimiser.step()
            panel.step()
        with panel.probing(), torch.no_grad():
            model.eval()(probe_images)
    print(panel.summary())

Units are counted at every step; norms and histograms on schedule. Counters stay on the device until the epoch ends.
Under torch.compile, enter the panel before the first compiled call, and `panel.survey(batch)` before that call.
"""

import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from alexnet_lab.instruments import draining, histograms
from alexnet_lab.instruments.draining import Alone, Gauges, Processes
from alexnet_lab.instruments.flow import Columns, FlowWriter, Layout
from alexnet_lab.instruments.gradient_flow import ParameterMeter
from alexnet_lab.instruments.histograms import Histograms, stride_through
from alexnet_lab.instruments.recomputation import Checkpoints
from alexnet_lab.instruments.sites import ForwardOrder, WatchedSite, new_site, unwrapped, watch

WEIGHT, GRADIENT, ACTIVATION, ACTIVATION_GRADIENT = range(4)  # as in flow.KINDS
READ_AT = {
    "ready": "gradients after unscaling and averaging over processes, before clipping; weights before the update",
    "optimiser": "gradients as the optimiser's step begins, after any clipping; weights before the update",
    "step": "gradients and weights after the optimiser's step, after any clipping; updates unknown",
}


class Flags:
    """What hooks look at, apart from what changes at every step: compiled code stands for one setting of these."""

    def __init__(self) -> None:
        self.measuring = False  # norms, at this step
        self.counting_sizes = False  # and histograms
        self.probed: nn.Module | None = None


class Panel:
    """Instruments on a network; hooks stand from `with` to its end, whatever happens in between.

    One of `every` steps is measured, and `window` measured steps make one histogram: of all of them or, unless `each`,
    of the first alone. With `folder`, records are written there (flow.py) at each end_epoch. `scaler` is the GradScaler
    of fp16, `processes` the ranks of data-parallel training, each with the mean loss of its part: activation gradients
    are recorded as those of the whole batch's.
    """

    def __init__(
        self,
        model: nn.Module,
        optimiser: Optimizer | None = None,
        *,
        every: int = 10,
        window: int = 4,
        each: bool = True,
        folder: Path | None = None,
        precision: str = "fp32",
        scaler: torch.amp.GradScaler | None = None,
        processes: Processes | None = None,
        probe: str = "",
    ) -> None:
        if every < 1 or window < 1:
            raise ValueError(f"every and window count steps and must be at least 1, got {every} and {window}")
        self.model, self.optimiser, self.every, self.window = unwrapped(model), optimiser, every, window
        self.each, self.writer = each, FlowWriter(folder) if folder else None
        self.precision, self.probe = precision, probe
        self.scaler = scaler if scaler is not None and scaler.is_enabled() else None
        # The loss scale of the step under way, for compiled code, which cannot ask a scaler.
        self.loss_scale = torch.ones((), device=next((p.device for p in self.model.parameters()), None))
        self.processes: Processes = processes or Alone()
        self.flags = Flags()
        self.order = ForwardOrder(self.model)
        self.sites: dict[tuple[str, int], WatchedSite] = {}
        self.checkpoints = Checkpoints()
        wide = any(p.dtype == torch.float64 for p in self.model.parameters())
        self.histograms = Histograms(wide)
        self.meter: ParameterMeter | None = None  # made when the first pass has told the parameters' order
        self.steps: list[tuple[int, Tensor]] = []  # measured steps since the last drain, and their norms
        self.window_steps: list[int] = []
        self.steps_taken, self.step_in_epoch, self.epoch = 0, 0, 1
        self.tables: dict[int, dict[str, Columns]] = {}
        self.measuring_seconds, self.seconds_before = 0.0, 0.0
        self.read_at = "ready"
        self._read, self._optimiser_stepped = False, False
        self._surveyed, self._surveying = False, False
        self._handles: list[RemovableHandle] = []
        self._began = time.perf_counter()

    def __enter__(self) -> Self:
        self._handles = [*watch(self.model, self._meet, self._meet_again, self._pass_ended)]
        self._handles.append(self.model.register_forward_pre_hook(self._check_compiled, prepend=True))
        if not self._surveyed:
            self.order.listen()
        if self.optimiser is not None:
            self._handles.append(self.optimiser.register_step_pre_hook(self._optimiser_steps))
        self._set_flags()
        self._note_loss_scale()
        self._began = time.perf_counter()
        return self

    def __exit__(self, kind: type[BaseException] | None, _error: object, _trace: TracebackType | None) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self.order.stop()
        self._set_flags()
        # Ranks of which one failed would wait for each other for ever.
        if self.step_in_epoch and (kind is None or (issubclass(kind, Exception) and self.processes.count == 1)):
            self.end_epoch()

    def survey(self, *inputs: Any, **named: Any) -> None:
        """Learn sites and order from one pass in eval mode, as torch.compile needs it, with a batch like those to come.

        It draws nothing from any generator's future, and leaves buffers and modes as they were.
        """
        modes = {module: module.training for module in self.model.modules()}
        gpus = {p.device for p in self.model.parameters() if p.is_cuda}
        self._surveying = True
        try:
            with torch.no_grad(), torch.random.fork_rng(list(gpus)), self.probing():
                self.model.eval()(*inputs, **named)
        finally:
            self._surveying = False
            for module, mode in modes.items():
                module.training = mode
        self.order.stop()
        self._parameters()
        self._surveyed = True

    @contextmanager
    def probing(self, network: nn.Module | None = None) -> Iterator[None]:
        """Count what passes in here as the probe set's, in the panel's network or in another of the same making."""
        other = unwrapped(network) if network is not None else self.model
        handles = watch(other, self._meet) if other is not self.model or not self._handles else []
        if other is self.model and not self._surveyed and not self.order.handles:
            self.order.listen()
        self.flags.probed = other
        try:
            yield
        finally:
            self.flags.probed = None
            for handle in handles:
                handle.remove()

    def gradients_ready(self) -> None:
        """Read the gradients, if this step is a measured one: call it after unscaling, before clipping."""
        if self.flags.measuring and not self._read:
            self._timed(self._read_parameters)

    def step(self) -> None:
        """Say that the step is over, and the update applied; after scaler.update(), where there is a scaler."""
        if self.flags.measuring:
            self._timed(self._finish_step)
        self.steps_taken += 1
        self.step_in_epoch += 1
        if len(self.window_steps) >= self.window:
            self._timed(self._close_window)
        self._read = self._optimiser_stepped = False
        self._note_loss_scale()
        self._set_flags()

    def end_epoch(self) -> dict[str, Columns]:
        """Drain everything, write it if there is a folder, and begin the next epoch; return the epoch's tables."""
        began = time.perf_counter()
        self._close_window()
        self._warn_if_blind()
        tables = draining.tables_of(self._gauges(), self.processes, self.precision)
        now = time.perf_counter()
        total = self.seconds_before + now - self._began
        measuring = self.measuring_seconds + now - began
        tables["cost"] = {
            "step": np.array([self.steps_taken], np.int32),
            "measuring_seconds": np.array([measuring]),
            "total_seconds": np.array([total]),
        }
        if self.writer is not None and self.processes.rank == 0:
            (self.writer.begin if self.epoch == 1 else self.writer.write_layout)(self.layout())
            self.writer.write_epoch(self.epoch, tables)
            self.tables.clear()  # earlier epochs stand on the disk
        self.tables[self.epoch] = tables
        self.begin_epoch(self.epoch + 1)
        return tables

    def begin_epoch(self, epoch: int) -> None:
        """Count from nothing again, for that epoch."""
        self.epoch, self.step_in_epoch = epoch, 0
        draining.clear(self._gauges())
        self.measuring_seconds, self.seconds_before, self._began = 0.0, 0.0, time.perf_counter()
        self._set_flags()

    def saved(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return what a checkpoint must keep: tensors by name, and facts for JSON. Every process must ask at once."""
        tensors, facts = draining.saved(self._gauges(), self.processes)
        return tensors, {
            **facts,
            "steps_taken": self.steps_taken,
            "step_in_epoch": self.step_in_epoch,
            "window_steps": self.window_steps,
            "read_at": self.read_at,
            "measuring_seconds": self.measuring_seconds,
            "total_seconds": self.seconds_before + time.perf_counter() - self._began,
        }

    def restore(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Go on from what was saved; before the panel is entered."""
        for name in facts["ran"]:
            self.order.ran.setdefault(name)
        draining.restore(self._gauges(), tensors, facts, self.processes)
        self.steps_taken, self.step_in_epoch = facts["steps_taken"], facts["step_in_epoch"]
        self.window_steps, self.read_at = list(facts["window_steps"]), facts["read_at"]
        self.measuring_seconds, self.seconds_before = facts["measuring_seconds"], facts["total_seconds"]

    def abandon_epoch(self) -> None:
        """Forget what was counted since the last drain, so that leaving the panel writes nothing."""
        self.histograms.forget_window()
        self.window_steps.clear()
        self.begin_epoch(self.epoch)

    def layout(self) -> Layout:
        """Describe what the columns' indices stand for."""
        return Layout(
            parameters=tuple(self.order.parameters()[1]),
            sites=tuple(site.site for site in self.sites.values()),
            precision=self.precision,
            first_exponent=histograms.bin_origin(self.histograms.wide),
            read_at=READ_AT[self.read_at],
            every=self.every,
            window=self.window,
            probe=self.probe,
            cost_clock="wall time inside the instruments, as the process sees it; without what torch.compile built in",
        )

    def summary(self) -> str:
        """Return the last finished epoch's sites as a table: how many units were dead, and how often units were off."""
        if not self.tables:
            return "nothing was measured yet: call panel.end_epoch(), or leave the panel"
        epoch, tables = max(self.tables.items())
        return draining.units_as_text(epoch, tables["units"], self.layout().sites)

    def _meet(self, network: nn.Module, name: str, use: int, x: Tensor) -> None:
        """Take up one pre-activation."""
        probing = self.flags.probed is network
        training = self.flags.probed is None and network.training
        compiling = torch.compiler.is_compiling()
        if training and not torch.is_grad_enabled():
            training = not compiling and self.checkpoints.enclose(name, None if x.requires_grad else use)
        if not probing and not training:
            return
        began = 0.0 if compiling else time.perf_counter()
        key = (name, use)
        if key not in self.sites:
            label = name if use == 1 else f"{name}#{use}"
            module = network.get_submodule(name)
            self.sites[key] = new_site(label, len(self.sites), module, self.order.last_layer, x)
        site = self.sites[key]
        if self._surveying:
            for kind in (ACTIVATION, ACTIVATION_GRADIENT):
                self.histograms.row(kind, site.place, x.device).stride = stride_through(x.shape)
            return
        site.count(x, probing)
        if training and self.flags.counting_sizes:
            self.histograms.row(ACTIVATION, site.place, x.device).add(x)
            self._watch_gradient(site.place, x)
        if not compiling:
            self.measuring_seconds += time.perf_counter() - began

    def _meet_again(self, network: nn.Module, name: str, x: Tensor) -> None:
        """Take up what a checkpoint computes anew for the sake of its gradient alone."""
        use = self.checkpoints.met_again(name)
        if use is not None and self.flags.probed is None and network.training and self.flags.counting_sizes:
            self._watch_gradient(self.sites[name, use].place, x)

    def _watch_gradient(self, place: int, x: Tensor) -> None:
        # Its row comes beside that of the activation, whenever it is filled.
        row = self.histograms.row(ACTIVATION_GRADIENT, place, x.device)
        if not x.requires_grad:
            return

        def arrived(gradient: Tensor) -> None:
            row.add(gradient, self._gradient_factor(gradient))

        def arrived_timed(gradient: Tensor) -> None:
            self._timed(lambda: arrived(gradient))

        x.register_hook(arrived if torch.compiler.is_compiling() else arrived_timed)  # type: ignore[no-untyped-call]

    def _gradient_factor(self, gradient: Tensor) -> Tensor | float:
        """Return what brings an activation's gradient to that of the whole batch's mean loss."""
        share = 1.0 / self.processes.count
        if self.scaler is None:
            return share
        if torch.compiler.is_compiling():
            return share / self.loss_scale
        # The scale is read without waiting for the device; it is a power of two, so that nothing is rounded.
        return share / self.scaler.scale(torch.ones((), device=gradient.device))

    def _note_loss_scale(self) -> None:
        if self.scaler is not None:
            self.loss_scale.copy_(self.scaler.scale(torch.ones_like(self.loss_scale)))

    def _parameters(self) -> ParameterMeter:
        if self.meter is None:
            self.meter = ParameterMeter(self.order.parameters()[0])
        return self.meter

    def _set_flags(self) -> None:
        self.flags.measuring = bool(self._handles) and self.step_in_epoch % self.every == 0
        self.flags.counting_sizes = self.flags.measuring and (self.each or not self.window_steps)

    def _gauges(self) -> Gauges:
        return Gauges(self.order, self.sites, self.histograms, self._parameters(), self.steps)

    def _read_parameters(self) -> None:
        meter = self._parameters()
        meter.read()
        for at, (parameter, gradient) in enumerate(zip(meter.parameters, meter.gradients(), strict=True)):
            if parameter.dim() > 1:
                if not self.window_steps:
                    self.histograms.row(WEIGHT, at, parameter.device).add(parameter)
                if gradient is not None and self.flags.counting_sizes:
                    self.histograms.row(GRADIENT, at, parameter.device).add(gradient)
        self._read = True

    def _finish_step(self) -> None:
        known = True
        if not self._read:  # an optimiser that took no step, or nobody who told of one
            self.read_at = "step" if self.optimiser is None else self.read_at
            known = self.optimiser is not None and not self._optimiser_stepped
            self._read_parameters()
        self.steps.append((self.steps_taken + 1, self._parameters().finish(known)))
        self.window_steps.append(self.steps_taken + 1)

    def _close_window(self) -> None:
        if self.window_steps:
            ratio = self._parameters().close_window()
            self.histograms.close_window(self.window_steps[0], self.window_steps[-1], ratio)
            self.window_steps.clear()

    def _optimiser_steps(self, *_: object) -> None:
        self._optimiser_stepped = True
        if not self.flags.measuring or self._read:
            return
        if self.scaler is not None and getattr(self.optimiser, "_step_supports_amp_scaling", False):
            raise RuntimeError(
                "a fused optimiser is handed scaled gradients; call scaler.unscale_(optimiser) and "
                "panel.gradients_ready() before scaler.step(optimiser)"
            )
        self.read_at = "optimiser"
        self._timed(self._read_parameters)

    def _pass_ended(self) -> None:
        if self.order.handles:
            self.order.stop()

    def _check_compiled(self, _used: nn.Module, _inputs: object) -> None:
        if torch.compiler.is_compiling() and not self._surveyed:
            _refuse_unsurveyed()

    def _timed(self, work: Callable[[], None]) -> None:
        began = time.perf_counter()
        work()
        self.measuring_seconds += time.perf_counter() - began

    def _warn_if_blind(self) -> None:
        seen = any(s.training.inputs or s.probe.inputs for s in self.sites.values())
        if self.step_in_epoch and self.model.training and not seen:
            compiled = sum(int(s.training.compiled_totals[0]) for s in self.sites.values())
            if not compiled:
                warnings.warn(
                    f"no pre-activation was seen in {self.step_in_epoch} training steps: a network that is compiled "
                    "and ran before the panel was entered, does not run its hooks; enter the panel first",
                    stacklevel=3,
                )


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _refuse_unsurveyed() -> None:
    """Raise outside of what is compiled: inside, torch.compile would go on without."""
    raise RuntimeError("torch.compile needs to know the sites beforehand; call panel.survey(batch) first")
