"""The index of a study: one row per run in STUDY/index.sqlite, written by the coordinator alone.

    runs: cell, seed, state, why, attempts, started, ended, seconds, pid, slot, memory

The folders are the truth and the index is a convenience: it adds what no folder knows (attempts, wall time, process,
slot, memory), a single query answers what would take a walk through a thousand folders, and `rebuild` makes it anew
from them at any time. It is written in WAL mode, in which reading never holds up the one who writes, and each change is
a transaction of its own. An index that is damaged, from another version, or on a full disk never ends a study: it is
made anew, or left behind and said so once.
"""

import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alexnet_ablations.declare.status import found_runs, standing_of
from alexnet_lab.records import RunFolder

INDEX = "index.sqlite"
VERSION = 1
COLUMNS = ("cell", "seed", "state", "why", "attempts", "started", "ended", "seconds", "pid", "slot", "memory")
SCHEMA = """
CREATE TABLE runs (
    cell TEXT NOT NULL, seed INTEGER NOT NULL, state TEXT NOT NULL, why TEXT NOT NULL DEFAULT '',
    attempts INTEGER NOT NULL DEFAULT 0, started TEXT, ended TEXT, seconds REAL, pid INTEGER, slot TEXT, memory INTEGER,
    PRIMARY KEY (cell, seed)
) WITHOUT ROWID
"""
UPSERT = (
    f"INSERT INTO runs ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))}) "  # noqa: S608  # our columns
    f"ON CONFLICT (cell, seed) DO UPDATE SET {', '.join(f'{c} = excluded.{c}' for c in COLUMNS[2:])}"
)


@dataclass
class Row:
    """What the index has of one run."""

    cell: str
    seed: int
    state: str
    why: str = ""
    attempts: int = 0
    started: str | None = None
    ended: str | None = None
    seconds: float | None = None
    pid: int | None = None
    slot: str | None = None
    memory: int | None = None  # bytes that its process held at the most


class Ledger:
    """The index, open for the coordinator."""

    def __init__(self, study: Path, complain: Callable[[str], None] = lambda _text: None) -> None:
        self.path = study / INDEX
        self.complain = complain
        self.rows: dict[tuple[str, int], Row] = {}
        self._connection: sqlite3.Connection | None = None
        try:
            self._connection, rows = _opened_or_made_anew(self.path)
            self.rows = {(row.cell, row.seed): row for row in rows}
        except (sqlite3.Error, OSError) as error:
            self._give_up(error)

    def enter(self, rows: Sequence[Row]) -> None:
        """Take up runs that are to be made; what the index knows of their earlier attempts stays."""
        for row in rows:
            known = self.rows.get((row.cell, row.seed))
            if known:
                row.attempts, row.memory = known.attempts, known.memory
            self.rows[row.cell, row.seed] = row
        self._store(rows)

    def started(self, cell: str, seed: int, pid: int, slot: str) -> None:
        """Note that a run's process has been started."""
        row = self.rows[cell, seed]
        row.state, row.why, row.pid, row.slot = "running", "", pid, slot
        row.attempts, row.started, row.ended, row.seconds = row.attempts + 1, now(), None, None
        self._store([row])

    def ended(self, cell: str, seed: int, state: str, why: str, seconds: float | None, memory: int = 0) -> None:
        """Note how a run ended, or that it waits again."""
        row = self.rows[cell, seed]
        row.state, row.why, row.ended, row.seconds, row.pid = state, why, now(), seconds, None
        row.memory = max(memory, row.memory or 0) or None
        self._store([row])

    def close(self) -> None:
        """Let go of the file."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _store(self, rows: Sequence[Row]) -> None:
        if self._connection is None:
            return
        try:
            with transaction(self._connection):
                self._connection.executemany(UPSERT, [_values(row) for row in rows])
        except sqlite3.Error as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self.close()
        self.complain(
            f"{self.path} cannot be written ({error}); the runs go on, and their folders have all that counts"
        )


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Make several changes one: all of them, or none."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except sqlite3.Error:
        connection.rollback()
        raise
    connection.execute("COMMIT")


def rebuild(study: Path) -> Path:
    """Make the index anew from the run folders; what only the old one knew of them is taken over where it fits."""
    old = {(row.cell, row.seed): row for row in read_index(study)}
    path = study / INDEX
    rows = [_row_of(cell, seed, folder, old.get((cell, seed))) for cell, seed, folder in found_runs(study)]
    _remove(path)
    connection, _ = _opened(path)
    with closing(connection), transaction(connection):
        connection.executemany(UPSERT, [_values(row) for row in rows])
    return path


def read_index(study: Path) -> list[Row]:
    """Return the rows of the index, without ever holding up its writer; none if there is no index to read."""
    path = study / INDEX
    if not path.exists():
        return []
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=1.0)) as connection:
            return _read(connection)
    except sqlite3.Error:  # damaged, or being made at this moment
        return []


def now() -> str:
    """Return the time as the index and the folders write it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _row_of(cell: str, seed: int, folder: RunFolder, old: Row | None) -> Row:
    standing = standing_of(folder, cell, seed)
    row = Row(cell, seed, standing.state, standing.why, attempts=1 if standing.state != "waiting" else 0)
    row.seconds = standing.seconds
    try:
        row.started = (folder.provenance() or {}).get("started")
    except ValueError:
        row.started = None
    verdict = folder.path / "state.json"
    if verdict.exists():
        row.ended = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(verdict.stat().st_mtime))
    if old is not None:
        row.attempts, row.memory = max(row.attempts, old.attempts), old.memory
        if old.state == row.state:
            row.seconds, row.started, row.slot = old.seconds or row.seconds, old.started or row.started, old.slot
    return row


def _opened_or_made_anew(path: Path) -> tuple[sqlite3.Connection, list[Row]]:
    try:
        return _opened(path)
    except sqlite3.OperationalError:  # locked by somebody, or no room: it may be whole
        raise
    except sqlite3.DatabaseError:  # damaged, from another version, or no index: the folders have everything that counts
        _remove(path)
        return _opened(path)


def _opened(path: Path) -> tuple[sqlite3.Connection, list[Row]]:
    """Open an index for writing; each statement is a transaction unless it is told otherwise."""
    connection = sqlite3.connect(path, timeout=5.0, isolation_level=None)
    try:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        if version == 0:
            with transaction(connection):
                connection.execute(SCHEMA)
                connection.execute(f"PRAGMA user_version = {VERSION}")
        elif version != VERSION:
            raise sqlite3.DatabaseError(f"it is of version {version}, not {VERSION}")
        return connection, _read(connection)
    except sqlite3.Error:
        connection.close()
        raise


def _read(connection: sqlite3.Connection) -> list[Row]:
    query = f"SELECT {', '.join(COLUMNS)} FROM runs ORDER BY seed, cell"  # noqa: S608  # our own columns
    return [Row(*values) for values in connection.execute(query).fetchall()]


def _values(row: Row) -> tuple[Any, ...]:
    return tuple(getattr(row, column) for column in COLUMNS)


def _remove(path: Path) -> None:
    for name in (path.name, f"{path.name}-wal", f"{path.name}-shm"):
        path.with_name(name).unlink(missing_ok=True)
