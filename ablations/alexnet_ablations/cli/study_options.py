"""The options that ablate and study share: a field of StudyOptions is an option of both.

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

RUN_LIMIT = 200  # runs that a command makes without --yes

# Of retry and report, too.
Jobs = Annotated[
    int | None,
    typer.Option(min=1, help="Runs side by side.", show_default="as many as fit", rich_help_panel="Machine"),
]
Timeout = Annotated[
    float | None,
    typer.Option(metavar="MINUTES", help="Time limit of a run.", show_default="none", rich_help_panel="Machine"),
]
Track = Annotated[
    list[str] | None,
    typer.Option(metavar="TRACKER", help="Copy all numbers to tensorboard:DIR or mlflow:ADDRESS, too."),
]
Margin = Annotated[
    float | None,
    typer.Option(
        metavar="POINTS",
        help="Differences in test accuracy below this are too small to matter.",
        show_default="0.5",
        rich_help_panel="Study",
    ),
]
Level = Annotated[
    float | None,
    typer.Option(
        metavar="SHARE",
        help="Validation accuracy up to which epochs are counted, such as 0.9.",
        show_default="nine tenths of the baseline's best",
        rich_help_panel="Study",
    ),
]
Tune = Annotated[
    str | None,
    typer.Option(
        metavar="FIELD=LOW..HIGH,...:POINTS",
        help="Choose these values for each cell on validation first: learning_rate:8.",
        show_default="all cells share the recipe's",
        rich_help_panel="Study",
    ),
]
IsQuiet = Annotated[bool, typer.Option("--quiet", help="Print nothing but errors.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print lines of JSON.")]


@dataclass(frozen=True)
class StudyOptions:
    """How a study is run, and what is concluded from it, whatever it compares."""

    plan: Annotated[
        bool, typer.Option("--plan", help="Print runs, time, disk and detectable effects; train nothing.")
    ] = False
    save: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the study as a file for alexnet-lab study.")
    ] = None
    yes: Annotated[int, typer.Option(min=1, metavar="RUNS", help="Allow that many runs.")] = RUN_LIMIT
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Study folder.", show_default="runs/<name of the study>")
    ] = None
    quiet: IsQuiet = False
    as_json: AsJson = False
    track: Track = None
    tune: Tune = None
    margin: Margin = None
    level: Level = None
    jobs: Jobs = None
    timeout: Timeout = None

    @property
    def is_silent(self) -> bool:
        """Return whether nothing is printed for people."""
        return self.quiet or self.as_json


def with_shared_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command whose parameter `how` takes StudyOptions one option for each of their fields."""
    own = inspect.signature(command)
    names = [field.name for field in fields(StudyOptions)]

    def run(**given: Any) -> None:
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
    run.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    run.__name__, run.__doc__ = command.__name__, command.__doc__
    return run


def _kind(parameter: inspect.Parameter) -> Any:
    return parameter.kind if parameter.kind is parameter.VAR_KEYWORD else parameter.KEYWORD_ONLY


def check(timeout: float | None = None, margin: float | None = None, level: float | None = None) -> None:
    """Refuse numbers out of range before anything is trained for them."""
    if timeout is not None and not 0 < timeout < math.inf:
        raise ValueError(f"--timeout takes minutes above 0, got {timeout:g}; leave it out for no limit")
    if margin is not None and not 0 < margin < math.inf:
        raise ValueError(f"--margin takes points above 0, got {margin:g}; name the smallest effect that matters")
    if level is not None and not 0 < level <= 1:
        raise ValueError(f"--level takes a share above 0 and up to 1, got {level:g}; for example 0.9 for 90%")


def open_sinks(track: list[str] | None) -> "list[Sink]":
    """Open the trackers that were named; an unknown one is refused."""
    if not track:
        return []
    from alexnet_ablations.run.trackers import open_sink

    return [open_sink(text) for text in track]
