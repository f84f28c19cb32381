"""Every field of the recipe as an option, in panels; the fields themselves are in training/recipe.py."""

import inspect
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import Field, fields
from typing import Annotated, Any, Literal, get_args, get_origin

import typer
from pydantic.fields import FieldInfo

from alexnet_ablations.declare.declaration import FACTORS
from alexnet_lab.training.recipe import Recipe

# The panels of --help, in their order: each begins at a field of the recipe and has those that follow it there.
PANELS: Mapping[str, str | None] = {
    "network": "Network",
    "weights": "Transfer",
    "data": "Data",
    "epochs": "Optimisation",
    "instruments": "Instruments",
    "precision": "Machine",
    "seed": None,  # among the command's own options
}
ORDER = (None, "Study", *dict.fromkeys(panel for panel in PANELS.values() if panel))
LEVELS = "LEVELS"  # what an option takes that ablate varies: one level or several


def with_recipe_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command that ends in **given one option per field; those left out arrive as None."""
    return _with_options(
        command,
        [
            _option(field.name, _plain_type(field.type), _default_of(field.name), panel)
            for field, panel in _fields_with_panels()
        ],
    )


def with_study_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command that ends in **given one option per field: levels as text, or one value where all cells agree."""
    return _with_options(
        command,
        [
            _option(field.name, str, _default_of(field.name), panel, LEVELS)
            if field.name in FACTORS
            else _option(
                field.name,
                _plain_type(field.type),
                "all cores, shared" if field.name == "threads" else _default_of(field.name),
                panel,
            )
            for field, panel in _fields_with_panels()
            if field.name != "seed"
        ],
    )


def _fields_with_panels() -> list[tuple[Field[Any], str | None]]:
    panel, pairs = None, []
    for field in fields(Recipe):
        panel = PANELS.get(field.name, panel)
        pairs.append((field, panel))
    return pairs


def _with_options(command: Callable[..., None], options: list[inspect.Parameter]) -> Callable[..., None]:
    own = [p for p in inspect.signature(command).parameters.values() if p.kind is not p.VAR_KEYWORD]
    # Panels are shown in the order in which their first options come.
    parameters = sorted([*own, *options], key=lambda parameter: ORDER.index(_panel_of(parameter)))
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    return command


def _panel_of(parameter: inspect.Parameter) -> str | None:
    panel: str | None = get_args(parameter.annotation)[1].rich_help_panel
    return panel


def _option(
    name: str, kind: Any, default: str | bool, panel: str | None, metavar: str | None = None
) -> inspect.Parameter:
    option = typer.Option(help=_help_of(name), show_default=default, rich_help_panel=panel, metavar=metavar)
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, option]
    )


def _plain_type(annotated: Any) -> Any:
    """Strip what only pydantic reads: checks, unions with None, and literals, which the recipe checks itself."""
    origin = get_origin(annotated)
    if origin is Annotated:
        return _plain_type(get_args(annotated)[0])
    if origin in (types.UnionType, typing.Union):
        return _plain_type(next(part for part in get_args(annotated) if part is not type(None)))
    return str if origin is Literal else annotated


def _info_of(name: str) -> FieldInfo:
    infos: dict[str, FieldInfo] = Recipe.__pydantic_fields__  # type: ignore[attr-defined]  # pydantic adds it
    return infos[name]


def _help_of(name: str) -> str:
    info = _info_of(name)
    choices = get_args(info.annotation) if get_origin(info.annotation) is Literal else ()
    return f"{info.description}" + (f" ({', '.join(choices)})" if choices else "")


def _default_of(name: str) -> str | bool:
    if name in ("threads", "device"):
        return {"threads": "all cores", "device": "cuda if available"}[name]
    default = _info_of(name).default
    if default is None:
        return "published"
    return str(default) if default not in ("", False) else False
