"""A study on a Ray cluster of two machines, one of which is killed midway: python ray_scenario.py FOLDER

Prints a line of JSON: what the coordinator was told. A process of its own, since Ray leaves threads and warnings.
"""

import json
import os
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
# A machine that is busy with other tests takes its time to start what Ray starts.
os.environ.update(
    RAY_USAGE_STATS_ENABLED="0", RAY_raylet_start_wait_time_s="120", RAY_worker_register_timeout_seconds="120"
)

from slurm_cluster import free_ports
from test_survival import FACTORS, START

from alexnet_ablations.declare.study import Study
from alexnet_ablations.run.coordinator import Watcher, run_all
from alexnet_ablations.run.executors import ray as executor

SMALL = replace(START, data="synthetic:classes=3,side=16,count=240")
# A checkpoint after every epoch; the first attempt at a run of seed 0 waits after its second epoch.
RUN = """
import json, os, sys, time
from pathlib import Path
from alexnet_lab.training import run, trainer
trainer.BETWEEN_EPOCHS = 0.0
recipe = json.loads(Path(sys.argv[-1], "recipe.json").read_text())
gate = Path(os.environ["GATES"], f"norm={recipe['norm']}-seed-{recipe['seed']}")
save = trainer.Trainer._save
first = not gate.exists()
def save_and_wait(self):
    save(self)
    if first and self.recipe.seed == 0 and self.epoch == 3:
        gate.write_text(os.environ["NODE"])
        while not (self.stop_asked or gate.with_suffix(".go").exists()):
            time.sleep(0.05)
trainer.Trainer._save = save_and_wait
sys.exit(run.main(sys.argv[1:]))
"""


def study_in(path):
    return Study(SMALL, FACTORS, 2, path)


def runs_of(study):
    """Return two runs that wait at a gate, one on each machine, and one after them."""
    return study.runs()[:3]


class Listener(Watcher):
    def __init__(self):
        self.died_of, self.ended_as, self.notes = [], [], []

    def died(self, attempt):
        self.died_of.append(f"{attempt.name}: {attempt.why}")

    def ended(self, attempt):
        self.ended_as.append(f"{attempt.name}: {attempt.state} {attempt.why}")

    def note(self, text):
        self.notes.append(text)


def with_gates(gates, is_shared):
    """Return what a machine does for a task, with runs that wait at a gate."""

    def do_task(text, mark):
        import ray

        from alexnet_ablations.run import node
        from alexnet_ablations.run.executors import ray as executor

        os.environ.update(GATES=gates, NODE=ray.get_runtime_context().get_node_id())
        node.command_of = lambda folder: [sys.executable, "-c", RUN, "--coordinated", str(folder)]
        return executor.do_task(text, mark if is_shared else f"{mark}-that-is-not-here")

    return do_task


def machine():
    """Return the arguments for a machine of one processor; with ports that are given it waits for none to be found."""
    names = ("metrics_agent_port", "runtime_env_agent_port", "metrics_export_port", "dashboard_agent_listen_port")
    return {"num_cpus": 1, **dict(zip(names, free_ports(len(names)), strict=True))}


def main(folder, is_shared):
    from ray.cluster_utils import Cluster

    study = study_in(folder)
    gates = folder / "gates"
    gates.mkdir(parents=True)
    cluster = Cluster(initialize_head=True, head_node_args={**machine(), "include_dashboard": False})
    doomed = cluster.add_node(**machine())
    executor.do_task = with_gates(str(gates), is_shared)

    def kill_one():
        names = [f"norm={norm}-seed-0" for norm in ("lrn", "bn")]
        while not all((gates / name).exists() for name in names):
            time.sleep(0.1)
        cluster.remove_node(doomed, allow_graceful=False)
        for name in names:
            if (gates / name).read_text() != doomed.node_id:
                (gates / f"{name}.go").touch()

    threading.Thread(target=kill_one, daemon=True).start()
    listener = Listener()
    run_all(study.folder, runs_of(study), watcher=listener, executor=executor.Ray(ray_address=cluster.address))
    cluster.shutdown()
    told = {"died": listener.died_of, "ended": listener.ended_as, "notes": listener.notes}
    print(json.dumps(told))  # noqa: T201  # what the test reads


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2] == "shared")
