"""AlexNet against tables worked out by hand and forward passes written a second time."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from alexnet_lab.networks import AlexNet
from alexnet_lab.networks.alexnet import published_start
from alexnet_lab.networks.initialisation import _fill, gaussian, initialise, resolve_init
from alexnet_lab.networks.parts import Dropout
from alexnet_lab.networks.presets import PRESETS
from alexnet_lab.randomness import stream

OF_2012 = ("paper", "source2012")
OF_CAFFE = ("caffe", "caffenet")


@pytest.mark.parametrize(
    ("preset", "thousand", "ten"),
    [
        ("paper", 60_965_224, 56_909_194),
        ("source2012", 60_965_224, 56_909_194),
        ("caffe", 60_965_224, 56_909_194),
        ("caffenet", 60_965_224, 56_909_194),
        ("review", 62_378_344, 58_322_314),
        ("torchvision", 61_100_840, 57_044_810),
    ],
)
def test_parameter_counts(preset, thousand, ten):
    with torch.device("meta"):
        for classes, count in ((1000, thousand), (10, ten)):
            assert sum(p.numel() for p in AlexNet(classes, preset=preset).parameters()) == count


# Worked out from the paper's section 3.5: (227 - 11) / 4 + 1 = 55, (55 - 3) / 2 + 1 = 27, 13, 6.
SHAPES = {
    "conv1": (96, 55, 55),
    "pool1": (96, 27, 27),
    "conv2": (256, 27, 27),
    "pool2": (256, 13, 13),
    "conv3": (384, 13, 13),
    "conv4": (384, 13, 13),
    "conv5": (256, 13, 13),
    "pool5": (256, 6, 6),
    "fc6": (4096,),
    "fc7": (4096,),
    "fc8": (1000,),
}


def shapes_of(network, side):
    shapes = {}
    for name, layer in network.named_children():
        layer.register_forward_hook(
            lambda _layer, _inputs, output, name=name: shapes.update({name: tuple(output.shape[1:])})
        )
    network.eval()(torch.zeros(1, 3, side, side, device="meta"))
    return shapes


@pytest.mark.parametrize(
    ("preset", "side"), [*itertools.product(OF_2012, (224, 227)), ("caffe", 227), ("caffenet", 227), ("review", 227)]
)
def test_output_shapes_of_every_layer(preset, side):
    with torch.device("meta"):
        network = AlexNet(preset=preset, image_size=side)
    assert SHAPES.items() <= shapes_of(network, side).items()


def test_the_convolutions_have_the_papers_650_thousand_neurons():
    # 253,440 + 186,624 + 64,896 + 64,896 + 43,264; the fully connected layers bring it to the paper's 650,000 or so.
    neurons = sum(c * h * w for name, (c, h, w) in ((n, s) for n, s in SHAPES.items() if n.startswith("conv")))
    with torch.device("meta"):
        shapes = shapes_of(AlexNet(), 227)
    assert sum(torch.Size(shapes[n]).numel() for n in shapes if n.startswith("conv")) == neurons == 650_080


def lrn_loop(x, alpha, k, towers=1):
    """The paper's formula, written as a loop: alpha is not divided by the window."""
    y, tower = torch.empty_like(x), x.shape[1] // towers
    for c in range(x.shape[1]):
        low, high = max(c // tower * tower, c - 2), min((c // tower + 1) * tower, c + 3)
        y[:, c] = x[:, c] / (k + alpha * (x[:, low:high] ** 2).sum(1)) ** 0.75
    return y


def map_norm_loop(x):
    y = torch.empty_like(x)
    for r, c in itertools.product(range(x.shape[2]), range(x.shape[3])):
        near = x[:, :, max(0, r - 2) : r + 3, max(0, c - 2) : c + 3]
        y[:, :, r, c] = x[:, :, r, c] / (1 + 1e-3 / 25 * (near**2).sum((2, 3))) ** 0.75
    return y


def pool(x):
    return F.max_pool2d(x, 3, 2)


def front(preset, x, p):
    """Layers 1 and 2 in the order of each source, float64."""
    towers = PRESETS[preset].groups[1]
    conv1, relu = F.conv2d(x, *p["conv1"], stride=4, padding=2 if preset == "torchvision" else 0), torch.relu

    def conv2(x):
        return F.conv2d(x, *p["conv2"], padding=2, groups=towers)

    match preset:
        case "paper" | "review":
            y = conv2(pool(lrn_loop(relu(conv1), 1e-4, 2)))
            return pool(lrn_loop(relu(y), 1e-4, 2))
        case "source2012":
            y = conv2(relu(pool(lrn_loop(conv1, 2e-5, 2, towers=2))))
            return pool(map_norm_loop(lrn_loop(relu(y), 2e-5, 2, towers=2)))
        case "caffe":
            y = conv2(pool(lrn_loop(relu(conv1), 2e-5, 1)))
            return pool(lrn_loop(relu(y), 2e-5, 1))
        case "caffenet":
            y = conv2(lrn_loop(pool(relu(conv1)), 2e-5, 1))
            return lrn_loop(pool(relu(y)), 2e-5, 1)
    return pool(relu(conv2(pool(relu(conv1)))))


def forward_by_hand(preset, x, p):
    towers = PRESETS[preset].groups[1]
    x = front(preset, x, p)
    x = F.relu(F.conv2d(x, *p["conv3"], padding=1))
    x = F.relu(F.conv2d(x, *p["conv4"], padding=1, groups=towers))
    x = pool(F.relu(F.conv2d(x, *p["conv5"], padding=1, groups=towers)))
    x = (F.adaptive_avg_pool2d(x, 6) if preset == "torchvision" else x).flatten(1)
    at_test = 0.5 if preset in ("paper", "source2012") else 1.0  # 2012: outputs of fc6 and fc7 halved at test
    x = F.relu(F.linear(x, *p["fc6"])) * at_test
    x = F.relu(F.linear(x, *p["fc7"])) * at_test
    return F.linear(x, *p["fc8"])


@pytest.mark.parametrize("preset", PRESETS)
def test_the_forward_pass_equals_one_written_by_hand_in_float64(preset):
    network = AlexNet(7, preset=preset, width=1 / 16, image_size=99, seed=1).double().eval()
    # Pixels and biases large enough that every normalisation bites.
    x = 70 * torch.randn(2, 3, 99, 99, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    weights = {
        name: (20 * layer.weight.data, layer.bias.data)
        for name, layer in network.named_children()
        if isinstance(layer, nn.Conv2d | nn.Linear)
    }
    network.load_state_dict({f"{n}.{k}": v for n, (w, b) in weights.items() for k, v in (("weight", w), ("bias", b))})
    expected = forward_by_hand(preset, x, weights)
    assert expected.std() > 0
    torch.testing.assert_close(network(x), expected, rtol=1e-10, atol=0)


@pytest.mark.parametrize("preset", OF_2012)
def test_224_acts_as_227_with_zeros_on_the_right_and_bottom(preset):
    network = AlexNet(4, preset=preset, width=1 / 16, image_size=224).eval()
    x = torch.randn(1, 3, 224, 224)
    torch.testing.assert_close(network(x), network(F.pad(x, (0, 3, 0, 3))))


@pytest.mark.parametrize("side", [52, 67, 70, 100, 129])
def test_odd_sizes_round_up_as_the_2012_code_did(side):
    # net 145's shape arithmetic: 1 + ceil((side - window) / stride), thrice for pools
    expected = 1 + -(-(side - 11) // 4)
    for _ in range(3):
        expected = 1 + -(-(expected - 3) // 2)
    with torch.device("meta"):
        network = AlexNet(4, image_size=side)
    assert shapes_of(network, side)["pool5"] == (256, expected, expected)


# Caffe's geometry, after conv_layer.cpp and pooling_layer.cpp: a convolution has floor((side - kernel) / stride) + 1
# windows, a pool ceil((side - kernel) / stride) + 1, the last of which is cut off at the edge.


def caffe_conv(x, weight, bias, stride=1, padding=0, groups=1):
    x = F.pad(x, (padding,) * 4)
    kernel = weight.shape[-1]
    side = math.floor((x.shape[-1] - kernel) / stride) + 1
    outputs = []
    for inputs, filters in zip(x.chunk(groups, 1), weight.chunk(groups), strict=True):
        y = x.new_zeros(len(x), len(filters), side, side)
        for r, c in itertools.product(range(kernel), range(kernel)):
            rows, columns = (slice(at, at + stride * (side - 1) + 1, stride) for at in (r, c))
            y += torch.einsum("nihw,oi->nohw", inputs[:, :, rows, columns], filters[:, :, r, c])
        outputs.append(y)
    return torch.cat(outputs, 1) + bias[:, None, None]


def caffe_pool(x):
    side = math.ceil((x.shape[-1] - 3) / 2) + 1
    rows = [x[:, :, 2 * r : 2 * r + 3].amax(2) for r in range(side)]
    rows = torch.stack(rows, 2)
    return torch.stack([rows[:, :, :, 2 * c : 2 * c + 3].amax(3) for c in range(side)], 3)


def caffe_forward(preset, x, p):
    """Return the output, and the sides after conv1 and each pool."""
    sides = []

    def pool(x):
        y = caffe_pool(x)
        sides.append(y.shape[-1])
        return y

    def norm(x):
        return lrn_loop(x, 2e-5, 1)

    end_of_layer = (lambda x: pool(norm(x))) if preset == "caffe" else (lambda x: norm(pool(x)))
    x = caffe_conv(x, *p["conv1"], stride=4).relu()
    sides.append(x.shape[-1])
    x = end_of_layer(x)
    x = end_of_layer(caffe_conv(x, *p["conv2"], padding=2, groups=2).relu())
    x = caffe_conv(x, *p["conv3"], padding=1).relu()
    x = caffe_conv(x, *p["conv4"], padding=1, groups=2).relu()
    x = pool(caffe_conv(x, *p["conv5"], padding=1, groups=2).relu()).flatten(1)
    for layer in ("fc6", "fc7"):
        x = (x @ p[layer][0].T + p[layer][1]).relu()
    return x @ p["fc8"][0].T + p["fc8"][1], tuple(sides)


@pytest.mark.parametrize("preset", OF_CAFFE)
@pytest.mark.parametrize(
    ("side", "expected"),
    # 224: floor(213 / 4) + 1 = 54, ceil(51 / 2) + 1 = 27. 39 is the smallest image: a pool of 2 pixels leaves 1.
    [
        (39, (8, 4, 2, 1)),
        (67, (15, 7, 3, 1)),
        (70, (15, 7, 3, 1)),
        (133, (31, 15, 7, 3)),
        (224, (54, 27, 13, 6)),
        (227, (55, 27, 13, 6)),
    ],
)
def test_the_caffe_presets_round_as_caffe_does(preset, side, expected):
    network = AlexNet(5, preset=preset, width=1 / 16, image_size=side, init="he", seed=2).double().eval()
    x = 70 * torch.randn(1, 3, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(side))
    parameters = {
        name: (layer.weight.detach(), layer.bias.detach())
        for name, layer in network.named_children()
        if isinstance(layer, nn.Conv2d | nn.Linear)
    }
    output, sides = caffe_forward(preset, x, parameters)
    assert sides == expected
    assert output.std() > 0
    torch.testing.assert_close(network(x), output, rtol=1e-9, atol=0)


STARTS = {  # layer -> (std, bias) of the sources, at full width
    "paper": {"conv1": (0.01, 0), "conv2": (0.01, 1), "conv3": (0.01, 0), "fc6": (0.01, 1), "fc8": (0.01, 0)},
    "source2012": {"conv1": (0.01, 0), "conv3": (0.03, 0), "conv4": (0.03, 1), "conv5": (0.03, 1), "fc7": (0.01, 1)},
    "caffe": {"conv1": (0.01, 0), "conv2": (0.01, 0.1), "conv5": (0.01, 0.1), "fc6": (0.005, 0.1), "fc8": (0.01, 0)},
    "caffenet": {"conv1": (0.01, 0), "conv4": (0.01, 1), "fc6": (0.005, 1), "fc7": (0.005, 1), "fc8": (0.01, 0)},
}


@pytest.mark.parametrize("preset", STARTS)
def test_initial_values_have_the_sources_spread_and_bias(preset):
    layers = dict(AlexNet(100, preset=preset, width=0.5, seed=3).named_children())
    for name, (std, bias) in STARTS[preset].items():
        weight = layers[name].weight
        # Five standard errors of a sample standard deviation.
        assert abs(weight.std() - std) < 5 * std / (2 * weight.numel()) ** 0.5, name
        assert torch.all(layers[name].bias == bias), name


def test_the_he_start_keeps_the_spread_of_activations():
    network = AlexNet(10, width=0.25, image_size=67, init="he", norm="none", seed=0).eval()
    x = network[:-1](torch.randn(64, 3, 67, 67))
    assert 0.05 < float(x.detach().std()) < 2


SMALL = {"width": 1 / 16, "image_size": 67, "seed": 3}


@pytest.mark.parametrize("init", ["published", "he", "torch"])
def test_a_default_device_changes_no_initial_value(init):
    network, filled = AlexNet(4, init=init, **SMALL), AlexNet(4, **{**SMALL, "seed": 0})
    rule = resolve_init(init, published_start(PRESETS["paper"]))
    with torch.device("meta"):
        assert all(p.is_meta for p in AlexNet(4, init=init, **SMALL).parameters())
        initialise(filled, rule, 3)
    for name, values in network.named_parameters():
        assert torch.equal(values, filled.get_parameter(name)), name


@pytest.mark.parametrize("init", ["published", "he", "torch"])
def test_a_bias_of_the_initial_values_changes_nothing_but_biases(init):
    without = dict(AlexNet(4, init=init, **SMALL).named_parameters())
    for name, values in AlexNet(4, init=f"{init}:bias=-0.5", **SMALL).named_parameters():
        expected = torch.full_like(values, -0.5) if name.endswith(".bias") else without[name]
        assert torch.equal(values, expected), name


def test_values_of_any_device_are_drawn_on_the_cpu():
    drawn = []

    def draw(values, generator):
        drawn.append((values.device.type, generator.device.type))
        return gaussian(1)(values, generator)

    with torch.device("meta"):
        _fill(torch.empty(3, 4), draw, stream(0, "init", "fc.weight"))
    assert drawn == [("cpu", "cpu")]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("init", ["published", "he", "torch"])
def test_a_network_built_on_a_gpu_has_the_values_of_one_built_on_the_cpu(init):
    with torch.device("cuda"):
        network = AlexNet(4, init=init, **SMALL)
    for name, values in AlexNet(4, init=init, **SMALL).named_parameters():
        assert torch.equal(values, network.get_parameter(name).cpu()), name


@pytest.mark.parametrize(
    ("norm", "preset", "order"),
    [
        ("bn", "paper", "conv1 norm1 act1 pool1 conv2 norm2 act2 pool2 conv3 norm3 act3"),
        ("bn:after", "paper", "conv1 act1 norm1 pool1 conv2 act2 norm2 pool2 conv3 act3 norm3"),
        ("bn:pooled,layers=1", "paper", "conv1 act1 pool1 norm1 conv2 act2 pool2 conv3 act3"),
        ("lrn", "source2012", "conv1 norm1 pool1 act1 conv2 act2 norm2 map_norm2 pool2 conv3 act3"),
        ("lrn:layers=1", "source2012", "conv1 norm1 pool1 act1 conv2 act2 pool2 conv3 act3"),
        ("none", "source2012", "conv1 pool1 act1 conv2 act2 pool2 conv3 act3"),
        ("lrn", "caffenet", "conv1 act1 pool1 norm1 conv2 act2 pool2 norm2 conv3 act3"),
        ("lrn:after", "caffenet", "conv1 act1 norm1 pool1 conv2 act2 norm2 pool2 conv3 act3"),
        ("gn:groups=2", "torchvision", "conv1 norm1 act1 pool1 conv2 norm2 act2 pool2 conv3 norm3 act3"),
        ("lrn", "torchvision", "conv1 act1 norm1 pool1 conv2 act2 norm2 pool2 conv3 act3"),
    ],
)
def test_a_norm_stands_where_it_belongs_or_where_it_is_told(norm, preset, order):
    network = AlexNet(4, preset=preset, norm=norm, width=1 / 8, image_size=67)
    names = [name for name, _ in network.named_children() if name != "pad"]
    assert names[: len(order.split())] == order.split()


def test_a_partial_lrn_keeps_the_other_constants_of_its_preset():
    assert AlexNet(4, preset="source2012", norm="lrn:k=1", width=0.125, image_size=67).norm1.extra_repr() == (
        "size=5, alpha=0.0001, beta=0.75, k=1.0, window=mean, groups=2"
    )


def test_slots_take_constructors():
    network = AlexNet(4, norm=nn.InstanceNorm2d, act=nn.Mish, width=0.125, image_size=67)
    assert isinstance(network.norm5, nn.InstanceNorm2d)
    assert isinstance(network.act7, nn.Mish)


def test_dropout_follows_its_convention():
    x = torch.ones(100_000)
    for inverted, while_training in ((True, 1.0), (False, 0.7)):
        drop = Dropout(0.3, inverted=inverted)
        assert abs(drop(x).mean() - while_training) < 0.01
        torch.testing.assert_close(drop.eval()(x).mean(), torch.tensor(while_training))
    names = [name for name, _ in AlexNet(4, preset="torchvision", width=0.125, image_size=67).named_children()]
    assert names[-7:] == ["drop6", "fc6", "act6", "drop7", "fc7", "act7", "fc8"]
    assert "drop6" not in dict(AlexNet(4, dropout=0, width=0.125, image_size=67).named_children())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"preset": "cafe"}, "unknown AlexNet preset 'cafe'. Did you mean 'caffe'?"),
        ({"image_size": 51}, "image size 51 is too small for preset 'paper'.*smallest that works is 52"),
        ({"image_size": 38, "preset": "caffe"}, "smallest that works is 39"),
        ({"image_size": 66, "preset": "review"}, "smallest that works is 67"),
        ({"image_size": 62, "preset": "torchvision"}, "smallest that works is 63"),
        (
            {"width": 0.01},
            r"two towers.*needs even numbers.*take width 0.0625, or .* one tower \(review, torchvision\)",
        ),
        ({"width": 0}, "width must be above 0, got 0"),
        ({"norm": "gn:groups=31"}, "gn:groups=31 does not divide a layer of 96 channels; these numbers do"),
        ({"norm": "lrn:groups=5"}, "lrn:groups=5 does not divide a layer of 96 channels"),
        ({"norm": "lrn:layers=6"}, "convolutions are numbered 1 to 5"),
        ({"dropout": 1.0}, "dropout must be at least 0 and below 1, got 1.0"),
        ({"init": "hee"}, "unknown init 'hee'. Did you mean 'he'"),
        ({"in_channels": 0}, "in_channels must be at least 1"),
    ],
)
def test_a_wrong_argument_is_refused_with_what_would_work(arguments, message):
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        AlexNet(10, **arguments)


def test_the_smallest_size_named_in_the_error_does_work():
    for preset, side in (("paper", 52), ("caffenet", 39), ("review", 67), ("torchvision", 63)):
        network = AlexNet(3, preset=preset, image_size=side, width=1 / 16).eval()
        assert network(torch.zeros(1, 3, side, side)).shape == (1, 3)
