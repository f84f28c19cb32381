"""Attempts at one run: the furthest is found, and copied so that what is copied belongs together."""

import shutil

import pytest
import torch

from alexnet_lab.training import checkpoint, handover
from alexnet_lab.training.handover import (
    attempts_in,
    attempts_of,
    furthest_step,
    new_attempt,
    others_further,
    run_of,
    take_over,
    without_attempt,
)


def attempt_at(run, step, content="{}"):
    folder = new_attempt(run)
    (folder / "checkpoints").mkdir(parents=True)
    for each in (step - 10, step):
        for kind in ("json", "safetensors"):
            (folder / "checkpoints" / f"step-{each:08}.{kind}").write_text(content)
    for name in ("metrics.jsonl", "provenance.json", "recipe.json", "state.json", "attempts.jsonl", ".torn.1"):
        (folder / name).write_text(f"{name} of {step}")
    (folder / "flow").mkdir()
    (folder / "flow" / "epoch-1.npz").write_text(str(step))
    return folder


def test_names_of_attempts_lead_back_to_their_run(tmp_path):
    run = tmp_path / "norm=bn" / "seed-1"
    attempt = new_attempt(run)
    assert run_of(attempt) == run_of(run) == run
    assert attempt != new_attempt(run)
    assert without_attempt(f"{attempt}/x is missing") == f"{run}/x is missing"
    attempt.mkdir(parents=True)
    other = new_attempt(run.with_name("seed-11"))
    other.mkdir()
    assert attempts_of(run) == [attempt]
    assert attempts_in(run.parent) == {run: [attempt], run.with_name("seed-11"): [other]}
    assert attempts_of(tmp_path / "nowhere" / "seed-1") == []


def test_the_attempts_that_got_further_are_named_the_furthest_first(tmp_path):
    run = tmp_path / "seed-0"
    near, far, own = (attempt_at(run, step) for step in (20, 40, 30))
    assert [furthest_step(path) for path in (near, far, own, run)] == [20, 40, 30, -1]
    assert others_further(own) == [far]
    assert others_further(run) == [far, own, near]  # a local run, which has nothing yet
    assert others_further(far) == []


def test_a_run_gets_checkpoints_and_records_of_another_attempt_and_keeps_what_is_its_own(tmp_path):
    far, own = attempt_at(tmp_path / "seed-0", 40), attempt_at(tmp_path / "seed-0", 20)
    take_over(far, own)
    names = {path.name for path in (own / "checkpoints").iterdir()}
    assert names == {f"step-{step:08}.{kind}" for step in (30, 40) for kind in ("json", "safetensors")}
    assert (own / "metrics.jsonl").read_text() == "metrics.jsonl of 40"
    assert (own / "provenance.json").read_text() == "provenance.json of 40"
    assert (own / "flow" / "epoch-1.npz").read_text() == "40"
    assert (own / "recipe.json").read_text() == "recipe.json of 20"
    assert (own / "attempts.jsonl").read_text() == "attempts.jsonl of 20"


@pytest.mark.parametrize("replaced_after", [0, 1, 2])
def test_the_best_weights_that_are_copied_while_they_are_replaced_are_whole(replaced_after, tmp_path, monkeypatch):
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    for epoch in (1, 2):
        checkpoint.save_best(source, {"w": torch.full((3,), float(epoch))}, {"epoch": epoch})
    copied = []
    real = shutil.copyfile

    def copy_while_others_write(one, other):
        copied.append(one)
        if len(copied) <= replaced_after:
            epoch = 2 + len(copied)
            checkpoint.save_best(source, {"w": torch.full((3,), float(epoch))}, {"epoch": epoch})
        return real(one, other)

    monkeypatch.setattr(handover.shutil, "copyfile", copy_while_others_write)
    handover._copy_best(source, target)
    best = checkpoint.load_checkpoint(target, checkpoint.BEST)
    assert best.tensors["w"].tolist() == [float(best.facts["epoch"])] * 3
