"""alexnet-lab train as a user meets it."""

import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from commands import answered, command
from PIL import Image

from alexnet_lab.locks import Lock
from alexnet_lab.records import RunFolder
from alexnet_lab.training.recipe import Recipe

SCALING = (Path(__file__).parents[2] / "docs" / "scaling.md").read_text()

pytestmark = pytest.mark.usefixtures("torch_settings")

TINY = ("--width", "0.0625", "--norm", "bn", "--threads", "1")
SHORT = (*TINY, "--epochs", "1", "--batch-size", "16", "--data", "synthetic:classes=3,side=16,count=107")


def train(*arguments, cwd, check=True, give=answered):
    done = give("train", *arguments, cwd=cwd)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


def test_every_field_of_the_recipe_is_an_option(tmp_path):
    text = train("--help", cwd=tmp_path).stdout
    for field in fields(Recipe):
        assert "--" + field.name.replace("_", "-")[:20] in text, field.name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--norm", "bm"], "error: --norm: unknown norm level 'bm'. Did you mean 'bn'"),
        (["--epochs", "0"], "error: --epochs: must be greater than or equal to 1 (got 0)"),
        (["--recipe", "papper"], "error: unknown recipe 'papper'. Did you mean 'paper'"),
        (["--recipe", "absent.toml"], "absent.toml"),
        (["--data", "nothere"], "error: "),
        (["--schedule", "stepp"], "unknown schedule 'stepp'. Did you mean 'step"),
    ],
)
def test_a_mistake_ends_as_one_clear_line_and_leaves_nothing(arguments, message, tmp_path):
    done = train(*arguments, cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_folder_that_another_process_trains_in_is_left_alone(tmp_path):
    lock = Lock(tmp_path / "run.lock")
    assert lock.take()
    done = train(*TINY, "--out", ".", cwd=tmp_path, check=False)
    lock.release()
    assert done.returncode == 2
    assert f"is being written by process {os.getpid()} on " in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["run.lock"]


@pytest.mark.long
def test_train_from_a_folder_of_images_by_a_toml_recipe(tmp_path):
    generator = np.random.default_rng(0)
    for label, brightness in (("dark", 60), ("light", 180)):
        for index in range(30):
            pixels = generator.normal(brightness, 20, (40, 48)).clip(0, 255).astype(np.uint8)
            path = tmp_path / "images" / label / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    (tmp_path / "mine.toml").write_text('data = "images"\nepochs = 4\nbatch_size = 8\nnorm = "bn"\nwidth = 0.0625\n')
    said = train("--recipe", "mine.toml", "--out", "run", "--threads", "1", cwd=tmp_path).stdout
    assert "recall of dark" in said
    assert "recall of light" in said
    verdict = json.loads((tmp_path / "run" / "state.json").read_text())
    assert verdict["result"]["test"]["accuracy"] > 0.9
    assert "already done" in train("--recipe", "mine.toml", "--out", "run", "--threads", "1", cwd=tmp_path).stdout
    refused = train("--recipe", "mine.toml", "--out", "run", "--threads", "1", "--seed", "1", cwd=tmp_path, check=False)
    assert "holds a run that differs in seed" in refused.stderr


@pytest.mark.long
def test_quiet_is_quiet_and_json_is_json(tmp_path):
    """In processes of their own, as in a script of a user's: what libraries print would be seen too."""
    assert train(*SHORT, "--quiet", cwd=tmp_path, give=command).stdout == ""
    lines = train(*SHORT, "--seed", "1", "--json", "--out", "run", cwd=tmp_path, give=command).stdout.splitlines()
    events = [json.loads(line) for line in lines]
    assert [event["event"] for event in events if event["event"] != "note"] == ["begin", "epoch", "verdict"]
    tested = json.loads((tmp_path / "run" / "split.json").read_text())["test"]
    assert events[-1]["result"]["test"]["images"] == len(tested) > 0


@pytest.mark.long
@pytest.mark.parametrize("out", [(), ("--out", "run")])
def test_a_finished_run_whose_files_changed_is_made_again_and_says_what(tmp_path, out):
    train(*SHORT, *out, cwd=tmp_path)
    (path,) = {found.parent for found in tmp_path.rglob("state.json")}
    before = RunFolder(path).verdict()["result"]["test"]
    assert "already done" in train(*SHORT, *out, cwd=tmp_path).stdout.replace("\n", " ")
    damages = {
        "metrics.jsonl": lambda content: b"",
        "state.json": lambda content: content.replace(b"accuracy", b"accurocy", 1),
        "recipe.json": lambda content: content.replace(b'"seed"', b'"sead"'),
        "provenance.json": lambda content: content.replace(b"identity", b"identitx"),
        "checkpoints/best.safetensors": lambda content: content[:-1],
        "flow/epoch-0001.npz": lambda content: b"\0" * len(content),
    }
    for name, damage in damages.items():
        content = (path / name).read_bytes()
        (path / name).write_bytes(damage(content))
        assert (path / name).read_bytes() != content
        said = " ".join(train(*SHORT, *out, cwd=tmp_path).stdout.split())
        assert f"{name} in" in said
        assert "changed after the run ended; the run is made again" in said
        assert RunFolder(path).damages(weights=True) == ()
        assert RunFolder(path).verdict()["result"]["test"] == before


@pytest.mark.long
def test_checkpoints_that_a_kill_left_beside_a_verdict_are_cleared(tmp_path):
    train(*SHORT, "--out", "run", cwd=tmp_path)
    (tmp_path / "run/checkpoints/step-00000004.safetensors").write_text("")
    (tmp_path / "run/checkpoints/step-00000004.json").write_text("{}")
    train(*SHORT, "--out", "run", cwd=tmp_path)
    assert not list((tmp_path / "run/checkpoints").glob("step-*"))


@pytest.mark.long
def test_a_folder_of_version_0_1_0_is_recognised(tmp_path):
    train(*SHORT, "--out", "run", cwd=tmp_path)
    state, recipe = tmp_path / "run/state.json", tmp_path / "run/recipe.json"
    verdict = json.loads(state.read_text())
    state.write_text(json.dumps({name: verdict[name] for name in ("state", "why", "result")}))
    recipe.write_text(json.dumps({k: v for k, v in json.loads(recipe.read_text()).items() if k != "tf32"}))
    assert "already done" in train(*SHORT, "--out", "run", cwd=tmp_path).stdout
    refused = train(*SHORT, "--out", "run", "--seed", "1", cwd=tmp_path, check=False)
    assert "holds a run that differs in seed" in refused.stderr


@pytest.mark.long
@pytest.mark.parametrize(
    "words",
    [
        ["alexnet-lab", "ablate", *SHORT[:2], *SHORT[4:], "--norm", "bn", "--seeds", "1", "--out", "study"],
        ["alexnet-lab", "train", *SHORT, "--processes", "2"],
        # `train`, by two processes, as docs/scaling.md shows it
        [*shlex.split(re.search(r"(?m)^    (torchrun .*)$", SCALING)[1]), *SHORT],
    ],
    ids=["ablate", "processes", "torchrun"],
)
def test_nothing_is_imported_from_the_folder_where_a_command_is_typed(tmp_path, words):
    for name in ("random", "statistics", "torch", "alexnet_lab"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'a').write({name!r})\n")
    entry = tmp_path / "bin" / "alexnet-lab"
    entry.parent.mkdir()
    entry.write_text(f"#!{sys.executable}\nfrom alexnet_ablations.cli import main\nmain()\n")
    entry.chmod(0o755)
    start = "import sys; sys.path.pop(0); from torch.distributed.run import main; sys.exit(main(sys.argv[1:]))"
    program = [sys.executable, "-c", start] if words[0] == "torchrun" else [str(entry)]
    environment = {**os.environ, "PATH": f"{entry.parent}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*program, *words[1:]], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert not (tmp_path / "executed").exists()
