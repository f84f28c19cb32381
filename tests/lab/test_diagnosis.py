"""What is said about a run follows from its records, and from nothing else."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

import alexnet_lab.diagnosis
from alexnet_lab.diagnosis import Finding, blind_spots, describe, diagnose, health_of
from alexnet_lab.diagnosis.evidence import Evidence
from alexnet_lab.diagnosis.thresholds import limit, limits
from alexnet_lab.instruments.flow import FlowWriter, Layout, Parameter, Site
from alexnet_lab.records import RunFolder

DIAGNOSIS = Path(alexnet_lab.diagnosis.__file__).parent


def row(epoch, train_loss, train_accuracy, validation_accuracy, validation_loss=None, **more):
    return {
        "epoch": epoch,
        "step": 10 * epoch,
        "train_loss": train_loss,
        "train_accuracy": train_accuracy,
        "validation_loss": train_loss if validation_loss is None else validation_loss,
        "validation_accuracy": validation_accuracy,
        "validation_balanced_accuracy": validation_accuracy,
        "validation_auroc": 0.5,
        **more,
    }


def write_run(path, rows, state=None, why="", confusion=None, classes="abcd", images=(800, 400), recipe=None, notes=()):
    path.mkdir(parents=True, exist_ok=True)
    split = {"train": list(range(images[0])), "validation": list(range(images[1])), "test": [], "notes": []}
    run = RunFolder(path)
    run.begin(
        json.dumps(recipe or {"learning_rate": 0.01, "norm": None}),
        {"classes": list(classes), "notes": list(notes)},
        json.dumps(split),
    )
    for each in rows:
        run.log(each)
    if state:
        validation = {} if confusion is None else {"confusion": confusion}
        run.end(state, why, {"tested_epoch": len(rows), "validation": validation} if state == "ok" else None)
    return run


def names(run):
    return [finding.name for finding in diagnose(run)]


LEARNED = [row(1, 1.2, 0.4, 0.45), row(2, 0.6, 0.8, 0.82), row(3, 0.2, 0.95, 0.94)]


def test_a_run_that_learned_has_no_finding_finished_or_not(tmp_path):
    assert names(write_run(tmp_path / "a", LEARNED)) == []
    assert names(write_run(tmp_path / "b", LEARNED, "ok", confusion=(np.eye(4) * 100).tolist())) == []


def test_an_empty_folder_has_no_finding_and_says_that_nothing_was_looked_at(tmp_path):
    assert diagnose(RunFolder(tmp_path)) == []
    assert len(blind_spots(RunFolder(tmp_path))) == 2
    assert set(health_of(RunFolder(tmp_path)).values()) == {None}


def test_a_run_without_instruments_says_what_could_not_be_examined(tmp_path):
    run = write_run(tmp_path, LEARNED, "ok")
    assert blind_spots(run) == ["gradients, updates, units and precision: the run carried no instruments"]
    text = describe(diagnose(run), blind_spots(run))
    assert text.startswith("No finding")
    assert "Not examined: gradients, updates" in text


def test_a_diverged_run_names_the_step_and_the_layer_and_a_smaller_rate(tmp_path):
    why = (
        "the loss was nan at step 12, epoch 1: the last update made conv1.weight infinite or NaN, and 3 more parameters"
    )
    (finding,) = diagnose(write_run(tmp_path, [], "diverged", why))
    assert (finding.name, finding.severity, finding.numbers["step"]) == ("diverged", "serious", 12)
    assert (finding.layers, finding.epochs) == (("conv1.weight",), (1,))
    assert "0.01" in finding.remedy
    assert "no instruments" in finding.contrary


def test_a_diverged_run_is_recognised_by_the_output_of_a_layer_too(tmp_path):
    why = "the loss was inf at step 3, epoch 2: the output of act5 is the first that is not finite"
    (finding,) = diagnose(write_run(tmp_path, LEARNED[:1], "diverged", why))
    assert (finding.layers, finding.epochs) == (("act5",), (2,))


def test_one_answer_for_every_image_is_told_by_the_confusion_matrix(tmp_path):
    confusion = np.zeros((4, 4), int)
    confusion[:, 2] = 100
    rows = [row(epoch, 1.38, 0.25, 0.25, validation_auroc=0.8) for epoch in (1, 2, 3)]
    findings = diagnose(write_run(tmp_path, rows, "ok", confusion=confusion.tolist()))
    assert [finding.name for finding in findings] == ["class-collapse"]
    assert "class 'c'" in findings[0].title
    assert "400 validation images, 400" in findings[0].evidence
    assert "do order the images" in findings[0].contrary


def test_one_answer_is_told_by_a_balanced_accuracy_of_exactly_one_in_k_before_the_run_ends(tmp_path):
    rows = [row(epoch, 1.38, 0.25, 0.25) for epoch in (1, 2)]
    assert names(write_run(tmp_path / "a", rows)) == ["class-collapse"]
    rows[1]["validation_balanced_accuracy"] = 0.2525
    assert names(write_run(tmp_path / "b", rows)) == ["no-learning"]


def test_guessing_is_found_by_a_run_at_chance_and_not_by_one_five_errors_above_it(tmp_path):
    # Four classes, 400 images: guessing gives .25 with a standard error of .0217, so the limit stands at .315.
    at_chance = [row(epoch, 1.386, 0.25, accuracy) for epoch, accuracy in ((1, 0.24), (2, 0.31), (3, 0.26))]
    assert names(write_run(tmp_path / "a", at_chance)) == ["no-learning"]
    above = [row(epoch, 1.386, 0.25, accuracy) for epoch, accuracy in ((1, 0.24), (2, 0.36), (3, 0.26))]
    assert names(write_run(tmp_path / "b", above)) == []


def test_guessing_after_one_epoch_is_a_warning_only(tmp_path):
    (finding,) = diagnose(write_run(tmp_path, [row(1, 1.386, 0.25, 0.24)]))
    assert (finding.name, finding.severity) == ("no-learning", "warning")
    assert "only 1 epoch" in finding.contrary


def test_guessing_with_unequal_classes_is_held_against_the_entropy_of_their_shares(tmp_path):
    # 370 of one class and 10 of each other: whoever knows only that has a loss of .345, far below log 4.
    confusion = [[360, 4, 3, 3], [10, 0, 0, 0], [9, 1, 0, 0], [10, 0, 0, 0]]
    entropy = -(0.925 * np.log(0.925) + 3 * 0.025 * np.log(0.025))
    rows = [row(e, entropy, 0.92, 0.9, validation_balanced_accuracy=0.243) for e in (1, 2, 3)]
    (finding,) = diagnose(write_run(tmp_path, rows, "ok", confusion=confusion))
    assert finding.name == "no-learning"
    assert f"guessing gives {entropy:.3f}" in finding.evidence


@pytest.mark.parametrize(("gap", "severity"), [(0.08, None), (0.12, "warning"), (0.3, "serious")])
def test_overfitting_goes_by_the_gap(tmp_path, gap, severity):
    rows = [row(1, 0.9, 0.6, 0.6), row(2, 0.2, 0.95, 0.95 - gap, validation_loss=1.3)]
    found = diagnose(write_run(tmp_path, rows))
    assert [(finding.name, finding.severity) for finding in found] == ([("overfitting", severity)] if severity else [])
    if found:
        assert found[0].numbers["gap"] == pytest.approx(gap)
        # By hand: the standard error is that of two independent shares.
        error = (0.95 * 0.05 / 800 + (0.95 - gap) * (0.05 + gap) / 400) ** 0.5
        assert found[0].numbers["lowest"] == pytest.approx(gap - 1.96 * error)


def test_a_gap_that_few_images_could_make_by_chance_is_no_overfitting(tmp_path):
    rows = [row(1, 0.9, 0.6, 0.6), row(2, 0.2, 0.9, 0.75)]
    assert names(write_run(tmp_path / "many", rows)) == ["overfitting"]
    assert names(write_run(tmp_path / "few", rows, images=(40, 20))) == []


def test_overfitting_says_against_itself_that_validation_loss_did_not_rise(tmp_path):
    rows = [row(1, 0.9, 0.6, 0.6, validation_loss=0.9), row(2, 0.2, 0.95, 0.8, validation_loss=0.6)]
    assert "did not rise" in diagnose(write_run(tmp_path / "a", rows))[0].contrary
    rows[1]["validation_loss"] = 1.5
    assert "did not rise" not in diagnose(write_run(tmp_path / "b", rows))[0].contrary


def test_a_training_loss_that_swings_is_a_warning_without_instruments(tmp_path):
    losses = [1.3, 0.9, 1.2, 0.8, 1.1, 0.7, 1.0]
    rows = [row(epoch, loss, 0.6, 0.6) for epoch, loss in enumerate(losses, 1)]
    (finding,) = diagnose(write_run(tmp_path, rows))
    assert (finding.name, finding.severity) == ("rate-too-high", "warning")
    assert "3 of 6" in finding.evidence
    assert "not measured" in finding.contrary


def test_a_torn_last_line_of_metrics_is_passed_over(tmp_path):
    run = write_run(tmp_path, LEARNED)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 4, "train_lo')
    assert diagnose(run) == []


def test_metrics_that_were_not_defined_accuse_nobody(tmp_path):
    rows = [{**each, "validation_auroc": None, "validation_accuracy": None} for each in LEARNED]
    assert diagnose(write_run(tmp_path, rows)) == []


def test_the_most_serious_finding_comes_first(tmp_path):
    rows = [row(1, 0.9, 0.6, 0.6), row(2, 0.2, 0.95, 0.8)]  # a warning of overfitting
    found = diagnose(write_run(tmp_path, rows, "diverged", "the loss was nan at step 30, epoch 3: ..."))
    assert [finding.severity for finding in found] == ["serious", "warning"]


def test_findings_are_described_whole_within_the_width(tmp_path):
    rows = [row(1, 0.9, 0.6, 0.6), row(2, 0.2, 0.95, 0.6)]
    (finding,) = diagnose(write_run(tmp_path, rows))
    text = describe([finding], width=60)
    assert all(len(line) <= 60 for line in text.splitlines())
    squeezed = re.sub(r"\s+", " ", text)
    for part in (
        finding.title,
        finding.sentence,
        finding.evidence,
        finding.threshold,
        finding.contrary,
        finding.remedy,
    ):
        assert part in squeezed
    assert "SERIOUS" in text


# Instruments: tables small enough to be worked out by hand.


def write_flow(path, activation="ReLU", epochs=1, off=((3, 10, 10, 0), (0, 0, 5, 10)), inputs=10, training=None):
    """Two layers of four units; two steps per epoch; `off` holds the off counts of N probe inputs by site.

    `training` holds those of as many training inputs, by epoch. Every unit looks at one position.
    """
    parameters = (
        Parameter("conv1.weight", "conv1", (4, 1, 5, 5)),
        Parameter("conv1.bias", "conv1", (4,)),
        Parameter("fc2.weight", "fc2", (4, 9)),
    )
    sites = (Site("act1", "conv1", activation, "channel", 4), Site("act2", "fc2", activation, "neuron", 4))
    writer = FlowWriter(path)
    writer.begin(Layout(parameters, sites))
    for epoch in range(1, epochs + 1):
        splits = [off] if training is None else [training[epoch - 1], off]
        writer.write_epoch(
            epoch,
            {
                "steps": {
                    "step": np.repeat(np.array([2 * epoch - 1, 2 * epoch], np.int32), 3),
                    "parameter": np.tile(np.arange(3, dtype=np.int16), 2),
                    "weight_norm": np.array([10, 1, 10, 10, 1, 10], np.float32),
                    "gradient_norm": np.array([1, 9, 4, 3, 9, 4], np.float32),
                    "update_norm": np.array([0.01, 5, 0.03, 0.03, 5, 0.05], np.float32) / epoch,
                },
                "windows": {
                    "kind": np.array([1, 1, 0], np.int8),
                    "subject": np.array([0, 2, 0], np.int16),
                    "first_step": np.full(3, 2 * epoch - 1, np.int32),
                    "last_step": np.full(3, 2 * epoch, np.int32),
                    "tensors": np.full(3, 2, np.int32),
                    "stride": np.ones(3, np.int32),
                    "underflow": np.zeros(3, np.float32),
                    "overflow": np.zeros(3, np.float32),
                    "signal_to_noise": np.array([0.5, 1.5, np.nan], np.float32),
                },
                "histograms": {"counts": np.zeros((3, 2, 258), np.int64)},
                "units": {
                    "site": np.tile(np.repeat(np.array([0, 1], np.int16), 4), len(splits)),
                    "unit": np.tile(np.arange(4, dtype=np.int32), 2 * len(splits)),
                    "split": np.repeat(np.array([0, 1], np.int8)[-len(splits) :], 8),
                    "inputs": np.full(8 * len(splits), inputs),
                    "off": np.array(splits).ravel(),
                    "elements": np.full(8 * len(splits), inputs),
                    "elements_off": np.zeros(8 * len(splits), np.int64),
                },
            },
        )
    return RunFolder(path)


def test_health_is_what_one_works_out_by_hand(tmp_path):
    health = health_of(write_flow(tmp_path))
    assert health["dead_share"] == 3 / 8
    assert health["negative_side_rate"] == pytest.approx((23 / 40 + 15 / 40) / 2)
    # Medians over two steps: conv1 norm 2 of 100 elements, fc2 norm 4 of 36 elements.
    assert health["gradient_first_to_last"] == pytest.approx((2 / 10) / (4 / 6))
    # Update over weights, median of steps: conv1 .002, fc2 .004; the bias is no weight layer.
    assert health["update_ratio"] == pytest.approx(0.003)
    assert health["signal_to_noise"] == pytest.approx(1.0)


def test_health_is_read_in_the_last_epoch(tmp_path):
    assert health_of(write_flow(tmp_path, epochs=3))["update_ratio"] == pytest.approx(0.001)


def test_a_leaky_network_has_no_dead_share_and_the_same_negative_side_rate(tmp_path):
    relu, leaky = write_flow(tmp_path / "relu"), write_flow(tmp_path / "leaky", activation="LeakyReLU")
    assert health_of(leaky)["dead_share"] is None
    assert health_of(leaky)["negative_side_rate"] == health_of(relu)["negative_side_rate"]


def test_dead_is_an_off_rate_of_exactly_one_and_comes_with_three_over_n(tmp_path):
    silence = Evidence(write_flow(tmp_path)).silence("probe", 0, 1)
    assert silence.dead == (1, 2)
    assert silence.rate.tolist() == [0.3, 1.0, 1.0, 0.0]
    assert silence.bound == pytest.approx(0.3)


ALIVE = (0, 0, 0, 0)


def test_units_that_fired_in_the_first_epoch_and_were_silent_after_it_died_in_training(tmp_path):
    off, never, early = (ALIVE, (100,) * 4), (ALIVE, (100,) * 4), (ALIVE, (60,) * 4)
    run = write_flow(tmp_path / "never", off=off, inputs=100, epochs=2, training=[never, never])
    assert names(run) == ["dead-at-start"]
    run = write_flow(tmp_path / "early", off=off, inputs=100, epochs=2, training=[early, never])
    assert names(run) == ["dying-units"]


def test_units_that_fire_in_training_are_never_a_serious_finding(tmp_path):
    off, sometimes = (ALIVE, (100,) * 4), (ALIVE, (99,) * 4)
    (found,) = diagnose(write_flow(tmp_path, off=off, inputs=100, epochs=2, training=[sometimes, sometimes]))
    assert (found.name, found.severity) == ("dying-units", "warning")
    assert "0 of these 4 were off" in found.contrary


def test_silence_on_few_inputs_is_no_finding_of_its_own(tmp_path):
    few = write_flow(tmp_path / "few", off=(ALIVE, (59,) * 4), inputs=59)
    assert names(few) == []
    assert Evidence(few).silence("probe", 1, 1).dead == (0, 1, 2, 3)  # counted all the same
    assert names(write_flow(tmp_path / "enough", off=(ALIVE, (60,) * 4), inputs=60)) == ["dead-at-start"]


def test_two_of_five_neurons_are_the_limit_and_the_layer_as_a_whole_is_judged(tmp_path):
    assert names(write_flow(tmp_path / "a", off=(ALIVE, (100, 0, 0, 0)), inputs=100)) == []
    assert names(write_flow(tmp_path / "b", off=(ALIVE, (100, 100, 0, 0)), inputs=100)) == ["dead-at-start"]


def test_the_first_epoch_file_alone_is_enough(tmp_path):
    run = write_flow(tmp_path, off=((0, 0, 0, 0), (0, 0, 0, 0)))
    assert diagnose(run) == []
    assert blind_spots(run) == ["learning curves: no epoch has ended"]


def test_a_schedule_that_ends_with_tiny_updates_is_no_rate_too_low(tmp_path):
    run = write_flow(tmp_path, off=(ALIVE, ALIVE), epochs=40)
    assert health_of(run)["update_ratio"] < limit("update_ratio_low").value
    assert diagnose(run) == []


def test_an_instrumented_run_that_has_measured_nothing_yet_is_no_case(tmp_path):
    FlowWriter(tmp_path).begin(Layout((Parameter("a.weight", "a", (2, 2)),), (Site("b", "a", "ReLU", "neuron", 2),)))
    assert diagnose(RunFolder(tmp_path)) == []
    assert len(blind_spots(RunFolder(tmp_path))) == 4


def test_the_size_of_values_from_a_histogram_is_their_root_mean_square_to_a_factor_of_one_and_a_half(tmp_path):
    generator = np.random.default_rng(0)
    for spread in (1e-6, 1.0, 3e4):
        values = generator.normal(0, spread, 10_000).astype(np.float32)
        counts = np.zeros((1, 2, 258), np.int64)
        np.add.at(counts[0, 0], np.frexp(np.abs(values))[1] - 1 + 126 + 2, 1)
        run = write_flow(tmp_path / f"{spread:g}")
        evidence = Evidence(run)
        evidence.flow.epochs[1]["histograms.counts"] = np.concatenate([counts] * 3)
        measured = evidence.level("weight", 0, 1)
        true = float(np.sqrt((values.astype(float) ** 2).mean()))
        assert true / 1.5 < measured.rms < true * 1.5
        assert measured.values == 10_000


# Thresholds.


def test_every_limit_has_a_value_a_unit_a_reason_and_a_source_and_is_used_by_a_rule():
    code = "".join(path.read_text() for path in DIAGNOSIS.glob("*.py"))
    for name, found in limits().items():
        assert isinstance(found.value, float)
        assert found.unit
        assert found.reason
        assert found.source
        assert f'"{name}"' in code, name


def test_an_unknown_limit_is_answered_with_the_nearest():
    with pytest.raises(ValueError, match="Did you mean 'underflow'"):
        limit("underflo")


def test_every_finding_that_the_rules_can_make_and_every_limit_stands_in_the_documentation():
    text = (Path(__file__).parents[2] / "docs" / "diagnosis.md").read_text()
    code = "".join(path.read_text() for path in DIAGNOSIS.glob("*.py"))
    slugs = set(re.findall(r'name="([a-z-]+)"', code))
    assert len(slugs) > 10
    for name in slugs:
        assert f"| `{name}` |" in text, name
    for name, found in limits().items():
        assert f"| `{name}` | {found.value:g} {found.unit} | {found.reason} | {found.source} |" in text, name


def test_a_finding_cannot_be_changed():
    finding = Finding("a", "note", "b", "c", "d", "e", "f", "g")
    with pytest.raises(AttributeError):
        finding.severity = "serious"
