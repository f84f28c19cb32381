"""The application and its commands; errors that a user can mend end as one line."""

import sys

import typer
from rich.console import Console
from rich.markup import escape

import alexnet_lab
from alexnet_ablations.cli.ablate import ablate
from alexnet_ablations.cli.bench import bench
from alexnet_ablations.cli.cache import cache
from alexnet_ablations.cli.compare import compare
from alexnet_ablations.cli.errors import UsageError, refuse_repeated, sentence_of
from alexnet_ablations.cli.export import export
from alexnet_ablations.cli.inspect import inspect
from alexnet_ablations.cli.networks import networks
from alexnet_ablations.cli.report import report
from alexnet_ablations.cli.status import retry, status
from alexnet_ablations.cli.study import study
from alexnet_ablations.cli.train import train

application = typer.Typer(
    name="alexnet-lab",
    help="Take AlexNet as it was built in 2012, change one part or several, train both under the same luck, "
    "and see what changed.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
application.command()(ablate)
application.command()(study)
application.command()(status)
application.command()(retry)
application.command()(train)
application.command()(networks)
application.command()(cache)
application.command()(report)
application.command()(inspect)
application.command()(compare)
application.command()(export)
application.add_typer(bench, name="bench")


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"alexnet-lab {alexnet_lab.__version__}")
        raise typer.Exit


@application.callback()
def _top(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    """Take part of every command."""


def main() -> None:
    """Run the command line."""
    words = sys.argv[1:]
    try:
        if words[:1] != ["bench"]:  # whose words are not ours to read
            refuse_repeated(words)
        status = application(standalone_mode=False)
    except (ValueError, OSError, UsageError) as error:
        if words and words != ["bench"]:  # without a word there is help, which typer has printed by now
            # Escaped: a message may have square brackets of its own, as in `pip install "alexnet-lab[parquet]"`.
            told = escape(sentence_of(error, words))
            Console(stderr=True).print(f"[bold red]error:[/] {told}", highlight=False, soft_wrap=True)
        status = 2
    sys.exit(status)
