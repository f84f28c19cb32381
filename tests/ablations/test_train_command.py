"""alexnet-lab train as a user meets it."""

import json
import os
import subprocess
import sys
from dataclasses import fields

import numpy as np
import pytest
from PIL import Image

from alexnet_lab.locks import Lock
from alexnet_lab.training.recipe import Recipe

TINY = ("--width", "0.0625", "--norm", "bn", "--threads", "1")


def train(*arguments, cwd, check=True):
    done = subprocess.run(
        [sys.executable, "-c", "from alexnet_ablations.cli import main; main()", "train", *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        check=False,
        timeout=300,
    )
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
    assert train(*TINY, "--epochs", "1", "--quiet", cwd=tmp_path).stdout == ""
    lines = train(*TINY, "--epochs", "2", "--json", cwd=tmp_path).stdout.splitlines()
    events = [json.loads(line) for line in lines]
    assert [event["event"] for event in events if event["event"] != "note"] == ["begin", "epoch", "epoch", "verdict"]
    assert events[-1]["result"]["test"]["images"] == 359
