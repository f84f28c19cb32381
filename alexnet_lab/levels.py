"""Levels: what a slot can hold, written as text. Needs no torch.

A level is a name with optional arguments after a colon:

    lrn   lrn:k=1,alpha=1e-4   lrn:layers=1   lrn:pooled      local response normalisation
    bn    bn:after             bn:layers=1+2                  batch normalisation
    gn    gn:groups=32                                        group normalisation
    relu  leaky  leaky:0.2  prelu  elu:alpha=0.5              activations

networks/slots.py builds modules from them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from alexnet_lab.choices import unknown_choice

Slot = Literal["norm", "act"]
Argument = int | float | str

# Name -> argument -> type. The first argument needs no name: leaky:0.2 is leaky:slope=0.2.
LEVELS: Mapping[Slot, Mapping[str, Mapping[str, type]]] = {
    "norm": {
        "lrn": {"size": int, "alpha": float, "beta": float, "k": float, "window": str, "groups": int},
        "bn": {"eps": float, "momentum": float},
        "gn": {"groups": int, "eps": float},
        "none": {},
    },
    "act": {
        "relu": {},
        "leaky": {"slope": float},
        "prelu": {"start": float},
        "elu": {"alpha": float},
        "gelu": {},
        "silu": {},
        "tanh": {},
        "sigmoid": {},
        "relu6": {},
        "hardswish": {},
        "none": {},
    },
}
PLACEMENTS = ("before", "after", "pooled")  # before the activation, after it, or after the pool that follows it


@dataclass(frozen=True)
class Level:
    """One level of a slot, parsed. `layers` counts convolutions from 1; None is the default of the level."""

    name: str
    arguments: tuple[tuple[str, Argument], ...] = ()
    placement: str | None = None
    layers: tuple[int, ...] | Literal["all"] | None = None

    def __str__(self) -> str:
        parts = [f"{name}={value}" for name, value in self.arguments]
        if self.placement:
            parts.append(self.placement)
        if self.layers:
            parts.append("layers=" + ("all" if self.layers == "all" else "+".join(map(str, self.layers))))
        return self.name + (":" + ",".join(parts) if parts else "")


def parse_level(slot: Slot, text: str) -> Level:
    """Read one level; raise ValueError with the choices for an unknown name or a wrong argument."""
    name, _, tail = text.strip().partition(":")
    known = LEVELS[slot]
    if name not in known:
        raise unknown_choice(f"{slot} level", name, known)
    types = known[name]
    arguments: dict[str, Argument] = {}
    placement: str | None = None
    layers: tuple[int, ...] | Literal["all"] | None = None
    for piece in filter(None, map(str.strip, tail.split(","))):
        key, equals, value = piece.partition("=")
        if slot == "norm" and name != "none" and not equals and piece in PLACEMENTS:
            placement = piece
        elif slot == "norm" and name != "none" and key == "layers":
            layers = "all" if value == "all" else _layer_numbers(text, value)
        elif not equals and types and not arguments and _looks_like_number(piece):
            first = next(iter(types))
            arguments[first] = _number(text, first, piece, types[first])
        elif equals and key in types:
            arguments[key] = value if types[key] is str else _number(text, key, value, types[key])
        else:
            raise unknown_choice(f"argument of {slot} level {name!r}", key, _argument_choices(slot, name))
    _check_ranges(text, arguments)
    # In one order, so that two spellings of a level are equal.
    ordered = tuple((key, arguments[key]) for key in types if key in arguments)
    return Level(name, ordered, placement, layers)


def split_levels(text: str) -> list[str]:
    """Split `bn,lrn:k=1,alpha=1e-4,none` into its levels; an argument belongs to the level before it."""
    levels: list[str] = []
    for piece in filter(None, map(str.strip, text.split(","))):
        head, equals, _ = piece.partition("=")
        is_argument = (equals and ":" not in head) or piece in PLACEMENTS or _looks_like_number(piece)
        if levels and is_argument and ":" in levels[-1]:
            levels[-1] += "," + piece
        else:
            levels.append(piece)
    return levels


def _layer_numbers(level: str, text: str) -> tuple[int, ...]:
    return tuple(sorted(int(_number(level, "layers", part, int)) for part in text.split("+")))


def _argument_choices(slot: Slot, name: str) -> list[str]:
    choices = [f"{key}=..." for key in LEVELS[slot][name]]
    if slot == "norm" and name != "none":
        choices += [*PLACEMENTS, "layers=1+2", "layers=all"]
    return choices or ["(it takes no argument)"]


def _looks_like_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _number(level: str, key: str, text: str, kind: type) -> int | float:
    try:
        return int(text) if kind is int else float(text)
    except ValueError:
        wanted = "a whole number" if kind is int else "a number"
        raise ValueError(f"in level {level!r}, {key} must be {wanted}, got {text!r}") from None


def _check_ranges(level: str, arguments: Mapping[str, Argument]) -> None:
    for key in ("size", "groups"):
        if key in arguments and int(arguments[key]) < 1:
            raise ValueError(f"in level {level!r}, {key} must be at least 1, got {arguments[key]}")
    if "k" in arguments and float(arguments["k"]) <= 0:
        raise ValueError(f"in level {level!r}, k must be above 0 (at 0, neighbours that are all 0 divide by zero)")
    if "window" in arguments and arguments["window"] not in ("mean", "sum"):
        raise unknown_choice("LRN window", arguments["window"], ("mean", "sum"))
