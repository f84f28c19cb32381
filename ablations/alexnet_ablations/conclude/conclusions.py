"""What the runs say together: contrasts paired by seed, each with an interval, a verdict and a sentence.

Two cells under one seed share every weight, batch and mask that they have in common, so a contrast is taken within the
seed and only then averaged. Of the headline outcome all contrasts are one family, declared before anything is seen, and
Holm's rule holds its false findings at one study in twenty. Every other outcome is a family of its own, adjusted within
itself and called exploratory: over many outcomes some will stand out by chance.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
import pandas as pd

from alexnet_ablations.conclude import intervals, sentences
from alexnet_ablations.conclude.intervals import Interval
from alexnet_ablations.conclude.multiplicity import holm
from alexnet_ablations.conclude.outcomes import HEADLINE, OUTCOMES, Outcome
from alexnet_ablations.conclude.seeds import seeds_for_half_width, seeds_for_power
from alexnet_ablations.conclude.survival import Survival, survivals
from alexnet_ablations.declare.contrasts import Contrast

LEVEL = 1 - intervals.CONFIDENCE
# difference: beyond chance in its family. equivalent: surely within the margin. open: neither. one pair: no interval.
Verdict = Literal["difference", "equivalent", "difference within margin", "open", "no spread", "one pair", "no pair"]


@dataclass(frozen=True)
class Inference:
    """What a few paired differences say about their mean, on the scale of comparison (points, or log factors)."""

    n: int
    mean: float  # NaN without a pair
    spread: float  # standard deviation; NaN below two pairs
    t: Interval | None = None
    t_p: float | None = None
    sign_flip_p: float | None = None
    margin: float | None = None
    equivalence_p: float | None = None
    differences: tuple[float, ...] = ()

    # The checks take longer than all the rest, and of hundreds of comparisons only those of the headline are looked at.

    @cached_property
    def sign_flip(self) -> Interval | None:
        """Return the interval by sign flips; None where so few pairs can reject nothing."""
        return intervals.sign_flip_interval(self.differences)

    @cached_property
    def bootstrap(self) -> Interval | None:
        """Return the studentised bootstrap interval."""
        return intervals.bootstrap_interval(self.differences)

    @property
    def attainable_p(self) -> float:
        """Return the smallest p-value that a sign-flip test on so many pairs can reach."""
        return intervals.attainable_p(self.n)


@dataclass(frozen=True)
class Conclusion:
    """One contrast of one outcome: what was found, how sure it is, and what it would take to know more."""

    contrast: Contrast
    outcome: Outcome
    values: Mapping[int, float]  # by seed, on the scale of comparison
    planned: int  # seeds in the study
    inference: Inference
    family: int  # contrasts that Holm's rule adjusts for
    left_out: tuple[str, ...] = ()  # norm=none diverged under seed 3
    holm_p: float | None = None
    equivalence_holm_p: float | None = None
    # What would resolve an open question, at the spread of three pairs or more; None: no need, no way, too few pairs.
    seeds_needed: int | None = None  # for an interval that is the margin either way
    seeds_to_show: int | None = None  # to find an effect as large as this estimate four times in five
    notes: tuple[str, ...] = ()

    @property
    def n(self) -> int:
        """Count the pairs."""
        return self.inference.n

    @property
    def is_exploratory(self) -> bool:
        """Say whether this is another outcome than the headline, and so outside its family."""
        return self.outcome.name != HEADLINE.name

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
    def verdict(self) -> Verdict:
        """Say in a word what was found."""
        if self.n < 2:
            return "one pair" if self.n else "no pair"
        if self.inference.t is None:
            return "no spread"
        differs = self.holm_p is not None and self.holm_p <= LEVEL
        if self.equivalence_holm_p is not None and self.equivalence_holm_p <= LEVEL:
            return "difference within margin" if differs else "equivalent"
        return "difference" if differs else "open"

    @property
    def is_better(self) -> bool | None:
        """Say whether a difference that was found is for the better; None where none was, or neither way is better."""
        if not self.verdict.startswith("difference") or self.outcome.better == "neither":
            return None
        return (self.inference.mean > 0) == (self.outcome.better == "more")

    @property
    def is_within_margin(self) -> bool:
        """Say whether the estimate itself, whatever its interval, is too small to matter."""
        return self.inference.margin is not None and abs(self.inference.mean) <= self.inference.margin

    @property
    def sentence(self) -> str:
        """Say it in one sentence, always with an n."""
        return sentences.conclusion(self)


@dataclass(frozen=True)
class Conclusions:
    """All contrasts of all outcomes, and how many runs of each cell ended well."""

    items: tuple[Conclusion, ...]
    survivals: tuple[Survival, ...]

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
        return self.of(HEADLINE)

    @property
    def sentence(self) -> str:
        """Say what was found, in one line."""
        return "; ".join(item.sentence for item in self.headline)

    @property
    def survival_sentences(self) -> list[str]:
        """Return a sentence for each cell of which a run did not end well."""
        return [each.sentence for each in self.survivals if each.well < sum(each.states.values())]


def infer(differences: Sequence[float], margin: float | None = None) -> Inference:
    """Say what paired differences, all finite, tell about their mean."""
    d = np.asarray(differences, dtype=float)
    if not np.isfinite(d).all():
        raise ValueError(
            f"paired differences are finite numbers; got {d.tolist()}; leave out the pairs without a number"
        )
    if len(d) == 0:
        return Inference(0, math.nan, math.nan, margin=margin)
    return Inference(
        n=len(d),
        mean=float(d.mean()),
        spread=float(d.std(ddof=1)) if len(d) > 1 else math.nan,
        t=intervals.t_interval(d),
        t_p=intervals.t_p_value(d),
        sign_flip_p=intervals.sign_flip_p_value(d),
        margin=margin,
        equivalence_p=None if margin is None else intervals.equivalence_p_value(d, margin),
        differences=tuple(d.tolist()),
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


def conclude(
    results: pd.DataFrame,
    contrasts: Sequence[Contrast],
    outcomes: Sequence[Outcome] = OUTCOMES,
    margin: float | None = None,
) -> Conclusions:
    """Conclude on every contrast of every outcome that any run has a number for, and of the headline in any case.

    `results` is the table of `outcomes.read_results`; `margin` is what is too small to matter, in points of the
    headline (0.5); the other outcomes have margins of their own.
    """
    repeated = results[results.duplicated(["cell", "seed"])]
    if len(repeated):
        row = repeated.iloc[0]
        raise ValueError(f"a cell has one run per seed; {row['cell']} has two under seed {row['seed']}; drop one")
    if margin is not None and not 0 < margin < math.inf:
        raise ValueError(f"a margin of equivalence is above 0; got {margin:g}; take the smallest effect that matters")
    items: list[Conclusion] = []
    for outcome in outcomes:
        is_headline = outcome.name == HEADLINE.name
        if is_headline or outcome.compared(results).notna().any():
            chosen = margin if is_headline and margin is not None else outcome.compared_margin()
            items += _conclude_one_family(results, contrasts, outcome, chosen)
    return Conclusions(tuple(items), survivals(results))


def _conclude_one_family(
    results: pd.DataFrame, contrasts: Sequence[Contrast], outcome: Outcome, margin: float | None
) -> list[Conclusion]:
    planned = int(results["seed"].nunique())
    wide = _by_seed_and_cell(results, outcome)
    values = [_values_by_seed(wide, contrast) for contrast in contrasts]
    found = [
        Conclusion(contrast, outcome, by_seed, planned, infer(list(by_seed.values()), margin), len(contrasts))
        for contrast, by_seed in zip(contrasts, values, strict=True)
    ]
    different = holm([each.inference.t_p for each in found])
    same = holm([each.inference.equivalence_p for each in found])
    without = results[outcome.compared(results).isna()]
    return [
        _completed(replace(each, holm_p=p, equivalence_holm_p=q), results, without)
        for each, p, q in zip(found, different, same, strict=True)
    ]


def _completed(found: Conclusion, results: pd.DataFrame, without: pd.DataFrame) -> Conclusion:
    """Add what needs the verdict: the seeds it would take, what was left out, and what to keep in mind."""
    inference, narrow, show = found.inference, None, None
    if found.verdict == "open" and found.n >= 3:
        # At the level of Holm's first step: what is open now must stand out in its family then.
        show = seeds_for_power(inference.mean, inference.spread, LEVEL / found.family)
        narrow = None if inference.margin is None else seeds_for_half_width(inference.spread, inference.margin)
    found = replace(found, seeds_needed=narrow, seeds_to_show=show, left_out=sentences.left_out(without, found))
    return replace(found, notes=sentences.notes(found, results))
