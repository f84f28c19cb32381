"""A recipe is one run, whole: network, slots, data, schedule, seed.

Same recipe, same code, same data: same numbers, bit for bit on one machine. The defaults are the laptop recipe, under
which every level learns in seconds on a processor; docs/architecture.md says how they were chosen.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from alexnet_lab.choices import unknown_choice
from alexnet_lab.levels import NETWORKS, PRESETS, parse_level


def _norm(text: str) -> str:
    return str(parse_level("norm", text))


def _act(text: str) -> str:
    return str(parse_level("act", text))


def _one_of(what: str, choices: Mapping[str, str]) -> AfterValidator:
    def check(name: str) -> str:
        if name not in choices:
            raise unknown_choice(what, name, choices)
        return name

    return AfterValidator(check)


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Recipe:
    """One run. None in a slot means as published."""

    network: Annotated[str, _one_of("network", NETWORKS)] = "alexnet"
    preset: Annotated[str, _one_of("AlexNet preset", PRESETS)] | None = "paper"
    norm: Annotated[str, AfterValidator(_norm)] | None = None
    act: Annotated[str, AfterValidator(_act)] | None = None
    dropout: Annotated[float, Field(ge=0, lt=1)] | None = None
    # A quarter of the channels at 67 pixels, the smallest side that every preset takes: 1 pixel is left behind pool5.
    width: Annotated[float, Field(gt=0)] = 0.25
    image_size: Annotated[int, Field(ge=1)] = 67
    # The 2012 start, N(0, .01), belongs to full width and inputs of 0 to 255; on these it stays at chance.
    init: Literal["published", "he", "torch"] = "he"
    input_scale: Literal["unit", "pixels"] = "unit"

    data: str = "digits"
    split_seed: int = 0

    epochs: Annotated[int, Field(ge=1)] = 10
    batch_size: Annotated[int, Field(ge=1)] = 32
    learning_rate: Annotated[float, Field(gt=0)] = 0.01  # of SGD, per step; falls to 0 along a half cosine
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4  # paper, 5; not on biases and norms

    seed: int = 0
    threads: Annotated[int, Field(ge=1)] = 1  # part of the recipe: sums depend on it in the last bit

    def to_json(self) -> str:
        """Write every field."""
        return json.dumps(asdict(self), indent=2)

    def identity(self, data_fingerprint: str) -> str:
        """Return the digest that names this run: every field, and the data's fingerprint."""
        text = json.dumps(asdict(self), sort_keys=True) + data_fingerprint
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


_adapter = TypeAdapter(Recipe)


def read_recipe(values: Mapping[str, Any]) -> Recipe:
    """Check values from a file or a command line; an error names the field, what was received, and what would do."""
    known = [field.name for field in fields(Recipe)]
    for name in values:
        if name not in known:
            raise unknown_choice("recipe field", name, known)
    try:
        return _adapter.validate_python(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        message = first["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
        raise ValueError(f"{first['loc'][0]}: {message} (got {first['input']!r})") from None
