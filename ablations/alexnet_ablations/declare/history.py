"""What a coordinator knows of a run's attempts, in the run's folder: RUN/attempts.jsonl.

    {"started": "2026-11-24T18:30:04Z", "slot": "gpu 1"}
    {"ended": "2026-11-24T18:31:10Z", "state": "ok", "seconds": 66.1, "memory": 912261120}

One line when an attempt starts and one when it ends, appended. Nothing depends on them: the run's own files say what
the run is and how it ended. A line that a crash tore, or that somebody changed, is passed over.
"""

import json
import time
from calendar import timegm
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from alexnet_lab.records import parse_json, read_text

FILE = "attempts.jsonl"
STAMP = "%Y-%m-%dT%H:%M:%SZ"


@dataclass(frozen=True)
class History:
    """The attempts at one run."""

    attempts: int = 0
    slot: str | None = None  # of the last attempt
    started: float | None = None  # of the last attempt, in seconds since 1970
    seconds: float | None = None  # that the last attempt took, if it has ended
    state: str | None = None  # in which the last attempt ended, if it has
    memory: int = 0  # bytes that any attempt held at the most


def note_start(folder: Path, slot: str) -> None:
    """Append the start of an attempt."""
    _append(folder, {"started": time.strftime(STAMP, time.gmtime()), "slot": slot})


def note_end(folder: Path, state: str, seconds: float, memory: int) -> None:
    """Append the end of an attempt."""
    ended = time.strftime(STAMP, time.gmtime())
    _append(folder, {"ended": ended, "state": state, "seconds": round(seconds, 3), "memory": memory})


def read_history(folder: Path) -> History:
    """Read the attempts at the run of a folder; none where nothing is recorded."""
    try:
        lines = read_text(folder / FILE, errors="replace").splitlines()
    except (OSError, ValueError):  # never started by a coordinator, or unreadable: the run's own files say how it ended
        return History()
    history = History()
    for line in lines:
        history = _next(history, line)
    return history


def _next(history: History, line: str) -> History:
    try:
        row = parse_json(line)
        if "started" in row:
            started = float(timegm(time.strptime(row["started"], STAMP)))
            return History(history.attempts + 1, str(row["slot"]), started, memory=history.memory)
        memory = max(history.memory, int(row["memory"]))
        return replace(history, seconds=float(row["seconds"]), state=str(row["state"]), memory=memory)
    except (ValueError, TypeError, KeyError, OverflowError):  # the latter for the whole number of an infinite one
        return history


def _append(folder: Path, row: dict[str, Any]) -> None:
    with (folder / FILE).open("a") as file:
        file.write(json.dumps(row) + "\n")
