"""Small programs that stand in for runs, each ending in one of the ways in which runs end, and studies made of them."""

import os
import signal
import sys

from alexnet_ablations.declare.design import Factor
from alexnet_ablations.declare.study import Study
from alexnet_ablations.run.coordinator import Watcher, run_all
from alexnet_ablations.run.executors import forking, local
from alexnet_lab.training.recipe import Recipe

BEGINNING = """
import os, signal, sys, time
from pathlib import Path
from alexnet_lab.records import RunFolder
folder = RunFolder(Path(sys.argv[-1]))
recipe = folder.recipe()
norm, seed = recipe["norm"], recipe["seed"]
before = len(list(folder.metrics()))
"""
WELL = """
folder.log({"epoch": before + 1, "validation_accuracy": 0.5})
folder.end("ok", result={"test": {"accuracy": 0.5}})
"""
# Says that it is ready, and saves when it is asked to stop.
SAVING = """
def save(*_):
    (folder.path / "saved").touch()
    sys.exit(130)
signal.signal(signal.SIGTERM, save)
(folder.path / "ready").touch()
time.sleep(60)
"""
DEATHS = [
    ("os.kill(os.getpid(), signal.SIGKILL)", "killed (SIGKILL), which is also what a system does when memory"),
    ("os.kill(os.getpid(), signal.SIGSEGV)", "ended by SIGSEGV"),
    ("print('the last word', flush=True); os._exit(3)", "ended with status 3 and no verdict: the last word"),
]


def use(monkeypatch, program):
    """Start this program wherever a run would be started."""
    monkeypatch.setattr(local, "command_of", lambda folder: [sys.executable, "-c", BEGINNING + program, str(folder)])


# A server that forks stand-ins in place of runs, without torch.
SERVER = """
import sys, types
run = sys.modules["alexnet_lab.training.run"] = types.ModuleType("alexnet_lab.training.run")
run.__file__ = "run.py"
def main(arguments):
    try:
        exec(compile(PROGRAM, "stand-in", "exec"), {"__name__": "stand-in"})
    except SystemExit as end:
        return end.code
    return 0
run.main = main
from alexnet_lab.training import forks
forks.LATE = ()
sys.exit(forks.main())
"""


def use_forked(monkeypatch, program):
    """Fork this program wherever a run would be forked, and start it wherever one would be started by itself."""
    use(monkeypatch, program)
    monkeypatch.setattr(local, "run_command", local.command_of)
    server = f"PROGRAM = {BEGINNING + program!r}\n{SERVER}"
    monkeypatch.setattr(forking, "server_command", lambda: [sys.executable, "-c", server])


class Listener(Watcher):
    """Remembers what it is told."""

    def __init__(self):
        self.heard, self.processes, self.side_by_side, self.notes = [], [], [], []

    def started(self, attempt):
        self.processes.append(attempt.process)
        self.side_by_side.append(sum(process.poll() is None for process in self.processes))
        self.heard.append(("started", attempt.run.cell.name, attempt.run.seed))

    def died(self, attempt):
        self.heard.append(("died", attempt.run.cell.name, attempt.run.seed))

    def skipped(self, run):
        self.heard.append(("skipped", run.cell.name, run.seed))

    def ended(self, attempt):
        self.heard.append((attempt.state, attempt.run.cell.name, attempt.run.seed))

    def note(self, text):
        self.notes.append(text)

    def of(self, kind):
        return [(cell, seed) for what, cell, seed in self.heard if what == kind]


class Interrupting(Listener):
    """Interrupts the coordinator once two runs are ready."""

    def __init__(self, study):
        super().__init__()
        self.study = study

    def tick(self):
        if len(list(self.study.glob("runs/*/*/ready"))) == 2:
            os.kill(os.getpid(), signal.SIGTERM)


def study_in(path, seeds=2, levels=("lrn", "bn")):
    return Study(Recipe(epochs=1), (Factor("norm", levels),), seeds, path)


def make(study, jobs=2, runs=None, **options):
    listener = Listener()
    run_all(study.folder, study.runs() if runs is None else runs, jobs, listener, **options)
    return listener


def states_of(study):
    return [(run.folder.verdict() or {"state": None})["state"] for run in study.runs()]
