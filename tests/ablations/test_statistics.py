"""Conclusions against scipy, statsmodels and arithmetic by hand, with runs missing."""

import itertools
import math
from types import MappingProxyType

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as formulas
from scipy import stats

from alexnet_ablations.conclude.conclusions import conclusions_of, infer, values_by_seed
from alexnet_ablations.conclude.outcomes import HEADLINE, OUTCOMES, outcome_named
from alexnet_ablations.conclude.sentences import (
    averaging_note,
    damage_sentence,
    notes_of,
    sentence_of,
    survival_sentence,
    survival_sentences,
)
from alexnet_ablations.declare.contrasts import Contrast, contrasts_of
from alexnet_ablations.declare.design import Factor

NORM = Factor("norm", ("lrn", "bn", "none"))
ACT = Factor("act", ("relu", "leaky"))
CROSSED = contrasts_of("factorial", [NORM, ACT])
BN = Contrast("norm: lrn → bn", "effect", {"norm=bn": 1.0, "norm=lrn": -1.0}, ("norm",))
NONE = Contrast("norm: lrn → none", "effect", {"norm=none": 1.0, "norm=lrn": -1.0}, ("norm",))


def table(rows):
    """Return results as read_results makes them: every outcome is a column, NaN where a row has none."""
    frame = pd.DataFrame(rows)
    frame["state"] = frame.get("state", pd.Series("ok", frame.index)).fillna("ok")
    for column in ["why", "level", "never_reached", *(outcome.name for outcome in OUTCOMES)]:
        if column not in frame:
            frame[column] = "" if column == "why" else math.nan
    return frame


def crossed(accuracy, seeds=3):
    levels = itertools.product(range(seeds), NORM.levels, ACT.levels)
    return table(
        {"cell": f"norm={n},act={a}", "norm": n, "act": a, "seed": s, "test_accuracy": accuracy(s, n, a)}
        for s, n, a in levels
    )


def cells(**accuracies):
    """One factor: points of test accuracy by cell, one per seed; None is a run that diverged."""
    return table(
        {
            "cell": f"norm={norm}",
            "norm": norm,
            "seed": seed,
            "state": "diverged" if points is None else "ok",
            "test_accuracy": None if points is None else points / 100,
        }
        for norm, all_points in accuracies.items()
        for seed, points in enumerate(all_points)
    )


def planted(seed, norm, act):
    shared = 0.05 * seed  # shared by all cells of a seed, so that pairing takes it out
    gain = {"lrn": 0, "bn": 0.03, "none": -0.02}[norm] + (0.01 if act == "leaky" else 0)
    return 0.8 + shared + gain + (0.004 if (norm, act) == ("bn", "leaky") else 0)


def noise(seed):
    generator = np.random.default_rng(seed)
    return lambda *_: 0.9 + generator.normal(0, 0.01)


def by_name(results, contrasts=CROSSED, **more):
    return {found.contrast.name: found for found in conclusions_of(results, contrasts, **more).headline}


def test_planted_effects_and_interactions_are_found_and_what_a_seed_shares_is_not():
    found = by_name(crossed(planted))
    means = {name: conclusion.inference.mean for name, conclusion in found.items()}
    assert means["norm: lrn → bn"] == pytest.approx(3.2)  # points: 3 with relu, 3.4 with leaky
    assert means["norm: lrn → none"] == pytest.approx(-2)
    assert means["act: relu → leaky"] == pytest.approx(1 + 0.4 / 3)
    assert means["norm bn × act leaky"] == pytest.approx(0.4)
    assert means["norm none × act leaky"] == 0  # exactly: rounding is no difference
    assert all(conclusion.n == 3 and conclusion.verdict == "no spread" for conclusion in found.values())


def test_an_effect_equals_ttest_rel_over_the_seeds():
    results = crossed(noise(1), seeds=6)
    found = by_name(results)["norm: lrn → bn"]
    means = results.groupby(["norm", "seed"])["test_accuracy"].mean() * 100
    oracle = stats.ttest_rel(means["bn"], means["lrn"])
    ends = oracle.confidence_interval()
    assert (found.low, found.high) == pytest.approx((ends.low, ends.high))
    assert found.inference.t_p == pytest.approx(oracle.pvalue)


def test_a_pair_of_cells_equals_regression_with_the_seed_as_a_block_and_a_run_missing():
    results = cells(lrn=[90.1, 91.4, 89.5, 90.8, None, 90.2], bn=[92.6, 92.2, None, 93.5, 91.9, 92.8])
    whole = results[results["seed"].isin([0, 1, 3, 5])].assign(y=lambda rows: 100 * rows["test_accuracy"])
    oracle = formulas.ols("y ~ C(norm, Treatment('lrn')) + C(seed)", whole).fit()
    name = "C(norm, Treatment('lrn'))[T.bn]"
    (found,) = conclusions_of(results, [BN]).headline
    assert found.effect == pytest.approx(oracle.params[name])
    assert (found.low, found.high) == pytest.approx(tuple(oracle.conf_int().loc[name]))
    assert found.inference.t_p == pytest.approx(oracle.pvalues[name])
    assert found.n == 4
    assert found.planned == 6


def test_effects_and_interactions_of_a_factorial_are_the_estimates_of_a_regression():
    results = crossed(noise(2), seeds=5).assign(y=lambda rows: 100 * rows["test_accuracy"])
    # Deviations: each factor's effect is then the mean over the other's levels.
    fit = formulas.ols("y ~ C(norm, Treatment('lrn')) * C(act, Treatment('relu')) + C(seed)", results).fit()
    found = by_name(results)
    for norm in ("bn", "none"):
        name = f"C(norm, Treatment('lrn'))[T.{norm}]:C(act, Treatment('relu'))[T.leaky]"
        assert found[f"norm {norm} × act leaky"].effect == pytest.approx(fit.params[name])
        main = fit.params[f"C(norm, Treatment('lrn'))[T.{norm}]"] + fit.params[name] / 2
        assert found[f"norm: lrn → {norm}"].effect == pytest.approx(main)


def test_a_seed_with_a_missing_run_is_left_out_of_the_effects_that_need_it_and_of_no_other():
    found = by_name(crossed(lambda s, n, a: None if (s, n) == (1, "none") else planted(s, n, a)))
    assert found["norm: lrn → none"].n == 2
    assert found["norm: lrn → bn"].n == 3
    assert found["norm: lrn → bn"].effect == pytest.approx(3.2)
    assert found["act: relu → leaky"].n == 2  # averages over all norms, and one of them is missing
    assert found["norm: lrn → bn"].left_out == ()
    assert found["norm: lrn → none"].left_out == tuple(
        f"norm=none,act={act} has no number under seed 1" for act in ("relu", "leaky")
    )


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_a_missing_run(bad):
    results = cells(lrn=[90, 91, 92], bn=[91, 100 * bad, 94])
    (found,) = conclusions_of(results, [BN]).headline
    assert dict(found.values) == pytest.approx({0: 1.0, 2: 2.0})
    with pytest.raises(ValueError, match="paired differences are finite numbers"):
        infer([1.0, bad])


def test_holm_adjusts_over_all_declared_contrasts_also_those_that_no_seed_could_test():
    clear = {"lrn": [90, 91, 92, 90.5], "bn": [93, 94.1, 94.9, 93.6]}
    alone = conclusions_of(cells(**clear), [BN]).headline[0]
    among = conclusions_of(cells(**clear, none=[None] * 4), [BN, NONE]).headline[0]
    assert alone.holm_p == pytest.approx(alone.inference.t_p)
    assert among.holm_p == pytest.approx(2 * alone.inference.t_p)
    assert among.family == 2


def test_other_outcomes_are_families_of_their_own_and_exploratory():
    results = cells(lrn=[90, 91, 92], bn=[91, 93, 92.5])
    results["images_per_second"] = [100, 110, 120, 150, 165, 180]
    concluded = conclusions_of(results, [BN])
    assert [outcome.name for outcome in concluded.outcomes] == ["test_accuracy", "images_per_second"]
    (headline,), (speed,) = concluded.of(HEADLINE), concluded.of("images_per_second")
    assert not headline.is_exploratory
    assert speed.is_exploratory
    assert speed.effect == pytest.approx(1.5)
    assert (
        sentence_of(speed)
        == "norm lrn → bn: exactly ×1.5 under each seed, n=3 pairs: without spread there is no interval"
    )


def test_factors_are_compared_by_their_logarithms():
    results = cells(lrn=[90, 91, 92], bn=[91, 93, 92.5])
    results["gradient_first_to_last"] = [0.01, 0.02, 0.05, 0.02, 0.03, 0.2]
    (found,) = conclusions_of(results, [BN]).of("gradient_first_to_last")
    logs = np.log([2, 1.5, 4])
    ends = stats.ttest_1samp(logs, 0).confidence_interval()
    assert found.effect == pytest.approx(stats.gmean([2, 1.5, 4]))
    assert (found.low, found.high) == pytest.approx((math.exp(ends.low), math.exp(ends.high)))
    results.loc[0, "gradient_first_to_last"] = 0.0  # a gradient of nothing has no logarithm
    assert conclusions_of(results, [BN]).of("gradient_first_to_last")[0].n == 2


@pytest.mark.parametrize(
    ("lrn", "bn", "verdict", "sentence"),
    [
        ([90, 91, 92, 90.4, 91, 90], [93, 94.1, 95.2, 93.3, 94.2, 93.1], "difference",
         "norm lrn → bn: +3.1 points [+3.0, +3.2] @, n=6 pairs"),
        ([90, 91, 92, 90.4], [90.1, 90.95, 92.1, 90.35], "equivalent",
         "norm lrn → bn: less than 0.5 points either way, 92.5% interval [-0.1, +0.1] @, n=4 pairs"),
        ([90, 91, 92, 90.4], [90.2, 91.25, 92.15, 90.6], "difference within margin",
         "norm lrn → bn: +0.2 points [+0.1, +0.3] @, n=4 pairs; less than 0.5 points either way, 92.5% interval "
         "[+0.1, +0.3]"),
([90, 91, 92], [91, 90, 92.6], "undecided",
 "norm lrn → bn: undecided with 3 seeds, +0.2 points [-2.4, +2.8] @, n=3 pairs; 3 seeds show 4.2 points four times "
 "in five, and 0.5 points with about 42 seeds"),
([90, 91, 92], [92, 91.5, 96.5], "undecided",
 "norm lrn → bn: undecided with 3 seeds, +2.3 points [-2.7, +7.4] @, n=3 pairs; 3 seeds show 8.1 points four times "
 "in five, and 0.5 points with about 147 seeds"),
([90, 91], [92, 91.5], "undecided", "norm lrn → bn: undecided with 2 seeds, +1.2 points [-8.3, +9.5] @, n=2 pairs"),
([90], [93.1], "one pair", "norm lrn → bn: +3.1 points under one seed @, n=1: no interval"),
        ([90, 91], [90, 91], "no spread",
         "norm lrn → bn: no difference at all under each seed @, n=2 pairs: without spread there is no "
         "interval"),
        ([90, None], [None, 91], "no pair",
         "norm lrn → bn: nothing can be said, n=0: no seed has every run that it needs; "
         "norm=lrn diverged under seed 1, norm=bn diverged under seed 0"),
        ([90, 91, None, 92], [93, 94.1, 95, 95.2], "difference",
         "norm lrn → bn: +3.1 points [+2.9, +3.3] @, n=3 pairs of 4"),
    ],
)  # fmt: skip
def test_a_conclusion_is_a_sentence_with_its_n(lrn, bn, verdict, sentence):
    (found,) = conclusions_of(cells(lrn=lrn, bn=bn), [BN]).headline
    assert found.verdict == verdict
    assert sentence_of(found) == sentence.replace("@", "on these test images")
    assert "*" not in sentence_of(found)


def test_a_difference_that_many_comparisons_explain_is_said_to_be_one():
    results = cells(lrn=[90, 91, 92, 90.5], bn=[91, 91.4, 93.2, 91.2], none=[90.3, 90.8, 92.4, 90.1])
    found = conclusions_of(
        results, [BN, NONE, *[Contrast(f"more {at}", "effect", NONE.weights, ()) for at in range(8)]]
    )
    first = found.headline[0]
    assert first.low > 0
    assert first.verdict == "undecided"
    assert f"not beyond chance among 10 comparisons (t test, Holm: p = {10 * first.inference.t_p:.2g})" in sentence_of(
        first
    )


def test_what_is_open_says_what_it_would_take_and_two_pairs_say_nothing():
    found = conclusions_of(cells(lrn=[90, 91, 92], bn=[92, 91.5, 96.5], none=[None] * 3), [BN, NONE]).headline[0]
    spread = np.std([2, 0.5, 4.5], ddof=1)
    level = 0.05 * (1 - 1 / 3) / 2  # of a look with three seeds, at the first step of Holm's rule

    def power(effect, seeds):  # over the spread that a sample of so many shows, in place of a noncentral t
        seen = np.sqrt(stats.chi2.ppf((np.arange(100_000) + 0.5) / 100_000, seeds - 1) / (seeds - 1))
        limit, shift = stats.t.ppf(1 - level / 2, seeds - 1), effect / spread * math.sqrt(seeds)
        return (stats.norm.cdf(shift - limit * seen) + stats.norm.cdf(-shift - limit * seen)).mean()

    known = found.sensitivity
    assert power(known.effect, 3) == pytest.approx(0.8, abs=1e-3)
    assert power(0.5, known.seeds_for_margin) >= 0.8 > power(0.5, known.seeds_for_margin - 1)
    # The effect that was seen is not in it: another mean with the same spread says the same.
    shifted = conclusions_of(cells(lrn=[90, 91, 92], bn=[91, 90.5, 95.5], none=[None] * 3), [BN, NONE]).headline[0]
    assert shifted.sensitivity == found.sensitivity
    assert conclusions_of(cells(lrn=[90, 91], bn=[92, 91.5]), [BN]).headline[0].sensitivity is None


def test_the_margin_can_be_chosen_and_must_be_one():
    results = cells(lrn=[90, 91, 92, 90.4], bn=[91, 92.1, 93.1, 91.5])
    assert conclusions_of(results, [BN], margin=2.0).headline[0].verdict == "difference within margin"
    assert conclusions_of(results, [BN]).headline[0].verdict == "difference"
    with pytest.raises(ValueError, match="a margin of equivalence is above 0; got 0"):
        conclusions_of(results, [BN], margin=0)


def test_better_depends_on_the_outcome():
    results = cells(lrn=[90, 91, 92], bn=[93, 94.1, 95.2])
    results["final_train_loss"] = [1, 1.1, 1.2, 0.5, 0.56, 0.61]
    results["update_ratio"] = [1, 1.1, 1.2, 0.5, 0.56, 0.61]
    concluded = conclusions_of(results, [BN])
    assert concluded.headline[0].is_better is True
    assert concluded.of("final_train_loss")[0].is_better is True
    assert concluded.of("update_ratio")[0].is_better is None
    assert conclusions_of(cells(lrn=[90, 91, 92], bn=[91, 90, 93]), [BN]).headline[0].is_better is None


def test_few_pairs_and_dissent_of_the_sign_flip_test_are_noted():
    three = conclusions_of(cells(lrn=[90, 91, 92], bn=[93, 94.1, 95.2]), [BN]).headline[0]
    assert notes_of(three)[0].startswith("of 3 pairs an exact sign-flip test cannot go below p = 0.25;")
    skewed = [1, 1, 1, 1, 1.1, 1.2, 1, -0.02, -0.02]
    found = conclusions_of(cells(lrn=[90] * 9, bn=[90 + d for d in skewed]), [BN]).headline[0]
    assert found.verdict == "difference"
    assert found.inference.sign_flip_p == pytest.approx(0.015625) or notes_of(found)


def test_runs_that_never_reached_the_level_are_noted_with_the_outcome_they_blur():
    results = cells(lrn=[90, 91, 92], bn=[93, 94.1, 95.2])
    results["epochs_to_level"], results["level"] = [3, 4, 3, 11, 11, 8], 0.87
    results["never_reached"] = [0, 0, 0, 1, 1, 0]
    (found,) = conclusions_of(results, [BN]).of(outcome_named("epochs_to_level"))
    assert any(note.startswith("2 of 6 runs never reached 87.0%") for note in notes_of(found))


def test_aliases_of_a_fraction_are_noted():
    aliased = Contrast(BN.name, "effect", BN.weights, BN.fields, ("act × dropout",))
    (found,) = conclusions_of(cells(lrn=[90, 91], bn=[93, 95]), [aliased]).headline
    assert "cannot be told from act × dropout in this design" in notes_of(found)


def test_survival_is_counted_per_cell_with_an_interval_and_held_against_the_baseline_by_seed():
    results = cells(lrn=[90] * 6, bn=[91] * 6, none=[None] * 6)
    lrn, bn, none = conclusions_of(results, [BN]).survivals
    assert (lrn.well, lrn.ended, lrn.against_baseline) == (6, 6, None)
    assert bn.against_baseline is None
    assert none.share == 0
    assert none.against_baseline == pytest.approx(2 / 2**6)
    assert survival_sentence(none) == (
        "norm=none: 0 of 6 runs ended well (0%, 95% interval 0% to 46%); 6 diverged; against the baseline, by seed, "
        "p = 0.031 (exact McNemar test)"
    )
    assert survival_sentences(conclusions_of(results, [BN])) == [survival_sentence(none)]


def test_runs_that_have_yet_to_end_say_nothing_about_their_cell():
    results = cells(lrn=[90, 91, 92], bn=[91, 93, None])
    results["state"] = ["ok", "lost", "ok", "ok", "ok", "waiting"]
    lrn, bn = conclusions_of(results, [BN]).survivals
    assert (lrn.well, lrn.ended, bn.ended) == (2, 2, 2)
    assert survival_sentence(bn) == "norm=bn: 2 of 2 runs ended well (100%, 95% interval 16% to 100%); 1 waiting"


def test_a_study_without_a_single_number_concludes_so():
    concluded = conclusions_of(cells(lrn=[None] * 3, bn=[None] * 3), [BN])
    assert [found.verdict for found in concluded.items] == ["no pair"]
    assert "n=0" in sentence_of(concluded.headline[0])
    assert math.isnan(concluded.headline[0].effect)
    assert concluded.headline[0].holm_p is None


def test_a_cell_with_two_runs_under_one_seed_is_refused():
    results = cells(lrn=[90, 91], bn=[91, 92])
    results["seed"] = 0
    with pytest.raises(ValueError, match="a cell has one run per seed; norm=lrn has two under seed 0"):
        conclusions_of(results, [BN])


def test_a_contrast_of_cells_that_were_not_run_has_no_pair():
    (found,) = conclusions_of(cells(lrn=[90, 91], bn=[91, 92]), [NONE]).headline
    assert found.verdict == "no pair"
    assert sentence_of(found).endswith("its cells were not run")
    assert values_by_seed(cells(lrn=[90]), NONE, HEADLINE) == {}


def test_conclusions_do_not_depend_on_the_order_of_rows_or_weights():
    results = crossed(noise(3), seeds=4)
    shuffled = results.sample(frac=1, random_state=0).sort_values("cell", key=lambda c: c != "norm=lrn,act=relu")
    turned = [Contrast(c.name, c.kind, MappingProxyType(dict(reversed(c.weights.items()))), c.fields) for c in CROSSED]
    first, second = by_name(results), by_name(shuffled, turned)
    for name, conclusion in first.items():
        assert second[name].low == pytest.approx(conclusion.low)
        assert second[name].inference.sign_flip_p == conclusion.inference.sign_flip_p


def test_an_average_over_other_factors_is_said_and_one_factor_has_none():
    conclusions = by_name(crossed(noise(1), seeds=6))
    assert sentence_of(conclusions["norm: lrn → bn"]).startswith("norm lrn → bn, averaged over act: ")
    assert sentence_of(conclusions["norm bn × act leaky"]).startswith("norm bn × act leaky: ")
    note = "Effects are averaged over the levels of the other factors: norm over act (relu, leaky); act over norm ("
    assert averaging_note(CROSSED).startswith(note)
    assert averaging_note(contrasts_of("factorial", [NORM])) == ""
    assert averaging_note(contrasts_of("one-at-a-time", [NORM, ACT])) == ""


def test_ends_that_no_accuracy_can_have_are_cut_and_an_interval_of_all_that_is_possible_is_said_to_be_one():
    # The baseline has 40% on average, so that an effect lies between -40 and +60 points, whatever a t interval says.
    (wide,) = conclusions_of(cells(lrn=[38, 42], bn=[99, 93.8]), [BN]).headline
    assert (wide.low, wide.high) == pytest.approx((56.4 - 58.4478, 56.4 + 58.4478), abs=0.01)
    assert wide.verdict == "undecided"
    assert (wide.shown.low, wide.shown.high) == pytest.approx((56.4 - 58.4478, 60), abs=0.01)
    assert "undecided with 2 seeds, +56.4 points [-2.0, +60.0] on these test images, n=2 pairs" in sentence_of(wide)
    (everything,) = conclusions_of(cells(lrn=[30, 50], bn=[99, 93.8]), [BN]).headline
    told = "undecided with 2 seeds, +56.4 points on these test images, n=2 pairs; the 95% interval holds all that is"
    assert told in sentence_of(everything)
    (speed,) = conclusions_of(cells(lrn=[38, 42], bn=[99, 93.8]).assign(images_per_second=[1, 2, 9, 5]), [BN]).of(
        "images_per_second"
    )
    assert speed.shown == speed.inference.t  # nothing bounds a factor


def test_the_interval_that_decides_on_equivalence_leaves_out_twice_the_level_of_the_look():
    results = cells(lrn=[90, 91, 92, 90.4], bn=[90.1, 90.95, 92.1, 90.35])
    (conclusion,) = conclusions_of(results, [BN]).headline
    ends = stats.ttest_1samp([0.1, -0.05, 0.1, -0.05], 0).confidence_interval(1 - 2 * 0.05 * (1 - 1 / 4))
    assert (conclusion.inference.equivalence.low, conclusion.inference.equivalence.high) == pytest.approx(
        (ends.low, ends.high)
    )
    assert conclusion.verdict == "equivalent"
    # A margin just within that interval decides otherwise.
    assert conclusions_of(results, [BN], margin=ends.high - 0.001).headline[0].verdict == "undecided"
    assert conclusions_of(results, [BN], margin=ends.high + 0.001).headline[0].verdict == "equivalent"


def test_numbers_that_are_only_bounds_give_no_verdict_on_interactions_and_equivalence():
    results = crossed(noise(1), seeds=4)
    generator = np.random.default_rng(4)
    results["epochs_to_level"] = 3 + generator.normal(0, 0.1, len(results))
    results["level"], results["never_reached"] = 0.8, 0.0
    verdicts = {item.contrast.name: item.verdict for item in conclusions_of(results, CROSSED).of("epochs_to_level")}
    assert verdicts["norm: lrn → bn"] == "equivalent"
    assert verdicts["norm bn × act leaky"] == "equivalent"
    results.loc[results["cell"] == "norm=bn,act=leaky", "never_reached"] = 1.0
    censored = {item.contrast.name: item for item in conclusions_of(results, CROSSED).of("epochs_to_level")}
    interaction = censored["norm bn × act leaky"]
    assert (interaction.verdict, interaction.holm_p) == ("censored", None)
    assert "no verdict, n=4 pairs: 4 of 16 runs never reached 80.0%" in sentence_of(interaction)
    assert censored["norm: lrn → bn"].verdict == "undecided"
    assert censored["norm: lrn → none"].verdict == "equivalent"  # no run of its cells is concerned


def test_a_cell_that_never_survives_leaves_the_effects_at_the_other_levels():
    results = crossed(lambda s, n, a: None if (n, a) == ("none", "leaky") else planted(s, n, a))
    results.loc[results["test_accuracy"].isna(), "state"] = "diverged"
    conclusions = {
        item.contrast.fields: item for item in conclusions_of(results, CROSSED).headline if "none" in item.contrast.name
    }
    simple = conclusions["norm",]
    assert simple.contrast.name == "norm: lrn → none, at act relu"
    assert simple.effect == pytest.approx(-2)
    assert simple.n == 3
    assert any(note.startswith("no run of norm=none,act=leaky ended well") for note in notes_of(simple))
    assert conclusions["norm", "act"].verdict == "no pair"  # it needs that very cell
    by_field = {
        item.contrast.fields: item
        for item in conclusions_of(results, CROSSED).headline
        if item.contrast.kind == "effect"
    }
    act = by_field["act",]
    assert act.contrast.name == "act: relu → leaky, at norm lrn or norm bn"
    assert act.effect == pytest.approx((1 + 1.4) / 2)
    assert by_name(results)["norm: lrn → bn"].effect == pytest.approx(3.2)  # as before: it never needed that cell


def test_a_cell_of_which_one_seed_survived_or_a_run_is_still_to_come_is_not_given_up():
    for states in (["diverged", "diverged", "ok"], ["diverged", "diverged", "waiting"]):
        results = crossed(planted)
        lost = results["cell"] == "norm=none,act=leaky"
        results.loc[lost, "state"] = states
        results.loc[lost & (results["state"] != "ok"), "test_accuracy"] = math.nan
        assert "norm: lrn → none" in by_name(results)


def test_a_fraction_keeps_its_effects_whole_since_no_two_of_its_cells_differ_in_one_factor():
    factors = [Factor(name, (0, 1)) for name in "abcd"]
    contrasts = contrasts_of("fractional", factors)
    names = sorted({cell for contrast in contrasts for cell in contrast.weights})
    results = table(
        {"cell": name, **dict(part.split("=") for part in name.split(",")), "seed": seed, "test_accuracy": 0.9,
         "state": "diverged" if name == names[0] else "ok"}
        for name in names for seed in range(2)
    )  # fmt: skip
    results.loc[results["state"] == "diverged", "test_accuracy"] = math.nan
    assert {item.verdict for item in conclusions_of(results, contrasts).headline} == {"no pair"}


def test_sentences_name_the_images_that_they_are_about_with_their_number_where_it_is_known():
    results = cells(lrn=[90, 91, 92], bn=[91, 93, 92.5]).assign(validation_accuracy=[0.9, 0.91, 0.93, 0.8, 0.82, 0.9])
    results.attrs["test_images"] = 1360
    concluded = conclusions_of(results, [BN])
    assert " on these 1,360 test images, n=3 pairs" in sentence_of(concluded.headline[0])
    assert " on these validation images, n=3 pairs" in sentence_of(concluded.of("validation_accuracy")[0])


def test_damaged_runs_are_named_with_their_files():
    results = cells(lrn=[90, 91, 92], bn=[91, 93, 92])
    assert damage_sentence(results) == ""
    results.loc[[1, 3], "state"], results.loc[[1, 3], "why"] = "damaged", "split.json"
    assert damage_sentence(results) == (
        "2 runs have damaged records: norm=lrn under seed 1 (split.json), norm=bn under seed 0 (split.json); the same "
        "command makes them again"
    )
