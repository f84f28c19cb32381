"""Power, widths and Holm's rule against statsmodels, and the numbers of seeds that follow."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from alexnet_ablations.conclude.intervals import t_interval
from alexnet_ablations.conclude.multiplicity import holm
from alexnet_ablations.conclude.seeds import (
    detectable_effect,
    half_width,
    power,
    seeds_for_half_width,
    seeds_for_power,
)


@pytest.mark.parametrize("level", [0.05, 0.01])
@pytest.mark.parametrize(("pairs", "ratio"), [(2, 0.0), (2, 2.0), (3, 1.0), (5, 1.5), (10, 0.3), (10, 1.2), (40, 0.5)])
def test_power_is_statsmodels(pairs, ratio, level):
    assert power(pairs, 0.7 * ratio, 0.7, level) == pytest.approx(TTestPower().power(ratio, pairs, level), abs=1e-6)


@given(st.integers(2, 30), st.floats(0, 20))
def test_power_is_the_chance_integrated_over_all_spreads_a_sample_can_show(pairs, ratio):
    # Also where scipy's noncentral t has no number for the far tail.
    limit, shift = stats.t.ppf(0.975, pairs - 1), ratio * math.sqrt(pairs)
    chi = np.linspace(0, stats.chi.isf(1e-9, pairs - 1), 20_001) / math.sqrt(pairs - 1)
    density = stats.chi.pdf(chi * math.sqrt(pairs - 1), pairs - 1) * math.sqrt(pairs - 1)
    chance = stats.norm.sf(limit * chi - shift) + stats.norm.cdf(-limit * chi - shift)
    assert power(pairs, ratio, 1.0) == pytest.approx(np.trapezoid(chance * density, chi), abs=1e-3)


@pytest.mark.parametrize(("effect", "spread"), [(1.0, 1.0), (0.5, 1.0), (3.1, 0.8), (0.5, 0.7)])
def test_the_seeds_for_power_are_the_fewest_that_reach_it(effect, spread):
    pairs = seeds_for_power(effect, spread)
    assert power(pairs, effect, spread) >= 0.8 > power(pairs - 1, effect, spread)
    assert pairs == math.ceil(TTestPower().solve_power(effect / spread, power=0.8, alpha=0.05))


@pytest.mark.parametrize(("spread", "target"), [(1.0, 0.5), (0.3, 0.5), (2.0, 0.25)])
def test_the_seeds_for_a_width_are_the_fewest_that_reach_it(spread, target):
    pairs = seeds_for_half_width(spread, target)
    assert half_width(pairs, spread) <= target < half_width(pairs - 1, spread)


def test_the_half_width_is_that_of_the_interval():
    d = np.array([1.0, 2.0, 4.0, 4.5])
    found = t_interval(d)
    assert half_width(4, d.std(ddof=1)) == pytest.approx((found.high - found.low) / 2)
    assert half_width(1, 1.0) == math.inf


def test_what_so_many_seeds_detect_they_find_four_times_in_five():
    for pairs in (2, 3, 6, 20):
        assert power(pairs, detectable_effect(pairs, 0.7), 0.7) == pytest.approx(0.8, abs=1e-4)
    assert detectable_effect(1, 0.7) == math.inf
    assert detectable_effect(5, 0.0) == 0


def test_what_no_number_of_seeds_can_show_is_said_to_be_out_of_reach():
    assert seeds_for_power(0.0, 1.0) is None
    assert seeds_for_half_width(1000.0, 0.5) is None
    assert power(1, 5.0, 1.0) == 0


@pytest.mark.parametrize("size", [1, 2, 5, 12])
def test_holms_rule_is_statsmodels(size):
    p_values = np.random.default_rng(size).uniform(0, 0.3, size).round(2).tolist()  # rounded, so that some are equal
    assert holm(p_values) == pytest.approx(list(multipletests(p_values, method="holm")[1]))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_an_adjusted_p_is_at_least_its_own_and_keeps_the_order(p_values):
    adjusted = holm(p_values)
    assert all(p <= q <= 1 for p, q in zip(p_values, adjusted, strict=True))
    assert adjusted[int(np.argmin(p_values))] == pytest.approx(min(1, len(p_values) * min(p_values)))
    assert sorted(adjusted) == [adjusted[at] for at in np.argsort(p_values, kind="stable")]


def test_what_could_not_be_tested_counts_in_the_family_as_p_of_one():
    oracle = list(multipletests([0.01, 1.0, 0.04, 1.0], method="holm")[1])
    assert holm([0.01, None, 0.04, None]) == [pytest.approx(oracle[0]), None, pytest.approx(oracle[2]), None]
    assert holm([]) == []
