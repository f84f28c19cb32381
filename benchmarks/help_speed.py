"""How long `--help` takes, as a share of `import torch`: at most 0.3, or nobody reads it.

    python benchmarks/help_speed.py

Interleaved runs, medians with 20/80 quantiles, ratios within one run. Exits 1 above the limit.
"""

import subprocess
import sys
import time
from functools import partial

from timing import interleave, spread

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
    programs = {"import torch": ["import torch"]}
    programs |= {"alexnet-lab " + " ".join(command): [HELP, *command] for command in COMMANDS}
    times = interleave({name: partial(seconds, arguments) for name, arguments in programs.items()}, ROUNDS)
    torch_median = spread(times["import torch"]).median
    worst = 0.0
    for name, measured in times.items():
        summary = spread(measured)
        ratio = summary.median / torch_median
        print(f"{name:28} {summary.text(3)} s  {ratio:5.2f}")
        if name != "import torch":
            worst = max(worst, ratio)
    print(f"worst ratio {worst:.2f}, limit {LIMIT}")
    return int(worst > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
