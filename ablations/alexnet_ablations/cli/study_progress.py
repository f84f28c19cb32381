"""A study's runs made for a command: a live table, plain lines, lines of JSON, or nothing."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console

from alexnet_ablations.run.coordinator import Watcher, run_all
from alexnet_ablations.run.progress import Events, watcher_on
from alexnet_lab.progress import JsonLines

if TYPE_CHECKING:
    from alexnet_ablations.declare.study import PlannedRun, Study
    from alexnet_ablations.run.attempt import Attempt
    from alexnet_ablations.run.executors import Engine
    from alexnet_ablations.run.trackers import Sink


def run_with_live_table(
    console: Console,
    study: "Study",
    runs: "Sequence[PlannedRun]",
    jobs: int | None = None,
    *,
    timeout: float | None = None,
    repeat: bool = False,
    quiet: bool = False,
    as_json: bool = False,
    sinks: "Sequence[Sink]" = (),
    engine: "Engine | None" = None,
) -> None:
    """Make the runs of a study and show how far they are; Ctrl-C ends as one sentence and status 130."""
    watcher: Watcher
    if as_json:
        watcher = EventsWithEpochs(JsonLines())
    elif quiet:
        watcher = Watcher()
    else:
        watcher = watcher_on(console)
    if sinks:
        from alexnet_ablations.run.tracking import mirrored

        for sink in sinks:
            watcher = mirrored(watcher, study, sink)
        if not runs:  # all done, and told; nobody else would close it
            watcher.close()
    try:
        run_all(study.folder, runs, jobs, watcher, timeout=timeout, repeat=repeat, executor=engine or "local")
    except KeyboardInterrupt:
        if engine is not None and engine.outlives:
            text = f"the runs go on; alexnet-lab status {study.folder} shows how far, and the same command concludes"
        else:
            text = f"stopped, and saved in {study.folder}; the same command goes on from there"
        if not as_json:
            console.print(text, markup=False)
        raise typer.Exit(130) from None


class EventsWithEpochs(Events):
    """Tells of every epoch of every run too, which machines may want to know."""

    def __init__(self, tell: Callable[[str, dict[str, Any]], None]) -> None:
        super().__init__(tell)
        self.epochs: dict[Attempt, int] = {}

    def moved(self, attempt: "Attempt") -> None:
        """Tell that a run has ended an epoch."""
        if self.epochs.get(attempt, 0) != attempt.epochs:
            self.epochs[attempt] = attempt.epochs
            self._tell("epoch", attempt, epoch=attempt.epochs, validation_accuracy=attempt.accuracy)
