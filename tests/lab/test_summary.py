"""The table of a network, against figures worked out by hand and fields measured by gradients."""

import pytest
import torch
from torch import nn

from alexnet_lab.networks import AlexNet, build_network
from alexnet_lab.networks.summary import summarise


def rows_of(name, side, **slots):
    with torch.device("meta"):
        network = build_network(name, image_size=side, **slots)
    return network, {row.name: row for row in summarise(network, side)}


def test_alexnet_layer_by_layer():
    _, rows = rows_of("alexnet", 227, preset="paper")
    # multiply-adds: window x inputs x outputs x positions; a tower halves the inputs of conv2, 4 and 5
    assert rows["conv1"].multiply_adds == 11 * 11 * 3 * 96 * 55 * 55
    assert rows["conv2"].multiply_adds == 5 * 5 * 48 * 256 * 27 * 27
    assert rows["conv3"].multiply_adds == 3 * 3 * 256 * 384 * 13 * 13
    assert rows["fc6"].multiply_adds == 9216 * 4096
    assert rows["conv2"].parameters == 5 * 5 * 48 * 256 + 256
    assert rows["norm1"].parameters == 0
    assert rows["pool5"].output_shape == (256, 6, 6)
    # fields: 11; 11+2*4=19; 19+4*8=51; 51+2*8=67; 67+2*16=99; 131; 163; 163+2*16=195; then everything
    fields = {"conv1": 11, "pool1": 19, "conv2": 51, "pool2": 67, "conv3": 99, "conv4": 131, "conv5": 163, "pool5": 195}
    assert {name: rows[name].receptive_field for name in fields} == {name: str(side) for name, side in fields.items()}
    assert rows["fc6"].receptive_field == "all"


def test_the_within_map_norm_of_2012_widens_the_field():
    _, rows = rows_of("alexnet", 227, preset="source2012")
    # a window of 5 at steps of 8 pixels adds 4*8 to conv2's 51, and to every layer after it
    fields = {"norm2": 51, "map_norm2": 83, "pool2": 99, "conv3": 131, "conv4": 163, "conv5": 195, "pool5": 227}
    assert {name: rows[name].receptive_field for name in fields} == {name: str(side) for name, side in fields.items()}


def fields_by_gradient(network, side):
    """For every layer with maps: how many pixels wide the gradient of its middle output is at the input."""
    outputs = {}
    for name, layer in network.named_modules():
        if not list(layer.children()):
            layer.register_forward_hook(lambda _m, _x, y, name=name: outputs.update({name: y}))
    image = torch.randn(1, 3, side, side, dtype=torch.float64, requires_grad=True)
    network(image)
    widths = {}
    for name, maps in outputs.items():
        if maps.ndim == 4:
            middle = maps[0, :, maps.shape[2] // 2, maps.shape[3] // 2].sum()
            (gradient,) = torch.autograd.grad(middle, image, retain_graph=True)
            columns = gradient[0].abs().amax((0, 1)).nonzero().flatten()
            widths[name] = int(columns[-1] - columns[0]) + 1
    return widths


@pytest.mark.parametrize("preset", ["paper", "source2012", "caffe", "caffenet", "review", "torchvision"])
def test_fields_are_as_wide_as_gradients_reach(preset):
    # Average pools and no ReLU, so that every pixel of a window counts; the adaptive pool takes maps of 14 to 6.
    side = 483
    network = AlexNet(2, preset=preset, act="none", width=1 / 16, image_size=side, init="he", seed=0).double().eval()
    for name, layer in list(network.named_children()):
        if isinstance(layer, nn.MaxPool2d):
            setattr(network, name, nn.AvgPool2d(3, 2, ceil_mode=layer.ceil_mode))
    rows = {row.name: row.receptive_field for row in summarise(network, side)}
    measured = fields_by_gradient(network, side)
    assert {"conv1", "pool2", "conv5", "pool5"} <= measured.keys()
    assert {name: rows[name] for name in measured} == {name: str(width) for name, width in measured.items()}


@pytest.mark.parametrize("norm", ["gn:groups=1", nn.InstanceNorm2d])
def test_a_norm_over_whole_maps_sees_the_whole_image(norm):
    network = AlexNet(2, norm=norm, width=1 / 8, image_size=99, init="he", seed=0).double().eval()
    rows = {row.name: row.receptive_field for row in summarise(network, 99)}
    measured = fields_by_gradient(network, 99)
    assert (rows["conv1"], rows["norm1"], rows["conv2"]) == ("11", "all", "all")
    assert (measured["conv1"], measured["norm1"]) == (11, 99)


def test_a_dilated_window_is_as_wide_as_it_reaches():
    network = nn.Sequential(nn.Conv2d(3, 4, 3, dilation=2), nn.MaxPool2d(3, stride=1, dilation=3))
    assert [row.receptive_field for row in summarise(network, 32)] == ["5", "11"]


def test_every_parameter_stands_in_exactly_one_row():
    for name, side in (("alexnet", 227), ("resnet18", 224), ("vgg11", 224), ("mobilenet_v3_small", 224)):
        network, rows = rows_of(name, side)
        assert sum(row.parameters for row in rows.values()) == sum(p.numel() for p in network.parameters()), name


def test_a_residual_sum_sees_what_its_wider_branch_sees():
    _, rows = rows_of("resnet18", 224)
    # stem 7, pool 11, two 3x3 at step 4: 27, then again 43: the published receptive fields of stage 1
    sums = [row.receptive_field for row in rows.values() if row.kind == "Add"]
    assert sums[:2] == ["27", "43"]
    assert sums[-1] == "435"


class Caller:
    """Owns what a network's hooks lead to, cannot be copied, and counts its calls."""

    def __init__(self):
        self.calls = 0

    def hook(self, *_arguments):
        self.calls += 1

    def __deepcopy__(self, _memo):
        raise AssertionError("the owner of a hook was copied")


def test_a_summary_leaves_the_network_as_it_was():
    network = AlexNet(3, norm="bn", width=1 / 16, image_size=67, seed=0)
    x = torch.randn(4, 3, 67, 67)
    network(x).sum().backward()  # gradients and running statistics
    network.act1.seen = network.conv1(x)  # a tensor with a history, kept on a module
    network.norm2.eval()  # a frozen part of a network in training
    network.conv3.requires_grad_(False)
    network.drop6.generator = torch.Generator().manual_seed(5)
    caller = Caller()
    network.register_forward_pre_hook(caller.hook)
    network.conv1.register_forward_hook(caller.hook)
    network.register_load_state_dict_post_hook(caller.hook)

    tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    before = {name: (value, value.detach().clone(), value.grad) for name, value in tensors.items()}
    modes = {name: module.training for name, module in network.named_modules()}
    masks, draws = network.drop6.generator.get_state(), torch.get_rng_state()

    rows = summarise(network, 67)

    with torch.device("meta"):
        assert rows == summarise(AlexNet(3, norm="bn", width=1 / 16, image_size=67), 67)
    after = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    for name, (value, copied, gradient) in before.items():
        assert after[name] is value, name
        assert value.device.type == "cpu", name
        assert torch.equal(value, copied), name
        assert value.grad is gradient, name
    assert {name: module.training for name, module in network.named_modules()} == modes
    assert not network.conv3.weight.requires_grad
    assert caller.calls == 0
    hooks = [
        len(network._forward_pre_hooks),
        len(network.conv1._forward_hooks),
        len(network._load_state_dict_post_hooks),
    ]
    assert hooks == [1, 1, 1]
    assert sum(len(module._forward_hooks) for module in network.modules()) == 1
    assert torch.equal(network.drop6.generator.get_state(), masks)
    assert torch.equal(torch.get_rng_state(), draws)
    assert torch.isfinite(network(x)).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_a_network_of_any_dtype_is_summarised(dtype):
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).to(dtype)
    assert [row.output_shape for row in summarise(network, 8)] == [(4, 6, 6)] * 2
