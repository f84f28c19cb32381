"""A run, evaluated: its test set, and a set from elsewhere, by rules chosen on its validation set.

>>> evaluation = evaluate_run("runs/xrays-alexnet-1f0c", data="hospital-b/")
>>> evaluation.test.figures["auroc"], evaluation.drop
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

from alexnet_lab.evaluation.assessment import Assessment, Rules, assess, drop, fit_rules
from alexnet_lab.evaluation.estimates import Estimate
from alexnet_lab.evaluation.labelled_sets import LabelledSet, Told, external_set, own_sets
from alexnet_lab.evaluation.predictions import Place
from alexnet_lab.evaluation.resampling import REPLICATES
from alexnet_lab.evaluation.thresholds import parse_rule
from alexnet_lab.evaluation.trained import Run, load_run

DROPS = ("auroc", "accuracy", "balanced accuracy", "Brier score", "loss")


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate_run` returns."""

    run: Run
    rules: Rules
    test: Assessment
    external: Assessment | None
    data: str | None  # where the external set is from
    sets: Mapping[str, LabelledSet] = field(repr=False)  # validation, test, external

    @property
    def assessments(self) -> list[Assessment]:
        """Return the test, then the external set if there is one."""
        return [self.test] if self.external is None else [self.test, self.external]

    @property
    def drops(self) -> dict[str, Estimate]:
        """Return the figures of the external set less those of the test."""
        external = self.external
        if external is None:
            return {}
        return {name: drop(external, self.test, name) for name in DROPS if name in external.figures}

    def facts(self) -> dict[str, Any]:
        """Return all of it for JSON."""
        assessed = {assessment.part: _plain(asdict(assessment)) for assessment in self.assessments}
        for facts in assessed.values():
            del facts["resampled"]
        return {
            "run": str(self.run.path),
            "classes": list(self.run.classes),
            "chosen_on_validation": {
                "images": len(self.sets["validation"].predicted.labels),
                **_plain(asdict(self.rules)),
            },
            "external_data": self.data,
            "external_less_test": _plain({name: asdict(estimate) for name, estimate in self.drops.items()}),
            **assessed,
        }


def evaluate_run(
    folder: Place,
    data: str | None = None,
    rule: str = "youden",
    device: str = "cpu",
    replicates: int = REPLICATES,
    told: Told = lambda _what, _done, _total: None,
) -> Evaluation:
    """Evaluate a finished run on its test set and, if `data` names one, on a labelled set from elsewhere.

    Thresholds, by the rule (thresholds.py), and the temperature are chosen on validation alone. Raises ValueError for
    a run that has not ended well, a rule or a class that is unknown, and a set with images of one class only.
    """
    parse_rule(rule)
    if replicates < 200:
        raise ValueError(f"intervals need at least 200 replicates of the bootstrap, got {replicates}; 2000 is usual")
    run = load_run(folder)
    sets = own_sets(run, device, told)
    if data is not None:
        sets["external"] = external_set(run, data, device, told)
    rules = fit_rules(sets["validation"].predicted, rule)
    assessed = {
        part: assess(
            part, sets[part].predicted, run.classes, rules, replicates, partial(told, f"resampling the {part} set")
        )
        for part in sets
        if part != "validation"
    }
    return Evaluation(run, rules, assessed["test"], assessed.get("external"), data, sets)


def evaluated_if_possible(folder: Place, replicates: int = REPLICATES) -> tuple[Evaluation | None, str]:
    """Return the evaluation of a run, or none and why: a run without predictions and data."""
    try:
        return evaluate_run(folder, replicates=replicates), ""
    except ValueError as error:
        return None, str(error)


def _plain(value: Any) -> Any:
    """Return a value with None for NaN, which JSON does not know."""
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
