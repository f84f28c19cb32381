"""alexnet-lab status and retry: on studies in every state, damaged ones too, and on a single run."""

import json
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from rich.console import Console
from stand_ins import WELL, use
from typer.testing import CliRunner

from alexnet_ablations.cli import run_study
from alexnet_ablations.cli.application import application
from alexnet_ablations.declare.design import Factor
from alexnet_ablations.declare.history import FILE, note_end, note_start
from alexnet_ablations.declare.status import statuses, time_left
from alexnet_ablations.declare.study import Study
from alexnet_ablations.run.coordinator import run_all
from alexnet_lab.locks import Lock
from alexnet_lab.training.recipe import Recipe


@pytest.fixture
def study(tmp_path):
    planned = Study(Recipe(epochs=4), (Factor("norm", ("lrn", "bn", "none")),), 2, tmp_path / "study")
    planned.open_folder()
    return planned


def run_of(study, cell, seed):
    return next(run for run in study.runs() if (run.cell.name, run.seed) == (cell, seed))


def begin(study, cell, seed, epochs=0):
    run = run_of(study, cell, seed)
    run.folder.begin(run.recipe.to_json(), {}, "{}")
    for epoch in range(1, epochs + 1):
        run.folder.log({"epoch": epoch, "seconds": 10.0, "validation_accuracy": 0.25 * epoch})
    return run.folder


def one_of_each(study):
    begin(study, "norm=lrn", 0, 4).end("ok", result={"test": {"accuracy": 0.5}})
    begin(study, "norm=bn", 0).end("oom", "64 images at once do not fit")
    begin(study, "norm=none", 0).end("diverged", "the loss was nan at step 3")
    begin(study, "norm=lrn", 1, 2)  # cut off
    return begin(study, "norm=bn", 1, 3)


def call(*arguments, status=0):
    done = CliRunner().invoke(application, [str(argument) for argument in arguments], terminal_width=120)
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == status, done.output
    return done.output


def test_a_study_at_work_shows_its_cells_by_state_what_runs_and_what_failed(study):
    folder = one_of_each(study)
    folder.note_progress({"epochs": 4, "steps": 40, "step": 30})
    coordinator, run = Lock(study.folder / "coordinator.lock"), Lock(folder.lock)
    assert coordinator.take()
    assert run.take()
    shown = call("status", study.folder)
    coordinator.release()
    run.release()
    assert "6 runs, 1 ok, 1 diverged, 1 oom, 1 lost, 1 running, 1 waiting" in shown
    # A run took 40 s. Running: 10 s left by its own pace. Lost and waiting: 40 s each, one at a time.
    assert "at work: process" in shown
    assert "about 2 min left" in shown
    assert "norm=bn seed 1: 75%, after epoch 3 of 4, validation accuracy 75.0%" in shown
    assert "oom norm=bn seed 0: 64 images at once do not fit" in shown
    assert "diverged norm=none seed 0: the loss was nan at step 3" in shown
    rows = [line.split() for line in shown.splitlines() if line.strip().startswith("norm=")]
    assert rows[0] == ["norm=lrn", "1", "1"]
    assert rows[1] == ["norm=bn", "1", "1"]
    assert rows[2] == ["norm=none", "1", "1"]


def test_failures_that_differ_in_their_folder_alone_are_listed_as_one(study):
    for cell in ("norm=lrn", "norm=bn", "norm=none"):
        for seed in range(2):
            folder = begin(study, cell, seed)
            folder.end("error", f"no space left on the disk of {folder.path}; free some")
    shown = call("status", study.folder)
    assert (
        "error norm=lrn seed 0, norm=bn seed 0, norm=none seed 0 and 3 more: no space left on the disk of its" in shown
    )
    assert shown.count("no space left") == 1


def test_an_interrupted_study_says_how_to_go_on(study):
    one_of_each(study)
    shown = call("status", study.folder)
    assert "nobody is at work here" in shown
    assert f"alexnet-lab retry {study.folder} --state lost,waiting" in " ".join(shown.split())
    assert "left" not in shown.split("missing")[0]


def test_a_finished_study_has_nothing_more_to_say_than_its_table(study):
    for run in study.runs():
        begin(study, run.cell.name, run.seed, 4).end("ok")
    shown = call("status", study.folder)
    assert "6 runs, 6 ok" in shown
    assert "at work" not in shown
    assert "retry" not in shown


def test_status_reads_a_study_whose_files_are_damaged(study):
    folder = one_of_each(study)
    (study.folder / "study.toml").write_text("seeds = = 3")
    (folder.path / FILE).write_bytes(b"damaged" * 1000)
    (folder.path / "state.json").write_text('{"state": ')
    shown = call("status", study.folder)
    assert "study.toml is not TOML" in shown
    assert "what follows is read from the run folders" in shown
    assert "5 runs, 1 ok, 1 diverged, 1 oom, 1 lost, 1 damaged" in shown
    assert ": state.json is damaged" in shown
    with pytest.raises(ValueError, match="study.toml is not TOML"):
        call("retry", study.folder)


def test_status_is_json_for_machines_with_attempts_seconds_and_slots(study):
    one_of_each(study)
    folder = study.folder / "runs" / "norm=bn" / "seed-0"
    note_start(folder, "gpu 0")
    note_start(folder, "gpu 1")
    note_end(folder, "oom", 12.5, 2**30)
    found = json.loads(call("status", study.folder, "--json"))
    rows = {(row["cell"], row["seed"]): row for row in found["runs"]}
    assert found["coordinator"] is None
    assert len(rows) == 6
    oom = rows["norm=bn", 0]
    assert (oom["state"], oom["attempts"], oom["seconds"], oom["slot"]) == ("oom", 2, 12.5, "gpu 1")
    assert (rows["norm=lrn", 0]["attempts"], rows["norm=lrn", 0]["seconds"]) == (None, 40.0)


def test_status_of_a_single_run_says_that_it_is_one(study):
    folder = begin(study, "norm=lrn", 0, 2)
    shown = call("status", folder.path)
    assert "a run, alexnet on digits, seed 0" in " ".join(shown.split())
    assert "lost" in shown
    assert "after epoch 2 of 4, validation accuracy 50.0%" in shown
    assert json.loads(call("status", folder.path, "--json"))["state"] == "lost"


def test_what_is_neither_a_study_nor_a_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match="is neither a study .* nor a run"):
        call("status", tmp_path)
    with pytest.raises(ValueError, match="holds no study.toml; name the folder of a study"):
        call("retry", tmp_path)


def test_status_writes_nothing(study):
    one_of_each(study)
    before = {path: path.stat().st_mtime_ns for path in study.folder.rglob("*")}
    call("status", study.folder)
    assert before == {path: path.stat().st_mtime_ns for path in study.folder.rglob("*")}


def test_retry_makes_those_in_the_named_states_again_and_no_others(study, monkeypatch):
    one_of_each(study)
    use(monkeypatch, WELL)
    monkeypatch.setattr(
        run_study,
        "make",
        lambda console, of, runs, jobs, *, repeat, **_others: run_all(of.folder, runs, jobs, repeat=repeat),
    )
    shown = call("retry", study.folder, "--state", "oom,diverged", "--jobs", 1)
    assert "2 of 6 runs again" in shown
    assert [run_status.state for run_status in statuses(study.runs())] == ["ok", "ok", "ok", "lost", "lost", "waiting"]
    said = " ".join(call("retry", study.folder, "--state", "oom").split())
    assert said == (
        "nothing to retry: none of the 6 runs is oom (3 ok, 2 lost, 1 waiting); the command that began this study "
        "makes those that wait, and so does --state waiting"
    )


def test_retry_with_nothing_to_do_says_why(study):
    for run in study.runs():
        begin(study, run.cell.name, run.seed, 4).end("diverged" if run.cell.name == "norm=bn" else "ok")
    assert call("retry", study.folder) == "nothing to retry: none of the 6 runs failed (4 ok, 2 diverged)\n"
    for seed in (0, 1):
        run_of(study, "norm=bn", seed).folder.end("ok")
    assert call("retry", study.folder) == "nothing to retry: all 6 runs ended well\n"


@pytest.mark.parametrize("text", ["", '{"state": "ok"}', '{"state": "ok", "why": "", "result": {}, "x": 1}', "\ud800"])
def test_a_damaged_verdict_costs_nothing_but_the_verdict(study, text):
    folder = begin(study, "norm=bn", 1, 3)
    folder.end("ok")
    (folder.path / "state.json").write_text(text, errors="surrogatepass")
    before = {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}
    shown = " ".join(call("status", study.folder).split())
    assert "damaged norm=bn seed 1: state.json is damaged (" in shown
    assert "leave it as it is: the command that made the run makes it again" in shown
    assert "delete" not in shown
    (status,) = [one for one in statuses(study.runs()) if one.state == "damaged"]
    assert (status.epochs, status.accuracy) == (3, 0.75)
    assert before == {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("progress.json", '{"steps": "many", "step": []}'),
        ("progress.json", '{"steps": 3, "step": -1e999}'),
        ("attempts.jsonl", '{"ended": "", "state": "ok", "seconds": 1, "memory": 1e999}\n'),
        ("attempts.jsonl", f'{{"ended": "", "state": "ok", "seconds": {"9" * 4000}, "memory": 1}}\n'),
        ("metrics.jsonl", f'{{"epoch": 1, "validation_accuracy": {"9" * 4000}}}\n'),
        ("metrics.jsonl", '{"epoch": 1, "seconds": null}\n'),
    ],
)
def test_numbers_that_are_none_do_not_stop_the_status(study, name, text):
    folder = begin(study, "norm=bn", 1)
    (folder.path / name).write_text(text)
    assert "6 runs, 1 lost, 5 waiting" in call("status", study.folder)
    lock = Lock(folder.lock)
    assert lock.take()
    assert "6 runs, 1 running, 5 waiting" in call("status", study.folder)
    lock.release()


def test_retry_refuses_states_that_nothing_can_be_in(study):
    with pytest.raises(ValueError, match="unknown state to retry 'om'. Did you mean 'oom'"):
        call("retry", study.folder, "--state", "om")


def test_retry_leaves_a_study_alone_that_somebody_works_on(study):
    lock = Lock(study.folder / "coordinator.lock")
    assert lock.take()
    with pytest.raises(ValueError, match="is in use by process"):
        call("retry", study.folder)
    lock.release()


@pytest.mark.parametrize(
    ("ended", "running", "waiting", "slots", "left"),
    [
        ([], [], ["bn"], 2, None),
        ([], [("bn", 10.0, 0.5)], ["bn"], 1, 30.0),  # 10 left of this one, 20 for the next
        ([("bn", 30.0)], [], ["bn", "bn"], 2, 30.0),
        ([("bn", 30.0), ("lrn", 10.0)], [], ["bn", "lrn", "gn"], 1, 60.0),  # its cell's time, or the mean of all
        ([("bn", 10.0)], [("bn", 5.0, 0.0)], [], 4, 5.0),
        ([("bn", 100.0)], [("bn", 50.0, 0.5)], ["bn"], 2, 75.0),
        ([("bn", 100.0)], [("bn", 1.0, 0.01)] * 2, [], 2, 99.0),  # two at once take no longer than one
    ],
)
def test_what_is_left_follows_from_measured_times(ended, running, waiting, slots, left):
    assert time_left(ended, running, waiting, slots) == (None if left is None else pytest.approx(left))


def test_the_table_is_no_wider_than_the_terminal_and_no_higher():
    from alexnet_ablations.run.progress import LiveTable

    long = "norm=bn_after,act=leaky_slope=0.1,dropout=0.5,batch_size=16"
    console = Console(width=80, height=10, force_terminal=True, color_system=None)
    table = LiveTable(console)
    table.total, table.longest = 18, len(long)
    table.active = [
        SimpleNamespace(
            run=SimpleNamespace(cell=SimpleNamespace(name=long), seed=seed),
            slot="gpu 1",
            share=0.5,
            accuracy=0.987,
            is_queued=False,
            seconds=3725.0,
        )
        for seed in range(18)
    ]
    with console.capture() as captured:
        console.print(table.drawing())
    lines = captured.get().splitlines()
    assert len(lines) <= 10
    assert max(map(len, lines)) <= 80
    assert sum("seed" in line for line in lines) == 6
    assert "and 12 more" in captured.get()
    assert "0 of 18 runs" in lines[-1]
    assert all("val 98.7%" in line and "50%" in line and "gpu 1" in line for line in lines if "seed" in line)


def test_lines_for_machines_and_for_files_tell_each_run(study, monkeypatch):
    from alexnet_ablations.cli.study_progress import EventsWithEpochs
    from alexnet_ablations.run.progress import Events
    from alexnet_lab.progress import JsonLines, PlainLines

    use(monkeypatch, "if norm == 'none': os._exit(9)\n" + WELL)
    lines = []
    run_all(study.folder, study.runs()[:3], 1, EventsWithEpochs(JsonLines(lines.append)))
    events = [json.loads(line) for line in lines]
    assert [(event["event"], event["cell"]) for event in events if event["event"] != "epoch"] == [
        ("started", "norm=lrn"),
        ("ended", "norm=lrn"),
        ("started", "norm=bn"),
        ("ended", "norm=bn"),
        ("started", "norm=none"),
        ("died", "norm=none"),
        ("started", "norm=none"),
        ("ended", "norm=none"),
    ]
    assert events[-1]["state"] == "lost"
    console = Console(width=120)
    with console.capture() as captured:
        run_all(study.folder, study.runs()[3:], 1, Events(PlainLines(console)))
    said = captured.get()
    assert "[1/3] norm=lrn seed 1: 50.0%, 0:0" in said
    assert "norm=none seed 1: its process ended with status 9 and no verdict; it is started again" in said
    assert "[3/3] norm=none seed 1: lost (its process ended with status 9" in said


@pytest.mark.long
def test_ctrl_c_ends_with_one_sentence_and_status_130_and_the_same_command_goes_on(tmp_path):
    command = [sys.executable, "-c", "from alexnet_ablations.cli import main; main()", "ablate", "--norm", "bn"]
    command += ["--seeds", "1", "--epochs", "40", "--out", "study"]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # As in a terminal: a test run that was sent to the background ignores Ctrl-C, and hands that on.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )
    deadline = time.monotonic() + 120
    while len(list(tmp_path.glob("study/runs/*/*/metrics.jsonl"))) < 1:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "stopped, and saved in study; the same command goes on from there" in said
    assert "Traceback" not in said
    shown = call("status", tmp_path / "study")
    assert "nobody is at work here" in shown
    assert Lock(tmp_path / "study" / "coordinator.lock").holder() is None
