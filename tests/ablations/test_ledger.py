"""The index: written by one, read by any, rebuilt from the folders, and never the reason that a study ends."""

import sqlite3

import pytest

from alexnet_ablations.run.ledger import INDEX, Ledger, Row, read_index, rebuild
from alexnet_lab.locks import Lock
from alexnet_lab.records import RunFolder


def run_in(study, cell, seed, state=None, why="", seconds=(2.0,)):
    folder = RunFolder(study / "runs" / cell / f"seed-{seed}")
    folder.begin("{}", {"started": "2026-11-21T12:00:00Z"}, "{}")
    for epoch, each in enumerate(seconds, 1):
        folder.log({"epoch": epoch, "seconds": each, "validation_accuracy": 0.5})
    if state:
        folder.end(state, why)
    return folder


def by_run(study):
    return {(row.cell, row.seed): row for row in read_index(study)}


def test_what_the_coordinator_notes_is_what_a_reader_finds(tmp_path):
    ledger = Ledger(tmp_path)
    ledger.enter([Row("bn", 0, "waiting"), Row("bn", 1, "waiting")])
    ledger.started("bn", 0, 4711, "gpu 1")
    ledger.ended("bn", 0, "waiting", "killed", 3.0)
    ledger.started("bn", 0, 4712, "gpu 0")
    found = by_run(tmp_path)  # while the coordinator has it open
    assert (found["bn", 0].state, found["bn", 0].pid, found["bn", 0].slot) == ("running", 4712, "gpu 0")
    ledger.ended("bn", 0, "error", "no such data", 5.5, memory=2**30)
    ledger.close()
    row = by_run(tmp_path)["bn", 0]
    assert (row.state, row.why, row.attempts, row.seconds, row.memory) == ("error", "no such data", 2, 5.5, 2**30)
    assert row.pid is None
    assert row.started.endswith("Z")
    assert row.started <= row.ended
    assert by_run(tmp_path)["bn", 1].state == "waiting"


def test_the_index_rebuilt_from_the_folders_says_what_they_say(tmp_path):
    run_in(tmp_path, "bn", 0, "ok", seconds=(2.0, 3.0))
    run_in(tmp_path, "bn", 1, "timeout", "too long")
    run_in(tmp_path, "lrn", 0)  # cut off
    working = run_in(tmp_path, "lrn", 1)
    lock = Lock(working.lock)
    assert lock.take()
    (tmp_path / "runs" / "gn" / "seed-0").mkdir(parents=True)
    (tmp_path / "runs" / "not a cell.txt").write_text("ignored")
    rebuild(tmp_path)
    lock.release()
    found = by_run(tmp_path)
    assert {run: row.state for run, row in found.items()} == {
        ("bn", 0): "ok",
        ("bn", 1): "timeout",
        ("lrn", 0): "lost",
        ("lrn", 1): "running",
        ("gn", 0): "waiting",
    }
    assert (found["bn", 0].seconds, found["bn", 0].started) == (5.0, "2026-11-21T12:00:00Z")
    assert found["bn", 1].why == "too long"


def test_rebuilding_keeps_what_no_folder_knows_where_it_still_fits(tmp_path):
    run_in(tmp_path, "bn", 0, "ok")
    run_in(tmp_path, "bn", 1, "ok")
    ledger = Ledger(tmp_path)
    ledger.enter([Row("bn", 0, "waiting"), Row("bn", 1, "waiting")])
    for seed, state in ((0, "ok"), (1, "error")):
        ledger.started("bn", seed, 1, "2")
        ledger.started("bn", seed, 1, "2")
        ledger.ended("bn", seed, state, "", 77.0)
    ledger.close()
    rebuild(tmp_path)
    found = by_run(tmp_path)
    assert (found["bn", 0].attempts, found["bn", 0].seconds, found["bn", 0].slot) == (2, 77.0, "2")
    # The folder says ok where the index said error: the folder counts, and the seconds of the error do not.
    assert (found["bn", 1].state, found["bn", 1].seconds, found["bn", 1].slot) == ("ok", 2.0, None)


def test_a_reader_in_the_middle_of_reading_does_not_hold_up_the_coordinator(tmp_path):
    ledger = Ledger(tmp_path, pytest.fail)
    ledger.enter([Row("bn", seed, "waiting") for seed in range(3)])
    reader = sqlite3.connect(tmp_path / INDEX)
    cursor = reader.execute("SELECT seed, state FROM runs ORDER BY seed")
    assert cursor.fetchone() == (0, "waiting")
    ledger.started("bn", 2, 1, "1")  # would wait five seconds and complain if the reader stood in its way
    assert cursor.fetchall() == [(1, "waiting"), (2, "waiting")]  # as it was when the reader began
    reader.close()
    assert by_run(tmp_path)["bn", 2].state == "running"
    ledger.close()


@pytest.mark.parametrize("content", [b"not a database at all, but long enough to look like one" * 20, b"\0" * 4096])
def test_a_damaged_index_is_made_anew_and_readers_go_on_without_it(content, tmp_path):
    (tmp_path / INDEX).write_bytes(content)
    assert read_index(tmp_path) == []
    complaints = []
    ledger = Ledger(tmp_path, complaints.append)
    ledger.enter([Row("bn", 0, "waiting")])
    ledger.close()
    assert [row.cell for row in read_index(tmp_path)] == ["bn"]
    assert complaints == []


def test_an_index_of_another_version_is_made_anew(tmp_path):
    with sqlite3.connect(tmp_path / INDEX) as connection:
        connection.execute("CREATE TABLE runs (something TEXT)")
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    ledger = Ledger(tmp_path, pytest.fail)
    ledger.enter([Row("bn", 0, "waiting")])
    ledger.close()
    assert [row.cell for row in read_index(tmp_path)] == ["bn"]


def test_an_index_that_cannot_be_written_is_said_once_and_ends_nothing(tmp_path):
    complaints = []
    ledger = Ledger(tmp_path, complaints.append)
    ledger.enter([Row("bn", 0, "waiting")])
    other = sqlite3.connect(tmp_path / INDEX)
    other.execute("PRAGMA user_version")
    ledger._connection.execute("PRAGMA busy_timeout = 10")
    other.execute("BEGIN IMMEDIATE")  # somebody edits it by hand
    ledger.started("bn", 0, 1, "1")
    ledger.ended("bn", 0, "ok", "", 1.0)
    other.rollback()
    other.close()
    assert len(complaints) == 1
    assert "cannot be written (database is locked); the runs go on" in complaints[0]


def test_no_index_is_no_rows(tmp_path):
    assert read_index(tmp_path) == []
    assert not list(tmp_path.iterdir())
