"""Concludes from the runs of a study: contrasts paired by seed, each with an interval, tests and a verdict.

Two cells under one seed share every weight, batch and mask that they have in common, so a contrast is taken within the
seed and only then averaged. All contrasts of the headline outcome are one family, declared before anything is seen, and
Holm's rule holds its false findings at one study in twenty. Every other outcome is a family of its own, adjusted within
itself and called exploratory: over many outcomes some will stand out by chance.

`sentences` says in words what is concluded here.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pandas as pd

from alexnet_ablations.conclude import intervals
from alexnet_ablations.conclude.answers import Answers, image_values, read_answers
from alexnet_ablations.conclude.crossed import Crossed, crossed
from alexnet_ablations.conclude.false_claims import FalseClaim, false_claim_of
from alexnet_ablations.conclude.intervals import LEVEL, Interval
from alexnet_ablations.conclude.looks import level_of_look
from alexnet_ablations.conclude.multiplicity import holm
from alexnet_ablations.conclude.outcomes import HEADLINE, Outcome, ended_well, headline_of, outcomes_of, population_of
from alexnet_ablations.conclude.resplits import Resplits, read_resplits
from alexnet_ablations.conclude.sensitivity import Sensitivity, sensitivity_of
from alexnet_ablations.conclude.survival import Survival, lost_cells, over_survivors, survivals
from alexnet_ablations.declare.contrasts import Contrast
from alexnet_ablations.declare.study import Study

Verdict = Literal[
    "difference",  # beyond chance in its family
    "equivalent",  # surely within the margin
    "difference within margin",
    "undecided",  # neither
    "censored",  # an interaction of numbers of which some are only bounds
    "no spread",  # all pairs differ by the same amount
    "one pair",
    "no pair",
]


@dataclass(frozen=True)
class Inference:
    """What a few paired differences say about their mean, on the scale of comparison (points, or log factors).

    With `images`, intervals and p are for other seeds and other images like these; with `overlap`, test over training
    images of splits that each seed draws from one set, for other splits; without either, for other seeds alone.
    """

    n: int
    mean: float  # NaN without a pair
    spread: float  # standard deviation; NaN below two pairs
    t: Interval | None = None
    t_p: float | None = None
    sign_flip_p: float | None = None
    margin: float | None = None
    equivalence_p: float | None = None
    equivalence: Interval | None = None  # within the margin if and only if equivalence_p is at most the level
    differences: tuple[float, ...] = ()
    images: Crossed | None = None
    seeds_alone: Interval | None = None  # the 95% interval for other seeds on these images
    overlap: float = 0.0

    @cached_property
    def sign_flip(self) -> Interval | None:
        """Return the interval by sign flips; None where so few pairs can reject nothing, or splits overlap.

        Computed when asked for.
        """
        return None if self.overlap else intervals.sign_flip_interval(self.differences)

    @property
    def attainable_p(self) -> float:
        """Return the smallest p-value that a sign-flip test on so many pairs can reach."""
        return intervals.attainable_p(self.n)


@dataclass(frozen=True)
class Censored:
    """How many runs of a contrast's cells never reached the level to which epochs are counted."""

    runs: int
    of: int
    level: float  # validation accuracy


@dataclass(frozen=True)
class Conclusion:
    """One contrast of one outcome: its estimate, how sure it is, and what it would take to know more."""

    contrast: Contrast
    outcome: Outcome
    values: Mapping[int, float]  # by seed, on the scale of comparison
    planned: int  # seeds in the study
    inference: Inference
    family: int  # contrasts that Holm's rule adjusts for
    population: str = ""  # for images like these; on these 360 test images
    tested_on: str = ""  # on these 360 test images
    possible: Interval | None = None  # what the mean can be at all, the subtracted cells being as they were observed
    left_out: tuple[str, ...] = ()  # norm=none diverged under seed 3
    lost: tuple[str, ...] = ()  # cells that the design has here, and of which no run ended well
    censored: Censored | None = None
    holm_p: float | None = None
    equivalence_holm_p: float | None = None
    level: float = LEVEL  # at which this look is tested, after Holm's rule
    is_exploratory: bool = False  # another outcome than the headline, and so outside its family
    false_claim: FalseClaim | None = None  # of a difference in accuracy that was found, where predictions are known

    @cached_property
    def sensitivity(self) -> Sensitivity | None:
        """Return what such a study shows, at the level of Holm's first step; None below three pairs."""
        inference, level = self.inference, self.level / self.family
        if self.n < 3 or inference.t is None or level <= 0:
            return None
        return sensitivity_of(
            self.n, inference.spread, inference.images, level, inference.margin, overlap=inference.overlap
        )

    @property
    def n(self) -> int:
        """Count the pairs."""
        return self.inference.n

    @property
    def effect(self) -> float:
        """Return the mean effect as it is reported: in the outcome's unit, or as a factor."""
        return self.outcome.effect(self.inference.mean)

    @property
    def low(self) -> float:
        """Return the lower end of the t interval, as reported; NaN without one."""
        return self.outcome.effect(self.inference.t.low) if self.inference.t else math.nan

    @property
    def high(self) -> float:
        """Return the upper end of the t interval, as reported; NaN without one."""
        return self.outcome.effect(self.inference.t.high) if self.inference.t else math.nan

    @property
    def shown(self) -> Interval | None:
        """Return the t interval as it is shown, on the scale of comparison: cut to what is possible."""
        return self.within_possible(self.inference.t)

    @property
    def covers_all(self) -> bool:
        """Say whether the t interval holds every value that is possible, and so says nothing."""
        t, possible = self.inference.t, self.possible
        return t is not None and possible is not None and t.low <= possible.low and t.high >= possible.high

    def within_possible(self, interval: Interval | None) -> Interval | None:
        """Cut an interval to what is possible."""
        if interval is None or self.possible is None:
            return interval
        return Interval(max(interval.low, self.possible.low), min(interval.high, self.possible.high))

    @property
    def verdict(self) -> Verdict:
        """Return the verdict in a word."""
        if self.n < 2:
            return "one pair" if self.n else "no pair"
        if _is_without_verdict(self):
            return "censored"
        if self.inference.t is None:
            return "no spread"
        differs = self.holm_p is not None and self.holm_p <= self.level
        if self.equivalence_holm_p is not None and self.equivalence_holm_p <= self.level:
            return "difference within margin" if differs else "equivalent"
        return "difference" if differs else "undecided"

    @property
    def is_better(self) -> bool | None:
        """Say whether a difference is for the better; None where there is none, or neither way is better."""
        if not self.verdict.startswith("difference") or self.outcome.better == "neither":
            return None
        return (self.inference.mean > 0) == (self.outcome.better == "more")

    def facts(self) -> dict[str, Any]:
        """Return what was concluded, fit for JSON: None for what there is not."""
        interval, claim = self.shown, self.false_claim
        return {
            "outcome": self.outcome.name,
            "contrast": self.contrast.name,
            "kind": self.contrast.kind,
            "effect": self.inference.mean if self.n else None,
            "interval": None if interval is None else [interval.low, interval.high],
            "population": self.population,
            "pairs": self.n,
            "p": self.inference.t_p,
            "p_holm": self.holm_p,
            "verdict": self.verdict,
            "false_claim_probability": None if claim is None else claim.probability,
        }

    @property
    def is_within_margin(self) -> bool:
        """Say whether the estimate itself, whatever its interval, is too small to matter."""
        return self.inference.margin is not None and abs(self.inference.mean) <= self.inference.margin


@dataclass(frozen=True)
class Conclusions:
    """All contrasts of all outcomes, and how many runs of each cell ended well."""

    items: tuple[Conclusion, ...]
    survivals: tuple[Survival, ...]
    answers: Answers | None = field(default=None, repr=False)
    looks: tuple[int, ...] = ()  # seeds of the earlier looks
    resplits: Resplits | None = None  # where each seed drew its own split
    headline_outcome: Outcome = HEADLINE
    findings: tuple[str, ...] = ()  # where images have several

    @property
    def outcomes(self) -> list[Outcome]:
        """Return the outcomes that something can be said about, the headline first."""
        return list(dict.fromkeys(item.outcome for item in self.items))

    def of(self, outcome: Outcome | str) -> list[Conclusion]:
        """Return the conclusions on one outcome, in the order of the contrasts."""
        name = outcome if isinstance(outcome, str) else outcome.name
        return [item for item in self.items if item.outcome.name == name]

    @property
    def headline(self) -> list[Conclusion]:
        """Return the conclusions on the headline outcome."""
        return self.of(self.headline_outcome)


def infer(
    differences: Sequence[float],
    margin: float | None = None,
    images: Crossed | None = None,
    level: float = LEVEL,
    overlap: float = 0.0,
) -> Inference:
    """Say what paired differences, all finite, tell about their mean; with `images`, of other images too.

    `level` is that of the test of equivalence. With `overlap`, each seed drew its own split (intervals.py).
    """
    d = np.asarray(differences, dtype=float)
    if not np.isfinite(d).all():
        raise ValueError(
            f"paired differences are finite numbers; got {d.tolist()}; leave out the pairs without a number"
        )
    if len(d) == 0:
        return Inference(0, math.nan, math.nan, margin=margin)
    alone = Inference(
        n=len(d),
        mean=float(d.mean()),
        spread=float(d.std(ddof=1)) if len(d) > 1 else math.nan,
        t=intervals.t_interval(d, overlap=overlap),
        t_p=intervals.t_p_value(d, overlap),
        sign_flip_p=None if overlap else intervals.sign_flip_p_value(d),  # it takes pairs for independent
        margin=margin,
        equivalence_p=None if margin is None else intervals.equivalence_p_value(d, margin, overlap),
        equivalence=None if margin is None else intervals.t_interval(d, 1 - 2 * level, overlap),
        differences=tuple(d.tolist()),
        overlap=overlap,
    )
    if images is None:
        return alone
    return replace(
        alone,
        t=images.interval(),
        t_p=images.p_value(),
        equivalence_p=None if margin is None else images.equivalence_p_value(margin),
        equivalence=None if margin is None else images.interval(1 - 2 * level),
        images=images,
        seeds_alone=alone.t,
    )


def values_by_seed(results: pd.DataFrame, contrast: Contrast, outcome: Outcome) -> dict[int, float]:
    """Return a contrast's value under every seed under which each run that it needs has a number."""
    return _values_by_seed(_by_seed_and_cell(results, outcome), contrast)


def _by_seed_and_cell(results: pd.DataFrame, outcome: Outcome) -> pd.DataFrame:
    compared = results[["seed", "cell"]].assign(value=outcome.compared(results))
    return compared.pivot(index="seed", columns="cell", values="value")


def _values_by_seed(by_seed_and_cell: pd.DataFrame, contrast: Contrast) -> dict[int, float]:
    wide = by_seed_and_cell.reindex(columns=list(contrast.weights)).dropna()
    terms = wide.to_numpy() * np.array(list(contrast.weights.values()))
    totals = terms.sum(1)
    # Equal runs differ by exactly nothing; what rounding leaves of a weighted sum is not a difference.
    totals[np.abs(totals) <= intervals.TIE * np.abs(terms).sum(1)] = 0.0
    return {int(seed): float(total) for seed, total in zip(wide.index, totals, strict=True)}


def conclude_study(study: Study, results: pd.DataFrame) -> Conclusions:
    """Conclude from a study whose results were read: with the predictions of its runs, its margin and its looks."""
    runs, well = study.runs(), ended_well(results)
    by_split = study.splitting.resplit
    return conclusions_of(
        results,
        study.contrasts(),
        margin=study.margin,
        answers=None if by_split else read_answers(runs, well),
        looks=study.looks,
        resplits=read_resplits(runs, well) if by_split else None,
    )


def conclusions_of(
    results: pd.DataFrame,
    contrasts: Sequence[Contrast],
    outcomes: Sequence[Outcome] | None = None,
    margin: float | None = None,
    answers: Answers | None = None,
    looks: Sequence[int] = (),
    resplits: Resplits | None = None,
) -> Conclusions:
    """Conclude on every contrast of every outcome that any run has a number for, and of the headline in any case.

    `results` is the table of `outcomes.read_results`; `margin` is what is too small to matter, in points of the
    headline (0.5), of findings in AUROC (0.005); the other outcomes have margins of their own. With `answers`
    (`answers.read_answers`) accuracies, and the AUROC of findings, are compared for images like these, without on these
    images alone. `outcomes` are those of the table unless given. `looks` are the numbers of seeds of earlier looks.
    `resplits` says how splits overlap where each seed drew its own.
    """
    repeated = results[results.duplicated(["cell", "seed"])]
    if len(repeated):
        row = repeated.iloc[0]
        raise ValueError(f"a cell has one run per seed; {row['cell']} has two under seed {row['seed']}; drop one")
    if margin is not None and not 0 < margin < math.inf:
        raise ValueError(f"a margin of equivalence is above 0; got {margin:g}; take the smallest effect that matters")
    lost = lost_cells(results)
    items: list[Conclusion] = []
    headline = headline_of(results)
    for outcome in outcomes_of(results) if outcomes is None else outcomes:
        is_headline = outcome.name == headline.name
        if is_headline or outcome.compared(results).notna().any():
            chosen = margin if is_headline and margin is not None else outcome.compared_margin()
            family = _conclude_one_family(results, contrasts, lost, outcome, chosen, answers, tuple(looks), resplits)
            items += [replace(item, is_exploratory=not is_headline) for item in family]
    findings = tuple(results.attrs.get("findings") or ())
    return Conclusions(tuple(items), survivals(results), answers, tuple(looks), resplits, headline, findings)


def _conclude_one_family(
    results: pd.DataFrame,
    contrasts: Sequence[Contrast],
    lost: frozenset[str],
    outcome: Outcome,
    margin: float | None,
    answers: Answers | None,
    looks: tuple[int, ...],
    resplits: Resplits | None,
) -> list[Conclusion]:
    wide = _by_seed_and_cell(results, outcome)
    planned = int(results["seed"].nunique())
    level = level_of_look(planned, looks)
    without = results[outcome.compared(results).isna()]
    tested_on = population_of(results, outcome)
    # What is no number of images, such as memory, has no split to depend on.
    splits = resplits if tested_on else None
    family = []
    for declared in contrasts:
        contrast = over_survivors(declared, results, lost)
        values = _values_by_seed(wide, contrast)
        images = _over_images(contrast, outcome, values, answers)
        family.append(
            Conclusion(
                contrast,
                outcome,
                values,
                planned=planned,
                inference=infer(list(values.values()), margin, images, level, splits.overlap if splits else 0.0),
                family=len(contrasts),
                population=splits.population
                if splits
                else tested_on
                if images is None or answers is None
                else answers.population,
                tested_on=splits.tested_on if splits else tested_on,
                possible=_possible(wide, contrast, outcome, values),
                left_out=_left_out(without, contrast, values),
                lost=tuple(cell for cell in declared.weights if cell in lost),
                censored=_censored(results, contrast) if outcome.name == "epochs_to_level" else None,
            )
        )
    different = holm([None if _is_without_verdict(item) else item.inference.t_p for item in family])
    same = holm([None if item.censored else item.inference.equivalence_p for item in family])
    concluded = [
        replace(item, holm_p=p, equivalence_holm_p=q, level=level)
        for item, p, q in zip(family, different, same, strict=True)
    ]
    return [_with_check(item, answers) for item in concluded]


def _with_check(conclusion: Conclusion, answers: Answers | None) -> Conclusion:
    """Add to a difference in accuracy how probably a claim of it is false."""
    if answers is None or conclusion.outcome.images != "mean" or conclusion.is_better is None:
        return conclusion
    gain = conclusion.inference.mean > 0
    claim = false_claim_of(conclusion.contrast, conclusion.values, answers, is_gain=gain)
    return replace(conclusion, false_claim=claim)


def _is_without_verdict(conclusion: Conclusion) -> bool:
    # A number that is only a bound understates one difference; of a difference of differences it may turn the sign.
    return conclusion.censored is not None and conclusion.contrast.kind == "interaction"


def _over_images(
    contrast: Contrast, outcome: Outcome, values: Mapping[int, float], answers: Answers | None
) -> Crossed | None:
    """Return the mean squares over seeds and images of what is made of the test images; None of any other outcome."""
    if answers is None or outcome.images is None or len(values) < 2:
        return None
    if outcome.images == "area":
        areas = answers.area_differences(contrast.weights, values, outcome.finding)
        return None if areas is None else crossed(areas)
    differences = answers.differences(contrast.weights, values)
    if differences is None:
        return None
    table = outcome.times * image_values(differences, answers, by_class=outcome.images == "mean over classes")
    return crossed(table)


def _possible(wide: pd.DataFrame, contrast: Contrast, outcome: Outcome, seeds: Mapping[int, float]) -> Interval | None:
    """Return what the contrast can be if the cells with a plus take any share and those with a minus keep theirs."""
    if outcome.largest is None or not seeds:
        return None
    means = wide.loc[list(seeds)].mean()
    taken = sum(weight * float(means[cell]) for cell, weight in contrast.weights.items() if weight < 0)
    added = sum(weight for weight in contrast.weights.values() if weight > 0)
    return Interval(taken, taken + added * outcome.largest)


def _left_out(without: pd.DataFrame, contrast: Contrast, values: Mapping[int, float]) -> tuple[str, ...]:
    """Say of each seed that a contrast does without which run it lacks, and why."""
    if without.empty:
        return ()
    without = without[without["cell"].isin(contrast.weights) & ~without["seed"].isin(values)]
    return tuple(
        f"{cell} {'has no number' if state == 'ok' else state} under seed {seed}"
        for cell, state, seed in zip(without["cell"], without["state"], without["seed"], strict=True)
    )


def _censored(results: pd.DataFrame, contrast: Contrast) -> Censored | None:
    rows = results[results["cell"].isin(contrast.weights)]
    runs = int(rows["never_reached"].sum())
    return Censored(runs, int(rows["never_reached"].notna().sum()), float(rows["level"].iloc[0])) if runs else None
