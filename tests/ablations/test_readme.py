"""What README.md and ablations/README.md show is what works."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import alexnet_ablations
from alexnet_ablations.declare.design import DESIGNS
from alexnet_ablations.declare.study import read_study
from alexnet_lab.data.published import PUBLISHED

ROOT = Path(__file__).parents[2]
FIRST = (ROOT / "README.md").read_text()
README = (ROOT / "ablations" / "README.md").read_text()
PROGRAMS = re.findall(r"```python\n(.*?)```", FIRST, re.DOTALL)
SECTIONS = {
    section.partition("\n")[0]: re.findall(
        r"(?m)^    ((?:pip|alexnet-lab|python|torchrun) .*?)(?:\s{2,}#.*)?$", section
    )
    for section in re.split(r"(?m)^##? ", FIRST)
}
TESTS = 'pip install ".[test]" && pytest -n auto'  # .ci/run reads this line, and runs it
XRAYS = {"normal": 60, "pneumonia": 160}  # classes, and how bright their images are


def in_shell(command, folder):
    """Run a command in bash, where the programs of this interpreter come first."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "ALEXNET_LAB_CACHE": str(folder / "cache"), "COLUMNS": "120"}
    return subprocess.run(
        ["/bin/bash", "-c", command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )


def short(command, *, narrow=True):
    """Return a command of README.md with less to train: few seeds, one epoch; no installation and no download.

    `narrow`: a narrower network and, on the digits, few steps too.
    """
    command = command.removeprefix("pip install . && ")
    command = command.replace("--data cifar10", "--data synthetic:classes=3,side=16,count=90")
    command = command.replace("torchrun ", "python -m torch.distributed.run ")
    command = command.replace("alexnet_kernels.bench --quick", "alexnet_kernels.bench --help")  # which takes minutes
    command = re.sub(r"--seeds \d", "--seeds 1", command)
    if re.search(r"alexnet-lab (train|ablate|study \w+)", command):
        command += " --epochs 1"
    if re.search(r"alexnet-lab (train|ablate)", command):
        command += " --threads 1"
    if "alexnet-lab ablate" in command and "--seeds" not in command:
        command += " --seeds 1"
    if narrow and re.search(r"alexnet-lab (ablate|study \w+)", command):
        command += " --baseline width=0.125" + ("" if "--data" in command else ",batch_size=128")
    elif narrow and "alexnet-lab train" in command:
        command += " --width 0.125" + ("" if "--data" in command else " --batch-size 128")
    return command


def words_of(text):
    return " ".join(text.split())


@pytest.fixture
def folder(tmp_path):
    """A folder with what README.md assumes: X-rays in a folder for each class, and a recipe."""
    generator = np.random.default_rng(5)
    for name, brightness in XRAYS.items():
        (tmp_path / "xrays" / name).mkdir(parents=True)
        for number in range(40):
            pixels = generator.normal(brightness, 20, (32, 32)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "xrays" / name / f"{number}.png")
    (tmp_path / "mine.toml").write_text('norm = "bn"\nwidth = 0.125\n')
    return tmp_path


@pytest.mark.long
@pytest.mark.parametrize("section", [name for name, commands in SECTIONS.items() if commands])
def test_every_command_of_the_first_readme_runs(section, folder):
    for command in SECTIONS[section]:
        if command != TESTS:
            done = in_shell(short(command), folder)
            told = (0, 1) if " audit " in command else (0,)  # 1: these pictures differ in their brightness
            assert done.returncode in told, f"{short(command)}\n{done.stdout}\n{done.stderr}"


def test_the_first_readme_names_the_tests_and_a_published_set():
    assert TESTS in SECTIONS["alexnet-lab"]
    assert "alexnet-lab train --data cifar10" in SECTIONS["You are learning"]
    assert "cifar10" in PUBLISHED


@pytest.mark.long
def test_the_first_readme_shows_what_its_first_command_prints(folder):
    two_seeds = short(SECTIONS["alexnet-lab"][0], narrow=False).replace(
        "--seeds 1", "--seeds 2"
    )  # one seed has no intervals
    printed = words_of(in_shell(two_seeds, folder).stdout)
    shown = re.search(r"and prints\n\n(.*?)\n\n\S", FIRST, re.DOTALL)[1].splitlines()
    lines = [line for line in shown if re.search("varied|set for all cells|n pairs|ended well", line)]
    assert len(lines) == 4
    for line in lines:
        assert words_of(line) in printed


@pytest.mark.parametrize("number", range(len(PROGRAMS)))
def test_the_python_of_the_first_readme_runs(number, tmp_path):
    tiny = 'train(data="synthetic:classes=3,side=16,count=60", width=1 / 16, threads=1, norm="bn", epochs=1)'
    program = PROGRAMS[number].replace('train(norm="bn", epochs=5)', tiny)
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=100
    )
    assert done.returncode == 0, done.stderr


def test_links_and_pictures_of_the_documents_lead_somewhere():
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *ROOT.glob("*/README.md")):
        targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())
        assert [target for target in targets if not (page.parent / target).exists()] == [], page


@pytest.mark.long
def test_the_picture_of_the_first_readme_is_made_by_a_command(tmp_path):
    pytest.importorskip("playwright.sync_api", reason="needs chromium, and playwright to drive it")
    script, kept, picture = (
        ROOT / "benchmarks" / "readme_picture.py",
        ROOT / "docs" / "report.png",
        tmp_path / "new.png",
    )
    command = f"python {script} --to {picture} --seeds 1 --epochs 1 --threads 1"
    done = in_shell(command, tmp_path)
    if "needs chromium" in done.stderr:
        pytest.skip("needs chromium: apt-get install chromium")
    assert done.returncode == 0, done.stderr
    with Image.open(picture) as made, Image.open(kept) as shown:
        assert made.width == shown.width
        assert made.height > 1000
        assert len(np.unique(np.asarray(made.convert("L")))) > 10
    assert kept.stat().st_size < 300_000


def test_the_study_file_of_the_readme_is_read_as_it_says(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(re.search(r"```toml\n(.*?)```", README, re.DOTALL)[1])
    study = read_study(path, tmp_path)
    assert [factor.levels for factor in study.factors] == [("lrn", "bn", "none"), (32, 16, 64)]
    assert (study.design, study.seeds, study.start.epochs) == ("factorial", 6, 5)


def test_no_name_of_the_package_is_that_of_a_subpackage():
    package = Path(alexnet_ablations.__file__).parent
    assert [name for name in alexnet_ablations.__all__ if (package / name).exists()] == []
    assert all(callable(getattr(alexnet_ablations, name)) for name in alexnet_ablations.__all__)


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
