"""The terminal that commands print to."""

from rich.console import Console


def open_console() -> Console:
    """Return the terminal; where there is none, lines are wide enough that no table breaks."""
    console = Console()
    return console if console.is_terminal else Console(width=120)
