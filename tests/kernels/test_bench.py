"""The benchmark as a program: quick help, honest refusal, rows that add up."""

import contextlib
import csv
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from alexnet_kernels import bench


def test_help_answers_without_torch():
    code = (
        "import sys\n"
        "from alexnet_kernels.bench import main\n"
        "try: main(['--help'])\n"
        "except SystemExit as end: assert end.code == 0\n"
        "assert 'torch' not in sys.modules and 'matplotlib' not in sys.modules"
    )
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    for option in ("--threads", "--quick", "--out", "--device"):
        assert option in run.stdout


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(bench, "SHAPES", {"conv1": (6, 9, 9)})
    cases = [
        bench.Case("lrn", "conv1", 2, "bfloat16", "channels_first", "forward"),
        bench.Case("pooled", "conv1", 2, "float32", "channels_last", "both"),
    ]
    monkeypatch.setattr(bench, "_cases", lambda device, quick: cases)
    # Compiling is torch's business and takes half a minute; its place is taken by the function as it is.
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)


def test_a_run_writes_a_row_for_each_rival_and_a_picture(tiny, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    threads = torch.get_num_threads()
    try:
        assert bench.main(["--device", "cpu", "--threads", "1", "--quick", "--out", str(tmp_path)]) == 0
    finally:
        torch.set_num_threads(threads)
    with (tmp_path / "lrn-cpu-1-threads.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["rival"] for row in rows] == ["copy", "ours", "copy", "ours", "separate", "eager", "compile"]
    for row in rows:
        assert float(row["milliseconds_20"]) <= float(row["milliseconds"]) <= float(row["milliseconds_80"])
        assert row["torch"] == torch.__version__
    by_rival = {row["rival"]: row for row in rows[2:]}
    assert float(by_rival["copy"]["copies"]) == float(by_rival["eager"]["over_eager"]) == 1
    assert (tmp_path / "lrn-cpu-1-threads.png").read_bytes().startswith(b"\x89PNG")
    assert "every case is right" in capsys.readouterr().out


def test_nothing_is_timed_when_a_number_is_wrong(tiny, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(bench, "NUMBERS", bench.NUMBERS)
    ours = bench._ours
    monkeypatch.setattr(bench, "_ours", lambda case: lambda x: ours(case)(x) * 1.1)
    assert bench.main(["--device", "cpu", "--out", str(tmp_path)]) == 1
    assert "WRONG: lrn conv1" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_options_without_meaning_are_refused(capsys):
    for wrong in (["--threads", "0"], ["--device", "tpu"]):
        with pytest.raises(SystemExit):
            bench.main(wrong)
    assert "at least 1, got 0" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
def test_cuda_without_a_gpu_is_refused(capsys):
    with pytest.raises(SystemExit):
        bench.main(["--device", "cuda"])
    assert "use --device cpu" in capsys.readouterr().err


@pytest.mark.parametrize("megabytes", [1, 24, 60, 149, 500])
def test_buffers_together_exceed_three_times_the_cache(megabytes):
    size, cache = megabytes * 2**20, 60 * 2**20
    copies = bench.buffers_beyond_cache(size, cache)
    assert copies * size > 3 * cache
    assert copies == 2 or (copies - 1) * size <= 3 * cache
    calls = bench.calls_per_timing(copies)
    assert calls >= 20
    assert calls % copies == 0


class Gpu:
    """A clock that a kernel moves on by 2 ms, and a call from Python by 5 ms more."""

    def __init__(self, monkeypatch):
        self.milliseconds, self.capturing, self.captured = 0.0, False, 0
        gpu = self

        class Event:
            def __init__(self, enable_timing):
                assert enable_timing

            def record(self):
                self.at = gpu.milliseconds

            def elapsed_time(self, other):
                return other.at - self.at

        class Graph:
            def replay(self):
                gpu.milliseconds += 2 * gpu.captured

        class Capture:
            def __init__(self, graph):
                gpu.captured = 0

            def __enter__(self):
                gpu.capturing = True

            def __exit__(self, *_error):
                gpu.capturing = False

        stream = SimpleNamespace(wait_stream=lambda other: None)
        for name, value in {
            "Event": Event, "CUDAGraph": Graph, "graph": Capture, "synchronize": lambda: None,
            "Stream": lambda: stream, "current_stream": lambda: stream, "stream": lambda s: contextlib.nullcontext(),
        }.items():  # fmt: skip
            monkeypatch.setattr(torch.cuda, name, value)

    def kernel(self):
        if self.capturing:
            self.captured += 1
        else:
            self.milliseconds += 5 + 2


@pytest.mark.parametrize(("timing", "milliseconds"), [("graph", 2), ("launches", 7)])
def test_a_replayed_graph_times_kernels_and_not_python(monkeypatch, timing, milliseconds):
    gpu = Gpu(monkeypatch)
    timed = bench._timer(gpu.kernel, timing, 24)
    assert [timed() for _ in range(3)] == pytest.approx([milliseconds / 1e3] * 3)


SCRIPT = Path(__file__).parents[2] / "benchmarks" / "on_gpu.sh"


def on_gpu(folder, *parts, failing="nothing"):
    """Run the script with a python that notes what it is asked for, and fails where the request names `failing`."""
    python = folder / "python"
    python.write_text(f'#!/bin/sh\necho "$@" | head -1 >> {folder}/asked\ncase "$*" in *{failing}*) exit 1;; esac\n')
    python.chmod(0o755)
    environment = {**os.environ, "PYTHON": str(python), "OUT": str(folder / "results")}
    run = subprocess.run([SCRIPT, *parts], env=environment, check=False, capture_output=True, text=True)
    asked = folder / "asked"
    return run, asked.read_text() if asked.exists() else ""


@pytest.mark.parametrize("part", ["correctness", "bench", "training", "configurations", "full_size"])
def test_each_part_of_on_gpu_can_be_called_apart(tmp_path, part):
    run, asked = on_gpu(tmp_path, part)
    assert run.returncode == 0, run.stderr
    marks = {
        "correctness": "tests/kernels",
        "bench": f"--out {tmp_path}/results\n",
        "training": "training_throughput.py",
        "configurations": "--quick",
        "full_size": f"benchmarks/full_size.py {tmp_path}/results --seconds 520",
    }
    assert [name for name, mark in marks.items() if mark in asked] == [part]
    assert list((tmp_path / "results").glob("*.txt"))


def test_on_gpu_says_what_failed_and_which_parts_it_has(tmp_path):
    run, asked = on_gpu(tmp_path, "training", "bench", failing="training_throughput")
    assert run.returncode == 1
    assert "alexnet_kernels.bench" in asked, "the next part runs all the same"
    run, _asked = on_gpu(tmp_path, "frob")
    assert run.returncode == 2
    assert "Parts: correctness, bench, training, configurations, full_size" in run.stderr
    run, _asked = on_gpu(tmp_path, failing="is_available")
    assert run.returncode == 0
    assert "No GPU" in run.stdout
