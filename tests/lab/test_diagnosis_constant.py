"""A network that does no better than one constant answer is told so, with the interval that says how sure that is."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from alexnet_lab.diagnosis import diagnose
from alexnet_lab.diagnosis.constant_answer import paired_difference
from alexnet_lab.diagnosis.evidence import Evidence
from alexnet_lab.records import RunFolder
from alexnet_lab.training.recipe import Recipe
from alexnet_lab.training.run import train_with_verdict

NAME = "no-better-than-constant"
FALLING = (1.08, 1.02, 0.95)  # the entropy of 44, 28 and 28% is 1.074: the loss did fall, and not by little


def written(path, validation, test=None, ended=None, tested_epoch=3, losses=FALLING, auroc=0.7):
    """A run of three classes with these confusion matrices, true classes in rows; `ended` is its last accuracy."""

    def metrics(confusion):
        counts = np.array(confusion, float)
        recalls = counts.diagonal() / counts.sum(1)
        return {
            "accuracy": counts.trace() / counts.sum(),
            "balanced_accuracy": recalls.mean(),
            "auroc": auroc,
            "confusion": confusion,
        }

    images = int(np.sum(validation))
    run = RunFolder(path)
    split = {"train": list(range(200)), "validation": list(range(images)), "test": [], "notes": []}
    run.begin("{}", {"classes": ["sick", "well", "other"], "notes": []}, json.dumps(split))
    found = metrics(validation)
    for epoch, loss in enumerate(losses, 1):
        accuracy = ended if ended is not None and epoch == len(losses) else found["accuracy"]
        row = {"epoch": epoch, "train_loss": loss, "train_accuracy": 0.5, "validation_loss": 1.0}
        row |= {"validation_accuracy": accuracy, "validation_balanced_accuracy": found["balanced_accuracy"]}
        run.log({**row, "validation_auroc": auroc})
    result = {"tested_epoch": tested_epoch, "validation": found}
    run.end("ok", result=result | ({"test": metrics(test)} if test else {}))
    return run


def findings(run):
    return [(each.name, each.severity) for each in diagnose(run)]


LEVEL = [[16, 3, 3], [9, 3, 2], [9, 2, 3]]  # 22 of 50 right, and 22 are sick
BELOW = [[14, 4, 4], [9, 3, 2], [9, 2, 3]]  # 20 right
ABOVE = [[20, 1, 1], [2, 11, 1], [1, 2, 11]]  # 42 right
OPEN = [[21, 1, 0], [12, 1, 1], [11, 1, 2]]  # 24 right: 3 that are not sick, and all but 1 that are


@pytest.mark.parametrize(("confusion", "difference"), [(LEVEL, 0.0), (BELOW, -0.04)])
def test_accuracy_at_or_below_the_most_frequent_class_is_found_though_the_loss_fell(confusion, difference, tmp_path):
    (finding,) = diagnose(written(tmp_path, confusion))
    assert (finding.name, finding.severity) == (NAME, "serious")
    assert finding.numbers["difference"] == pytest.approx(difference)
    assert finding.title.startswith("No better than always answering 'sick': right on 4")
    assert "always 'sick' is right on 44.0%" in finding.evidence
    assert "The training loss fell from 1.080 to 0.950" in finding.contrary


def test_the_interval_is_that_of_pairs_worked_out_by_hand(tmp_path):
    (finding,) = diagnose(written(tmp_path, OPEN))
    # 3 right by the network alone, 1 by the constant answer alone, of 50; with half an image added to each of 4 cells.
    error = (3.5 + 1.5 - 2**2 / 52) ** 0.5 / 52
    assert finding.numbers["difference"] == pytest.approx(2 / 50)
    assert finding.numbers["low"] == pytest.approx(2 / 52 - 1.96 * error)
    assert finding.numbers["high"] == pytest.approx(2 / 52 + 1.96 * error)
    assert finding.severity == "warning"
    assert "Not surely better" in finding.title
    assert "difference +4.0 points, 95% interval [-4.5, +12.2], paired by image" in finding.evidence


@pytest.mark.parametrize(("first", "second"), [(0.2, 0.1), (0.05, 0.05), (0.3, 0.02), (0.0, 0.04)])
@pytest.mark.parametrize("count", [30, 200])
def test_the_interval_holds_the_true_difference_in_some_95_of_100_runs(first, second, count):
    generator = np.random.default_rng(0)
    drawn = generator.multinomial(count, [first, second, 1 - first - second], 4000)
    intervals = np.array([paired_difference(float(a), float(b), count)[1:] for a, b, _ in drawn])
    held = ((intervals[:, 0] <= first - second) & (first - second <= intervals[:, 1])).mean()
    assert held > 0.94


def test_a_network_that_surely_does_better_has_no_such_finding(tmp_path):
    assert findings(written(tmp_path / "a", ABOVE)) == []
    assert findings(written(tmp_path / "b", ABOVE, test=ABOVE)) == []
    assert findings(written(tmp_path / "c", (np.array(OPEN) * 20).tolist())) == []  # the same shares, of 1,000 images


def test_what_the_other_part_says_counts_against_the_finding(tmp_path):
    assert findings(written(tmp_path / "a", LEVEL, test=LEVEL)) == [(NAME, "serious")]
    (beaten,) = diagnose(written(tmp_path / "b", ABOVE, test=BELOW))
    assert (beaten.name, beaten.severity) == (NAME, "warning")
    assert "images in test" in beaten.title
    assert beaten.contrary.startswith("In validation the tested weights surely do better.")
    assert findings(written(tmp_path / "c", OPEN, test=ABOVE)) == [(NAME, "note")]


def test_a_network_that_tells_the_classes_apart_at_the_cost_of_the_frequent_one_is_judged_less_severely(tmp_path):
    # 90 of 100 are sick. The network is right on 85 of 100, and knows the rare ones well.
    rare = [[78, 6, 6], [1, 4, 0], [2, 0, 3]]
    (finding,) = diagnose(written(tmp_path / "a", rare, losses=(0.39, 0.3, 0.2)))
    assert (finding.name, finding.severity) == (NAME, "warning")
    assert "the classes are told apart, though the network is hardly right more often" in finding.contrary
    chance = [[85, 3, 2], [5, 0, 0], [5, 0, 0]]
    (finding,) = diagnose(written(tmp_path / "b", chance, losses=(0.39, 0.3, 0.2)))
    assert finding.severity == "serious"
    assert "the classes are told apart" not in finding.contrary


def test_where_nothing_speaks_against_it_that_is_said(tmp_path):
    run = written(tmp_path, BELOW, losses=(0.95, 0.97, 0.99), auroc=0.52)
    (finding,) = diagnose(run)
    assert finding.contrary.startswith("None: the training loss did not fall. Balanced accuracy in validation is 0.3")
    assert "AUROC is 0.520, guessing has 0.5." in finding.contrary


def test_a_run_that_ends_at_the_constant_answer_is_told_so_though_better_weights_were_tested(tmp_path):
    (finding,) = diagnose(written(tmp_path / "a", ABOVE, ended=0.44, tested_epoch=1))
    assert (finding.name, finding.severity) == (NAME, "note")  # balanced accuracy and the tested weights speak against
    assert "in validation after the last epoch (3)" in finding.title
    assert "pairs are not on record" in finding.evidence
    # By hand: two shares of .44 as if of different images.
    assert finding.numbers["high"] == pytest.approx(1.96 * (2 * 0.44 * 0.56 / 50) ** 0.5)
    assert findings(written(tmp_path / "b", ABOVE, ended=0.7, tested_epoch=1)) == []
    assert findings(written(tmp_path / "c", ABOVE, ended=0.44, tested_epoch=3)) == []  # then it is no other epoch


def test_one_answer_for_everything_and_guessing_are_not_said_twice(tmp_path):
    one = [[22, 0, 0], [14, 0, 0], [14, 0, 0]]
    assert [name for name, _ in findings(written(tmp_path / "a", one))] == ["class-collapse"]
    flat = written(tmp_path / "b", LEVEL, losses=(1.09, 1.08, 1.08))
    assert [name for name, _ in findings(flat)] == ["no-learning"]


def test_an_unfinished_run_is_not_judged_by_what_it_does_not_say(tmp_path):
    run = written(tmp_path, LEVEL)
    (run.path / "state.json").unlink()
    assert findings(run) == []


def class_folders(root, signal):
    """Pictures of noise in three classes, 60, 24 and 18; with a signal, each class has a brightness of its own."""
    generator = np.random.default_rng(0)
    for name, count, level in (("sick", 60, 60), ("well", 24, 130), ("other", 18, 200)):
        (root / name).mkdir(parents=True)
        for number in range(count):
            noise = generator.normal(level if signal else 130, 40, (24, 24)).clip(0, 255)
            Image.fromarray(noise.astype(np.uint8)).save(root / name / f"{number}.png")


@pytest.mark.parametrize("signal", [False, True])
def test_a_run_on_pictures_that_show_nothing_is_told_so_and_one_on_pictures_that_do_is_not(
    signal, tmp_path, monkeypatch
):
    monkeypatch.setenv("ALEXNET_LAB_CACHE", str(tmp_path / "cache"))
    class_folders(tmp_path / "pictures", signal)
    asked = Recipe(data=str(tmp_path / "pictures"), width=0.125, norm="bn", epochs=15, batch_size=16)
    before = torch.get_num_threads()
    assert train_with_verdict(replace(asked, best_by="balanced_accuracy"), RunFolder(tmp_path / "run")) == 0
    torch.set_num_threads(before)
    run = RunFolder(tmp_path / "run")
    loss = Evidence(run).curve("train_loss")
    assert loss[-1] < 0.9 * loss[0]  # it did fall: by heart, where there is nothing else
    assert (NAME in {name for name, _ in findings(run)}) == (not signal)
    if signal:
        assert findings(run) == []
