"""Following the forward passes of a network: which layer ran last, and which activation is called with what.

Activation modules are seen by a forward pre-hook: before an in-place ReLU changes its input, and on the fused path of
our networks too. Activations called as functions are seen by a torch function mode, in force while a module of the
network that has children runs: about a microsecond for each function of torch that is called. torch.compile traces
both.

Gradient checkpointing runs parts of a pass again in the backward pass. What runs there is not watched.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from alexnet_lab.instruments import limits
from alexnet_lab.instruments.activations import FUNCTIONS, MOVES, activation_called, activation_of
from alexnet_lab.instruments.limits import Limits

PARAMETRIZATIONS = "parametrizations"  # the child in which torch keeps what computes a layer's weight

Place = tuple[str, str, int]  # of an activation: its name, the layer that ran last, and its use since that one ran
Meet = Callable[["Watcher", Place, str, Tensor], None]  # the activation's kind, and its input


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the network itself, without what DistributedDataParallel or torch.compile put around it."""
    while isinstance(model, DistributedDataParallel) or hasattr(model, "_orig_mod"):
        model = model.module if isinstance(model, DistributedDataParallel) else model._orig_mod  # type: ignore[assignment]
    return model


def has_weights(module: nn.Module) -> bool:
    """Say whether a module computes with a weight matrix or filters of its own, parametrized ones among them."""
    own = list(module.parameters(recurse=False))
    if parametrize.is_parametrized(module):
        own += getattr(module, PARAMETRIZATIONS).parameters()
    return any(not is_lazy(p) and p.dim() > 1 for p in own)


def layer_of(parameter: str) -> str:
    """Return the name of the module that a parameter belongs to: of the layer, if it is parametrized."""
    module = parameter.rpartition(".")[0]
    return f".{module}".partition(f".{PARAMETRIZATIONS}.")[0].removeprefix(".")


def label_of(name: str, layer: str) -> str:
    """Return how an activation is called: a module by its name, a function with the layer that ran before it."""
    return f"{name[:-2]}({layer or 'input'})" if name.endswith("()") else name


class Watcher:
    """Calls `meet` with the input of every activation of one network, from `start` to `stop`.

    Until `listen_no_more`, it fills `ran`: the modules with parameters in the order in which they run.
    """

    def __init__(self, network: nn.Module, meet: Meet, ran: dict[str, None], limits: Limits) -> None:
        self.network, self._meet, self._ran, self._limits = network, meet, ran, limits
        # What compiled code changes. torch.compile (2.13) loses attributes that are set after a tensor got a hook in
        # the same pass; what is put into a dict it keeps.
        self._layer = {"last": ""}  # with weights that ran last, none yet
        self._now = {"depth": 0, "quiet": 0}
        self._own_call: dict[str, bool] = {}  # not empty: the next activation function is that of an activation module
        self.has_run = False  # any module that has children
        self.batch: int | None = None  # the first dimension of what entered the network
        self.moved = False  # dimensions were exchanged since the layer ran
        self._uses: dict[str, int] = {}  # of each activation since the layer ran
        self._mode = _Calls(self._called)
        self._unknown: dict[str, list[str]] = {}  # modules that may be activations, by the layer before them
        self._active: set[str] = set()  # layers with an activation behind
        self._handles: list[RemovableHandle] = []
        self._first_pass: list[RemovableHandle] = []

    def start(self, listen: bool) -> None:
        """Hook the network; with `listen`, its order and its limits too."""
        for name, module in self.network.named_modules():
            if isinstance(module, parametrize.ParametrizationList):
                self._around(module, self._hush, self._speak)
            if PARAMETRIZATIONS in name.split("."):
                continue
            own = list(module.parameters(recurse=False))
            computes = has_weights(module) or any(is_lazy(p) for p in own)
            if listen:
                self._listen(name, module, computes or bool(own))
            kind = activation_of(module)
            if kind is not None:
                hook = self._before(name, kind, module)
                self._handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))
                continue
            if computes:
                self._handles.append(module.register_forward_pre_hook(self._layer_runs(name, module)))
            if module is self.network or any(child != PARAMETRIZATIONS for child, _ in module.named_children()):
                self._around(module, self._begin, self._end)

    def stop(self) -> None:
        """Take all hooks away."""
        self.listen_no_more()
        self._leave()
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def listen_no_more(self) -> None:
        """Take the hooks of the first pass away, and name the modules that may be activations."""
        for handle in self._first_pass:
            handle.remove()
        self._first_pass.clear()
        for layer, names in self._unknown.items():
            for name in names if layer not in self._active else ():
                self._limits.add(limits.OWN_CLASS, name)
        self._unknown.clear()

    def step_ends(self) -> None:
        """Begin the next step as this one began."""
        self._uses.clear()
        self._leave()
        if self._first_pass:
            self.listen_no_more()

    def _listen(self, name: str, module: nn.Module, has_parameters: bool) -> None:
        if has_parameters:
            self._first_pass.append(module.register_forward_pre_hook(self._noting(name, module)))
        is_of_torch = type(module).__module__.startswith(("torch", "alexnet_lab"))
        if (
            not is_of_torch
            and activation_of(module) is None
            and not has_parameters
            and not any(True for _ in module.children())
        ):
            self._first_pass.append(module.register_forward_hook(self._may_be_activation(name, module)))

    def _around(self, module: nn.Module, before: Callable[[], None], after: Callable[[], None]) -> None:
        def begins(used: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
            if used is module and not _is_second_run():
                if not torch.compiler.is_compiling():
                    self.has_run = True
                if before == self._begin and self._now["depth"] == 0:
                    self._new_pass(inputs, named)
                before()

        def ends(used: nn.Module, _inputs: object, _output: object) -> None:
            if used is module and not _is_second_run():
                after()

        self._handles.append(module.register_forward_pre_hook(begins, prepend=True, with_kwargs=True))
        self._handles.append(module.register_forward_hook(ends, always_call=True))

    def _new_pass(self, inputs: Sequence[Any], named: Mapping[str, Any]) -> None:
        self._layer["last"] = ""
        self._own_call.clear()
        self._uses.clear()
        if not torch.compiler.is_compiling():
            first = next((x for x in (*inputs, *named.values()) if isinstance(x, Tensor)), None)
            self.batch = first.shape[0] if first is not None and first.dim() else None

    def _begin(self) -> None:
        if self._now["depth"] == 0:
            self._mode.__enter__()  # type: ignore[no-untyped-call]
        self._now["depth"] += 1

    def _end(self) -> None:
        if self._now["depth"]:  # else a hook before ours raised
            self._now["depth"] -= 1
            if self._now["depth"] == 0:
                self._own_call.clear()
                self._mode.__exit__(None, None, None)  # type: ignore[no-untyped-call]

    def _leave(self) -> None:
        """End a pass that was interrupted: after a KeyboardInterrupt, torch calls no hook."""
        if self._now["depth"]:
            self._now["depth"] = 0
            self._mode.__exit__(None, None, None)  # type: ignore[no-untyped-call]
        self._now["quiet"] = 0

    def _hush(self) -> None:
        self._now["quiet"] += 1

    def _speak(self) -> None:
        self._now["quiet"] = max(0, self._now["quiet"] - 1)

    def _layer_runs(self, name: str, module: nn.Module) -> Callable[..., None]:
        is_settled = has_weights(module)

        def hook(used: nn.Module, _inputs: object) -> None:
            if used is module and not _is_second_run() and (is_settled or has_weights(module)):
                self._layer["last"] = name
                self._own_call.clear()
                self._uses.clear()
                if not torch.compiler.is_compiling():
                    self.moved = False

        return hook

    def _before(self, name: str, kind: str, module: nn.Module) -> Callable[..., None]:
        def hook(used: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
            if used is module and not _is_second_run():
                if self._now["depth"] == 0:  # called by itself
                    self._uses.clear()
                x = inputs[0] if inputs else next(iter(named.values()), None)
                self._seen(name, kind, x)
                if self._now["depth"]:
                    self._own_call[name] = True

        return hook

    def _called(self, function: Callable[..., Any], args: Sequence[Any], named: Mapping[str, Any]) -> None:
        if self._now["quiet"] or _is_second_run():
            return
        kind = activation_called(function, args, named)
        if kind is None:
            if function in MOVES and not torch.compiler.is_compiling():
                self.moved = True
        elif self._own_call:
            self._own_call.clear()
        else:
            x = args[0] if args else named.get("input")
            if isinstance(x, Tensor) and x.dim() > 1:
                self._seen(f"{FUNCTIONS[function]}()", kind, x)

    def _seen(self, name: str, kind: str, x: object) -> None:
        if isinstance(x, Tensor) and x.is_floating_point():
            use = self._uses.get(name, 0) + 1
            self._uses[name] = use
            if not torch.compiler.is_compiling():
                self._active.add(self._layer["last"])
            self._now["quiet"] += 1
            self._meet(self, (name, self._layer["last"], use), kind, x)
            self._now["quiet"] -= 1

    def _noting(self, name: str, module: nn.Module) -> Callable[..., None]:
        def hook(used: nn.Module, _inputs: object) -> None:
            if used is module and not torch.compiler.is_compiling():
                self._ran.setdefault(name)

        return hook

    def _may_be_activation(self, name: str, module: nn.Module) -> Callable[..., None]:
        def hook(used: nn.Module, inputs: tuple[Any, ...], output: object) -> None:
            if used is not module or torch.compiler.is_compiling() or not self._layer["last"] or len(inputs) != 1:
                return
            if isinstance(output, Tensor) and isinstance(inputs[0], Tensor) and output.shape == inputs[0].shape:
                self._unknown.setdefault(self._layer["last"], []).append(f"{name} ({type(module).__name__})")

        return hook


class _Calls(TorchFunctionMode):
    """Passes every call of a function of torch to `called`, but not the calls that the function makes itself."""

    def __init__(self, called: Callable[[Callable[..., Any], Sequence[Any], Mapping[str, Any]], None]) -> None:
        super().__init__()
        self.called = called

    def __torch_function__(
        self, func: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        named = kwargs or {}
        self.called(func, args, named)
        return func(*args, **named)


def _is_second_run() -> bool:
    """Say whether a backward pass is under way, as torch's own checkpoints ask; it takes some 50 nanoseconds.

    Compiled code keeps its checkpoints itself, and calls no hook again.
    """
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1
