"""alexnet-lab status and retry: the status of a study or a run, and failed runs once more."""

import json
import re
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from alexnet_ablations.cli.progress import about_left
from alexnet_ablations.cli.study_options import AsJson, IsQuiet, Jobs, Timeout, Track, check, open_sinks
from alexnet_ablations.cli.terminal import open_console
from alexnet_lab.choices import unknown_choice

if TYPE_CHECKING:
    from alexnet_ablations.declare.status import Standing

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
) -> None:
    """Make the runs of a study again that failed, or that ended in a given state.

    [bold]alexnet-lab retry runs/digits_norm-bn[/]          all that failed
    [bold]alexnet-lab retry runs/digits_norm-bn --state oom --jobs 1[/]
    [bold]alexnet-lab retry runs/digits_norm-bn --state timeout --timeout 60[/]
    [bold]alexnet-lab retry runs/digits_norm-bn --track tensorboard:tb[/]

    A run with a checkpoint continues from it. A run that diverged diverges
    again, with the same numbers, unless the code has changed.
    """
    from alexnet_ablations.cli.run_study import make
    from alexnet_ablations.declare.status import RETRIED, standings
    from alexnet_ablations.declare.study import read_study
    from alexnet_ablations.run.coordinator import refuse_if_coordinated

    console = open_console()
    check(timeout)
    sinks = open_sinks(track)
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
    runs = study.runs()
    found = standings(runs)
    again = [run for run, standing in zip(runs, found, strict=True) if standing.state in chosen]
    if not again:
        if not quiet and not as_json:
            console.print(f"nothing to retry: no run is {' or '.join(chosen)} ({_counts(found)})", highlight=False)
        return
    if not quiet and not as_json:
        console.print(f"{len(again)} of {len(runs)} runs again: those that are {', '.join(chosen)}", highlight=False)
    make(console, study, again, jobs, timeout=timeout, repeat=True, quiet=quiet, as_json=as_json, sinks=sinks)


def _show_study(console: Console, folder: Path, as_json: bool) -> None:
    from alexnet_ablations.declare.status import coordinator_of

    complaint, found, epochs = _read(folder)
    coordinator = coordinator_of(folder)
    left = _left(found, epochs) if coordinator else None
    if as_json:
        rows = [_facts(standing) for standing in found]
        facts = {"folder": str(folder), "coordinator": coordinator, "seconds_left": left, "runs": rows}
        print(json.dumps({**facts, "complaint": complaint}))  # noqa: T201  # standard output is the interface
        return
    if complaint:
        told = f"{complaint}; what follows is read from the run folders"
        console.print(told, style="red", markup=False, highlight=False, soft_wrap=True)
    console.print(
        f"[bold]{escape(str(folder))}[/]: {len(found)} runs, {_counts(found)}", highlight=False, soft_wrap=True
    )
    unfinished = sum(standing.state in ("waiting", "lost") for standing in found)
    if coordinator:
        console.print(f"at work: {coordinator}{about_left(left)}", markup=False, highlight=False, soft_wrap=True)
    elif unfinished:
        console.print(
            f"nobody is at work here: the command that began this study goes on with what is missing, and so does\n"
            f"  alexnet-lab retry {folder} --state lost,waiting",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
    if found:
        console.print(_table(found))
    _list_running(console, found, epochs)
    _list_failures(console, found)


def _read(folder: Path) -> tuple[str, "list[Standing]", int]:
    """Read all planned runs, or, where the declaration cannot be read, those that are there."""
    from alexnet_ablations.declare.status import found_runs, standing_of, standings
    from alexnet_ablations.declare.study import read_study

    try:
        study = read_study(folder / "study.toml", folder)
    except (ValueError, OSError) as error:
        found = [standing_of(run, cell, seed) for cell, seed, run in found_runs(folder)]
        return str(error), found, 0
    return "", standings(study.runs()), study.start.epochs


def _table(found: "Sequence[Standing]") -> Table:
    from alexnet_ablations.declare.status import STATES

    states = [state for state in STATES if any(standing.state == state for standing in found)]
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("cell", overflow="fold")
    for state in states:
        table.add_column(state, justify="right", header_style=COLOURS.get(state, "red"))
    of_cell: dict[str, Counter[str]] = defaultdict(Counter)
    for standing in found:
        of_cell[standing.cell][standing.state] += 1
    for cell, counts in of_cell.items():
        table.add_row(escape(cell), *(str(counts[state] or "") for state in states))
    return table


def _list_running(console: Console, found: "Sequence[Standing]", epochs: int) -> None:
    from alexnet_ablations.declare.status import share_done

    running = [standing for standing in found if standing.state == "running"]
    for standing in running[:LISTED]:
        total = standing.progress.get("epochs", epochs)
        accuracy = f", validation accuracy {standing.accuracy:.1%}" if standing.accuracy is not None else ""
        at = f"after epoch {standing.epochs} of {total}" if total else f"after epoch {standing.epochs}"
        if standing.progress.get("steps"):
            at = f"{share_done(standing.progress, 0, 1):.0%}, {at}"
        console.print(
            f"  {standing.cell} seed {standing.seed}: {at}{accuracy}", markup=False, highlight=False, soft_wrap=True
        )
    if len(running) > LISTED:
        console.print(f"  and {len(running) - LISTED} more at work")


def _list_failures(console: Console, found: "Sequence[Standing]") -> None:
    """List what did not end well, runs that say the same together."""
    groups: dict[tuple[str, str], list[Standing]] = defaultdict(list)
    for standing in found:
        if standing.why and standing.state not in ("ok", "running", "waiting"):
            # A path of its own would make every failure one of a kind.
            own = rf"\S*{re.escape(f'{standing.cell}/seed-{standing.seed}')}\b"
            groups[standing.state, re.sub(own, "its folder", standing.why)].append(standing)
    for (state, why), members in list(groups.items())[:LISTED]:
        names = ", ".join(f"{standing.cell} seed {standing.seed}" for standing in members[:3])
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
    from alexnet_ablations.declare.status import standing_of
    from alexnet_lab.records import RunFolder

    run = RunFolder(folder)
    standing = standing_of(run, folder.name, 0)
    if as_json:
        print(json.dumps({"folder": str(folder), **_facts(standing)}))  # noqa: T201  # the interface
        return
    try:
        recipe = run.recipe() or {}
    except ValueError:
        recipe = {}
    colour = COLOURS.get(standing.state, "red")
    what = f"{recipe.get('network', '?')} on {recipe.get('data', '?')}, seed {recipe.get('seed', '?')}"
    console.print(f"[bold]{escape(str(folder))}[/]: a run, {escape(what)}", highlight=False, soft_wrap=True)
    console.print(f"[{colour}]{standing.state}[/]{escape(f': {standing.why}') if standing.why else ''}", soft_wrap=True)
    if standing.holder:
        console.print(f"at work: {standing.holder}", markup=False, highlight=False)
    accuracy = f", validation accuracy {standing.accuracy:.1%}" if standing.accuracy is not None else ""
    console.print(f"after epoch {standing.epochs} of {recipe.get('epochs', '?')}{accuracy}", highlight=False)


def _left(found: "Sequence[Standing]", epochs: int) -> float | None:
    from alexnet_ablations.declare.status import share_done, time_left

    ended, running, waiting = [], [], []
    for standing in found:
        history = standing.history
        if standing.state == "ok":
            ended.append((standing.cell, history.seconds or standing.seconds or 0.0))
        elif standing.state == "running":
            seconds = max(time.time() - history.started, 0.0) if history.started else standing.seconds or 0.0
            running.append((standing.cell, seconds, share_done(standing.progress, standing.epochs, max(epochs, 1))))
        elif standing.state in ("waiting", "lost"):
            waiting.append(standing.cell)
    return time_left(ended, running, waiting, len(running))


def _counts(found: "Sequence[Standing]") -> str:
    from alexnet_ablations.declare.status import STATES

    counts = Counter(standing.state for standing in found)
    return ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state]) or "none yet"


def _facts(standing: "Standing") -> dict[str, object]:
    return {
        "cell": standing.cell,
        "seed": standing.seed,
        "state": standing.state,
        "why": standing.why,
        "epochs": standing.epochs,
        "validation_accuracy": standing.accuracy,
        "attempts": standing.history.attempts or None,
        "seconds": standing.history.seconds or standing.seconds,
        "slot": standing.history.slot,
        "holder": standing.holder,
    }
