"""The run folder: atomic, appending, tolerant of what a crash leaves, and aware of damage."""

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest

from alexnet_lab import npz
from alexnet_lab.instruments.flow import Flow, FlowWriter, Layout, Parameter, read_columns
from alexnet_lab.records import RunFolder, digest_of, title_of, write_atomically
from alexnet_lab.training.weight_sources import finished_run, settings_of

RESULT = {"test": {"accuracy": 0.1 + 0.2, "auroc": None}, "steps": 3}


def finished(path):
    """A run that ended well, with every file that one writes."""
    folder = RunFolder(path)
    folder.begin('{"norm": "bn"}', {"identity": "a", "classes": ["x", "y"]}, '{"train": [0, 1], "test": [2]}')
    folder.log({"epoch": 1, "train_loss": 0.5, "validation_auroc": None})
    writer = FlowWriter(path)
    writer.begin(Layout((Parameter("conv1.weight", "conv1", (2, 2)),), ()))
    norms = {name: np.ones(1, np.float32) for name in ("weight_norm", "gradient_norm", "update_norm")}
    writer.write_epoch(1, {"steps": {"step": np.array([1]), "parameter": np.array([0]), **norms}})
    writer.write_filters(start=np.ones((2, 2), np.float32))
    (path / "copies.json").write_text("[]\n")
    (path / "dropped.json").write_text("[]\n")
    (path / "checkpoints" / "best.json").write_text("{}")
    (path / "checkpoints" / "best.safetensors").write_bytes(b"weights")
    folder.end("ok", result=RESULT)
    return folder


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
    folder.resume_after(1)
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


def test_a_verdict_holds_the_digest_of_every_file_that_the_run_wrote(tmp_path):
    folder = finished(tmp_path)
    verdict = folder.verdict()
    written = {p.relative_to(tmp_path).as_posix(): p for p in tmp_path.rglob("*") if p.is_file()}
    del written["state.json"]
    assert verdict["files"] == {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in written.items()}
    assert verdict["result"] == RESULT
    assert folder.damages(weights=True) == ()
    assert max(tmp_path.rglob("*"), key=lambda path: path.stat().st_mtime_ns if path.is_file() else 0).name == (
        "state.json"
    )


def test_every_changed_letter_of_a_verdict_is_noticed(tmp_path):
    folder, path = finished(tmp_path), tmp_path / "state.json"
    text, verdict = path.read_text(), folder.verdict()
    for at, letter in enumerate(text):
        path.write_text(text[:at] + ("8" if letter == "7" else "7") + text[at + 1 :])
        try:
            assert folder.verdict() == verdict
        except ValueError as error:
            assert f"{path} is damaged (" in str(error)  # of the many, most raise
            assert folder.damages() == ("state.json",)


@pytest.mark.parametrize(
    "name", ["metrics.jsonl", "recipe.json", "copies.json", "flow/epoch-0001.npz", "checkpoints/best.safetensors"]
)
@pytest.mark.parametrize("damage", ["one bit", "gone", "empty", "unreadable"])
def test_a_recorded_file_that_changed_is_named(tmp_path, name, damage):
    folder, path = finished(tmp_path), tmp_path / name
    content = bytearray(path.read_bytes())
    path.unlink()
    match damage:
        case "one bit":
            content[len(content) // 2] ^= 1
            path.write_bytes(content)
        case "empty":
            path.write_bytes(b"")
        case "unreadable":
            path.mkdir()
    assert folder.damages(weights=True) == (name,)
    assert folder.damages() == (() if name.startswith("checkpoints") else (name,))


def test_a_verdict_of_version_0_1_0_is_read_and_nothing_is_known_of_damage(tmp_path):
    folder = finished(tmp_path)
    old = {"state": "ok", "why": "", "result": RESULT}
    (tmp_path / "state.json").write_text(json.dumps(old, indent=2))
    (tmp_path / "metrics.jsonl").unlink()
    assert folder.verdict() == old
    assert folder.damages() == ()
    for wrong in ({**old, "statf": 1}, {"state": "ok", "why": ""}, {**old, "state": "okay"}, {**old, "result": []}):
        (tmp_path / "state.json").write_text(json.dumps(wrong))
        with pytest.raises(ValueError, match=r"state\.json is damaged"):
            folder.verdict()


def test_a_verdict_of_before_copies_json_had_a_digest_says_nothing_of_it(tmp_path):
    folder = finished(tmp_path)
    verdict = folder.verdict()
    body = {name: value for name, value in verdict.items() if name != "digest"}
    body["files"] = {name: digest for name, digest in verdict["files"].items() if name != "copies.json"}
    (tmp_path / "state.json").write_text(json.dumps({**body, "digest": digest_of(body)}))
    (tmp_path / "copies.json").write_text("damaged")
    assert folder.damages(weights=True) == ()


def test_lists_of_an_attempt_before_do_not_outlive_it(tmp_path):
    folder = finished(tmp_path)
    folder.begin("{}", {}, "{}")
    assert not (tmp_path / "dropped.json").exists()


def test_a_recipe_that_no_run_can_have_is_told_with_its_folder(tmp_path):
    folder = finished(tmp_path)
    (tmp_path / "recipe.json").write_text('{"batch_size": -1}')
    folder.end("ok", result=RESULT)
    for read in (finished_run, settings_of):
        with pytest.raises(ValueError) as refused:
            read(tmp_path)
        assert str(refused.value).startswith(
            f"the recipe in {tmp_path} is damaged, or of another version (batch_size: "
        )


def test_text_that_would_fill_the_memory_is_not_read(tmp_path):
    folder = finished(tmp_path)
    for name in ("state.json", "metrics.jsonl"):
        os.truncate(tmp_path / name, 2 * 10**11)
        with pytest.raises(ValueError, match=rf"{name} is damaged \(it has 200,000,000,000 bytes"):
            list(folder.metrics()) if name == "metrics.jsonl" else folder.verdict()


def test_arrays_that_would_fill_the_memory_are_not_inflated(tmp_path, monkeypatch):
    monkeypatch.setattr(npz, "FREELY_INFLATED", 2**20)
    path = tmp_path / "epoch-0001.npz"
    np.savez_compressed(path, **{"steps.step": np.zeros(2**18)})
    assert 100 * path.stat().st_size < 2**20
    with pytest.raises(ValueError, match=r"epoch-0001\.npz is damaged; .* \(it would inflate to 2,097,280 bytes\)"):
        read_columns(path)
    np.savez(path, **{"steps.step": np.zeros(2**10)})
    assert read_columns(path)["steps.step"].shape == (2**10,)


@pytest.mark.parametrize("number", ["9" * 21, "-" + "9" * 400, "9" * 5000])
def test_a_number_that_no_run_can_have_written_is_damage(tmp_path, number):
    folder = finished(tmp_path)
    (tmp_path / "recipe.json").write_text(f'{{"seed": {number}}}')
    with pytest.raises(ValueError, match=r"recipe\.json is damaged \(.* is a number beyond 64 bits\)"):
        folder.recipe()
    (tmp_path / "recipe.json").write_text(f'{{"seed": {-(2**63)}}}')
    assert folder.recipe() == {"seed": -(2**63)}


READERS = {
    "recipe.json": RunFolder.recipe,
    "provenance.json": RunFolder.provenance,
    "split.json": RunFolder.split,
    "state.json": RunFolder.verdict,
    "flow/layout.json": lambda folder: Flow.read(folder.path),
    "flow/epoch-0001.npz": lambda folder: Flow.read(folder.path),
    "flow/filters.npz": lambda folder: Flow.read(folder.path),
}


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 400, b"[" * 100_000, b"\xff{}", b"[1]", b"null", b"PK\x03\x04", b"7" * 9999]
)
@pytest.mark.parametrize("name", READERS)
def test_a_damaged_record_is_one_sentence_that_names_the_file(tmp_path, name, content):
    folder = finished(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError) as raised:  # what it says is looked at below
        READERS[name](folder)
    assert str(tmp_path / name) in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("provenance.json", '"a"', "3"),
        ("provenance.json", '"y"', "3"),
        ("split.json", "[2]", "[-2]"),
        ("split.json", "[2]", '"2"'),
        ("flow/layout.json", '"every"', '"evory"'),
        ("flow/layout.json", '"layer"', '"lyaer"'),
        ("flow/layout.json", "[\n", "3, [\n"),
    ],
)
def test_wrong_types_and_unknown_keys_name_the_file(tmp_path, name, old, new):
    folder, path = finished(tmp_path), tmp_path / name
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(ValueError, match=path.name.replace(".", r"\.")):
        READERS[name](folder)


def test_columns_that_do_not_fit_the_layout_name_the_file(tmp_path):
    folder = finished(tmp_path)
    columns = dict(np.load(tmp_path / "flow/epoch-0001.npz"))
    for change in (
        {"steps.parameter": np.array([1])},
        {"steps.step": np.array([1, 2])},
        {"steps.step": np.array(["1"])},
    ):
        np.savez_compressed(tmp_path / "flow/epoch-0001.npz", **{**columns, **change})
        with pytest.raises(ValueError, match=r"epoch-0001\.npz is damaged"):
            Flow.read(folder.path)
    np.savez_compressed(
        tmp_path / "flow/epoch-0001.npz", **columns, **{"histograms.counts": np.full((1, 2, 258), np.inf)}
    )
    with pytest.raises(ValueError, match=r"histograms\.counts is no column of whole numbers"):
        Flow.read(folder.path)
    columns.pop("steps.weight_norm")
    np.savez_compressed(tmp_path / "flow/epoch-0001.npz", **columns)
    with pytest.raises(ValueError, match=r"it lacks steps\.weight_norm"):
        Flow.read(folder.path)


@pytest.mark.parametrize("name", [*READERS, "metrics.jsonl"])
def test_a_pipe_in_place_of_a_record_is_not_waited_for(tmp_path, name):
    folder = finished(tmp_path)
    (tmp_path / name).unlink()
    os.mkfifo(tmp_path / name)
    if name == "metrics.jsonl":
        assert list(folder.metrics()) == []
        assert folder.damages() == (name,)
    else:
        with pytest.raises(ValueError, match="damaged"):
            READERS[name](folder)


def test_a_row_of_metrics_without_an_epoch_or_with_words_ends_the_reading(tmp_path):
    folder = finished(tmp_path)
    for wrong in (
        '{"train_loss": 1}',
        '{"epoch": "2"}',
        '{"epoch": true}',
        '{"epoch": 2, "train_loss": "1"}',
        '{"epoch": 2, "step": Infinity}',
        "[2]",
    ):
        (tmp_path / "metrics.jsonl").write_text('{"epoch": 1}\n' + wrong + '\n{"epoch": 3}\n')
        assert list(folder.metrics()) == [{"epoch": 1}]


def test_a_restart_never_makes_the_metrics_vanish(tmp_path, monkeypatch):
    folder = finished(tmp_path)
    seen = []

    def watched(act):
        def watching(*arguments, **options):
            done = act(*arguments, **options)
            seen.append((tmp_path / "metrics.jsonl").exists())
            return done

        return watching

    for name in ("unlink", "replace", "rename"):
        monkeypatch.setattr(Path, name, watched(getattr(Path, name)))
    folder.begin("{}", {}, "{}")
    folder.log({"epoch": 1})
    folder.resume_after(0)
    assert len(seen) > 5
    assert all(seen)


def test_what_a_kill_leaves_is_cleared_and_what_is_needed_stays(tmp_path):
    folder = finished(tmp_path)
    scratch = [tmp_path / "checkpoints/.step-00000003.safetensors.4711", tmp_path / "flow/.epoch-0002.npz.12"]
    orphan = tmp_path / "checkpoints/step-00000003.safetensors"
    step = [tmp_path / "checkpoints/step-00000002.safetensors", tmp_path / "checkpoints/step-00000002.json"]
    for path in (*scratch, orphan, *step, tmp_path / ".note"):
        path.write_text("")
    assert set(folder.leftovers()) == {*scratch, orphan, *step}  # it has ended, so nobody continues from a step
    (tmp_path / "state.json").unlink()
    folder.clear_leftovers()
    assert not any(path.exists() for path in (*scratch, orphan))
    assert all(path.exists() for path in (*step, tmp_path / ".note"))


def test_a_run_of_a_study_is_called_by_its_cell_too():
    assert title_of(Path("runs/lrn")) == "lrn"
    assert title_of(Path("runs/study/runs/norm=bn,act=relu/seed-10")) == "norm=bn,act=relu/seed-10"
