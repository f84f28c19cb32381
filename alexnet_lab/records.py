"""The run folder: everything that one run writes, and the only thing that reports and studies read of it.

    recipe.json        every setting of the run
    provenance.json    versions, machine, fingerprint of the data
    split.json         indices of the training, validation and test images
    copies.json        images that are in two parts of the split, or under two classes
    dropped.json       images that the recipe left out, where it left out any
    metrics.jsonl      one line per epoch, appended at its end
    predictions.npz    probabilities for validation and test images at the tested weights (predictions_file.py)
    reference.npz      what the run's images look like, by which new ones are judged (training/reference.py)
    flow/              records of the instruments (instruments/flow.py), where the recipe has any
    checkpoints/       weights and optimiser, safetensors and JSON (training/checkpoint.py)
    progress.json      how far the run is, at most twice a second; after a kill, how far it was
    output.txt         what the process printed, where a coordinator started it
    run.lock           locked by the process that writes here; the file itself means nothing (locks.py)
    state.json         the verdict, written last: ok, diverged, oom, error, timeout or lost, and why

Only the run itself writes here, and holds the lock of run.lock meanwhile. The one exception is the verdict of a run
that can no longer write it: a coordinator takes the lock of the dead process and writes `timeout` or `lost`. A folder
without state.json that nobody has locked belongs to an interrupted run.

The verdict holds the SHA-256 of every file that the run wrote, and a digest of itself, so that damage is noticed.
Verdicts of version 0.1.0 have neither.

Every write is atomic or appends. Formats are plain; nothing is unpickled.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Literal, get_args

State = Literal["ok", "diverged", "oom", "error", "timeout", "lost"]

# What a verdict records, as patterns below the run folder.
RECORDED = (
    "recipe.json",
    "provenance.json",
    "split.json",
    "copies.json",
    "dropped.json",
    "metrics.jsonl",
    "predictions.npz",
    "reference.npz",
    "flow/layout.json",
    "flow/*.npz",
    "checkpoints/best.json",
    "checkpoints/best.safetensors",
)
PARTS = ("train", "validation", "test")
MOST_TEXT_BYTES = 2**28  # of a JSON file or of the metrics: a split of twenty million images, a million epochs
LONGEST_INTEGER = 20  # characters, as of -2^63
_LONG_NUMBER = re.compile(rf"[0-9]{{{LONGEST_INTEGER}}}")
# A file that write_atomically had not yet renamed: .NAME.PROCESS
_SCRATCH = re.compile(r"\..+\.\d+")


@contextmanager
def atomically(path: Path) -> Iterator[BinaryIO]:
    """Open a file to write so that a reader, or a crash, sees either the old content or the new, whole."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with scratch.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)  # still there only after a failure, such as a full disk


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file whole or not at all."""
    with atomically(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def digest_of(values: Mapping[str, Any]) -> str:
    """Return the SHA-256 of JSON values, the same for the values as written and as read back."""
    as_read = json.loads(json.dumps(values))
    return hashlib.sha256(json.dumps(as_read, sort_keys=True).encode()).hexdigest()


def title_of(path: Path) -> str:
    """Return what to call a run: its folder's name, and for a run of a study its cell too: norm=bn,act=relu/seed-0."""
    parts = path.resolve().parts
    return "/".join(parts[-2:] if re.fullmatch(r"seed-\d+", parts[-1]) else parts[-1:])


class RunFolder:
    """One run's folder. Readers return None for what was not written, and raise ValueError for what is damaged."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._digests: dict[Path, tuple[tuple[int, ...], str]] = {}  # by the file's identity, size and time

    @property
    def lock(self) -> Path:
        """Return the file whose lock the writer of this folder holds."""
        return self.path / "run.lock"

    def begin(self, recipe: str, provenance: dict[str, Any], split: str) -> None:
        """Start from nothing: what an earlier attempt left is removed, its verdict first.

        metrics.jsonl is replaced by an empty file and never missing, since others may be reading it.
        """
        (self.path / "checkpoints").mkdir(parents=True, exist_ok=True)
        (self.path / "state.json").unlink(missing_ok=True)
        write_atomically(self.path / "metrics.jsonl", "")
        stale_files = ("checkpoints/*.json", "checkpoints/*.safetensors", "flow/*.npz", "flow/layout.json", "*.npz")
        for pattern in (*stale_files, "copies.json", "dropped.json"):
            for stale in self.path.glob(pattern):
                stale.unlink()
        write_atomically(self.path / "recipe.json", recipe)
        write_atomically(self.path / "split.json", split)
        write_atomically(self.path / "provenance.json", json.dumps(provenance, indent=2))

    def resume_after(self, epoch: int) -> None:
        """Continue an interrupted run: drop the verdict, and the records of epochs that will be repeated."""
        (self.path / "state.json").unlink(missing_ok=True)
        write_atomically(self.path / "metrics.jsonl", self._metrics_until(epoch))
        for number, path in self._flow_files():
            if number > epoch:
                path.unlink()

    def history(self, epoch: int) -> dict[str, str]:
        """Return the digest of every record of the epochs up to this one, for a checkpoint to hold."""
        beginning = [self.path / name for name in ("recipe.json", "provenance.json", "split.json")]
        paths = [path for path in beginning if path.is_file()]
        paths += sorted(path for number, path in self._flow_files() if number <= epoch)
        digests = {path.relative_to(self.path).as_posix(): self._digest(path) for path in paths}
        return {**digests, "metrics.jsonl": hashlib.sha256(self._metrics_until(epoch).encode()).hexdigest()}

    def log(self, row: dict[str, Any]) -> None:
        """Append one line of metrics."""
        with (self.path / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")

    def end(self, state: State, why: str = "", result: dict[str, Any] | None = None) -> None:
        """Write the verdict, after everything else."""
        paths = sorted(path for pattern in RECORDED for path in self.path.glob(pattern) if path.is_file())
        files = {path.relative_to(self.path).as_posix(): self._digest(path) for path in paths}
        verdict = {"state": state, "why": why, "result": result or {}, "files": files}
        write_atomically(self.path / "state.json", json.dumps({**verdict, "digest": digest_of(verdict)}, indent=2))

    def leftovers(self) -> list[Path]:
        """Return half-written files, and checkpoints that nobody can continue from any more."""
        folders = (self.path, self.path / "checkpoints", self.path / "flow")
        scratch = [path for folder in folders for path in folder.glob(".*") if _SCRATCH.fullmatch(path.name)]
        steps = (self.path / "checkpoints").glob("step-*")
        try:
            verdict = self.verdict()
        except ValueError:  # the run is made again
            verdict = None
        if verdict is not None and verdict["state"] == "ok":
            return [*scratch, *steps]
        return scratch + [path for path in steps if not path.with_suffix(".json").exists()]

    def clear_leftovers(self) -> None:
        """Remove what a killed process left behind; the caller must hold the lock of this folder."""
        for path in self.leftovers():
            path.unlink(missing_ok=True)

    def note_progress(self, facts: dict[str, Any]) -> None:
        """Write how far the run is; nothing depends on it, so it is not forced to the disk."""
        scratch = self.path / ".progress.json"
        scratch.write_text(json.dumps(facts))
        scratch.replace(self.path / "progress.json")

    def forget_progress(self) -> None:
        """Remove the progress of a run that has ended."""
        (self.path / "progress.json").unlink(missing_ok=True)

    def progress(self) -> dict[str, Any] | None:
        """Return how far the run is, or None while it has not said; steps and epochs are whole numbers."""
        try:
            facts = _read_json(self.path / "progress.json")
        except ValueError:  # a power cut may leave it empty
            return None
        counts = [value for name, value in (facts or {}).items() if name in ("epoch", "epochs", "step", "steps")]
        return facts if all(type(count) is int and count >= 0 for count in counts) else None

    def recipe(self) -> dict[str, Any] | None:
        """Return the fields of the recipe as they were written; read_recipe checks them."""
        return _read_json(self.path / "recipe.json")

    def provenance(self) -> dict[str, Any] | None:
        """Return versions, machine and fingerprint: text, but for the lists `classes` and `notes`."""
        path = self.path / "provenance.json"
        facts = _read_json(path)
        for name, value in (facts or {}).items():
            if name in ("classes", "notes"):
                if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
                    raise _damaged(path, f"{name} is no list of texts")
            elif not isinstance(value, str):
                raise _damaged(path, f"{name} is no text")
        return facts

    def split(self) -> dict[str, list[int]] | None:
        """Return the indices of the images of each part."""
        path = self.path / "split.json"
        content = _read_json(path)
        if content is None:
            return None
        parts = {name: content[name] for name in PARTS if name in content}
        for name, indices in parts.items():
            if not isinstance(indices, list) or not set(map(type, indices)) <= {int}:
                raise _damaged(path, f"{name} is no list of indices")
            if indices and not 0 <= min(indices) <= max(indices) < 2**63:
                raise _damaged(path, f"{name} is no list of indices")
        return parts

    def verdict(self) -> dict[str, Any] | None:
        """Return how the run ended: state, why, result, files and digest (the last two since version 0.2)."""
        path = self.path / "state.json"
        verdict = _read_json(path)
        if verdict is None:
            return None
        if "digest" in verdict:
            body = {name: value for name, value in verdict.items() if name != "digest"}
            if verdict["digest"] != digest_of(body):
                raise _damaged(path, "its content does not match its digest")
            kinds: dict[str, type] = {"state": str, "why": str, "result": dict, "files": dict, "digest": str}
        else:
            kinds = {"state": str, "why": str, "result": dict}
        if verdict.keys() != kinds.keys():
            raise _damaged(path, f"it must hold {', '.join(kinds)}")
        wrong = [name for name, kind in kinds.items() if not isinstance(verdict[name], kind)]
        if wrong:
            raise _damaged(path, f"{wrong[0]} is no {'text' if kinds[wrong[0]] is str else 'object'}")
        if verdict["state"] not in get_args(State):
            raise _damaged(path, f"its state is {verdict['state']!r:.40}")
        return verdict

    def damages(self, *, weights: bool = False) -> tuple[str, ...]:
        """Name the recorded files that are missing or changed; those in checkpoints/ only with `weights`.

        A verdict that is damaged itself is named alone. Without a verdict, or with one of version 0.1.0, nothing is
        known and nothing named.
        """
        try:
            verdict = self.verdict()
        except ValueError:
            return ("state.json",)
        recorded: dict[str, str] = (verdict or {}).get("files", {})
        return tuple(
            name
            for name, digest in recorded.items()
            if (weights or not name.startswith("checkpoints/")) and not _matches(self.path / name, digest)
        )

    def metrics(self) -> Iterator[dict[str, Any]]:
        """Yield the rows of metrics: `epoch`, and numbers or None. The first line that is no such row ends the reading.

        A run in progress, or one that was killed, may have a torn last line.
        """
        for _, row in self._metrics_lines():
            yield row

    def _metrics_lines(self) -> Iterator[tuple[str, dict[str, Any]]]:
        path = self.path / "metrics.jsonl"
        try:
            text = read_text(path, errors="replace") if path.is_file() else ""
        except FileNotFoundError:
            return
        except OSError as error:
            raise _unreadable(path, error) from None
        except ValueError as error:
            raise _damaged(path, str(error)) from None
        for line in text.splitlines():
            row = _row_of(line)
            if row is None:
                return
            yield line, row

    def _metrics_until(self, epoch: int) -> str:
        return "".join(line + "\n" for line, row in self._metrics_lines() if row["epoch"] <= epoch)

    def _flow_files(self) -> list[tuple[int, Path]]:
        files = ((re.fullmatch(r"epoch-(\d+)", path.stem), path) for path in (self.path / "flow").glob("epoch-*.npz"))
        return [(int(match[1]), path) for match, path in files if match]

    def _digest(self, path: Path) -> str:
        """Return the SHA-256 of a file, computed again only when the file was written again."""
        status = path.stat()
        key = (status.st_ino, status.st_size, status.st_mtime_ns)
        if self._digests.get(path, ((), ""))[0] != key:
            self._digests[path] = (key, _sha256(path))
        return self._digests[path][1]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _matches(path: Path, digest: str) -> bool:
    try:
        return path.is_file() and _sha256(path) == digest
    except OSError:  # it cannot be read
        return False


def read_text(path: Path, errors: str = "strict") -> str:
    """Return the text of a regular file; ValueError, which does not name it, for one that no run would have written."""
    if path.exists() and not path.is_file():  # a named pipe would be waited for, without end
        raise ValueError("it is no regular file")
    size = path.stat().st_size
    if size > MOST_TEXT_BYTES:
        raise ValueError(f"it has {size:,} bytes, and at most {MOST_TEXT_BYTES:,} are read")
    return path.read_text(errors=errors)


def parse_json(text: str) -> Any:
    """Return what JSON holds; ValueError for text that is none, or that no run would have written."""
    try:
        # The hook is slow, and a split has an index for every image: it is used only where a number may be too long.
        return json.loads(text, parse_int=_whole_number if _LONG_NUMBER.search(text) else None)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _whole_number(text: str) -> int:
    """Read a whole number; one beyond 64 bits, which no run wrote, would fail wherever it is used."""
    if len(text) > LONGEST_INTEGER:
        raise ValueError(f"{text[:10]}... is a number beyond 64 bits")
    return int(text)


def _row_of(line: str) -> dict[str, Any] | None:
    try:
        row = parse_json(line)
    except ValueError:
        return None
    if not isinstance(row, dict) or type(row.get("epoch")) is not int or not 1 <= row["epoch"] < 2**31:
        return None
    if type(row.get("step", 0)) is not int:
        return None
    return row if all(value is None or type(value) in (int, float) for value in row.values()) else None


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        content = parse_json(read_text(path))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise _unreadable(path, error) from None
    except ValueError as error:
        raise _damaged(path, str(error)) from None
    if not isinstance(content, dict):
        raise _damaged(path, "it holds no JSON object")
    return content


def _damaged(path: Path, why: str) -> ValueError:
    return ValueError(f"{path} is damaged ({why}); leave it as it is: the command that made the run makes it again")


def _unreadable(path: Path, error: OSError) -> ValueError:
    return ValueError(f"{path} cannot be read ({(error.strerror or type(error).__name__).lower()})")
