"""The benchmark as a program: quick help, honest refusal, rows that add up."""

import csv
import subprocess
import sys

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
