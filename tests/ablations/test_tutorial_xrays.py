"""Every command of docs/tutorials/xrays.md works, on made pictures with the flaws that the page speaks of."""

import os
import re
import shlex
import shutil
import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from commands import answered
from console_pages import WIDTH, commands_of, executed, printed_by
from PIL import Image

PAGE = Path(__file__).parents[2] / "docs" / "tutorials" / "xrays.md"
REAL = os.environ.get("ALEXNET_LAB_COVID3", "")  # the path of covid3.zip, where someone has it
CLASSES = {"Covid": 90, "Normal": 120, "Viral Pneumonia": 150}  # and how bright their pictures are


def picture(generator, brightness):
    """Return a JPEG of soft shapes of its own, so that no two pictures are taken for copies."""
    coarse = generator.normal(brightness, 40, (12, 12)).clip(0, 255).astype(np.uint8)
    content = BytesIO()
    Image.fromarray(coarse).resize((96, 96), Image.Resampling.BICUBIC).save(content, "JPEG", quality=90)
    return content.getvalue()


@pytest.fixture
def folder(tmp_path):
    """A folder with an archive of the layout of covid3.zip, in which two pictures stand in both parts."""
    generator = np.random.default_rng(3)
    with zipfile.ZipFile(tmp_path / "covid3.zip", "w") as archive:
        for name, brightness in CLASSES.items():
            for part, count in (("train", 30), ("val", 14)):
                for number in range(count):
                    content = picture(generator, brightness)
                    archive.writestr(f"covid3/{part}/{name}/{100 + number:04}.jpeg", content)
                    if part == "train" and number < 2:
                        archive.writestr(f"covid3/val/{name}/copy{number}.jpeg", content)
    return tmp_path


def test_what_the_page_says_follows_from_what_its_commands_printed():
    page = PAGE.read_text()
    printed = dict(re.findall(r"\$ (alexnet-lab \w+)[^\n]*\n(.*?)(?=\n\$ |\n```)", page, re.DOTALL))
    assert "exit status 1" in printed["alexnet-lab audit"]
    assert "copies in another part" in printed["alexnet-lab audit"]
    width = re.search(r"\((\d+) points wide\)", printed["alexnet-lab inspect"])[1]
    assert f"interval of the accuracy is {width} points wide" in page
    assert "for images like these" in printed["alexnet-lab ablate"]
    assert not re.search(r"/(home|tmp|root|work|Users)/", page)


def printed_here(command, folder):
    """Return what a command of the page prints: its alexnet-lab is answered in this process, the rest by a shell."""
    ours = re.match(r"alexnet-lab ([^|;]*?)(?= 2>| \||;|$)", command)
    if not ours:
        return printed_by(command, folder)
    done = answered(*shlex.split(ours[1]), cwd=folder)
    for name, text in (("out", done.stdout), ("err", done.stderr)):
        (folder / f"said.{name}").write_text(text)
    shell = f"alexnet-lab() {{ cat said.out; cat said.err >&2; return {done.returncode}; }}"
    return printed_by(f"{shell}\n{command}", folder)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")  # the exporter to ONNX and onnxruntime warn of their own affairs
@pytest.mark.usefixtures("forked_together", "timed_here", "drawn")
def test_every_command_of_the_page_works_on_pictures_with_its_flaws(folder, monkeypatch):
    monkeypatch.setenv("ALEXNET_LAB_CACHE", str(folder / "cache"))
    monkeypatch.setenv("COLUMNS", WIDTH)
    shorter = [re.sub(r"--epochs \d+", "--epochs 2", command) for command in commands_of(PAGE.read_text())]
    printed = {}
    for command in shorter:
        fewer = command.replace("--norm bn --data", "--seeds 2 --norm bn --data")
        printed[command] = printed_here(fewer.replace("--norm bn --epochs", "--norm bn --width 0.125 --epochs"), folder)
        assert "Traceback" not in printed[command], printed[command]
        assert printed[command], command
        assert not re.match(r"error:|Usage", printed[command]) or "leaks" in printed[command], printed[command]
    said = "\n".join(printed.values())
    assert "exit status 1" in said
    assert "leaks" in said
    assert "for images like these" in said
    assert (folder / "runs" / "xrays" / "export" / "model.onnx").is_file()
    assert (folder / "runs" / "xrays" / "evaluation" / "index.html").is_file()


@pytest.mark.long
@pytest.mark.skipif(not REAL, reason="ALEXNET_LAB_COVID3 names no covid3.zip")
def test_the_page_is_what_its_commands_print(tmp_path):
    shutil.copy(REAL, tmp_path / "covid3.zip")
    assert executed(PAGE.read_text(), tmp_path) == PAGE.read_text()
