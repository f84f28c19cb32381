"""Count what the Triton kernels compile to, without a GPU: python benchmarks/compiled_kernels.py

For each kernel in the table of kernels/README.md, on one architecture (--sm 90): registers, instructions for each value
of the input, and how many loads of a thread are in flight, on average, when a value is first used. Needs Linux and
Triton; tests/kernels/test_triton.py holds the same kernels to limits.
"""

import argparse
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import machine_code
import triton

POOLED = {1: (55 / 53) ** 2, 2: (55 / 27) ** 2}  # values of conv1 for each pooled one, by stride
LANES = 128 / 96  # of a channels-last tile, for each channel of conv1


def instructions(binary: Any, folder: Path, turns: int) -> int:
    """Return the instructions that a thread runs: those of a loop count as often as it turns."""
    path = folder / "kernel.cubin"
    path.write_bytes(binary.asm["cubin"])
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/nvdisasm"
    listing = subprocess.run([tool, "-c", path], check=True, capture_output=True, text=True).stdout
    labels: dict[str, int] = {}
    count, looped = 0, 0
    for line in listing.splitlines():
        if label := re.match(r"(\.L_x_\d+):", line.strip()):
            labels[label.group(1)] = count
        elif re.match(r"\s*/\*[0-9a-f]{4,}\*/", line):
            count += 1
            back = re.search(r"BRA\S* `\((\.L_x_\d+)\)", line)
            if back and count - labels.get(back.group(1), count) > 2:  # two are the end, which branches to itself
                looped += count - labels[back.group(1)]
    return count + (turns - 1) * looped


def main() -> None:
    """Print a line for each kernel of local response normalisation."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sm", type=int, default=90, help="architecture: 80, 90 or 100")
    architecture = parser.parse_args().sm
    print(f"sm_{architecture}, triton {triton.__version__}, float32")
    print(
        f"{'kernel':22} {'window':>6} {'pool':>4} {'stride':>6} {'extent':9} "
        f"{'registers':>9} {'instructions':>12} {'in flight':>9}"
    )
    with tempfile.TemporaryDirectory() as scratch:
        for module, name, constants, _budget in machine_code.BUDGETS:
            if module == "_triton_statistics":
                continue
            binary = machine_code.compiled(module, name, constants, architecture)
            pools = "pool" in name
            values = constants["CHUNK"] if "CHUNK" in constants else constants["PIXELS"] * constants["WIDTH"] / 128
            per_value = instructions(binary, Path(scratch), constants["POOL"] ** 2 if pools else 1) / values
            per_value = (
                per_value * (1 if "CHUNK" in constants else LANES) / (POOLED[constants["STRIDE"]] if pools else 1)
            )
            window = constants["FRONT"] + constants["BACK"] + 1
            pool = constants["POOL"] if pools or "backward" in name else 0
            stride = constants["STRIDE"] if pool else 0
            extent = "constant" if "pixels" in constants else "any"
            registers = machine_code.resources(binary, Path(scratch))["REG"]
            flying = machine_code.loads_in_flight(binary, Path(scratch))
            print(f"{name:22} {window:6} {pool:4} {stride:6} {extent:9} {registers:9} {per_value:12.1f} {flying:9.1f}")


if __name__ == "__main__":
    main()
