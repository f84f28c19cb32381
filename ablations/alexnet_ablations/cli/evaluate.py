"""alexnet-lab evaluate: how good a trained network's predictions are, and for whom."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from alexnet_ablations.cli.folders import refuse_place
from alexnet_lab.progress import Stages
from alexnet_lab.terminal import open_console


def evaluate(
    run: Annotated[Path, typer.Argument(help="Run folder.", show_default=False)],
    data: Annotated[
        str | None, typer.Option(help="A labelled set from elsewhere: folder, .zip, .csv, ...", show_default=False)
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Where to write.", show_default="RUN/evaluation")] = None,
    threshold: Annotated[
        str, typer.Option(help="On validation: youden, sensitivity=0.95 or specificity=0.9.")
    ] = "youden",
    replicates: Annotated[int, typer.Option(help="Resamplings behind each interval, at least 200.")] = 2000,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
) -> None:
    """Evaluate a finished run: AUROC, sensitivity, calibration, net benefit, mistakes.

    [bold]alexnet-lab evaluate runs/xrays-alexnet-1f0c[/]
    [bold]alexnet-lab evaluate RUN --data hospital-b.zip[/]            and how much it drops there
    [bold]alexnet-lab evaluate RUN --threshold sensitivity=0.95[/]

    Thresholds and temperature are chosen on validation, figures are of the test
    and of --data, whose classes must be those of the run. Intervals are over
    patients where the data names them (column group), else over images. Of a run
    on findings each is set against its absence, with means over findings.
    Writes a page in the order of the CLAIM checklist, its figures,
    evaluation.json, tables.md, figures.csv and predictions.csv.
    """
    from alexnet_lab.evaluation.evaluating import evaluate_run
    from alexnet_lab.reports.evaluation_page import summary, write_evaluation

    folder = out or run / "evaluation"
    if out is not None:
        refuse_place(out)
    console, errors = open_console(), open_console(stderr=True)
    with Stages(errors) as stages:
        evaluation = evaluate_run(run, data, threshold, device, replicates, stages.told)
        stages.told("writing the page", 0, 1)
        page = write_evaluation(evaluation, folder)
    console.print(summary(evaluation), markup=False, highlight=False)
    for assessment in evaluation.assessments:
        notes = (*assessment.notes, *evaluation.sets[assessment.part].notes)
        for note in notes:
            errors.print(f"note: {note}", markup=False, highlight=False, soft_wrap=True)
    console.print(f"[dim]{escape(str(page))}[/]", soft_wrap=True)
