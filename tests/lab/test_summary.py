"""The table of a network, against figures worked out by hand."""

import torch

from alexnet_lab.networks import build_network
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


def test_looking_at_a_network_leaves_no_hook_behind():
    with torch.device("meta"):
        network = build_network("alexnet").train()
    summarise(network, 227)
    assert network.training
    assert not any(module._forward_hooks for module in network.modules())
