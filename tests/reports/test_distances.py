"""Distances between histograms, against scipy and by hand."""

import math

import numpy as np
import pytest
from scipy.stats import wasserstein_distance

from alexnet_lab.reports.distances import distance

COLUMNS = 258


def counts_of(powers, zeros=0, negative=False, nan=0):
    counts = np.zeros((2, COLUMNS))
    np.add.at(counts[int(negative)], np.asarray(powers, int) + 128, 1)
    counts[0, 0] += zeros
    counts[0, -1] += nan
    return counts


@pytest.mark.parametrize("seed", range(5))
def test_wasserstein_is_that_of_scipy_on_the_powers(seed):
    generator = np.random.default_rng(seed)
    one, two = generator.integers(-40, 3, 200), generator.integers(-60, -10, 333)
    found = distance(counts_of(one), counts_of(two))
    assert found.wasserstein == pytest.approx(wasserstein_distance(one, two))
    assert found.shift == pytest.approx(two.mean() - one.mean())


def test_values_ten_powers_smaller_are_ten_powers_away_and_share_no_bin():
    found = distance(counts_of([-3, -4]), counts_of([-13, -14]))
    assert (found.total_variation, found.wasserstein, found.shift) == (1.0, 10.0, -10.0)


def test_what_has_no_size_counts_in_the_total_variation_alone():
    found = distance(counts_of([0, 0, 0, 0]), counts_of([0, 0, 0], zeros=1))
    assert found.total_variation == 0.25
    assert found.wasserstein == 0
    assert distance(counts_of([0]), counts_of([0], nan=1)).total_variation == 0.5


def test_signs_stay_apart_in_the_total_variation():
    found = distance(counts_of([0]), counts_of([0], negative=True))
    assert found.total_variation == 1
    assert found.wasserstein == 0


def test_how_many_values_were_counted_does_not_matter():
    one, two = counts_of([-3, -4, -4]), counts_of([-5, -4])
    assert distance(one, two) == distance(one * 7, two * 1000)


def test_from_a_histogram_to_itself_there_is_no_distance():
    found = distance(counts_of([1, 5, -8], zeros=3), counts_of([1, 5, -8], zeros=3))
    assert (found.total_variation, found.wasserstein, found.shift) == (0, 0, 0)


def test_where_nothing_was_counted_there_is_nothing_to_tell():
    assert distance(counts_of([]), counts_of([1])) is None
    assert math.isnan(distance(counts_of([], zeros=3), counts_of([1])).wasserstein)


def test_histograms_of_different_layout_are_refused():
    with pytest.raises(ValueError, match=r"one layout, got \(2, 258\) and \(2, 2050\)"):
        distance(counts_of([1]), np.ones((2, 2050)))
