"""Images with several findings: from a table to a trained run, and what does not apply to them is refused."""

import csv
import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pictures import write
from sklearn.metrics import roc_auc_score

from alexnet_lab import load_run
from alexnet_lab.data.feed import open_feed
from alexnet_lab.data.findings import as_classes, strata_of
from alexnet_lab.data.sources import listing_of, load_images
from alexnet_lab.diagnosis.areas import areas_of
from alexnet_lab.diagnosis.evidence import Evidence
from alexnet_lab.diagnosis.examination import examine
from alexnet_lab.evaluation.auroc import macro_auroc
from alexnet_lab.evaluation.calibration import fit_temperature, tempered
from alexnet_lab.evaluation.evaluating import evaluate_run
from alexnet_lab.explanation.explaining import explain
from alexnet_lab.predictions_file import read_predictions
from alexnet_lab.records import RunFolder
from alexnet_lab.reports.comparison import compare_runs
from alexnet_lab.reports.evaluation_page import write_evaluation
from alexnet_lab.reports.inspection import inspect_run
from alexnet_lab.reports.run_tables import run_tables
from alexnet_lab.training.metrics import finding_metrics
from alexnet_lab.training.recipe import Recipe, read_recipe
from alexnet_lab.training.run import train_with_verdict
from alexnet_lab.training.trainer import Trainer

NAMES = ("Effusion", "Mass", "Nodule")
TINY = Recipe(
    norm="bn", width=1 / 16, epochs=10, batch_size=16, learning_rate=0.03, instruments="off", threads=1, best_by="auroc"
)


def picture(rng, findings):
    """Noise, with a square a little brighter in the place of each finding."""
    pixels = rng.integers(60, 120, (24, 24)).astype(np.uint8)
    for name in findings:
        at = 8 * NAMES.index(name)
        pixels[at : at + 8, at : at + 8] += 25
    return pixels


def made(root, count=200, patients=40):
    """Pictures and two tables: NIH's columns, and a column of 0 and 1 for each finding; return the findings."""
    rng = np.random.default_rng(0)
    every = []
    for number in range(count):
        found = [name for name, share in zip(NAMES, (0.5, 0.3, 0.2), strict=True) if rng.random() < share]
        every.append(found)
        write(root / f"{number:03}.png", picture(rng, found))
    with (root / "nih.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["Image Index", "Finding Labels", "Patient ID", "View Position"])
        for number, found in enumerate(every):
            table.writerow([f"{number:03}.png", "|".join(found) or "No Finding", number % patients, "PA"])
    with (root / "flags.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", *NAMES])
        for number, found in enumerate(every):
            table.writerow([f"{number:03}.png", *(int(name in found) for name in NAMES)])
    return np.array([[name in found for name in NAMES] for found in every], int)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("findings")
    labels = made(root)
    recipe = replace(TINY, data=str(root / "nih.csv"), findings="Finding Labels", group="patient", allow_leaks=True)
    before = torch.get_num_threads()
    assert train_with_verdict(recipe, RunFolder(root / "run")) == 0
    torch.set_num_threads(before)
    return SimpleNamespace(root=root, labels=labels, recipe=recipe, run=root / "run")


@pytest.mark.parametrize(("table", "findings"), [("nih.csv", "Finding Labels"), ("flags.csv", "Effusion|mass| Nodule")])
def test_joined_labels_and_columns_of_0_and_1_are_the_same_matrix(table, findings, place):
    images = load_images(str(place.root / table), findings=findings)
    assert [name.lower() for name in images.classes] == [name.lower() for name in NAMES]
    np.testing.assert_array_equal(images.labels, place.labels)


def test_all_images_of_a_patient_are_in_one_part_and_every_part_has_every_finding(place):
    split = RunFolder(place.run).split()
    patients = {part: {index % 40 for index in split[part]} for part in split}
    assert not patients["train"] & patients["test"]
    assert not patients["train"] & patients["validation"]
    assert not patients["validation"] & patients["test"]
    assert all(place.labels[split[part]].any(0).all() for part in split)


def test_a_rare_finding_is_in_proportion_in_every_part(tmp_path):
    rng = np.random.default_rng(3)
    labels = (rng.random((2000, 4)) < (0.4, 0.3, 0.2, 0.02)).astype(int)
    strata, count = strata_of(labels, np.arange(2000), 0)
    assert count == 5
    rare = strata[labels[:, 3] == 1]
    assert len(set(rare)) == 1
    assert not set(rare) & set(strata[labels[:, 3] == 0])
    few, count = strata_of(labels[:30], np.arange(30), 0)
    assert all(np.bincount(few) >= 10)
    assert count == len(set(few))


def test_the_run_records_labels_probabilities_and_the_auroc_of_each_finding(place):
    kept = read_predictions(place.run / "predictions.npz")
    result = RunFolder(place.run).verdict()["result"]
    for part in ("validation", "test"):
        np.testing.assert_array_equal(kept[part].labels, place.labels[kept[part].ids])
        each = [roc_auc_score(kept[part].labels[:, k], kept[part].probabilities[:, k]) for k in range(3)]
        np.testing.assert_allclose(result[part]["finding_auroc"], each, atol=1e-6)
        assert result[part]["auroc"] == pytest.approx(np.mean(each), abs=1e-6)
        assert result[part]["accuracy"] is None
        assert not np.allclose(kept[part].probabilities.sum(1), 1)
    assert result["test"]["auroc"] > 0.7  # squares in three places are learned


def test_predict_gives_the_probabilities_of_the_test_and_findings_by_thresholds_of_validation(place):
    test = read_predictions(place.run / "predictions.npz")["test"]
    found = load_run(place.run).predict([place.root / f"{index:03}.png" for index in test.ids])
    np.testing.assert_allclose(found.probabilities, test.probabilities, atol=1e-6)
    for text, row in zip(found.predicted, found.probabilities, strict=True):
        expected = [name for name, p, least in zip(NAMES, row, found.thresholds, strict=True) if p >= least]
        assert text == ("|".join(expected) or "none")
    assert "probability of Mass" in found.table()


def test_the_metrics_are_those_of_scikit_learn_and_leave_out_what_has_no_curve():
    rng = np.random.default_rng(5)
    labels = (rng.random((200, 3)) < 0.3).astype(int)
    labels[:, 2] = 0
    probabilities = rng.random((200, 3))
    found = finding_metrics(probabilities, labels)
    loss = -np.mean(labels * np.log(probabilities) + (1 - labels) * np.log(1 - probabilities))
    assert found["loss"] == pytest.approx(loss, rel=1e-9)
    assert found["finding_auroc"][2] is None
    assert found["auroc"] == pytest.approx(roc_auc_score(labels[:, :2], probabilities[:, :2], average="macro"))


@pytest.mark.parametrize("weights", [None, torch.tensor([1.0, 3.0, 9.0])])
def test_the_loss_is_binary_cross_entropy_with_weights_for_what_is_present(weights):
    torch.manual_seed(0)
    scores, labels = torch.randn(8, 3, dtype=torch.float64), (torch.rand(8, 3) < 0.4).long()
    trainer = SimpleNamespace(recipe=replace(TINY, label_smoothing=0.2), class_weights=weights)
    p, y = scores.sigmoid().numpy(), labels.numpy() * 0.8 + 0.1
    heavy = 1.0 if weights is None else weights.numpy()
    expected = -(heavy * y * np.log(p) + (1 - y) * np.log(1 - p)).mean()
    assert float(Trainer._loss(trainer, scores, labels)) == pytest.approx(expected, rel=1e-6)


def test_balanced_weights_make_presence_and_absence_of_a_finding_weigh_the_same(place):
    feed = open_feed(str(place.root / "flags.csv"), image_size=24, findings="|".join(NAMES), allow_leaks=True)
    trained = place.labels[feed.split.train]
    weights = feed.balanced_class_weights().numpy()
    np.testing.assert_allclose(weights * trained.sum(0), (1 - trained).sum(0), rtol=1e-6)


def test_copies_with_other_findings_are_found(place):
    images = as_classes(load_images(str(place.root / "nih.csv"), findings="Finding Labels"))
    names = [images.classes[label] for label in images.labels]
    expected = ["|".join(np.array(NAMES)[row == 1]) or "none" for row in place.labels]
    assert names == expected


def test_exported_tables_have_a_column_for_each_finding(place):
    tables = run_tables(place.run)
    test = tables["predictions"].query("part == 'test'")
    np.testing.assert_array_equal(test[[f"has {name}" for name in NAMES]], place.labels[test["image"]])
    each = tables["result"].query("part == 'test' and metric == 'finding_auroc'")
    assert each["class"].tolist() == list(NAMES)


def test_inspect_shows_the_auroc_of_each_finding(place, tmp_path):
    result = RunFolder(place.run).verdict()["result"]["test"]
    page = inspect_run(place.run).write(tmp_path / "report").read_text()
    assert f"a mean AUROC of {result['auroc']:.4f} (95% interval 0." in page
    assert "over 3 findings on" in page
    assert "AUROC by finding, test images" in page
    assert "Least is known of" in page
    assert "accuracy" not in page.split("Recipe and provenance")[0].split("<body")[-1]
    assert "these rules judge one class an image" in page


def test_no_rule_on_classes_judges_a_run_on_findings(place):
    evidence = Evidence(RunFolder(place.run))
    assert not {finding.name for finding in examine(evidence)} & {
        "class-collapse", "no-learning", "constant-answer", "overfitting",
    }  # fmt: skip
    areas = areas_of(evidence, "test")
    result = RunFolder(place.run).verdict()["result"]["test"]
    assert areas.mean.value == pytest.approx(result["auroc"], abs=1e-6)
    np.testing.assert_allclose([one.value for _, _, one in areas.each], result["finding_auroc"], atol=1e-6)
    assert [count for _, count, _ in areas.each] == place.labels[RunFolder(place.run).split()["test"]].sum(0).tolist()


def test_compare_lays_mean_aurocs_side_by_side(place, tmp_path):
    other = shutil.copytree(place.run, tmp_path / "other")
    page = compare_runs([place.run, other]).write(tmp_path / "comparison").read_text()
    auroc = RunFolder(place.run).verdict()["result"]["test"]["auroc"]
    assert f"Test AUROC, of findings their mean, one seed each: run {auroc:.4f}, other {auroc:.4f}." in page
    assert "Mean AUROC over findings, test" in page
    assert "Validation AUROC" in page


def test_a_finding_is_explained_by_its_own_log_odds(place):
    run = load_run(place.run)
    (found,) = explain(
        place.run, place.root / "000.png", methods=["occlusion", "grad-cam"], kind="Mass", random_networks=1
    )
    (row,) = run.predict([place.root / "000.png"]).probabilities
    assert found.kind == "Mass"
    assert found.probability == pytest.approx(row[1], abs=1e-6)
    (most,) = explain(place.run, place.root / "000.png", methods=["occlusion"], random_networks=1)
    assert most.kind == NAMES[row.argmax()]
    # What hiding the middle costs: the score of the finding alone, whatever the other findings do.
    feed = run.preprocessing.feed_of(run_pixels(place, run), run.classes, "cpu", has_findings=True)
    image = next(iter(feed.images))
    network = run.network()
    side = image.shape[-1]
    window = round(side / 6)
    hidden = image.clone()
    hidden[:, :window, :window] = 0
    with torch.no_grad():
        fall = float(network(image[None])[0, 1] - network(hidden[None])[0, 1])
    assert found.maps[0].heat[0, 0] == pytest.approx(fall, abs=1e-5)
    with pytest.raises(ValueError, match="unknown finding of the run 'Mas'"):
        explain(place.run, place.root / "000.png", kind="Mas")


def run_pixels(place, run):
    with (place.root / "000.png").open("rb") as file:
        return run.preprocessing.decoded(file.read(), run.recipe.fit).pixels[None]


@pytest.fixture(scope="module")
def evaluation(place):
    return evaluate_run(place.run, replicates=200)


def test_an_evaluation_has_the_auroc_of_each_finding_and_their_mean(place, evaluation):
    test, result = evaluation.test, RunFolder(place.run).verdict()["result"]["test"]
    each = [one.auroc_delong.value for one in test.classes]
    np.testing.assert_allclose(each, result["finding_auroc"], atol=1e-6)
    assert test.figures["auroc"].value == pytest.approx(result["auroc"], abs=1e-6)
    assert test.macro_auroc_delong.value == pytest.approx(result["auroc"], abs=1e-6)
    assert test.figures["loss"].value == pytest.approx(result["loss"], abs=1e-6)
    assert test.unit == "patients"
    assert test.confusion == []
    assert "accuracy" not in test.figures
    assert [one.name for one in test.classes] == list(NAMES)


def test_thresholds_of_an_evaluation_are_those_of_predict_and_their_shares_are_counted(place, evaluation):
    kept = read_predictions(place.run / "predictions.npz")["test"]
    cuts = load_run(place.run)._thresholds()
    for k, one in enumerate(evaluation.test.classes):
        assert one.threshold == pytest.approx(cuts[k])
        has, called = kept.labels[:, k] == 1, kept.probabilities[:, k] >= cuts[k]
        assert one.figures["sensitivity"].value == pytest.approx(called[has].mean())
        assert one.figures["specificity"].value == pytest.approx(1 - called[~has].mean())
        assert one.figures["positive predictive value"].value == pytest.approx(has[called].mean())
        assert one.brier == pytest.approx(((kept.probabilities[:, k] - has) ** 2).mean(), abs=1e-6)
    brier = ((kept.probabilities - kept.labels) ** 2).mean()
    assert evaluation.test.figures["Brier score"].value == pytest.approx(brier, abs=1e-6)
    wrong = ((kept.probabilities >= np.array(cuts)) != (kept.labels == 1)).sum()
    assert len(evaluation.test.mistakes) == sum(map(len, evaluation.test.cells.values())) == wrong > 0


def test_the_temperature_of_findings_is_that_of_their_odds():
    rng = np.random.default_rng(1)
    odds = rng.normal(size=(4000, 3))
    labels = (rng.random((4000, 3)) < 1 / (1 + np.exp(-odds))).astype(int)
    sharp = 1 / (1 + np.exp(-2 * odds))
    assert fit_temperature(sharp, labels) == pytest.approx(2, rel=0.05)
    np.testing.assert_allclose(tempered(sharp, 2.0, are_findings=True), 1 / (1 + np.exp(-odds)), atol=1e-9)


def test_the_interval_of_the_mean_auroc_is_that_of_the_jackknife():
    rng = np.random.default_rng(2)
    labels = (rng.random((120, 3)) < (0.4, 0.3, 0.2)).astype(int)
    scores = 1 / (1 + np.exp(-labels - rng.normal(size=(120, 1)) - 0.5 * rng.normal(size=(120, 3))))
    found = macro_auroc(scores, labels)
    assert found.value == pytest.approx(roc_auc_score(labels, scores, average="macro"))
    left = [roc_auc_score(np.delete(labels, i, 0), np.delete(scores, i, 0)) for i in range(120)]
    error = np.sqrt(119 / 120 * ((left - np.mean(left)) ** 2).sum())
    assert (found.high - found.low) / 2 / 1.96 == pytest.approx(error, rel=0.05)


def test_the_page_of_an_evaluation_speaks_of_findings(place, evaluation, tmp_path):
    page = write_evaluation(evaluation, tmp_path / "out").read_text()
    assert "over 3 findings on" in page
    assert "each finding against its absence" in page
    assert "3 findings (Effusion, Mass, Nodule) by a sigmoid each" in page
    assert "onfusion" not in page
    assert "accuracy" not in page.split("Reproduce")[0]
    assert {path.name for path in (tmp_path / "out" / "figures").glob("*.svg")} >= {
        "roc-test.svg", "calibration-test-0.svg", "net-benefit-test-2.svg",
    }  # fmt: skip
    rows = (tmp_path / "out" / "predictions.csv").read_text().splitlines()
    assert rows[0].startswith("set,image,true,predicted,probability of Effusion")
    facts = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert facts["chosen_on_validation"]["rule"] == "youden"


def test_findings_of_another_hospital_are_evaluated_by_name(place, evaluation, tmp_path):
    test = evaluation.sets["test"].predicted
    for name in test.names:
        shutil.copy(place.root / name, tmp_path)
    rows = [line for line in (place.root / "nih.csv").read_text().splitlines() if line.split(",")[0] in test.names]
    (tmp_path / "table.csv").write_text("Image Index,Finding Labels,Patient ID,View Position\n" + "\n".join(rows))
    found = evaluate_run(place.run, str(tmp_path / "table.csv"), replicates=200)
    assert found.external.unit == "patients"
    for name, estimate in found.test.figures.items():
        assert found.external.figures[name].value == pytest.approx(estimate.value, abs=1e-6)
    assert found.drops["auroc"].value == pytest.approx(0, abs=1e-6)
    (tmp_path / "table.csv").write_text((tmp_path / "table.csv").read_text().replace("Mass", "Hernia"))
    with pytest.raises(ValueError, match=r"must have the findings of the run \(Effusion.*\), and has others: Hernia"):
        evaluate_run(place.run, str(tmp_path / "table.csv"), replicates=200)


def test_a_notebook_shows_the_mean_auroc(place):
    auroc = RunFolder(place.run).verdict()["result"]["test"]["auroc"]
    assert f"{auroc:.4f}" in load_run(place.run)._repr_html_()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"findings": "a"}, "best_by: with findings it must be auroc, the mean over findings, or loss; got accuracy"),
        ({"findings": "a", "best_by": "loss", "sampling": "balanced"}, "sampling: balanced needs one class an image"),
    ],
)
def test_a_recipe_that_needs_classes_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        read_recipe(fields)


@pytest.mark.parametrize(
    ("text", "findings", "message"),
    [
        ("path,a,b\n000.png,1,0\n001.png,0,-1\n", "a|b", "must be 0 or 1; .* has 1 other values"),
        ("path,a,b\n000.png,1,0\n001.png,0,0\n", "a|b", "with it and without it; .* b in 0 of 2"),
        ("path,a,b\n000.png,1,0\n001.png,0,1\n", "a", "must name two different columns or more"),
        ("path,a,b\n000.png,1,0\n001.png,0,1\n", "a|c", "unknown column of findings in .* 'c'"),
        ("path,a\n000.png,Mass\n001.png,No Finding\n", "a", "must name at least two findings"),
        ("label,a,b\nx,1,0\n", "a|b", "must have the columns path.*path is missing"),
    ],
)
def test_tables_whose_findings_cannot_be_used_are_refused(text, findings, message, place, tmp_path):
    for name in ("000.png", "001.png"):
        shutil.copy(place.root / name, tmp_path)
    (tmp_path / "table.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        listing_of(str(tmp_path / "table.csv"), findings=findings)


def test_findings_are_of_tables(place):
    with pytest.raises(ValueError, match="findings are columns of a table"):
        listing_of("digits", findings="a|b")


@pytest.mark.long
def test_onnx_gives_the_probabilities_of_the_run(place, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    from alexnet_lab.evaluation.onnx_model import export_onnx

    model, _ = export_onnx(place.run, tmp_path)
    test = read_predictions(place.run / "predictions.npz")["test"]
    pixels = load_images(str(place.root / "nih.csv"), findings="Finding Labels").pixels[test.ids]
    got = runtime.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, {"pixels": pixels})[0]
    np.testing.assert_allclose(got, test.probabilities, atol=1e-5)
