"""What README.md and ablations/README.md show is what works."""

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import answered
from PIL import Image
from test_populations import IMAGES, write_run

import alexnet_ablations
from alexnet_ablations.declare.design import DESIGNS
from alexnet_ablations.declare.study import declare_study, read_study
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
FIRST_STUDY = "alexnet-lab ablate --norm bn --act leaky"  # which other commands name by its folder, on digits
FEW = "synthetic:classes=3,side=16,count=150"


def in_shell(command, folder):
    """Run a command in bash, where the programs of this interpreter come first."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path}
    return subprocess.run(
        ["/bin/bash", "-c", command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )


def short(command):
    """Return a command of README.md with less to train: one seed, one epoch, a narrow network, few images or steps.

    Nothing is installed or downloaded.
    """
    command = command.removeprefix("pip install . && ")
    command = command.replace("medmnist:chestmnist@64", "medmnist:chestmnist.npz")
    command = command.replace("--data cifar10", f"--data {FEW}")
    command = command.replace("alexnet_kernels.bench --quick", "alexnet_kernels.bench --help")  # which takes minutes
    command = re.sub(r"--seeds \d", "--seeds 1", command)
    if "alexnet-lab ablate" in command and "--seeds" not in command:
        command += " --seeds 1"
    if not re.search(r"alexnet-lab (train|ablate|study \w+)", command):
        return command
    command += " --epochs 1"
    if "--data" not in command and FIRST_STUDY not in command:
        command += f" --data {FEW}"
    if "alexnet-lab train" in command:
        return command + " --threads 1 --width 0.125"
    # At the laptop's width a study on digits starts without timing its first steps.
    return command + (" --baseline width=0.125" if "--data" in command else " --baseline batch_size=128")


def words_of(text):
    return " ".join(text.split())


def executed(program, folder):
    """Execute a program of a document, with this folder as the current one; return what it prints."""
    with contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(program, "program", "exec"), {"__name__": "__main__"})  # noqa: S102  # our own document's
    return printed.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with what README.md assumes: X-rays in a folder for each class, and a recipe."""
    place = tmp_path_factory.mktemp("readme")
    generator = np.random.default_rng(5)
    for name, brightness in XRAYS.items():
        (place / "xrays" / name).mkdir(parents=True)
        for number in range(40):
            pixels = generator.normal(brightness, 20, (32, 32)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(place / "xrays" / name / f"{number}.png")
    parts = {"train": 60, "val": 30, "test": 30}
    images = {f"{part}_images": generator.integers(0, 256, (n, 28, 28), np.uint8) for part, n in parts.items()}
    labels = {f"{part}_labels": generator.integers(0, 2, (n, 14), np.uint8) for part, n in parts.items()}
    np.savez(place / "chestmnist.npz", **images, **labels)
    (place / "mine.toml").write_text('norm = "bn"\nwidth = 0.125\n')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALEXNET_LAB_CACHE", str(place / "cache"))
        patch.setenv("COLUMNS", "120")
        yield place


@pytest.mark.long
@pytest.mark.filterwarnings("default")  # as in a shell, where a warning ends nothing
@pytest.mark.usefixtures("forked_together", "timed_here", "drawn")
@pytest.mark.parametrize("section", [name for name, commands in SECTIONS.items() if commands])
def test_every_command_of_the_first_readme_runs(section, folder):
    """The first in a shell, others of alexnet-lab in this process; that of torchrun in test_train_command.py."""
    for command in map(short, SECTIONS[section]):
        if command == TESTS or command.startswith("torchrun "):
            continue
        program, *words = shlex.split(command)
        is_answered = program == "alexnet-lab" and section != "alexnet-lab"
        done = answered(*words, cwd=folder) if is_answered else in_shell(command, folder)
        told = (0, 1) if " audit " in command else (0,)  # 1: these pictures differ in their brightness
        assert done.returncode in told, f"{command}\n{done.stdout}\n{done.stderr}"


def test_the_first_readme_names_the_tests_and_a_published_set():
    assert TESTS in SECTIONS["alexnet-lab"]
    assert "alexnet-lab train --data cifar10" in SECTIONS["You are learning"]
    assert "cifar10" in PUBLISHED


def test_the_first_readme_shows_what_its_first_command_prints(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    command = SECTIONS["alexnet-lab"][0].removeprefix("pip install . && ")
    shown = re.search(r"and prints\n\n(.*?)\n\n\S", FIRST, re.DOTALL)[1].splitlines()
    folder = tmp_path / Path(shown[-1].split()[-1]).parents[1]
    for run in declare_study({"norm": "bn", "act": "leaky"}, {}, folder, seeds=6).open_folder().runs():
        generator = np.random.default_rng([run.seed, *run.cell.name.encode()])
        write_run(run, generator.random(IMAGES) > 0.1)
    printed = words_of(answered(*shlex.split(command)[1:], cwd=tmp_path).stdout)
    lines = [line for line in shown if re.search("varied|runs of|set for all cells|n pairs|ended well", line)]
    assert len(lines) == 5
    for line in lines:
        assert words_of(line) in printed


@pytest.mark.parametrize("number", range(len(PROGRAMS)))
@pytest.mark.usefixtures("torch_settings")
def test_the_python_of_the_first_readme_runs(number, tmp_path):
    tiny = 'train(data="synthetic:classes=3,side=16,count=60", width=1 / 16, threads=1, norm="bn", epochs=1)'
    program = PROGRAMS[number].replace('train(norm="bn", epochs=5)', tiny)
    executed(program, tmp_path)


def test_links_and_pictures_of_the_documents_lead_somewhere():
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *ROOT.glob("*/README.md")):
        targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())
        assert [target for target in targets if not (page.parent / target).exists()] == [], page


@pytest.mark.long
def test_the_picture_of_the_first_readme_is_made_by_a_command(folder, tmp_path):
    pytest.importorskip("playwright.sync_api", reason="needs chromium, and playwright to drive it")
    script, kept, picture = (
        ROOT / "benchmarks" / "readme_picture.py",
        ROOT / "docs" / "report.png",
        tmp_path / "new.png",
    )
    options = short(SECTIONS["alexnet-lab"][0]).removeprefix(FIRST_STUDY)
    # The study of the first command, where its test was run before this one.
    done = in_shell(f"python {script} --to {picture} --study runs/digits_norm-bn_act-leaky {options}", folder)
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
@pytest.mark.usefixtures("forked_together", "torch_settings")
def test_the_python_of_the_readme_runs(folder):
    printed = executed(re.search(r"```python\n(.*?)```", README, re.DOTALL)[1], folder)
    assert "norm=bn,dropout=0.3" in printed
    assert "n=2 pairs" in printed
