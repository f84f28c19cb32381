"""The options that ablate and study share, each written once: a field here is an option of both.

A command takes them as one parameter, `how: StudyOptions`, and plan_run_conclude reads what they say.
"""

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from alexnet_ablations.run.trackers import Sink

RUN_LIMIT = 200  # runs that a command makes without being told that so many are meant

# Of retry and report, too.
Jobs = Annotated[int | None, typer.Option(min=1, help="Runs side by side.", show_default="what fits")]
Timeout = Annotated[float | None, typer.Option(help="Minutes a run may take.", show_default="no limit")]
Track = Annotated[
    list[str] | None,
    typer.Option(metavar="TRACKER", help="Copy all numbers to tensorboard:DIR or mlflow:ADDRESS, too."),
]
Margin = Annotated[
    float | None,
    typer.Option(metavar="POINTS", help="Test accuracy too small to matter, such as 1.", show_default="0.5"),
]
Level = Annotated[
    float | None,
    typer.Option(
        metavar="SHARE",
        help="Validation accuracy to count epochs to, such as 0.9.",
        show_default="nine tenths of the baseline's best",
    ),
]
IsQuiet = Annotated[bool, typer.Option("--quiet", help="Print nothing but errors.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print lines of JSON.")]


@dataclass(frozen=True)
class StudyOptions:
    """How a study is carried out, and what is said of it, whatever it compares."""

    plan: Annotated[bool, typer.Option("--plan", help="Say what it costs and can show; train nothing.")] = False
    save: Annotated[Path | None, typer.Option(help="Write the study as a file for alexnet-lab study.")] = None
    jobs: Jobs = None
    yes: Annotated[int, typer.Option(min=1, help="Allow up to so many runs.")] = RUN_LIMIT
    timeout: Timeout = None
    margin: Margin = None
    level: Level = None
    track: Track = None
    out: Annotated[Path | None, typer.Option(help="Study folder.", show_default="runs/<name of the study>")] = None
    quiet: IsQuiet = False
    as_json: AsJson = False

    @property
    def is_silent(self) -> bool:
        """Say whether people read nothing of it."""
        return self.quiet or self.as_json


def with_shared_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command whose parameter `how` takes StudyOptions one option for each of their fields."""
    own = inspect.signature(command)
    names = [field.name for field in fields(StudyOptions)]

    def told(**given: Any) -> None:
        chosen = {name: given.pop(name) for name in names}
        check(chosen["timeout"], chosen["margin"], chosen["level"])
        command(how=StudyOptions(**chosen), **given)

    options = [
        inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=field.type)
        for field in fields(StudyOptions)
    ]
    parameters: list[inspect.Parameter] = []
    for parameter in own.parameters.values():
        parameters += options if parameter.name == "how" else [parameter.replace(kind=_kind(parameter))]
    told.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
    told.__annotations__ = {p.name: p.annotation for p in parameters}
    told.__name__, told.__doc__ = command.__name__, command.__doc__
    return told


def _kind(parameter: inspect.Parameter) -> Any:
    return parameter.kind if parameter.kind is parameter.VAR_KEYWORD else parameter.KEYWORD_ONLY


def check(timeout: float | None = None, margin: float | None = None, level: float | None = None) -> None:
    """Refuse numbers that can say nothing, before anything is trained for them."""
    if timeout is not None and not 0 < timeout < math.inf:
        raise ValueError(f"--timeout takes minutes above 0, got {timeout:g}; leave it out for no limit")
    if margin is not None and not 0 < margin < math.inf:
        raise ValueError(f"--margin takes points above 0, got {margin:g}; name the smallest effect that matters")
    if level is not None and not 0 < level <= 1:
        raise ValueError(f"--level takes a share above 0 and up to 1, got {level:g}; for example 0.9 for 90%")


def open_sinks(track: list[str] | None) -> "list[Sink]":
    """Open the trackers that were named; a name that is none is refused."""
    if not track:
        return []
    from alexnet_ablations.run.trackers import open_sink

    return [open_sink(text) for text in track]
