"""Where a network's units fire or stay silent, and in which order its parts run: learned from its own forward passes.

A site is the input of an activation module, seen by a forward pre-hook: before an in-place ReLU changes it, and on the
fused path of our networks too. A network without activation modules (`F.relu` called as a function) is watched at the
outputs of its layers with weights instead, and `Site.activation` says so.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.hooks import RemovableHandle

from alexnet_lab.instruments.dying_relu import UnitCounts, by_unit
from alexnet_lab.instruments.flow import Parameter, Site
from alexnet_lab.instruments.recomputation import is_backward

ACTIVATIONS = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish),
    *(nn.Tanh, nn.Sigmoid, nn.LogSigmoid, nn.Softplus, nn.Softsign, nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh),
    *(nn.Tanhshrink, nn.Threshold),
)

Meet = Callable[[nn.Module, str, int, Tensor], None]  # network, name of the place, its use in this pass, pre-activation
MeetAgain = Callable[[nn.Module, str, Tensor], None]  # the same without the use: see recomputation.py


@dataclass
class WatchedSite:
    """A site, and what was counted there."""

    site: Site
    place: int  # among all sites
    units_last: bool
    training: UnitCounts
    probe: UnitCounts

    def count(self, x: Tensor, probing: bool) -> None:
        """Count one batch."""
        (self.probe if probing else self.training).add(by_unit(x.detach(), self.units_last))


def new_site(name: str, place: int, module: nn.Module, fed_by: tuple[str, nn.Module | None], x: Tensor) -> WatchedSite:
    """Describe a site by the first batch that passes it."""
    # A Linear has its units last, whatever stands between the batch and them, unless a view has put them elsewhere.
    layer, feeder = fed_by
    units_last = x.dim() < 3 or (isinstance(feeder, nn.Linear) and x.shape[-1] == feeder.out_features)
    units = by_unit(x.detach(), units_last).shape[1]
    kind = type(module).__name__
    activation = kind if isinstance(module, ACTIVATIONS) else f"none known, the output of {kind}"
    site = Site(name, layer, activation, "neuron" if units_last else "channel", units)
    return WatchedSite(site, place, units_last, UnitCounts(units, x.device), UnitCounts(units, x.device))


def restored_site(site: Site, place: int, device: torch.device) -> WatchedSite:
    """Take up a site again as it was described earlier."""
    counts = (UnitCounts(site.units, device), UnitCounts(site.units, device))
    return WatchedSite(site, place, site.unit == "neuron", *counts)


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the network itself, without what DistributedDataParallel or torch.compile put around it."""
    while isinstance(model, DistributedDataParallel) or hasattr(model, "_orig_mod"):
        model = model.module if isinstance(model, DistributedDataParallel) else model._orig_mod  # type: ignore[assignment]
    return model


def has_weights(module: nn.Module) -> bool:
    """Say whether a module computes with a weight matrix or filters of its own."""
    return any(p.dim() > 1 for p in module.parameters(recurse=False))


class ForwardOrder:
    """The order in which modules with parameters run, and the layer with weights that ran last."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.ran: dict[str, None] = {}
        self.last_layer: tuple[str, nn.Module | None] = ("", None)
        self.handles: list[RemovableHandle] = []

    def listen(self) -> None:
        """Follow the forward passes until told to stop."""
        for name, module in self.model.named_modules():
            if any(True for _ in module.parameters(recurse=False)):
                self.handles.append(module.register_forward_pre_hook(self._noting(name, module)))

    def stop(self) -> None:
        """Follow no longer."""
        for handle in self.handles:
            handle.remove()
        self.handles.clear()

    def _noting(self, name: str, module: nn.Module) -> Callable[..., None]:
        def note(used: nn.Module, _inputs: object) -> None:
            if used is module:  # and not a copy of it
                self.ran.setdefault(name)
                if has_weights(module):
                    self.last_layer = (name, module)

        return note

    def parameters(self) -> tuple[list[nn.Parameter], list[Parameter]]:
        """Return every parameter and its description, in the order of the forward pass; those never used come last."""
        places = {name: at for at, name in enumerate(self.ran)}
        named = [(name, name.rpartition(".")[0], p) for name, p in self.model.named_parameters()]
        named.sort(key=lambda each: places.get(each[1], len(places)))
        described = [Parameter(name, layer, tuple(p.shape), p.requires_grad) for name, layer, p in named]
        return [p for *_, p in named], described


def watch(
    network: nn.Module,
    meet: Meet,
    meet_again: MeetAgain = lambda _network, _name, _x: None,
    ended: Callable[[], None] = lambda: None,
) -> list[RemovableHandle]:
    """Call `meet` with every pre-activation of a network, and `ended` after each pass; the hooks are the caller's.

    `meet_again` is called with what gradient checkpointing computes anew in the backward pass.
    """
    uses: dict[str, int] = {}

    def begin(used: nn.Module, _inputs: object) -> None:
        if used is network:
            uses.clear()

    def end(used: nn.Module, _inputs: object, _output: object) -> None:
        if used is network:
            uses.clear()  # so that each pass begins as the one before did, which compiled code relies on
            ended()

    def seen(name: str, x: Any) -> None:
        if isinstance(x, Tensor) and x.is_floating_point():
            # Compiled code holds its checkpoints itself, and runs no hook anew.
            if not torch.compiler.is_compiling() and is_backward():
                meet_again(network, name, x)
                return
            uses[name] = uses.get(name, 0) + 1
            meet(network, name, uses[name], x)

    def before(name: str, module: nn.Module) -> Callable[..., None]:
        def hook(used: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
            if used is module:
                seen(name, inputs[0] if inputs else next(iter(named.values()), None))

        return hook

    def after(name: str, module: nn.Module) -> Callable[..., None]:
        def hook(used: nn.Module, _inputs: object, output: Any) -> None:
            if used is module:
                seen(name, output)

        return hook

    activations = [(name, m) for name, m in network.named_modules() if isinstance(m, ACTIVATIONS)]
    handles = [network.register_forward_pre_hook(begin, prepend=True)]
    if activations:
        handles += [m.register_forward_pre_hook(before(name, m), with_kwargs=True) for name, m in activations]
    else:
        layers = [(name, m) for name, m in network.named_modules() if has_weights(m)]
        handles += [m.register_forward_hook(after(name, m)) for name, m in layers]
    return [*handles, network.register_forward_hook(end)]
