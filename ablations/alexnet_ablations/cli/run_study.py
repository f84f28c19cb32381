"""What ablate, study and retry do once a study is declared: plan, prepare the data, run, conclude, print."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.markup import escape

from alexnet_ablations.cli.folders import refuse_place
from alexnet_ablations.cli.study_options import StudyOptions, open_sinks
from alexnet_ablations.declare.design import level_text
from alexnet_ablations.run.executors import Engine
from alexnet_lab.progress import PlainLines
from alexnet_lab.training.recipe import Recipe

if TYPE_CHECKING:
    import pandas as pd

    from alexnet_ablations.declare.study import PlannedRun, Study
    from alexnet_ablations.run.budget import Budget
    from alexnet_ablations.run.forecast import Forecast
    from alexnet_ablations.run.splits import Tested
    from alexnet_ablations.run.trackers import Sink

MOST_DAMAGED = 10  # runs with changed records that are named
MOST_LEVELS = 20  # of one factor that a plan lists


def plan_run_conclude(
    console: Console, study: "Study", how: StudyOptions, table: Mapping[str, Any] | None = None
) -> None:
    """Make the missing runs of a study and print what it shows; mistakes are refused before the first run.

    `table` is what a study file says of where to make them, unless flags say otherwise.
    """
    from alexnet_ablations.run.coordinator import refuse_if_coordinated

    refuse_place(study.folder, "study")
    sinks = open_sinks(how.track)
    engine = how.where.engine(table)
    budget = None
    if how.within is not None:
        study, budget = tuned_within(study, how, engine)
    requested, study = study, study.grown_from_folder()
    if not how.plan:
        refuse_if_coordinated(study.folder)
    missing = missing_runs(study, how.yes)
    if how.save is not None:
        save_study(console, requested, how.save, silent=how.is_silent)
    if not how.is_silent:
        print_plan(console, study, requested, missing)
        if budget is not None:
            console.print(budget.sentence(), markup=False, highlight=False)
        say_damages(console, missing)
    tested = prepare_data(console, study, silent=how.is_silent) if missing else None
    predicted = predict(study, missing, how.jobs, engine, plan=how.plan, tested=tested)
    if not how.is_silent:
        for sentence in predicted.sentences():
            console.print(sentence, markup=False, highlight=False)
    if how.plan:
        end_plan(console, study, predicted, how)
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
        engine=engine,
    )


def tuned_within(study: "Study", how: StudyOptions, engine: Engine) -> "tuple[Study, Budget]":
    """Return a study with as many points to tune as fit into the time of --within, and what they take."""
    from alexnet_ablations.declare.tuning import FEWEST_POINTS, names_points
    from alexnet_ablations.run.budget import points_within, read_time

    seconds = read_time(how.within or "")
    if how.tune is not None and names_points(how.tune):
        raise ValueError(f"--tune {how.tune} names how many points are tried, and --within finds it; name one of them")
    if study.tuning is None:
        raise ValueError("--within is a time for --tune; name what is tuned, for example --tune learning_rate")
    if not engine.is_here:
        raise ValueError(
            "--within times runs on this machine, and the executor makes them on others; name the points, for example "
            "--tune learning_rate:8"
        )
    smallest = replace(study, tuning=replace(study.tuning, points=FEWEST_POINTS))
    budget = points_within(smallest.grown_from_folder(), seconds, how.jobs, how.yes)
    return replace(study, tuning=replace(study.tuning, points=budget.points)), budget


def missing_runs(study: "Study", most: int) -> "list[PlannedRun]":
    """Return the runs that are not done, those of searches first.

    They are refused where they are more than a user meant, and where their weights are missing.
    """
    from alexnet_ablations.declare.study import refuse_unfit_weights
    from alexnet_ablations.tune.searches import every_run

    missing = [run for run in every_run(study) if not run.is_done]
    if len(missing) > most:
        fewer = "levels or seeds" if study.tuning is None else "levels, seeds or points to tune"
        raise ValueError(
            f"this study makes {len(missing)} runs, more than {most}; name fewer {fewer}, take "
            f"--design one-at-a-time, or allow them with --yes {len(missing)}"
        )
    refuse_unfit_weights(missing)
    return missing


def say_damages(console: Console, missing: "Sequence[PlannedRun]") -> None:
    """Name the runs whose records changed after they ended, and which are therefore made again."""
    damaged = {f"{run.cell.name} seed {run.seed}": damages for run in missing if (damages := run.folder.damages())}
    for name, damages in list(damaged.items())[:MOST_DAMAGED]:
        text = f"{name} is made again: {', '.join(damages)} changed after it ended"
        console.print(text, style="yellow", markup=False, highlight=False)
    if len(damaged) > MOST_DAMAGED:
        console.print(f"and {len(damaged) - MOST_DAMAGED} more runs with changed records", style="yellow", markup=False)


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
    engine: Engine | None = None,
) -> None:
    """Make these runs of a study, whose folder is open, and print what the study shows; exit 1 if any failed.

    Of a study that is tuned the searches are made first; trackers get the runs of the comparison only.
    """
    from alexnet_ablations.cli.study_progress import run_with_live_table

    started = time.monotonic()

    def work(some: "Sequence[PlannedRun]", sinks: "Sequence[Sink]") -> None:
        run_with_live_table(
            console,
            study,
            some,
            jobs,
            timeout=timeout,
            repeat=repeat,
            quiet=quiet,
            as_json=as_json,
            sinks=sinks,
            engine=engine,
        )

    if study.tuning is not None:
        study, runs = make_searches(
            console, study, runs, lambda some: work(some, ()), repeat=repeat, silent=quiet or as_json
        )
    work(runs, sinks)
    results = conclude_and_print(console, study, silent=quiet or as_json, as_json=as_json)
    if not quiet and not as_json:
        seconds = f"{time.monotonic() - started:.0f} s"
        where = f"{seconds}. Runs and rows: {study.folder}"
        console.print(where, style="dim", markup=False, highlight=False, soft_wrap=True)
    broken = results[~results["state"].isin(("ok", "diverged"))]
    if len(broken):
        if not as_json:
            why = str(broken["why"].iloc[0])
            console.print(f"{len(broken)} of {len(results)} runs failed: {why}", style="red", markup=False)
            console.print("(same command: tries again)", markup=False)
        raise typer.Exit(1)


def make_searches(
    console: Console,
    study: "Study",
    runs: "Sequence[PlannedRun]",
    work: "Callable[[Sequence[PlannedRun]], None]",
    *,
    repeat: bool,
    silent: bool,
) -> "tuple[Study, list[PlannedRun]]":
    """Make the runs that belong to searches, and choose; return the study with its choices, and which runs are left.

    Exit 1 if a search could not be completed: without a choice there is nothing to compare.
    """
    from alexnet_ablations.tune.choice import UnfinishedSearchError, read_outcomes, with_choices
    from alexnet_ablations.tune.searches import is_search
    from alexnet_ablations.tune.sentences import chosen_sentences, edge_sentences

    searches = [run for run in runs if is_search(run)]
    if searches:
        if not silent:
            console.print(f"tuning first: {len(searches)} runs", markup=False, highlight=False)
        work(searches)
    try:
        study = with_choices(study).open_folder()
    except UnfinishedSearchError as error:
        if not silent:
            console.print(str(error), style="red", markup=False, highlight=False)
        raise typer.Exit(1) from None
    if not silent:
        outcomes = read_outcomes(study)
        for sentence in chosen_sentences(outcomes):
            console.print(sentence, markup=False, highlight=False)
        for sentence in edge_sentences(study, outcomes):
            console.print(sentence, style="yellow", markup=False, highlight=False)
    # A new choice may ask for runs that were done before; a retry makes only what it was asked for.
    planned = {(run.cell.name, run.seed) for run in runs if not is_search(run)}
    if repeat:
        return study, [run for run in study.runs() if (run.cell.name, run.seed) in planned]
    return study, [run for run in study.runs() if not run.is_done]


def conclude_and_print(
    console: Console, study: "Study", *, silent: bool = False, as_json: bool = False
) -> "pd.DataFrame":
    """Read all runs back, write rows and report, and print what the runs say together.

    Files come first: they are complete even if printing fails.
    """
    from alexnet_ablations.cli.tables import print_conclusions
    from alexnet_ablations.conclude.conclusions import conclude_study
    from alexnet_ablations.conclude.outcomes import write_results
    from alexnet_ablations.report import read_runs, write_report

    results, cells = read_runs(study)
    write_results(results, study.folder / "results.csv")
    conclusions = conclude_study(study, results)
    page = write_report(study, results, conclusions, cells)
    if as_json:
        for conclusion in conclusions.headline:
            print(json.dumps({"event": "conclusion", **conclusion.facts()}))  # noqa: T201  # the interface
    if not silent:
        print_conclusions(console, results, conclusions)
        if study.tuning is not None:
            from alexnet_ablations.conclude.budgets import beside_sentences, effects_at_budgets
            from alexnet_ablations.tune.choice import read_outcomes

            budgets = effects_at_budgets(study, read_outcomes(study))
            for sentence in beside_sentences(conclusions.headline, budgets):
                console.print(sentence, markup=False, highlight=False)
        for sentence in study.limitations:
            console.print(sentence, style="dim", markup=False, highlight=False)
        console.print(f"report: {page}", markup=False, highlight=False, soft_wrap=True)
    return results


def print_plan(console: Console, study: "Study", requested: "Study", missing: "Sequence[PlannedRun]") -> None:
    """Say what is varied, what is set, how many runs that makes, and what to keep in mind."""
    from alexnet_ablations.tune.searches import is_search
    from alexnet_ablations.tune.sentences import plan_sentence

    start, total = study.start, study.size
    missing_verdicts = sum(not is_search(run) for run in missing)
    factors = ", ".join(f"{factor.field} {{{_some(factor.levels)}}}" for factor in study.factors)
    many = "s" if study.seeds > 1 else ""
    is_shared = all(factor.field != "epochs" for factor in study.factors)
    epochs = f" of {start.epochs} epoch{'s' if start.epochs > 1 else ''}" if is_shared else ""
    network = f"[bold]{start.network}[/]"
    console.print(f"{network} on {escape(start.data)}, varied: {escape(factors)}", highlight=False)
    folds = f" x {study.splitting.folds} folds" if study.splitting.folds else ""
    console.print(
        f"{study.design}: {len(study.cells)} cells x {study.seeds} seed{many}{folds} = {total} runs{epochs}"
        + (f"; {total - missing_verdicts} already done" if missing_verdicts < total else ""),
        markup=False,
    )
    if sentence := study.splitting.sentence():
        console.print(sentence, markup=False, highlight=False)
    if study.tuning is not None:
        console.print(plan_sentence(study, len(missing) - missing_verdicts), markup=False, highlight=False)
    console.print(f"set for all cells: {', '.join(settings_of(study))}", style="dim", markup=False, highlight=False)
    if study.is_default_design and study.crossed > len(study.cells):
        console.print(
            f"one change at a time, since all levels crossed would be {study.crossed} cells: --design factorial "
            "makes them all",
            markup=False,
            highlight=False,
        )
    if (study.seeds, study.factors, study.tuning) != (requested.seeds, requested.factors, requested.tuning):
        more = f"{study.folder} holds more of this study than was asked for: all of it counts"
        console.print(more, markup=False, soft_wrap=True)
    for note in [*study.warnings(), *study.limitations, *aliases(study)]:
        console.print(f"note: {note}", markup=False, highlight=False)


def _some(levels: "Sequence[Any]") -> str:
    texts = [level_text(level) for level in levels[:MOST_LEVELS]]
    more = len(levels) - MOST_LEVELS
    return ", ".join(texts) + (f" and {more} more" if more > 0 else "")


def settings_of(study: "Study") -> list[str]:
    """Describe what all cells share: first what is not the default, then what matters in every study."""
    start, default = study.start, vars(Recipe())
    varied = {factor.field for factor in study.factors} | set(study.tuning.names if study.tuning else ())
    descriptions = {
        "width": f"width {start.width:g}",
        "image_size": f"{start.image_size} px",
        "init": f"{start.init} init",
        "input_scale": f"{start.input_scale} inputs",
        "optimiser": start.optimiser,
        "learning_rate": f"rate {start.learning_rate:g}",
        "batch_size": f"batch {start.batch_size}",
        "threads": f"{start.threads} thread{'s' if start.threads > 1 else ''} a run",
    }
    printed_elsewhere = {"network", "data", "epochs", "seed"}
    others = [
        f"{name} {level_text(value)}"
        for name, value in vars(start).items()
        if value != default[name] and name not in {*descriptions, *varied, *printed_elsewhere}
    ]
    return [*others, *(text for name, text in descriptions.items() if name not in varied)]


def end_plan(console: Console, study: "Study", predicted: "Forecast", how: StudyOptions) -> None:
    """Say that this was a plan, or print it for machines."""
    if how.as_json:
        print(json.dumps({"event": "plan", "folder": str(study.folder), **predicted.facts()}))  # noqa: T201  # the interface
    elif not how.quiet:
        runs_folder = study.folder / "runs"
        plan = f"a plan: nothing was trained; without --plan the runs go to {runs_folder}"
        console.print(plan, markup=False, soft_wrap=True)


def aliases(study: "Study") -> list[str]:
    """Name what each effect of a fraction cannot be told from."""
    return [
        f"{contrast.name} cannot be told from {', '.join(contrast.aliases)}"
        for contrast in study.contrasts()
        if contrast.aliases
    ]


def prepare_data(console: Console, study: "Study", *, silent: bool) -> "Tested":
    """Read the images once, here: a mistake ends as one line, and the runs find everything decoded.

    Return how many images each seed is tested on.
    """
    from alexnet_ablations.run.splits import Tested, check_splits

    start, by_seed = study.start, study.splitting.is_by_seed
    if start.data == "digits" and not start.fold:  # whole, they split for certain, and without torch
        return check_splits(study) if by_seed else Tested(count_of_digits(start))
    from alexnet_lab.training.run import open_feed_of

    lines = PlainLines(console)
    first = study.runs()[0].recipe
    # Splits are checked once the images are decoded, which is told of, and before one of them is opened.
    checked = check_splits(study, (lambda *_: None) if silent else _told(lines)) if by_seed else None
    feed = open_feed_of(first if by_seed else start, (lambda _kind, _facts: None) if silent else lines)
    if not silent:
        for text in feed.notes:
            lines("note", {"text": text})
    return checked or Tested(len(feed.split.test))


def _told(lines: PlainLines) -> "Callable[[str, int, int], None]":
    return lambda what, done, total: lines("preparing", {"what": what, "done": done, "total": total})


def count_of_digits(start: Recipe) -> int:
    """Count the test images of the digits."""
    from alexnet_lab.data.sources import load_images
    from alexnet_lab.data.splits import split_images

    images = load_images("digits", start.image_size, start.fit)
    return len(split_images(images.labels, images.classes, seed=start.split_seed).test)


def predict(
    study: "Study",
    missing: "Sequence[PlannedRun]",
    jobs: int | None,
    engine: Engine,
    *,
    plan: bool,
    tested: "Tested | None" = None,
) -> "Forecast":
    """Return what the study costs and can show; refuse it where the disk has not enough space for it.

    What runs cost is measured on this machine, so only where they are made on it.
    """
    from alexnet_ablations.run.executors import Needs
    from alexnet_ablations.run.forecast import forecast
    from alexnet_ablations.run.slots import find_slots

    images, overlap = (None, 0.0) if tested is None else (tested.images, tested.overlap)
    if not engine.is_here:
        return forecast(study, jobs or max(len(missing), 1), measured=None, test_images=images, overlap=overlap)
    needs = Needs.of([study.start])
    slots = find_slots(needs.threads, needs.gpus, jobs).count
    side_by_side = min(slots, max(len(missing), 1))
    return forecast(study, side_by_side, measured=plan, test_images=images, overlap=overlap)


def save_study(console: Console, study: "Study", path: Path, *, silent: bool = False) -> None:
    """Write a study as a file for `alexnet-lab study`; another study's file is not written over."""
    text = study.to_toml(whole=False).encode()
    if path.exists() and path.read_bytes() != text:
        raise ValueError(f"{path} exists and says something else; choose another name with --save")
    path.write_bytes(text)
    if not silent:
        console.print(f"saved: alexnet-lab study {path}", markup=False, highlight=False, soft_wrap=True)
