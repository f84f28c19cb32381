"""alexnet-lab ablate: change parts of AlexNet, train the combinations under the same draws, print what changed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from alexnet_ablations.cli.conditions import SET_BY_ONE_VALUE, divide, folder_name, on_this_machine
from alexnet_ablations.cli.recipe_options import with_study_options
from alexnet_ablations.cli.run_study import plan_run_conclude
from alexnet_ablations.cli.study_options import StudyOptions, with_shared_options
from alexnet_ablations.declare.declaration import FACTORS, read_start
from alexnet_lab.terminal import open_console

DESIGN_HELP = "factorial, one-at-a-time, leave-one-out, fractional, only."


@with_study_options
@with_shared_options
def ablate(
    recipe: Annotated[
        str, typer.Option(help="What all cells start from: laptop, modern, paper, or a TOML file.")
    ] = "laptop",
    seeds: Annotated[int, typer.Option(min=1, help="Seeds per cell.", rich_help_panel="Study")] = 6,
    design: Annotated[
        str | None,
        typer.Option(
            help=DESIGN_HELP, show_default="factorial up to 8 cells, else one-at-a-time", rich_help_panel="Study"
        ),
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option(
            metavar="FIELD=LEVEL,...",
            help="What changes are compared with, and any value for all cells: norm=bn,width=0.5.",
            rich_help_panel="Study",
        ),
    ] = None,
    *,
    how: StudyOptions,
    **given: Any,
) -> None:
    """Change parts of AlexNet, train all combinations, and say what changed.

    [bold]alexnet-lab ablate --norm bn --act leaky[/]          all four combinations
    [bold]alexnet-lab ablate --norm bn,none --seeds 12[/]      three norms, twelve seeds
    [bold]alexnet-lab ablate --norm lrn:k=1,alpha=2,bn[/]      two levels: LRN, BN
    [bold]alexnet-lab ablate --augment "flip,crop;xray"[/]     two levels: ; between
    [bold]alexnet-lab ablate --norm bn --preset torchvision[/] one preset for all cells
    [bold]alexnet-lab ablate --act prelu --baseline width=0.5,act=leaky[/]
    [bold]alexnet-lab ablate --dropout 0.3 --data xrays.zip --plan[/]
    [bold]alexnet-lab ablate --network resnet18,vgg11 --weights none,runs/cifar10[/]
    [bold]alexnet-lab ablate --sampling balanced --data xrays.zip[/]
    [bold]alexnet-lab ablate --norm bn --track tensorboard:tb[/]
    [bold]alexnet-lab ablate --norm bn --margin 1 --level 0.9[/]
    [bold]alexnet-lab ablate --norm bn --executor slurm --partition gpu --time 4h[/]
    [bold]alexnet-lab ablate --norm bn --tune learning_rate:8[/]
    [bold]alexnet-lab ablate --norm bn --tune learning_rate --within 30m[/]
    [bold]alexnet-lab ablate --norm bn --data xrays/ --folds 5[/]  every image tested
    [bold]alexnet-lab ablate --norm bn --data xrays/ --resplit[/]

    An option that takes LEVELS, one or several with commas between, is varied:
    each level is compared with the published value, or with what the recipe or
    --baseline names. A single --network, --preset or --epochs is not varied but
    set for all cells; --baseline sets any other field.

    Designs: factorial trains all combinations; one-at-a-time changes one field
    at a time; leave-one-out changes all and takes each change back; fractional
    trains a part of the combinations of four fields or more; only compares whole
    variants.

    --tune tries the same values in every cell, under each seed the recipe's own
    and others around it, chooses by validation, and compares the cells at their
    best under fresh seeds. More points or seeds later extend the search;
    "learning_rate=1e-4..1e-1,weight_decay:16" names a range and two fields, and
    :once at the end searches once per cell, not once per seed. With --within 30m
    there are as many points as their runs are expected to take that time.

    --folds 5 is for small sets: under each seed a cell is trained five times and
    tested on every image once; all images of a patient are in one fold.
    --resplit draws training, validation and test images anew for each seed, so
    that conclusions are about other training images too.

    Each run is a process with a folder of its own. The same command again makes
    only the runs that are missing; more seeds or levels extend the study.
    Another --margin or --level trains nothing, and the study keeps it.
    """
    from alexnet_ablations.declare.study import declare_study

    console = open_console()
    factors, shared = divide(given, baseline)
    if not factors:
        raise nothing_to_vary(shared)
    start = {**read_start(recipe), **shared}
    # The name of the folder depends on the levels, so the study is declared once for its name and once for its folder.
    folder = how.out or Path("runs") / folder_name(
        declare_study(factors, start, Path(), design="one-at-a-time", seeds=seeds, folds=how.folds, resplit=how.resplit)
    )
    study = declare_study(
        factors,
        {**start, **on_this_machine(start, folder, how.jobs)},
        folder,
        design=design,
        seeds=seeds,
        margin=how.margin,
        level=how.level,
        tune=how.tune,
        folds=how.folds,
        resplit=how.resplit,
    )
    plan_run_conclude(console, study, how)


def nothing_to_vary(shared: Mapping[str, Any]) -> ValueError:
    """Return the error for flags that vary no field."""
    single = next((name for name in SET_BY_ONE_VALUE if name in shared), None)
    if single is not None:
        value = shared[single]
        return ValueError(
            f"nothing to ablate: a single --{single} is set for all cells; name a part to vary, for example --norm bn, "
            f"or what {value} is compared with: --{single} {value} --baseline {single}=ANOTHER"
        )
    flags = ", ".join("--" + field.replace("_", "-") for field in FACTORS)
    return ValueError(f"nothing to ablate: name at least one of {flags}; for example --norm bn --act leaky")
