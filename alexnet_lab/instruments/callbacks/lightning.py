"""A Panel as a callback of Lightning: Trainer(callbacks=[PanelCallback("records/mine", every=20)]).

Units are counted in training, and in validation as those of the probe set. Gradients are read before clipping. Of
several processes the first one's inputs are counted.
"""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback

from alexnet_lab.instruments.panel import Panel


class PanelCallback(Callback):
    """Watches a training; `panel` shows what it measured. `settings` are those of Panel: every, window, each."""

    def __init__(self, folder: str | Path | None = None, **settings: Any) -> None:
        self.folder, self.settings = folder, settings
        self.panel: Panel | None = None
        self._steps = 0
        self._probing = ExitStack()

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:  # noqa: D102  # Lightning's
        if trainer.is_global_zero:
            scaler = getattr(trainer.precision_plugin, "scaler", None)
            # No optimiser: in Lightning its step begins before the backward pass, with the gradients of the last one.
            self.panel = Panel(pl_module, folder=self.folder, scaler=scaler, **self.settings)
            self.panel.__enter__()
            self._steps = trainer.global_step

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:  # noqa: D102
        if self.panel is not None:
            self.panel.gradients_ready()

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:  # noqa: D102
        if self.panel is not None and trainer.global_step != self._steps:  # else the batch is only a part of a step
            self._steps = trainer.global_step
            self.panel.step()

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:  # noqa: D102
        if self.panel is not None:
            self._probing.enter_context(self.panel.probing())

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:  # noqa: D102
        self._probing.close()

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:  # noqa: D102
        if self.panel is not None and self.panel.step_in_epoch:
            self.panel.end_epoch()

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:  # noqa: D102
        self.on_validation_end(trainer, pl_module)
        if self.panel is not None:
            self.panel.__exit__(None, None, None)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:  # noqa: D102
        self.on_train_end(trainer, pl_module)
