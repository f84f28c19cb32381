"""A finished run evaluated: its figures agree with its verdict and with predict; files, pages, refusals."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from pictures import write
from sklearn.metrics import roc_auc_score

from alexnet_lab import load_run
from alexnet_lab.evaluation.evaluating import evaluate_run
from alexnet_lab.predictions_file import read_predictions
from alexnet_lab.records import RunFolder
from alexnet_lab.reports.claim import ITEMS, NOT_FILLED
from alexnet_lab.reports.evaluation_page import claim_answers, summary, write_evaluation
from alexnet_lab.training.recipe import Recipe
from alexnet_lab.training.run import train_with_verdict


def scans(root, names, seed, patients=20, each=3):
    """A table of pictures, three of each patient, brighter in the later classes; the path of the table."""
    rng = np.random.default_rng(seed)
    lines = ["path,label,group"]
    for patient in range(patients):
        kind = patient % len(names)
        for number in range(each):
            file = f"{patient}-{number}.png"
            write(root / file, rng.integers(30 * kind, 150 + 30 * kind, (20, 20)).astype(np.uint8))
            lines.append(f"{file},{names[kind]},patient {patient}")
    (root / "table.csv").write_text("\n".join(lines) + "\n")
    return root / "table.csv"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a run in `run`, its data in `data` and a set of another hospital in `elsewhere`."""
    root = tmp_path_factory.mktemp("evaluated")
    before = torch.get_num_threads()
    recipe = Recipe(
        data=str(scans(root / "data", ("healthy", "sick"), 0)), norm="bn", width=1 / 16, epochs=2, batch_size=8,
        instruments="off", threads=1,
    )  # fmt: skip
    assert train_with_verdict(recipe, RunFolder(root / "run")) == 0
    torch.set_num_threads(before)
    scans(root / "elsewhere", ("healthy", "sick"), 1)
    return root


@pytest.fixture(scope="module")
def evaluation(place):
    return evaluate_run(place / "run", str(place / "elsewhere" / "table.csv"), replicates=200)


def test_the_figures_of_the_test_are_those_of_the_verdict(place, evaluation):
    verdict = RunFolder(place / "run").verdict()["result"]["test"]
    figures = evaluation.test.figures
    assert figures["accuracy"].value == verdict["accuracy"]
    assert figures["balanced accuracy"].value == pytest.approx(verdict["balanced_accuracy"], abs=1e-12)
    assert figures["auroc"].value == pytest.approx(verdict["auroc"], abs=1e-6)
    assert figures["loss"].value == pytest.approx(verdict["loss"], abs=1e-6)
    assert evaluation.test.macro_auroc_delong.value == pytest.approx(verdict["auroc"], abs=1e-6)
    assert evaluation.test.calibration_error == pytest.approx(verdict["calibration_error"], abs=1e-6)
    assert evaluation.test.confusion == verdict["confusion"]


def test_a_set_from_elsewhere_has_the_probabilities_of_predict(place, evaluation):
    table = pd.read_csv(place / "elsewhere" / "table.csv")
    predictions = load_run(place / "run").predict([place / "elsewhere" / path for path in table["path"]])
    found = evaluation.sets["external"].predicted
    np.testing.assert_allclose(found.probabilities, predictions.probabilities, atol=1e-6)
    assert [evaluation.run.classes[label] for label in found.labels] == table["label"].tolist()
    assert evaluation.external.images == 60
    assert evaluation.external.units == 20
    area = roc_auc_score(table["label"] == "sick", predictions.probabilities[:, 1])
    assert evaluation.external.figures["auroc"].value == pytest.approx(area, abs=1e-9)
    assert evaluation.drops["auroc"].value == pytest.approx(area - evaluation.test.figures["auroc"].value)


def test_the_images_of_the_test_from_elsewhere_have_the_figures_of_the_test(place, tmp_path):
    table = pd.read_csv(place / "data" / "table.csv")
    test = table.iloc[RunFolder(place / "run").split()["test"]]
    shutil.copytree(place / "data", tmp_path / "copy")
    test.to_csv(tmp_path / "copy" / "table.csv", index=False)
    found = evaluate_run(place / "run", str(tmp_path / "copy" / "table.csv"), replicates=200)
    for name, estimate in found.test.figures.items():
        assert found.external.figures[name].value == pytest.approx(estimate.value, abs=1e-6)


def test_a_run_without_recorded_predictions_gets_the_same_from_its_weights_and_data(place, evaluation, tmp_path):
    older = shutil.copytree(place / "run", tmp_path / "older")
    (older / "predictions.npz").unlink()
    found = evaluate_run(older, replicates=200)
    for part in ("validation", "test"):
        ours, theirs = found.sets[part].predicted, evaluation.sets[part].predicted
        np.testing.assert_allclose(ours.probabilities, theirs.probabilities, atol=1e-6)
        assert ours.names == theirs.names
        assert (ours.groups == theirs.groups).all()


def test_without_its_data_a_run_is_evaluated_from_what_it_recorded(place, evaluation, tmp_path):
    shutil.copytree(place / "data", tmp_path / "data")
    run = shutil.copytree(place / "run", tmp_path / "run")
    fields = json.loads((run / "recipe.json").read_text())
    (run / "recipe.json").write_text(json.dumps({**fields, "data": str(tmp_path / "gone.csv")}))
    RunFolder(run).end("ok", result=RunFolder(run).verdict()["result"])
    found = evaluate_run(run, replicates=200)
    assert found.test.figures == evaluation.test.figures
    assert "pictures are not shown" in found.sets["test"].notes[0]
    assert "cannot be shown" in write_evaluation(found, tmp_path / "out").read_text()
    (run / "predictions.npz").unlink()
    with pytest.raises(ValueError, match="kept no predictions, and they cannot be computed from its data"):
        evaluate_run(run, replicates=200)


def test_intervals_are_over_patients_where_the_data_names_them(place, evaluation):
    groups = read_predictions(place / "run" / "predictions.npz")["test"].groups
    assert evaluation.test.unit == "patients"
    assert evaluation.test.units == len(set(groups))
    assert f"like the {len(set(groups))} of the test set" in summary(evaluation)


def test_every_file_is_written_and_says_the_same(evaluation, tmp_path):
    page = write_evaluation(evaluation, tmp_path / "out").read_text()
    facts = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert facts["test"]["figures"]["accuracy"]["value"] == evaluation.test.figures["accuracy"].value
    assert facts["external"]["images"] == 60
    rows = pd.read_csv(tmp_path / "out" / "figures.csv")
    row = rows[(rows["set"] == "external") & (rows["figure"] == "accuracy")].iloc[0]
    assert float(row["estimate"]) == pytest.approx(evaluation.external.figures["accuracy"].value, abs=1e-4)
    predictions = pd.read_csv(tmp_path / "out" / "predictions.csv")
    assert predictions.groupby("set").size()["external"] == 60
    assert np.allclose(predictions.filter(like="probability of").sum(axis=1), 1)
    assert summary(evaluation) in (tmp_path / "out" / "tables.md").read_text()
    assert "Most confident mistakes" in page or "has no mistake" in page
    for name in ("roc-test", "confusion-external", "calibration-test-1", "net-benefit-external-0"):
        assert (tmp_path / "out" / "figures" / f"{name}.svg").exists()


def test_the_page_has_the_items_of_the_checklist_in_order_and_leaves_open_what_only_people_know(evaluation, tmp_path):
    assert [item.number for item in ITEMS] == list(range(1, 43))
    page = write_evaluation(evaluation, tmp_path / "out").read_text()
    places = [page.index(f">{item.section}</h2>") for item in ITEMS]
    assert places == sorted(places)
    answers = claim_answers(evaluation)
    assert page.count(NOT_FILLED) >= len(ITEMS) - len(answers) > 0
    assert "patients" in answers[21]
    for of_people in (3, 5, 8, 12, 14, 16, 34, 42):
        assert of_people not in answers


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("healthy", "broken"), r"must have the classes of the run \(healthy, sick\), and has others: broken"),
        (("sick",), "the external set must have images of at least two classes"),
    ],
)
def test_a_set_that_does_not_fit_is_refused_in_one_sentence(names, message, place, tmp_path):
    table = scans(tmp_path / "other", names, 2, patients=4)
    with pytest.raises(ValueError, match=message) as refusal:
        evaluate_run(place / "run", str(table), replicates=200)
    assert "\n" not in str(refusal.value)


def test_a_set_of_one_patient_has_figures_without_intervals_and_says_so(place, tmp_path):
    table = scans(tmp_path / "one", ("healthy", "sick"), 2, patients=4)
    lines = table.read_text().splitlines()
    table.write_text("\n".join([lines[0], *(line.rpartition(",")[0] + ",p" for line in lines[1:])]) + "\n")
    found = evaluate_run(place / "run", str(table), replicates=200)
    assert found.external.figures["accuracy"].value is not None
    assert found.external.figures["accuracy"].low is None
    assert any("of one patient" in note for note in found.external.notes)
    write_evaluation(found, tmp_path / "out")


def test_a_run_that_has_not_finished_and_damaged_predictions_are_refused(place, tmp_path):
    run = shutil.copytree(place / "run", tmp_path / "run")
    content = bytearray((run / "predictions.npz").read_bytes())
    content[len(content) // 2] ^= 1
    (run / "predictions.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"predictions\.npz changed after the run ended"):
        evaluate_run(run)
    (run / "state.json").unlink()
    with pytest.raises(ValueError, match="has not finished"):
        evaluate_run(run)
    with pytest.raises(ValueError, match="at least 200 replicates"):
        evaluate_run(place / "run", replicates=10)
    with pytest.raises(ValueError, match="unknown rule for thresholds 'yoden'. Did you mean 'youden'"):
        evaluate_run(place / "run", rule="yoden")
