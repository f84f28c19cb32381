"""AlexNet's presets: the six published networks that go by its name, as data. Needs no torch.

Sources: the paper (Krizhevsky, Sutskever, Hinton, NIPS 2012); the 2012 code as released by the Computer History Museum
in 2025, in which net 145 is the paper's; Caffe's bvlc_alexnet and bvlc_reference_caffenet; torchvision's alexnet.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal


@dataclass(frozen=True)
class Gaussian:
    """Standard deviations of normal initial weights, and the constant biases.

    `bias` is that of conv2, conv4, conv5, fc6 and fc7, whose ReLUs then see positive inputs early (paper, 5). All other
    biases are 0, and the weights of fc8 have a standard deviation of .01.
    """

    conv: float = 0.01  # conv1 and conv2
    conv3to5: float = 0.01
    fc: float = 0.01  # fc6 and fc7
    bias: float = 1.0


@dataclass(frozen=True)
class Preset:
    """One published AlexNet."""

    description: str
    norm: str = "lrn:size=5,alpha=1e-4,beta=0.75,k=2,window=sum"  # paper, 3.3
    channels: tuple[int, int, int, int, int] = (96, 256, 384, 384, 256)
    groups: tuple[int, int, int, int, int] = (1, 2, 1, 2, 2)  # conv2, 4 and 5 see their own tower only
    conv1_padding: int = 0
    # Output sizes that are not whole. "2012": all round up, and pixels beyond the right and bottom edge are 0, so 224
    # acts as 227. "caffe": convolutions round down, pools up. "down": all round down.
    rounding: Literal["2012", "caffe", "down"] = "2012"
    act_after_pool: tuple[int, ...] = ()  # layers whose activation follows the pool
    norm_before_act: tuple[int, ...] = ()  # layers whose LRN precedes the activation
    within_map_norm: int | None = None  # the layer with a second norm, within each map
    adaptive_pool: bool = False
    dropout_on: Literal["outputs", "inputs"] = "outputs"  # of fc6 and fc7
    dropout_inverted: bool = True
    init: Gaussian | None = Gaussian()  # None: torch's default


PAPER = Preset("the NIPS 2012 paper as written: two towers, LRN with alpha not divided by n", dropout_inverted=False)
CAFFE = Preset(
    "Caffe's bvlc_alexnet: LRN with alpha/n and k=1 across the towers",
    norm="lrn:size=5,alpha=1e-4,beta=0.75,k=1,window=mean",
    rounding="caffe",
    init=Gaussian(fc=0.005, bias=0.1),
)

PRESETS: Mapping[str, Preset] = {
    "paper": PAPER,
    "source2012": replace(
        PAPER,
        description="the 2012 code (net 145): LRN within a tower, ReLU after the first pool, a second norm",
        norm="lrn:size=5,alpha=1e-4,beta=0.75,k=2,window=mean,groups=2",
        act_after_pool=(1, 5),
        norm_before_act=(1,),
        within_map_norm=2,
        init=Gaussian(conv3to5=0.03),
    ),
    "caffe": CAFFE,
    "caffenet": replace(
        CAFFE,
        description="Caffe's reference network: as caffe, pooling before LRN, biases of 1",
        norm=f"{CAFFE.norm},pooled",
        init=Gaussian(fc=0.005),
    ),
    "review": Preset("one tower, 96-256-384-384-256", groups=(1, 1, 1, 1, 1), rounding="down"),
    "torchvision": Preset(
        "one weird trick (Krizhevsky 2014), 64-192-384-256-256, no LRN",
        norm="none",
        channels=(64, 192, 384, 256, 256),
        groups=(1, 1, 1, 1, 1),
        conv1_padding=2,
        rounding="down",
        adaptive_pool=True,
        dropout_on="inputs",
        init=None,
    ),
}
