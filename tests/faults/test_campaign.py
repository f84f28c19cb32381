"""The campaign in short, and docs/reliability.md beside it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def campaign(*words):
    return subprocess.run(
        [sys.executable, "-m", "tests.faults", *words], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_the_table_of_faults_names_all_that_the_campaign_has():
    listed = campaign("--list").stdout.splitlines()
    table = re.findall(r"^\| (.+?) \| *(\d+) \|", (ROOT / "docs" / "reliability.md").read_text(), re.M)
    assert [name for name, _ in table] == listed
    assert len(listed) == len(set(listed))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return tmp_path_factory.mktemp("undisturbed") / "results.json"


# One of each kind: killed, changed while it works, starved, damaged afterwards.
SHORT = (
    "kill -9 of the coordinator, and of its runs",
    "the folder of a run removed while it works",
    "a full disk",
    "files of a killed study with a bit flipped",
    "files of a finished study overwritten",
)


@pytest.mark.campaign
@pytest.mark.parametrize("name", SHORT)
def test_a_study_recovers(undisturbed, name):
    ended = campaign("--only", name, "--studies", "1", "--seed", "5", "--undisturbed", str(undisturbed))
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "recovered" in ended.stdout or "not tried" in ended.stdout
