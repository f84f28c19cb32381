"""What speaks against a result follows from its records: data notes, test size, gap, calibration, the nearest limit."""

import json

import numpy as np
import pytest

from alexnet_lab.diagnosis import describe_limitations, diagnose, health_of
from alexnet_lab.diagnosis.evidence import Evidence
from alexnet_lab.diagnosis.limitations import counts_of, limitations
from alexnet_lab.diagnosis.margins import nearest_limit
from alexnet_lab.diagnosis.numbers import written
from alexnet_lab.diagnosis.proportions import newcombe, wilson
from alexnet_lab.instruments.flow import FlowWriter, Layout, Parameter, Site
from alexnet_lab.records import RunFolder

NOTES = ["6 of 66 test images are training images too (a.png, b.png)", "11 of 317 images are coloured"]


def part(right, wrong, calibration=0.05):
    """Two classes, `right` of each taken for what they are, and `wrong` not."""
    images = 2 * (right + wrong)
    confusion = [[right, wrong], [wrong, right]]
    figures = {"accuracy": 2 * right / images, "balanced_accuracy": 2 * right / images, "auroc": 0.9, "images": images}
    return {**figures, "confusion": confusion, "calibration_error": calibration}


def write_run(path, validation, test, *, train_accuracy=0.9, notes=(), dead=0, of=40, state="ok"):
    run = RunFolder(path)
    lists = {name: list(range(100)) for name in ("train", "validation", "test")}
    run.begin(json.dumps({"learning_rate": 0.01}), {"classes": ["a", "b"], "notes": list(notes)}, json.dumps(lists))
    for epoch in (1, 2):
        accuracy = validation["accuracy"]
        run.log({"epoch": epoch, "step": epoch, "train_loss": 0.6 / epoch, "train_accuracy": train_accuracy,
                 "validation_loss": 0.6 / epoch, "validation_accuracy": accuracy,
                 "validation_balanced_accuracy": accuracy, "validation_auroc": 0.9})  # fmt: skip
    if dead:
        write_units(path, dead, of)
    run.end(state, "", {"tested_epoch": 2, "epochs": 2, "validation": validation, "test": test})
    return run


def write_units(path, dead, of, inputs=200):
    writer = FlowWriter(path)
    parameters = (Parameter("fc6.weight", "fc6", (of, 9)), Parameter("fc7.weight", "fc7", (2, of)))
    writer.begin(Layout(parameters, (Site("act6", "fc6", "ReLU", "neuron", of),)))
    off = np.full(of, inputs // 2)
    off[:dead] = inputs
    units = {"site": np.zeros(of, int), "unit": np.arange(of), "split": np.ones(of, int), "off": off}
    units |= {name: np.full(of, inputs) for name in ("inputs", "elements")}
    writer.write_epoch(2, {"units": units})


def said(run):
    evidence = Evidence(run)
    return {each.title: each.text for each in limitations(evidence, diagnose(run))}


def test_every_note_of_the_run_is_said_in_its_own_words(tmp_path):
    run = write_run(tmp_path, part(45, 5), part(30, 3), notes=NOTES)
    texts = [each.text for each in limitations(Evidence(run), []) if each.title == "Notes of the run"]
    assert texts == [f"{note}." for note in NOTES]


def test_the_size_of_the_test_is_the_width_of_its_interval(tmp_path):
    # 60 of 66: Wilson's interval by hand, (p + z²/2n ± z sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n).
    p, n, z = 60 / 66, 66, 1.959964
    middle, reach = p + z * z / (2 * n), z * (p * (1 - p) / n + (z / (2 * n)) ** 2) ** 0.5
    low, high = ((middle + sign * reach) / (1 + z * z / n) for sign in (-1, 1))
    text = said(write_run(tmp_path, part(45, 5), part(30, 3)))["Test set"]
    assert text.startswith(
        f"66 images: 90.9% right has a 95% interval of {100 * low:.1f} to {100 * high:.1f}% (14 points"
    )


def test_the_difference_of_two_shares_has_newcombes_interval():
    # Newcombe 1998, table II, example a, method 10: 56/70 less 48/80.
    np.testing.assert_allclose(newcombe((56, 70), (48, 80)), (0.0524, 0.3339), atol=5e-5)
    low, high = newcombe((48, 80), (56, 70))
    np.testing.assert_allclose((low, high), (-0.3339, -0.0524), atol=5e-5)
    assert -1 <= newcombe((0, 5), (5, 5))[0] <= newcombe((5, 5), (0, 5))[1] <= 1
    assert wilson(0, 10)[0] == 0


@pytest.mark.parametrize(("test", "surely"), [(part(37, 13), True), (part(44, 6), False)])
def test_a_gap_between_validation_and_test_is_said_and_whether_chance_makes_it(tmp_path, test, surely):
    text = said(write_run(tmp_path, part(46, 4), test))["Validation and test"]
    assert "92.0% of 100 validation images" in text
    assert ("more than chance" in text) == surely


@pytest.mark.parametrize(("error", "is_said"), [(0.28, True), (0.1, True), (0.09, False), (None, False)])
def test_a_calibration_error_above_its_limit_is_said(tmp_path, error, is_said):
    found = said(write_run(tmp_path, part(45, 5), part(30, 3, error)))
    assert ("Calibration" in found) == is_said
    if error == 0.28:
        assert "off by 28 points" in found["Calibration"]


def test_a_quarter_of_a_layer_dead_is_the_finding_nearest_to_its_limit(tmp_path):
    run = write_run(tmp_path / "quarter", part(45, 5), part(40, 10), dead=10)
    assert diagnose(run) == []
    text = said(run)["Nearest to a limit"]
    assert text.startswith("10 of the 40 units of fc6 are dead on 200 inputs (25%); the limit is 40%.")
    margin = nearest_limit(Evidence(run), [])
    assert (margin.finding, margin.share) == ("dying-units", pytest.approx(10 / 40 / 0.4))
    closer = write_run(tmp_path / "gap", part(45, 5), part(40, 10), dead=10, train_accuracy=0.98)
    assert said(closer)["Nearest to a limit"].startswith("Training accuracy is 8.0 points above validation")
    nothing = write_run(tmp_path / "none", part(45, 5), part(40, 10), dead=2)
    assert "Nearest to a limit" not in said(nothing)


def test_a_limit_that_was_crossed_is_a_finding_and_not_near_a_limit(tmp_path):
    run = write_run(tmp_path, part(45, 5), part(40, 10), dead=20)
    findings = diagnose(run)
    assert [finding.name for finding in findings] == ["dead-at-start"]
    assert "units of fc6" not in said(run).get("Nearest to a limit", "")


def test_a_run_that_diverged_has_no_test_to_speak_against(tmp_path):
    run = write_run(tmp_path, part(45, 5), part(40, 10), state="diverged", notes=NOTES)
    assert set(said(run)) == {"Notes of the run"}
    assert counts_of(Evidence(run), "test") is None


def test_what_is_said_fits_a_terminal(tmp_path):
    run = write_run(tmp_path, part(45, 5), part(40, 10), notes=NOTES, dead=10)
    lines = describe_limitations(limitations(Evidence(run), []), width=60).splitlines()
    assert lines[0].startswith("  Notes of the run: 6 of 66 test images")
    assert max(map(len, lines)) <= 60


def test_health_is_not_taken_from_an_earlier_epoch_when_the_last_is_damaged(tmp_path):
    run = write_run(tmp_path, part(45, 5), part(40, 10), dead=10)
    assert health_of(run)["dead_share"] == 0.25
    last = tmp_path / "flow" / "epoch-0002.npz"
    last.rename(tmp_path / "flow" / "epoch-0001.npz")
    last.write_bytes(b"")
    assert set(health_of(run).values()) == {None}


def test_numbers_in_findings_are_written_as_people_write_them():
    assert written(1.2345e-7, 2) == "1.2×10⁻⁷"
    assert written(0.25, signed=True) == "+0.25"
    assert written(-2e-9, 2, signed=True) == "−2×10⁻⁹"


def test_a_confusion_matrix_stored_as_counts_says_the_same(tmp_path):
    def stored_as_counts(figures):
        matrix = np.array(figures["confusion"])
        true, predicted = np.nonzero(matrix)
        counts = {"true": true.tolist(), "predicted": predicted.tolist(), "count": matrix[true, predicted].tolist()}
        return {**figures, "confusion": {"classes": 2, **counts}}

    dense = write_run(tmp_path / "dense", part(45, 5), part(30, 3), dead=10)
    sparse = write_run(tmp_path / "sparse", stored_as_counts(part(45, 5)), stored_as_counts(part(30, 3)), dead=10)
    assert said(sparse) == said(dense)
    assert Evidence(sparse).damages == {}
