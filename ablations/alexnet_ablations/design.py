"""Factors and levels become cells: the networks that a study trains."""

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from alexnet_lab.levels import parse_level, published_level, split_levels
from alexnet_lab.training.recipe import Recipe, read_recipe

FACTORS: Mapping[str, str] = {
    "norm": "normalisation: lrn, bn, gn, none, with arguments (lrn:k=1, bn:after, gn:groups=16)",
    "act": "activation: relu, leaky, prelu, elu, gelu, silu, tanh, sigmoid, with arguments (leaky:0.2)",
    "dropout": "share of silenced values after fc6 and fc7",
    "preset": "reading of AlexNet: paper, source2012, caffe, caffenet, review, torchvision",
    "init": "initial values: he, torch, published",
    "batch_size": "images per step",
    "learning_rate": "learning rate at the start",
    "weight_decay": "weight decay",
}


@dataclass(frozen=True)
class Factor:
    """One field of the recipe and the levels it takes; the first is the baseline."""

    field: str
    levels: tuple[Any, ...]


@dataclass(frozen=True)
class Cell:
    """One combination of levels."""

    settings: tuple[tuple[str, Any], ...]

    @property
    def name(self) -> str:
        """Name the cell, fit for a folder: norm=bn,act=leaky."""
        return re.sub(r"[^\w.,=+-]", "_", ",".join(f"{field}={level}" for field, level in self.settings))

    def recipe(self, start: Recipe, seed: int) -> Recipe:
        """Return the recipe of this cell under that seed."""
        return read_recipe({**vars(start), **dict(self.settings), "seed": seed})


def read_factor(field: str, text: str, start: Recipe) -> Factor:
    """Read the levels to hold against the baseline, as in `bn,none`; the baseline itself is put first."""
    pieces = split_levels(text) if field in ("norm", "act") else [p for p in map(str.strip, text.split(",")) if p]
    if not pieces:
        raise ValueError(f"{_flag(field)} names no level; for example {_flag(field)} {_example(field)}")
    chosen = [_level(field, piece, start) for piece in pieces]
    twice = [level for level in chosen if chosen.count(level) > 1]
    if twice:
        raise ValueError(f"{_flag(field)} names {twice[0]} twice; name each level once")
    baseline = _baseline(field, start)
    others = [level for level in chosen if level != baseline]
    if not others:
        raise ValueError(
            f"{_flag(field)} {text} is the baseline itself; name another level, for example {_example(field)}"
        )
    return Factor(field, (baseline, *others))


def factorial(factors: Sequence[Factor]) -> list[Cell]:
    """Cross every level of every factor; the baseline cell comes first."""
    combinations = itertools.product(*(factor.levels for factor in factors))
    return [Cell(tuple(zip((f.field for f in factors), levels, strict=True))) for levels in combinations]


def _baseline(field: str, start: Recipe) -> Any:
    """Return what the starting recipe says of a field, or else what its network was published with."""
    value = getattr(start, field)
    if value is None:
        value = published_level(start.network, start.preset, field)
    if value is None:
        raise ValueError(
            f"{start.network} has no single published {field} to hold other levels against; leave {_flag(field)} out"
        )
    return _level(field, str(value), start)


def _level(field: str, text: str, start: Recipe) -> Any:
    if field in ("norm", "act"):
        return str(parse_level("norm" if field == "norm" else "act", text))
    kind = {"dropout": float, "learning_rate": float, "weight_decay": float, "batch_size": int}.get(field, str)
    try:
        value = kind(text)
    except ValueError:
        raise ValueError(f"{_flag(field)} takes numbers, for example {_example(field)}; got {text!r}") from None
    return getattr(read_recipe({**vars(start), field: value}), field)  # refuses what is out of range


def _flag(field: str) -> str:
    return "--" + field.replace("_", "-")


def _example(field: str) -> str:
    examples = {"norm": "bn,none", "act": "leaky:0.1,prelu", "dropout": "0.3", "preset": "review", "init": "published"}
    return examples.get(field, {"batch_size": "16,64", "learning_rate": "0.003"}.get(field, "0"))
