"""Names in a message: the first few of them, and how many more there are."""

from collections.abc import Sequence

IN_A_SENTENCE = 10
IN_LINES = 20
LONGEST = 200  # characters of a name


def in_brief(names: Sequence[str], most: int = IN_A_SENTENCE) -> str:
    """Return `a, b, c and 4 more`."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(_cut, names[:most])) + more


def line_by_line(heading: str, lines: Sequence[str]) -> str:
    """Return the heading with one indented line for each problem, and a last one that counts what is left out."""
    more = [f"... and {len(lines) - IN_LINES} more"] if len(lines) > IN_LINES else []
    return "\n  ".join([f"{heading}:", *map(_cut, lines[:IN_LINES]), *more])


def _cut(text: str) -> str:
    text = text.replace("\n", "\\n")
    return text if len(text) <= LONGEST else text[:LONGEST] + "..."
