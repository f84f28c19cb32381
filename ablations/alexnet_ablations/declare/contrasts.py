"""A contrast: which cells stand against which, with what weight. What a design can estimate is a list of these."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from alexnet_ablations.declare.design import Cell, Factor, cells_of, level_text
from alexnet_ablations.declare.fractional import Fraction, smallest_fraction

Kind = Literal["effect", "interaction"]
Change = tuple[Factor, Any]  # a factor and the level that is held against its baseline


@dataclass(frozen=True)
class Contrast:
    """A weighted sum of cells; the weights add up to zero.

    Under each seed it has one value: the sum of weight times outcome over the cells it names. In a factorial, the
    effect of a level is the mean over all other levels of (level - baseline); in one-at-a-time it is one cell less the
    baseline cell; an interaction is what two changes together bring beyond the sum of each alone.
    """

    name: str  # norm: lrn → bn
    kind: Kind
    weights: Mapping[str, float]  # by Cell.name
    fields: tuple[str, ...]  # the factors it is about
    aliases: tuple[str, ...] = ()  # other effects that a fractional design cannot tell from this one
    # The other factors, each with the levels that the contrast is averaged over; empty where it holds them fixed.
    over: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)


def contrasts_of(design: str, factors: Sequence[Factor]) -> list[Contrast]:
    """Return what the design can estimate: effects first, then interactions of two."""
    cells = cells_of(design, factors)
    if design == "factorial":
        return _of_factorial(cells, factors)
    if design == "fractional":
        return _of_fraction(cells, factors, smallest_fraction(len(factors)))
    if design == "leave-one-out":
        return _of_leave_one_out(cells, factors)
    return [_against_baseline(cell, cells[0]) for cell in cells[1:]]


def limitations_of(design: str, factors: Sequence[Factor]) -> list[str]:
    """Return sentences about what a design cannot estimate."""
    if len(factors) == 1 and design != "fractional":
        return []
    if design == "factorial":
        more = "interactions of three parts or more are in the rows, and no effect is formed for them"
        return [f"Not estimated: {more}."] if len(factors) > 2 else []
    if design == "one-at-a-time":
        why = "no network here carries two changes at once, so whether they help or hinder each other stays open"
        return [f"Interactions cannot be estimated: {why}; --design factorial can tell."]
    if design == "leave-one-out":
        return [
            "Interactions cannot be estimated: each effect is what a change is worth when all the others are made, "
            "and may differ where they are not; --design factorial can tell."
        ]
    if design == "only":
        parts = " and ".join(factor.field for factor in factors)
        return [f"What each change is worth by itself cannot be said: {parts} change together; --design factorial can."]
    contrasts = contrasts_of(design, factors)
    sums = sum(" + " in contrast.name for contrast in contrasts)
    sentences = ["Each effect of one factor is free of interactions of two, and shares its number with those of three."]
    if not any(contrast.aliases for contrast in contrasts if contrast.kind == "effect"):
        sentences = ["Each effect of one factor is free of interactions of two and of three."]
    if sums:
        sentences.append(
            f"{sums} of the interactions are sums that this fraction cannot take apart: a × b + c × d means that one "
            "of them, or both, made the difference; --design factorial can tell."
        )
    return sentences


def _effect_name(factor: Factor, level: Any) -> str:
    return f"{factor.field}: {level_text(factor.levels[0])} → {level_text(level)}"


def _interaction_name(changes: Sequence[Change]) -> str:
    return " × ".join(f"{factor.field} {level_text(level)}" for factor, level in changes)


def _crossed(cells: Sequence[Cell], changes: Sequence[Change]) -> dict[str, float]:
    """Weigh the cells in which each of these factors is at its change (+) or its baseline (-), averaged over the rest.

    Plus and minus multiply, so that one change is (changed - baseline) and two are what they bring beyond each alone.
    """
    signs: dict[str, int] = {}
    for cell in cells:
        settings = dict(cell.settings)
        if all(settings[factor.field] in (factor.levels[0], level) for factor, level in changes):
            signs[cell.name] = math.prod(1 if settings[factor.field] == level else -1 for factor, level in changes)
    return {name: sign * 2 ** len(changes) / len(signs) for name, sign in signs.items()}


def _effect(
    cells: Sequence[Cell], factors: Sequence[Factor], change: Change, aliases: tuple[str, ...] = ()
) -> Contrast:
    factor, level = change
    weights, over = _crossed(cells, [change]), _others(factors, [factor.field])
    return Contrast(_effect_name(factor, level), "effect", weights, (factor.field,), aliases, over)


def _others(factors: Sequence[Factor], fields: Sequence[str]) -> dict[str, tuple[Any, ...]]:
    return {factor.field: factor.levels for factor in factors if factor.field not in fields}


def _of_factorial(cells: Sequence[Cell], factors: Sequence[Factor]) -> list[Contrast]:
    changes = [[(factor, level) for level in factor.changes] for factor in factors]
    effects = [_effect(cells, factors, change) for change in itertools.chain.from_iterable(changes)]
    interactions = []
    for one, other in itertools.combinations(changes, 2):
        for pair in itertools.product(one, other):
            about = tuple(factor.field for factor, _ in pair)
            weights, over = _crossed(cells, pair), _others(factors, about)
            interactions.append(Contrast(_interaction_name(pair), "interaction", weights, about, over=over))
    return [*effects, *interactions]


def _of_fraction(cells: Sequence[Cell], factors: Sequence[Factor], fraction: Fraction) -> list[Contrast]:
    changes: list[Change] = [(factor, factor.changes[0]) for factor in factors]
    effects, interactions = [], []
    for group in fraction.aliased(order=3).values():
        first, alike = group[0], [one for one in group[1:] if len(one) == len(group[0])]
        # Two effects in one group have opposite signs where an odd number of factors stands in only one of them.
        further = tuple(
            ("" if len(set(one) ^ set(first)) % 2 == 0 else "−") + _interaction_name([changes[at] for at in one])
            for one in group[1:]
            if one not in alike
        )
        if len(first) == 1:
            effects.append(_effect(cells, factors, changes[first[0]], further))
        elif len(first) == 2:
            name = " + ".join(_interaction_name([changes[at] for at in one]) for one in (first, *alike))
            about = dict.fromkeys(factors[at].field for one in (first, *alike) for at in one)
            weights, over = _crossed(cells, [changes[at] for at in first]), _others(factors, list(about))
            interactions.append(Contrast(name, "interaction", weights, tuple(about), further, over))
    return [*effects, *interactions]


def _of_leave_one_out(cells: Sequence[Cell], factors: Sequence[Factor]) -> list[Contrast]:
    baseline, full, *without = cells
    effects = [
        Contrast(
            f"{_effect_name(factor, factor.changes[0])}, all else changed",
            "effect",
            {full.name: 1.0, cell.name: -1.0},
            (factor.field,),
        )
        for factor, cell in zip(factors, without, strict=True)
    ]
    together = {full.name: 1.0, baseline.name: -1.0}
    return [*effects, Contrast("all changes together", "effect", together, tuple(f.field for f in factors))]


def _against_baseline(cell: Cell, baseline: Cell) -> Contrast:
    changed = [(field, old, new) for (field, old), (_, new) in zip(baseline.settings, cell.settings, strict=True)]
    changed = [(field, old, new) for field, old, new in changed if old != new]
    name = ", ".join(f"{field}: {level_text(old)} → {level_text(new)}" for field, old, new in changed)
    return Contrast(name, "effect", {cell.name: 1.0, baseline.name: -1.0}, tuple(field for field, *_ in changed))
