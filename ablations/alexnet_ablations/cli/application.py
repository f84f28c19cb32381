"""The application and its commands; errors that a user can act on end as one line."""

import logging
import os
import sys

import typer
from rich.markup import escape

import alexnet_lab
from alexnet_ablations.cli.ablate import ablate
from alexnet_ablations.cli.audit import audit
from alexnet_ablations.cli.bench import bench
from alexnet_ablations.cli.cache import cache
from alexnet_ablations.cli.compare import compare
from alexnet_ablations.cli.errors import EXPECTED, refuse_repeated, sentence_of
from alexnet_ablations.cli.evaluate import evaluate
from alexnet_ablations.cli.explain import explain
from alexnet_ablations.cli.export import export
from alexnet_ablations.cli.inspect import inspect
from alexnet_ablations.cli.networks import networks
from alexnet_ablations.cli.predict import predict
from alexnet_ablations.cli.report import report
from alexnet_ablations.cli.status import retry, status
from alexnet_ablations.cli.study import study
from alexnet_ablations.cli.train import train
from alexnet_lab.terminal import open_console, print_anything

PROGRAM = "alexnet-lab"  # in every message, whatever the file is called that was started
STOPPED = 130  # exit status after Ctrl-C, as shells have it

application = typer.Typer(
    name=PROGRAM,
    help="Take AlexNet as it was built in 2012, change one part or several, train both under the same random draws, "
    "and see what changed.",
    epilog="Tab completes commands and options once alexnet-lab --install-completion has been run.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
application.command()(ablate)
application.command()(study)
application.command()(status)
application.command()(retry)
application.command()(train)
application.command()(audit)
application.command()(networks)
application.command()(cache)
application.command()(report)
application.command()(inspect)
application.command()(compare)
application.command()(export)
application.command()(predict)
application.command()(evaluate)
application.command()(explain)
application.add_typer(bench, name="bench")


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"alexnet-lab {alexnet_lab.__version__}")
        raise typer.Exit


@application.callback()
def _top(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    """Options of alexnet-lab itself."""


def main() -> None:
    """Run the command line."""
    words = sys.argv[1:]
    print_anything()
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it tells where it keeps its fonts if HOME is read-only
    try:
        if words[:1] != ["bench"]:  # whose words are not ours to read
            refuse_repeated(words)
        status = application(prog_name=PROGRAM, standalone_mode=False)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read the output has read enough, as `| head` has
        status = 1
    except typer.Abort as error:
        if not isinstance(error.__context__, KeyboardInterrupt):
            raise
        status = STOPPED
    except EXPECTED as error:
        if words and words != ["bench"]:  # without a word there is help, which typer has printed by now
            # Escaped: a message may have square brackets of its own, as in `pip install "alexnet-lab[parquet]"`.
            message = escape(sentence_of(error, words))
            open_console(stderr=True).print(f"[bold red]error:[/] {message}", highlight=False, soft_wrap=True)
        status = 2
    _close_output()
    sys.exit(status)


def _close_output() -> None:
    """Drop what standard output cannot take any more; Python would fail over it once again as it ends."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
