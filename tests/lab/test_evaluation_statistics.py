"""The statistics of an evaluation against scikit-learn, statsmodels, and their definitions written out."""

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, confusion_matrix, log_loss, roc_auc_score
from statsmodels.stats.proportion import proportion_confint

from alexnet_lab.evaluation.assessment import Predicted, assess, drop, fit_rules
from alexnet_lab.evaluation.auroc import auroc, macro_auroc
from alexnet_lab.evaluation.calibration import brier_of_each, calibration_curve, fit_temperature, tempered
from alexnet_lab.evaluation.decision_curve import THRESHOLDS, benefit_of_all, net_benefit
from alexnet_lab.evaluation.estimates import wilson
from alexnet_lab.evaluation.resampling import Units, percentile_interval, replicates, units_of
from alexnet_lab.evaluation.statistics import Statistics
from alexnet_lab.evaluation.thresholds import choose_threshold
from alexnet_lab.training.metrics import loss_of_each


def scored(seed, images=120, steps=25, classes=3):
    """Labels, and probabilities with many ties that know something of them."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, images)
    raw = rng.integers(1, steps, (images, classes)) + 12.0 * np.eye(classes)[labels]
    return labels, raw / raw.sum(1, keepdims=True)


def delong_by_pairs(scores, positive):
    """DeLong's area and variance from every pair of images, as their equations have it."""
    above, below = scores[positive], scores[~positive]
    wins = (above[:, None] > below).astype(float) + 0.5 * (above[:, None] == below)
    area = wins.mean()
    of_above, of_below = wins.mean(1), wins.mean(0)
    variance = ((of_above - area) ** 2).sum() / (len(above) - 1) / len(above)
    return area, variance + ((of_below - area) ** 2).sum() / (len(below) - 1) / len(below)


@pytest.mark.parametrize("seed", range(5))
def test_delong_agrees_with_all_pairs_and_with_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 12, 80) / 12  # many ties
    positive = rng.random(80) < scores
    found = auroc(scores, positive)
    area, variance = delong_by_pairs(scores, positive)
    assert found.value == pytest.approx(roc_auc_score(positive, scores), abs=1e-12)
    assert (found.low, found.high) == pytest.approx(
        (max(0, area - 1.959963984540054 * variance**0.5), min(1, area + 1.959963984540054 * variance**0.5)), abs=1e-12
    )


def test_an_area_without_errors_or_with_one_image_has_no_interval_and_says_why():
    perfect = auroc(np.array([0.1, 0.2, 0.8, 0.9]), np.array([False, False, True, True]))
    assert (perfect.value, perfect.low) == (1.0, None)
    assert "nothing shows a spread" in perfect.method
    single = auroc(np.array([0.1, 0.9, 0.8]), np.array([False, False, True]))
    assert (single.value, single.low) == (0.5, None)
    assert auroc(np.array([0.1, 0.9]), np.array([True, True])).value is None


def test_the_macro_area_of_two_classes_is_the_area_of_either_with_its_interval():
    labels, probabilities = scored(3, classes=2)
    macro, single = macro_auroc(probabilities, labels), auroc(probabilities[:, 1], labels == 1)
    assert (macro.value, macro.low, macro.high) == pytest.approx((single.value, single.low, single.high), abs=1e-12)


def test_the_macro_interval_has_the_width_that_fresh_sets_of_images_show():
    found, widths = [], []
    for seed in range(200):
        labels, probabilities = scored(seed, images=60)
        macro = macro_auroc(probabilities, labels)
        found.append(macro.value)
        widths.append((macro.high - macro.low) / 2 / 1.96)
    assert np.mean(widths) == pytest.approx(np.std(found), rel=0.2)
    areas = [roc_auc_score(labels == k, probabilities[:, k]) for k in range(3)]
    assert macro.value == pytest.approx(np.mean(areas), abs=1e-12)


def test_wilson_agrees_with_statsmodels():
    for right, count in ((0, 7), (3, 9), (9, 9), (88, 301)):
        assert wilson(right, count) == pytest.approx(proportion_confint(right, count, method="wilson"), abs=1e-12)


def test_a_threshold_is_the_best_of_all_by_its_rule():
    labels, probabilities = scored(1)
    scores, positive = probabilities[:, 0], labels == 0
    every = [
        (cut, (scores[positive] >= cut).mean(), (scores[~positive] < cut).mean())
        for cut in np.concatenate([[0], np.unique(scores) + 1e-9])
    ]
    best = choose_threshold(scores, positive, "youden")
    assert best.sensitivity + best.specificity == pytest.approx(max(hit + right for _, hit, right in every))
    for value in (best, choose_threshold(scores, positive, "sensitivity=0.95")):
        assert value.sensitivity == pytest.approx((scores[positive] >= value.value).mean())
        assert value.specificity == pytest.approx((scores[~positive] < value.value).mean())
    sensitive = choose_threshold(scores, positive, "sensitivity=0.95")
    assert sensitive.specificity == pytest.approx(max(right for _, hit, right in every if hit >= 0.95))
    specific = choose_threshold(scores, positive, "specificity=0.9")
    assert specific.sensitivity == pytest.approx(max(hit for _, hit, right in every if right >= 0.9))
    assert choose_threshold(scores, np.ones_like(positive), "youden") is None


@pytest.mark.parametrize("rule", ["sensitivity", "sensitivity=2", "specificity=", "youden=1", "yuden"])
def test_an_unknown_rule_is_refused(rule):
    with pytest.raises(ValueError, match=r"youden|sensitivity|specificity"):
        choose_threshold(np.array([0.1, 0.9]), np.array([False, True]), rule)


def test_brier_and_loss_are_those_of_scikit_learn():
    labels, probabilities = scored(2, classes=2)
    assert brier_of_each(probabilities, labels).mean() == pytest.approx(
        2 * brier_score_loss(labels, probabilities[:, 1]), abs=1e-12
    )
    assert loss_of_each(probabilities, labels).mean() == pytest.approx(log_loss(labels, probabilities), abs=1e-12)


def test_the_temperature_of_scores_that_were_sharpened_is_found_again():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (20_000, 3))
    honest = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = (honest.cumsum(1) < rng.random((20_000, 1))).sum(1)
    sharp = tempered(honest, 1 / 2.5)
    assert fit_temperature(sharp, labels) == pytest.approx(2.5, rel=0.03)
    np.testing.assert_allclose(
        tempered(sharp, 2.5), honest, atol=1e-4
    )  # where a probability is below 1e-12, its logarithm is cut
    nearby = [loss_of_each(tempered(sharp, value), labels).mean() for value in np.linspace(1.5, 4, 26)]
    assert loss_of_each(tempered(sharp, fit_temperature(sharp, labels)), labels).mean() <= min(nearby)


def test_net_benefit_is_that_of_counting_by_hand():
    # 10 images, 4 sick. At 0.2: 4 true, 3 false positives: 0.4 - 0.3 x 0.25; at 0.5: 2 and 1: 0.2 - 0.1.
    scores = np.array([0.9, 0.6, 0.3, 0.25, 0.55, 0.3, 0.2, 0.1, 0.1, 0.05])
    positive = np.array([True] * 4 + [False] * 6)
    assert net_benefit(scores, positive, np.array([0.2, 0.5])) == pytest.approx([0.325, 0.1])
    assert benefit_of_all(0.4, np.array([0.2, 0.4, 0.5])) == pytest.approx([0.25, 0.0, -0.2])


def test_a_calibration_curve_has_every_image_once_and_keeps_equal_probabilities_together():
    rng = np.random.default_rng(4)
    scores = rng.integers(0, 15, 400) / 15
    positive = rng.random(400) < scores
    bins = calibration_curve(scores, positive)
    assert sum(one.images for one in bins) == 400
    assert sum(one.images * one.observed for one in bins) == pytest.approx(positive.sum())
    assert sum(one.images * one.predicted for one in bins) == pytest.approx(scores.sum())
    assert all(one.low <= one.predicted <= one.high for one in bins[2:8]), "these probabilities are right"


def test_the_figures_of_weighted_images_are_those_of_a_set_that_repeats_them():
    labels, probabilities = scored(5, images=60)
    cuts = [0.3, 0.4, 0.5]
    weights = np.random.default_rng(0).integers(0, 4, 60)
    repeated = np.repeat(np.arange(60), weights)
    found = Statistics(labels, probabilities, tempered(probabilities, 2.0), cuts).figures(weights[None].astype(float))
    truth, given = labels[repeated], probabilities[repeated]
    assert found.overall["accuracy"][0] == pytest.approx((given.argmax(1) == truth).mean())
    assert found.overall["loss"][0] == pytest.approx(log_loss(truth, given, labels=range(3)))
    assert found.overall["loss, tempered"][0] == pytest.approx(log_loss(truth, tempered(given, 2.0), labels=range(3)))
    areas = []
    for k, cut in enumerate(cuts):
        (right, alarms), (missed, hits) = confusion_matrix(truth == k, given[:, k] >= cut)
        areas.append(roc_auc_score(truth == k, given[:, k]))
        assert found.of_class[k]["auroc"][0] == pytest.approx(areas[-1])
        assert found.of_class[k]["sensitivity"][0] == pytest.approx(hits / (hits + missed))
        assert found.of_class[k]["specificity"][0] == pytest.approx(right / (right + alarms))
        assert found.of_class[k]["positive predictive value"][0] == pytest.approx(hits / (hits + alarms))
        assert found.of_class[k]["negative predictive value"][0] == pytest.approx(right / (right + missed))
        assert found.net_benefit[k][0] == pytest.approx(net_benefit(given[:, k], truth == k, THRESHOLDS))
    assert found.overall["auroc"][0] == pytest.approx(np.mean(areas))


def test_rows_for_the_bootstrap_read_back_as_the_figures_they_are():
    labels, probabilities = scored(6, images=40)
    statistics = Statistics(labels, probabilities, probabilities, [0.3, None, 0.5])
    weights = np.random.default_rng(1).integers(0, 3, (5, 40)).astype(float)
    figures, again = statistics.figures(weights), statistics.from_rows(statistics.rows(weights))
    for name, values in figures.overall.items():
        np.testing.assert_array_equal(again.overall[name], values)
    for one, other in zip(figures.of_class, again.of_class, strict=True):
        assert all(np.array_equal(one[name], other[name], equal_nan=True) for name in one)
    np.testing.assert_array_equal(figures.net_benefit[2], again.net_benefit[2])


def test_the_bootstrap_of_a_mean_has_the_spread_that_theory_gives():
    values = np.random.default_rng(0).normal(0, 1, 200)
    means = replicates(lambda weights: (weights @ values / weights.sum(1))[:, None], units_of(None, 200), 4000)[:, 0]
    assert means.std() == pytest.approx(values.std() / 200**0.5, rel=0.05)
    low, high = percentile_interval(means, 200)
    assert (low, high) == pytest.approx(
        (values.mean() - 1.976 * values.std(ddof=1) / 200**0.5, values.mean() + 1.976 * values.std(ddof=1) / 200**0.5),
        abs=0.01,
    )


def test_all_images_of_a_patient_are_drawn_together():
    units = units_of(np.array(["b", "a", "b", "c", "a", "a"]), 6)
    assert (units.word, units.count) == ("patients", 3)

    def seen(weights):
        assert (weights[:, 1] == weights[:, 4]).all()
        assert (weights[:, 1] == weights[:, 5]).all()
        assert (weights[:, 0] == weights[:, 2]).all()
        assert (weights[:, [0, 1, 3]].sum(1) == 3).all()
        return weights[:, :1]

    assert replicates(seen, units, 500).mean() == pytest.approx(1, abs=0.15)


def test_an_interval_of_one_unit_or_of_undefined_replicates_is_none():
    values = np.arange(100.0)
    assert percentile_interval(values, 1) is None
    assert percentile_interval(np.where(values < 10, np.nan, values), 50) is None
    assert percentile_interval(np.ones(100), 50) is None
    assert percentile_interval(values, 50) is not None


def patients_and_answers(rng, patients, each):
    """Whether images are right, where the images of a patient share most of what makes them so."""
    hardness = np.repeat(rng.normal(0.9, 1.6, patients), each)
    return (hardness + rng.normal(0, 0.7, patients * each) > 0).astype(float)


@pytest.mark.long
def test_intervals_over_patients_cover_and_those_over_images_are_too_narrow():
    truth = patients_and_answers(np.random.default_rng(99), 400_000, 1).mean()
    rng, patients, each, times = np.random.default_rng(0), 60, 10, 1500
    of_patients = Units("patients", np.repeat(np.arange(patients), each))
    of_images = Units("images", np.arange(patients * each))
    covered = {"patients": 0, "images": 0}
    for trial in range(times):
        right = patients_and_answers(rng, patients, each)

        def accuracy(weights, right=right):
            return (weights @ right / weights.sum(1))[:, None]

        for units in (of_patients, of_images):
            ends = percentile_interval(replicates(accuracy, units, 400, seed=trial)[:, 0], units.count)
            covered[units.word] += ends[0] <= truth <= ends[1]
    assert 0.93 <= covered["patients"] / times <= 0.97
    assert covered["images"] / times < 0.9


CLASSES = ("a", "b", "c")


def predicted(seed, images=120, groups=None):
    labels, probabilities = scored(seed, images)
    return Predicted(tuple(f"{number}.png" for number in range(images)), labels, probabilities, groups)


def test_an_assessment_counts_every_image_in_one_cell_and_lists_the_mistakes_most_confident_first():
    test = predicted(7)
    found = assess("test", test, CLASSES, fit_rules(predicted(8)), 300)
    assert found.confusion == confusion_matrix(test.labels, test.answers).tolist()
    assert sorted(name for names in found.cells.values() for name in names) == sorted(test.names)
    for row, true in enumerate(CLASSES):
        for column, answer in enumerate(CLASSES):
            assert len(found.cells.get(f"{true} as {answer}", [])) == found.confusion[row][column]
    confidence = [mistake.confidence for mistake in found.mistakes]
    assert confidence == sorted(confidence, reverse=True)
    assert len(confidence) == (test.answers != test.labels).sum()
    assert all(test.names[mistake.image] == mistake.name for mistake in found.mistakes)


def test_thresholds_and_temperature_come_from_validation_alone():
    validation = predicted(8)
    rules = fit_rules(validation)
    one, other = (assess("test", predicted(seed), CLASSES, rules, 200) for seed in (9, 10))
    expected = [
        choose_threshold(validation.probabilities[:, k], validation.labels == k, "youden").value for k in range(3)
    ]
    assert [found.threshold for found in one.classes] == expected
    assert [found.threshold for found in other.classes] == expected


def test_many_images_of_few_patients_have_wider_intervals_and_say_whom_they_are_about():
    alone = predicted(11)
    # The ten images of a patient are one image ten times: nothing new is known of the population.
    many = Predicted(
        tuple(f"{name} {copy}" for name in alone.names for copy in range(10)),
        np.repeat(alone.labels, 10),
        np.repeat(alone.probabilities, 10, 0),
        np.repeat([f"patient {number}" for number in range(120)], 10),
    )
    rules = fit_rules(predicted(8))
    over_images, over_patients = assess("test", alone, CLASSES, rules, 1000), assess("test", many, CLASSES, rules, 1000)
    assert over_patients.units == 120
    assert "120 of the test set" in over_patients.population
    assert "patients" in over_patients.population
    for name, estimate in over_images.figures.items():
        again = over_patients.figures[name]
        assert again.value == pytest.approx(estimate.value)
        assert again.high - again.low == pytest.approx(estimate.high - estimate.low, rel=0.2)


def test_a_share_without_a_miss_gets_an_interval_by_wilson_over_patients():
    labels = np.repeat([0, 1], 20)
    probabilities = np.eye(2)[labels] * 0.8 + 0.1
    groups = np.repeat([f"p{number}" for number in range(10)], 4)
    found = assess("test", Predicted(tuple(map(str, range(40))), labels, probabilities, groups), ("a", "b"),
                   fit_rules(Predicted(("x", "y"), np.array([0, 1]), probabilities[[0, 20]])), 200)  # fmt: skip
    sensitivity = found.classes[0].figures["sensitivity"]
    assert sensitivity.value == 1
    assert (sensitivity.low, sensitivity.high) == pytest.approx(proportion_confint(5, 5, method="wilson"))
    assert "Wilson, 5 patients" in sensitivity.method
    assert found.figures["auroc"].low is None


def test_one_patient_has_no_interval_and_one_class_is_refused():
    rules = fit_rules(predicted(8))
    alone = assess("external", predicted(9, 30, np.repeat("p", 30)), CLASSES, rules, 200)
    assert alone.figures["accuracy"].low is None
    assert any("all 30 images of the external set are of one patient" in note for note in alone.notes)
    single = Predicted(("x", "y"), np.array([1, 1]), np.full((2, 3), 1 / 3))
    with pytest.raises(ValueError, match="must have images of at least two classes.*it has 2 images of 'b'"):
        assess("test", single, CLASSES, rules, 200)


def test_the_drop_is_the_difference_and_its_variance_the_sum_of_both():
    rules = fit_rules(predicted(8))
    test, external = (
        assess("test", predicted(9), CLASSES, rules, 2000),
        assess("external", predicted(10), CLASSES, rules, 2000),
    )
    fall = drop(external, test, "accuracy")
    first, second = external.figures["accuracy"], test.figures["accuracy"]
    assert fall.value == pytest.approx(first.value - second.value)
    expected = ((first.high - first.low) ** 2 + (second.high - second.low) ** 2) ** 0.5
    assert fall.high - fall.low == pytest.approx(expected, rel=0.1)
