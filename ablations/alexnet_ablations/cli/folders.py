"""Folders that a command will write in, looked at before anything is trained or measured for them."""

import os
from pathlib import Path
from typing import Literal

# A folder that has the one is no place for the other: both would be read as something they are not.
MARKS = {"study": "study.toml", "run": "recipe.json"}


def refuse_place(folder: Path, belongs_to: Literal["study", "run"] | None = None) -> None:
    """Refuse a folder that cannot be written, or that holds a study where a run is to stand, or a run for a study."""
    standing = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not standing.is_dir():
        raise ValueError(f"{folder} must be a folder that can be written, and {standing} is a file; {_ELSE}")
    if not os.access(standing, os.W_OK | os.X_OK):
        raise ValueError(f"{folder} must be a folder that can be written, and {standing} cannot be; {_ELSE}")
    for what, mark in MARKS.items():
        if belongs_to is not None and what != belongs_to and (folder / mark).exists():
            raise ValueError(f"{folder} holds a {what}, and a {belongs_to} needs a folder of its own; {_ELSE}")


_ELSE = "choose another with --out"
