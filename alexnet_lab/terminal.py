"""The terminal that commands print to: it shows any text as text, and never fails because of a character.

Names of classes and files come from elsewhere and may hold anything. Characters that would steer the terminal are shown
as \\x1b, those that the terminal's encoding lacks as something similar (-> for an arrow) or as a question mark.
"""

import codecs
import re
import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

# Control characters but for tab and newline, what reverses the order of writing, and bytes of names that are no UTF-8.
STEERING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]",
)
# One character for the ellipsis, with which tables and bars cut off what is too wide for them.
SIMILAR = {
    "→": "->",
    "×": "x",
    "−": "-",
    "–": "-",
    "—": "-",
    "±": "+/-",
    "≤": "<=",
    "≥": ">=",
    "…": "~",
    "·": ".",
    "“": '"',
    "”": '"',
    "‘": "'",
    "’": "'",
}
SUBSTITUTE = "alexnet-lab.substitute"  # the name of our handler of characters that an encoding lacks


def open_console(*, stderr: bool = False) -> Console:
    """Return the terminal; where there is none, lines are wide enough that no table breaks."""
    console = PlainConsole(stderr=stderr, emoji=False)
    return console if console.is_terminal else PlainConsole(stderr=stderr, emoji=False, width=120)


def print_anything() -> None:
    """Let standard output and error write something similar for characters that their encoding lacks."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a stand-in, as of a notebook, has its own ways
            stream.reconfigure(errors=SUBSTITUTE)


def as_text(text: str) -> str:
    r"""Write characters that steer a terminal as \x1b, \u202e; a byte of a name that is no UTF-8 as \xff."""
    return STEERING.sub(lambda match: _escape(ord(match[0])), text)


class PlainConsole(Console):
    """A console that shows every character of what it is given, and lets none of them steer the terminal."""

    def render_str(self, text: str, **options: Any) -> Text:
        """Escape text before it is laid out, so that what is shown has the width it was given."""
        return super().render_str(self._shown(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Escape what reaches the terminal by another way than a string; Rich's own control segments stay."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(self._shown(segment.text), segment.style)

    def _shown(self, text: str) -> str:
        return as_text(text).encode(self.encoding, SUBSTITUTE).decode(self.encoding)


def _escape(code: int) -> str:
    if 0xDC80 <= code <= 0xDCFF:  # how Python keeps a byte that it could not decode
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def _substitute(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(SIMILAR.get(character, "?") for character in error.object[error.start : error.end]), error.end


codecs.register_error(SUBSTITUTE, _substitute)
