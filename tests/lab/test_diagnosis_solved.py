"""Where a task is solved, what is odd inside the network is a note; where it is not, it is as serious as it was."""

import json
from dataclasses import replace

import pytest
import torch
from planted import kill, names, run_of, small_network, the

from alexnet_lab.diagnosis import Finding, describe, diagnose
from alexnet_lab.diagnosis.evidence import Evidence
from alexnet_lab.diagnosis.outcome import task_solved, weighed
from alexnet_lab.records import RunFolder
from alexnet_lab.training.recipe import Recipe
from alexnet_lab.training.run import train_with_verdict

HALF = {"1": tuple(range(6)), "3": tuple(range(8)), "6": tuple(range(10))}  # of 12, 16 and 20 units
INSIDE = Finding("a", "serious", "b", "c", "d", "e", "None: it is so.", "Do it.", is_inside=True)
OUTSIDE = Finding("o", "serious", "b", "c", "d", "e", "None.", "Do it.")


def graded(path, validation, test=None, state=None):
    """A run whose balanced accuracy is this, after an epoch in which it was not."""
    path.mkdir(parents=True, exist_ok=True)
    run = RunFolder(path)
    split = {"train": [0] * 90, "validation": [0] * 60, "test": [], "notes": []}
    run.begin("{}", {"classes": ["a", "b"], "notes": []}, json.dumps(split))
    for epoch, balanced in ((1, 0.5), (2, validation)):
        row = {"epoch": epoch, "train_loss": 0.7, "train_accuracy": 0.75, "validation_accuracy": 0.99}
        run.log({**row, "validation_balanced_accuracy": balanced})
    if state:
        run.end(state, "", {"test": {"balanced_accuracy": test}} if test is not None else None)
    return Evidence(run)


def test_what_is_inside_is_eased_and_what_is_wrong_in_any_case_is_not(tmp_path):
    inside, outside = weighed([INSIDE, OUTSIDE], graded(tmp_path, 0.96))
    assert outside == OUTSIDE
    assert inside.severity == "note"
    assert inside.contrary == (
        "The task is solved all the same, so this did not prevent learning: balanced accuracy 0.960 on 60 "
        "validation images (limit 0.95); training accuracy 0.750, taken while weights move and dropout is on. "
        "Nothing else does: it is so."
    )
    assert inside.remedy == "Nothing needs to change for this task. For a harder one: Do it."
    assert (inside.title, inside.evidence) == (INSIDE.title, INSIDE.evidence)  # it stays as true as it was


@pytest.mark.parametrize(
    ("validation", "test", "state", "solved"),
    [
        (0.95, None, None, True),
        (0.949, None, None, False),  # though 99 of 100 images are right: they are of one class
        (0.96, 0.97, "ok", True),
        (0.96, 0.90, "ok", False),
        (0.96, None, "diverged", False),
        (None, None, None, False),
    ],
)
def test_a_task_is_solved_by_balanced_accuracy_on_all_that_is_unseen(validation, test, state, solved, tmp_path):
    evidence = graded(tmp_path / "run", validation, test, state)
    assert bool(task_solved(evidence)) == solved
    assert weighed([INSIDE], evidence)[0].severity == ("note" if solved else "serious")


def test_a_run_without_curves_is_not_taken_for_solved(tmp_path):
    assert weighed([INSIDE], Evidence(RunFolder(tmp_path))) == [INSIDE]


@pytest.mark.parametrize("shuffled", [False, True])
def test_the_same_dead_units_are_a_note_on_a_task_that_is_learned_and_serious_on_one_that_is_not(shuffled, tmp_path):
    def between(epoch, network):
        if epoch == 1:
            kill(network, HALF)

    run = run_of(tmp_path, small_network(), epochs=6, shuffled=shuffled, between=between)
    found = the("dying-units", run)
    assert found.units == HALF
    accuracy = Evidence(run).curve("validation_balanced_accuracy")[-1]
    if shuffled:
        assert accuracy < 0.5
        assert found.severity == "serious"
        assert found.contrary.startswith("None: ")
    else:
        assert accuracy > 0.95
        assert found.severity == "note"
        assert names(run) == ["dying-units"]
        assert describe(diagnose(run)).startswith("1. NOTE: 24 of 48 units died in training")


@pytest.mark.long
def test_a_vgg_that_solves_its_task_with_many_units_silent_has_nothing_to_mend(tmp_path):
    pictures = "synthetic:classes=3,side=32,count=400,difficulty=0.1"
    asked = Recipe(network="vgg11", norm="none", data=pictures, image_size=32)
    before = torch.get_num_threads()
    assert train_with_verdict(replace(asked, learning_rate=0.01), RunFolder(tmp_path)) == 0
    torch.set_num_threads(before)
    run = RunFolder(tmp_path)
    assert run.verdict()["result"]["test"]["balanced_accuracy"] >= 0.95
    found = the("dying-units", run)
    assert found.numbers["dead"] > 100
    assert found.severity == "note"
    assert {each.severity for each in diagnose(run)} == {"note"}
