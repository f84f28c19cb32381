"""What a run measures of itself: its panel of instruments, what that writes, and what the run cost.

None of it changes a number of the run: a run with instruments has the weights and metrics of one without, to the last
bit, unless torch.compile fuses around them otherwise.
"""

import resource
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from alexnet_lab.instruments.flow import read_columns
from alexnet_lab.instruments.panel import Panel
from alexnet_lab.instruments.schedule import schedule_of
from alexnet_lab.records import RunFolder
from alexnet_lab.training.errors import DivergedError
from alexnet_lab.training.parallel import Ranks
from alexnet_lab.training.recipe import Recipe

PREFIX = "panel."  # of its tensors in a checkpoint
PROBE = "validation images, in the order of the split, in eval mode, after the last step of each epoch"


class Measuring:
    """The instruments of one run; where the recipe says off, every method does nothing."""

    def __init__(
        self,
        recipe: Recipe,
        folder: RunFolder,
        network: nn.Module,
        optimiser: Optimizer,
        scaler: torch.amp.GradScaler,
        ranks: Ranks,
        steps_per_epoch: int,
    ) -> None:
        self.folder, self.ranks = folder, ranks
        self.panel: Panel | None = None
        schedule = schedule_of(recipe.instruments, steps_per_epoch)
        if schedule is not None:
            self.panel = Panel(
                network,
                optimiser,
                every=schedule.every,
                window=schedule.window,
                each=schedule.each,
                folder=folder.path,
                precision=recipe.precision,
                scaler=scaler,
                processes=ranks,
                probe=PROBE + (", averaged weights" if recipe.ema else ""),
            )

    @contextmanager
    def on(self, example: Tensor) -> Iterator[None]:
        """Watch what is trained in here; a run that diverges leaves what was measured until then."""
        panel = self.panel
        if panel is None:
            yield
            return
        with panel:
            panel.survey(example)
            if panel.steps_taken == 0:
                self._keep_filters(panel, "start")
            try:
                yield
            except DivergedError:  # every process raises it at the same step
                self.end_epoch()
                raise
            finally:
                panel.abandon_epoch()
            self._keep_filters(panel, "end")

    def gradients_ready(self) -> None:
        """Say that gradients are whole and unscaled, and not yet clipped."""
        if self.panel is not None:
            self.panel.gradients_ready()

    def step(self) -> None:
        """Say that the update is applied."""
        if self.panel is not None:
            self.panel.step()

    def probing(self, network: nn.Module) -> Any:
        """Count what passes in here as the probe set's."""
        return nullcontext() if self.panel is None else self.panel.probing(network)

    def end_epoch(self) -> None:
        """Write the columns of an epoch, or of the part of it that was measured; every process must come here."""
        if self.panel is not None and self.panel.step_in_epoch:
            self.panel.end_epoch()

    def saved(self) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
        """Return what a checkpoint keeps of the epoch under way; every process must ask."""
        if self.panel is None:
            return {}, None
        tensors, facts = self.panel.save()
        return {PREFIX + name: value for name, value in tensors.items()}, facts

    def restore(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any] | None, epoch: int) -> None:
        """Go on within that epoch from what was saved."""
        if self.panel is not None and facts is not None:
            own = {name.removeprefix(PREFIX): value for name, value in tensors.items() if name.startswith(PREFIX)}
            self.panel.restore(own, facts, epoch)

    def share(self) -> float | None:
        """Return the share of the run's time that went into the instruments, over all epochs on record."""
        return None if self.panel is None else measuring_share(self.folder.path / "flow")

    def _keep_filters(self, panel: Panel, name: str) -> None:
        first = next((p for p in panel.counters.meter.parameters if p.dim() > 1), None)
        if first is not None and panel.writer is not None and self.ranks.is_first:
            panel.writer.write_filters(**{name: first.detach().float().cpu().numpy()})


def measuring_share(flow: Path) -> float | None:
    """Return seconds inside the instruments over all seconds, of the epochs in a run's flow folder."""
    names = ("cost.measuring_seconds", "cost.total_seconds")
    costs = [read_columns(path, names) for path in sorted(flow.glob("epoch-*.npz"))]
    measuring, total = (sum(float(cost[name].sum()) for cost in costs) for name in names)
    return measuring / total if total else None


def forget_peak_memory(device: str) -> None:
    """Let `peak_memory` count from what this process holds now, where the system allows it."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError):  # only Linux has the file, and a container may forbid writing it
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory(device: str) -> int:
    """Return the most memory in use at any time so far, in bytes: of the GPU, else of this process."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would count the process that started this one as well
        line = next((line for line in status.read_text().splitlines() if line.startswith("VmHWM:")), "")
        if line:
            return int(line.split()[1]) * 1024
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
