"""The terminal that commands print to."""

import io
import sys

from rich.console import Console


def open_console() -> Console:
    """Return the terminal; where there is none, lines are wide enough that no table breaks."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a letter that its encoding lacks becomes a question mark
    console = Console()
    return console if console.is_terminal else Console(width=120)
