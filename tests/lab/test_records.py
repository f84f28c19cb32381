"""The run folder: atomic, appending, tolerant of what a crash leaves."""

import pytest

from alexnet_lab.records import RunFolder, write_atomically


def test_readers_tolerate_a_torn_last_line(tmp_path):
    folder = RunFolder(tmp_path)
    folder.log({"epoch": 1})
    folder.log({"epoch": 2})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 3, "los')
    assert [row["epoch"] for row in folder.metrics()] == [1, 2]


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "state.json"
    write_atomically(path, "old")

    def crash(_descriptor):
        raise OSError("no space left on device")

    monkeypatch.setattr("os.fsync", crash)
    with pytest.raises(OSError, match="no space"):
        write_atomically(path, "new and longer")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_run_taken_up_again_drops_the_epochs_it_will_repeat(tmp_path):
    folder = RunFolder(tmp_path)
    for epoch in (1, 2, 3):
        folder.log({"epoch": epoch})
    folder.end("error", "power cut")
    folder.go_on_after(1)
    assert list(folder.metrics()) == [{"epoch": 1}]
    assert folder.verdict() is None


def test_a_fresh_start_leaves_nothing_of_the_attempt_before(tmp_path):
    folder = RunFolder(tmp_path)
    folder.begin("{}", {}, "{}")
    folder.log({"epoch": 1})
    (tmp_path / "checkpoints" / "step-00000001.json").write_text("{}")
    folder.end("error")
    folder.begin("{}", {"identity": "new"}, "{}")
    assert list(folder.metrics()) == []
    assert folder.verdict() is None
    assert folder.provenance() == {"identity": "new"}
    assert not list((tmp_path / "checkpoints").iterdir())
