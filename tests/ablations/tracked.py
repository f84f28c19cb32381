"""Runs played as a coordinator sees them, for what is told of them."""

import pytest

RESULT = {"steps": 20, "test": {"accuracy": 0.5, "auroc": None, "recall": [0.5, 0.5], "images": 4}}


def row(epoch):
    return {"epoch": epoch, "step": 10 * epoch, "train_loss": 1 / epoch, "validation_auroc": None, "seconds": 1.5}


def begin(run):
    run.folder.begin(run.recipe.to_json(), {"classes": ["a", "b"]}, "{}")


def make(run, mirror, epochs=2, state="ok"):
    """Play a run of so many epochs as a coordinator sees it."""
    mirror.run_started(run)
    begin(run)
    for epoch in range(1, epochs + 1):
        run.folder.log(row(epoch))
        mirror.epoch(run)
    run.folder.end(state, "" if state == "ok" else "the loss was nan", RESULT if state == "ok" else {})
    mirror.run_ended(run)


def read_scalars(folder):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(folder))
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
