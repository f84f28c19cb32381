"""The error for an unknown name: it lists the choices and the nearest one."""

from collections.abc import Iterable
from difflib import get_close_matches


def unknown_choice(what: str, received: object, choices: Iterable[str]) -> ValueError:
    """Return the error for a name that is not a choice; the caller raises it."""
    names = list(choices)
    near = get_close_matches(str(received), names, n=1, cutoff=0.5)
    guess = f" Did you mean {near[0]!r}?" if near else ""
    return ValueError(f"unknown {what} {str(received)!r}.{guess} Choices: {', '.join(names)}.")
