"""What ablations/README.md shows is what works."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from alexnet_ablations.declare.design import DESIGNS
from alexnet_ablations.declare.study import read_study

README = (Path(__file__).parents[2] / "ablations" / "README.md").read_text()


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
