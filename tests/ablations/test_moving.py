"""A run that begins on one engine and goes on on others has the numbers of one that was never disturbed."""

import sys
from dataclasses import replace

import pytest
from test_survival import FACTORS, START, assert_same

from alexnet_ablations.declare.study import Study
from alexnet_ablations.run import node
from alexnet_ablations.run.coordinator import run_all
from alexnet_ablations.run.elsewhere import make_way, task_of
from alexnet_ablations.run.executors import forking, local
from alexnet_lab.training.handover import attempts_of

# A run that saves after every epoch, and is killed as soon as it has saved one that the environment names or a later.
RUN = """
import os, signal, sys
from alexnet_lab.training import run, trainer
trainer.BETWEEN_EPOCHS = 0.0
save = trainer.Trainer._save
def save_and_die(self):
    save(self)
    if self.epoch - 1 >= int(os.environ["LAST_EPOCH"]):
        os.kill(os.getpid(), signal.SIGKILL)
trainer.Trainer._save = save_and_die
"""
# By itself, or forked by a process that does the same to all of its runs.
BY_ITSELF = f"{RUN}sys.exit(run.main(sys.argv[1:]))"
SERVER = f"{RUN}from alexnet_lab.training import forks\nsys.exit(forks.main())"


def command_of(folder):
    return [sys.executable, "-c", BY_ITSELF, "--coordinated", str(folder)]


@pytest.mark.long
def test_from_this_machine_to_another_and_back_to_the_last_bit(tmp_path, monkeypatch):
    start = replace(START, data="synthetic:classes=3,side=16,count=107", batch_size=16)
    whole, moved = (Study(start, FACTORS, 1, tmp_path / name) for name in ("whole", "moved"))
    run_all(whole.folder, whole.runs(), 2)
    for name in ("command_of", "run_command"):
        monkeypatch.setattr(local, name, command_of)
    monkeypatch.setattr(forking, "server_command", lambda: [sys.executable, "-c", SERVER])
    monkeypatch.setattr(node, "command_of", command_of)

    # Here, until epoch 1, and once more until epoch 2: what is left is a run without a verdict.
    monkeypatch.setattr(local.LocalExecutor, "write_verdict", lambda *_: None)
    monkeypatch.setenv("LAST_EPOCH", "1")
    run_all(moved.folder, moved.runs(), 2)
    assert [len(list(run.folder.metrics())) for run in moved.runs()] == [2, 2]

    # Elsewhere, until epoch 3: nothing has the run's name then.
    monkeypatch.setenv("LAST_EPOCH", "3")
    for run in moved.runs():
        assert make_way(run, lambda _run: False) is None
        assert node.make_attempt(task_of(run), "elsewhere") == -9
        assert not run.folder.path.exists()
        assert len(attempts_of(run.folder.path)) == 2

    # And here again, to its end.
    monkeypatch.undo()
    run_all(moved.folder, moved.runs(), 2)
    for run in moved.runs():
        assert "going on at epoch 4, step 0" in (run.folder.path / "output.txt").read_text()
        assert attempts_of(run.folder.path) == []
    assert_same(whole, moved)
