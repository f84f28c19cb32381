"""What a coordinator records of attempts is appended, counted, and survives torn and changed lines."""

import pytest

from alexnet_ablations.declare.history import FILE, History, note_end, note_start, read_history


def test_a_run_that_no_coordinator_started_has_no_history(tmp_path):
    assert read_history(tmp_path) == read_history(tmp_path / "nothing") == History()


def test_attempts_are_counted_and_the_last_one_is_described(tmp_path):
    note_start(tmp_path, "gpu 0")
    note_end(tmp_path, "lost", 3.0, 2**31)
    note_start(tmp_path, "gpu 1")
    running = read_history(tmp_path)
    assert (running.attempts, running.slot, running.seconds, running.state) == (2, "gpu 1", None, None)
    note_end(tmp_path, "ok", 66.1, 2**30)
    ended = read_history(tmp_path)
    assert (ended.attempts, ended.seconds, ended.state) == (2, 66.1, "ok")
    assert ended.memory == 2**31  # the most that any attempt held
    assert ended.started == running.started > 1.7e9


@pytest.mark.parametrize(
    "line", ["{", "[]", "7", "null", '{"started": 5, "slot": "1"}', "[" * 100_000, '{"ended": "x"}']
)
def test_a_damaged_line_is_passed_over(line, tmp_path):
    note_start(tmp_path, "1")
    with (tmp_path / FILE).open("a") as file:
        file.write(line + "\n")
    note_end(tmp_path, "ok", 5.0, 10)
    history = read_history(tmp_path)
    assert (history.attempts, history.state, history.seconds) == (1, "ok", 5.0)
