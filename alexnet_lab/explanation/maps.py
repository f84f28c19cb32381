"""Maps of what in an image speaks for a class: Grad-CAM, occlusion, integrated gradients.

All explain the log odds of the class against all others, which do not saturate as probabilities do. An absent pixel has
the mean of the training images, 0 after scaling. A map has the size of the image that the network sees; more is hotter.

Grad-CAM              R. R. Selvaraju and others, ICCV 2017
occlusion             M. D. Zeiler, R. Fergus, ECCV 2014
integrated gradients  M. Sundararajan, A. Taly, Q. Yan, ICML 2017

Shapes: B images, C channels of an image, S its side, K classes, F feature maps of h x w.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STEPS = 32  # of the path of integrated gradients
WINDOW = 1 / 6  # of the side: a window of occlusion; it moves by half its side
SMOOTH = 1 / 16  # of the side: the square over which single pixels of a gradient are averaged
AT_ONCE = 64  # images in a forward pass

Method = Callable[[nn.Module, Tensor, int], Tensor]  # network in eval mode, C S S, class: to S S


def log_odds(scores: Tensor, kind: int) -> Tensor:
    """Return log(p / (1 - p)) of a class, B, from scores before softmax, B K."""
    others = torch.cat([scores[:, :kind], scores[:, kind + 1 :]], 1)
    return scores[:, kind] - others.logsumexp(1)


def grad_cam(network: nn.Module, image: Tensor, kind: int) -> Tensor:
    """Return the sum of the last feature maps, weighted by their mean gradient, where it is positive."""
    layer = last_feature_layer(network, image)
    outputs: list[Tensor] = []
    handle = layer.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    try:
        with torch.enable_grad():
            value = log_odds(network(image[None].detach().requires_grad_()), kind).sum()
    finally:
        handle.remove()
    features = outputs[-1]  # 1 F h w; a module that is used more than once counts by its last use
    (gradient,) = torch.autograd.grad(value, features)
    heat = (gradient.mean((2, 3), keepdim=True) * features).sum(1, keepdim=True).relu()
    return F.interpolate(heat.detach(), image.shape[-2:], mode="bilinear", align_corners=False)[0, 0]


def occlusion(network: nn.Module, image: Tensor, kind: int) -> Tensor:
    """Return how far the log odds fall where a square window hides the image, averaged over windows on each pixel."""
    side = image.shape[-1]
    window = max(1, round(WINDOW * side))
    starts = sorted({*range(0, side - window, max(1, window // 2)), side - window})
    corners = [(row, column) for row in starts for column in starts]
    heat, count = torch.zeros(side, side), torch.zeros(side, side)
    with torch.no_grad():
        untouched = log_odds(network(image[None]), kind)
        for first in range(0, len(corners), AT_ONCE):
            part = corners[first : first + AT_ONCE]
            hidden = image.repeat(len(part), 1, 1, 1)
            for at, (row, column) in enumerate(part):
                hidden[at, :, row : row + window, column : column + window] = 0
            falls = (untouched - log_odds(network(hidden), kind)).cpu()
            for (row, column), fall in zip(part, falls, strict=True):
                heat[row : row + window, column : column + window] += fall
                count[row : row + window, column : column + window] += 1
    return heat / count


def integrated_gradients(network: nn.Module, image: Tensor, kind: int) -> Tensor:
    """Return what each pixel adds to the log odds, its channels summed, none below 0, averaged over a small square."""
    attribution = attributions(network, image, kind).sum(0).relu()
    square = max(1, round(SMOOTH * image.shape[-1])) // 2 * 2 + 1
    padded = F.pad(attribution[None, None], (square // 2,) * 4, mode="replicate")
    return F.avg_pool2d(padded, square, 1)[0, 0]


def attributions(network: nn.Module, image: Tensor, kind: int, steps: int = STEPS) -> Tensor:
    """Return integrated gradients, C S S; they sum to the log odds of the image less those of the mean image."""
    total = torch.zeros_like(image)
    shares = (torch.arange(steps, device=image.device) + 0.5) / steps  # midpoints
    for part in torch.split(shares, AT_ONCE):
        with torch.enable_grad():
            path = (part[:, None, None, None] * image).requires_grad_()
            (gradient,) = torch.autograd.grad(log_odds(network(path), kind).sum(), path)
        total += gradient.sum(0)
    return image * total / steps


METHODS: Mapping[str, Method] = {
    "grad-cam": grad_cam,
    "occlusion": occlusion,
    "integrated-gradients": integrated_gradients,
}


def last_feature_layer(network: nn.Module, image: Tensor) -> nn.Module:
    """Return the last layer whose output has the size that the last convolution of more than one pixel has.

    Behind a convolution stand its norm and activation; a pooling behind these has fewer pixels.
    """
    outputs: list[tuple[nn.Module, torch.Size]] = []

    def record(module: nn.Module, _inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.dim() == 4:
            outputs.append((module, output.shape[-2:]))

    leaves = [module for module in network.modules() if not list(module.children())]
    handles = [module.register_forward_hook(record) for module in leaves]
    try:
        with torch.no_grad():
            network(image[None])
    finally:
        for handle in handles:
            handle.remove()
    sizes = [size for module, size in outputs if isinstance(module, nn.Conv2d) and size.numel() > 1]
    if not sizes:
        raise ValueError(
            f"Grad-CAM needs a convolution whose output has more than one pixel, and at {image.shape[-1]} pixels this "
            "network has none; take occlusion or integrated-gradients, or train with a larger image_size"
        )
    return next(module for module, size in reversed(outputs) if size == sizes[-1])
