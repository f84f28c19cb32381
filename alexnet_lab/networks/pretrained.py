"""The weight files that torchvision publishes, read and written by name, without torchvision.

* from_torchvision_state_dict, to_torchvision_state_dict: between their names and ours, nothing lost either way
* load_pretrained: a file, or the published one by the name "imagenet", into a network; a classifier for other classes
  stays as initialised, a one-channel input takes the sum of conv1 over red, green and blue

A tensor belongs to a module, so names are mapped module by module: `stem.conv` is `conv1`, whatever tensors it has.
Nothing but tensors is ever read from a file: one that needs code to be loaded is refused.
"""

import re
import struct
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from pickle import UnpicklingError
from urllib.error import URLError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from alexnet_lab.networks.alexnet import AlexNet
from alexnet_lab.networks.mobilenet import InvertedResidual, MobileNetV2, MobileNetV3Large, MobileNetV3Small
from alexnet_lab.networks.resnet import ResidualBlock, ResNet18
from alexnet_lab.networks.vgg import POOLED_LAYERS, VGG11

ModuleNames = Iterator[tuple[str, str]]  # (ours, torchvision's)


def _alexnet_names(_network: nn.Module) -> ModuleNames:
    for layer, index in enumerate((0, 3, 6, 8, 10), 1):
        yield f"conv{layer}", f"features.{index}"
    for layer, index in enumerate((1, 4, 6), 6):
        yield f"fc{layer}", f"classifier.{index}"


def _resnet18_names(network: nn.Module) -> ModuleNames:
    yield from _unit("stem", "conv1", "bn1")
    for name, module in network.named_modules():
        if isinstance(module, ResidualBlock):
            stage, block = map(int, re.findall(r"\d+", name))
            theirs = f"layer{stage}.{block - 1}"
            yield from _unit(f"{name}.first", f"{theirs}.conv1", f"{theirs}.bn1")
            yield from _unit(f"{name}.second", f"{theirs}.conv2", f"{theirs}.bn2")
            yield from _unit(f"{name}.shortcut", f"{theirs}.downsample.0", f"{theirs}.downsample.1")
    yield "classifier", "fc"


def _vgg11_names(network: nn.Module) -> ModuleNames:
    # Their index counts every module: convolution, norm where there is one, activation, and the pools between.
    modules_per_layer = 3 if _has_batch_norm(network) else 2
    index = 0
    for layer in range(1, 9):
        yield from _unit(f"layer{layer}", f"features.{index}", f"features.{index + 1}")
        index += modules_per_layer + (layer in POOLED_LAYERS)
    for name, place in (("hidden1", 0), ("hidden2", 3), ("output", 6)):
        yield f"classifier.{name}", f"classifier.{place}"


def _mobilenet_v2_names(network: nn.Module) -> ModuleNames:
    blocks = _inverted_residuals(network)
    yield from _unit("stem", "features.0.0", "features.0.1")
    for number, (name, block) in enumerate(blocks, 1):
        activated = [part for part in ("expand", "depthwise") if getattr(block, part) is not None]
        for index, part in enumerate(activated):
            yield from _unit(f"{name}.{part}", *(f"features.{number}.conv.{index}.{inner}" for inner in (0, 1)))
        linear = len(activated)
        yield from _unit(f"{name}.project", *(f"features.{number}.conv.{linear + step}" for step in (0, 1)))
    yield from _unit("widen", *(f"features.{len(blocks) + 1}.{inner}" for inner in (0, 1)))
    yield "classifier", "classifier.1"


def _mobilenet_v3_names(network: nn.Module) -> ModuleNames:
    blocks = _inverted_residuals(network)
    yield from _unit("stem", "features.0.0", "features.0.1")
    for number, (name, block) in enumerate(blocks, 1):
        parts = ("expand", "depthwise", "squeeze_excite", "project")
        for index, part in enumerate(part for part in parts if getattr(block, part) is not None):
            theirs = f"features.{number}.block.{index}"
            if part == "squeeze_excite":
                yield f"{name}.{part}.squeeze", f"{theirs}.fc1"
                yield f"{name}.{part}.excite", f"{theirs}.fc2"
            else:
                yield from _unit(f"{name}.{part}", f"{theirs}.0", f"{theirs}.1")
    yield from _unit("widen", *(f"features.{len(blocks) + 1}.{inner}" for inner in (0, 1)))
    yield "classifier.hidden", "classifier.0"
    yield "classifier.output", "classifier.3"


def _unit(ours: str, conv: str, norm: str) -> ModuleNames:
    yield f"{ours}.conv", conv
    yield f"{ours}.norm", norm


def _inverted_residuals(network: nn.Module) -> list[tuple[str, nn.Module]]:
    return [(name, module) for name, module in network.named_children() if isinstance(module, InvertedResidual)]


def _has_batch_norm(network: nn.Module) -> bool:
    return any(isinstance(module, nn.BatchNorm2d) for module in network.modules())


@dataclass(frozen=True)
class Published:
    """A network of torchvision's: how it is built here, how its modules are called there, its files by source name."""

    build: Callable[[], nn.Module]
    names: Callable[[nn.Module], ModuleNames]
    files: Mapping[str, str]


# A file's name ends with the first eight digits of its SHA-256, which torch.hub checks.
WEIGHT_FILES_ADDRESS = "https://download.pytorch.org/models/"
PUBLISHED: Mapping[str, Published] = {
    "alexnet": Published(
        partial(AlexNet, preset="torchvision"), _alexnet_names, {"imagenet": "alexnet-owt-7be5be79.pth"}
    ),
    "resnet18": Published(ResNet18, _resnet18_names, {"imagenet": "resnet18-f37072fd.pth"}),
    "vgg11": Published(VGG11, _vgg11_names, {"imagenet": "vgg11-8a719046.pth"}),
    "vgg11_bn": Published(partial(VGG11, norm="bn"), _vgg11_names, {"imagenet": "vgg11_bn-6002323d.pth"}),
    # "imagenet" was trained by a recipe as plain as the others'; "imagenet-v2" by a longer one with more augmentation.
    "mobilenet_v2": Published(
        MobileNetV2,
        _mobilenet_v2_names,
        {"imagenet": "mobilenet_v2-b0353104.pth", "imagenet-v2": "mobilenet_v2-7ebf99e0.pth"},
    ),
    "mobilenet_v3_small": Published(
        MobileNetV3Small, _mobilenet_v3_names, {"imagenet": "mobilenet_v3_small-047dcff4.pth"}
    ),
    "mobilenet_v3_large": Published(
        MobileNetV3Large,
        _mobilenet_v3_names,
        {"imagenet": "mobilenet_v3_large-8738ca79.pth", "imagenet-v2": "mobilenet_v3_large-5c1a4163.pth"},
    ),
}
_NAME_OF_CLASS: Mapping[type[nn.Module], str] = {
    AlexNet: "alexnet",
    ResNet18: "resnet18",
    VGG11: "vgg11",
    MobileNetV2: "mobilenet_v2",
    MobileNetV3Small: "mobilenet_v3_small",
    MobileNetV3Large: "mobilenet_v3_large",
}


def from_torchvision_state_dict(network: nn.Module, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what `network.load_state_dict` takes, from a state dict with torchvision's names.

    Every tensor must have its place and its shape; load_pretrained is the one that makes allowances.
    """
    return _placed(network, state_dict, "; load_pretrained sees to other classes and to one channel")


def _placed(network: nn.Module, state_dict: Mapping[str, Tensor], hint: str = "") -> dict[str, Tensor]:
    own = network.state_dict()
    theirs = _torchvision_names(network)
    # Files older than 2018 do not count batches, and the count changes nothing where momentum is a number.
    missing = [name for name in theirs.values() if name not in state_dict and not _is_batch_count(name)]
    places = set(theirs.values())
    unknown = [name for name in state_dict if name not in places]
    shapes = [
        f"{name} found {tuple(state_dict[name].shape)}, expected {tuple(own[ours].shape)}"
        for ours, name in theirs.items()
        if name in state_dict and state_dict[name].shape != own[ours].shape
    ]
    if missing or unknown or shapes:
        problems = [
            f"{what}: {_some(names)}"
            for what, names in (("shapes differ", shapes), ("missing", missing), ("without a place", unknown))
            if names
        ]
        raise ValueError(
            f"these tensors do not fit this {type(network).__name__}; {'; '.join(problems)}; "
            + _repair(network, state_dict, named_right=not (missing or unknown), hint=hint)
        )
    return {
        ours: state_dict[name] if name in state_dict else torch.zeros_like(own[ours]) for ours, name in theirs.items()
    }


def to_torchvision_state_dict(network: nn.Module) -> dict[str, Tensor]:
    """Return the network's tensors under the names of torchvision's file; they are shared, not copied."""
    own = network.state_dict()
    theirs = _torchvision_names(network)
    name = _published_name(network)
    if isinstance(network, AlexNet) and network.preset_name != "torchvision":
        raise ValueError(
            f"AlexNet(preset={network.preset_name!r}) has no counterpart in torchvision, whose AlexNet has other "
            'channels and no towers; only preset="torchvision" has'
        )
    beyond = [ours for ours, their in theirs.items() if their not in _published_tensors(name)]
    lacking = [their for their in _published_tensors(name) if their not in set(theirs.values())]
    if beyond or lacking:
        raise ValueError(
            f"this {type(network).__name__} has no counterpart in torchvision; beyond that it has: "
            f"{_some(beyond) or 'nothing'}; of that it lacks: {_some(lacking) or 'nothing'}; {_AS_PUBLISHED}"
        )
    return {theirs[ours]: tensor for ours, tensor in own.items()}


def load_pretrained(network: nn.Module, source: str | Path) -> list[str]:
    """Load published weights and return the names of the tensors that stayed as initialised.

    `source` is a .pth or .safetensors file with torchvision's names, or "imagenet" for the published one ("imagenet-v2"
    for the second of a MobileNet), which torch.hub downloads once, checks and keeps.

    The returned list is empty, or holds the last layer where the network has other classes than the file. A network
    that takes one channel gets its first convolution summed over red, green and blue: grey pixels then give what they
    gave as colour. An error begins with `weights: `, the field of a recipe that names a source.
    """
    files = PUBLISHED[_published_name(network)].files
    if source in files:
        # Whether the network can take the file is known without it, and some are half a gigabyte.
        _fit(network, _published_tensors(_published_name(network)), source)
        state_dict = _download(files[str(source)])
    else:
        state_dict = _read(Path(source), files)
    fitting, untouched = _fit(network, state_dict, source)
    network.load_state_dict(fitting)
    return untouched


def _fit(
    network: nn.Module, state_dict: Mapping[str, Tensor], source: str | Path
) -> tuple[dict[str, Tensor], list[str]]:
    """Return what the network takes, and which of it are its own tensors because its classes are others."""
    own = network.state_dict()
    theirs = _torchvision_names(network)
    adapted = dict(state_dict)
    first = next(f"{name}.weight" for name, layer in network.named_modules() if isinstance(layer, nn.Conv2d))
    last = [name for name, layer in network.named_modules() if isinstance(layer, nn.Linear)][-1]

    kernels = adapted.get(theirs[first])
    if kernels is not None and kernels.ndim == 4 and (kernels.shape[1], own[first].shape[1]) == (3, 1):
        adapted[theirs[first]] = kernels.sum(1, keepdim=True)
    weight, wanted = adapted.get(theirs[f"{last}.weight"]), own[f"{last}.weight"]
    untouched: list[str] = []
    if weight is not None and weight.shape[0] != wanted.shape[0] and weight.shape[1:] == wanted.shape[1:]:
        untouched = [f"{last}.weight", f"{last}.bias"]
        adapted |= {theirs[name]: own[name] for name in untouched}
    try:
        return _placed(network, adapted), untouched
    except ValueError as error:
        raise ValueError(f"weights: {source}: {error}") from None


def _published_name(network: nn.Module) -> str:
    if type(network) not in _NAME_OF_CLASS:
        known = ", ".join(cls.__name__ for cls in _NAME_OF_CLASS)
        raise ValueError(f"torchvision's names are known for {known}, not for {type(network).__name__}")
    name = _NAME_OF_CLASS[type(network)]
    return "vgg11_bn" if name == "vgg11" and _has_batch_norm(network) else name


def _torchvision_names(network: nn.Module) -> dict[str, str]:
    """Map each of our tensors to torchvision's name; one that torchvision cannot have keeps its own."""
    modules = dict(PUBLISHED[_published_name(network)].names(network))
    theirs = {}
    for name in network.state_dict():
        module, _, tensor = name.rpartition(".")
        theirs[name] = f"{modules[module]}.{tensor}" if module in modules else name
    return theirs


@cache
def _published_tensors(name: str) -> Mapping[str, Tensor]:
    """Return the tensors of the published file, without values."""
    with torch.device("meta"):
        network = PUBLISHED[name].build()
    theirs = _torchvision_names(network)
    return {theirs[ours]: tensor for ours, tensor in network.state_dict().items()}


# What to do is said in the words of a recipe, which are those of the arguments and of the options alike.
_AS_PUBLISHED = "torchvision has networks as published: leave norm out, keep width 1, and take an act without weights"


def _repair(network: nn.Module, state_dict: Mapping[str, Tensor], *, named_right: bool, hint: str) -> str:
    """Say what to do about a state dict that does not fit; the hint is for one of which only sizes are wrong."""
    name, found = _published_name(network), _identify(state_dict)
    if found and found != name:
        told = "network vgg11 with norm bn" if found == "vgg11_bn" else f"network {found}"
        return f"they are the tensors of {found}: take {told}, or the file of {name}"
    if found and isinstance(network, AlexNet) and network.preset_name != "torchvision":
        return f"this network is of preset {network.preset_name}: take preset torchvision and the width of the file"
    if named_right:
        return f"the names are right and the sizes are not: take the width of the file, 1 in torchvision's own{hint}"
    if found:
        return _AS_PUBLISHED
    return f"no torchvision file that is known here has such tensors; known are those of {', '.join(PUBLISHED)}"


def _identify(state_dict: Mapping[str, Tensor]) -> str | None:
    """Return the network whose published file has these names."""
    names = {name for name in state_dict if not _is_batch_count(name)}
    for network in PUBLISHED:
        if names == {name for name in _published_tensors(network) if not _is_batch_count(name)}:
            return network
    return None


def _is_batch_count(name: str) -> bool:
    return name.endswith(".num_batches_tracked")


def _some(names: Iterable[str], most: int = 4) -> str:
    listed = list(names)
    return ", ".join(listed[:most]) + (f" and {len(listed) - most} more" if len(listed) > most else "")


def _download(file: str) -> Mapping[str, Tensor]:
    address = WEIGHT_FILES_ADDRESS + file
    kept = Path(torch.hub.get_dir()) / "checkpoints" / file
    try:
        with _plainly_told(kept):
            content = torch.hub.load_state_dict_from_url(
                address, map_location="cpu", check_hash=True, weights_only=True
            )
    except URLError as error:
        raise ConnectionError(
            f"weights: cannot download {address} ({error.reason}); fetch it where there is a network and put it at "
            f"{kept}, or give its path instead"
        ) from error
    return _tensors_only(kept, content)


def _read(path: Path, published: Iterable[str]) -> Mapping[str, Tensor]:
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise FileNotFoundError(
            f"weights: {path} {what}; give a .pth or .safetensors file, or {' or '.join(published)}"
        )
    if path.suffix == ".safetensors":
        with _plainly_told(path):
            return load_file(path)
    with path.open("rb") as file:
        start = file.read(4)
    # torch writes zip archives, and before 1.6 wrote a pickled magic number first. Whatever else calls itself .pth goes
    # no further: torch's own answer to it would be about pickle.
    if not zipfile.is_zipfile(path) and start != b"\x80\x02\x8a\x0a":
        raise ValueError(f"weights: {path} is no torch file, or an incomplete one; fetch or save it again")
    with _plainly_told(path):
        content = torch.load(path, map_location="cpu", weights_only=True)
    return _tensors_only(path, content)


def _tensors_only(path: Path, content: object) -> Mapping[str, Tensor]:
    if isinstance(content, Mapping) and content and all(isinstance(value, Tensor) for value in content.values()):
        return content
    held = (_some(map(repr, content)) or "nothing") if isinstance(content, Mapping) else f"a {type(content).__name__}"
    raise ValueError(
        f"weights: {path} should hold a state dict, tensors by name, and holds {held}; "
        "save the network's state_dict() alone"
    )


@contextmanager
def _plainly_told(path: Path) -> Iterator[None]:
    """Turn what a broken or dangerous file makes torch raise into one sentence about that file."""
    try:
        yield
    except URLError:
        raise
    except UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        needs = f"needs {found[1]}, which is code" if found else "holds more than tensors"
        raise ValueError(
            f"weights: {path} is refused, because it {needs}, and loading code from a file can run anything; "
            "save the network's state_dict() alone, or as .safetensors"
        ) from error
    except (SafetensorError, RuntimeError, EOFError, OSError, struct.error) as error:
        detail = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"weights: {path} is broken or incomplete ({detail}); fetch or save it again") from error
