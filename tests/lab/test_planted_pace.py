"""Rates and scales that do not fit, planted on purpose, are found, and those that do are not accused."""

import pytest
from planted import names, run_of, small_network, the


@pytest.mark.parametrize(("scale", "word"), [(100.0, "large"), (0.01, "small")])
def test_inputs_of_the_wrong_size_for_the_initial_values_are_found(tmp_path, scale, word):
    found = the("wrong-scale-for-init", run_of(tmp_path, small_network(), rate=1e-7, epochs=1, scale=scale))
    assert f"too {word}" in found.title
    # He on inputs of that spread puts out sqrt(2) times it.
    assert found.numbers["first_signal"] == pytest.approx(scale * 2**0.5, rel=0.6)


def test_behind_a_batch_norm_the_size_of_the_inputs_is_no_finding(tmp_path):
    run = run_of(tmp_path, small_network(norm=True), epochs=1, scale=100.0)
    assert "wrong-scale-for-init" not in names(run)


def test_a_rate_too_low_is_found_and_the_gradient_cleared_of_it(tmp_path):
    found = the("rate-too-low", run_of(tmp_path, small_network(), rate=1e-6))
    assert found.contrary.startswith("None")


def test_a_rate_too_high_is_found(tmp_path):
    found = the("rate-too-high", run_of(tmp_path, small_network(), rate=1.0))
    assert found.severity == "serious"
    assert found.numbers["update_ratio"] > 0.01
