"""A study in calls of some minutes: cut off, packed without its weights, unpacked elsewhere, and gone on with."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from stand_ins import study_in

from alexnet_ablations.declare.study import read_study
from alexnet_lab.records import RunFolder

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import full_size  # beside the other benchmarks

SCRIPT = Path(full_size.__file__)

# Makes what is missing of a study, slowly, as a coordinator with one slot; saves a checkpoint when it is asked to stop.
PROGRAM = """
import signal, sys, time
from pathlib import Path
from alexnet_ablations.declare.study import read_study
folder, seconds = Path(sys.argv[1]), float(sys.argv[2])
(folder / "ready").touch()
for run in read_study(folder / "study.toml", folder).runs():
    if run.is_done:
        continue
    def stop(*_):
        (run.folder.path / "checkpoints" / "step-1.safetensors").write_bytes(bytes(2000))
        sys.exit(130)
    run.folder.begin(run.recipe.to_json(), {}, "{}")
    signal.signal(signal.SIGINT, stop)
    time.sleep(seconds)
    run.folder.log({"epoch": 1})
    (run.folder.path / "checkpoints" / "best.safetensors").write_bytes(bytes(3000))
    run.folder.end("ok", result={"made_in": sys.argv[3]})
"""


def asked(path, work="work"):
    return full_size.Asked(path / "out", path / work, "digits", 2, 1, "cpu", 1, "", 60.0, full_size.MOST)


def making(seconds, call):
    def command(name, how):
        if not (how.work / name / "study.toml").exists():
            study_in(how.work / name).open_folder()
        return [sys.executable, "-c", PROGRAM, str(how.work / name), str(seconds), call]

    return command


def end(run, weights=3000):
    run.folder.begin(run.recipe.to_json(), {}, "{}")
    (run.folder.path / "checkpoints" / "best.safetensors").write_bytes(bytes(weights))
    run.folder.end("ok")


@pytest.fixture
def half_done(tmp_path):
    """A study of which one run has ended and one was cut off."""
    study = study_in(tmp_path / "work" / "norms").open_folder()
    first, second, *_ = study.runs()
    end(first)
    second.folder.begin(second.recipe.to_json(), {}, "{}")
    (second.folder.path / "checkpoints" / "step-1.safetensors").write_bytes(bytes(2000))
    return study


def packed_and_unpacked(study, tmp_path, **how):
    full_size.pack(study.folder, tmp_path / "out", "norms", is_complete=False, at_rest=True, **how)
    folder = tmp_path / "elsewhere" / "norms"
    full_size.unpack(tmp_path / "out", "norms", folder)
    return read_study(folder / "study.toml", folder).runs()


def test_a_run_that_has_ended_travels_without_weights_and_is_done_elsewhere(half_done, tmp_path):
    first, second, third, _ = packed_and_unpacked(half_done, tmp_path)
    assert first.is_done
    assert not list(first.folder.path.glob("checkpoints/*"))
    assert not second.is_done
    assert (second.folder.path / "checkpoints" / "step-1.safetensors").stat().st_size == 2000
    assert not third.folder.path.exists()
    assert full_size.progress_of(tmp_path / "elsewhere" / "norms") == (1, 4)


def test_checkpoints_that_do_not_fit_stay_behind_with_their_run(half_done, tmp_path):
    first, second, *_ = packed_and_unpacked(half_done, tmp_path, most=2000)
    assert first.is_done
    assert not second.folder.path.exists()


def test_while_runs_are_in_progress_only_those_that_have_ended_are_packed(half_done, tmp_path):
    (half_done.folder / "report").mkdir()
    (half_done.folder / "report" / "index.html").write_text("half a page")
    full_size.pack(half_done.folder, tmp_path / "out", "norms", is_complete=False, at_rest=False)
    folder = tmp_path / "elsewhere"
    full_size.unpack(tmp_path / "out", "norms", folder)
    first, second, *_ = read_study(folder / "study.toml", folder).runs()
    assert first.is_done
    assert not second.folder.path.exists()
    assert not (folder / "report").exists()


def test_a_pack_is_cut_into_files_and_a_damaged_one_is_named(half_done, tmp_path, monkeypatch):
    monkeypatch.setattr(full_size, "PART", 500)
    assert packed_and_unpacked(half_done, tmp_path)[0].is_done
    parts = sorted((tmp_path / "out").glob("norms-1.*"))
    assert len(parts) > 2
    assert max(part.stat().st_size for part in parts) == 500
    parts[1].write_bytes(b"other")
    with pytest.raises(ValueError, match=r"norms-1\.01 is missing or damaged; bring it again"):
        full_size.unpack(tmp_path / "out", "norms", tmp_path / "third")
    assert not (tmp_path / "third").exists()


def test_a_kill_while_packing_leaves_the_pack_before_it(half_done, tmp_path, monkeypatch):
    first = packed_and_unpacked(half_done, tmp_path)[0]
    written = []

    def killed(path, content):
        if path.suffix == ".json":
            raise KeyboardInterrupt
        written.append(path)
        path.write_bytes(content)

    monkeypatch.setattr(full_size, "write_atomically", killed)
    with pytest.raises(KeyboardInterrupt):
        full_size.pack(half_done.folder, tmp_path / "out", "norms", is_complete=False, at_rest=True)
    assert written
    full_size.unpack(tmp_path / "out", "norms", tmp_path / "third")
    third = read_study(tmp_path / "third" / "study.toml", tmp_path / "third").runs()[0]
    assert third.is_done
    assert first.is_done


def test_an_older_study_folder_is_not_packed_over_a_newer_pack(half_done, tmp_path):
    packed_and_unpacked(half_done, tmp_path)
    elsewhere = tmp_path / "elsewhere" / "norms"
    full_size.pack(elsewhere, tmp_path / "out", "norms", is_complete=False, at_rest=True)
    with pytest.raises(ValueError, match="is newer than .*work/norms; remove that folder"):
        full_size.unpack(tmp_path / "out", "norms", half_done.folder)


def test_a_call_that_is_over_loses_no_run_that_had_ended_and_another_machine_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(full_size, "BETWEEN_LOOKS", 0.05)
    monkeypatch.setattr(full_size, "STUDIES", {"norms": (), "dropout": ()})
    stop = full_size.Stop(600)
    poll = subprocess.Popen.poll

    def poll_until_two_have_ended(process):
        if len(list((tmp_path / "work").glob("norms/runs/*/*/state.json"))) >= 2:
            stop()
        return poll(process)

    monkeypatch.setattr(subprocess.Popen, "poll", poll_until_two_have_ended)
    assert full_size.work(asked(tmp_path), stop, making(0.3, "first")) == 0
    assert "the time of this call is over; the same command goes on" in capsys.readouterr().out
    index = full_size.index_of(tmp_path / "out", "norms")
    assert index["ended"] in (2, 3)
    assert not index["complete"]
    assert full_size.index_of(tmp_path / "out", "dropout")["generation"] == 0

    monkeypatch.setattr(subprocess.Popen, "poll", poll)
    monkeypatch.setattr(full_size, "STUDIES", {"norms": ()})
    elsewhere = asked(tmp_path, "elsewhere")
    assert full_size.work(elsewhere, full_size.Stop(60), making(0, "second")) == 0
    assert "all studies are complete" in capsys.readouterr().out
    runs = read_study(elsewhere.work / "norms" / "study.toml", elsewhere.work / "norms").runs()
    made = [run.folder.verdict()["result"]["made_in"] for run in runs]
    assert made == ["first"] * index["ended"] + ["second"] * (4 - index["ended"])

    for part in (tmp_path / "out").glob("*-*"):
        part.unlink()  # of a complete study the index alone is carried
    assert full_size.work(asked(tmp_path, "third"), full_size.Stop(60), making(0, "third")) == 0
    assert not (tmp_path / "third").exists()


def test_a_study_that_fails_is_said_and_keeps_what_it_has(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(full_size, "BETWEEN_LOOKS", 0.02)

    def failing(name, how):
        end(study_in(how.work / name).open_folder().runs()[0])
        return [sys.executable, "-c", "import sys; sys.exit(2)"]

    assert full_size.work(asked(tmp_path), full_size.Stop(60), failing) == 1
    assert "norms: failed (status 2)" in capsys.readouterr().out
    assert full_size.index_of(tmp_path / "out", "norms")["ended"] == 1


def test_the_studies_are_cifar_at_full_size_unless_values_are_named():
    how = replace(asked(Path("here")), data="cifar10:copy.tar.gz", baseline="width=0.5,augment=flip")
    words = full_size.command_of("activations", how)
    assert words[words.index("--act") + 1] == "leaky:0.1,prelu"
    assert words[words.index("--data") + 1] == "cifar10:copy.tar.gz"
    named = words[words.index("--baseline") + 1]
    assert named == "width=0.5,image_size=227,batch_size=128,precision=bf16,augment=flip"


@pytest.mark.campaign
def test_real_studies_that_are_cut_off_and_moved_have_the_numbers_of_one_call(tmp_path):
    def call(out, work, *words):
        small = "width=0.0625,image_size=67,precision=fp32,batch_size=256"
        how = ["--work", work, "--data", "digits", "--device", "cpu", "--threads", "1", "--baseline", small]
        return subprocess.run(
            [sys.executable, SCRIPT, out, *how, "--seeds", "1", "--epochs", "2", *words],
            cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip

    whole = call("whole", "one", "--seconds", "600")
    assert whole.returncode == 0, whole.stderr
    calls = 0
    while not all(full_size.index_of(tmp_path / "cut", name)["complete"] for name in full_size.STUDIES):
        calls += 1
        assert calls < 40
        done = call("cut", f"work-{calls}", "--seconds", "20")
        assert done.returncode == 0, done.stdout + done.stderr
    assert calls > 1
    for name in full_size.STUDIES:
        full_size.unpack(tmp_path / "cut", name, tmp_path / "again" / name)
        for path in (tmp_path / "one" / name).glob("runs/*/*"):
            same = tmp_path / "again" / name / path.relative_to(tmp_path / "one" / name)
            one, other = RunFolder(path).verdict(), RunFolder(same).verdict()
            assert one["result"]["test"] == other["result"]["test"]
        report = tmp_path / "again" / name / "report" / "index.html"
        assert report.stat().st_size > 10_000
    assert json.loads((tmp_path / "cut" / "norms.json").read_text())["ended"] == 3
