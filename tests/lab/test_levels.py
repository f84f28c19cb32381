"""Levels as text: what is read, what is refused, and in which words."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexnet_lab.levels import LEVELS, Level, parse_level, split_levels
from alexnet_lab.networks.slots import ACTIVATIONS, NORMS


@pytest.mark.parametrize(
    ("slot", "text", "level"),
    [
        ("norm", "bn", Level("bn")),
        ("norm", "bn:after", Level("bn", placement="after")),
        ("norm", "lrn:k=1,alpha=1e-4", Level("lrn", (("alpha", 1e-4), ("k", 1.0)))),
        ("norm", " gn:groups=32 ", Level("gn", (("groups", 32),))),
        ("norm", "gn:32", Level("gn", (("groups", 32),))),
        ("norm", "lrn:pooled,layers=2+1", Level("lrn", (), "pooled", (1, 2))),
        ("norm", "bn:layers=all", Level("bn", layers="all")),
        ("act", "leaky:0.2", Level("leaky", (("slope", 0.2),))),
        ("act", "elu:alpha=.5", Level("elu", (("alpha", 0.5),))),
    ],
)
def test_a_level_is_a_name_with_arguments(slot, text, level):
    assert parse_level(slot, text) == level


@given(
    st.sampled_from(["lrn", "bn", "gn"]),
    st.sampled_from([None, "before", "after", "pooled"]),
    st.none() | st.just("all") | st.sets(st.integers(1, 5), min_size=1).map(lambda s: tuple(sorted(s))),
    st.floats(1e-9, 10),
)
def test_writing_a_level_and_reading_it_again_changes_nothing(name, placement, layers, number):
    key, kind = list(LEVELS["norm"][name].items())[-1]
    level = Level(name, ((key, max(1, int(number)) if kind is int else number),), placement, layers)
    assert parse_level("norm", str(level)) == level


@pytest.mark.parametrize(
    ("text", "levels"),
    [
        ("bn,none", ["bn", "none"]),
        ("lrn:k=1,alpha=1e-4,none", ["lrn:k=1,alpha=1e-4", "none"]),
        ("bn:after,layers=1+2,gn", ["bn:after,layers=1+2", "gn"]),
        ("leaky:0.1, prelu", ["leaky:0.1", "prelu"]),
        ("gn:groups=4,after,lrn:pooled", ["gn:groups=4,after", "lrn:pooled"]),
        ("", []),
    ],
)
def test_a_list_splits_at_levels_not_at_their_arguments(text, levels):
    assert split_levels(text) == levels


@pytest.mark.parametrize(
    ("slot", "text", "message"),
    [
        ("norm", "bm", "unknown norm level 'bm'. Did you mean 'bn'? Choices: lrn, bn, gn, none"),
        ("act", "leeky", "Did you mean 'leaky'"),
        ("norm", "lrn:kk=1", "unknown argument of norm level 'lrn' 'kk'"),
        ("norm", "lrn:k=x", "k must be a number, got 'x'"),
        ("norm", "gn:groups=2.5", "groups must be a whole number, got '2.5'"),
        ("norm", "gn:groups=0", "groups must be at least 1"),
        ("norm", "lrn:k=0", "k must be above 0"),
        ("norm", "lrn:window=meen", "Did you mean 'mean'"),
        ("act", "relu:0.1", "it takes no argument"),
        ("act", "relu:after", "it takes no argument"),
    ],
)
def test_a_wrong_level_says_what_would_be_right(slot, text, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        parse_level(slot, text)


def test_every_level_that_parses_can_be_built_and_none_beside():
    assert set(LEVELS["norm"]) == set(NORMS)
    assert set(LEVELS["act"]) == set(ACTIVATIONS)
