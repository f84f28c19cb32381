"""Instruments for a network in training, any torch module: which units are dead, and how gradients flow.

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
Under torch.compile, enter the panel before the first compiled call, and call `panel.survey(batch)` before it.
"""

import time
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

from alexnet_lab.display import Displayed
from alexnet_lab.instruments import dying_relu, limits
from alexnet_lab.instruments.counters import ACTIVATION_GRADIENT, Alone, Counters, Processes
from alexnet_lab.instruments.flow import Columns, FlowWriter, Layout
from alexnet_lab.instruments.limits import Limits, listed
from alexnet_lab.instruments.sites import WatchedSite, is_countable
from alexnet_lab.instruments.watching import Place, Watcher, label_of, unwrapped

READ_AT = {
    "ready": "gradients after unscaling and averaging over processes, before clipping; weights before the update",
    "optimiser": "gradients as the optimiser's step begins, after any clipping; weights before the update",
    "step": "gradients and weights after the optimiser's step, after any clipping; updates unknown",
}


class Flags:
    """What hooks look at, apart from what changes at every step: torch.compile compiles once per setting of these."""

    def __init__(self) -> None:
        self.measuring = False  # norms, at this step
        self.counting_sizes = False  # and histograms
        self.probed: nn.Module | None = None
        self.unsurveyed = False  # compiled code ran that had no survey


class Panel(Displayed):
    """Instruments on a network; they watch it from `with` to its end.

    One of `every` steps is measured, and `window` measured steps make one histogram: of all of them or, unless `each`,
    of the first alone. With `folder`, records are written there (flow.py) at each end_epoch, and `alexnet-lab inspect`,
    `compare` and `export` read them. A notebook shows a panel as figures. `scaler` is the GradScaler of fp16,
    `processes` the ranks of data-parallel training, each with the mean loss of its part: activation gradients are
    recorded as those of the whole batch's.

    A site is the input of an activation, module or function (`F.relu(x)`, `torch.relu(x)`, `x.relu()`,
    `x.clamp(min=0)`), told apart by the layer with weights that ran last before it. One that is used several times
    behind one run of a layer has a site for each use; a layer that runs several times in a pass, as in a recurrence,
    has one site for all.

    A panel never ends a training. What it cannot count it warns of once, and lists in `summary()`:

    * What happens inside of nn.LSTM, nn.GRU, nn.RNN and nn.MultiheadAttention.
    * Activations made of other operations, such as `x * (x > 0)` or `torch.maximum`. `summary()` lists the layers
      behind which no activation was seen. A subclass of torch's activations with a `forward` of its own, and any other
      class, is known by the functions of torch that it calls.
    * Activation functions that are called outside of the network's modules; nothing is said of these.
    * Training passes in eval mode or without gradients: a frozen backbone under torch.no_grad, and what
      torch.utils.checkpoint runs with use_reentrant=True. With use_reentrant=False, each activation is counted once.
    * Batches whose pre-activations have another width than the first one's; sparse, nested and complex tensors, and
      those inside of torch.func transformations.

    The first dimension is taken for the inputs, and the dimension with the width of the layer before for the units.
    Where that does not fit (sequences first, tokens in place of inputs, rows in place of channels), the panel warns.
    One case cannot be told: Linear layers on (T, N, C) look like those on (N, T, C). Positions are then counted as
    inputs, and the panel warns only if a layer of torch's in the network has batch_first=False.

    While a panel watches, nn.MultiheadAttention and nn.TransformerEncoderLayer do not take torch's fused path in eval
    mode: their numbers differ by rounding. The hooks cannot be pickled: save model.state_dict(), not the model.
    """

    shown_by = "alexnet_lab.reports.display:panel_html"

    def __init__(
        self,
        model: nn.Module,
        optimiser: Optimizer | None = None,
        *,
        every: int = 10,
        window: int = 4,
        each: bool = True,
        folder: str | Path | None = None,
        precision: str = "fp32",
        scaler: torch.amp.GradScaler | None = None,
        processes: Processes | None = None,
        probe: str = "",
    ) -> None:
        if every < 1 or window < 1:
            raise ValueError(f"every and window count steps and must be at least 1, got {every} and {window}")
        self.model, self.optimiser, self.every, self.window = unwrapped(model), optimiser, every, window
        self.each, self.probe = each, probe
        self.writer = FlowWriter(Path(folder).expanduser()) if folder else None
        self.scaler = scaler if scaler is not None and scaler.is_enabled() else None
        # The loss scale of the step under way, for compiled code, which cannot ask a scaler.
        self.loss_scale = torch.ones((), device=next((p.device for p in self.model.parameters()), None))
        self.processes: Processes = processes or Alone()
        self.flags = Flags()
        self.limits = Limits()
        self.counters = Counters(self.model, precision, self.processes, self.limits)
        self.watcher = Watcher(self.model, self._meet, self.counters.ran, self.limits)
        self.steps_taken, self.step_in_epoch, self.epoch = 0, 0, 1
        self.tables: dict[int, dict[str, Columns]] = {}
        self.measuring_seconds, self.seconds_before = 0.0, 0.0
        self.read_at = "ready"
        self._surveyed, self._surveying, self._entered, self._begun = False, False, False, False
        # Of the step under way.
        self._read, self._optimiser_stepped, self._skipped = False, False, False
        self._in_training, self._in_eval = False, False
        # Of the epoch: activations met in training, with gradients and without.
        self._met: set[str] = set()
        self._without_gradients: set[str] = set()
        self._handles: list[RemovableHandle] = []
        self._began = time.perf_counter()
        for name, module in self.model.named_modules():
            if isinstance(module, nn.RNNBase | nn.RNNCellBase | nn.MultiheadAttention):
                self.limits.add(limits.INSIDE, f"{name or 'the network'} ({type(module).__name__})")
                if not getattr(module, "batch_first", True):
                    self.limits.add(limits.SEQUENCE_FIRST, f"{name or 'the network'} ({type(module).__name__})")

    def __enter__(self) -> Self:
        self.watcher.start(listen=not self._surveyed)
        if self.optimiser is not None:
            self._handles.append(self.optimiser.register_step_pre_hook(self._optimiser_steps))
        self._entered = True
        self._set_flags()
        self._note_loss_scale()
        self._began = time.perf_counter()
        return self

    def __exit__(self, kind: type[BaseException] | None, _error: object, _trace: TracebackType | None) -> None:
        self.watcher.stop()
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._entered = False
        self._set_flags()
        # If one of several ranks failed, the others would wait for it for ever.
        if self.step_in_epoch and (kind is None or (issubclass(kind, Exception) and self.processes.count == 1)):
            self.end_epoch()

    def survey(self, *inputs: Any, **named: Any) -> None:
        """Learn sites and order from one pass in eval mode, as torch.compile needs it, with a batch like those to come.

        The states of random generators, buffers and the modes of modules stay as they were.
        """
        modes = {module: module.training for module in self.model.modules()}
        gpus = {p.device for p in self.model.parameters() if p.is_cuda}
        self._surveying = True
        try:
            eager = torch.compiler.set_stance("force_eager")
            with eager, torch.no_grad(), torch.random.fork_rng(list(gpus)), self.probing():
                self.model.eval()(*inputs, **named)
        finally:
            self._surveying = False
            for module, mode in modes.items():
                module.training = mode
        self.watcher.listen_no_more()
        self.watcher.has_run = False
        self._surveyed = True
        self.limits.warn()
        if self.writer is not None and self.processes.rank == 0:
            self._write_layout(self.writer)

    @contextmanager
    def probing(self, network: nn.Module | None = None) -> Iterator[None]:
        """Count what passes in here as the probe set's, in the panel's network or in another of the same making."""
        other = unwrapped(network) if network is not None else self.model
        watcher = None
        if other is not self.model:
            watcher = Watcher(other, self._meet, self.counters.ran, self.limits)
            watcher.start(listen=False)
        elif not self._entered:
            watcher = self.watcher
            watcher.start(listen=not self._surveyed)
        self.flags.probed = other
        try:
            yield
        finally:
            self.flags.probed = None
            if watcher is not None:
                watcher.stop()

    def gradients_ready(self) -> None:
        """Read the gradients, if this step is a measured one: call it after unscaling, before clipping."""
        if self.flags.measuring and not self._read:
            self._timed(self._read_parameters)

    def step(self) -> None:
        """End a step: call it after optimiser.step(), and after scaler.update() where there is a scaler."""
        if self.flags.measuring and not self._skipped:
            self._timed(self._finish_step)
        self.steps_taken += 1
        self.step_in_epoch += 1
        if len(self.counters.window_steps) >= self.window:
            self._timed(self.counters.close_window)
        self.watcher.step_ends()
        if self._in_eval and not self._in_training:
            self.limits.add(limits.EVAL, f"from step {self.steps_taken} on")
        if self.flags.unsurveyed:
            self.limits.add(limits.UNSURVEYED, type(self.model).__name__)
        self._read = self._optimiser_stepped = self._skipped = self._in_training = self._in_eval = False
        self._note_loss_scale()
        self._set_flags()
        self.limits.warn()

    def end_epoch(self) -> dict[str, Columns]:
        """Drain everything, write it if there is a folder, and begin the next epoch; return the epoch's tables."""
        began = time.perf_counter()
        self.counters.close_window()
        if self.step_in_epoch:
            self._note_uncounted()
        tables = self.counters.drain()
        now = time.perf_counter()
        total = self.seconds_before + now - self._began
        measuring = self.measuring_seconds + now - began
        tables["cost"] = {
            "step": np.array([self.steps_taken], np.int32),
            "measuring_seconds": np.array([measuring]),
            "total_seconds": np.array([total]),
        }
        self.tables[self.epoch] = tables
        if self.writer is not None:
            if self.processes.rank == 0:
                self._write_layout(self.writer)
                self.writer.write_epoch(self.epoch, tables)
            self.tables = {self.epoch: tables}  # earlier epochs are in the folder
        self.limits.warn()
        self.begin_epoch(self.epoch + 1)
        return tables

    def begin_epoch(self, epoch: int) -> None:
        """Count from nothing again, for that epoch."""
        self.epoch, self.step_in_epoch = epoch, 0
        self.counters.clear()
        self._met.clear()
        self._without_gradients.clear()
        self.measuring_seconds, self.seconds_before, self._began = 0.0, 0.0, time.perf_counter()
        self._set_flags()

    def save(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return what a checkpoint must keep: tensors by name, and facts for JSON. Every process must ask at once."""
        tensors, facts = self.counters.save()
        return tensors, {
            **facts,
            "steps_taken": self.steps_taken,
            "step_in_epoch": self.step_in_epoch,
            "read_at": self.read_at,
            "measuring_seconds": self.measuring_seconds,
            "total_seconds": self.seconds_before + time.perf_counter() - self._began,
        }

    def restore(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any], epoch: int) -> None:
        """Go on within that epoch from what was saved; before the panel is entered."""
        self.counters.restore(tensors, facts)
        self.steps_taken, self.step_in_epoch, self.epoch = facts["steps_taken"], facts["step_in_epoch"], epoch
        self.read_at = facts["read_at"]
        self.measuring_seconds, self.seconds_before = facts["measuring_seconds"], facts["total_seconds"]
        self._begun = True

    def abandon_epoch(self) -> None:
        """Forget what was counted since the last drain, so that leaving the panel writes nothing."""
        self.counters.forget_window()
        self.begin_epoch(self.epoch)

    def layout(self) -> Layout:
        """Describe what the columns' indices stand for."""
        return self.counters.describe(
            read_at=READ_AT[self.read_at],
            every=self.every,
            window=self.window,
            probe=self.probe,
            cost_clock="wall time inside the instruments, as the process sees it; without what torch.compile built in",
        )

    def summary(self) -> str:
        """Return the last finished epoch's sites as a table, and what was not counted.

        The table says how many units were dead, and how often units were off.
        """
        if not self.tables:
            lines = ["nothing was measured yet: call panel.end_epoch(), or leave the panel"]
        else:
            epoch, tables = max(self.tables.items())
            lines = [dying_relu.units_as_text(epoch, tables["units"], self.layout().sites)]
            silent = self.counters.layers_without_site()
            lines += [f"layers behind which no activation was seen: {listed(silent)}"] if silent else []
        return "\n".join([*lines, *(f"limit: {sentence}" for sentence in self.limits.sentences())])

    def _write_layout(self, writer: FlowWriter) -> None:
        (writer.write_layout if self._begun else writer.begin)(self.layout())
        self._begun = True

    def _meet(self, watcher: Watcher, place: Place, activation: str, x: Tensor) -> None:
        """Count one pre-activation, if its pass is one to count."""
        probing = self.flags.probed is watcher.network
        if not probing and not self._is_training(watcher, place):
            return
        compiling = torch.compiler.is_compiling()
        if compiling and not self._surveyed:
            self.flags.unsurveyed = True
            return
        began = 0.0 if compiling else time.perf_counter()
        site = self.counters.site(place, activation, x, watcher.moved, watcher.batch)
        if site is not None and self._surveying:
            self.counters.expect(site, x)
        elif site is not None:
            sizes = not probing and self.flags.counting_sizes
            self.counters.meet(site, x, probing, sizes)
            if sizes:
                self._watch_gradient(site, x)
        if not compiling:
            self.measuring_seconds += time.perf_counter() - began

    def _is_training(self, watcher: Watcher, place: Place) -> bool:
        """Say whether a pass is one of training: in train mode, and with gradients."""
        if self.flags.probed is not None:
            return False
        with_gradients = torch.is_grad_enabled()
        if not torch.compiler.is_compiling():
            self._in_eval |= with_gradients and not watcher.network.training
            self._in_training |= with_gradients and watcher.network.training
            if watcher.network.training:
                (self._met if with_gradients else self._without_gradients).add(label_of(*place[:2]))
        return with_gradients and watcher.network.training

    def _watch_gradient(self, site: WatchedSite, x: Tensor) -> None:
        # Its row comes beside that of the activation, whenever it is filled.
        row, name = self.counters.row(ACTIVATION_GRADIENT, site.place, x.device), site.site.name
        if not x.requires_grad:
            return

        def arrived(gradient: Tensor) -> None:
            if is_countable(gradient):
                row.add(gradient, self._gradient_factor(gradient))
            else:
                self.limits.add(limits.GRADIENT, name)

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

    def _set_flags(self) -> None:
        self.flags.measuring = self._entered and self.step_in_epoch % self.every == 0
        self.flags.counting_sizes = self.flags.measuring and (self.each or not self.counters.window_steps)

    def _read_parameters(self) -> None:
        self.counters.read_parameters(self.flags.counting_sizes)
        self._read = True

    def _finish_step(self) -> None:
        is_stepped = True
        if not self._read:  # the optimiser took no step, or the panel was given none
            self.read_at = "step" if self.optimiser is None else self.read_at
            is_stepped = self.optimiser is not None and not self._optimiser_stepped
            self._read_parameters()
        self.counters.finish_step(self.steps_taken + 1, is_stepped)

    def _optimiser_steps(self, *_: object) -> None:
        self._optimiser_stepped = True
        if not self.flags.measuring or self._read:
            return
        if self.scaler is not None and getattr(self.optimiser, "_step_supports_amp_scaling", False):
            self._skipped = True
            self.limits.add(limits.FUSED, type(self.optimiser).__name__)
            return
        self.read_at = "optimiser"
        self._timed(self._read_parameters)

    def _timed(self, work: Callable[[], None]) -> None:
        began = time.perf_counter()
        work()
        self.measuring_seconds += time.perf_counter() - began

    def _note_uncounted(self) -> None:
        """Note what ran in the epoch and was never counted as training, and why."""
        for name in sorted(self._without_gradients - self._met):
            self.limits.add(limits.NO_GRADIENT, name)
        if not self.counters.seen(in_training=True) and not self.limits.names.keys() & _EXPLAINED:
            if not self.watcher.has_run:
                self.limits.add(limits.COMPILED_BEFORE, str(self.step_in_epoch))
            elif len(self.counters.layers_without_site()) > 1:  # the last layer has no activation
                self.limits.add(limits.BLIND, str(self.step_in_epoch))


_EXPLAINED = {
    limits.EVAL,
    limits.NO_GRADIENT,
    limits.UNSURVEYED,
    limits.OWN_CLASS,
    limits.TENSOR,
}  # reasons why no unit was counted
