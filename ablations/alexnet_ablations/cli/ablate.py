"""alexnet-lab ablate: change parts of AlexNet, train all combinations under the same luck, print what changed."""

import os
import re
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from alexnet_ablations.cli.progress import PlainLines
from alexnet_ablations.cli.recipe_options import read_start
from alexnet_ablations.cli.terminal import open_console

if TYPE_CHECKING:
    from alexnet_ablations.study import PlannedRun, Study

CELL_LIMIT = 64


def ablate(
    norm: Annotated[str | None, typer.Option(help="Normalisations to try: bn,none or lrn:k=1 or bn:after ...")] = None,
    act: Annotated[str | None, typer.Option(help="Activations to try: leaky,prelu or leaky:0.2 ...")] = None,
    dropout: Annotated[str | None, typer.Option(help="Dropout rates to try: 0.3,0 ...")] = None,
    preset: Annotated[str | None, typer.Option(help="Readings of AlexNet to try: source2012,review ...")] = None,
    init: Annotated[str | None, typer.Option(help="Initial values to try: published,torch ...")] = None,
    batch_size: Annotated[str | None, typer.Option(help="Batch sizes to try: 16,64 ...")] = None,
    learning_rate: Annotated[str | None, typer.Option(help="Learning rates to try: 0.003,0.03 ...")] = None,
    weight_decay: Annotated[str | None, typer.Option(help="Weight decays to try: 0,0.005 ...")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds per cell.")] = 3,
    data: Annotated[
        str | None, typer.Option(help="Images: a folder, a .zip, a CSV, cifar10 ...", show_default="digits")
    ] = None,
    recipe: Annotated[
        str, typer.Option(help="What all cells start from: laptop, modern, paper, or a TOML file.")
    ] = "laptop",
    epochs: Annotated[int | None, typer.Option(help="Epochs per run.", show_default="the recipe's, 10")] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Runs side by side.", show_default="one per core")] = None,
    out: Annotated[Path | None, typer.Option(help="Study folder.", show_default="runs/<name of the study>")] = None,
) -> None:
    """Ablate AlexNet: the published network against the levels you name, crossed.

    [bold]alexnet-lab ablate --norm bn --act leaky[/]      LRN or BN, ReLU or LeakyReLU
    [bold]alexnet-lab ablate --norm bn,none --seeds 6[/]   three normalisations, six seeds
    [bold]alexnet-lab ablate --norm lrn:k=1,bn:after[/]    levels with arguments
    [bold]alexnet-lab ablate --dropout 0.3 --data xrays.zip --recipe mine.toml[/]

    The published value of each part is always in, as the baseline: norm lrn,
    act relu, dropout 0.5, preset paper, or what the recipe says. Without --data
    and --recipe: scikit-learn's handwritten digits at 67 pixels, on a quarter of
    AlexNet's width. In a recipe stand the fields of alexnet-lab train. Each run
    is a process and a folder of its own; the same command again does only what
    is missing.
    """
    from alexnet_ablations.cli.study_progress import run_with_live_table

    console = open_console()
    given = {
        "norm": norm,
        "act": act,
        "dropout": dropout,
        "preset": preset,
        "init": init,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "weight_decay": weight_decay,
    }
    shared = {
        **read_start(recipe),
        **({"data": data} if data else {}),
        **({"epochs": epochs} if epochs is not None else {}),
    }
    study = _declare({field: text for field, text in given.items() if text is not None}, shared, seeds, out)
    _prepare_data(console, study)
    study = study.open_folder()
    runs = study.runs()
    missing = [run for run in runs if not run.is_done]
    side_by_side = min(jobs or os.cpu_count() or 1, max(len(missing), 1))
    _print_plan(console, study, len(runs), len(missing), side_by_side)
    began = time.monotonic()
    if missing:
        run_with_live_table(console, study, missing, side_by_side)
    rows = _print_results(console, study, runs)
    path = study.write_results(rows)
    console.print(f"[dim]{time.monotonic() - began:.0f} s. Rows: {path}   Runs: {study.folder / 'runs'}[/]")
    broken = [row for row in rows if row["state"] not in ("ok", "diverged")]
    if broken:
        console.print(
            f"[red]{len(broken)} of {len(rows)} runs failed: {broken[0]['why']}[/] (same command: tries again)"
        )
        raise typer.Exit(1)


def _declare(given: dict[str, str], shared: dict[str, Any], seeds: int, out: Path | None) -> "Study":
    from alexnet_ablations.declaration import FACTORS
    from alexnet_ablations.study import declare

    if not given:
        flags = ", ".join("--" + field.replace("_", "-") for field in FACTORS)
        raise ValueError(f"nothing to ablate: name at least one of {flags}; for example --norm bn --act leaky")
    study = declare(given, shared, Path(), seeds=seeds)
    count = len(study.cells)
    if count > CELL_LIMIT:
        raise ValueError(f"these levels make {count} cells, more than {CELL_LIMIT}; name fewer levels at once")
    parts = (f"{f.field}-{'+'.join(str(level) for level in f.levels[1:])}" for f in study.factors)
    data = Path(study.start.data.partition(":")[0]).stem
    name = re.sub(r"[^\w.,=+-]", "-", "_".join([data, *parts]))
    return replace(study, folder=out or Path("runs") / name)


def _prepare_data(console: Console, study: "Study") -> None:
    """Read the images once, here: a mistake ends as one line, and the runs find everything decoded."""
    start = study.start
    if start.data == "digits":
        return
    from alexnet_lab.training.run import open_feed_of

    lines = PlainLines(console)
    feed = open_feed_of(start, lines)
    for text in feed.notes:
        lines("note", {"text": text})


def _print_plan(console: Console, study: "Study", total: int, missing: int, side_by_side: int) -> None:
    start = study.start
    factors = ", ".join(f"{f.field} {{{', '.join(map(str, f.levels))}}}" for f in study.factors)
    console.print(
        f"[bold]{start.network}[/] on {start.data}: {factors}\n"
        f"{len(study.cells)} cells x {study.seeds} seed{'s' if study.seeds > 1 else ''} = {total} runs "
        f"of {start.epochs} epochs, {side_by_side} side by side"
        + (f"; {total - missing} already done" if missing < total else "")
    )
    console.print(
        f"[dim]width {start.width:g}, {start.image_size} px, {start.init} init on {start.input_scale} inputs, "
        f"{start.optimiser} {start.learning_rate:g}, batch {start.batch_size}, {start.threads} thread(s) a run[/]"
    )
    for caution in start.cautions():
        console.print(f"note: {caution}", markup=False, highlight=False)


def _print_results(console: Console, study: "Study", runs: "Sequence[PlannedRun]") -> list[dict[str, Any]]:
    from alexnet_ablations.cli.tables import cell_table, effect_table
    from alexnet_ablations.statistics import factorial_effects
    from alexnet_ablations.study import collect

    rows = collect(runs)
    console.print(cell_table(rows, study.cells))
    effects = factorial_effects(rows, study.factors, "test_accuracy")
    if effects:
        console.print(effect_table(effects))
    pairs = f"{study.seeds} pair{'s' if study.seeds > 1 else ''}"
    console.print(
        f"[dim]points of test accuracy, paired by seed; of {pairs} an exact sign-flip test "
        f"cannot go below p = {2 / 2**study.seeds:.2g}[/]"
    )
    return rows
