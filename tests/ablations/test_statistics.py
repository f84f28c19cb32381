"""Effects against scipy, against arithmetic by hand, and with runs missing."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from alexnet_ablations.design import Factor
from alexnet_ablations.statistics import factorial_effects, paired_effect

NORM = Factor("norm", ("lrn", "bn", "none"))
ACT = Factor("act", ("relu", "leaky"))


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=12).filter(lambda d: np.std(d) > 1e-6))
def test_a_paired_effect_is_scipys_one_sample_t_interval(differences):
    effect = paired_effect(differences)
    oracle = stats.ttest_1samp(differences, 0).confidence_interval(0.95)
    assert effect.mean == pytest.approx(np.mean(differences))
    assert (effect.low, effect.high) == pytest.approx((oracle.low, oracle.high))
    assert effect.pairs == len(differences)


def test_one_pair_has_a_mean_and_no_interval_and_none_has_nothing():
    assert paired_effect([]) is None
    assert paired_effect([0.5]).mean == 0.5
    assert math.isnan(paired_effect([0.5]).low)


def rows_of(outcome, seeds=3):
    levels = itertools.product(range(seeds), NORM.levels, ACT.levels)
    return [{"seed": s, "norm": n, "act": a, "accuracy": outcome(s, n, a)} for s, n, a in levels]


def planted(seed, norm, act):
    luck = 0.05 * seed  # shared by all cells of a seed, so that pairing takes it out
    gain = {"lrn": 0, "bn": 0.03, "none": -0.02}[norm] + (0.01 if act == "leaky" else 0)
    return 0.8 + luck + gain + (0.004 if (norm, act) == ("bn", "leaky") else 0)


def test_planted_effects_and_interactions_are_found_and_the_luck_of_seeds_is_not():
    found = {named.name: named.effect for named in factorial_effects(rows_of(planted), [NORM, ACT], "accuracy")}
    assert found["norm: lrn → bn"].mean == pytest.approx(0.032)  # 0.03 with relu, 0.034 with leaky
    assert found["norm: lrn → none"].mean == pytest.approx(-0.02)
    assert found["act: relu → leaky"].mean == pytest.approx(0.01 + 0.004 / 3)
    assert found["norm bn × act leaky"].mean == pytest.approx(0.004)
    assert found["norm none × act leaky"].mean == pytest.approx(0, abs=1e-12)
    assert all(effect.high - effect.low < 1e-9 and effect.pairs == 3 for effect in found.values())


def test_an_effect_equals_ttest_rel_over_the_seeds():
    generator = np.random.default_rng(1)
    rows = rows_of(lambda *_: generator.normal(), seeds=6)
    effect = {e.name: e.effect for e in factorial_effects(rows, [NORM, ACT], "accuracy")}["norm: lrn → bn"]

    def means(level):
        return [np.mean([r["accuracy"] for r in rows if r["seed"] == s and r["norm"] == level]) for s in range(6)]

    oracle = stats.ttest_rel(means("bn"), means("lrn")).confidence_interval()
    assert (effect.low, effect.high) == pytest.approx((oracle.low, oracle.high))


def test_a_seed_with_a_missing_run_is_left_out_of_the_effects_that_need_it_and_of_no_other():
    def diverging(seed, norm, act):
        return None if (seed, norm) == (1, "none") else planted(seed, norm, act)

    found = {e.name: e.effect for e in factorial_effects(rows_of(diverging), [NORM, ACT], "accuracy")}
    assert found["norm: lrn → none"].pairs == 2
    assert found["norm: lrn → bn"].pairs == 3
    assert found["norm: lrn → bn"].mean == pytest.approx(0.032)
    assert found["act: relu → leaky"].pairs == 2  # averages over all norms, and one of them is missing
    nothing = rows_of(lambda s, n, a: None if n == "none" else planted(s, n, a))
    assert "norm: lrn → none" not in {e.name for e in factorial_effects(nothing, [NORM, ACT], "accuracy")}
