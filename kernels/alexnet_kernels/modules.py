"""Local response normalisation as a module, in the place of torch.nn.LocalResponseNorm."""

from torch import Tensor, nn

from alexnet_kernels._backends import Backend
from alexnet_kernels.normalisation import Window, local_response_norm


class LocalResponseNorm(nn.Module):
    """Divide each value by a power of the energy of its neighbours across channels: see local_response_norm.

    The arguments of torch.nn.LocalResponseNorm have torch's names and defaults; `window`, `groups` and `backend` are
    those of local_response_norm. torch.onnx.export writes ONNX's own operator LRN for float32 images and odd sizes.

    >>> import torch
    >>> LocalResponseNorm(5)(torch.rand(8, 96, 55, 55)).shape
    torch.Size([8, 96, 55, 55])
    """

    def __init__(
        self,
        size: int,
        alpha: float = 1e-4,
        beta: float = 0.75,
        k: float = 1.0,
        *,
        window: Window = "mean",
        groups: int = 1,
        backend: Backend = "auto",
    ) -> None:
        super().__init__()
        self.size, self.alpha, self.beta, self.k = size, alpha, beta, k
        self.window, self.groups, self.backend = window, groups, backend

    def forward(self, x: Tensor) -> Tensor:
        """Return x, normalised: any shape N, C, *."""
        return local_response_norm(
            x, self.size, self.alpha, self.beta, self.k, window=self.window, groups=self.groups, backend=self.backend
        )

    def extra_repr(self) -> str:
        """Return what repr prints: torch's arguments, and the others where they are not the default."""
        text = f"{self.size}, alpha={self.alpha}, beta={self.beta}, k={self.k}"
        defaults = {"window": "mean", "groups": 1, "backend": "auto"}
        return text + "".join(
            f", {name}={getattr(self, name)!r}" for name, value in defaults.items() if getattr(self, name) != value
        )
