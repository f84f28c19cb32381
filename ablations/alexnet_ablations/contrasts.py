"""A contrast: which cells stand against which, with what weight. What a design can estimate is a list of these."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Kind = Literal["effect", "interaction"]


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
