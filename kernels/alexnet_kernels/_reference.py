"""The truth, in plain torch: slow, obvious, right in float64."""

import torch.nn.functional as F
from torch import Tensor


def local_response_norm(x: Tensor, size: int, scale: float, beta: float, k: float, groups: int) -> Tensor:
    """Return x / (k + scale * sum of squares over the channel window) ** beta; windows stay inside a group."""
    shape = x.shape  # N C *
    squares = x.square().reshape(shape[0] * groups, 1, shape[1] // groups, -1)  # N*G 1 C/G L
    # An even window reaches one channel further back than forward, as torch's own does.
    padded = F.pad(squares, (0, 0, size // 2, (size - 1) // 2))
    energy = padded.unfold(2, size, 1).sum(-1).reshape(shape)
    return x / (k + scale * energy).pow(beta)
