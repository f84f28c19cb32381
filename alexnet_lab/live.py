"""What is redrawn in place while something runs: on a terminal by Rich, in a notebook in the output of its cell.

    console = screen()
    live = live_on(console)
    live.start()
    live.update(bar, refresh=True)
    console.print("epoch 1")  # a line that stays, above what is redrawn
    live.stop()

A terminal, a notebook and a file differ in nothing else: `console.is_terminal` says whether redrawing makes sense.
"""

import io
import sys
from typing import Any, Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from alexnet_lab.terminal import PlainConsole, open_console

NOTEBOOK_WIDTH = 110  # letters in a line of a notebook's output
NOTEBOOK_HEIGHT = 30
MOST_LINES = 60  # of a notebook's cell: what was printed before them is left out
HTML = (
    '<pre style="white-space:pre-wrap;line-height:1.25;margin:0;font-family:ui-monospace,DejaVu Sans Mono,monospace">'
    "<code>{code}</code></pre>"
)


class Interrupted(KeyboardInterrupt):  # as Python's own
    """Work was interrupted, and saved: the same call goes on."""

    def _render_traceback_(self) -> list[str]:
        """Tell a notebook to show the sentence alone; nothing went wrong that a trace would explain."""
        return [str(self)]


class Redrawn(Protocol):
    """What is redrawn in place until it is stopped."""

    def start(self) -> None:
        """Begin."""

    def update(self, renderable: RenderableType, *, refresh: bool = False) -> None:
        """Draw this in the place of what was drawn before."""

    def stop(self) -> None:
        """Take it away."""


def screen() -> Console:
    """Return where progress is shown: the notebook's cell that is being run, else the terminal or a file."""
    return NotebookConsole() if in_notebook() else open_console()


def in_notebook() -> bool:
    """Say whether a notebook's kernel runs this code; nothing is imported to find out."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return hasattr(shell, "kernel")


def live_on(console: Console) -> Redrawn:
    """Return what redraws in place on a console."""
    if isinstance(console, NotebookConsole):
        return NotebookLive(console)
    return Live(console=console, auto_refresh=False, transient=True, vertical_overflow="crop")


class NotebookConsole(PlainConsole):
    """The output of one cell of a notebook: printed lines, and below them what is redrawn."""

    def __init__(self) -> None:
        super().__init__(
            file=io.StringIO(),
            force_terminal=True,
            force_jupyter=False,
            legacy_windows=False,
            emoji=False,
            width=NOTEBOOK_WIDTH,
            height=NOTEBOOK_HEIGHT,
        )
        self._lines: list[Text] = []
        self._drawn: RenderableType | None = None
        self._cell: Any = None  # IPython's handle of the output

    def print(self, *objects: Any, **options: Any) -> None:
        """Add lines that stay."""
        with self.capture() as captured:
            super().print(*objects, **options)
        self._lines += Text.from_ansi(captured.get()).split()
        del self._lines[:-MOST_LINES]
        self.draw(self._drawn)

    def draw(self, renderable: RenderableType | None) -> None:
        """Show the lines that stay, and this below them."""
        self._drawn = renderable
        paper = Console(
            file=io.StringIO(), record=True, force_terminal=True, force_jupyter=False, emoji=False, width=self.width
        )
        if self._lines or renderable is not None:
            paper.print(Group(*self._lines, *(() if renderable is None else (renderable,))), markup=False)
        content = {
            "text/html": paper.export_html(clear=False, inline_styles=True, code_format=HTML),
            "text/plain": paper.export_text(),
        }
        if self._cell is None:
            from IPython.display import display

            self._cell = display(content, raw=True, display_id=True)  # type: ignore[no-untyped-call]
        else:
            self._cell.update(content, raw=True)


class NotebookLive:
    """Redraws below the lines of a notebook's cell."""

    def __init__(self, console: NotebookConsole) -> None:
        self.console = console

    def start(self) -> None:
        """Begin; nothing is shown yet."""

    def update(self, renderable: RenderableType, *, refresh: bool = False) -> None:
        """Draw this in the place of what was drawn before; without `refresh` the next line or drawing shows it."""
        if refresh:
            self.console.draw(renderable)

    def stop(self) -> None:
        """Leave the lines alone."""
        self.console.draw(None)
