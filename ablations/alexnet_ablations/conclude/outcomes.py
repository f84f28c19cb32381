"""What is compared between runs, and one tidy table of it: a row per cell and seed, in whatever state its run is.

An outcome is compared either as a difference in its own units or as a factor. Factors are for what is above zero and
spans orders of magnitude (losses, gradient ratios, speed, memory): their logarithms are averaged and subtracted, so
that "×1.8" means the same at every size. Only a run that ended well has outcomes; a run that did not has its state and
the reason, and its seed leaves the comparisons that need it.

Where a seed divides the images into folds, a row is of its K runs together: test outcomes are those of all their test
predictions, every image once; of everything else it is the mean over the folds.

Where images have several findings, the AUROC of each finding and their mean take the place of what counts right
answers; the findings are `attrs["findings"]` of the table.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from alexnet_ablations.conclude.answers import by_cell_and_seed, read_tested
from alexnet_ablations.declare.design import level_text
from alexnet_ablations.declare.status import STATES, status_of
from alexnet_ablations.declare.study import NO_LEVEL, PlannedRun
from alexnet_lab.diagnosis.health import health_of
from alexnet_lab.records import write_atomically
from alexnet_lab.reports.export import csv_text

Health = Mapping[str, float | None]  # alexnet_lab.diagnosis.health
# "epochs to reach a level": this share of the baseline's median best validation accuracy, unless a level is named
LEVEL_SHARE = 0.9
MOST_WRITTEN_OUT = 1e6  # larger numbers have an exponent


@dataclass(frozen=True)
class Outcome:
    """One number of a run, and how two of them are compared."""

    name: str  # its column
    label: str
    source: tuple[str | int, ...]  # where it stands among the facts of a run; () for what is computed over all runs
    unit: str = ""  # of a difference: points
    scale: Literal["difference", "factor"] = "difference"
    better: Literal["more", "less", "neither"] = "neither"
    times: float = 1.0  # 100 where a share is shown in percent, and its differences in points
    digits: int = 1
    margin: float | None = None  # what is too small to matter: in the unit, or as a factor; None: nobody can say
    percent: bool = False
    largest: float | None = None  # of the numbers compared, where they are shares: the least is 0
    # How it is made of right and wrong test answers, or of areas under ROC curves.
    images: Literal["mean", "mean over classes", "area"] | None = None
    of_machine: bool = False  # says as much of the machine and its other work as of the network

    @property
    def finding(self) -> int | None:
        """Return the number of the finding that an AUROC is of; None where it is a mean over findings."""
        last = self.source[-1] if self.source else None
        return last if isinstance(last, int) else None

    @property
    def measured(self) -> str:
        """Name what a difference is a difference in: points of test accuracy."""
        return f"{self.unit} of {self.label}" if self.unit else self.label

    def compared(self, results: pd.DataFrame) -> "pd.Series[float]":
        """Return the numbers whose differences are taken: shown units, or logarithms; NaN where a run has none."""
        values = results[self.name].to_numpy(np.float64)  # in numpy, since pandas copies `attrs` at every operation
        usable = np.where(np.isfinite(values) & ((values > 0) | (self.scale == "difference")), values, np.nan)
        compared = np.log(usable) if self.scale == "factor" else self.times * usable
        return pd.Series(compared, results.index)

    def effect(self, compared: float) -> float:
        """Return a difference of compared numbers as it is reported: in the unit, or as a factor."""
        return math.exp(min(compared, 700.0)) if self.scale == "factor" else compared

    def show(self, value: float) -> str:
        """Write one run's value, or a mean of them: 96.6%, 3.2e-05."""
        if not math.isfinite(value):
            return "-"
        if self.scale == "factor":
            shown = f"{value * self.times:.3g}"
            return f"{float(shown):.0f}" if "e+" in shown and value < MOST_WRITTEN_OUT else shown
        return f"{self.times * value:.{self.digits}f}" + ("%" if self.percent else "")

    def show_finely(self, compared: float) -> str:
        """Write a number that is compared, with the digits of a figure's labels: 96.62%, 0.8312."""
        if not math.isfinite(compared):
            return "–"
        return f"{compared:.2f}%" if self.percent else f"{compared:.{self.digits}f}"

    def show_effect(self, compared: float, digits: int | None = None) -> str:
        """Write a difference of compared numbers: +3.1, or ×1.8."""
        digits = self.digits if digits is None else digits
        if math.isnan(compared):
            return "-"
        if self.scale == "factor":
            return f"×{self.effect(compared):.3g}"
        text = f"{compared:+.{digits}f}"
        return text.replace("-", "+") if float(text) == 0 else text

    def compared_margin(self) -> float | None:
        """Return the margin on the scale of comparison."""
        if self.margin is None:
            return None
        return math.log(self.margin) if self.scale == "factor" else self.margin

    def show_margin(self, margin: float) -> str:
        """Write a margin: 0.5 points either way; a factor of 1.1 either way."""
        if self.scale == "factor":
            return f"a factor of {math.exp(margin):.3g}"
        unit = self.unit.removesuffix("s") if margin == 1 else self.unit
        return f"{margin:g} {unit}".strip()


def _points(name: str, label: str, *source: str, **more: Any) -> Outcome:
    return Outcome(name, label, source, **{"unit": "points", "times": 100.0, "percent": True, "largest": 100.0, **more})


def _factor(name: str, label: str, *source: str, **more: Any) -> Outcome:
    return Outcome(name, label, source, **{"scale": "factor", **more})


def _of_machine(name: str, label: str, **more: Any) -> Outcome:
    return _factor(name, label, name, margin=1.05, of_machine=True, **more)


OUTCOMES: tuple[Outcome, ...] = (
    _points("test_accuracy", "test accuracy", "test", "accuracy", better="more", margin=0.5, images="mean"),
    _points(
        "balanced_accuracy",
        "balanced accuracy",
        *("test", "balanced_accuracy"),
        better="more",
        margin=0.5,
        images="mean over classes",
    ),
    Outcome("auroc", "AUROC", ("test", "auroc"), "", better="more", digits=4, margin=0.005, largest=1.0),
    _points("validation_accuracy", "validation accuracy", "validation", "accuracy", better="more", margin=0.5),
    _points(
        "first_epoch_accuracy",
        "validation accuracy after one epoch",
        "validation",
        "first_epoch_accuracy",
        better="more",
        margin=0.5,
    ),
    _factor("final_train_loss", "final training loss", "final_train_loss", better="less", margin=1.1),
    Outcome("epochs_to_level", "epochs to the level", (), "epochs", better="less", margin=1.0),
    _points("calibration_error", "calibration error", "test", "calibration_error", better="less", margin=0.5),
    # How far from 1 a ratio of gradients is, or from 1e-3 an update ratio, matters either way.
    _points("dead_share", "dead units", "health", "dead_share", better="less", margin=1.0),
    _points("negative_side_rate", "off-rate, negative side", "health", "negative_side_rate"),
    _factor("gradient_first_to_last", "gradient, first layer to last", "health", "gradient_first_to_last"),
    _factor("update_ratio", "update to weight", "health", "update_ratio"),
    # Exactly 0 where no signal rises above the noise, so that it has no logarithm.
    Outcome("signal_to_noise", "gradient signal to noise", ("health", "signal_to_noise"), digits=3),
    _of_machine("images_per_second", "images per second", better="more"),
    _of_machine("peak_memory_mb", "peak memory, MB", better="less"),
    _of_machine("train_seconds", "seconds of training", better="less"),
)
HEADLINE = OUTCOMES[0]
_FACTORS = frozenset(outcome.name for outcome in OUTCOMES if outcome.scale == "factor")
AREA_MARGIN = 0.005  # of an AUROC


def _area(name: str, label: str, *source: str | int, **more: Any) -> Outcome:
    shape: dict[str, Any] = {"digits": 4, "margin": AREA_MARGIN, "largest": 1.0}
    return Outcome(name, label, source, **{"better": "more", **shape, **more})


FINDINGS_HEADLINE = _area("auroc", "mean AUROC over findings", "test", "auroc", images="area")


def headline_of(results: pd.DataFrame) -> Outcome:
    """Return the outcome that verdicts are about: test accuracy, or the mean AUROC where images have findings."""
    return HEADLINE if results.attrs.get("findings") is None else FINDINGS_HEADLINE


def outcomes_of(results: pd.DataFrame) -> tuple[Outcome, ...]:
    """Return what the runs of a table are compared by, the headline first."""
    return _outcomes(results.attrs.get("findings"))


def _outcomes(findings: Sequence[str] | None) -> tuple[Outcome, ...]:
    if findings is None:
        return OUTCOMES
    areas = [
        _area(f"auroc of {name}", f"AUROC of {name}", "test", "finding_auroc", k, images="area")
        for k, name in enumerate(findings)
    ]
    validation = _area("validation_auroc", "validation AUROC, mean over findings", "validation", "auroc")
    # What counts right answers, the level of epochs among it, has no number here.
    others = [one for one in OUTCOMES if one.source and one.source[0] not in ("test", "validation")]
    return (FINDINGS_HEADLINE, *areas, validation, *others)


def _findings_of(runs: Sequence[PlannedRun]) -> tuple[str, ...] | None:
    """Return the findings that the images of a study have, by the first run that knows them; None of classes."""
    if not runs or not runs[0].recipe.has_findings:
        return None
    for run in runs:
        try:
            named = (run.folder.provenance() or {}).get("classes")
        except ValueError:  # its row says that it is damaged
            continue
        if named:
            return tuple(map(str, named))
    return ()


def outcome_named(name: str) -> Outcome:
    """Find an outcome by its column."""
    for outcome in OUTCOMES:
        if outcome.name == name:
            return outcome
    raise ValueError(f"unknown outcome {name!r}; there are {', '.join(outcome.name for outcome in OUTCOMES)}")


def read_results(
    runs: Sequence[PlannedRun], level: float | None = None, health: Mapping[tuple[str, int], Health] | None = None
) -> pd.DataFrame:
    """Read run folders into a table: cell, factors, seed, state, why, level, never_reached, and every outcome.

    `level` is a validation accuracy between 0 and 1. A run that ended well without reaching it counts one epoch more
    than it had, the least it can have needed, and `never_reached` is 1: differences then understate how slow it is.

    A run with damaged records keeps its row, with the state `damaged`, the files in `why`, and no outcomes. The number
    of test images, if it is known and the same for all rows, is `attrs["test_images"]` of the table, and the number of
    folds that they are tested in, 0 without folds, `attrs["folds"]`. Where seeds draw splits of their own,
    `attrs["splits"]` counts these.
    """
    if level is not None and not 0 < level <= 1:
        raise ValueError(f"a level is a validation accuracy above 0 and up to 1; got {level:g}; take for example 0.9")
    together = list(by_cell_and_seed(runs).values())
    findings = _findings_of(runs)
    if findings is not None and level is not None:
        raise ValueError(NO_LEVEL)
    outcomes = _outcomes(findings)
    read = [_read_folds(folds, health, outcomes) for folds in together]
    if level is None and findings is None:
        level = _level_of_baseline(together, [curves for _, curves in read])
    rows = [{**row, **({} if level is None else _epochs_over(level, curves))} for row, curves in read]
    names = [outcome.name for outcome in outcomes]
    fields = list(dict.fromkeys(field for run in runs for field, _ in run.compared.settings))
    columns = ["cell", *fields, "seed", "state", "why", "level", "never_reached", *names, "measuring_share"]
    table = pd.DataFrame(rows, columns=columns)
    table = table.astype(dict.fromkeys([*names, "level", "never_reached", "measuring_share"], "float64"))
    tested = {row["tested"] for row in rows if row["state"] == "ok"}
    if findings is not None:
        table.attrs["findings"] = findings
    table.attrs["test_images"] = tested.pop() if len(tested) == 1 else None
    if splits := _count_splits(runs):
        table.attrs["splits"] = splits
    table.attrs["folds"] = max((len(folds) for folds in together if folds[0].whole is not None), default=0)
    return table


def _count_splits(runs: Sequence[PlannedRun]) -> int:
    """Count the splits of a study whose seeds draw their own; 0 where all runs have the same, or folds."""
    drawn = {run.recipe.split_seed for run in runs if run.whole is None}
    return len(drawn) if len(drawn) > 1 else 0


def ended_well(results: pd.DataFrame) -> list[tuple[str, int]]:
    """Return cell and seed of the runs that ended well."""
    well = results[results["state"] == "ok"]
    return [(str(cell), int(seed)) for cell, seed in zip(well["cell"], well["seed"], strict=True)]


def population_of(results: pd.DataFrame, outcome: Outcome) -> str:
    """Name the images that an outcome is about, as the end of a sentence; empty where it is not about images."""
    part = outcome.source[0] if outcome.source else ""
    folds = results.attrs.get("folds")
    by = f" by {folds} folds" if folds else ""
    if splits := results.attrs.get("splits"):
        return f"on the {part} images of {splits} splits" if part in ("test", "validation") else ""
    if part == "test":
        images = results.attrs.get("test_images")
        return f"on these {images:,} {'' if folds else 'test '}images{by}" if images else f"on these test images{by}"
    return f"on these validation images{by}" if part == "validation" else ""


def label_in(results: pd.DataFrame, outcome: Outcome) -> str:
    """Return an outcome's label; where it counts epochs to a level, with that level."""
    if outcome.name != "epochs_to_level" or "level" not in results:
        return outcome.label
    level = results["level"].dropna()
    return f"{outcome.label}, {level.iloc[0]:.1%}" if len(level) else outcome.label


def level_in_results(level: Any) -> Any:
    """Return a level as the table has it: None and "" would be missing values there, and have words instead."""
    return level_text(level) if level is None or level == "" else level


def write_results(results: pd.DataFrame, path: Path) -> None:
    """Write the table as CSV, whole or not at all."""
    write_atomically(path, csv_text(results))


def _read_folds(
    folds: Sequence[PlannedRun], health: Mapping[tuple[str, int], Health] | None, outcomes: Sequence[Outcome]
) -> tuple[dict[str, Any], list[list[float]]]:
    """Return the row of one cell and seed, and the validation accuracy of every epoch of each of its runs."""
    read = [_read_run(run, health, outcomes) for run in folds]
    computed = [*(outcome.name for outcome in outcomes if outcome.source), "measuring_share"]  # if a run ended well
    rows, curves = [row for row, _ in read], [curve for _, curve in read]
    if folds[0].whole is None:
        return rows[0], curves
    states = [str(row["state"]) for row in rows]
    # What is missing comes before what failed, and that before a divergence: then all runs have ended.
    state = max(states, key=lambda name: STATES.index(name) if name in STATES else len(STATES))
    reasons = [f"fold {run.recipe.fold}: {row['why']}" for run, row in zip(folds, rows, strict=True) if row["why"]]
    row = {**rows[0], "state": state, "why": "; ".join(reasons), "tested": None}
    if state != "ok":
        return {name: value for name, value in row.items() if name not in computed}, [[]]
    row |= _mean_of([{name: one[name] for name in computed} for one in rows])
    return row | _tested_together(folds, outcomes), curves


def _tested_together(folds: Sequence[PlannedRun], outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Return the test outcomes of the predictions of all folds; nothing is known where one has none."""
    from alexnet_lab.training.metrics import metrics_of

    of_test = [outcome for outcome in outcomes if outcome.source[:1] == ("test",)]
    try:
        tested = read_tested(folds)
    except ValueError:  # the conclusions name runs without predictions
        return {**dict.fromkeys((outcome.name for outcome in of_test), math.nan), "tested": None}
    probabilities = tested.probabilities.astype(np.float64)
    if tested.labels.ndim == 1:
        probabilities /= probabilities.sum(1, keepdims=True)
    facts = {"test": metrics_of(probabilities, tested.labels)}
    return {**{outcome.name: _number(facts, outcome.source) for outcome in of_test}, "tested": len(tested.ids)}


def _mean_of(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean of each number over rows that have the same; geometric of what is compared as a factor."""
    if len(rows) == 1:
        return dict(rows[0])
    means = {}
    for name in rows[0] if rows else ():
        values = np.array([row.get(name, math.nan) for row in rows], float)
        is_factor = name in _FACTORS and (values > 0).all()
        means[name] = float(np.exp(np.log(values).mean()) if is_factor else values.mean())
    return means


def _read_run(
    run: PlannedRun, health: Mapping[tuple[str, int], Health] | None, outcomes: Sequence[Outcome]
) -> tuple[dict[str, Any], list[float]]:
    """Return a run's row, and its validation accuracy of every epoch; nothing of a run that did not end well."""
    state, why, verdict = _state(run)
    levels = {field: level_in_results(level) for field, level in run.compared.settings}
    row = {"cell": run.compared.name, **levels, "seed": run.seed, "state": state, "why": why, "tested": None}
    if state != "ok":
        return row, []
    lines = list(run.folder.metrics())
    facts = dict(verdict.get("result") or {})
    if lines:
        facts.setdefault("final_train_loss", lines[-1].get("train_loss"))  # runs of before it stood in the verdict
        first = {"first_epoch_accuracy": lines[0].get("validation_accuracy")}
        facts["validation"] = {**(facts.get("validation") or {}), **first}
    if isinstance(facts.get("peak_memory_bytes"), int | float):
        facts["peak_memory_mb"] = facts["peak_memory_bytes"] / 2**20
    if (run.folder.path / "flow").exists():
        facts["health"] = health_of(run.folder) if health is None else health.get(run.key, {})
    row |= {outcome.name: _number(facts, outcome.source) for outcome in outcomes if outcome.source}
    row["measuring_share"] = _number(facts, ("measuring_share",))
    row["tested"] = _images_tested(facts)
    return row, [_number(line, ("validation_accuracy",)) for line in lines]


def _state(run: PlannedRun) -> tuple[str, str, dict[str, Any]]:
    """Return how a run ended, why, and its verdict; without one, how it stands: running, waiting, lost, damaged."""
    damages = run.folder.damages()
    try:
        verdict = run.folder.verdict()
    except ValueError:  # then state.json is among the damages
        verdict = None
    if damages:
        return "damaged", ", ".join(damages), {}
    if verdict is not None:
        return str(verdict["state"]), str(verdict.get("why", "")), verdict
    run_status = status_of(run.folder, run.cell.name, run.seed)
    return run_status.state, run_status.why, {}


def _images_tested(facts: Mapping[str, Any]) -> int | None:
    """Return how many images were tested; None where the verdict has neither their number nor a matrix of counts."""
    test = facts.get("test")
    if not isinstance(test, Mapping):
        return None
    images, confusion = test.get("images"), test.get("confusion")
    if type(images) is int:
        return images
    return int(np.sum(confusion)) if isinstance(confusion, list) and confusion else None  # version 0.1.0


def _number(facts: Mapping[str, Any], source: Sequence[str | int]) -> float:
    """Return the number at that place; NaN where there is none, as in runs of an earlier version."""
    value: Any = facts
    for key in source:
        if isinstance(key, int):
            value = value[key] if isinstance(value, list) and key < len(value) else None
        else:
            value = value.get(key) if isinstance(value, Mapping) else None
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan


def _level_of_baseline(together: Sequence[Sequence[PlannedRun]], curves: Sequence[Sequence[Sequence[float]]]) -> float:
    """Return nine tenths of the median best validation accuracy of the first cell, the baseline."""
    baseline = together[0][0].compared if together else None
    best = [
        max(curve)
        for folds, curves_of_cell in zip(together, curves, strict=True)
        if folds[0].compared == baseline
        for curve in curves_of_cell
        if curve
    ]
    return LEVEL_SHARE * float(pd.Series(best, dtype=float).median())


def _epochs_over(level: float, curves: Sequence[Sequence[float]]) -> dict[str, float]:
    """Return the mean of the epochs that the runs of a row needed; a bound where any of them never got there."""
    epochs = [_epochs_to(level, curve) for curve in curves]
    never = {"never_reached": max(one["never_reached"] for one in epochs)} if "never_reached" in epochs[0] else {}
    return {**_mean_of(epochs), **never}


def _epochs_to(level: float, curve: Sequence[float]) -> dict[str, float]:
    if not curve or math.isnan(level):
        return {"level": level}
    reached = [epoch for epoch, accuracy in enumerate(curve, 1) if accuracy >= level]
    needed = reached[0] if reached else len(curve) + 1
    return {"level": level, "epochs_to_level": needed, "never_reached": float(not reached)}
