"""Studies of images with several findings: compared by AUROC, for other seeds and other images."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import special
from sklearn.metrics import roc_auc_score

from alexnet_ablations.conclude.answers import area_values
from alexnet_ablations.conclude.conclusions import conclude_study
from alexnet_ablations.conclude.outcomes import headline_of, read_results
from alexnet_ablations.conclude.paper_tables import effects_table, paper_tables
from alexnet_ablations.conclude.sentences import lacking_sentence, sentence_of
from alexnet_ablations.declare.study import declare_study
from alexnet_ablations.report import write_report
from alexnet_ablations.run.forecast import Forecast, expected_power
from alexnet_lab.predictions_file import PartPredictions, write_predictions
from alexnet_lab.training.metrics import finding_metrics

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from finding_areas import World, coverage  # it is a script, and not part of a package

NAMES = ("Effusion", "Mass", "Nodule")
IMAGES = 120
START = {"data": "nih.csv", "findings": "Finding Labels", "best_by": "auroc", "norm": "lrn"}


def labels_of(shares=(0.5, 0.3, 0.15), seed=0):
    return (np.random.default_rng(seed).random((IMAGES, len(shares))) < shares).astype(int)


def predicted(labels, seed, lift):
    """Probabilities that tell images with a finding from those without by `lift` standard deviations."""
    shared = np.random.default_rng(99).normal(size=labels.shape)
    own = np.random.default_rng(seed).normal(size=labels.shape)
    return special.expit(lift * labels + shared + 0.3 * own)


def write_run(run, labels, probabilities, groups=None):
    run.folder.begin(run.recipe.to_json(), {"classes": list(NAMES)}, json.dumps({}))
    part = PartPredictions(np.arange(len(labels)), labels, probabilities, groups)
    write_predictions(run.folder.path / "predictions.npz", {"validation": part, "test": part}, NAMES)
    row = {"train_loss": 0.5, "train_accuracy": 0.7, "validation_loss": 0.5, "validation_accuracy": None}
    for epoch in (1, 2):
        run.folder.log({"epoch": epoch, **row, "validation_auroc": 0.6 + 0.1 * epoch})
    metrics = finding_metrics(probabilities, labels)
    run.folder.end("ok", result={"test": metrics, "validation": metrics, "tested_epoch": 2})


@pytest.fixture
def make_study(tmp_path):
    """Make a study of lrn and bn, of which bn tells findings apart better."""

    def make(seeds=4, labels=None, groups=None, gain=0.6):
        labels = labels_of() if labels is None else labels
        study = declare_study({"norm": "bn"}, START, tmp_path / "study", seeds=seeds).open_folder()
        for run in study.runs():
            is_bn = dict(run.cell.settings)["norm"] == "bn"
            write_run(run, labels, predicted(labels, 10 * run.seed + is_bn, 1.0 + gain * is_bn), groups)
        return study

    return make


def concluded(study):
    return conclude_study(study, read_results(study.runs()))


def test_the_headline_is_the_mean_auroc_for_images_like_these(make_study):
    study = make_study()
    labels, conclusions = labels_of(), concluded(study)
    (found,) = conclusions.headline
    areas = [
        [roc_auc_score(labels, predicted(labels, 10 * seed + is_bn, 1.0 + 0.6 * is_bn)) for is_bn in (0, 1)]
        for seed in range(4)
    ]
    np.testing.assert_allclose(list(found.values.values()), np.diff(areas)[:, 0], atol=1e-6)
    assert found.inference.images.mean == pytest.approx(found.inference.mean, abs=1e-6)
    said = sentence_of(found)
    assert "for images like these ([" in said
    assert "on these 120 test images), n=4 pairs" in said
    assert "points" not in said
    table = effects_table(conclusions)
    assert table.title == "Effects on mean AUROC over findings"
    assert table.header[1:4] == ("effect, mean AUROC over findings", "95% interval", "seeds alone")
    assert not any("accuracy" in outcome.label for outcome in conclusions.outcomes)


def test_each_finding_is_an_exploratory_outcome(make_study):
    conclusions = concluded(make_study())
    for name in NAMES:
        (found,) = conclusions.of(f"auroc of {name}")
        assert found.is_exploratory
        assert found.population == "for images like these"
    results = read_results(make_study().runs())
    assert headline_of(results).label == "mean AUROC over findings"
    means = next(table for table in paper_tables(results, conclusions) if table.name == "other-means")
    assert [row[0] for row in means.rows][:4] == [*(f"AUROC of {name}" for name in NAMES),
                                                  "validation AUROC, mean over findings"]  # fmt: skip


def test_what_an_image_adds_to_an_area_is_its_jackknife_pseudovalue():
    labels = labels_of()
    probabilities = predicted(labels, 3, 1.2)
    found = area_values(PartPredictions(np.arange(IMAGES), labels, probabilities))
    has, scores = labels[:, 1], probabilities[:, 1]
    whole = roc_auc_score(has, scores)
    without = [roc_auc_score(np.delete(has, i), np.delete(scores, i)) for i in range(IMAGES)]
    pseudo = IMAGES * whole - (IMAGES - 1) * np.array(without)
    assert found[:, 1].mean(dtype=np.float64) == pytest.approx(whole, abs=1e-6)
    assert np.corrcoef(found[:, 1], pseudo)[0, 1] > 0.999
    assert found[:, 1].std() == pytest.approx(pseudo.std(), rel=0.05)


def test_patients_take_the_place_of_images(make_study):
    one_by_one = concluded(make_study()).headline[0]
    groups = np.array([f"p{index // 6}" for index in range(IMAGES)])
    for run in make_study().runs():
        (run.folder.path / "predictions.npz").unlink()
    (found,) = concluded(make_study(groups=groups)).headline
    assert found.population == "for patients like these"
    assert found.inference.images.groups == 20
    assert found.inference.mean == pytest.approx(one_by_one.inference.mean)


def test_a_finding_of_a_single_image_leaves_the_interval_to_these_images_and_says_so(make_study):
    labels = labels_of()
    labels[:, 2] = 0
    labels[5, 2] = 1
    conclusions = concluded(make_study(labels=labels))
    assert conclusions.headline[0].population == "on these 120 test images"
    assert conclusions.of("auroc of Mass")[0].population == "for images like these"
    assert conclusions.of("auroc of Nodule")[0].population == "on these 120 test images"
    said = lacking_sentence(conclusions)
    assert said.startswith("a single test image tells of Nodule, which shows no spread of its AUROC; ")


def test_a_finding_that_no_test_image_has_is_left_out_of_the_mean(make_study):
    labels = labels_of()
    labels[:, 1] = 0
    conclusions = concluded(make_study(labels=labels))
    assert conclusions.headline[0].population == "for images like these"
    assert conclusions.headline[0].inference.images.mean == pytest.approx(conclusions.headline[0].inference.mean)
    assert not conclusions.of("auroc of Mass")


def test_the_report_is_of_aurocs(make_study):
    study = make_study()
    page = write_report(study).read_text()
    assert "Effects on mean AUROC over findings" in page
    assert "Validation AUROC" in page
    assert "Beside mean AUROC over findings" in page
    assert "Validation accuracy" not in page
    rows = (study.folder / "report" / "results.csv").read_text().splitlines()
    assert "auroc of Effusion" in rows[0]
    assert "test_accuracy" not in rows[0]


def test_what_is_said_of_accuracy_is_refused(tmp_path):
    with pytest.raises(ValueError, match="a level is a validation accuracy"):
        declare_study({"norm": "bn"}, START, tmp_path / "study", level=0.9)
    with pytest.raises(ValueError, match=r"the margin is of the mean AUROC, below 0\.5; got 1; take for example 0\.01"):
        declare_study({"norm": "bn"}, START, tmp_path / "study", margin=1.0)


def test_the_plan_assumes_nothing_of_aurocs_and_later_takes_what_was_seen(make_study, tmp_path):
    unmade = declare_study({"norm": "bn"}, START, tmp_path / "unmade", seeds=4)
    before = " ".join(expected_power(unmade, unmade.runs(), done=0, test_images=IMAGES).sentences())
    assert "is said once two seeds of each cell have ended" in before
    assert "point" not in before
    facts = Forecast(
        2, 8, 8, 1, None, None, 0, expected_power(unmade, unmade.runs(), done=0, test_images=IMAGES)
    ).facts()
    assert facts["power"]["detectable"] == facts["power"]["least"] == {}
    assert facts["power"]["spread"] is None
    study = make_study()
    after = " ".join(expected_power(replace(study, margin=0.01), study.runs(), done=8).sentences())
    assert "4 seeds and 120 test images show effects of this size four times in five: an AUROC of 0." in after
    assert "an AUROC of 0.01, the margin" in after
    assert "point" not in after


@pytest.mark.long
@pytest.mark.parametrize("world", [World(200, (0.3, 0.1)), World(200, (0.3, 0.15), patients=40)])
def test_intervals_hold_the_truth_as_often_as_they_say(world):
    mean, rarest, alone = (np.mean(held) for held in coverage(world, seeds=5, studies=200))
    assert 0.92 <= mean <= 0.99
    assert 0.92 <= rarest <= 0.99
    assert alone < 0.85  # the interval over the seeds alone is not about other images
