#!/usr/bin/env bash
# What needs a GPU, in parts of at most nine minutes each, the most valuable first.
#
#   benchmarks/on_gpu.sh                     every part, one after another
#   benchmarks/on_gpu.sh correctness bench   these parts
#
# Parts:
#   correctness   the kernels' tests, then the lab's tests that take a device, on CUDA
#   bench         the LRN benchmark beside torch and torch.compile
#   training      training throughput, then the overhead of the instruments
#   configurations   the benchmark's quick cases with the kernels' default configurations, beside the chosen ones
#   full_size     norms, activations and dropout at full size, begun or gone on with (benchmarks/full_size.py); the
#                 packs of its studies are in OUT and go on from there, on any machine. Not among "every part"
#
# PYTHON chooses the interpreter (default: python3), OUT the folder of the results (default: benchmarks/results/gpu),
# FULL_SIZE further words for benchmarks/full_size.py, as FULL_SIZE="--data cifar10:cifar-10-python.tar.gz --seeds 3".
# Every part writes its results as they come, so a part that is cut short leaves what it has. Without a GPU the script
# says so and exits 0; it exits 1 if a part failed and 2 if a part is unknown.
set -uo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python3}
out=${OUT:-benchmarks/results/gpu}
export PYTHONPATH=$PWD:$PWD/kernels:$PWD/ablations${PYTHONPATH:+:$PYTHONPATH}  # works from a checkout, installed or not

parts=("$@")
[ $# -gt 0 ] || parts=(correctness bench training configurations)
for part in "${parts[@]}"; do
    case $part in
    correctness | bench | training | configurations | full_size) ;;
    *)
        echo "Unknown part '$part'. Parts: correctness, bench, training, configurations, full_size." >&2
        exit 2
        ;;
    esac
done

if ! "$python" -c 'import torch, sys; sys.exit(not torch.cuda.is_available())' 2>/dev/null; then
    echo "No GPU that $python and its torch can use: nothing was run, and no GPU figure is known."
    exit 0
fi

mkdir -p "$out"
failed=0

# limited SECONDS FILE COMMAND...: run the command at most so long; show its output and keep it in the file
limited() {
    timeout "$1" "${@:3}" 2>&1 | tee "$out/$2" || failed=1
}

correctness() {
    # Most of the time goes into compiling kernels; with pytest-xdist four processes share it.
    local parallel=()
    "$python" -c 'import xdist' 2>/dev/null && parallel=(-n 4)
    limited 320 tests-kernels.txt "$python" -m pytest tests/kernels -k cuda -q -m 'long or not long' \
        ${parallel[@]+"${parallel[@]}"}
    limited 200 tests-lab.txt "$python" -m pytest tests/lab -k cuda -q -m 'long or not long' \
        ${parallel[@]+"${parallel[@]}"}
}

bench() {
    limited 520 bench.txt "$python" -m alexnet_kernels.bench --device cuda --out "$out"
}

training() {
    limited 260 training.txt "$python" benchmarks/training_throughput.py --device cuda \
        --csv "$out/training_throughput.csv"
    limited 260 instruments.txt "$python" benchmarks/instrument_overhead.py --device cuda --scale 227 --rounds 20 \
        --csv "$out/instrument_overhead.csv"
}

configurations() {
    limited 260 configurations-default.txt env ALEXNET_KERNELS_TUNE=0 "$python" -m alexnet_kernels.bench \
        --device cuda --quick --out "$out/default"
    limited 260 configurations-chosen.txt "$python" -m alexnet_kernels.bench --device cuda --quick --out "$out/chosen"
}

full_size() {
    # shellcheck disable=SC2086  # several words
    limited 540 full_size.txt "$python" benchmarks/full_size.py "$out" --seconds 520 ${FULL_SIZE:-}
}

"$python" -c '
import torch, triton
print(torch.cuda.get_device_name(), "| torch", torch.__version__, "| triton", triton.__version__)
print(torch.cuda.get_device_properties(0))' | tee "$out/machine.txt"

for part in "${parts[@]}"; do
    echo "--- $part"
    "$part"
done

echo "results in $out"
exit $failed
