"""How the gradient flows: exact norms of weights, gradients and updates, and the gradient's signal against its noise.

Only measured steps come here. Nothing waits for the device; the panel drains everything once an epoch.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from alexnet_lab.instruments.histograms import in_memory_order, stride_through

NOISE_SAMPLE = 2**14  # elements of one gradient that the noise is taken from, at most
# float32 sums of many squares lose digits on a processor: 1e-6 of the norm at 2^18, 0.2% at 38 million. Longer vectors
# are summed in rows.
_LONGEST_SUM, _ROW = 2**18, 2**14
_TRUSTED = (1e-12, 1e15)


def exact_norms(tensors: Sequence[Tensor]) -> Tensor:
    """Return the 2-norm of each in float64, right to float32's precision whatever their size and scale."""
    if not tensors:
        return torch.zeros(0, dtype=torch.float64)
    wide = [x.float() if x.dtype.itemsize < 4 else x for x in tensors]
    device = wide[0].device
    if device.type != "cpu":
        return torch.stack([norm.to(device) for norm in torch._foreach_norm(wide, 2, torch.float64)])
    large = [i for i, x in enumerate(wide) if x.numel() > _LONGEST_SUM]
    small = [i for i, x in enumerate(wide) if x.numel() <= _LONGEST_SUM]
    norms = torch.zeros(len(wide), dtype=torch.float64)
    if small:
        norms[small] = torch.stack([norm.double() for norm in torch._foreach_norm([wide[i] for i in small])])
    for i in large:
        flat = in_memory_order(wide[i])
        rows = flat[: len(flat) // _ROW * _ROW].view(-1, _ROW)
        parts = torch.cat([torch.linalg.vector_norm(rows, dim=1), flat[rows.numel() :].norm()[None]])
        norms[i] = parts.double().norm()
    # float32 squares leave their range long before their roots do.
    for i in ((norms < _TRUSTED[0]) | (norms > _TRUSTED[1])).nonzero().flatten().tolist():
        if norms[i] or wide[i].any():
            norms[i] = wide[i].double().norm()
    return norms


class ParameterMeter:
    """Norms of weights, gradients and updates, and the gradient's signal against its noise.

    Signal to noise over a window of n measured steps, of the sampled elements i of one parameter's gradient:
    sqrt(max(0, sum mean_i^2 - sum var_i / n) / sum var_i), with var_i the unbiased variance over the steps. The second
    term is what noise alone would leave in the means. Steps with a gradient that is not finite are left out.
    """

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self.parameters = list(parameters)
        self.before: list[Tensor] = []
        self.open_step: Tensor | None = None  # (2, P): norms of weights and gradients of the step under way
        self.noisy = [i for i, p in enumerate(self.parameters) if p.dim() > 1]
        self.strides = [stride_through(self.parameters[i].shape, NOISE_SAMPLE, NOISE_SAMPLE) for i in self.noisy]
        self.sizes = [-(-self.parameters[i].numel() // k) for i, k in zip(self.noisy, self.strides, strict=True)]
        self.device = self.parameters[0].device if self.parameters else torch.device("cpu")
        self.sums = torch.zeros(sum(self.sizes), dtype=torch.float64, device=self.device)
        self.energy = torch.zeros(len(self.noisy), dtype=torch.float64, device=self.device)
        self.counted = torch.zeros(len(self.noisy), dtype=torch.float64, device=self.device)

    @torch.no_grad()
    def read(self) -> None:
        """Read weights and gradients; the weights are kept until the update is known."""
        weights = [p.detach() for p in self.parameters]
        gradients = self.gradients()
        norms = torch.full((2, len(weights)), math.nan, dtype=torch.float64, device=self.device)
        norms[0] = exact_norms(weights).to(self.device)
        with_gradient = [i for i, g in enumerate(gradients) if g is not None]
        if with_gradient:
            norms[1, with_gradient] = exact_norms([g for g in gradients if g is not None]).to(self.device)
        self.open_step = norms
        if len(self.before) != len(weights):
            self.before = [torch.empty_like(w) for w in weights]
        if weights:
            torch._foreach_copy_(self.before, weights)
        self._add_noise([gradients[i] for i in self.noisy])

    @torch.no_grad()
    def finish(self, update_is_known: bool = True) -> Tensor:
        """Return the step's norms, (3, P): of the weights before it, the gradients, and the update really applied."""
        if self.open_step is None:
            raise RuntimeError("a step is finished once, after it was read; call read() before the update")
        if update_is_known:
            if self.before:
                torch._foreach_sub_(self.before, [p.detach() for p in self.parameters])
            update = exact_norms(self.before).to(self.device)
        else:
            update = torch.full_like(self.open_step[0], math.nan)
        norms = torch.cat([self.open_step, update[None]])
        self.open_step = None
        return norms

    def gradients(self) -> list[Tensor | None]:
        """Return the gradients, dense."""
        return [
            None if p.grad is None else (p.grad.to_dense() if p.grad.is_sparse else p.grad.detach())
            for p in self.parameters
        ]

    def _add_noise(self, gradients: Sequence[Tensor | None]) -> None:
        if not self.noisy:
            return
        samples = [
            torch.zeros(size, device=self.device) if g is None else in_memory_order(g)[::stride].to(self.device)
            for g, stride, size in zip(gradients, self.strides, self.sizes, strict=True)
        ]
        energy = torch.stack(torch._foreach_norm([s.float() for s in samples])).double().square()
        finite = torch.isfinite(energy).all()
        nothing = torch.zeros((), dtype=torch.float64, device=self.device)
        self.sums.add_(torch.where(finite, torch.cat(samples).double(), nothing))
        self.energy.add_(torch.where(finite, energy, nothing))
        has_gradient = [g is not None for g in gradients]
        present = finite if all(has_gradient) else finite & torch.tensor(has_gradient, device=self.device)
        self.counted.add_(present.double())

    def close_window(self) -> Tensor:
        """Return the signal-to-noise ratio of each parameter that has one, and start the next window."""
        n = self.counted
        squares = [part.square().sum() for part in torch.split(self.sums, self.sizes)]
        of_sums = torch.stack(squares) if squares else torch.zeros_like(n)
        variance = (self.energy - of_sums / n) / (n - 1)
        signal = (of_sums / n.square() - variance / n).clamp_min(0)
        ratio = torch.where((n > 1) & (variance > 0), (signal / variance).sqrt(), math.nan)
        self.clear()
        return ratio

    def clear(self) -> None:
        """Forget the open window."""
        for total in (self.sums, self.energy, self.counted):
            total.zero_()
