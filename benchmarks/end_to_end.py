"""What a user waits for: a short job beside a plain PyTorch script, and a study whose runs are forked or are not.

    python benchmarks/end_to_end.py job  [--rounds 5] [--pictures 384] [--epochs 2] [--csv FILE]
    python benchmarks/end_to_end.py study [--rounds 3] [--seeds 6] [--csv FILE]

`job`: full-width AlexNet at 227 pixels on pictures made here, `alexnet-lab train` over benchmarks/plain_script.py.
Seconds from start to end, with every import, and every picture decoded anew (at most 1.0); seconds of training (at most
1/1.1); peak memory of the process (at most 1.15).

`study`: seconds of `alexnet-lab ablate --norm bn --act leaky` with its runs forked, over the same with each run started
by itself (at most 0.7). Both must learn the same, to the last digit.

All are ratios within a round, interleaved, as medians with 20/80 quantiles. Needs a quiet machine. Exits 1 where one
is missed.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from timing import MACHINE, SPREAD, append_rows, machine, ratios, spread

LIMITS = {"seconds": 1.0, "training": 1 / 1.1, "memory": 1.15, "study": 0.7}
SHARES = {"train": 2 / 3, "val": 1 / 6, "test": 1 / 6}
CLASSES, SIDE = 4, 256
PLAIN = {"ALEXNET_LAB_START": "plain"}


class Cost(NamedTuple):
    """What one process took."""

    seconds: float
    memory: int  # bytes, of the process at most
    output: str


def cost_of(command: Sequence[str], environment: dict[str, str]) -> Cost:
    """Run a command to its end; RuntimeError if it fails."""
    with tempfile.TemporaryFile("w+") as output:
        began = time.perf_counter()
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, **environment})
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        printed = output.read()
    if process.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))} ended with {process.returncode}:\n{printed}")
    return Cost(seconds, used.ru_maxrss * 1024, printed)


def make_pictures(folder: Path, count: int) -> None:
    """Write PNG pictures of noise around a colour for each class, in train, val and test."""
    generator = np.random.default_rng(0)
    for part, share in SHARES.items():
        for name in range(CLASSES):
            (folder / part / f"class-{name}").mkdir(parents=True)
            for number in range(round(count * share / CLASSES)):
                pixels = generator.normal(60 + 40 * name, 40, (SIDE, SIDE, 3)).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / part / f"class-{name}" / f"{number}.png")


def measure_job(arguments: argparse.Namespace) -> dict[str, list[float]]:
    """Interleave both programs; return ratios of this project to the plain script."""
    costs: dict[str, list[Cost]] = {"plain": [], "ours": []}
    training: dict[str, list[float]] = {"plain": [], "ours": []}
    script = str(Path(__file__).with_name("plain_script.py"))
    with tempfile.TemporaryDirectory() as scratch:
        pictures = Path(scratch, "pictures")
        make_pictures(pictures, arguments.pictures)
        settings = ["--epochs", str(arguments.epochs), "--threads", str(arguments.threads)]
        for number in range(arguments.rounds + 1):
            plain = cost_of([sys.executable, script, str(pictures), f"{scratch}/weights.pt", *settings], {})
            out, cache = Path(scratch, f"run-{number}"), {"ALEXNET_LAB_CACHE": f"{scratch}/cache-{number}"}
            flags = ["--preset", "review", "--width", "1", "--image-size", "227", "--learning-rate", "0.001"]
            command = ["alexnet-lab", "train", "--data", str(pictures), "--out", str(out), "--device", "cpu"]
            ours = cost_of([*command, *flags, *settings], cache)
            if number:  # the first round fills the system's caches
                costs["plain"].append(plain)
                costs["ours"].append(ours)
                training["plain"].append(json.loads(plain.output.splitlines()[-1])["train_seconds"])
                result = json.loads((out / "state.json").read_text())["result"]
                training["ours"].append(result["train_seconds"])
                print(
                    f"round {number}: {ours.seconds:.1f} s over {plain.seconds:.1f} s, training "
                    f"{training['ours'][-1]:.1f} over {training['plain'][-1]:.1f}, memory "
                    f"{ours.memory >> 20} over {plain.memory >> 20} MiB",
                    flush=True,
                )
    return {
        "seconds": ratios([cost.seconds for cost in costs["ours"]], [cost.seconds for cost in costs["plain"]]),
        "training": ratios(training["ours"], training["plain"]),
        "memory": ratios([cost.memory for cost in costs["ours"]], [cost.memory for cost in costs["plain"]]),
    }


def accuracies(results: Path) -> list[tuple[str, str, str]]:
    """Return cell, seed and test accuracy of each run of a study."""
    with results.open(newline="") as file:
        return sorted((row["cell"], row["seed"], row["test_accuracy"]) for row in csv.DictReader(file))


def measure_study(arguments: argparse.Namespace) -> dict[str, list[float]]:
    """Interleave both ways of starting runs; return ratios of forked to plain."""
    seconds: dict[str, list[float]] = {"forked": [], "plain": []}
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(arguments.rounds):
            learnt = []
            for how, environment in (("forked", {}), ("plain", PLAIN)):
                out = Path(scratch, f"{how}-{number}")
                command = ["alexnet-lab", "ablate", "--norm", "bn", "--act", "leaky", "--seeds", str(arguments.seeds)]
                command += ["--epochs", str(arguments.epochs)] if arguments.epochs else []
                seconds[how].append(cost_of([*command, "--out", str(out)], environment).seconds)
                learnt.append(accuracies(out / "results.csv"))
            if learnt[0] != learnt[1]:
                raise RuntimeError("forked runs and runs started by themselves must learn the same, and differ here")
            print(f"round {number + 1}: forked {seconds['forked'][-1]:.1f} s, plain {seconds['plain'][-1]:.1f} s")
    return {"study": ratios(seconds["forked"], seconds["plain"])}


def main() -> int:
    """Measure, print, and say whether the limits hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("job", "study"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pictures", type=int, default=384, help="of the job")
    parser.add_argument("--epochs", type=int, help="of the job: 2 if not given; of each run of the study: its own")
    parser.add_argument("--threads", type=int, default=2, help="of the job")
    parser.add_argument("--seeds", type=int, default=6, help="of the study")
    parser.add_argument("--csv", type=Path, help="append one row per ratio")
    arguments = parser.parse_args()
    if arguments.what == "job":
        arguments.epochs = arguments.epochs or 2
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    measured = measure_job(arguments) if arguments.what == "job" else measure_study(arguments)
    rows, missed = [], False
    for name, values in measured.items():
        ratio = spread(values)
        missed |= ratio.median > LIMITS[name]
        print(f"{name:10} {ratio.text()}  at most {LIMITS[name]:.2f}")
        rows.append([name, *ratio, *machine("cpu")])
    if arguments.csv:
        append_rows(arguments.csv, ["ratio", *SPREAD, *MACHINE], rows)
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
