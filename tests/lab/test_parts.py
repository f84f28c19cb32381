"""ReLU, LRN and pool in one pass: taken if they follow each other, with the results of the modules one by one."""

import pytest
import torch

from alexnet_lab.networks import AlexNet, build_network
from alexnet_lab.networks.parts import Dropout, LocalResponseNorm


def count_passes(monkeypatch):
    counts = {"after_relu": 0, "after_relu_pooled": 0}
    for name in counts:
        original = getattr(LocalResponseNorm, name)

        def counted(self, x, name=name, original=original):
            counts[name] += 1
            return original(self, x)

        monkeypatch.setattr(LocalResponseNorm, name, counted)
    return counts


def one_by_one(network):
    """Hook every module, so that all run one by one."""
    for part in network.modules():
        if not list(part.children()):
            part.register_forward_hook(lambda *_: None)
    return network


@pytest.mark.parametrize(
    ("slots", "pooled", "alone"),
    [
        ({"preset": "paper"}, 2, 0),
        ({"preset": "caffe"}, 2, 0),
        ({"preset": "review"}, 2, 0),
        ({"preset": "source2012"}, 0, 1),  # layer 1 has its ReLU after the pool, layer 2 a second norm before it
        ({"preset": "caffenet"}, 0, 0),  # pools before it normalises
        ({"preset": "paper", "norm": "lrn:layers=all"}, 3, 2),
        ({"preset": "paper", "act": "leaky"}, 0, 0),
        ({"preset": "paper", "norm": "bn"}, 0, 0),
    ],
)
def test_the_single_pass_is_taken_where_the_slots_allow_it_with_the_same_numbers(slots, pooled, alone, monkeypatch):
    counts = count_passes(monkeypatch)
    make = lambda: AlexNet(5, width=1 / 8, image_size=99, seed=1, init="he", dropout=0, **slots)  # noqa: E731
    fused, apart = make(), one_by_one(make())
    x = 70 * torch.randn(2, 3, 99, 99, generator=torch.Generator().manual_seed(0))
    ours, theirs = fused(x), apart(x)
    assert counts == {"after_relu_pooled": pooled, "after_relu": alone}
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * float(theirs.detach().abs().max()))
    ours.square().sum().backward()
    theirs.square().sum().backward()
    for (name, one), other in zip(fused.named_parameters(), apart.parameters(), strict=True):
        scale = float(other.grad.abs().max())
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-3, atol=1e-4 * scale, msg=name)


@pytest.mark.parametrize("side", [98, 99, 100, 101, 103])
def test_rounding_up_at_the_pool_is_kept(side):
    make = lambda: AlexNet(5, width=1 / 8, image_size=side, seed=1, init="he").eval()  # noqa: E731
    x = torch.randn(1, 3, side, side)
    torch.testing.assert_close(make()(x), one_by_one(make())(x), rtol=1e-4, atol=1e-5)


def test_a_hook_sees_its_part_and_its_numbers():
    network = AlexNet(5, width=1 / 8, image_size=67).eval()
    seen = {}
    network.norm1.register_forward_hook(lambda _m, inputs, output: seen.update(inputs=inputs[0], output=output))
    network(torch.randn(2, 3, 67, 67))
    assert (seen["inputs"] >= 0).all()
    torch.testing.assert_close(seen["output"], network.norm1(seen["inputs"]))


def test_a_vgg_with_lrn_takes_it_too(monkeypatch):
    counts = count_passes(monkeypatch)
    build_network("vgg11", 3, norm="lrn", width=1 / 8, image_size=32).eval()(torch.randn(1, 3, 32, 32))
    assert sum(counts.values()) == 2


def test_a_mask_cut_from_a_larger_batch_is_its_part():
    whole, part = Dropout(0.5), Dropout(0.5)
    whole.generator, part.generator = torch.Generator().manual_seed(3), torch.Generator()
    expected = whole(torch.ones(6, 10))
    for index in range(3):
        for written in (index, torch.tensor([index])):
            part.generator.manual_seed(3)
            part.part = (written, 3)
            assert torch.equal(part(torch.ones(2, 10)), expected[2 * index : 2 * index + 2])


@pytest.mark.long
@pytest.mark.parametrize("preset", ["paper", "source2012"])
def test_compiled_exported_autocast_and_channels_last_agree(preset):
    network = AlexNet(5, preset=preset, width=1 / 8, image_size=67, init="he", seed=0).eval()
    x = torch.randn(2, 3, 67, 67)
    plain = network(x)
    torch.testing.assert_close(torch.compile(network, fullgraph=True)(x), plain, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(torch.export.export(network, (x,)).module()(x), plain, rtol=1e-4, atol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(network(x).float(), plain, rtol=0.1, atol=0.1)
    last = network.to(memory_format=torch.channels_last)(x.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(last, plain, rtol=1e-4, atol=1e-4)
