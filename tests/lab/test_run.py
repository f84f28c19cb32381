"""One run: what goes in, what comes out, and that the same recipe gives the same numbers, whatever interrupts it."""

import functools
import itertools
import json
import math
import os
import re
import shutil
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from quick_runs import QUICK, SMALL, assert_same_run, run_in, start_process, wait_for_epochs, weights_of

from alexnet_lab.data.feed import open_feed
from alexnet_lab.networks import build_network
from alexnet_lab.predictions_file import FILE, read_predictions
from alexnet_lab.records import RunFolder
from alexnet_lab.training import trainer
from alexnet_lab.training.parallel import Ranks
from alexnet_lab.training.process import Tracker, last_line, run_folder
from alexnet_lab.training.recipe import Recipe
from alexnet_lab.training.run import check_gpu, configure_torch, main, train

pytestmark = pytest.mark.usefixtures("torch_settings")


def test_a_run_learns_writes_its_folder_and_repeats_to_the_bit(tmp_path, quick, undisturbed):
    one = undisturbed(quick)
    assert run_in(tmp_path, quick) == 0
    assert_same_run(one, tmp_path)
    folder = RunFolder(one)
    result = folder.verdict()["result"]
    assert result["test"]["accuracy"] > 0.5
    assert sum(map(sum, result["test"]["confusion"])) == result["test"]["images"] == 359
    assert (result["epochs"], result["steps"]) == (2, 66)
    metrics = list(folder.metrics())
    assert [row["epoch"] for row in metrics] == [1, 2]
    assert metrics[1]["train_loss"] < metrics[0]["train_loss"]
    split = json.loads((one / "split.json").read_text())
    assert len(split["test"]) == 359
    feed = open_feed("digits", image_size=67)
    assert folder.provenance()["identity"] == quick.identity(feed.fingerprint)
    assert sorted(p.name for p in (one / "checkpoints").iterdir()) == ["best.json", "best.safetensors"]


def test_the_best_weights_are_the_ones_that_were_tested(quick, undisturbed):
    path = undisturbed(quick)
    result = RunFolder(path).verdict()["result"]
    network = build_network("alexnet", 10, norm="bn", width=1 / 16, image_size=67, in_channels=1).eval()
    tensors = {name.removeprefix("network."): value for name, value in weights_of(path).items()}
    network.load_state_dict(tensors)
    feed = open_feed("digits", image_size=67)
    with torch.no_grad():
        hits = [network(x).argmax(1) == y for x, y in feed.batches_of(feed.split.test)]
    assert torch.cat(hits).double().mean().item() == pytest.approx(result["test"]["accuracy"])


def test_dropout_masks_depend_on_seed_and_step_not_on_the_other_slots(tmp_path, monkeypatch):
    masks = {}

    def listen(recipe, name):
        seen = masks.setdefault(name, [])

        def spy(self, x):
            if self.training:
                keep = torch.empty_like(x).bernoulli_(0.5, generator=self.generator)
                seen.append(keep)
                return x * keep
            return x

        monkeypatch.setattr("alexnet_lab.networks.parts.Dropout.forward", spy)
        run_in(tmp_path / name, replace(recipe, epochs=1, batch_size=32))

    listen(SMALL, "bn")
    listen(replace(SMALL, norm="none", act="leaky"), "none")
    listen(replace(SMALL, seed=2), "another seed")
    assert len(masks["bn"]) == 4  # two layers, two steps
    assert all(torch.equal(a, b) for a, b in zip(masks["bn"], masks["none"], strict=True))
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(masks["bn"], 2))
    assert not torch.equal(masks["bn"][0], masks["another seed"][0])


@pytest.mark.parametrize(
    "change",
    [
        {"optimiser": "krizhevsky", "schedule": "step:1", "norm": "gn", "ema": 0.9},
        {"optimiser": "adamw", "learning_rate": 1e-3, "clip_norm": 1.0, "precision": "bf16"},
        {"label_smoothing": 0.1, "warmup_epochs": 1.0, "channels_last": True, "ten_views": True},
    ],
)
def test_every_way_of_training_learns(change, tmp_path, quick):
    easy = "synthetic:classes=4,side=16,count=240,difficulty=0"
    assert run_in(tmp_path, replace(quick, data=easy, epochs=3, batch_size=8, **change)) == 0
    assert RunFolder(tmp_path).verdict()["result"]["test"]["accuracy"] > 0.5  # a guess is right once in four


def test_a_batch_in_parts_is_the_batch_whole(tmp_path, small):
    plain = replace(small, norm="lrn", dropout=0.5, epochs=1)
    run_in(tmp_path / "whole", plain)
    run_in(tmp_path / "parts", replace(plain, accumulate=4))
    whole, parts = (next(RunFolder(tmp_path / name).metrics()) for name in ("whole", "parts"))
    assert parts["train_loss"] == pytest.approx(whole["train_loss"], rel=1e-5)
    assert parts["validation_loss"] == pytest.approx(whole["validation_loss"], rel=1e-4)
    run_in(tmp_path / "uneven", replace(plain, accumulate=5))
    assert "does not split into 5 equal parts" in RunFolder(tmp_path / "uneven").verdict()["why"]


# Remarks of torch's own compiler on itself.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:The .grad attribute:UserWarning")
@pytest.mark.long
@pytest.mark.parametrize("instruments", ["off", "every:3"])
def test_a_compiled_batch_in_parts_compiles_no_more_graphs_than_a_whole_one(tmp_path, monkeypatch, instruments):
    # What is compiled again is decided before the backend; one that generates no code saves the time.
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    recipe = replace(SMALL, epochs=1, batch_size=16, norm="none", dropout=0.5, compile=True, instruments=instruments)
    graphs = {}
    for accumulate in (1, 4):
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        assert run_in(tmp_path / str(accumulate), replace(recipe, accumulate=accumulate)) == 0
        graphs[accumulate] = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert graphs == dict.fromkeys(graphs, graphs[1])


def test_patience_stops_a_run_that_no_longer_improves(tmp_path, small):
    # A rate too small to move anything: the first epoch stays the best.
    assert run_in(tmp_path, replace(small, learning_rate=1e-12, norm="none", epochs=9, patience=2)) == 0
    result = RunFolder(tmp_path).verdict()["result"]
    assert (result["tested_epoch"], result["epochs"]) == (1, 3)


class PowerCutError(BaseException):
    """Nothing in the program catches this, as nothing catches a kill -9."""


# At the ends of epochs and within them, under two recipes that differ in what a checkpoint holds.
@pytest.mark.parametrize(
    ("change", "cut_at"),
    [
        *(({"ema": 0.9, "optimiser": "adamw"}, cut_at) for cut_at in (1, 5, 8, 9, 15)),
        *(({"precision": "fp16", "norm": "lrn"}, cut_at) for cut_at in (5, 9)),
    ],
)
def test_a_run_cut_off_at_any_step_ends_with_the_numbers_of_an_undisturbed_one(
    cut_at, change, tmp_path, monkeypatch, small, undisturbed
):
    recipe = replace(small, **change)  # 8 steps in each of two epochs
    whole = undisturbed(recipe)
    # A checkpoint after every step, so that the cut can come between any two.
    monkeypatch.setattr(trainer, "WITHIN_EPOCH", -1.0)
    monkeypatch.setattr(trainer, "BETWEEN_EPOCHS", -1.0)

    def cut(kind, facts):
        if kind == "step" and facts["step"] == cut_at:
            raise PowerCutError

    with pytest.raises(PowerCutError):
        run_in(tmp_path / "cut", recipe, cut)
    notes = []
    assert run_in(tmp_path / "cut", recipe, lambda kind, facts: notes.append(facts.get("text", ""))) == 0
    assert (cut_at == 1) or any("going on at epoch" in note for note in notes)
    assert_same_run(whole, tmp_path / "cut")


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(tmp_path, monkeypatch, undisturbed):
    whole = undisturbed(SMALL)
    monkeypatch.setattr(trainer, "WITHIN_EPOCH", -1.0)

    def cut(kind, facts):
        if kind == "step" and facts["step"] == 12:
            raise PowerCutError

    with pytest.raises(PowerCutError):
        run_in(tmp_path / "cut", SMALL, cut)
    newest = max((tmp_path / "cut/checkpoints").glob("step-*.safetensors"))
    newest.write_bytes(newest.read_bytes()[:-1])
    notes = []
    run_in(tmp_path / "cut", SMALL, lambda kind, facts: notes.append(facts.get("text", "")))
    assert any(newest.stem in note and "the one before it is used" in note for note in notes)
    assert_same_run(whole, tmp_path / "cut")


def test_another_recipe_in_the_same_folder_starts_afresh(tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "WITHIN_EPOCH", -1.0)

    def cut(kind, facts):
        if kind == "step" and facts["step"] == 12:
            raise PowerCutError

    with pytest.raises(PowerCutError):
        run_in(tmp_path / "run", SMALL, cut)
    changed = replace(SMALL, learning_rate=0.02)
    run_in(tmp_path / "run", changed)
    run_in(tmp_path / "fresh", changed)
    assert_same_run(tmp_path / "run", tmp_path / "fresh")


@pytest.mark.long
def test_kill_9_loses_nothing_and_changes_nothing(tmp_path, undisturbed):
    recipe = replace(SMALL, epochs=30)
    whole = undisturbed(recipe)
    _, process = start_process(tmp_path / "killed", recipe)
    wait_for_epochs(tmp_path / "killed", 4)
    process.kill()
    process.communicate()
    assert RunFolder(tmp_path / "killed").verdict() is None
    assert main([str(tmp_path / "killed")]) == 0
    assert_same_run(whole, tmp_path / "killed")


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_saves_and_says_how_to_go_on(number, tmp_path, undisturbed, capsys):
    recipe = replace(SMALL, epochs=30)
    whole = undisturbed(recipe)
    _, process = start_process(tmp_path / "stopped", recipe)
    wait_for_epochs(tmp_path / "stopped", 3)
    process.send_signal(number)
    said, _ = process.communicate(timeout=600)
    assert process.returncode == 130
    assert "the same command goes on from there" in said
    assert main([str(tmp_path / "stopped")]) == 0
    assert int(re.search(r"going on at epoch (\d+)", capsys.readouterr().out)[1]) >= 3
    assert_same_run(whole, tmp_path / "stopped")


@pytest.mark.long
def test_two_processes_have_the_numbers_and_predictions_of_one_up_to_rounding(
    tmp_path, run_in_two_processes, undisturbed
):
    recipe = replace(SMALL, norm="lrn", epochs=2, dropout=0.5)
    one = undisturbed(recipe)
    two = tmp_path / "two"
    run_in_two_processes(recipe, two)
    for row, other in zip(RunFolder(one).metrics(), RunFolder(two).metrics(), strict=True):
        assert other["train_loss"] == pytest.approx(row["train_loss"], rel=1e-4)
        assert other["validation_loss"] == pytest.approx(row["validation_loss"], rel=1e-3)
    kept, shared = (read_predictions(path / FILE) for path in (one, two))
    for part, predictions in kept.items():
        assert predictions.ids.tolist() == shared[part].ids.tolist()
        assert np.allclose(predictions.probabilities, shared[part].probabilities, atol=1e-3)


def test_a_run_that_fails_leaves_its_reason(tmp_path):
    assert run_in(tmp_path, replace(QUICK, image_size=20)) == 1
    verdict = RunFolder(tmp_path).verdict()
    assert verdict["state"] == "error"
    assert "the smallest that works is 52" in verdict["why"]
    assert "Traceback" in verdict["result"]["traceback"]
    assert run_in(tmp_path, replace(QUICK, device="cuda")) == (0 if torch.cuda.is_available() else 1)


@pytest.mark.parametrize(
    ("gpus", "capability", "local_rank", "message"),
    [
        (0, None, 0, "device cuda was asked for, and torch sees no GPU here; take device cpu"),
        (
            2,
            (9, 0),
            2,
            "each process needs a GPU of its own, and process 3 of this machine has none of its 2; "
            "start torchrun with --nproc-per-node 2",
        ),
        (
            1,
            (7, 5),
            0,
            "precision bf16 needs a GPU of compute capability 8.0 or higher, and Old GPU has 7.5; "
            "take precision fp16 or fp32",
        ),
    ],
)
def test_a_gpu_that_cannot_do_what_is_asked_is_refused_in_one_sentence(
    tmp_path, monkeypatch, gpus, capability, local_rank, message
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _index: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _index: "Old GPU")
    monkeypatch.setattr(torch.cuda, "get_arch_list", list)
    monkeypatch.setenv("LOCAL_RANK", str(local_rank))
    assert run_in(tmp_path, replace(QUICK, device="cuda", precision="bf16")) == 1
    verdict = RunFolder(tmp_path).verdict()
    assert (verdict["state"], verdict["why"]) == ("error", message)


@pytest.mark.parametrize(("capability", "precision"), [((8, 0), "bf16"), ((7, 0), "fp16"), ((6, 1), "fp32")])
def test_a_gpu_that_can_do_what_is_asked_is_taken(monkeypatch, capability, precision):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _index: capability)
    monkeypatch.setattr(torch.cuda, "get_arch_list", list)
    check_gpu(replace(QUICK, device="cuda", precision=precision))


def test_a_full_disk_is_said_plainly(tmp_path, monkeypatch, capsys):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("alexnet_lab.training.checkpoint.write_atomically", full)
    assert run_in(tmp_path, QUICK) == 1
    assert "no space left on the disk" in capsys.readouterr().err
    assert "free some and run it again" in RunFolder(tmp_path).verdict()["why"]


def test_a_batch_too_large_for_memory_names_one_that_fits(tmp_path, monkeypatch):
    original = torch.nn.Conv2d.forward

    def small_memory(self, x):
        if len(x) > 20:
            raise RuntimeError(
                "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
            )
        return original(self, x)

    monkeypatch.setattr("torch.nn.Conv2d.forward", small_memory)
    assert run_in(tmp_path, replace(QUICK, batch_size=64)) == 1
    verdict = RunFolder(tmp_path).verdict()
    assert verdict["state"] == "oom"
    assert "64 images at once do not fit in memory, 16 do" in verdict["why"]
    assert "accumulate 4" in verdict["why"]


def test_the_default_recipe_is_finite_at_the_first_step(tmp_path):
    losses = []

    def stop(kind, facts):
        if kind == "step":
            losses.append(facts["loss"])
            raise PowerCutError

    with pytest.raises(PowerCutError):
        train(Recipe(), RunFolder(tmp_path), stop)
    assert losses[0] < 7  # three times the loss of a guess among ten


def test_a_loss_of_exactly_zero_survives_a_resume(tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "BETWEEN_EPOCHS", -1.0)
    recipe = SMALL

    def cut(kind, _facts):
        if kind == "epoch":
            raise PowerCutError

    with pytest.raises(PowerCutError):
        run_in(tmp_path, recipe, cut)
    made = trainer.Trainer(recipe, RunFolder(tmp_path), open_feed(recipe.data, image_size=67), Ranks(), lambda *_: None)
    made.final_loss = 0.0
    made._save()
    again = trainer.Trainer(recipe, RunFolder(tmp_path), made.feed, Ranks(), lambda *_: None)
    assert again.resume()
    assert again.final_loss == 0.0


def interrupted(path, recipe, monkeypatch, at=14):
    """A run that was killed in its second epoch, with checkpoints of that epoch's steps."""
    monkeypatch.setattr(trainer, "WITHIN_EPOCH", -1.0)
    monkeypatch.setattr(trainer, "BETWEEN_EPOCHS", -1.0)

    def cut(kind, facts):
        if kind == "step" and facts["step"] == at:
            raise PowerCutError

    with pytest.raises(PowerCutError):
        run_in(path, recipe, cut)


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """Give the folder of a small run that was killed in its second epoch; to be copied, not changed."""
    path = tmp_path_factory.mktemp("killed") / "run"
    with pytest.MonkeyPatch.context() as patch:
        interrupted(path, SMALL, patch)
    return path


def test_a_run_that_is_cut_off_in_its_test_goes_on_there_and_keeps_no_second_copy_of_its_training(
    tmp_path, monkeypatch, undisturbed
):
    monkeypatch.setattr(trainer, "BETWEEN_EPOCHS", math.inf)
    recipe = SMALL
    whole = undisturbed(recipe)

    def cut(kind, facts):
        if facts.get("text", "").startswith("testing"):
            raise PowerCutError

    with pytest.raises(PowerCutError):
        run_in(tmp_path / "cut", recipe, cut)
    (kept,) = (tmp_path / "cut/checkpoints").glob("step-*.safetensors")
    assert kept.stat().st_size < 1000
    seen = []
    assert run_in(tmp_path / "cut", recipe, lambda kind, facts: seen.append((kind, facts.get("text")))) == 0
    assert ("note", "going on at the test") in seen
    assert "step" not in {kind for kind, _ in seen}
    assert_same_run(whole, tmp_path / "cut")
    # Nor is a damaged note of what was trained the end of the run: it trains again.
    with pytest.raises(PowerCutError):
        run_in(tmp_path / "damaged", recipe, cut)
    for path in (tmp_path / "damaged/checkpoints").glob("step-*.json"):
        path.write_text("{}")
    assert run_in(tmp_path / "damaged", recipe) == 0
    assert_same_run(whole, tmp_path / "damaged")


def test_the_validation_of_the_tested_weights_is_that_of_their_epoch_to_the_bit(
    tmp_path, small, monkeypatch, undisturbed
):
    kept = undisturbed(small)
    monkeypatch.setattr(trainer, "MOST_KEPT", 0)
    run_in(tmp_path, small)
    assert_same_run(kept, tmp_path)
    predicted = [read_predictions(path / FILE)["validation"].probabilities for path in (kept, tmp_path)]
    assert np.array_equal(*predicted)


def test_a_tested_run_holds_neither_gradients_nor_momenta_nor_averages(tmp_path):
    recipe = replace(SMALL, epochs=1, ema=0.9)
    folder = RunFolder(tmp_path)
    folder.begin(recipe.to_json(), {}, "{}")
    made = trainer.Trainer(recipe, folder, open_feed(recipe.data, image_size=67), Ranks(), lambda *_: None)
    predict = made._predict
    held = []

    def watching(*arguments):
        held.append(
            (
                made.averaged is not None,
                len(made.optimiser.state),
                any(p.grad is not None for p in made.network.parameters()),
            )
        )
        return predict(*arguments)

    made._predict = watching
    made.run()
    assert held == [
        (True, len(made.optimiser.param_groups[0]["params"]) + len(made.optimiser.param_groups[1]["params"]), True),
        (False, 0, False),
    ]


def changed_epoch(text):
    return text.replace('"epoch": 2', '"epoch": 3')


DAMAGES = {
    "checkpoints/best.safetensors": lambda content: content[:-1],
    "checkpoints/best.json": lambda content: content.replace(b"epoch", b"epohc"),
    "flow/epoch-0001.npz": lambda content: content[: len(content) // 2],
    "flow/filters.npz": lambda content: b"",
    "flow/layout.json": lambda content: b"[" * 100_000,
    "metrics.jsonl": lambda content: content.replace(b'"epoch"', b'"epohc"'),
    "provenance.json": lambda content: b"{",
    "split.json": lambda content: b"",
    "recipe.json": lambda content: content.replace(b'"epochs": 2', b'"epochs": 3'),
    "state.json": lambda content: b"\0\0",
    "copies.json": lambda content: b"[",
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_record_of_an_interrupted_run_never_stops_it_for_good(tmp_path, name, killed, undisturbed):
    recipe = SMALL
    whole = undisturbed(recipe)
    path = shutil.copytree(killed, tmp_path / "cut") / name
    path.write_bytes(DAMAGES[name](path.read_bytes() if path.exists() else b""))
    notes = []
    assert run_in(tmp_path / "cut", recipe, lambda kind, facts: notes.append(facts.get("text", ""))) == 0
    assert_same_run(whole, tmp_path / "cut")
    assert RunFolder(tmp_path / "cut").damages(weights=True) == ()
    said = " ".join(notes)
    if name in ("state.json", "flow/layout.json", "copies.json"):  # these are written again
        assert "going on at epoch 2" in said
    else:
        assert "starts again" in said
        assert path.stem in said


def test_a_changed_fact_of_a_checkpoint_is_passed_over_and_the_numbers_stay(tmp_path, killed, undisturbed):
    recipe = SMALL
    whole = undisturbed(recipe)
    shutil.copytree(killed, tmp_path / "cut")
    newest = max((tmp_path / "cut/checkpoints").glob("step-*.json"))
    newest.write_text(changed_epoch(newest.read_text()))
    notes = []
    run_in(tmp_path / "cut", recipe, lambda kind, facts: notes.append(facts.get("text", "")))
    assert any(newest.stem in note and "the one before it is used" in note for note in notes)
    assert_same_run(whole, tmp_path / "cut")


def test_what_a_run_prints_steers_no_terminal_and_fails_at_no_letter(tmp_path, capsys):
    name = "class \x1b]0;owned\x07 \udcff"
    Tracker(RunFolder(tmp_path))("note", {"text": name})
    assert run_folder([str(tmp_path / name)], lambda *_: 0) == 2
    printed = capsys.readouterr()
    assert printed.out == "class \\x1b]0;owned\\x07 \\xff\n"
    assert r"class \x1b]0;owned\x07 \xff has no recipe.json" in printed.err


def test_the_last_line_of_a_process_that_printed_without_end_is_read_in_little_memory(tmp_path):
    assert last_line(tmp_path / "output.txt") == ""
    with (tmp_path / "output.txt").open("wb") as file:
        file.truncate(10**12)
        file.seek(0, 2)
        file.write(b"\xff\nthe last word" + b"!" * 400 + b"\n\n")
    assert last_line(tmp_path / "output.txt") == "the last word" + "!" * 287


def test_what_a_kill_left_half_written_is_cleared_at_the_next_start(tmp_path, killed):
    run = shutil.copytree(killed, tmp_path / "run")
    (run / "checkpoints/.step-00000015.safetensors.4711").write_bytes(b"half")
    run_in(run, SMALL)
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == ["best.json", "best.safetensors"]


def test_a_deterministic_run_gives_cublas_the_workspace_that_torch_asks_for(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    configure_torch(replace(QUICK, deterministic=True))
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"  # a user's own choice stays
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    configure_torch(QUICK)
    assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ
    configure_torch(replace(QUICK, deterministic=True))
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


def test_fp32_is_fp32_unless_tf32_is_asked_for(tmp_path):
    for asked in (True, False):
        configure_torch(replace(QUICK, tf32=asked))
        assert torch.backends.cudnn.allow_tf32 == torch.backends.cuda.matmul.allow_tf32 == asked
    run_in(tmp_path, replace(SMALL, epochs=1))
    assert RunFolder(tmp_path).provenance()["fp32_products"] == "fp32"
