"""The status of a study, read from its folders alone: which runs ended and how, which are in progress, which wait.

Nothing here writes. What a folder says counts, and its lock says whether a process works in it. Of runs on other
machines their attempts are read (alexnet_lab/training/handover.py), and what their scheduler says is passed in.
"""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from alexnet_ablations.declare.history import History, read_history
from alexnet_ablations.declare.study import PlannedRun
from alexnet_lab.locks import Lock
from alexnet_lab.records import RunFolder
from alexnet_lab.training.handover import attempts_in, attempts_of, furthest_attempt, without_attempt

# In the order in which they are shown. `lost`: it began, nobody works on it, and it left no verdict.
STATES = ("ok", "diverged", "oom", "error", "timeout", "lost", "damaged", "running", "waiting")
FAILED = ("oom", "error", "timeout", "lost", "damaged")
RETRIED = (*FAILED, "diverged")
COORDINATOR_LOCK = "coordinator.lock"
RUN_PLACES = ("runs", "tuned", "tuning")  # below a study's folder: see declare/study.py


@dataclass(frozen=True)
class Sighting:
    """What a scheduler says of a run at this moment."""

    text: str  # slurm job 12_3: RUNNING on n1
    is_running: bool


@dataclass(frozen=True)
class RunStatus:
    """The state of one run."""

    cell: str
    seed: int
    state: str
    why: str = ""
    epochs: int = 0  # that it logged
    progress: Mapping[str, Any] = field(default_factory=dict)  # what it last said, while it runs or if it was killed
    accuracy: float | None = None  # validation, last
    seconds: float | None = None  # that its logged epochs took
    holder: str | None = None
    history: History = field(default_factory=History)
    scheduler: str = ""  # what the scheduler of its cluster says of it
    search_of: str | None = None  # the cell that this run of a search is about; None: a run of the comparison


def status_of(
    folder: RunFolder,
    cell: str,
    seed: int,
    sighting: Sighting | None = None,
    attempts: Sequence[Path] | None = None,
    *,
    is_coordinated: bool = False,
) -> RunStatus:
    """Read the state of a run from its folder, whatever the folder is like.

    Of a run that is not published the furthest of its attempts is read, which are looked up unless they are given. It
    is running if a scheduler says so, or if it has not ended and a coordinator is at work in the study.
    """
    if attempts is None:
        attempts = attempts_of(folder.path)
    if path := furthest_attempt(folder.path, attempts) if attempts else None:
        folder = RunFolder(path)
    holder, history = Lock(folder.lock).holder(), read_history(folder.path)
    if sighting is not None and sighting.is_running:
        holder = sighting.text
    elif sighting is None and is_coordinated and path is not None:
        histories = [read_history(attempt) for attempt in attempts]
        holder = next((one.slot for one in histories if one.attempts and one.state is None), None)
    status = _read_status(folder, cell, seed, holder, history)
    if sighting is None:
        return status
    if status.state == "lost":  # an attempt was cut off, and the next one has its place in the queue
        status = replace(status, state="waiting", why="")
    return replace(status, scheduler=sighting.text)


def _read_status(folder: RunFolder, cell: str, seed: int, holder: str | None, history: History) -> RunStatus:
    damage, rows, verdict, began = "", [], None, False
    try:
        rows = list(folder.metrics())
        verdict, began = folder.verdict(), folder.recipe() is not None
    except ValueError as error:
        damage = str(error)
    if damage:
        state, why = "running" if holder else "damaged", damage
    elif holder:
        state, why = "running", ""
    elif verdict is not None and (damages := folder.damages()):
        state = "damaged"
        why = f"{', '.join(damages)} changed after it ended; leave it as it is: the same command makes it again"
    elif verdict is not None:
        state, why = str(verdict.get("state", "damaged")), without_attempt(str(verdict.get("why", "")))
    elif began:
        state, why = "lost", "it was cut off before it ended; the same command goes on with it"
    else:
        state, why = "waiting", ""
    return RunStatus(
        cell,
        seed,
        state if state in STATES else "damaged",
        why,
        epochs=len(rows),
        progress=(folder.progress() or {}) if holder or state == "lost" else {},
        accuracy=rows[-1].get("validation_accuracy") if rows else None,
        seconds=sum(row.get("seconds") or 0.0 for row in rows) if rows else None,
        holder=holder,
        history=history,
    )


def statuses(
    runs: Sequence[PlannedRun], sightings: Mapping[Path, Sighting] | None = None, *, is_coordinated: bool = False
) -> list[RunStatus]:
    """Read the state of every planned run; `sightings` are what schedulers say, by absolute folder."""
    reported = sightings or {}
    attempts: dict[Path, list[Path]] = {}
    for cell in {run.folder.path.parent for run in runs}:  # each is listed once
        attempts |= attempts_in(cell)
    return [
        status_of(
            run.folder,
            run.cell.name,
            run.seed,
            reported.get(run.folder.path.absolute()),
            attempts.get(run.folder.path, []),
            is_coordinated=is_coordinated,
        )
        for run in runs
    ]


def found_runs(study: Path) -> list[tuple[str, int, RunFolder]]:
    """List the run folders that are there, for a study whose declaration cannot be read."""
    folders = []
    for path in (path for place in RUN_PLACES for path in (study / place).glob("*/seed-*")):
        seed = re.fullmatch(r"seed-(\d+)", path.name)
        if seed and path.is_dir():
            folders.append((path.parent.name, int(seed[1]), RunFolder(path)))
    return sorted(folders, key=lambda run: (run[1], run[0], run[2].path))


def coordinator_of(study: Path) -> str | None:
    """Say who coordinates the study at this moment; None if nobody does."""
    return Lock(study / COORDINATOR_LOCK).holder()


def share_done(progress: Mapping[str, Any], epochs: int, planned: int) -> float:
    """Return how much of a run is done, 0 to 1: by steps where it says so, else by the epochs it logged."""
    steps = progress.get("steps")
    share = progress.get("step", 0) / steps if steps else epochs / planned
    return float(min(max(share, 0.0), 1.0))


def time_left(
    ended: Sequence[tuple[str, float]],
    running: Sequence[tuple[str, float, float]],
    waiting: Sequence[str],
    slots: int,
) -> float | None:
    """Return the seconds until all runs have ended; None while nothing is known.

    `ended` holds cell and seconds, `running` cell, seconds so far and share done, `waiting` cells. A run takes what the
    runs of its cell took on average, or else those of any cell; before any has ended, those in progress are projected.
    """
    of_cell: dict[str, list[float]] = defaultdict(list)
    for cell, seconds in ended:
        of_cell[cell].append(seconds)
    measured = [seconds for _, seconds in ended]
    projected = [seconds / share for _, seconds, share in running if share > 0.02]
    if not measured and not projected:
        return None
    typical = fmean(measured or projected)

    def expected(cell: str) -> float:
        return fmean(of_cell[cell]) if of_cell[cell] else typical

    rest = []
    for cell, seconds, share in running:
        # Its own speed counts for as much as it has shown of itself.
        own = seconds / share if share > 0.02 else expected(cell)
        rest.append(max(share * own + (1 - share) * expected(cell) - seconds, 0.0))
    work = sum(rest) + sum(expected(cell) for cell in waiting)
    return max(work / max(slots, 1), *rest, 0.0)
