"""alexnet-lab explain: where a trained network looks, beside where an untrained one does."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from alexnet_ablations.cli.folders import refuse_place
from alexnet_lab.progress import Stages
from alexnet_lab.terminal import open_console


def explain(
    run: Annotated[Path, typer.Argument(help="Run folder.", show_default=False)],
    images: Annotated[list[Path], typer.Argument(help="Image files, folders, .zip archives.", show_default=False)],
    maps: Annotated[str, typer.Option(help="Which, with commas.")] = "grad-cam,occlusion,integrated-gradients",
    kind: Annotated[
        str | None, typer.Option("--class", help="Class to explain.", show_default="the most probable")
    ] = None,
    finding: Annotated[
        str | None, typer.Option(help="Of a run on findings: the one to explain.", show_default="the most probable")
    ] = None,
    seeds: Annotated[
        str, typer.Option(help="Runs of other seeds, with commas: are their maps alike?", show_default=False)
    ] = "",
    random: Annotated[int, typer.Option(help="Untrained networks that each map is compared with.")] = 19,
    out: Annotated[Path | None, typer.Option(help="Where to write.", show_default="RUN/explanation")] = None,
) -> None:
    """Show what in an image speaks for a class, beside maps of random weights.

    [bold]alexnet-lab explain runs/xrays-alexnet-1f0c scan.png[/]
    [bold]alexnet-lab explain RUN scans/ --maps grad-cam --class sick[/]
    [bold]alexnet-lab explain RUN scan.png --finding Effusion[/]       of several findings an image
    [bold]alexnet-lab explain RUN scan.png --seeds RUN-1,RUN-2[/]      are other seeds' maps alike?

    A map is labelled no better than random weights unless erasing what it finds
    hot costs the network more than erasing what untrained networks find hot.
    Writes a page, explanation.json, and every map as PNG.
    """
    from alexnet_lab.explanation.explaining import explain as explained
    from alexnet_lab.records import title_of
    from alexnet_lab.reports.explanation_page import LABEL, summary, write_explanations

    if out is not None:
        refuse_place(out)
    console, errors = open_console(), open_console(stderr=True)
    others = [Path(place.strip()) for place in seeds.split(",") if place.strip()]
    methods = [method.strip() for method in maps.split(",") if method.strip()]
    if not methods:
        raise ValueError("--maps names at least one map, such as grad-cam; got none")
    if kind is not None and finding is not None:
        raise ValueError("--class and --finding both say what is explained; name one of them")
    with Stages(errors) as stages:
        explanations = explained(
            run, images, methods=methods, kind=kind or finding, seeds=others, random_networks=random, told=stages.told
        )
        page = write_explanations(title_of(run.resolve()), explanations, out or run / "explanation")
    for image in explanations:
        console.print(f"{image.name}: {image.kind} {image.probability:.1%}", markup=False, highlight=False)
        for one in image.maps:
            verdict = LABEL if one.is_random else "better than random weights"
            console.print(f"  {one.method}: {verdict}", markup=False, highlight=False)
    console.print(summary(explanations), markup=False, highlight=False)
    console.print(f"[dim]{escape(str(page))}[/]", soft_wrap=True)
