"""False alarms: the findings on healthy runs.

    python benchmarks/false_alarms.py --out runs/false-alarms

trains networks on the handwritten digits over norms, activations, dropout, optimisers and seeds, and diagnoses each as
`alexnet-lab train` leaves it. A run is healthy if its best validation accuracy is above 95%; a finding on such a run is
a false alarm unless there is a reason for it. Runs that have ended are not repeated.
"""

import argparse
import json
import subprocess
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path

from alexnet_lab.diagnosis import diagnose
from alexnet_lab.records import RunFolder
from alexnet_lab.training.recipe import read_recipe

HEALTHY = 0.95
# Epochs are as few as take nearly every run above 95%.
RUNS: dict[str, dict[str, object]] = {
    "lrn seed 0": {"epochs": 8},
    "lrn seed 1": {"epochs": 8, "seed": 1},
    "lrn seed 2": {"epochs": 8, "seed": 2},
    "lrn, dropout 0.3": {"epochs": 8, "dropout": 0.3},
    "lrn, leaky": {"epochs": 8, "act": "leaky:0.1"},
    "lrn, prelu": {"epochs": 8, "act": "prelu"},
    "bn seed 0": {"epochs": 5, "norm": "bn"},
    "bn seed 1": {"epochs": 5, "norm": "bn", "seed": 1},
    "bn seed 2": {"epochs": 5, "norm": "bn", "seed": 2},
    "bn, dropout 0.3": {"epochs": 5, "norm": "bn", "dropout": 0.3},
    "bn, leaky": {"epochs": 5, "norm": "bn", "act": "leaky:0.1"},
    "bn after": {"epochs": 5, "norm": "bn:after"},
    "bn, batch 128": {"epochs": 6, "norm": "bn", "batch_size": 128, "learning_rate": 0.02},
    "bn, adamw": {"epochs": 5, "norm": "bn", "optimiser": "adamw", "learning_rate": 1e-3},
    "bn, krizhevsky": {"epochs": 5, "norm": "bn", "optimiser": "krizhevsky"},
    "bn, bf16": {"epochs": 4, "norm": "bn", "precision": "bf16"},
    "gn": {"epochs": 8, "norm": "gn:groups=4"},
    "none seed 0": {"epochs": 8, "norm": "none"},
    "none seed 1": {"epochs": 8, "norm": "none", "seed": 1},
    "none, dropout 0.3": {"epochs": 8, "norm": "none", "dropout": 0.3},
    "none, no dropout": {"epochs": 8, "norm": "none", "dropout": 0.0},
    "none, leaky": {"epochs": 8, "norm": "none", "act": "leaky:0.1"},
    "none, tanh": {"epochs": 8, "norm": "none", "act": "tanh"},
    "none, elu": {"epochs": 8, "norm": "none", "act": "elu"},
    "none, adamw": {"epochs": 6, "norm": "none", "optimiser": "adamw", "learning_rate": 1e-3},
    "torchvision preset": {"epochs": 10, "preset": "torchvision", "init": "torch"},
}


def train(folder: RunFolder, values: dict[str, object]) -> None:
    """Train one run in its own process, unless it has ended already."""
    if folder.verdict() is not None:
        return
    folder.path.mkdir(parents=True, exist_ok=True)
    recipe = read_recipe(values)
    (folder.path / "recipe.json").write_text(json.dumps(asdict(recipe), indent=2))
    subprocess.run([sys.executable, "-m", "alexnet_lab.training.run", str(folder.path)], check=True)


def main() -> None:
    """Train, diagnose, and print a row per run and the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/false-alarms"), help="folder of the runs")
    parser.add_argument("--only", help="comma-separated numbers of runs, from 0; all by default")
    arguments = parser.parse_args()
    chosen = list(RUNS) if not arguments.only else [list(RUNS)[int(at)] for at in arguments.only.split(",")]
    alarms: Counter[str] = Counter()
    healthy = 0
    for name in chosen:
        folder = RunFolder(arguments.out / name.replace(", ", "-").replace(" ", "-"))
        train(folder, RUNS[name])
        best = max((row["validation_accuracy"] for row in folder.metrics()), default=0.0)
        findings = [f"{finding.severity} {finding.name}" for finding in diagnose(folder)]
        print(f"{name:20} best validation accuracy {best:.3f}  {', '.join(findings) or 'no finding'}", flush=True)
        if best > HEALTHY:
            healthy += 1
            alarms.update(findings)
    print(f"\n{healthy} of {len(chosen)} runs above {HEALTHY:.0%}; findings on these: {dict(alarms) or 'none'}")


if __name__ == "__main__":
    main()
