"""The limits that findings are judged by, from thresholds.toml: each with its unit, its reason and its source."""

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from alexnet_lab.choices import unknown_choice


@dataclass(frozen=True)
class Limit:
    """One limit. Its text is what a finding prints as its threshold."""

    name: str
    value: float
    unit: str
    reason: str
    source: str

    def __str__(self) -> str:
        return f"{self.value:g} {self.unit}: {self.reason} ({self.source})"


@cache
def limits() -> dict[str, Limit]:
    """Return every limit by name."""
    values = tomllib.loads(Path(__file__).with_name("thresholds.toml").read_text())
    return {name: Limit(name, **fields) for name, fields in values.items()}


def limit(name: str) -> Limit:
    """Return one limit; an unknown name is answered with the nearest."""
    if name not in limits():
        raise unknown_choice("diagnosis limit", name, limits())
    return limits()[name]
