"""Common random numbers: what two networks share starts, and stays, the same."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alexnet_lab.levels import LEVELS
from alexnet_lab.networks import build_network
from alexnet_lab.networks.presets import PRESETS
from alexnet_lab.randomness import derived_seed, stream

NORM_LEVELS = st.sampled_from([*LEVELS["norm"], "bn:after", "lrn:k=1", "lrn:layers=all", "gn:groups=2"])
ACT_LEVELS = st.sampled_from([*LEVELS["act"], "leaky:0.2"])
SMALL = {"width": 1 / 8, "image_size": 67, "num_classes": 3}


def assert_shared_values_equal(one, other):
    one, other = dict(one.named_parameters()), dict(other.named_parameters())
    shared = one.keys() & other.keys()
    assert {name for name in one if name.startswith(("conv", "fc"))} <= shared
    for name in shared:
        assert torch.equal(one[name], other[name]), name


@given(
    st.sampled_from(list(PRESETS)),
    st.lists(NORM_LEVELS, min_size=2, max_size=2),
    st.lists(ACT_LEVELS, min_size=2, max_size=2),
    st.lists(st.sampled_from([0.0, 0.3, 0.5]), min_size=2, max_size=2),
    st.integers(0, 2**62),
)
@settings(max_examples=60, deadline=None)
def test_networks_that_differ_in_slots_start_alike_wherever_they_share_a_name(preset, norms, acts, dropouts, seed):
    one, other = (
        build_network("alexnet", preset=preset, norm=n, act=a, dropout=d, seed=seed, **SMALL)
        for n, a, d in zip(norms, acts, dropouts, strict=True)
    )
    assert_shared_values_equal(one, other)


def test_without_a_seed_the_values_follow_torch_manual_seed():
    def values(seed):
        torch.manual_seed(seed)
        return build_network("alexnet", **SMALL).conv3.weight

    assert torch.equal(values(1), values(1))
    assert not torch.equal(values(1), values(2))


def test_building_a_network_with_a_seed_ignores_the_global_generator():
    torch.manual_seed(1)
    one = build_network("alexnet", seed=5, **SMALL)
    torch.manual_seed(2)
    assert_shared_values_equal(one, build_network("alexnet", seed=5, **SMALL))


def test_every_parameter_has_values_of_its_own():
    network = build_network("alexnet", **SMALL, seed=0)
    heads = [layer.flatten()[:8] for name, layer in network.named_parameters() if name.endswith("weight")]
    assert len({tuple(head.tolist()) for head in heads}) == len(heads)


@given(st.integers(0, 2**63), st.text(max_size=20), st.text(max_size=20))
def test_a_stream_is_named_by_all_its_parts(seed, a, b):
    assert 0 <= derived_seed(seed, a, b) < 2**63
    assert derived_seed(seed, a, b) == derived_seed(seed, a, b)
    assert derived_seed(seed, a, b) != derived_seed(seed + 1, a, b)
    if "\x1f" not in a + b:
        assert derived_seed(seed, a, b) != derived_seed(seed, a + b)
        assert derived_seed(seed, a + "x", b) != derived_seed(seed, a, "x" + b)


def test_a_stream_does_not_depend_on_what_was_drawn_before():
    torch.rand(3)
    first = torch.rand(4, generator=stream(7, "init", "conv1.weight"))
    torch.rand(100)
    assert torch.equal(first, torch.rand(4, generator=stream(7, "init", "conv1.weight")))


def test_streams_keep_their_values_from_one_release_to_the_next():
    # Changing these changes every result anyone has published with a seed.
    assert derived_seed(0, "init", "conv1.weight") == 4_841_123_883_666_010_723
    assert derived_seed(3, "order", 1) == 6_663_355_537_991_826_857


def test_unknown_networks_and_misplaced_presets_are_refused():
    with pytest.raises(ValueError, match="unknown network 'resnet'. Did you mean 'resnet18'"):
        build_network("resnet")
    with pytest.raises(ValueError, match="only alexnet has presets; resnet18 was given preset 'paper'"):
        build_network("resnet18", preset="paper")
