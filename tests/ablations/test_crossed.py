"""Seeds and images at once, against other ways to the same numbers and on studies whose truth is known."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from alexnet_ablations.conclude.answers import Answers, image_values
from alexnet_ablations.conclude.crossed import Crossed, crossed
from alexnet_ablations.conclude.intervals import t_interval, t_p_value
from alexnet_ablations.conclude.sensitivity import Spread, sensitivity_of


def differences(seeds=5, images=40, seed=0, between_images=0.5):
    generator = np.random.default_rng(seed)
    return (
        generator.normal(size=(seeds, 1))
        + between_images * generator.normal(size=images)
        + generator.normal(size=(seeds, images))
    )


def answers(labels, groups=None, **more):
    labels = np.asarray(labels)
    group = np.arange(len(labels)) if groups is None else np.unique(groups, return_inverse=True)[1]
    return Answers(labels, group, groups is not None, **more)


def test_mean_squares_are_those_of_a_two_way_analysis_of_variance():
    from statsmodels.formula.api import ols
    from statsmodels.stats.anova import anova_lm

    table = differences()
    seeds, images = np.indices(table.shape)
    rows = pd.DataFrame({"d": table.ravel(), "seed": seeds.ravel(), "image": images.ravel()})
    oracle = anova_lm(ols("d ~ C(seed) + C(image)", rows).fit())
    found = crossed(table)
    assert found.between_seeds == pytest.approx(oracle.loc["C(seed)", "mean_sq"])
    assert found.between_groups == pytest.approx(oracle.loc["C(image)", "mean_sq"])
    assert found.rest == pytest.approx(oracle.loc["Residual", "mean_sq"])


def test_the_variance_is_right_on_average_over_seeds_and_images():
    truth = 1 / 5 + 0.5**2 / 40 + 1 / (5 * 40)
    found = [crossed(differences(seed=seed)).variance for seed in range(800)]
    means = [differences(seed=seed).mean() for seed in range(800)]
    assert np.var(means) == pytest.approx(truth, rel=0.15)
    assert truth * 0.95 < np.mean(found) < truth * 1.1  # it is never below that of the seeds alone


def test_the_interval_is_never_narrower_and_the_p_never_smaller_than_over_the_seeds_alone():
    for seed in range(30):
        table = differences(seeds=3, between_images=0.1 * seed, seed=seed)
        both, alone = crossed(table), table.mean(1)
        over_seeds = t_interval(alone)
        assert both.interval().low <= over_seeds.low + 1e-12
        assert both.interval().high >= over_seeds.high - 1e-12
        assert both.p_value() >= t_p_value(alone) - 1e-12


def test_p_and_interval_and_equivalence_say_the_same():
    for seed in range(20):
        found = crossed(differences(seed=seed) + 0.7)
        interval, narrow = found.interval(), found.interval(0.9)
        assert (found.p_value() <= 0.05) == (not interval.low <= 0 <= interval.high)
        margin = abs(found.mean) + 0.3
        assert (found.equivalence_p_value(margin) <= 0.05) == (-margin <= narrow.low and narrow.high <= margin)


@pytest.mark.parametrize(("seeds", "images"), [(3, 66), (6, 66), (10, 360)])
def test_the_interval_holds_the_effect_on_images_that_nobody_has_seen(seeds, images):
    # Probit answers: the share of all images that each cell gets right is 0.9 by construction.
    generator = np.random.default_rng([7, seeds, images])
    level = stats.norm.ppf(0.9) * math.sqrt(1 + 1 + 2)
    held, alone = [], []
    for _ in range(400):
        easy = generator.normal(size=images)
        cells = [
            level + easy + math.sqrt(2) * generator.normal(size=images) + generator.normal(size=(seeds, images)) > 0
            for _ in range(2)
        ]
        table = 100.0 * (cells[1].astype(float) - cells[0])
        interval = crossed(table).interval()
        held.append(interval.low <= 0 <= interval.high)
        over_seeds = t_interval(table.mean(1))
        alone.append(over_seeds is not None and over_seeds.low <= 0 <= over_seeds.high)
    assert np.mean(held) > 0.925  # 95% less two Monte Carlo errors
    assert np.mean(alone) < 0.9  # what is said of these images alone does not hold for others


def test_without_any_difference_there_is_no_table_to_speak_of():
    assert crossed(np.zeros((3, 10))) is None
    assert crossed(np.ones((3, 10))) is None
    assert crossed(differences(seeds=1)) is None


def test_equal_differences_of_all_seeds_have_the_spread_of_the_images():
    table = np.tile(np.repeat([1.0, 0.0, -1.0], [4, 90, 1]), (3, 1))
    found = crossed(table)
    assert found.between_seeds == pytest.approx(0)
    assert found.rest == pytest.approx(0, abs=1e-20)
    assert found.variance == pytest.approx(np.var(table[0], ddof=1) / 95)
    # Five of 95 images differ: their variance is known much less well than by 94 degrees of freedom.
    assert 5 < found.degrees < 20


def test_images_of_one_patient_count_as_one():
    # Ten patients with four images each, all of which fare alike: forty images say no more than ten.
    generator = np.random.default_rng(3)
    by_patient = generator.normal(size=(6, 10)) + 2 * generator.normal(size=10)
    repeated = np.repeat(by_patient, 4, axis=1)
    patients = np.repeat([f"p{at}" for at in range(10)], 4)
    mine = image_values(repeated, answers(np.zeros(40, int), patients))
    assert np.allclose(mine, by_patient)
    assert mine.mean(1) == pytest.approx(repeated.mean(1))
    assert crossed(mine).half_width() > 1.3 * crossed(image_values(repeated, answers(np.zeros(40, int)))).half_width()


def test_patients_of_unequal_size_have_the_spread_of_a_ratio():
    # The mean over images is a ratio of sums over patients; its spread by resampling patients is the oracle.
    generator = np.random.default_rng(4)
    sizes = generator.integers(1, 9, 200)
    patients = np.repeat(np.arange(200), sizes)
    difference = (generator.normal(size=200)[patients] + generator.normal(size=len(patients)))[None]
    sums = np.bincount(patients, difference[0])
    drawn = generator.integers(0, 200, (4000, 200))
    oracle = (sums[drawn].sum(1) / sizes[drawn].sum(1)).std()
    values = image_values(difference, answers(np.zeros(len(patients), int), patients))
    assert values.mean() == pytest.approx(difference.mean())
    assert values.std() / math.sqrt(200) == pytest.approx(oracle, rel=0.05)


def test_a_mean_over_classes_weighs_each_class_alike():
    generator = np.random.default_rng(5)
    labels = np.repeat([0, 1, 2], [50, 20, 5])
    right = generator.random((4, 75)) < 0.7
    difference = right.astype(float) - (generator.random((4, 75)) < 0.5)
    values = image_values(difference, answers(labels), by_class=True)
    by_class = np.stack([difference[:, labels == k].mean(1) for k in range(3)])
    assert np.allclose(values.mean(1), by_class.mean(0))
    # Within classes alone: a class that all images of fare alike adds no spread.
    flat = np.where(labels == 1, 1.0, 0.0)[None].repeat(4, axis=0)
    assert image_values(flat, answers(labels), by_class=True).std() == pytest.approx(0, abs=1e-12)


def test_differences_need_every_run():
    right = {("a", 0): np.packbits([1, 0, 1]), ("b", 0): np.packbits([1, 1, 0]), ("a", 1): np.packbits([1, 1, 1])}
    mine = answers([0, 0, 1], right=right)
    assert mine.differences({"a": -1.0, "b": 1.0}, [0]).tolist() == [[0, 1, -1]]
    assert mine.differences({"a": -1.0, "b": 1.0}, [0, 1]) is None


def test_what_a_study_shows_is_found_four_times_in_five():
    generator = np.random.default_rng(6)
    spread = Spread(seeds=1.0, images=12.0, rest=15.0)
    effect = spread.detectable(6, 120, 0.05)
    found = 0
    for _ in range(500):
        table = effect + generator.normal(size=(6, 1)) + 12 * generator.normal(size=120)
        found += crossed(table + 15 * generator.normal(size=(6, 120))).p_value() <= 0.05
    assert found / 500 == pytest.approx(0.8, abs=0.05)
    assert spread.shows(effect * 1.001, 6, 120, 0.05)
    assert not spread.shows(effect * 0.999, 6, 120, 0.05)


def test_more_seeds_do_not_make_up_for_few_images():
    few = Spread(seeds=0.5, images=25.0, rest=10.0).table(6, 66)
    known = sensitivity_of(6, 5.0, few, 0.05, margin=2.0)
    assert known.seeds_for_margin is None
    assert 2.0 < known.least < known.effect
    assert known.groups_for_margin > 66
    many = sensitivity_of(6, 5.0, Crossed(6, 10**6, 0.0, 4.0e6, 100.0, 90.0, 1e6), 0.05, margin=2.0)
    assert 6 < many.seeds_for_margin < 30
