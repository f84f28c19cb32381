"""Engines as flags and study files name them, and what Slurm is asked for, whose programs are stand-ins here."""

import json
import os
import sys
import textwrap

import pytest
from stand_ins import BEGINNING, WELL, study_in
from typer.testing import CliRunner

from alexnet_ablations.cli.application import application
from alexnet_ablations.cli.study_options import EngineWords
from alexnet_ablations.declare.history import read_history
from alexnet_ablations.declare.status import statuses
from alexnet_ablations.run.coordinator import SameFailureError, Watcher, run_all
from alexnet_ablations.run.engines import ENGINES, options_of, read_engine
from alexnet_ablations.run.executors import ray, slurm
from alexnet_ablations.run.executors.local import Local
from alexnet_ablations.run.executors.ray import Ray
from alexnet_ablations.run.executors.slurm import Slurm
from alexnet_ablations.run.study import run_study
from alexnet_lab.training.handover import attempts_of

# Slurm as far as a coordinator sees it: sbatch runs the tasks of an array at once, one after the other, and writes down
# what it was asked. A task whose number is in the file `holds` stays in the queue.
SBATCH = """
import json, os, subprocess, sys
from pathlib import Path
place = Path(os.environ["FAKE_SLURM"])
arguments = sys.argv[1:]
with (place / "asked").open("a") as file:
    file.write(json.dumps(arguments) + "\\n")
if (place / "refuses").exists():
    sys.exit("sbatch: error: invalid partition specified: gpus")
options = dict(text[2:].partition("=")[::2] for text in arguments if text.startswith("--"))
last = int(options["array"].partition("%")[0].partition("-")[2])
array = len((place / "asked").read_text().splitlines())
held = (place / "holds").read_text().split() if (place / "holds").exists() else []
queue = place / "queue"
for task in range(last + 1):
    name = f"{array}|{task}|{array}_{task}|PENDING|0:00|Resources||{options['comment']}\\n"
    if str(task) in held:
        with queue.open("a") as file:
            file.write(name)
        continue
    environment = {
        "SLURM_ARRAY_TASK_ID": str(task), "SLURM_ARRAY_JOB_ID": str(array), "SLURM_JOB_ID": "7", "SLURMD_NODENAME": "n1"
    }
    with open(options["output"].replace("%a", str(task)), "w") as said:
        subprocess.run(["bash", arguments[-1]], env={**os.environ, **environment}, stdout=said, stderr=said)
print(f"{array};lab")
"""
SQUEUE = """
import os
from pathlib import Path
queue = Path(os.environ["FAKE_SLURM"], "queue")
print(queue.read_text() if queue.exists() else "", end="")
"""
OTHER = """
import os, sys
from pathlib import Path
with Path(os.environ["FAKE_SLURM"], "others").open("a") as file:
    file.write(" ".join([Path(sys.argv[0]).name, *sys.argv[1:]]) + "\\n")
if sys.argv[1:3] == ["show", "job"]:
    print("JobId=7 JobState=OUT_OF_MEMORY Reason=None ExitCode=0:125")
"""


@pytest.fixture
def fake(tmp_path, monkeypatch):
    programs, place = tmp_path / "bin", tmp_path / "fake"
    programs.mkdir()
    place.mkdir()
    for name, text in {"sbatch": SBATCH, "squeue": SQUEUE, "scancel": OTHER, "scontrol": OTHER}.items():
        (programs / name).write_text(f"#!{sys.executable}\n{text}")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_SLURM", str(place))
    monkeypatch.setattr(slurm, "LOOK", 0.05)
    monkeypatch.setattr(slurm, "SETTLE", 0.2)
    return place


def use(monkeypatch, program):
    """Have the machines of Slurm start this program wherever they would start a run."""
    text = (
        "import sys; from alexnet_ablations.run import node\n"
        f"node.command_of = lambda folder: [sys.executable, '-c', {BEGINNING + program!r}, str(folder)]\n"
        "sys.exit(node.main(sys.argv[1:]))"
    )
    monkeypatch.setattr(slurm, "command_of_node", lambda: [sys.executable, "-c", text])


def asked(fake):
    lines = map(json.loads, (fake / "asked").read_text().splitlines())
    return [dict(text[2:].partition("=")[::2] for text in line if text.startswith("--")) for line in lines]


class Listener(Watcher):
    def __init__(self):
        self.heard, self.notes = [], []

    def died(self, attempt):
        self.heard.append(("died", attempt.name, attempt.why))

    def ended(self, attempt):
        self.heard.append((attempt.state, attempt.name, attempt.why))

    def note(self, text):
        self.notes.append(text)


def test_an_engine_has_its_options_and_refuses_those_of_another():
    assert read_engine() == Local()
    assert read_engine("slurm", {"partition": "gpu", "time": "4h", "slurm_arg": ["account=lab"]}) == Slurm(
        "gpu", "4h", ("account=lab",)
    )
    assert read_engine("ray", {"ray_address": "auto"}) == Ray("auto")
    with pytest.raises(ValueError, match="unknown executor 'slrum'. Did you mean 'slurm'"):
        read_engine("slrum")
    with pytest.raises(ValueError, match="--partition is an option of executor slurm, and got executor local; add"):
        read_engine("local", {"partition": "gpu"})
    with pytest.raises(ValueError, match="unknown option of executor slurm 'partitoin'. Did you mean 'partition'"):
        read_engine("slurm", {"partitoin": "gpu"})
    with pytest.raises(ValueError, match="slurm_arg must be a list of texts, got 'account=lab'"):
        read_engine("slurm", {"slurm_arg": "account=lab"})
    names = [name for engine in ENGINES for name in options_of(engine)]
    assert len(names) == len(set(names)), "an option names its engine"


def test_flags_hold_before_a_study_file():
    table = {"name": "slurm", "partition": "gpu", "slurm-arg": ["account=lab"]}
    assert EngineWords().engine(table) == Slurm("gpu", slurm_arg=("account=lab",))
    assert EngineWords(None, {"partition": "long"}).engine(table) == Slurm("long", slurm_arg=("account=lab",))
    assert EngineWords("local").engine(table) == Local()
    assert EngineWords().engine() == Local()
    with pytest.raises(ValueError, match=r"\[executor\] must have a name, one of local, ray, slurm; got None"):
        EngineWords().engine({"partition": "gpu"})


@pytest.mark.parametrize(
    ("said", "minutes"),
    [("4h", "240"), ("90m", "90"), ("1.5h", "90"), ("2d", "2880"), ("1-12:00:00", "1-12:00:00"), ("30", "30")],
)
def test_a_time_limit_is_hours_or_what_slurm_writes(said, minutes):
    assert Slurm(time=said).arguments() == [f"--time={minutes}"]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"time": "soon"}, "--time takes hours, minutes or a time of Slurm, such as 4h, 90m or 1-12:00:00; got 'soon'"),
        ({"time": "4m"}, "--time must be at least 5 minutes, since a run saves 120 s before its end; got '4m'"),
        ({"time": "0:30"}, "--time must be at least 5 minutes"),
        ({"slurm_arg": ("array=0-9",)}, "--slurm-arg array is given by alexnet-lab itself; leave it out"),
        ({"slurm_arg": ("account lab",)}, "--slurm-arg takes name=value as sbatch has it"),
    ],
)
def test_what_slurm_would_refuse_later_is_refused_at_once(options, complaint):
    with pytest.raises(ValueError, match=complaint):
        Slurm(**options)


@pytest.mark.parametrize(
    ("text", "seconds"), [("0:05", 5), ("1:02:03", 3723), ("1-02:03:04", 93784), ("INVALID", None), ("12:00", 720)]
)
def test_times_of_squeue_are_read(text, seconds):
    minutes = slurm._minutes_of(text)
    assert (None if minutes is None else round(60 * minutes)) == seconds


def test_without_slurm_or_ray_one_sentence_says_what_to_do(tmp_path, monkeypatch):
    study = study_in(tmp_path, 1)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        ValueError, match="executor slurm needs the program sbatch, which is not on this machine; start"
    ):
        run_all(study.folder, study.runs(), executor="slurm")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r'executor ray needs the extra ray: pip install "alexnet-lab\[ray\]"'):
        run_all(study.folder, study.runs(), executor=Ray())


def test_runs_are_one_array_that_says_what_each_needs(fake, tmp_path, monkeypatch):
    use(monkeypatch, "print('threads', os.environ['OMP_NUM_THREADS'])\n" + WELL)
    study = study_in(tmp_path / "study of mine", 2)
    listener = Listener()
    engine = Slurm(partition="gpu", time="4h", slurm_arg=("--account=lab", "mem=3G"))
    run_all(study.folder, study.runs(), 3, listener, timeout=30, executor=engine)
    assert sorted(listener.heard) == [
        ("ok", f"norm={norm} seed {seed}", "") for norm in ("bn", "lrn") for seed in (0, 1)
    ]
    (options,) = asked(fake)
    expected = {
        "array": "0-3%3",
        "partition": "gpu",
        "time": "240",
        "account": "lab",
        "mem": "3G",
        "cpus-per-task": "1",
        "signal": "B:USR1@120",
        "job-name": "alexnet-lab:study-of-mine",
    }
    assert expected.items() <= options.items()
    assert "requeue" in options
    assert "gres" not in options
    run = study.runs()[0]
    assert (run.folder.path / "output.txt").read_text() == "threads 1\n"
    assert read_history(run.folder.path).slot == "slurm 1_0 n1"
    assert {one.state for one in statuses(study.runs())} == {"ok"}


def test_a_timeout_without_a_time_limit_tells_slurm_how_long_a_job_takes(fake, tmp_path, monkeypatch):
    use(monkeypatch, WELL)
    study = study_in(tmp_path / "study", 1)
    run_all(study.folder, study.runs(), timeout=30, executor="slurm")
    assert asked(fake)[0]["time"] == "40"


def test_a_job_that_dies_is_submitted_once_more_and_then_lost_with_what_both_sides_say(fake, tmp_path, monkeypatch):
    use(
        monkeypatch,
        """
if norm == "bn":
    folder.log({"epoch": before + 1})
    print("almost there", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""
        + WELL,
    )
    study = study_in(tmp_path / "study", 1)
    listener = Listener()
    run_all(study.folder, study.runs(), None, listener, executor="slurm")
    why = "its job ended without a verdict: slurm says OUT_OF_MEMORY, exit code 0:125; its last words: almost there"
    assert ("died", "norm=bn seed 0", why) in listener.heard
    assert listener.heard[-1] == ("lost", "norm=bn seed 0", f"{why}, 2 times in a row")
    assert [options["array"] for options in asked(fake)] == ["0-1", "0-0"]
    lost = study.runs()[1].folder
    assert lost.verdict()["state"] == "lost"
    assert attempts_of(study.runs()[0].folder.path) == []
    # The same command tries again, from what its attempts left.
    use(monkeypatch, WELL)
    run_all(study.folder, [run for run in study.runs() if not run.is_done], executor="slurm")
    assert lost.verdict()["state"] == "ok"
    assert [path.name for path in lost.path.parent.iterdir()] == ["seed-0"]


def test_what_sbatch_refuses_is_one_sentence_and_nothing_stays_behind(fake, tmp_path):
    (fake / "refuses").touch()
    study = study_in(tmp_path / "study", 1)
    with pytest.raises(
        ValueError, match="sbatch ended with status 1: sbatch: error: invalid partition specified: gpus; c"
    ):
        run_all(study.folder, study.runs(), executor=Slurm(partition="gpus"))
    assert list((study.folder / "slurm").iterdir()) == []


def test_jobs_in_the_queue_are_followed_and_shown_and_not_submitted_again(fake, tmp_path, monkeypatch):
    use(monkeypatch, WELL)
    (fake / "holds").write_text("1")
    study = study_in(tmp_path / "study", 1).open_folder()

    class Impatient(Listener):
        def ended(self, attempt):
            super().ended(attempt)
            raise KeyboardInterrupt

    first = Impatient()
    with pytest.raises(KeyboardInterrupt):
        run_all(study.folder, study.runs(), None, first, executor="slurm")
    assert first.notes == ["1 runs go on without this command, which follows them when it is back"]
    assert not (fake / "others").exists(), "nothing is cancelled"
    waiting = statuses(study.runs(), Slurm.sightings(study.folder))[1]
    assert (waiting.state, waiting.scheduler) == ("waiting", "slurm job 1_1: PENDING (Resources)")
    shown = CliRunner().invoke(application, ["status", str(study.folder)], terminal_width=120).output
    assert "1 waiting; slurm: PENDING (Resources)" in shown

    class Releasing(Listener):
        def tick(self):
            if (fake / "queue").exists():  # now the scheduler runs the job that it held
                (fake / "queue").unlink()
                (script,) = (study.folder / "slurm").glob("*/job.sh")
                os.system(f"SLURM_ARRAY_TASK_ID=1 SLURM_ARRAY_JOB_ID=1 SLURMD_NODENAME=n2 bash '{script}'")  # noqa: S605

    second = Releasing()
    run_all(study.folder, [run for run in study.runs() if not run.is_done], None, second, executor="slurm")
    assert second.notes == ["1 jobs of this study are in the queue of Slurm already, and are followed"]
    assert len(asked(fake)) == 1
    assert {run.folder.verdict()["state"] for run in study.runs()} == {"ok"}


def test_runs_that_all_fail_alike_cancel_what_waits_in_the_queue(fake, tmp_path, monkeypatch):
    use(monkeypatch, "folder.end('error', f'{folder.path}/x is missing'); sys.exit(1)")
    (fake / "holds").write_text("3")
    study = study_in(tmp_path / "study", 2)
    with pytest.raises(SameFailureError, match="the first 3 runs failed in the same way"):
        run_all(study.folder, study.runs(), executor="slurm")
    assert "scancel 1_3" in (fake / "others").read_text()
    assert statuses(study.runs())[0].why == f"{study.runs()[0].folder.path}/x is missing"


def test_a_study_file_and_python_name_an_engine(fake, tmp_path, monkeypatch):
    use(monkeypatch, WELL)
    path = tmp_path / "mine.toml"
    path.write_text(
        textwrap.dedent("""
        seeds = 1
        [factors]
        norm = ["bn"]
        [executor]
        name = "slurm"
        partition = "gpu"
        """)
    )
    out = str(tmp_path / "study")
    done = CliRunner().invoke(application, ["study", str(path), "--out", out, "--partition", "long", "--json"])
    assert done.exit_code == 0, done.output
    assert asked(fake)[-1]["partition"] == "long"
    study = study_in(tmp_path / "other", 1)
    results = run_study(study, executor=Slurm(partition="gpu"))
    assert list(results["state"]) == ["ok", "ok"]
    assert asked(fake)[-1]["partition"] == "gpu"
    wrong = CliRunner().invoke(application, ["ablate", "--norm", "bn", "--partition", "gpu"])
    assert wrong.exit_code != 0


def test_a_finished_folder_crosses_from_a_machine_without_a_shared_disk(tmp_path):
    there = tmp_path / "there" / "seed-0"
    (there / "flow").mkdir(parents=True)
    (there / "flow" / "epoch-1.npz").write_bytes(b"1")
    (there / "state.json").write_text("{}")
    run = tmp_path / "runs" / "norm=bn" / "seed-0"
    run.parent.mkdir(parents=True)
    ray._unpack(ray._pack(there), run)
    assert sorted(path.name for path in run.rglob("*")) == ["epoch-1.npz", "flow", "state.json"]
    assert attempts_of(run) == []
