"""A Panel as a callback of the Hugging Face Trainer: Trainer(..., callbacks=[PanelCallback("records/mine", every=20)]).

Units are counted in training alone. Gradients are read as the optimiser's step begins, which is after clipping: the
Trainer tells of nothing earlier. Of several processes the first one's inputs are counted. Under fp16 the gradients of
activations are those of the scaled loss, whose scale the Trainer keeps to itself.
"""

from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from alexnet_lab.instruments.panel import Panel


class PanelCallback(TrainerCallback):
    """Watches a training; `panel` shows what it measured. `settings` are those of Panel: every, window, each."""

    def __init__(self, folder: str | Path | None = None, **settings: Any) -> None:
        self.folder, self.settings = folder, settings
        self.panel: Panel | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:  # noqa: D102  # the Trainer's
        self._leave()  # an earlier training that ended by an error
        if state.is_world_process_zero:
            optimiser = given["optimizer"]
            optimiser = getattr(optimiser, "optimizer", optimiser)  # accelerate wraps it
            self.panel = Panel(given["model"], optimiser, folder=self.folder, **self.settings)
            self.panel.__enter__()

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **given: Any) -> None:  # noqa: D102
        if self.panel is not None:
            self.panel.step()

    def on_epoch_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:  # noqa: D102
        if self.panel is not None and self.panel.step_in_epoch:
            self.panel.end_epoch()

    def on_train_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:  # noqa: D102
        self._leave()

    def _leave(self) -> None:
        if self.panel is not None:
            self.panel.__exit__(None, None, None)
