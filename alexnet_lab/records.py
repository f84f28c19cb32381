"""The run folder: the contract between the floors.

    recipe.json        what was asked for
    provenance.json    versions, machine, data fingerprint: under what it ran
    metrics.jsonl      one line per epoch, appended as it happens
    checkpoints/       weights and optimiser, safetensors and JSON
    flow/              what the instruments saw (instruments/flow.py), where the recipe carries any
    split.json         which image served which purpose
    progress.json      how far it is, twice a second at most; what is left of it after a kill is where it was killed
    output.txt         what the process printed, where a coordinator started it
    run.lock           held by the process that may write here; the file alone means nothing (locks.py)
    state.json         how it ended: ok, diverged, oom, error, timeout or lost, and why; absent until then

Only its own run writes in it, and holds run.lock meanwhile. One thing is written by another: a coordinator whose run
was over its time, or died twice without a word, takes the lock that the dead process let go of, and gives the verdict
that the run cannot give any more, `timeout` or `lost`. So the folders alone say how every run ended. A folder without
state.json that nobody holds is that of a lost run too: it was cut off, with whoever watched it.

Every write is atomic or appends, and a reader tolerates a torn last line. Plain formats, readable without this code;
nothing is ever unpickled.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

State = Literal["ok", "diverged", "oom", "error", "timeout", "lost"]


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file so that a reader, or a crash, finds either the old one or the new one, whole."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    data = content.encode() if isinstance(content, str) else content
    try:
        with scratch.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)  # still there only if something failed, such as a full disk


class RunFolder:
    """One run's folder, for its run to write and for anyone to read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def lock(self) -> Path:
        """Return the file whose lock the writer of this folder holds."""
        return self.path / "run.lock"

    def begin(self, recipe: str, provenance: dict[str, Any], split: str) -> None:
        """Start afresh: whatever an earlier attempt left is cleared first, its verdict before its numbers."""
        checkpoints = self.path / "checkpoints"
        checkpoints.mkdir(parents=True, exist_ok=True)
        (self.path / "state.json").unlink(missing_ok=True)
        (self.path / "metrics.jsonl").unlink(missing_ok=True)
        flow = [*(self.path / "flow").glob("*.npz"), *(self.path / "flow").glob("layout.json")]
        for stale in [*checkpoints.glob("*.json"), *checkpoints.glob("*.safetensors"), *flow]:
            stale.unlink()
        write_atomically(self.path / "recipe.json", recipe)
        write_atomically(self.path / "split.json", split)
        write_atomically(self.path / "provenance.json", json.dumps(provenance, indent=2))

    def go_on_after(self, epoch: int) -> None:
        """Take up a run again: lines of epochs that will be repeated are dropped, and so is an earlier verdict."""
        (self.path / "state.json").unlink(missing_ok=True)
        kept = [json.dumps(row) + "\n" for row in self.metrics() if row["epoch"] <= epoch]
        write_atomically(self.path / "metrics.jsonl", "".join(kept))
        for path in (self.path / "flow").glob("epoch-*.npz"):
            if int(path.stem.removeprefix("epoch-")) > epoch:
                path.unlink()

    def log(self, row: dict[str, Any]) -> None:
        """Append one line of metrics."""
        with (self.path / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")

    def end(self, state: State, why: str = "", result: dict[str, Any] | None = None) -> None:
        """Write the verdict, last of all."""
        verdict = {"state": state, "why": why, "result": result or {}}
        write_atomically(self.path / "state.json", json.dumps(verdict, indent=2))

    def note_progress(self, facts: dict[str, Any]) -> None:
        """Say how far the run is; nothing depends on it, so it need not reach the disk before the run goes on."""
        scratch = self.path / ".progress.json"
        scratch.write_text(json.dumps(facts))
        scratch.replace(self.path / "progress.json")

    def forget_progress(self) -> None:
        """Take the note away: the run has ended."""
        (self.path / "progress.json").unlink(missing_ok=True)

    def progress(self) -> dict[str, Any] | None:
        """Return how far the run is, or None while it has not said."""
        try:
            return _read_json(self.path / "progress.json")
        except ValueError:  # a power cut may leave it empty
            return None

    def recipe(self) -> dict[str, Any] | None:
        """Return the recipe as it was written, or None."""
        return _read_json(self.path / "recipe.json")

    def provenance(self) -> dict[str, Any] | None:
        """Return under what the run ran, or None."""
        return _read_json(self.path / "provenance.json")

    def verdict(self) -> dict[str, Any] | None:
        """Return how the run ended, or None while it has not."""
        verdict = _read_json(self.path / "state.json")
        if verdict is not None and "state" not in verdict:
            raise _damaged(self.path / "state.json", "it names no state")
        return verdict

    def metrics(self) -> Iterator[dict[str, Any]]:
        """Yield the lines of metrics; a line that a crash tore ends the reading."""
        path = self.path / "metrics.jsonl"
        if not path.exists():
            return
        for line in path.read_text(errors="replace").splitlines():
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                return
            if not isinstance(row, dict):
                return
            yield row


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, IsADirectoryError) as error:
        raise _damaged(path, str(error) if isinstance(error, ValueError) else "it is a folder") from None
    if not isinstance(content, dict):
        raise _damaged(path, "it holds no object")
    return content


def _damaged(path: Path, why: str) -> ValueError:
    return ValueError(f"{path} is damaged ({why}); delete it, and its run is made again")
