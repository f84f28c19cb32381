"""The slots of ResNet18, VGG11 and the MobileNets, what they refuse, and what torch can do with them."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alexnet_lab.levels import ACTIVATIONS, NORMS
from alexnet_lab.networks import build_network
from alexnet_lab.networks.catalogue import CATALOGUE
from alexnet_lab.networks.mobilenet import SqueezeExcite
from alexnet_lab.networks.parts import Dropout, LocalResponseNorm

NETWORKS = {  # numbered convolutions, activations that the slot replaces
    "resnet18": (20, 17),
    "vgg11": (8, 10),
    "mobilenet_v2": (52, 35),
    "mobilenet_v3_small": (34, 24),
    "mobilenet_v3_large": (46, 32),
}
every_network = pytest.mark.parametrize("name", NETWORKS)


def test_every_other_network_of_the_catalogue_is_tested_here() -> None:
    assert {*NETWORKS, "alexnet"} == set(CATALOGUE)


def small(name: str, **slots: object) -> nn.Module:
    """Build a network that a test can afford; below this width MobileNetV3 would lose its smallest expansion."""
    settings = {"num_classes": 5, "width": 0.125 if name == "vgg11" else 0.25, "image_size": 32, "seed": 0, **slots}
    return build_network(name, **settings)


def images(count: int = 2, side: int = 64) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1))


# --- slots -----------------------------------------------------------------------------------------------------------


@every_network
def test_convolutions_are_numbered_in_the_order_of_computation(name: str) -> None:
    convolutions, _ = NETWORKS[name]
    called: list[str] = []
    order = {}
    for number in (1, 2, 7, 8, convolutions):
        if number > convolutions:
            continue
        network = small(name, norm=f"gn:layers={number}")
        (norm,) = [path for path, module in network.named_modules() if isinstance(module, nn.GroupNorm)]
        order[number] = norm.removesuffix(".norm")
    network = small(name)
    for path, module in network.named_modules():
        if isinstance(module, nn.Conv2d) and "squeeze_excite" not in path:
            module.register_forward_hook(lambda _m, _x, _y, path=path: called.append(path.removesuffix(".conv")))
    network.eval()(images(1))
    assert len(called) == convolutions
    assert {number: called[number - 1] for number in order} == order
    with pytest.raises(ValueError, match=f"numbered 1 to {convolutions}"):
        small(name, norm=f"gn:layers={convolutions + 1}")


@every_network
def test_a_bare_lrn_stands_behind_the_activation_of_the_first_two_convolutions(name: str) -> None:
    network = small(name, norm="lrn")
    paths = [path for path, module in network.named_modules() if isinstance(module, LocalResponseNorm)]
    assert len(paths) == 2
    unit = network.get_submodule(paths[0].removesuffix(".norm"))
    assert [part for part, _ in unit.named_children()][:3] == ["conv", "act", "norm"]
    assert network.eval()(images()).isfinite().all()


@every_network
def test_an_activation_replaces_all_but_those_inside_squeeze_excitations(name: str) -> None:
    network = small(name, act="elu:alpha=0.7")
    gates = {id(m) for gate in network.modules() if isinstance(gate, SqueezeExcite) for m in gate.modules()}
    published = (nn.ReLU, nn.ReLU6, nn.Hardswish, nn.Hardsigmoid)
    assert not [m for m in network.modules() if isinstance(m, published) and id(m) not in gates]
    replaced = sum(isinstance(m, nn.ELU) for m in network.modules())
    assert replaced == NETWORKS[name][1]


def test_a_norm_can_stand_behind_a_pool() -> None:
    layer = small("vgg11", norm="lrn:pooled").get_submodule("layer2")
    assert [name for name, _ in layer.named_children()] == ["conv", "act", "pool", "norm"]
    stem = small("resnet18", norm="bn:pooled").get_submodule("stem")
    assert [name for name, _ in stem.named_children()] == ["conv", "act", "pool", "norm"]
    with pytest.raises(ValueError, match="follows a pool, and mobilenet_v2 has none"):
        small("mobilenet_v2", norm="bn:pooled")


@every_network
def test_slots_take_constructors(name: str) -> None:
    network = small(name, norm=nn.InstanceNorm2d, act=nn.Softplus)
    assert network.eval()(images()).shape == (2, 5)
    assert any(isinstance(m, nn.InstanceNorm2d) for m in network.modules())


@every_network
def test_dropout_acts_only_in_training(name: str) -> None:
    network = small(name, dropout=0.6)
    x = images()
    assert not torch.equal(network.eval()(x), network.train()(x))
    features = network.eval()(x)
    torch.testing.assert_close(network(x), features, rtol=0, atol=0)
    assert not [m for m in small(name, dropout=0).modules() if isinstance(m, Dropout)]


LEVELS = [
    *({"norm": norm, "act": None} for norm in (None, *NORMS, "bn:after", "lrn:k=1,layers=3")),
    *({"norm": norm, "act": act} for norm in (None, "none", "gn") for act in (*ACTIVATIONS, "leaky:0.2")),
]


@every_network
@pytest.mark.parametrize("init", ["published", "torch"])
def test_parameters_shared_by_name_start_equal_at_any_pair_of_levels(name: str, init: str) -> None:
    first_seen: dict[str, Tensor] = {}
    for levels in LEVELS:
        parameters = dict(small(name, init=init, **levels).named_parameters())
        convolutions = {path for path in parameters if path.endswith("conv.weight")}
        for path, value in parameters.items():
            # Values first seen at one pair of levels serve every later pair: equality is transitive.
            assert torch.equal(value, first_seen.setdefault(path, value)), (levels, path)
        assert convolutions == {path for path in first_seen if path.endswith("conv.weight")}


@every_network
def test_seeds_name_the_initial_values(name: str) -> None:
    first, again, other = (next(small(name, seed=seed).parameters()) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    torch.manual_seed(11)
    assert torch.equal(next(small(name, seed=None).parameters()), next(small(name, seed=11).parameters()))


# --- input that cannot work ------------------------------------------------------------------------------------------


def test_vgg11_names_the_smallest_image() -> None:
    with pytest.raises(ValueError, match=r"image size 31 is too small for vgg11.*smallest that works is 32"):
        small("vgg11", image_size=31)
    assert small("vgg11", image_size=32).eval()(images(side=32)).shape == (2, 5)


@every_network
@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"num_classes": 0}, "num_classes must be at least 1, got 0"),
        ({"in_channels": 0}, "in_channels must be at least 1, got 0"),
        ({"width": 0.0}, "width must be above 0"),
        ({"image_size": 0}, "image size 0 is too small"),
        ({"dropout": 1.0}, "dropout must be at least 0 and below 1, got 1.0"),
        ({"norm": "bm"}, "unknown norm level 'bm'. Did you mean 'bn'"),
        ({"act": "leeky"}, "unknown act level 'leeky'. Did you mean 'leaky'"),
        ({"init": "publshed"}, "unknown init 'publshed'. Did you mean 'published'"),
    ],
)
def test_wrong_settings_are_refused_in_words(name: str, setting: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(name, **setting)


# --- what torch does with a network ----------------------------------------------------------------------------------


@every_network
def test_the_smallest_images_and_one_channel_pass(name: str) -> None:
    side = 32 if name == "vgg11" else 1
    network = small(name, in_channels=1, image_size=side).eval()
    assert network(torch.randn(1, 1, side, side)).shape == (1, 5)


@every_network
def test_channels_last_gives_the_same_and_stays(name: str) -> None:
    network = small(name).eval()
    x = images()
    with torch.no_grad():
        expected = network(x)
        network.to(memory_format=torch.channels_last)
        strides = []
        last = [m for m in network.modules() if isinstance(m, nn.Conv2d) and m.kernel_size != (1, 1)][-1]
        last.register_forward_hook(lambda _m, _x, y: strides.append(y.is_contiguous(memory_format=torch.channels_last)))
        torch.testing.assert_close(network(x.contiguous(memory_format=torch.channels_last)), expected)
    assert strides == [True]


@every_network
@pytest.mark.parametrize("norm", [None, "lrn"])
def test_autocast_trains_in_bfloat16(name: str, norm: str | None) -> None:
    network = small(name, norm=norm).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = network(images())
    assert output.dtype == torch.bfloat16
    F.cross_entropy(output.float(), torch.tensor([0, 1])).backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in network.parameters())


@pytest.mark.long
@every_network
def test_export_keeps_the_function_at_any_batch_size(name: str) -> None:
    network = small(name).eval()
    exported = torch.export.export(network, (images(3),), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))
    for count in (1, 5):
        torch.testing.assert_close(exported.module()(images(count)), network(images(count)))


def compiled_agrees(network: nn.Module, backend: str) -> None:
    """Compare outputs in eval mode, and gradients in training mode, without dropout.

    In float64: float32 rounds differently from machine to machine, and a value that crosses 0 on one side of a ReLU
    moves whole gradients.
    """
    network.double()
    compiled = torch.compile(network, fullgraph=True, backend=backend)
    for training in (False, True):
        network.train(training)
        gradients = []
        for callee in (network, compiled):
            network.zero_grad()
            output = callee(images(4).double())
            F.cross_entropy(output, torch.tensor([0, 1, 2, 3])).backward()
            gradients.append((output.detach(), [p.grad.clone() for p in network.parameters()]))
        (expected, wanted), (output, got) = gradients
        torch.testing.assert_close(output, expected, rtol=1e-6, atol=1e-8)
        for ours, theirs in zip(got, wanted, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5 * float(theirs.abs().max()) + 1e-10)


@pytest.mark.long
@pytest.mark.parametrize("name", sorted(NETWORKS.keys() - {"mobilenet_v3_large"}))  # it has the small one's blocks
def test_compiles_without_a_graph_break(name: str) -> None:
    torch.compiler.reset()
    compiled_agrees(small(name, dropout=0.0), "aot_eager")


@pytest.mark.long
def test_compiled_dropout_draws_masks() -> None:
    torch.compiler.reset()
    network = torch.compile(small("vgg11"), fullgraph=True, backend="aot_eager").train()
    assert not torch.equal(network(images()), network(images()))


@pytest.mark.long
def test_inductor_gives_the_same() -> None:
    torch.compiler.reset()
    # Pooling, normalising, and both kinds of residual block, with and without a convolution on the shortcut; inductor
    # takes half a minute of C++ for each further block.
    network = small("resnet18", norm="bn")
    body = nn.Sequential(network.get_submodule("stem"), network.get_submodule("stage2"))
    head = nn.Linear(body.eval()(images(1)).shape[1], 5)
    compiled_agrees(nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head), "inductor")
