"""What README.md and ablations/README.md show is what works."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet_ablations.declare.design import DESIGNS
from alexnet_ablations.declare.study import read_study
from alexnet_lab.data.published import PUBLISHED

ROOT = Path(__file__).parents[2]
FIRST = (ROOT / "README.md").read_text()
README = (ROOT / "ablations" / "README.md").read_text()
PROGRAMS = re.findall(r"```python\n(.*?)```", FIRST, re.DOTALL)
COMMANDS = re.findall(r"(?m)^    ((?:pip install|alexnet-lab|python -m|torchrun) .*?)(?:\s{2,}#.*)?$", FIRST)
TESTS = 'pip install ".[test]" && pytest'  # .ci/run runs it
XRAYS = {"normal": 60, "pneumonia": 160}  # a class, and how bright its images are


def in_a_shell(command, folder):
    """Run a command as typed, with the programs of this interpreter first."""
    return subprocess.run(
        ["/bin/bash", "-c", command],
        cwd=folder,
        env={**os_environment(), "ALEXNET_LAB_CACHE": str(folder / "cache"), "COLUMNS": "120"},
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )


def test_the_study_file_of_the_readme_is_read_as_it_says(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(re.search(r"```toml\n(.*?)```", README, re.DOTALL)[1])
    study = read_study(path, tmp_path)
    assert [factor.levels for factor in study.factors] == [("lrn", "bn", "none"), (32, 16, 64)]
    assert (study.design, study.seeds, study.start.epochs) == ("factorial", 6, 5)


def test_the_table_of_designs_names_them_all():
    assert re.findall(r"^\| `([a-z][a-z-]+)` \|", README, re.MULTILINE) == list(DESIGNS)


@pytest.mark.long
def test_the_python_of_the_readme_runs(tmp_path):
    program = re.search(r"```python\n(.*?)```", README, re.DOTALL)[1]
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=500
    )
    assert done.returncode == 0, done.stderr
    assert "norm=bn,dropout=0.3" in done.stdout
    assert "n=2 pairs" in done.stdout
