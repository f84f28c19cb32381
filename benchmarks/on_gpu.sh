#!/usr/bin/env bash
# Everything that needs a GPU, in under eight minutes: kernel tests, the LRN benchmark, training throughput, instruments.
#
#   benchmarks/on_gpu.sh [folder]        PYTHON=path/to/python chooses the interpreter
#
# Results land in one folder (default: benchmarks/results/gpu). Without a GPU it says so and exits 0.
set -uo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python3}
out=${1:-benchmarks/results/gpu}
export PYTHONPATH=$PWD:$PWD/kernels:$PWD/ablations${PYTHONPATH:+:$PYTHONPATH}  # works from a checkout, installed or not

if ! "$python" -c 'import torch, sys; sys.exit(not torch.cuda.is_available())' 2>/dev/null; then
    echo "No GPU that $python and its torch can use: nothing was run, and no GPU figure is known."
    exit 0
fi

mkdir -p "$out"
failed=0

"$python" -c '
import torch, triton
print(torch.cuda.get_device_name(), "| torch", torch.__version__, "| triton", triton.__version__)
print(torch.cuda.get_device_properties(0))' | tee "$out/machine.txt"

echo "--- kernel tests on CUDA (at most 2.5 minutes)"
parallel=() # most of the time goes into compiling kernels; with pytest-xdist four processes share it
"$python" -c 'import xdist' 2>/dev/null && parallel=(-n 4)
timeout 150 "$python" -m pytest tests/kernels -k cuda -q -m 'long or not long' ${parallel[@]+"${parallel[@]}"} 2>&1 | tee "$out/tests.txt" || failed=1

echo "--- LRN benchmark on CUDA (at most 2.5 minutes; rows are written as they come)"
timeout 150 "$python" -m alexnet_kernels.bench --device cuda --out "$out" 2>&1 | tee "$out/bench.txt" || failed=1

echo "--- training throughput on CUDA (at most 1.5 minutes; rows are written as they come)"
timeout 90 "$python" benchmarks/training_throughput.py --device cuda --csv "$out/training_throughput.csv" 2>&1 |
    tee "$out/training.txt" || failed=1

echo "--- instruments beside the bare step on CUDA (at most 80 seconds)"
timeout 80 "$python" benchmarks/instrument_overhead.py --device cuda --scale 227 --rounds 20 \
    --csv "$out/instrument_overhead.csv" 2>&1 | tee "$out/instruments.txt" || failed=1

echo "results in $out"
exit $failed
