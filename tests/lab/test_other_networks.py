"""ResNet18, VGG11 and the MobileNets against forward passes written a second time, straight from torchvision's names.

The oracles below know no module: they read kernel sizes and groups off the tensors and take strides and activations
from tables typed in from the papers. Both sides run in float64, where a wrong stride, epsilon or activation cannot hide
behind rounding.
"""

import itertools
import math
from collections.abc import Callable, Mapping

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alexnet_lab.networks.mobilenet import MobileNetV2, MobileNetV3Large, MobileNetV3Small, SqueezeExcite
from alexnet_lab.networks.pretrained import from_torchvision_state_dict, to_torchvision_state_dict
from alexnet_lab.networks.resnet import ResNet18
from alexnet_lab.networks.slots import Dropout, LocalResponseNorm
from alexnet_lab.networks.vgg import VGG11

Tensors = Mapping[str, Tensor]
NETWORKS = {
    "resnet18": ResNet18,
    "vgg11": VGG11,
    "mobilenet_v2": MobileNetV2,
    "mobilenet_v3_small": MobileNetV3Small,
    "mobilenet_v3_large": MobileNetV3Large,
}
every_network = pytest.mark.parametrize("name", NETWORKS)


def small(name: str, **slots: object) -> nn.Module:
    """Build a network that a test can afford; below this width MobileNetV3 would lose its smallest expansion."""
    settings = {"num_classes": 5, "width": 0.125 if name == "vgg11" else 0.25, "image_size": 32, "seed": 0, **slots}
    return NETWORKS[name](**settings)


def images(count: int = 2, side: int = 64, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1), dtype=dtype)


# --- the published networks, a second time ---------------------------------------------------------------------------


def conv_norm(x: Tensor, t: Tensors, conv: str, norm: str | None, stride: int = 1, eps: float = 1e-5) -> Tensor:
    weight = t[f"{conv}.weight"]
    groups = weight.shape[0] if weight.shape[1] == 1 else 1
    x = F.conv2d(x, weight, t.get(f"{conv}.bias"), stride, weight.shape[-1] // 2, groups=groups)
    if norm is None:
        return x
    mean, var, scale, shift = (
        t[f"{norm}.{part}"].reshape(1, -1, 1, 1) for part in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / torch.sqrt(var + eps) * scale + shift


def linear(x: Tensor, t: Tensors, name: str) -> Tensor:
    return x @ t[f"{name}.weight"].T + t[f"{name}.bias"]


def hardsigmoid(x: Tensor) -> Tensor:
    return (x + 3).clamp(0, 6) / 6


def hardswish(x: Tensor) -> Tensor:
    return x * hardsigmoid(x)


def resnet18(t: Tensors, x: Tensor) -> Tensor:
    x = F.max_pool2d(conv_norm(x, t, "conv1", "bn1", 2).relu(), 3, 2, 1)
    for stage, block in itertools.product((1, 2, 3, 4), (0, 1)):
        p = f"layer{stage}.{block}"
        stride = 2 if stage > 1 and block == 0 else 1
        y = conv_norm(x, t, f"{p}.conv1", f"{p}.bn1", stride).relu()
        y = conv_norm(y, t, f"{p}.conv2", f"{p}.bn2")
        if f"{p}.downsample.0.weight" in t:
            x = conv_norm(x, t, f"{p}.downsample.0", f"{p}.downsample.1", stride)
        x = (x + y).relu()
    return linear(x.mean((2, 3)), t, "fc")


def vgg(t: Tensors, x: Tensor, indices: tuple[int, ...], norms: bool) -> Tensor:
    for layer, index in enumerate(indices, 1):
        x = conv_norm(x, t, f"features.{index}", f"features.{index + 1}" if norms else None).relu()
        if layer in (1, 2, 4, 6, 8):
            x = F.max_pool2d(x, 2)
    x = F.adaptive_avg_pool2d(x, 7).flatten(1)
    return linear(linear(linear(x, t, "classifier.0").relu(), t, "classifier.3").relu(), t, "classifier.6")


def vgg11(t: Tensors, x: Tensor) -> Tensor:
    return vgg(t, x, (0, 3, 6, 8, 11, 13, 16, 18), norms=False)


def vgg11_bn(t: Tensors, x: Tensor) -> Tensor:
    return vgg(t, x, (0, 4, 8, 11, 15, 18, 22, 25), norms=True)


def mobilenet_v2(t: Tensors, x: Tensor) -> Tensor:
    x = conv_norm(x, t, "features.0.0", "features.0.1", 2).clamp(0, 6)
    for number, stride in enumerate((1, 2, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 1, 2, 1, 1, 1), 1):
        y, step = x, 0
        while (unit := f"features.{number}.conv.{step}") + ".0.weight" in t:
            depthwise = t[f"{unit}.0.weight"].shape[1] == 1
            y = conv_norm(y, t, f"{unit}.0", f"{unit}.1", stride if depthwise else 1).clamp(0, 6)
            step += 1
        y = conv_norm(y, t, unit, f"features.{number}.conv.{step + 1}")
        x = x + y if x.shape == y.shape else y
    x = conv_norm(x, t, "features.18.0", "features.18.1").clamp(0, 6)
    return linear(x.mean((2, 3)), t, "classifier.1")


def mobilenet_v3(t: Tensors, x: Tensor, blocks: str) -> Tensor:
    x = hardswish(conv_norm(x, t, "features.0.0", "features.0.1", 2, eps=1e-3))
    plan = blocks.split()
    for number, (letter, stride) in enumerate(plan, 1):
        act = hardswish if letter == "H" else torch.relu
        y, step = x, 0
        while (
            f"features.{number}.block.{step + 1}.0.weight" in t or f"features.{number}.block.{step + 1}.fc1.weight" in t
        ):
            unit = f"features.{number}.block.{step}"
            if f"{unit}.fc1.weight" in t:
                gate = conv_norm(y.mean((2, 3), keepdim=True), t, f"{unit}.fc1", None).relu()
                y = y * hardsigmoid(conv_norm(gate, t, f"{unit}.fc2", None))
            else:
                depthwise = t[f"{unit}.0.weight"].shape[1] == 1
                y = act(conv_norm(y, t, f"{unit}.0", f"{unit}.1", int(stride) if depthwise else 1, eps=1e-3))
            step += 1
        last = f"features.{number}.block.{step}"
        y = conv_norm(y, t, f"{last}.0", f"{last}.1", eps=1e-3)
        x = x + y if x.shape == y.shape else y
    top = f"features.{len(plan) + 1}"
    x = hardswish(conv_norm(x, t, f"{top}.0", f"{top}.1", eps=1e-3))
    return linear(hardswish(linear(x.mean((2, 3)), t, "classifier.0")), t, "classifier.3")


def mobilenet_v3_small(t: Tensors, x: Tensor) -> Tensor:
    return mobilenet_v3(t, x, "R2 R2 R1 H2 H1 H1 H1 H1 H2 H1 H1")


def mobilenet_v3_large(t: Tensors, x: Tensor) -> Tensor:
    return mobilenet_v3(t, x, "R1 R2 R1 R2 R1 R1 H2 H1 H1 H1 H1 H1 H2 H1 H1")


def random_values(names_and_shapes: Tensors, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """Draw a state dict in which every tensor matters: no mean at 0, no variance and no scale at 1."""
    generator = torch.Generator().manual_seed(7)

    def draw(name: str, like: Tensor) -> Tensor:
        if name.endswith("num_batches_tracked"):
            return torch.tensor(3)
        if name.endswith("running_var") or (like.ndim == 1 and name.endswith("weight")):
            return torch.rand(like.shape, generator=generator, dtype=dtype) + 0.5
        scale = math.sqrt(2 / like[0].numel()) if like.ndim > 1 else 0.3
        return torch.randn(like.shape, generator=generator, dtype=dtype) * scale

    return {name: draw(name, like) for name, like in names_and_shapes.items()}


ORACLES: Mapping[str, tuple[Callable[[], nn.Module], Callable[[Tensors, Tensor], Tensor]]] = {
    "resnet18": (lambda: ResNet18(7), resnet18),
    "vgg11": (lambda: VGG11(7, width=0.125), vgg11),
    "vgg11_bn": (lambda: VGG11(7, width=0.125, norm="bn"), vgg11_bn),
    "mobilenet_v2": (lambda: MobileNetV2(7, width=0.25), mobilenet_v2),
    "mobilenet_v3_small": (lambda: MobileNetV3Small(7, width=0.25), mobilenet_v3_small),
    "mobilenet_v3_large": (lambda: MobileNetV3Large(7, width=0.25), mobilenet_v3_large),
}


@pytest.mark.parametrize("name", ORACLES)
def test_forward_is_the_published_one(name: str) -> None:
    build, oracle = ORACLES[name]
    network = build().double().eval()
    tensors = random_values(to_torchvision_state_dict(network))
    network.load_state_dict(from_torchvision_state_dict(network, tensors))
    x = images(side=96 if name.startswith("vgg") else 48, dtype=torch.float64)  # maps of 3x3, to be averaged to 7x7
    with torch.no_grad():
        torch.testing.assert_close(network(x), oracle(tensors, x), rtol=1e-9, atol=1e-11)


# --- what is published in numbers ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("resnet18", 11_689_512),
        ("vgg11", 132_863_336),
        ("mobilenet_v2", 3_504_872),
        ("mobilenet_v3_small", 2_542_856),
        ("mobilenet_v3_large", 5_483_032),
    ],
)
def test_parameters_are_as_many_as_published(name: str, parameters: int) -> None:
    with torch.device("meta"):
        network = NETWORKS[name]()
        assert network(torch.empty(2, 3, 224, 224)).shape == (2, 1000)
    assert sum(p.numel() for p in network.parameters()) == parameters


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("resnet18", {"stem": (64, 56, 56), "stage1": (64, 56, 56), "stage2": (128, 28, 28), "stage4": (512, 7, 7)}),
        ("vgg11", {"layer1": (64, 112, 112), "layer3": (256, 56, 56), "layer4": (256, 28, 28), "layer8": (512, 7, 7)}),
        (
            "mobilenet_v2",
            {"stem": (32, 112, 112), "block1": (16, 112, 112), "block17": (320, 7, 7), "widen": (1280, 7, 7)},
        ),
        (
            "mobilenet_v3_small",
            {"stem": (16, 112, 112), "block1": (16, 56, 56), "block11": (96, 7, 7), "widen": (576, 7, 7)},
        ),
        ("mobilenet_v3_large", {"block1": (16, 112, 112), "block7": (80, 14, 14), "widen": (960, 7, 7)}),
    ],
)
def test_feature_maps_have_the_published_shapes(name: str, shapes: dict[str, tuple[int, ...]]) -> None:
    found = {}
    with torch.device("meta"):
        network = NETWORKS[name]()
        for part in shapes:
            network.get_submodule(part).register_forward_hook(
                lambda _module, _inputs, output, part=part: found.update({part: tuple(output.shape[1:])})
            )
        network(torch.empty(1, 3, 224, 224))
    assert found == shapes


@every_network
def test_batch_norm_and_dropout_have_the_published_constants(name: str) -> None:
    network = small(name)
    constants = {(m.eps, m.momentum) for m in network.modules() if isinstance(m, nn.BatchNorm2d)}
    dropouts = [m.p for m in network.modules() if isinstance(m, Dropout)]
    if name == "vgg11":
        assert (constants, dropouts) == (set(), [0.5, 0.5])
    elif name == "resnet18":
        assert (constants, dropouts) == ({(1e-5, 0.1)}, [])
    else:
        assert constants == ({(1e-5, 0.1)} if name == "mobilenet_v2" else {(1e-3, 0.01)})
        assert dropouts == [0.2]
    if name != "vgg11":  # asked for by name, bn is the network's own
        asked = small(name, norm="bn")
        assert {(m.eps, m.momentum) for m in asked.modules() if isinstance(m, nn.BatchNorm2d)} == constants


@pytest.mark.parametrize(
    ("name", "width", "channels"),
    [
        ("mobilenet_v2", 0.35, [16, 8, 8, 8, 16, 16, 16, 24, 24, 24, 24, 32, 32, 32, 56, 56, 56, 112]),
        ("mobilenet_v3_small", 0.75, [16, 16, 24, 24, 32, 32, 32, 40, 40, 72, 72, 72]),
        ("resnet18", 0.3, [19, 19, 19, 38, 38, 77, 77, 154, 154]),
    ],
)
def test_width_rounds_channels_as_published(name: str, width: float, channels: list[int]) -> None:
    network = small(name, width=width)
    blocks = [m.project if hasattr(m, "project") else m.second for m in network.modules() if hasattr(m, "add")]
    found = [network.get_submodule("stem.conv").out_channels, *(block.conv.out_channels for block in blocks)]
    assert found == channels


# --- slots -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "convolutions"),
    [("resnet18", 20), ("vgg11", 8), ("mobilenet_v2", 52), ("mobilenet_v3_small", 34), ("mobilenet_v3_large", 46)],
)
def test_convolutions_are_numbered_in_the_order_of_computation(name: str, convolutions: int) -> None:
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
    inside = {id(m) for gate in network.modules() if isinstance(gate, SqueezeExcite) for m in gate.modules()}
    published = (nn.ReLU, nn.ReLU6, nn.Hardswish, nn.Hardsigmoid)
    assert not [m for m in network.modules() if isinstance(m, published) and id(m) not in inside]
    replaced = sum(isinstance(m, nn.ELU) for m in network.modules())
    assert (
        replaced
        == {
            "resnet18": 17,
            "vgg11": 10,
            "mobilenet_v2": 35,
            "mobilenet_v3_small": 24,
            "mobilenet_v3_large": 32,
        }[name]
    )


def test_a_norm_can_stand_behind_a_pool() -> None:
    layer = small("vgg11", norm="lrn:pooled").get_submodule("layer2")
    assert [name for name, _ in layer.named_children()] == ["conv", "act", "pool", "norm"]
    stem = small("resnet18", norm="bn:pooled").get_submodule("stem")
    assert [name for name, _ in stem.named_children()] == ["conv", "act", "pool", "norm"]
    with pytest.raises(ValueError, match="mobilenet_v2 has none to stand behind"):
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
    *({"norm": norm, "act": None} for norm in (None, "bn", "bn:after", "gn", "lrn", "lrn:k=1,layers=3", "none")),
    *(
        {"norm": norm, "act": act}
        for norm in (None, "none", "gn")
        for act in ("relu", "leaky:0.2", "prelu", "elu", "gelu", "silu", "tanh", "sigmoid", "hardswish", "none")
    ),
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


def test_initial_values_follow_the_published_rules() -> None:
    def std(network: nn.Module, path: str) -> float:
        return float(network.get_parameter(f"{path}.weight").detach().std())

    resnet = ResNet18(1000, seed=0)
    assert std(resnet, "stage4.block2.second.conv") == pytest.approx(math.sqrt(2 / (9 * 512)), rel=0.02)
    assert float(resnet.classifier.weight.detach().abs().max()) == pytest.approx(1 / math.sqrt(512), rel=0.001)
    vgg = VGG11(10, seed=0, width=0.25)
    assert std(vgg, "layer8.conv") == pytest.approx(math.sqrt(2 / (9 * 128)), rel=0.02)
    assert std(vgg, "classifier.hidden1") == pytest.approx(0.01, rel=0.02)
    mobile = MobileNetV3Large(10, seed=0)
    assert std(mobile, "block15.depthwise.conv") == pytest.approx(math.sqrt(2 / (25 * 960)), rel=0.02)
    assert std(mobile, "classifier.hidden") == pytest.approx(0.01, rel=0.02)
    assert not mobile.get_parameter("block15.squeeze_excite.squeeze.bias").any()


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
    """Compare outputs in eval mode, and gradients in training mode, where nothing is dropped."""
    compiled = torch.compile(network, fullgraph=True, backend=backend)
    for training in (False, True):
        network.train(training)
        gradients = []
        for callee in (network, compiled):
            network.zero_grad()
            output = callee(images(4))
            F.cross_entropy(output, torch.tensor([0, 1, 2, 3])).backward()
            gradients.append((output.detach(), [p.grad.clone() for p in network.parameters()]))
        (expected, wanted), (found, got) = gradients
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        for ours, theirs in zip(got, wanted, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3 * float(theirs.abs().max()) + 1e-7)


@pytest.mark.long
@every_network
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
    # One network that adds and normalises; inductor takes minutes of C++ for each MobileNet on two cores.
    compiled_agrees(small("resnet18", dropout=0.0), "inductor")
