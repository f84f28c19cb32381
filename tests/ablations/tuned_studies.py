"""Tuned studies that nobody trains: a formula says how good a network is at a rate, and a draw adds its spread.

Validation and test accuracy of a run share half of the variance of its chance, as those of real runs do in part.
"""

import json
import math

import numpy as np

from alexnet_ablations.declare.study import declare_study
from alexnet_ablations.tune.choice import with_choices
from alexnet_ablations.tune.searches import searches_of, tuning_runs

START = {"data": "digits", "epochs": 1, "threads": 1, "device": "cpu"}
# Log10 of the rate at which each norm is best, and the accuracy there. At the common rate of .01 lrn is ahead, and at
# the best rate of each it is bn.
BEST_AT = {"lrn": (-2.0, 0.90), "bn": (-1.25, 0.94)}
STEEPNESS = 0.2  # accuracy lost a decade away, growing with the square
DIVERGES_FROM = 0.5


def study_in(path, seeds=3, tune="learning_rate=1e-4..1:8", **more):
    return declare_study({"norm": "bn"}, START, path, seeds=seeds, tune=tune, **more)


def quality(recipe):
    """Return the accuracy of a network on average over all chance; None where it diverges."""
    if recipe.learning_rate >= DIVERGES_FROM:
        return None
    best, top = BEST_AT[recipe.norm]
    return top - STEEPNESS * (math.log10(recipe.learning_rate) - best) ** 2


def end(run, accuracy, *, validation=None, loss=0.5, state="ok"):
    """Write a run folder as a run that ended would leave it."""
    run.folder.begin(run.recipe.to_json(), {"alexnet_lab": "0"}, json.dumps({"train": [0]}))
    if state != "ok":
        run.folder.end(state, "the loss was nan")
        return
    validation = accuracy if validation is None else validation
    run.folder.log({"epoch": 1, "step": 5, "train_loss": loss, "validation_accuracy": validation})
    parts = {
        name: {"accuracy": value, "loss": loss, "images": 400}
        for name, value in (("test", accuracy), ("validation", validation))
    }
    run.folder.end("ok", result={"tested_epoch": 1, "epochs": 1, "steps": 5, **parts})


def end_by_formula(run, spread=0.005):
    expected = quality(run.recipe)
    if expected is None:
        end(run, 0, state="diverged")
        return
    rng = np.random.default_rng([run.seed, *run.cell.name.encode()])
    shared, validation, test = rng.normal(0, spread * math.sqrt(0.5), 3)
    end(run, expected + shared + test, validation=expected + shared + validation, loss=1 - expected)


def make(study):
    """Make the whole study by formula, in the stages in which studies are made; return it with its choices."""
    for run in tuning_runs(searches_of(study)):
        if not run.is_done:
            end_by_formula(run)
    study = with_choices(study).open_folder()
    for run in study.runs():
        if not run.is_done:
            end_by_formula(run)
    return study
