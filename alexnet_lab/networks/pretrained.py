"""Weights from elsewhere: files that torchvision publishes, read and written by name without it, and our own runs'.

* from_torchvision_state_dict, to_torchvision_state_dict: between their names and ours, without loss
* load_pretrained: a file, or the published one by the name "imagenet", into a network
* load_own: tensors under our own names, as a run keeps them, into a network

A classifier for other classes stays as initialised. The first convolution of a network with one input channel takes the
sum of the file's over red, green and blue: grey pixels then give what they gave as colour.

Names are mapped module by module: `stem.conv` is `conv1`, with all its tensors. Only tensors are read from a file; a
file that needs code to be loaded is refused.
"""

import re
import struct
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from pickle import UnpicklingError
from urllib.error import URLError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from alexnet_lab.networks.catalogue import CATALOGUE, Entry, Reference, Weights, resolve

RUN_PREFIX = "network."  # of a network's tensors in a run's checkpoint
# What is raised for a damaged file of any format: torch's reader follows whatever the file says.
DAMAGED = (
    SafetensorError, RuntimeError, EOFError, OSError, struct.error, zipfile.BadZipFile, LookupError, TypeError,
    ValueError, AttributeError, AssertionError, ArithmeticError, MemoryError,
)  # fmt: skip
WEIGHT_FILES_ADDRESS = "https://download.pytorch.org/models/"


@dataclass(frozen=True)
class Published:
    """One set of published weights, and the network of the catalogue that they belong to."""

    network: str
    entry: Entry
    weights: Weights

    def __str__(self) -> str:
        slots = " and ".join(f"{slot} {level}" for slot, level in self.weights.slots.items())
        return f"{self.network} with {slots}" if slots else self.network

    def tensors(self) -> Mapping[str, Tensor]:
        """Return the tensors of the file by name, without values."""
        slots = tuple(self.weights.slots.items())
        return _tensors_of_file(self.entry.constructor, self.entry.torchvision_names, slots)


def published_weights() -> list[Published]:
    """Return all published weights of the catalogue."""
    return [Published(name, entry, weights) for name, entry in CATALOGUE.items() for weights in entry.weights]


def from_torchvision_state_dict(network: nn.Module, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what `network.load_state_dict` takes, from a state dict with torchvision's names.

    Raises ValueError unless the names and shapes are those of the network; load_pretrained allows for other classes and
    for one channel.
    """
    return _placed(network, state_dict, "; load_pretrained takes other classes and one channel")


def _placed(network: nn.Module, state_dict: Mapping[str, Tensor], hint: str = "") -> dict[str, Tensor]:
    own = network.state_dict()
    theirs = _torchvision_names(network)
    # Files older than 2018 do not count batches, and the count has no effect if momentum is a number.
    missing = [name for name in theirs.values() if name not in state_dict and not _is_batch_count(name)]
    expected = set(theirs.values())
    unknown = [name for name in state_dict if name not in expected]
    shapes = [
        f"{name} is {tuple(state_dict[name].shape)}, expected {tuple(own[ours].shape)}"
        for ours, name in theirs.items()
        if name in state_dict and state_dict[name].shape != own[ours].shape
    ]
    if missing or unknown or shapes:
        raise ValueError(
            f"these tensors do not fit this {type(network).__name__}; {_problems(shapes, missing, unknown)}; "
            + _repair(network, state_dict, named_right=not (missing or unknown), hint=hint)
        )
    return {
        ours: state_dict[name] if name in state_dict else torch.zeros_like(own[ours]) for ours, name in theirs.items()
    }


def _problems(shapes: Iterable[str], missing: Iterable[str], unknown: Iterable[str]) -> str:
    problems = (("shapes differ", shapes), ("missing", missing), ("not in the network", unknown))
    return "; ".join(f"{what}: {_some(names)}" for what, names in problems if names)


def to_torchvision_state_dict(network: nn.Module) -> dict[str, Tensor]:
    """Return the network's tensors, shared, under the names of torchvision's file.

    Raises ValueError for a network that torchvision does not have: another preset, or other parts with tensors.
    """
    own = network.state_dict()
    theirs = _torchvision_names(network)
    published = _published_of(network)
    preset = _other_preset(network, published)
    if preset:
        raise ValueError(
            f"{type(network).__name__} with preset {preset!r} has no counterpart in torchvision; "
            f'only preset="{published.weights.slots["preset"]}" has'
        )
    expected = published.tensors()
    extra = [ours for ours, name in theirs.items() if name not in expected]
    lacking = [name for name in expected if name not in set(theirs.values())]
    if extra or lacking:
        raise ValueError(
            f"this {type(network).__name__} has no counterpart in torchvision; it has in addition: "
            f"{_some(extra) or 'nothing'}; it lacks: {_some(lacking) or 'nothing'}; {_as_published(published)}"
        )
    return {theirs[ours]: tensor for ours, tensor in own.items()}


def load_pretrained(network: nn.Module, source: str | Path) -> list[str]:
    """Load published weights and return the names of the tensors that stayed as initialised.

    `source` is a .pth or .safetensors file with torchvision's names, or "imagenet" for the published one ("imagenet-v2"
    for the second of a MobileNet), which torch.hub downloads once, checks and keeps. A run's best.safetensors, with our
    own names, is read too.

    The returned list is empty, or names the last layer if the network has other classes than the file. Raises
    ValueError, FileNotFoundError or ConnectionError; the message begins with `weights: `, the field of a recipe that
    names a source.
    """
    published = _published_of(network)
    files = published.weights.files
    if source in files:
        # Checked before the download: some files are half a gigabyte.
        _fit(network, published.tensors(), source)
        state_dict = _download(files[str(source)])
    else:
        state_dict = _read(Path(source), files)
        if all(name.startswith(RUN_PREFIX) for name in state_dict):
            own = {name.removeprefix(RUN_PREFIX): tensor for name, tensor in state_dict.items()}
            try:
                return load_own(network, own)
            except ValueError as error:
                raise ValueError(f"weights: {source}: {error}") from None
    fitting, untouched = _fit(network, state_dict, source)
    network.load_state_dict(fitting)
    return untouched


def load_own(network: nn.Module, tensors: Mapping[str, Tensor], *, keep_head: bool = True) -> list[str]:
    """Load tensors with the network's own names and return the names of those that stayed as initialised.

    Without `keep_head` the last layer always stays as initialised, as it does where the classes differ in number. A
    first convolution for grey images spreads over three colours in equal parts. Raises ValueError where names or shapes
    differ otherwise.
    """
    own = network.state_dict()
    adapted, untouched = _adapted(network, tensors, {name: name for name in own}, keep_head=keep_head)
    lacking = [name for name in own if name not in adapted and not _is_batch_count(name)]
    unknown = [name for name in adapted if name not in own]
    shapes = [
        f"{name} is {tuple(adapted[name].shape)}, expected {tuple(tensor.shape)}"
        for name, tensor in own.items()
        if name in adapted and adapted[name].shape != tensor.shape
    ]
    if lacking or unknown or shapes:
        raise ValueError(
            f"these tensors do not fit this {type(network).__name__}; {_problems(shapes, lacking, unknown)}"
        )
    network.load_state_dict({**own, **adapted})
    return untouched


def _fit(
    network: nn.Module, state_dict: Mapping[str, Tensor], source: str | Path
) -> tuple[dict[str, Tensor], list[str]]:
    """Return a state dict for the network, and which of its tensors are the network's own because classes differ."""
    adapted, untouched = _adapted(network, state_dict, _torchvision_names(network))
    try:
        return _placed(network, adapted), untouched
    except ValueError as error:
        raise ValueError(f"weights: {source}: {error}") from None


def _adapted(
    network: nn.Module, state_dict: Mapping[str, Tensor], theirs: Mapping[str, str], *, keep_head: bool = True
) -> tuple[dict[str, Tensor], list[str]]:
    """Return their tensors with the first and the last layer made to fit, and which are the network's own.

    `theirs` maps the network's names to those of the state dict.
    """
    own = network.state_dict()
    adapted = dict(state_dict)
    first = next(f"{name}.weight" for name, layer in network.named_modules() if isinstance(layer, nn.Conv2d))
    last = [name for name, layer in network.named_modules() if isinstance(layer, nn.Linear)][-1]

    kernels = adapted.get(theirs[first])
    if kernels is not None and kernels.ndim == 4:
        if (kernels.shape[1], own[first].shape[1]) == (3, 1):
            adapted[theirs[first]] = kernels.sum(1, keepdim=True)
        elif (kernels.shape[1], own[first].shape[1]) == (1, 3):
            adapted[theirs[first]] = kernels.expand(-1, 3, -1, -1) / 3
    weight, target = adapted.get(theirs[f"{last}.weight"]), own[f"{last}.weight"]
    if weight is None or weight.shape[1:] != target.shape[1:] or (keep_head and weight.shape == target.shape):
        return adapted, []
    untouched = [name for name in (f"{last}.weight", f"{last}.bias") if name in own]
    return adapted | {theirs[name]: own[name] for name in untouched}, untouched


def _entry_of(network: nn.Module) -> Entry:
    entries = [entry for entry in CATALOGUE.values() if entry.weights]
    for entry in entries:
        if resolve(entry.constructor) is type(network):
            return entry
    names = ", ".join(resolve(entry.constructor).__name__ for entry in entries)
    raise ValueError(f"torchvision's names are known for {names}, not for {type(network).__name__}")


def _published_of(network: nn.Module) -> Published:
    """Return the published weights whose names are nearest to the network's."""
    entry = _entry_of(network)
    candidates = [published for published in published_weights() if published.entry is entry]
    if len(candidates) == 1:
        return candidates[0]
    names = set(_torchvision_names(network).values())
    return min(candidates, key=lambda published: len(names ^ published.tensors().keys()))


def _torchvision_names(network: nn.Module) -> dict[str, str]:
    """Map the name of every tensor to torchvision's; one that torchvision cannot have keeps its own."""
    return _renamed(network, _entry_of(network).torchvision_names)


def _renamed(network: nn.Module, torchvision_names: Reference) -> dict[str, str]:
    modules = dict(resolve(torchvision_names)(network))
    theirs = {}
    for name in network.state_dict():
        module, _, tensor = name.rpartition(".")
        theirs[name] = f"{modules[module]}.{tensor}" if module in modules else name
    return theirs


@cache
def _tensors_of_file(
    constructor: Reference, torchvision_names: Reference, slots: tuple[tuple[str, str], ...]
) -> Mapping[str, Tensor]:
    with torch.device("meta"):
        network = resolve(constructor)(1000, **dict(slots))
    theirs = _renamed(network, torchvision_names)
    return {theirs[ours]: tensor for ours, tensor in network.state_dict().items()}


def _other_preset(network: nn.Module, published: Published) -> str | None:
    """Return the network's preset if the published weights need another."""
    preset = published.weights.slots.get("preset")
    own: str | None = getattr(network, "preset_name", None)
    return own if preset is not None and own != preset else None


# Advice is worded for recipes, whose fields are named like the arguments and the options.
def _as_published(published: Published) -> str:
    norm = published.weights.slots.get("norm")
    advice = f"take norm {norm}" if norm else "leave norm out"
    return f"torchvision has networks as published: {advice}, keep width 1, and take an act without weights"


def _repair(network: nn.Module, state_dict: Mapping[str, Tensor], *, named_right: bool, hint: str) -> str:
    """Advise on a state dict that does not fit; the hint is added if only sizes are wrong."""
    own, file = _published_of(network), _identify(state_dict)
    if file and file != own:
        return f"they are the tensors of {file}: take network {file}, or the file of {own}"
    preset = _other_preset(network, own)
    if file and preset:
        return (
            f"this network is of preset {preset}: take preset {own.weights.slots['preset']} and the width of the file"
        )
    if named_right:
        return f"the names are right and the sizes are not: take the width of the file, 1 in torchvision's own{hint}"
    if file:
        return _as_published(own)
    names = ", ".join(name for name, entry in CATALOGUE.items() if entry.weights)
    return f"no torchvision file that is known here has such tensors; known are those of {names}"


def _identify(state_dict: Mapping[str, Tensor]) -> Published | None:
    """Return the published weights with these names."""
    names = {name for name in state_dict if not _is_batch_count(name)}
    for published in published_weights():
        if names == {name for name in published.tensors() if not _is_batch_count(name)}:
            return published
    return None


def _is_batch_count(name: str) -> bool:
    return name.endswith(".num_batches_tracked")


def _some(names: Iterable[str], most: int = 4) -> str:
    listed = list(names)
    return ", ".join(listed[:most]) + (f" and {len(listed) - most} more" if len(listed) > most else "")


def _download(file: str) -> Mapping[str, Tensor]:
    address = WEIGHT_FILES_ADDRESS + file
    cached = Path(torch.hub.get_dir()) / "checkpoints" / file
    try:
        with _file_errors(cached):
            content = torch.hub.load_state_dict_from_url(
                address, map_location="cpu", check_hash=True, weights_only=True
            )
    except URLError as error:
        raise ConnectionError(
            f"weights: cannot download {address} ({error.reason}); fetch it on a machine with a connection and put it "
            f"at {cached}, or give its path instead"
        ) from error
    return _tensors_only(cached, content)


def _read(path: Path, published: Iterable[str]) -> Mapping[str, Tensor]:
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise FileNotFoundError(
            f"weights: {path} {what}; give a .pth or .safetensors file, or {' or '.join(published)}"
        )
    if path.suffix == ".safetensors":
        with _file_errors(path):
            return load_file(path)
    with path.open("rb") as file:
        start = file.read(4)
    # torch writes zip archives; before 1.6 files began with a pickled magic number. Anything else is refused here,
    # because torch's message would be about pickle.
    if not zipfile.is_zipfile(path) and start != b"\x80\x02\x8a\x0a":
        raise ValueError(f"weights: {path} is not a torch file, or an incomplete one; fetch or save it again")
    with _file_errors(path):
        _refuse_compressed(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about a pickle that torch then refuses
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


def _refuse_compressed(path: Path) -> None:
    """Refuse a zip archive that torch did not write: a compressed tensor may be a thousand times its file."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        compressed = [member.filename for member in archive.infolist() if member.compress_type != zipfile.ZIP_STORED]
    if compressed:
        raise ValueError(f"it holds {compressed[0]} compressed, as torch does not write it")


@contextmanager
def _file_errors(path: Path) -> Iterator[None]:
    """Turn torch's errors about a broken or dangerous file into ValueErrors that name the file."""
    try:
        yield
    except URLError:
        raise
    except UnpicklingError as error:
        code = re.search(r"GLOBAL (\S+)", str(error))
        if code and code[1].endswith("."):  # a name that the end of the file cut off
            raise ValueError(f"weights: {path} is broken or incomplete; fetch or save it again") from error
        needs = f"needs {code[1]}, which is code" if code else "holds more than tensors"
        raise ValueError(
            f"weights: {path} is refused, because it {needs}, and such a file can run anything; "
            "save the network's state_dict() alone, or as .safetensors"
        ) from error
    except DAMAGED as error:
        detail = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"weights: {path} is broken or incomplete ({detail}); fetch or save it again") from error
