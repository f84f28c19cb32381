"""Folders that a command will write in, checked before anything is trained or measured for them."""

import os
from pathlib import Path
from typing import Literal

# A folder that has one of these cannot be used for the other: both would be read as something they are not.
MARKS = {"study": "study.toml", "run": "recipe.json"}


def refuse_place(folder: Path, belongs_to: Literal["study", "run"] | None = None) -> None:
    """Refuse a folder that cannot be written, or that holds a run or a study where the other is meant."""
    must = f"{folder} must be a folder that can be written, and"
    if str(folder).startswith("-"):
        raise ValueError(f"{folder} would be read as an option by the commands that are given this folder; {_ELSE}")
    if folder.is_symlink() and not folder.exists():
        raise ValueError(f"{must} it is a link that leads nowhere; {_ELSE}")
    existing = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not existing.is_dir():
        raise ValueError(f"{must} {existing} is a file; {_ELSE}")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise ValueError(f"{must} {existing} cannot be; {_ELSE}")
    for what, mark in MARKS.items():
        if belongs_to is not None and what != belongs_to and (folder / mark).exists():
            raise ValueError(f"{folder} holds a {what}, and a {belongs_to} needs a folder of its own; {_ELSE}")


_ELSE = "choose another with --out"
