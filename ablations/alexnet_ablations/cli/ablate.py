"""alexnet-lab ablate: change parts of AlexNet, train the combinations under the same luck, print what changed."""

from pathlib import Path
from typing import Annotated, Any

import typer

from alexnet_ablations.cli.conditions import divide, folder_name, on_this_machine
from alexnet_ablations.cli.recipe_options import with_study_options
from alexnet_ablations.cli.run_study import plan_run_conclude
from alexnet_ablations.cli.study_options import StudyOptions, with_shared_options
from alexnet_ablations.cli.terminal import open_console
from alexnet_ablations.declare.declaration import FACTORS, read_start

DESIGN_HELP = "factorial, one-at-a-time, leave-one-out, fractional, only."


@with_study_options
@with_shared_options
def ablate(
    seeds: Annotated[int, typer.Option(min=1, help="Seeds per cell.")] = 3,
    design: Annotated[
        str | None, typer.Option(help=DESIGN_HELP, show_default="factorial up to 8 cells, else one-at-a-time")
    ] = None,
    baseline: Annotated[
        str | None, typer.Option(help="What changes are held against, and any value for all: norm=bn,width=0.5.")
    ] = None,
    recipe: Annotated[
        str, typer.Option(help="What all cells start from: laptop, modern, paper, or a TOML file.")
    ] = "laptop",
    *,
    how: StudyOptions,
    **given: Any,
) -> None:
    """Ablate AlexNet: the published network against the levels you name.

    [bold]alexnet-lab ablate --norm bn --act leaky[/]          all four combinations
    [bold]alexnet-lab ablate --norm bn,none --seeds 6[/]       three norms, six seeds
    [bold]alexnet-lab ablate --norm lrn:k=1,alpha=2,bn[/]      two levels: LRN, BN
    [bold]alexnet-lab ablate --augment "flip,crop;xray"[/]     two levels: ; between
    [bold]alexnet-lab ablate --act prelu --baseline width=0.5,act=leaky[/]
    [bold]alexnet-lab ablate --dropout 0.3 --data xrays.zip --plan[/]
    [bold]alexnet-lab ablate --norm bn --track tensorboard:tb[/]
    [bold]alexnet-lab ablate --norm bn --margin 1 --level 0.9[/]   what to say of it

    The published value of each part is always in, as the baseline, or what the
    recipe or --baseline says. Designs: factorial crosses all levels;
    one-at-a-time changes one; leave-one-out changes all and takes each back;
    fractional crosses a part, for four factors or more; only compares whole
    variants. Each run is a process and a folder of its own; the same command
    again does only what is missing; more seeds or levels extend the study.
    Another --margin or --level trains nothing again, and the study keeps it.
    """
    from alexnet_ablations.declare.study import declare

    console = open_console()
    factors, shared = divide(given, baseline)
    if not factors:
        flags = ", ".join("--" + field.replace("_", "-") for field in FACTORS)
        raise ValueError(f"nothing to ablate: name at least one of {flags}; for example --norm bn --act leaky")
    start = {**read_start(recipe), **shared}
    # What the study is called depends on its levels, so it is read once to be named and once for its folder.
    folder = how.out or Path("runs") / folder_name(declare(factors, start, Path(), design="one-at-a-time", seeds=seeds))
    study = declare(
        factors,
        {**start, **on_this_machine(start, folder, how.jobs)},
        folder,
        design=design,
        seeds=seeds,
        margin=how.margin,
        level=how.level,
    )
    plan_run_conclude(console, study, how)
