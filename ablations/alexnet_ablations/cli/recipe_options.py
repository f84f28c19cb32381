"""Every field of the recipe as an option, written once: in training/recipe.py."""

import inspect
import types
import typing
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import typer
from pydantic.fields import FieldInfo

from alexnet_lab.training.recipe import NAMED, Recipe, named_recipe, read_recipe_file


def read_start(recipe: str) -> dict[str, Any]:
    """Return the fields that a named recipe or a TOML file sets."""
    path = Path(recipe)
    is_file = recipe not in NAMED and (path.suffix == ".toml" or path.exists())
    return read_recipe_file(path) if is_file else named_recipe(recipe)


def with_recipe_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command that ends in **given one option per field; those left out arrive as None."""
    own = [p for p in inspect.signature(command).parameters.values() if p.kind is not p.VAR_KEYWORD]
    options = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[
                _plain_type(field.type) | None,
                typer.Option(help=_help_of(field.name), show_default=_default_of(field.name)),
            ],
        )
        for field in fields(Recipe)
    ]
    command.__signature__ = inspect.Signature([*own, *options])  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in [*own, *options]}
    return command


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
