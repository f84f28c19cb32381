"""Every field of the recipe as an option, written once: in training/recipe.py."""

import inspect
import types
import typing
from collections.abc import Callable
from dataclasses import fields
from typing import Annotated, Any, Literal, get_args, get_origin

import typer
from pydantic.fields import FieldInfo

from alexnet_ablations.declare.declaration import FACTORS
from alexnet_lab.training.recipe import Recipe

# Of the factors, the first in the list.
FIRST = ("network", "preset", "norm", "act", "dropout", "batch_size", "learning_rate")


def with_recipe_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command that ends in **given one option per field; those left out arrive as None."""
    return _with_options(
        command,
        [
            _option(field.name, _plain_type(field.type), _help_of(field.name), _default_of(field.name))
            for field in fields(Recipe)
        ],
    )


def with_study_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command that ends in **given one option per field: levels as text, or one value where all cells agree."""
    panels = {True: "What to change: levels, separated by commas", False: "The same for all cells"}
    chosen = [field for field in fields(Recipe) if field.name != "seed"]
    chosen.sort(key=lambda field: field.name not in FIRST)  # those that most studies name
    return _with_options(
        command,
        [
            _option(
                field.name,
                str if field.name in FACTORS else _plain_type(field.type),
                _help_of(field.name),
                "all cores, shared" if field.name == "threads" else _default_of(field.name),
                panels[field.name in FACTORS],
            )
            for field in chosen
        ],
    )


def _with_options(command: Callable[..., None], options: list[inspect.Parameter]) -> Callable[..., None]:
    own = [p for p in inspect.signature(command).parameters.values() if p.kind is not p.VAR_KEYWORD]
    command.__signature__ = inspect.Signature([*own, *options])  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in [*own, *options]}
    return command


def _option(name: str, kind: Any, text: str, default: str | bool, panel: str | None = None) -> inspect.Parameter:
    option = typer.Option(help=text, show_default=default, rich_help_panel=panel)
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
    known: dict[str, FieldInfo] = Recipe.__pydantic_fields__  # type: ignore[attr-defined]  # pydantic adds it
    return known[name]


def _help_of(name: str) -> str:
    info = _info_of(name)
    choices = get_args(info.annotation) if get_origin(info.annotation) is Literal else ()
    return f"{info.description}" + (f" ({', '.join(choices)})" if choices else "")


def _default_of(name: str) -> str | bool:
    if name in ("threads", "device"):
        return {"threads": "all cores", "device": "cuda if there is one"}[name]
    default = _info_of(name).default
    if default is None:
        return "published"
    return str(default) if default not in ("", False) else False
