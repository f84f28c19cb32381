"""alexnet-lab bench: measure on this machine."""

import typer

bench = typer.Typer(no_args_is_help=True)


@bench.callback()
def _measure() -> None:
    """Measure on this machine: correctness first, then ratios within one run.

    [bold]alexnet-lab bench lrn --quick[/]     local response normalisation, a minute
    [bold]alexnet-lab bench lrn --help[/]      its options
    """


@bench.command(
    "lrn",
    add_help_option=False,  # the benchmark answers --help itself, with its own options
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def lrn(context: typer.Context) -> None:
    """Time local response normalisation beside torch, torch.compile and a copy."""
    from alexnet_kernels.bench import main

    raise typer.Exit(main(context.args, command="alexnet-lab bench lrn"))
