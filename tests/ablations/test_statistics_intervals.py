"""Intervals and p-values of a few paired differences, against scipy, statsmodels and enumeration."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.proportion import proportion_confint
from statsmodels.stats.weightstats import ttost_paired

from alexnet_ablations.conclude import intervals
from alexnet_ablations.conclude.intervals import (
    attainable_p,
    equivalence_p_value,
    share_interval,
    sign_flip_interval,
    sign_flip_p_value,
    t_interval,
    t_p_value,
)
from alexnet_ablations.conclude.multiplicity import holm

DIFFERENCES = st.lists(st.floats(-10, 10).map(lambda d: round(d, 3)), min_size=2, max_size=8).filter(
    lambda d: np.ptp(d) > 1e-3
)


@given(DIFFERENCES)
def test_t_intervals_and_p_values_are_scipys(differences):
    oracle = stats.ttest_1samp(differences, 0)
    ends = oracle.confidence_interval(0.95)
    found = t_interval(differences)
    assert (found.low, found.high) == pytest.approx((ends.low, ends.high))
    assert t_p_value(differences) == pytest.approx(oracle.pvalue)


@given(DIFFERENCES, st.floats(0.05, 5))
def test_equivalence_is_statsmodels_two_one_sided_tests(differences, margin):
    oracle, _, _ = ttost_paired(np.array(differences), np.zeros(len(differences)), -margin, margin)
    assert equivalence_p_value(differences, margin) == pytest.approx(float(oracle), abs=1e-12)


@pytest.mark.parametrize("margin", [0, -1])
def test_a_margin_of_nothing_is_refused(margin):
    with pytest.raises(ValueError, match=rf"a margin of equivalence is above 0; got {margin}; take"):
        equivalence_p_value([1.0, 2.0], margin)


@given(st.lists(st.integers(-6, 6), min_size=2, max_size=7))
def test_the_sign_flip_test_is_scipys_exact_permutation_test(differences):
    # Whole numbers, so that ties between patterns are common and a sloppy comparison shows.
    oracle = stats.permutation_test(
        (np.array(differences, dtype=float),), np.sum, permutation_type="samples", n_resamples=np.inf
    )
    assert sign_flip_p_value(differences) == pytest.approx(float(oracle.pvalue))


@pytest.mark.parametrize("pairs", range(1, 12))
def test_a_sign_flip_test_on_n_pairs_cannot_go_below_two_in_two_to_the_n(pairs):
    assert sign_flip_p_value([1.0 + at for at in range(pairs)]) == 2 / 2**pairs == attainable_p(pairs)


def test_rounding_does_not_break_ties_between_patterns():
    # 0.1 + 0.2 - 0.3 is not 0 in binary: the pattern that mirrors the observed one must still count as large.
    assert sign_flip_p_value([0.1, 0.2, -0.3]) == 1.0
    assert sign_flip_p_value([0.1] * 3 + [-0.1] * 3) == 1.0


def test_beyond_twenty_pairs_patterns_are_drawn_and_agree_with_the_normal_limit():
    d = np.random.default_rng(0).normal(0.35, 1, 60)
    limit = 2 * stats.norm.sf(abs(d.sum()) / math.sqrt((d**2).sum()))
    found = sign_flip_p_value(d)
    assert found == pytest.approx(limit, abs=0.003)
    assert found == sign_flip_p_value(d)  # the same draws every time
    assert sign_flip_p_value(np.full(30, 1.0)) == pytest.approx(1 / 100_000)  # never 0: the observed one counts


@given(st.lists(st.integers(-40, 40), min_size=6, max_size=8, unique=True))
def test_the_sign_flip_interval_holds_the_means_that_the_test_does_not_reject(differences):
    d = np.array(differences, dtype=float)
    found = sign_flip_interval(d)
    for end, outward in ((found.low, -1), (found.high, 1)):
        assert sign_flip_p_value(d - end - 1e-6 * outward * -1) > 0.05
        assert sign_flip_p_value(d - end - 1e-6 * outward) <= 0.05


def test_fewer_than_six_pairs_have_no_sign_flip_interval_and_six_have_their_range():
    assert sign_flip_interval([1, 2, 3, 4, 5]) is None
    found = sign_flip_interval([3, 1, 4, 1.5, 9, 2.6])
    assert (found.low, found.high) == (1, 9)
    assert sign_flip_interval(np.arange(30.0)).low == pytest.approx(t_interval(np.arange(30.0)).low, abs=0.5)


@pytest.mark.parametrize("differences", [[0.3], [0.3, 0.3], [0.1 + 0.2, 0.3, 0.3], [0.0, 0.0]])
def test_without_spread_there_is_no_interval_and_no_t(differences):
    assert t_interval(differences) is None
    assert t_p_value(differences) is None
    assert equivalence_p_value(differences, 0.5) is None


def test_nothing_gives_nothing():
    assert t_interval([]) is None
    assert sign_flip_p_value([]) is None
    assert sign_flip_interval([]) is None


@given(st.integers(0, 30), st.integers(1, 30))
def test_the_interval_of_a_share_is_statsmodels_clopper_pearson(well, of):
    low, high = proportion_confint(min(well, of), of, method="beta")
    found = share_interval(min(well, of), of)
    assert (found.low, found.high) == pytest.approx((np.nan_to_num(low), np.nan_to_num(high, nan=1.0)), abs=1e-9)


def test_a_share_of_nothing_may_be_anything():
    assert share_interval(0, 0) == intervals.Interval(0, 1)


def test_identical_cells_are_told_apart_in_one_study_of_twenty_and_of_families_no_more():
    generator = np.random.default_rng(11)
    studies = 2000
    single = family = 0
    for _ in range(studies):
        cells = generator.normal(size=(6, 5)) + generator.normal(size=5)  # five seeds, shared by the cells
        p_values = [t_p_value(cell - cells[0]) for cell in cells[1:]]
        single += p_values[0] <= 0.05
        family += min(holm(p_values)) <= 0.05
    error = math.sqrt(0.05 * 0.95 / studies)
    assert abs(single / studies - 0.05) < 4 * error
    assert 0.02 < family / studies < 0.05 + 4 * error


def test_intervals_hold_the_truth_as_often_as_they_say():
    generator = np.random.default_rng(12)
    studies = 400
    held = dict.fromkeys((t_interval, sign_flip_interval), 0)
    for _ in range(studies):
        d = generator.standard_t(3, size=7) + 2
        for method in held:
            found = method(d)
            held[method] += found.low <= 2 <= found.high
    for method, count in held.items():
        assert 0.91 < count / studies < 0.99, method
