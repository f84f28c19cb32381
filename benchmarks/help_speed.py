"""How long `--help` takes, as a share of `import torch`: at most 0.3, or nobody reads it.

    python benchmarks/help_speed.py

Interleaved runs, medians with 20/80 quantiles, ratios within one run. Exits 1 above the limit.
"""

import statistics
import subprocess
import sys
import time

LIMIT = 0.3
ROUNDS = 15
COMMANDS = [["--help"], *([name, "--help"] for name in ("ablate", "study", "train", "networks", "bench"))]
HELP = "import sys; from alexnet_ablations.cli import main; sys.exit(main())"


def seconds(arguments: list[str]) -> float:
    """Time one fresh interpreter."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def main() -> int:
    """Print one line per command and say whether all stay under the limit."""
    candidates = {"import torch": ["import torch"]}
    candidates |= {"alexnet-lab " + " ".join(command): [HELP, *command] for command in COMMANDS}
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for round_number in range(ROUNDS + 1):
        for name, arguments in candidates.items():
            elapsed = seconds(arguments)
            if round_number:  # the first round only warms the disk cache
                times[name].append(elapsed)
    torch_median = statistics.median(times["import torch"])
    worst = 0.0
    for name, measured in times.items():
        fifths = statistics.quantiles(measured, n=5)
        ratio = statistics.median(measured) / torch_median
        print(f"{name:28} {statistics.median(measured):6.3f} s  [{fifths[0]:.3f}, {fifths[3]:.3f}]  {ratio:5.2f}")
        if name != "import torch":
            worst = max(worst, ratio)
    print(f"worst ratio {worst:.2f}, limit {LIMIT}")
    return int(worst > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
