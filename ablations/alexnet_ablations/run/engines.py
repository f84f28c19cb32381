"""The engines by name: where the runs of a study can be placed, as flags and study files say it.

    read_engine("slurm", {"partition": "gpu", "time": "4h"})

An option of the command line belongs to the engine whose field it is.
"""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from alexnet_ablations.run.executors import Engine
from alexnet_ablations.run.executors.local import Local
from alexnet_ablations.run.executors.ray import Ray
from alexnet_ablations.run.executors.slurm import Slurm
from alexnet_lab.choices import unknown_choice

ENGINES: dict[str, type[Engine]] = {"local": Local, "ray": Ray, "slurm": Slurm}


def options_of(name: str) -> dict[str, Any]:
    """Return the options of an engine by name, each with its field."""
    return {field.name: field for field in fields(ENGINES[name])}  # type: ignore[arg-type]  # an engine is a dataclass


def read_engine(name: str = "local", options_given: Mapping[str, Any] | None = None) -> Engine:
    """Return the engine of that name with these options; an unknown one, or an option of another, is refused."""
    if name not in ENGINES:
        raise unknown_choice("executor", name, ENGINES)
    options = options_of(name)
    for word, value in (options_given or {}).items():
        if word not in options:
            owner = next((other for other in ENGINES if word in options_of(other)), None)
            if owner is None:
                raise unknown_choice(f"option of executor {name}", word, options)
            flag = f"--{word.replace('_', '-')}"
            raise ValueError(
                f"{flag} is an option of executor {owner}, and got executor {name}; add --executor {owner}"
            )
        _check_kind(word, value, several=options[word].default == ())
    values = {word: tuple(value) if isinstance(value, list) else value for word, value in (options_given or {}).items()}
    return ENGINES[name](**values)


def read_table(table: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return name and options of an engine from the table [executor] of a study file."""
    name = table.get("name")
    if not isinstance(name, str):
        raise ValueError(f"[executor] must have a name, one of {', '.join(ENGINES)}; got {name!r}")  # noqa: TRY004  # a mistake in a file ends as one line
    return name, {word.replace("-", "_"): value for word, value in table.items() if word != "name"}


def _check_kind(word: str, value: Any, *, several: bool) -> None:
    texts = value if isinstance(value, list | tuple) else [value]
    if several == isinstance(value, list | tuple) and all(isinstance(text, str) and text for text in texts):
        return
    expected = "a list of texts" if several else "text"
    raise ValueError(f"{word} must be {expected}, got {value!r}")
