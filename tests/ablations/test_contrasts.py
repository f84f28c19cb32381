"""What a design estimates: against ordinary least squares, against tables by hand, and against its own aliases."""

import itertools

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf

from alexnet_ablations.declare.contrasts import contrasts_of, limitations_of
from alexnet_ablations.declare.design import Factor, cells_of
from alexnet_ablations.declare.fractional import Fraction, is_resolution_four, smallest_fraction

NORM = Factor("norm", ("lrn", "bn", "none"))
ACT = Factor("act", ("relu", "leaky"))
DROPOUT = Factor("dropout", (0.5, 0.3))
TWO_LEVELS = [
    ACT,
    DROPOUT,
    Factor("init", ("he", "torch")),
    Factor("ten_views", (False, True)),
    Factor("ema", (0, 0.9)),
]


def value(contrast, outcomes):
    return sum(weight * outcomes[name] for name, weight in contrast.weights.items())


@pytest.mark.parametrize("factors", [[NORM], [NORM, ACT], [NORM, ACT, DROPOUT]])
def test_the_contrasts_of_a_factorial_are_the_coefficients_of_least_squares(factors):
    cells = cells_of("factorial", factors)
    generator = np.random.default_rng(0)
    outcomes = {cell.name: generator.normal() for cell in cells}
    coded = [{f.field: f.levels.index(dict(cell.settings)[f.field]) for f in factors} for cell in cells]
    table = pd.DataFrame(coded).assign(y=[outcomes[cell.name] for cell in cells])
    # Sum coding: a coefficient is a level's distance from the mean over levels, so differences of two are effects.
    parameters = smf.ols("y ~ " + " * ".join(f"C({f.field}, Sum)" for f in factors), table).fit().params

    def coefficient(changes):
        return parameters[":".join(f"C({f.field}, Sum)[S.{f.levels.index(level)}]" for f, level in changes)]

    def deviation(changes):
        """The distance of these levels; the last level's is minus the sum of the others'."""
        for at, (factor, level) in enumerate(changes):
            if level == factor.levels[-1]:
                others = [(*changes[:at], (factor, other), *changes[at + 1 :]) for other in factor.levels[:-1]]
                return -sum(deviation(other) for other in others)
        return coefficient(changes)

    def difference(changes):
        """Change less baseline, in every factor."""
        signed = [[(1, level), (-1, factor.levels[0])] for factor, level in changes]
        return sum(
            np.prod([sign for sign, _ in picked])
            * deviation(tuple((factor, level) for (factor, _), (_, level) in zip(changes, picked, strict=True)))
            for picked in itertools.product(*signed)
        )

    changes = [(factor, level) for factor in factors for level in factor.levels[1:]]
    pairs = [pair for pair in itertools.combinations(changes, 2) if pair[0][0] != pair[1][0]]
    expected = {f"{f.field}: {f.levels[0]} → {level}": difference(((f, level),)) for f, level in changes}
    expected |= {" × ".join(f"{f.field} {level}" for f, level in pair): difference(pair) for pair in pairs}
    found = contrasts_of("factorial", factors)
    assert {contrast.name: value(contrast, outcomes) for contrast in found} == pytest.approx(expected)
    assert [contrast.kind for contrast in found] == ["effect"] * len(changes) + ["interaction"] * len(pairs)


def test_a_two_by_two_by_hand():
    effect_norm, effect_act, interaction = contrasts_of("factorial", [Factor("norm", ("lrn", "bn")), ACT])
    assert effect_norm.name == "norm: lrn → bn"
    assert effect_norm.weights == {
        "norm=lrn,act=relu": -0.5,
        "norm=lrn,act=leaky": -0.5,
        "norm=bn,act=relu": 0.5,
        "norm=bn,act=leaky": 0.5,
    }
    assert effect_act.fields == ("act",)
    assert interaction.name == "norm bn × act leaky"
    assert interaction.weights == {
        "norm=lrn,act=relu": 1.0,
        "norm=lrn,act=leaky": -1.0,
        "norm=bn,act=relu": -1.0,
        "norm=bn,act=leaky": 1.0,
    }


def test_one_at_a_time_holds_each_change_against_the_baseline():
    found = contrasts_of("one-at-a-time", [NORM, ACT])
    assert [(contrast.name, dict(contrast.weights)) for contrast in found] == [
        ("norm: lrn → bn", {"norm=bn,act=relu": 1.0, "norm=lrn,act=relu": -1.0}),
        ("norm: lrn → none", {"norm=none,act=relu": 1.0, "norm=lrn,act=relu": -1.0}),
        ("act: relu → leaky", {"norm=lrn,act=leaky": 1.0, "norm=lrn,act=relu": -1.0}),
    ]
    assert "Interactions cannot be estimated" in limitations_of("one-at-a-time", [NORM, ACT])[0]


def test_leave_one_out_takes_each_change_back_from_the_full_network():
    norm = Factor("norm", ("lrn", "bn"))
    found = contrasts_of("leave-one-out", [norm, ACT, DROPOUT])
    full = "norm=bn,act=leaky,dropout=0.3"
    assert [(contrast.name, dict(contrast.weights)) for contrast in found] == [
        ("norm: lrn → bn, all else changed", {full: 1.0, "norm=lrn,act=leaky,dropout=0.3": -1.0}),
        ("act: relu → leaky, all else changed", {full: 1.0, "norm=bn,act=relu,dropout=0.3": -1.0}),
        ("dropout: 0.5 → 0.3, all else changed", {full: 1.0, "norm=bn,act=leaky,dropout=0.5": -1.0}),
        ("all changes together", {full: 1.0, "norm=lrn,act=relu,dropout=0.5": -1.0}),
    ]


def test_only_holds_whole_variants_against_the_baseline():
    found = contrasts_of("only", [NORM, ACT])
    assert [(contrast.name, dict(contrast.weights)) for contrast in found] == [
        ("norm: lrn → bn, act: relu → leaky", {"norm=bn,act=leaky": 1.0, "norm=lrn,act=relu": -1.0}),
        ("norm: lrn → none, act: relu → leaky", {"norm=none,act=leaky": 1.0, "norm=lrn,act=relu": -1.0}),
    ]
    assert "What each change is worth by itself cannot be said" in limitations_of("only", [NORM, ACT])[0]


@pytest.mark.parametrize("design", ["factorial", "one-at-a-time", "leave-one-out", "fractional", "only"])
def test_weights_add_up_to_zero_and_name_cells_of_the_design(design):
    names = {cell.name for cell in cells_of(design, TWO_LEVELS)}
    for contrast in contrasts_of(design, TWO_LEVELS):
        assert sum(contrast.weights.values()) == pytest.approx(0)
        assert set(contrast.weights) <= names


def signs(fraction):
    """The design as a matrix of -1 (baseline) and +1 (changed): cells by factors."""
    return 2 * np.array(fraction.rows()) - 1


@pytest.mark.parametrize("count", range(4, 17))
def test_in_a_fraction_no_factor_is_confused_with_another_or_with_two(count):
    fraction = smallest_fraction(count)
    matrix = signs(fraction)
    assert (matrix[0] == -1).all()
    assert len({tuple(row) for row in matrix.tolist()}) == len(matrix) == 2**fraction.base
    assert count <= 2 ** (fraction.base - 1)
    assert fraction.base == 3 or count > 2 ** (fraction.base - 2), "half the cells would have done"
    assert (matrix.sum(0) == 0).all()
    assert (matrix.T @ matrix == len(matrix) * np.eye(count)).all()
    for one, other in itertools.combinations(range(count), 2):
        assert not (matrix.T @ (matrix[:, one] * matrix[:, other])).any()


def test_known_fractions_are_as_good_as_in_the_textbooks():
    # Box, Hunter, Hunter, table 12.15: resolution and pairs of two-factor interactions that are one number.
    def aliased_pairs(count):
        return sum(len(group) * (len(group) - 1) // 2 for group in smallest_fraction(count).aliased(2).values())

    assert [len(smallest_fraction(k).rows()) for k in (4, 5, 6, 7, 8, 9)] == [8, 16, 16, 16, 16, 32]
    assert aliased_pairs(4) == 3  # one word of four letters: AB+CD, AC+BD, AD+BC
    assert aliased_pairs(5) == 0  # 2^(5-1) of resolution V
    assert aliased_pairs(6) == 9  # ABCE, BCDF, ADEF


def test_a_design_of_resolution_three_is_recognised():
    assert not is_resolution_four((1, 2, 3))  # C = AB
    assert not is_resolution_four((1, 2, 4, 4))
    assert not is_resolution_four((1, 2, 0))
    assert is_resolution_four((1, 2, 4, 7))


@pytest.mark.parametrize("count", [4, 5])
def test_planted_effects_come_out_of_a_fraction_as_its_aliases_say(count):
    """Outcomes made of effects of up to three factors; every contrast must be the sum that its names promise."""
    factors = TWO_LEVELS[:count]
    generator = np.random.default_rng(count)
    subsets = [s for size in (1, 2, 3) for s in itertools.combinations(range(count), size)]
    planted = {subset: generator.normal() for subset in subsets}
    cells = cells_of("fractional", factors)
    outcomes = {}
    for cell in cells:
        changed = [2 * (level == f.levels[1]) - 1 for f, (_, level) in zip(factors, cell.settings, strict=True)]
        # In coding -1, +1 an effect of n factors as defined in contrasts.py is 2^n times its coefficient.
        outcomes[cell.name] = sum(
            effect * np.prod([changed[at] for at in subset]) / 2 ** len(subset) for subset, effect in planted.items()
        )

    def effect_named(text, order):
        sign = -1 if text.startswith("−") else 1
        fields = [part.split()[0].rstrip(":") for part in text.removeprefix("−").split(" × ")]
        subset = tuple(sorted(next(at for at, f in enumerate(factors) if f.field == field) for field in fields))
        # An alias of another order enters with the scale of the contrast it hides in.
        return sign * planted[subset] / 2 ** len(subset) * 2**order

    for contrast in contrasts_of("fractional", factors):
        order = 1 if contrast.kind == "effect" else 2
        names = [contrast.name] if order == 1 else contrast.name.split(" + ")
        expected = sum(effect_named(name, order) for name in (*names, *contrast.aliases))
        assert value(contrast, outcomes) == pytest.approx(expected), contrast.name


def test_a_fraction_names_the_interactions_that_are_one_number_together():
    found = contrasts_of("fractional", TWO_LEVELS[:4])
    assert [contrast.name for contrast in found[4:]] == [
        "act leaky × dropout 0.3 + init torch × ten_views true",
        "act leaky × init torch + dropout 0.3 × ten_views true",
        "act leaky × ten_views true + dropout 0.3 × init torch",
    ]
    assert found[0].aliases == ("dropout 0.3 × init torch × ten_views true",)
    assert any("3 of the interactions are sums" in line for line in limitations_of("fractional", TWO_LEVELS[:4]))


def test_a_fraction_of_too_few_factors_is_refused():
    with pytest.raises(ValueError, match="at least 4 factors, got 3"):
        contrasts_of("fractional", TWO_LEVELS[:3])


def test_the_rows_of_a_fraction_are_sums_of_its_base():
    assert Fraction((1, 2, 3), 2).rows() == [(0, 0, 0), (1, 0, 1), (0, 1, 1), (1, 1, 0)]


def test_a_contrast_of_a_factorial_names_the_factors_that_it_is_averaged_over_with_their_levels():
    over = {contrast.name: contrast.over for contrast in contrasts_of("factorial", [NORM, ACT, DROPOUT])}
    assert over["norm: lrn → bn"] == {"act": ("relu", "leaky"), "dropout": (0.5, 0.3)}
    assert over["norm bn × act leaky"] == {"dropout": (0.5, 0.3)}
    assert not any(contrast.over for contrast in contrasts_of("factorial", [NORM]))
    for design in ("one-at-a-time", "leave-one-out", "only"):
        assert not any(contrast.over for contrast in contrasts_of(design, [ACT, DROPOUT]))
