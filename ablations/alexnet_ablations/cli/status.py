"""alexnet-lab status and retry: the status of a study or a run, and failed runs once more."""

import json
import re
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from alexnet_ablations.cli.study_options import (
    AsJson,
    EngineWords,
    IsQuiet,
    Jobs,
    Timeout,
    Track,
    check,
    open_sinks,
    with_engine_options,
)
from alexnet_lab.choices import unknown_choice
from alexnet_lab.progress import about_left
from alexnet_lab.terminal import open_console

if TYPE_CHECKING:
    from alexnet_ablations.declare.status import RunStatus, Sighting

COLOURS = {"ok": "green", "diverged": "yellow", "running": "cyan", "waiting": "dim"}
# So many groups of failures, and runs in progress, are listed before the rest is only counted.
LISTED = 12


def status(
    folder: Annotated[Path, typer.Argument(help="A study's folder, or a single run's.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one object of JSON.")] = False,
) -> None:
    """Show which runs of a study ended and how, which are running, which wait.

    [bold]alexnet-lab status runs/digits_norm-bn[/]        a study, in any state
    [bold]alexnet-lab status runs/digits-alexnet-1f0c[/]   a single run

    It only reads, and does not disturb a study that is running.
    """
    console = open_console()
    if (folder / "study.toml").exists() or (folder / "runs").is_dir():
        _show_study(console, folder, as_json)
    elif (folder / "recipe.json").exists():
        _show_run(console, folder, as_json)
    else:
        raise ValueError(f"{folder} is neither a study (study.toml, runs/) nor a run (recipe.json); name one of them")


@with_engine_options
def retry(
    folder: Annotated[Path, typer.Argument(help="A study's folder.")],
    state: Annotated[
        str, typer.Option(help="States to make again: oom, error, timeout, lost, damaged, diverged, waiting.")
    ] = "oom,error,timeout,lost,damaged",
    jobs: Jobs = None,
    timeout: Timeout = None,
    track: Track = None,
    quiet: IsQuiet = False,
    as_json: AsJson = False,
    *,
    where: EngineWords,
) -> None:
    """Make the runs of a study again that failed, or that ended in a given state.

    [bold]alexnet-lab retry runs/digits_norm-bn[/]          all that failed
    [bold]alexnet-lab retry runs/digits_norm-bn --state oom --jobs 1[/]
    [bold]alexnet-lab retry runs/digits_norm-bn --state timeout --timeout 60[/]
    [bold]alexnet-lab retry runs/digits_norm-bn --track tensorboard:tb[/]
    [bold]alexnet-lab retry runs/digits_norm-bn --executor slurm --partition gpu[/]

    A run with a checkpoint continues from it. A run that diverged diverges
    again, with the same numbers, unless the code has changed.
    """
    from alexnet_ablations.cli.run_study import make
    from alexnet_ablations.declare.status import RETRIED, statuses
    from alexnet_ablations.declare.study import read_study
    from alexnet_ablations.run.coordinator import refuse_if_coordinated
    from alexnet_ablations.tune.searches import every_run

    console = open_console()
    check(timeout)
    sinks = open_sinks(track)
    engine = where.engine()
    chosen = [name for name in map(str.strip, state.split(",")) if name]
    for name in chosen or [state]:
        if name not in (*RETRIED, "waiting"):
            raise unknown_choice("state to retry", name, (*RETRIED, "waiting"))
    if not (folder / "study.toml").exists():
        raise ValueError(
            f"{folder} holds no study.toml; name the folder of a study (--out of the command that made it)"
        )
    refuse_if_coordinated(folder)
    study = read_study(folder / "study.toml", folder)
    runs = every_run(study)
    run_statuses = statuses(runs, sightings_of(folder))
    again = [run for run, run_status in zip(runs, run_statuses, strict=True) if run_status.state in chosen]
    if not again:
        if not quiet and not as_json:
            console.print(_nothing_to_retry(chosen, run_statuses), highlight=False, soft_wrap=True)
        return
    if not quiet and not as_json:
        console.print(f"{len(again)} of {len(runs)} runs again: those that are {', '.join(chosen)}", highlight=False)
    make(
        console,
        study,
        again,
        jobs,
        timeout=timeout,
        repeat=True,
        quiet=quiet,
        as_json=as_json,
        sinks=sinks,
        engine=engine,
    )


def _nothing_to_retry(chosen: "Sequence[str]", run_statuses: "Sequence[RunStatus]") -> str:
    """Say that no run is in the chosen states, which runs there are, and what makes those that wait."""
    from alexnet_ablations.declare.status import FAILED

    count = len(run_statuses)
    if all(run_status.state == "ok" for run_status in run_statuses):
        return f"nothing to retry: all {count} runs ended well"
    condition = "failed" if set(chosen) == set(FAILED) else f"is {' or '.join(chosen)}"
    text = f"nothing to retry: none of the {count} runs {condition} ({_counts(run_statuses)})"
    if "waiting" not in chosen and any(run_status.state == "waiting" for run_status in run_statuses):
        text += "; the command that began this study makes those that wait, and so does --state waiting"
    return text


def _show_study(console: Console, folder: Path, as_json: bool) -> None:
    from alexnet_ablations.declare.status import coordinator_of

    coordinator = coordinator_of(folder)
    complaint, run_statuses, epochs = _read(folder, is_coordinated=coordinator is not None)
    time_left = _left(run_statuses, epochs) if coordinator else None
    if as_json:
        rows = [_facts(run_status) for run_status in run_statuses]
        facts = {"folder": str(folder), "coordinator": coordinator, "seconds_left": time_left, "runs": rows}
        print(json.dumps({**facts, "complaint": complaint}))  # noqa: T201  # standard output is the interface
        return
    if complaint:
        warning = f"{complaint}; what follows is read from the run folders"
        console.print(warning, style="red", markup=False, highlight=False, soft_wrap=True)
    console.print(
        f"[bold]{escape(str(folder))}[/]: {len(run_statuses)} runs, {_counts(run_statuses)}",
        highlight=False,
        soft_wrap=True,
    )
    unfinished = sum(run_status.state in ("waiting", "lost") for run_status in run_statuses)
    if coordinator:
        console.print(f"at work: {coordinator}{about_left(time_left)}", markup=False, highlight=False, soft_wrap=True)
    elif queued := sum(bool(run_status.scheduler) for run_status in run_statuses):
        console.print(
            f"{queued} runs are in the hands of a scheduler, and go on by themselves; the command that began this\n"
            "study follows them, and concludes",
            markup=False,
            highlight=False,
        )
    elif unfinished:
        console.print(
            f"nobody is at work here: the command that began this study goes on with what is missing, and so does\n"
            f"  alexnet-lab retry {folder} --state lost,waiting",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
    if run_statuses:
        console.print(_table(run_statuses))
    _list_running(console, run_statuses, epochs)
    _list_queued(console, run_statuses)
    _list_failures(console, run_statuses)


def _read(folder: Path, *, is_coordinated: bool) -> tuple[str, "list[RunStatus]", int]:
    """Read all planned runs, or, where the declaration cannot be read, those that are there."""
    from alexnet_ablations.declare.status import found_runs, status_of, statuses
    from alexnet_ablations.declare.study import read_study
    from alexnet_ablations.tune.searches import searches_of, tuning_runs

    try:
        study = read_study(folder / "study.toml", folder)
    except (ValueError, OSError) as error:
        run_statuses = [status_of(run, cell, seed) for cell, seed, run in found_runs(folder)]
        return str(error), run_statuses, 0
    searches, sightings = searches_of(study), sightings_of(folder)
    cell_of = {run.cell.name: search.cell.name for search in searches for run in search.runs}
    of_searches = [
        replace(one, search_of=cell_of[one.cell])
        for one in statuses(tuning_runs(searches), sightings, is_coordinated=is_coordinated)
    ]
    of_comparison = statuses(study.runs(), sightings, is_coordinated=is_coordinated)
    return "", [*of_searches, *of_comparison], study.start.epochs


def _table(run_statuses: "Sequence[RunStatus]") -> Table:
    from alexnet_ablations.declare.status import STATES

    states = [state for state in STATES if any(run_status.state == state for run_status in run_statuses)]
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("cell", overflow="fold")
    for state in states:
        table.add_column(state, justify="right", header_style=COLOURS.get(state, "red"))
    of_cell: dict[str, Counter[str]] = defaultdict(Counter)
    for run_status in run_statuses:
        name = run_status.cell if run_status.search_of is None else f"tuning {run_status.search_of}"
        of_cell[name][run_status.state] += 1
    for cell, counts in of_cell.items():
        table.add_row(escape(cell), *(str(counts[state] or "") for state in states))
    return table


def _list_running(console: Console, run_statuses: "Sequence[RunStatus]", epochs: int) -> None:
    from alexnet_ablations.declare.status import share_done

    running = [run_status for run_status in run_statuses if run_status.state == "running"]
    for run_status in running[:LISTED]:
        total = run_status.progress.get("epochs", epochs)
        accuracy = f", validation accuracy {run_status.accuracy:.1%}" if run_status.accuracy is not None else ""
        at = f"after epoch {run_status.epochs} of {total}" if total else f"after epoch {run_status.epochs}"
        if run_status.progress.get("steps"):
            at = f"{share_done(run_status.progress, 0, 1):.0%}, {at}"
        console.print(
            f"  {run_status.cell} seed {run_status.seed}: {at}{accuracy}"
            + (f"; {run_status.scheduler}" if run_status.scheduler else ""),
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
    if len(running) > LISTED:
        console.print(f"  and {len(running) - LISTED} more at work")


def _list_queued(console: Console, run_statuses: "Sequence[RunStatus]") -> None:
    """Say what schedulers say of the runs that wait, those of which they say the same together."""
    answers = Counter(
        re.sub(r" job \S+?:", ":", run_status.scheduler)
        for run_status in run_statuses
        if run_status.scheduler and run_status.state == "waiting"
    )
    for text, count in answers.items():
        console.print(f"  {count} waiting; {text}", markup=False, highlight=False, soft_wrap=True)


def _list_failures(console: Console, run_statuses: "Sequence[RunStatus]") -> None:
    """List what did not end well, runs that say the same together."""
    groups: dict[tuple[str, str], list[RunStatus]] = defaultdict(list)
    for run_status in run_statuses:
        if run_status.why and run_status.state not in ("ok", "running", "waiting"):
            # A path of its own would make every failure one of a kind.
            own = rf"\S*{re.escape(f'{run_status.cell}/seed-{run_status.seed}')}\b"
            why = re.sub(own, "its folder", re.sub(rf"{own}/(?=\S)", "", run_status.why))
            groups[run_status.state, why].append(run_status)
    for (state, why), members in list(groups.items())[:LISTED]:
        names = ", ".join(f"{run_status.cell} seed {run_status.seed}" for run_status in members[:3])
        more = f" and {len(members) - 3} more" if len(members) > 3 else ""
        attempts = members[0].history.attempts
        tries = f", {attempts} attempts" if attempts > 1 and len(members) == 1 else ""
        console.print(
            f"[{COLOURS.get(state, 'red')}]{state}[/] {escape(names)}{more}{tries}: {escape(why)}",
            highlight=False,
            soft_wrap=True,
        )
    if len(groups) > LISTED:
        console.print(f"and {len(groups) - LISTED} more kinds of failure: --json has them all")


def _show_run(console: Console, folder: Path, as_json: bool) -> None:
    from alexnet_ablations.declare.status import status_of
    from alexnet_lab.records import RunFolder

    run = RunFolder(folder)
    run_status = status_of(run, folder.name, 0)
    if as_json:
        print(json.dumps({"folder": str(folder), **_facts(run_status)}))  # noqa: T201  # the interface
        return
    try:
        recipe = run.recipe() or {}
    except ValueError:
        recipe = {}
    colour = COLOURS.get(run_status.state, "red")
    what = f"{recipe.get('network', '?')} on {recipe.get('data', '?')}, seed {recipe.get('seed', '?')}"
    console.print(f"[bold]{escape(str(folder))}[/]: a run, {escape(what)}", highlight=False, soft_wrap=True)
    console.print(
        f"[{colour}]{run_status.state}[/]{escape(f': {run_status.why}') if run_status.why else ''}", soft_wrap=True
    )
    if run_status.holder:
        console.print(f"at work: {run_status.holder}", markup=False, highlight=False)
    accuracy = f", validation accuracy {run_status.accuracy:.1%}" if run_status.accuracy is not None else ""
    console.print(f"after epoch {run_status.epochs} of {recipe.get('epochs', '?')}{accuracy}", highlight=False)


def sightings_of(study: Path) -> "dict[Path, Sighting]":
    """Return what the schedulers of all engines say of the runs of a study, by absolute folder."""
    from alexnet_ablations.run.engines import ENGINES

    return {run: sighting for engine in ENGINES.values() for run, sighting in engine.sightings(study).items()}


def _left(run_statuses: "Sequence[RunStatus]", epochs: int) -> float | None:
    from alexnet_ablations.declare.status import share_done, time_left

    ended, running, waiting = [], [], []
    for run_status in run_statuses:
        history = run_status.history
        if run_status.state == "ok":
            ended.append((run_status.cell, history.seconds or run_status.seconds or 0.0))
        elif run_status.state == "running":
            seconds = max(time.time() - history.started, 0.0) if history.started else run_status.seconds or 0.0
            running.append(
                (run_status.cell, seconds, share_done(run_status.progress, run_status.epochs, max(epochs, 1)))
            )
        elif run_status.state in ("waiting", "lost"):
            waiting.append(run_status.cell)
    return time_left(ended, running, waiting, len(running))


def _counts(run_statuses: "Sequence[RunStatus]") -> str:
    from alexnet_ablations.declare.status import STATES

    counts = Counter(run_status.state for run_status in run_statuses)
    return ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state]) or "none yet"


def _facts(run_status: "RunStatus") -> dict[str, object]:
    return {
        "cell": run_status.cell,
        "seed": run_status.seed,
        "state": run_status.state,
        "why": run_status.why,
        "epochs": run_status.epochs,
        "validation_accuracy": run_status.accuracy,
        "attempts": run_status.history.attempts or None,
        "seconds": run_status.history.seconds or run_status.seconds,
        "slot": run_status.history.slot,
        "holder": run_status.holder,
        "scheduler": run_status.scheduler or None,
        "search_of": run_status.search_of,
    }
