"""The options that ablate and study share: a field of StudyOptions is an option of both.

A command takes them as one parameter, `how: StudyOptions`, and plan_run_conclude reads what they say. The options of
engines come from the engines themselves (run/engines.py).
"""

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alexnet_ablations.run.engines import ENGINES, options_of, read_engine, read_table
from alexnet_ablations.run.executors import Engine

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
        help="Differences in test accuracy below this are too small to matter; of findings in AUROC, such as 0.01.",
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
Within = Annotated[
    str | None,
    typer.Option(
        metavar="TIME",
        help="Tune with as many points as fit into 30m or 2h.",
        show_default="8 points a field",
        rich_help_panel="Study",
    ),
]
Folds = Annotated[
    int | None,
    typer.Option(
        metavar="K",
        help="Each seed tests every image once, in K folds of its own: 5.",
        show_default="one test part for all seeds",
        rich_help_panel="Study",
    ),
]
Resplit = Annotated[
    bool,
    typer.Option(
        "--resplit", help="Each seed draws its own training, validation and test images.", rich_help_panel="Study"
    ),
]
IsQuiet = Annotated[bool, typer.Option("--quiet", help="Print nothing but errors.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print lines of JSON.")]


@dataclass(frozen=True)
class EngineWords:
    """Where runs are placed, as flags say it: the name of an engine, and those of its options that were named."""

    name: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def engine(self, table: Mapping[str, Any] | None = None) -> Engine:
        """Return the engine; a study file's table [executor] holds where flags say nothing else."""
        name, options = read_table(table) if table is not None else ("local", {})
        if self.name is not None and self.name != name:
            name, options = self.name, {}
        return read_engine(name, {**options, **self.options})


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
    within: Within = None
    folds: Folds = None
    resplit: Resplit = False
    margin: Margin = None
    level: Level = None
    jobs: Jobs = None
    timeout: Timeout = None
    where: EngineWords = field(default_factory=EngineWords)

    @property
    def is_silent(self) -> bool:
        """Return whether nothing is printed for people."""
        return self.quiet or self.as_json


def with_shared_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command whose parameter `how` takes StudyOptions one option for each of their fields."""
    shared = [field for field in fields(StudyOptions) if field.name != "where"]

    def run(**arguments: Any) -> None:
        chosen = {field.name: arguments.pop(field.name) for field in shared}
        check(chosen["timeout"], chosen["margin"], chosen["level"])
        command(how=StudyOptions(**chosen, where=arguments.pop("where")), **arguments)

    options = [_parameter(field.name, field.default, field.type) for field in shared]
    run.__signature__ = _replaced(command, "how", [*options, _parameter("where", None, EngineWords)])  # type: ignore[attr-defined]
    run.__name__, run.__doc__ = command.__name__, command.__doc__
    return with_engine_options(run)


def with_engine_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command whose parameter `where` takes EngineWords the option --executor, and those of every engine."""
    names = [name for engine in ENGINES for name in options_of(engine)]

    def run(**arguments: Any) -> None:
        words = {name: value for name in names if (value := arguments.pop(name))}
        command(where=EngineWords(arguments.pop("executor"), words), **arguments)

    options = [_parameter("executor", None, Annotated[str | None, _engine_option()])]
    for engine in ENGINES:
        for name, option in options_of(engine).items():
            kind = list[str] | None if option.default == () else str | None
            typer_option = typer.Option(rich_help_panel="Machine", show_default=False, **option.metadata)
            options.append(_parameter(name, None, Annotated[kind, typer_option]))
    signature = _replaced(command, "where", options)
    run.__signature__ = signature  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in signature.parameters.values()}
    run.__name__, run.__doc__ = command.__name__, command.__doc__
    return run


def _engine_option() -> Any:
    return typer.Option(
        metavar="NAME",
        help=f"Where runs are made: {', '.join(ENGINES)}.",
        show_default="local",
        rich_help_panel="Machine",
    )


def _parameter(name: str, default: Any, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _replaced(command: Callable[..., None], name: str, options: list[inspect.Parameter]) -> inspect.Signature:
    """Return the signature of a command with options in place of one parameter."""
    own = inspect.signature(command)
    parameters: list[inspect.Parameter] = []
    for parameter in own.parameters.values():
        parameters += options if parameter.name == name else [parameter.replace(kind=_kind(parameter))]
    return own.replace(parameters=parameters)


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
