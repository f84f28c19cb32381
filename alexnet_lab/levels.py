"""Levels: what a slot can hold, written as text. Needs no torch.

A level is a name with optional arguments after a colon:

    lrn   lrn:k=1,alpha=1e-4   lrn:layers=1   lrn:pooled      local response normalisation
    bn    bn:after             bn:layers=1+2                  batch normalisation
    gn    gn:groups=32                                        group normalisation
    relu  leaky  leaky:0.2  prelu  elu:alpha=0.5              activations

Initial values are written alike: he, or he:bias=-0.3, with which units begin on the negative side.

Recipes, networks, studies and the command line know levels from NORMS and ACTIVATIONS alone. To add one, write its
entry there:

    "in": Norm("torch.nn:InstanceNorm2d", {"eps": Argument(float, above=0)}, rescales=True)

An entry that a script assigns serves that process only. The runs of a study are processes of their own.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from alexnet_lab.choices import unknown_choice

Slot = Literal["norm", "act"]
Layers = tuple[int, ...] | Literal["all"]  # convolutions, counted from 1
PLACEMENTS = ("before", "after", "pooled")  # before the activation, after it, or after the pool that follows it
FLOAT32_MAX = 3.4e38


@dataclass(frozen=True)
class Argument:
    """One argument of a level: its type and range, or its choices. Numbers are finite in float32."""

    kind: type[int] | type[float] | tuple[str, ...]
    at_least: float = -FLOAT32_MAX
    at_most: float = FLOAT32_MAX
    above: float | None = None
    keyword: str = ""  # the constructor's name for it, if that differs

    def read(self, name: str, text: str) -> int | float | str:
        """Read the value of the argument of that name; raise ValueError with what it must be."""
        if isinstance(self.kind, tuple):
            if text not in self.kind:
                raise unknown_choice(name, text, self.kind)
            return text
        try:
            value = self.kind(text)
        except ValueError:
            expected = "a whole number" if self.kind is int else "a number"
            raise ValueError(f"{name} must be {expected}, got {text!r}") from None
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{name} must be a finite number, got {text!r}")
        if self.above is not None and value <= self.above:
            raise ValueError(f"{name} must be above {self.above:g}, got {text!r}")
        if value < self.at_least:
            raise ValueError(f"{name} must be at least {self.at_least:g}, got {text!r}")
        if value > self.at_most:
            raise ValueError(f"{name} must be at most {self.at_most:g}, got {text!r}")
        return value


@dataclass(frozen=True)
class Entry:
    """What a level builds. The constructor, "package.module:name" or what it names, takes the arguments by keyword.

    The first argument needs no name in a level's text: leaky:0.2 is leaky:slope=0.2.
    """

    constructor: str | Callable[..., Any]
    arguments: Mapping[str, Argument] = field(default_factory=dict)


@dataclass(frozen=True)
class Norm(Entry):
    """A norm. Its constructor takes the number of channels first.

    placement   one of PLACEMENTS, where the level's text names none
    layers      the convolutions that it follows, where the text names none; a norm of no layer takes neither
    has_bias    it adds a bias to each channel, so that a convolution right before it needs none
    rescales    its output has a spread of 1 whatever the spread of its input
    """

    placement: str = "before"
    layers: Layers = "all"
    has_bias: bool = False
    rescales: bool = False


NORMS: dict[str, Norm] = {
    "lrn": Norm(
        "alexnet_lab.networks.slots:lrn",
        {
            "size": Argument(int, at_least=1, at_most=10_000),
            "alpha": Argument(float, at_least=0),
            "beta": Argument(float, at_least=0),
            "k": Argument(float, above=0),  # at 0, neighbours that are all 0 would be divided by 0
            "window": Argument(("mean", "sum")),
            "groups": Argument(int, at_least=1),
        },
        placement="after",
        layers=(1, 2),
    ),
    "bn": Norm(
        "torch.nn:BatchNorm2d",
        {"eps": Argument(float, above=0), "momentum": Argument(float, at_least=0, at_most=1)},
        has_bias=True,
        rescales=True,
    ),
    "gn": Norm(
        "alexnet_lab.networks.slots:group_norm",
        {"groups": Argument(int, at_least=1), "eps": Argument(float, above=0)},
        has_bias=True,
        rescales=True,
    ),
    "none": Norm("torch.nn:Identity", layers=()),
}

ACTIVATIONS: dict[str, Entry] = {
    "relu": Entry("torch.nn:ReLU"),
    "leaky": Entry("torch.nn:LeakyReLU", {"slope": Argument(float, keyword="negative_slope")}),
    "prelu": Entry("torch.nn:PReLU", {"start": Argument(float, keyword="init")}),
    "elu": Entry("torch.nn:ELU", {"alpha": Argument(float)}),
    "gelu": Entry("torch.nn:GELU"),
    "silu": Entry("torch.nn:SiLU"),
    "tanh": Entry("torch.nn:Tanh"),
    "sigmoid": Entry("torch.nn:Sigmoid"),
    "relu6": Entry("torch.nn:ReLU6"),
    "hardswish": Entry("torch.nn:Hardswish"),
    "none": Entry("torch.nn:Identity"),
}

INITS = ("published", "he", "torch")

LEVELS: Mapping[Slot, Mapping[str, Entry]] = {"norm": NORMS, "act": ACTIVATIONS}


@dataclass(frozen=True)
class Level:
    """One level of a slot, parsed. None in `placement` or `layers` is the default of the level."""

    name: str
    arguments: tuple[tuple[str, int | float | str], ...] = ()
    placement: str | None = None
    layers: Layers | None = None

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
    entry = LEVELS[slot].get(name)
    if entry is None:
        raise unknown_choice(f"{slot} level", name, LEVELS[slot])
    can_be_placed = isinstance(entry, Norm) and bool(entry.layers)
    values: dict[str, Any] = {}
    for piece in filter(None, map(str.strip, tail.split(","))):
        key, equals, value = piece.partition("=")
        if not equals and can_be_placed and piece in PLACEMENTS:
            key, value = "placement", piece
        elif (
            not equals
            and entry.arguments
            and not (entry.arguments.keys() & values.keys())
            and _looks_like_number(piece)
        ):
            key, value = next(iter(entry.arguments)), piece
        elif not equals or key not in (*entry.arguments, *(["layers"] if can_be_placed else [])):
            raise unknown_choice(f"argument of {slot} level {name!r}", key, _written_choices(entry, can_be_placed))
        if key in values:
            raise ValueError(f"in level {text!r}: {key} is given twice")
        try:
            values[key] = _read_value(entry, key, value)
        except ValueError as error:
            raise ValueError(f"in level {text!r}: {error}") from None
    # In one order, so that two spellings of a level are equal.
    arguments = tuple((key, values[key]) for key in entry.arguments if key in values)
    return Level(name, arguments, values.get("placement"), values.get("layers"))


def parse_init(text: str) -> tuple[str, float | None]:
    """Read initial values: their name, and the bias of every layer or None for that of the name."""
    name, colon, tail = text.strip().partition(":")
    if name not in INITS:
        raise unknown_choice("init", name, INITS)
    if not colon:
        return name, None
    key, _, value = tail.partition("=")
    if key.strip() != "bias":
        raise unknown_choice(f"argument of init {name!r}", key, ["bias=..."])
    return name, float(Argument(float).read("bias", value.strip()))


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


def _read_value(entry: Entry, key: str, text: str) -> int | float | str | Layers:
    if key in entry.arguments:
        return entry.arguments[key].read(key, text)
    if key == "placement" or text == "all":
        return text
    number = Argument(int, at_least=1)
    return tuple(sorted({int(number.read(key, part)) for part in text.split("+")}))


def _written_choices(entry: Entry, can_be_placed: bool) -> list[str]:
    choices = [f"{key}=..." for key in entry.arguments]
    if can_be_placed:
        choices += [*PLACEMENTS, "layers=1+2", "layers=all"]
    return choices or ["(it takes no argument)"]


def _looks_like_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
