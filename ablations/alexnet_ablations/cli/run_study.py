"""What ablate, study and retry do once a study is declared: plan, prepare the data, run, conclude, print."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.markup import escape

from alexnet_ablations.cli.folders import refuse_place
from alexnet_ablations.cli.progress import PlainLines
from alexnet_ablations.cli.study_options import StudyOptions, open_sinks
from alexnet_ablations.declare.design import level_text

if TYPE_CHECKING:
    import pandas as pd

    from alexnet_ablations.declare.study import PlannedRun, Study
    from alexnet_ablations.run.forecast import Forecast
    from alexnet_ablations.run.trackers import Sink


def plan_run_conclude(console: Console, study: "Study", how: StudyOptions) -> None:
    """Make what is missing of a study and say what it shows; every mistake that can be seen before, is."""
    from alexnet_ablations.run.coordinator import refuse_if_coordinated

    refuse_place(study.folder, "study")
    sinks = open_sinks(how.track)
    asked, study = study, study.grown_from_folder()
    if how.save is not None:
        save_study(console, asked, how.save)
    if not how.plan:
        refuse_if_coordinated(study.folder)
    runs = study.runs()
    missing = [run for run in runs if not run.is_done]
    if len(missing) > how.yes:
        raise ValueError(
            f"this study makes {len(missing)} runs, more than {how.yes}; name fewer levels or seeds, take "
            f"--design one-at-a-time, or allow them with --yes {len(missing)}"
        )
    if not how.is_silent:
        print_plan(console, study, asked, len(runs), len(missing))
    if missing:
        prepare_data(console, study, silent=how.is_silent)
    foretold = foretell(study, missing, how.jobs, plan=how.plan)
    if not how.is_silent:
        for sentence in foretold.sentences():
            console.print(sentence, markup=False, highlight=False)
    if how.plan and how.as_json:
        print(json.dumps({"event": "plan", "folder": str(study.folder), **foretold.facts()}))  # noqa: T201  # the interface
    elif how.plan and not how.quiet:
        runs_folder = study.folder / "runs"
        console.print(f"a plan: nothing was trained; without --plan the runs go to {runs_folder}", markup=False)
    if how.plan:
        return
    study.open_folder()
    make(
        console,
        study,
        missing,
        how.jobs,
        timeout=how.timeout,
        quiet=how.quiet,
        as_json=how.as_json,
        sinks=sinks,
    )


def make(
    console: Console,
    study: "Study",
    runs: "Sequence[PlannedRun]",
    jobs: int | None = None,
    *,
    timeout: float | None = None,
    repeat: bool = False,
    quiet: bool = False,
    as_json: bool = False,
    sinks: "Sequence[Sink]" = (),
) -> None:
    """Make these runs of a study, whose folder is open, and say what the whole study shows; exit 1 if any failed."""
    from alexnet_ablations.cli.study_progress import run_with_live_table

    began = time.monotonic()
    run_with_live_table(
        console, study, runs, jobs, timeout=timeout, repeat=repeat, quiet=quiet, as_json=as_json, sinks=sinks
    )
    results = conclude_and_print(console, study, silent=quiet or as_json)
    if not quiet and not as_json:
        console.print(f"[dim]{time.monotonic() - began:.0f} s. Runs and rows: {study.folder}[/]")
    broken = results[~results["state"].isin(("ok", "diverged"))]
    if len(broken):
        if not as_json:
            why = str(broken["why"].iloc[0])
            console.print(f"{len(broken)} of {len(results)} runs failed: {why}", style="red", markup=False)
            console.print("(same command: tries again)", markup=False)
        raise typer.Exit(1)


def conclude_and_print(console: Console, study: "Study", *, silent: bool = False) -> "pd.DataFrame":
    """Read all runs back, print what they say together, and write rows and report."""
    from alexnet_ablations.cli.tables import print_conclusions
    from alexnet_ablations.conclude.conclusions import conclude
    from alexnet_ablations.conclude.outcomes import read_results, write_results
    from alexnet_ablations.report import write_report

    results = read_results(study.runs(), level=study.level)
    conclusions = conclude(results, study.contrasts(), margin=study.margin)
    if not silent:
        print_conclusions(console, results, conclusions)
        for sentence in study.limitations:
            console.print(sentence, style="dim", markup=False, highlight=False)
    write_results(results, study.folder / "results.csv")
    page = write_report(study, results, conclusions)
    if not silent:
        console.print(f"report: {page}", markup=False, highlight=False, soft_wrap=True)
    return results


def print_plan(console: Console, study: "Study", asked: "Study", total: int, missing: int) -> None:
    """Say what will be compared, under what, and what is known not to go well together."""
    start = study.start
    factors = ", ".join(f"{f.field} {{{', '.join(map(level_text, f.levels))}}}" for f in study.factors)
    many = "s" if study.seeds > 1 else ""
    is_shared = all(factor.field != "epochs" for factor in study.factors)
    epochs = f" of {start.epochs} epoch{'s' if start.epochs > 1 else ''}" if is_shared else ""
    console.print(f"[bold]{start.network}[/] on {escape(start.data)}: {escape(factors)}", highlight=False)
    console.print(
        f"{study.design}: {len(study.cells)} cells x {study.seeds} seed{many} = {total} runs{epochs}"
        + (f"; {total - missing} already done" if missing < total else ""),
        markup=False,
    )
    if study.is_default_design and study.design != "factorial":
        console.print(
            f"one change at a time, since all levels crossed would be {study.crossed} cells: --design factorial "
            "makes them all",
            markup=False,
            highlight=False,
        )
    if (study.seeds, study.factors) != (asked.seeds, asked.factors):
        console.print(f"{study.folder} holds more of this study than was asked for: all of it counts", markup=False)
    shown = {
        "width": f"width {start.width:g}",
        "image_size": f"{start.image_size} px",
        "init": f"{start.init} init",
        "input_scale": f"{start.input_scale} inputs",
        "optimiser": start.optimiser,
        "learning_rate": f"rate {start.learning_rate:g}",
        "batch_size": f"batch {start.batch_size}",
        "threads": f"{start.threads} thread{'s' if start.threads > 1 else ''} a run",
    }
    varied = {factor.field for factor in study.factors}
    same = ", ".join(text for name, text in shown.items() if name not in varied)
    console.print(f"all cells: {same}", style="dim", markup=False, highlight=False)
    for note in [*study.cautions(), *study.limitations, *aliases(study)]:
        console.print(f"note: {note}", markup=False, highlight=False)


def aliases(study: "Study") -> list[str]:
    """Name what each effect of a fraction cannot be told from."""
    return [
        f"{contrast.name} cannot be told from {', '.join(contrast.aliases)}"
        for contrast in study.contrasts()
        if contrast.aliases
    ]


def prepare_data(console: Console, study: "Study", *, silent: bool) -> None:
    """Read the images once, here: a mistake ends as one line, and the runs find everything decoded."""
    start = study.start
    if start.data == "digits" and not start.fold:  # whole, they split for certain
        return
    from alexnet_lab.training.run import open_feed_of

    lines = PlainLines(console)
    feed = open_feed_of(start, (lambda _kind, _facts: None) if silent else lines)
    if not silent:
        for text in feed.notes:
            lines("note", {"text": text})


def foretell(study: "Study", missing: "Sequence[PlannedRun]", jobs: int | None, *, plan: bool) -> "Forecast":
    """Learn what the study costs and can show; refuse it where the disk has no room for it."""
    from alexnet_ablations.run.forecast import forecast
    from alexnet_ablations.run.slots import find_slots

    slots = find_slots(study.start.threads, study.start.device, jobs).count
    return forecast(study, min(slots, max(len(missing), 1)), measured=plan)


def save_study(console: Console, study: "Study", path: Path) -> None:
    """Write a study as a file for `alexnet-lab study`; another study's file is not written over."""
    text = study.to_toml(whole=False)
    if path.exists() and path.read_text() != text:
        raise ValueError(f"{path} exists and says something else; choose another name with --save")
    path.write_text(text)
    console.print(f"saved: alexnet-lab study {path}", markup=False, highlight=False)
