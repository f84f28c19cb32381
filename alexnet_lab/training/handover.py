"""Several attempts at one run, each in a folder of its own, on machines that share no locks.

    runs/norm=bn/seed-3                    the run: there as soon as an attempt at it has ended with a verdict
    runs/norm=bn/seed-3.attempt-5f0c...    an attempt: in progress, cut off, or about to be published

An attempt goes on from the furthest checkpoint that another attempt left, of which it takes a copy, so that no two
processes ever write in one folder. It is published by renaming its folder to the run's name: whoever ends first wins,
and whoever ends second deletes its own. A run has the same numbers whoever makes it, so it does not matter which.
"""

import errno
import re
import shutil
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

_NAME = re.compile(r"\.attempt-[0-9a-f]{32}")
# What belongs to one attempt alone. The recipe is written by whoever starts the next one.
_OWN = {"state.json", "recipe.json", "run.lock", "output.txt", "attempts.jsonl", "progress.json", "report", "export"}
# Times that a pair of files is copied again because its writer replaced one of the two meanwhile.
_COPIES = 5


def new_attempt(run: Path) -> Path:
    """Return the folder for another attempt at a run; its name is like no other's, on any machine."""
    return run.with_name(f"{run.name}.attempt-{uuid.uuid4().hex}")


def run_of(folder: Path) -> Path:
    """Return the folder of the run that an attempt belongs to; a run's folder is its own."""
    return folder.with_name(_NAME.sub("", folder.name))


def without_attempt(text: str) -> str:
    """Return a text with the names of runs in place of those of attempts at them."""
    return _NAME.sub("", text)


def attempts_in(cell: Path) -> dict[Path, list[Path]]:
    """Return the folders of the attempts that are not published, by run, of all runs in one folder."""
    attempts: dict[Path, list[Path]] = {}
    try:
        names = sorted(path.name for path in cell.iterdir())
    except OSError:  # nothing of this cell has begun
        return attempts
    for name in names:
        run = _NAME.sub("", name)
        if run != name:
            attempts.setdefault(cell / run, []).append(cell / name)
    return attempts


def attempts_of(run: Path) -> list[Path]:
    """Return the folders of the attempts at a run that are not published, by name."""
    return attempts_in(run.parent).get(run, [])


def furthest_step(folder: Path) -> int:
    """Return the step of the newest checkpoint in a run's folder, whole or not; -1 where there is none."""
    return max((int(path.stem[5:]) for path in (folder / "checkpoints").glob("step-*[0-9].json")), default=-1)


def furthest_attempt(run: Path, attempts: Sequence[Path] | None = None) -> Path:
    """Return the folder of the attempt at a run that got furthest; the run's own once it is there, or if none began."""
    if run.exists():
        return run
    return max(attempts_of(run) if attempts is None else attempts, key=_progress_of, default=run)


def others_further(folder: Path) -> list[Path]:
    """Return the other attempts at the same run that have a later checkpoint than this one, the furthest first."""
    run, own = run_of(folder), furthest_step(folder)
    others = {path: furthest_step(path) for path in (run, *attempts_of(run)) if path != folder}
    return sorted((path for path, step in others.items() if step > own), key=lambda path: -others[path])


def take_over(source: Path, folder: Path) -> None:
    """Copy what a run needs to go on from another attempt's folder into this one, whatever was there before.

    The other attempt may be working on: a checkpoint is never changed once it is written, records only grow, and what
    was torn by copying fails the digests in the checkpoint.
    """
    for name in ("checkpoints", "flow"):
        shutil.rmtree(folder / name, ignore_errors=True)
    # Checkpoints first: whatever the others say by then, they have what the checkpoint was written after.
    _copy_files(source / "checkpoints", folder / "checkpoints", skip=_is_of_best)
    _copy_best(source / "checkpoints", folder / "checkpoints")
    _copy_files(source, folder, skip=lambda path: path.name in _OWN)
    _copy_files(source / "flow", folder / "flow")


def publish(attempt: Path) -> bool:
    """Give an attempt that has its verdict the name of its run; if the run is there already, delete the attempt.

    Renaming is atomic, and fails where the name belongs to a folder that is not empty.
    """
    try:
        attempt.rename(run_of(attempt))
    except FileNotFoundError:  # somebody published it for us
        return False
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        shutil.rmtree(attempt, ignore_errors=True)
        return False
    return True


def set_aside(run: Path) -> Path | None:
    """Make a run's folder an attempt, so that its name is free for the next one; the caller must hold its lock."""
    attempt = new_attempt(run)
    try:
        run.rename(attempt)
    except FileNotFoundError:
        return None
    # The lock belongs to the old name: who waits for it must not find it under the new one.
    (attempt / "run.lock").unlink(missing_ok=True)
    return attempt


def remove_attempts(run: Path) -> None:
    """Delete what is left of the attempts at a run that is done; one that still works on can do no harm by it."""
    for attempt in attempts_of(run):
        shutil.rmtree(attempt, ignore_errors=True)


def _progress_of(attempt: Path) -> tuple[int, int]:
    """Return a measure of how far an attempt is: what it logged, and its newest checkpoint."""
    try:
        logged = (attempt / "metrics.jsonl").stat().st_size
    except FileNotFoundError:
        logged = -1
    return logged, furthest_step(attempt)


def _copy_files(source: Path, target: Path, skip: Callable[[Path], bool] = lambda _path: False) -> None:
    if not source.is_dir():
        return
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted(source.iterdir()):
        if path.is_file() and not path.name.startswith(".") and not skip(path):
            with suppress(FileNotFoundError):  # an attempt in progress removed it: the checkpoint before the last two
                shutil.copyfile(path, target / path.name)


def _is_of_best(path: Path) -> bool:
    return path.stem == "best"


def _copy_best(source: Path, target: Path) -> None:
    """Copy the best weights and the facts that belong to them: those that were there before and after the copy."""
    facts, weights = source / "best.json", source / "best.safetensors"
    if not facts.exists():
        return
    for _ in range(_COPIES):
        before = facts.read_bytes()
        with suppress(FileNotFoundError):
            shutil.copyfile(weights, target / weights.name)
        if facts.read_bytes() == before:
            break
    (target / facts.name).write_bytes(before)
