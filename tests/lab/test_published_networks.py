"""ResNet18, VGG11 and the MobileNets against forward passes written a second time, straight from torchvision's names.

The oracles below know no module: they read kernel sizes and groups off the tensors and take strides and activations
from tables typed in from the papers. Both sides run in float64, so that a wrong stride, epsilon or activation exceeds
rounding.
"""

import itertools
import math
from collections.abc import Callable, Mapping

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alexnet_lab.networks import build_network
from alexnet_lab.networks.mobilenet import MobileNetV2, MobileNetV3Large, MobileNetV3Small
from alexnet_lab.networks.parts import Dropout
from alexnet_lab.networks.pretrained import from_torchvision_state_dict, to_torchvision_state_dict
from alexnet_lab.networks.resnet import ResNet18
from alexnet_lab.networks.vgg import VGG11

Tensors = Mapping[str, Tensor]
NETWORKS = {
    "resnet18": ResNet18,
    "vgg11": VGG11,
    "mobilenet_v2": MobileNetV2,
    "mobilenet_v3_small": MobileNetV3Small,
    "mobilenet_v3_large": MobileNetV3Large,
}


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
    generator = torch.Generator().manual_seed(1)
    side = 96 if name.startswith("vgg") else 48  # vgg11 then averages maps of 3x3 to 7x7
    x = torch.randn(2, 3, side, side, generator=generator, dtype=torch.float64)
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
    measured = {}
    with torch.device("meta"):
        network = NETWORKS[name]()
        for part in shapes:
            network.get_submodule(part).register_forward_hook(
                lambda _module, _inputs, output, part=part: measured.update({part: tuple(output.shape[1:])})
            )
        network(torch.empty(1, 3, 224, 224))
    assert measured == shapes


@pytest.mark.parametrize("name", NETWORKS)
def test_batch_norm_and_dropout_have_the_published_constants(name: str) -> None:
    network = NETWORKS[name](5, width=0.25)
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
        asked = NETWORKS[name](5, width=0.25, norm="bn")
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
    network = NETWORKS[name](5, width=width)
    blocks = [m.project if hasattr(m, "project") else m.second for m in network.modules() if hasattr(m, "add")]
    measured = [network.get_submodule("stem.conv").out_channels, *(block.conv.out_channels for block in blocks)]
    assert measured == channels


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


@pytest.mark.parametrize(
    ("name", "slots", "count", "some"),
    [
        (
            "alexnet",
            {"preset": "torchvision"},
            16,
            {
                "features.0.weight": (64, 3, 11, 11),
                "features.3.weight": (192, 64, 5, 5),
                "features.10.bias": (256,),
                "classifier.1.weight": (4096, 9216),
                "classifier.6.weight": (1000, 4096),
            },
        ),
        (
            "resnet18",
            {},
            122,
            {
                "conv1.weight": (64, 3, 7, 7),
                "bn1.running_var": (64,),
                "layer1.0.conv2.weight": (64, 64, 3, 3),
                "layer2.0.downsample.0.weight": (128, 64, 1, 1),
                "layer3.0.downsample.1.running_mean": (256,),
                "layer4.1.bn2.num_batches_tracked": (),
                "fc.weight": (1000, 512),
            },
        ),
        (
            "vgg11",
            {},
            22,
            {"features.0.weight": (64, 3, 3, 3), "features.18.bias": (512,), "classifier.0.weight": (4096, 25088)},
        ),
        (
            "vgg11",
            {"norm": "bn"},
            62,
            {"features.0.bias": (64,), "features.1.running_mean": (64,), "features.25.weight": (512, 512, 3, 3)},
        ),
        (
            "mobilenet_v2",
            {},
            314,
            {
                "features.0.0.weight": (32, 3, 3, 3),
                "features.1.conv.0.0.weight": (32, 1, 3, 3),
                "features.1.conv.1.weight": (16, 32, 1, 1),
                "features.1.conv.2.bias": (16,),
                "features.17.conv.1.0.weight": (960, 1, 3, 3),
                "features.17.conv.2.weight": (320, 960, 1, 1),
                "features.17.conv.3.weight": (320,),
                "features.18.1.weight": (1280,),
                "classifier.1.weight": (1000, 1280),
            },
        ),
        (
            "mobilenet_v3_small",
            {},
            244,
            {
                "features.1.block.0.0.weight": (16, 1, 3, 3),
                "features.1.block.1.fc1.weight": (8, 16, 1, 1),
                "features.2.block.1.0.weight": (72, 1, 3, 3),
                "features.11.block.2.fc2.bias": (576,),
                "features.11.block.3.1.weight": (96,),
                "features.12.0.weight": (576, 96, 1, 1),
                "classifier.0.weight": (1024, 576),
                "classifier.3.bias": (1000,),
            },
        ),
        (
            "mobilenet_v3_large",
            {},
            312,
            {
                "features.1.block.1.0.weight": (16, 16, 1, 1),
                "features.4.block.2.fc1.weight": (24, 72, 1, 1),
                "features.15.block.1.0.weight": (960, 1, 5, 5),
                "features.16.0.weight": (960, 160, 1, 1),
                "classifier.0.weight": (1280, 960),
            },
        ),
    ],
)
def test_names_and_shapes_are_those_of_the_published_files(
    name: str, slots: dict[str, str], count: int, some: dict[str, tuple[int, ...]]
) -> None:
    with torch.device("meta"):
        content = to_torchvision_state_dict(build_network(name, **slots))
    assert len(content) == count
    assert {key: tuple(content[key].shape) for key in some} == some
