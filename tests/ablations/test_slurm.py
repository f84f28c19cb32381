"""Slurm: what is asked of it; and a cluster of two machines, of which one is lost, with a job that is queued again."""

import shutil
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import safetensors.torch
import slurm_cluster
import torch
from stand_ins import study_in
from test_survival import FACTORS, START, learnt_in

from alexnet_ablations.declare.status import statuses
from alexnet_ablations.declare.study import Study
from alexnet_ablations.run.coordinator import run_all
from alexnet_ablations.run.executors import slurm
from alexnet_ablations.run.executors.slurm import Slurm
from alexnet_lab.training.handover import attempts_of

# Small, since what is tried here is what happens to runs, each of which starts several times.
SMALL = replace(START, data="synthetic:classes=3,side=16,count=240")

# As a user's job does, with a checkpoint after every epoch; the first attempt at a run of seed 0 waits after its second
# epoch, so that the test decides what happens to it there.
RUN = """
import sys, time
from pathlib import Path
from alexnet_lab.training import run, trainer
from alexnet_lab.training.handover import run_of
trainer.BETWEEN_EPOCHS = 0.0
folder = Path(sys.argv[-1])
gate = folder.parents[2] / "gates" / f"{folder.parent.name}-{run_of(folder).name}"
first = not gate.with_suffix(".began").exists()
save = trainer.Trainer._save
def save_and_wait(self):
    save(self)
    if first and self.recipe.seed == 0 and self.epoch == 3:
        gate.with_suffix(".began").write_text(str(folder))
        while not (self.stop_asked or gate.with_suffix(".go").exists()):
            time.sleep(0.05)
trainer.Trainer._save = save_and_wait
sys.exit(run.main(sys.argv[1:]))
"""
NODE = f"""
import sys
from alexnet_ablations.run import node
node.command_of = lambda folder: [sys.executable, "-c", {RUN!r}, "--coordinated", str(folder)]
sys.exit(node.main(sys.argv[1:]))
"""


@pytest.fixture
def cluster(tmp_path_factory, monkeypatch):
    if lacking := slurm_cluster.missing():
        pytest.skip(lacking)
    cluster = slurm_cluster.Cluster(tmp_path_factory.mktemp("slurm"))
    monkeypatch.setenv("SLURM_CONF", str(cluster.file))
    monkeypatch.setattr(slurm, "LOOK", 0.5)
    monkeypatch.setattr(slurm, "SETTLE", 3.0)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


def assert_same_weights(one, other):
    a, b = (safetensors.torch.load_file(run.folder.path / "checkpoints" / "best.safetensors") for run in (one, other))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.campaign
def test_a_lost_machine_an_orphan_and_a_job_queued_again_change_no_number(cluster, tmp_path, monkeypatch):
    whole, study = (Study(SMALL, FACTORS, 2, tmp_path / name) for name in ("whole", "clustered"))
    run_all(whole.folder, whole.runs()[:3], 2)

    monkeypatch.setattr(slurm, "command_of_node", lambda: [sys.executable, "-c", NODE])
    gates = study.folder / "gates"
    gates.mkdir(parents=True)
    runs = study.runs()[:3]
    failed = []

    def coordinate():
        try:
            run_all(study.folder, runs, executor=Slurm(time="1h"))
        except ValueError as error:
            failed.append(error)

    coordinator = threading.Thread(target=coordinate)
    coordinator.start()
    lrn, bn = (gates / f"norm={norm}-seed-0" for norm in ("lrn", "bn"))
    slurm_cluster.wait_for(lambda: lrn.with_suffix(".began").exists() and bn.with_suffix(".began").exists(), 120)
    seen = Slurm.sightings(study.folder)
    shown = {one.cell: one for one in statuses(runs, seen) if one.seed == 0}
    assert {one.state for one in shown.values()} == {"running"}
    assert {one.epochs for one in shown.values()} == {2}
    assert [one.state for one in statuses(runs, seen) if one.seed == 1] == ["waiting"]
    jobs = {cell: one.scheduler for cell, one in shown.items()}
    assert all("RUNNING on n" in text for text in jobs.values()), jobs

    # What Slurm sends before the time limit: the run saves, and its job waits in the queue again.
    id_, node = jobs["norm=lrn"].split()[2].rstrip(":"), jobs["norm=lrn"].split()[-1]
    signalling = subprocess.Popen([shutil.which("scancel"), "--signal=USR1", "--batch", id_])
    first = Path(lrn.with_suffix(".began").read_text())
    slurm_cluster.wait_for(lambda: '"ended"' in (first / "attempts.jsonl").read_text(), 60)
    signalling.kill()  # it repeats itself for a minute, to a job that has been queued again
    signalling.wait()

    # A machine that is only thought dead: its job starts again elsewhere, and the orphan works on.
    lost = jobs["norm=bn"].split()[-1]
    assert lost != node
    cluster.kill_node(lost)
    cluster.ask("scontrol", "update", f"nodename={lost}", "state=down", "reason=test")
    coordinator.join(500)  # on a busy machine; on a quiet one half a minute
    assert not coordinator.is_alive()
    assert not failed
    orphan = Path(bn.with_suffix(".began").read_text())
    verdict = (runs[1].folder.path / "state.json").read_bytes()
    assert learnt_in(SimpleNamespace(runs=lambda: runs)) == learnt_in(SimpleNamespace(runs=lambda: whole.runs()[:3]))
    for one, other in zip(whole.runs()[:3], runs, strict=True):
        assert_same_weights(one, other)

    processes = [path for path in Path("/proc").glob("[0-9]*") if str(orphan) in command_line(path)]
    assert processes, "the orphan must have outlived its machine"
    bn.with_suffix(".go").touch()
    slurm_cluster.wait_for(lambda: not any(str(orphan) in command_line(path) for path in processes), 60)
    slurm_cluster.wait_for(lambda: not attempts_of(runs[1].folder.path), 10)
    assert (runs[1].folder.path / "state.json").read_bytes() == verdict
    assert {one.state for one in statuses(runs)} == {"ok"}
    assert not any(run.folder.damages(weights=True) for run in runs)


@pytest.mark.campaign
def test_a_coordinator_that_comes_back_follows_the_jobs_there_are(cluster, tmp_path, monkeypatch):
    program = (
        "import sys; from pathlib import Path; from alexnet_ablations.run import node\n"
        "node.command_of = lambda folder: [sys.executable, '-c', 'import sys, time; from pathlib import Path;"
        "from alexnet_lab.records import RunFolder\\nfolder = RunFolder(Path(sys.argv[1]))\\n"
        'while not Path(sys.argv[1]).parents[2].joinpath("go").exists(): time.sleep(.05)\\n'
        'folder.end("ok", result={"test": {"accuracy": 0.5}})\', str(folder)]\n'
        "sys.exit(node.main(sys.argv[1:]))"
    )
    monkeypatch.setattr(slurm, "command_of_node", lambda: [sys.executable, "-c", program])
    study = study_in(tmp_path / "study", 2)
    begin = f"""
import sys
from pathlib import Path
from alexnet_ablations.run.coordinator import run_all
from alexnet_ablations.run.executors import slurm
slurm.command_of_node = lambda: [sys.executable, "-c", {program!r}]
sys.path.insert(0, {str(Path(__file__).parent)!r})
from stand_ins import study_in
study = study_in(Path({str(study.folder)!r}), 2)
run_all(study.folder, study.runs(), executor=slurm.Slurm())
"""
    first = subprocess.Popen([sys.executable, "-c", begin])
    slurm_cluster.wait_for(lambda: len(cluster.ask("squeue", "-h", "-r").splitlines()) == 4, 60)
    first.kill()
    first.wait()
    before = cluster.ask("squeue", "-h", "-r", "-o", "%i").split()

    def go_on():
        time.sleep(2)
        (study.folder / "go").touch()

    threading.Thread(target=go_on).start()
    run_all(study.folder, study.runs(), executor=Slurm())
    assert {run.folder.verdict()["state"] for run in study.runs()} == {"ok"}
    assert len({job.partition("_")[0] for job in before}) == 1
    assert len(list((study.folder / "slurm").iterdir())) == 1, "nothing is submitted twice"


def command_line(process):
    try:
        return (process / "cmdline").read_bytes().decode(errors="replace")
    except OSError:  # it has ended
        return ""
