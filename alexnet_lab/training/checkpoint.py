"""Checkpoints: everything that a run needs to continue as if it had not been interrupted.

    checkpoints/step-00000120.safetensors   weights, optimiser, averaged weights, counters of the instruments
    checkpoints/step-00000120.json          where in the run, and a digest of these facts and the tensors
    checkpoints/best.safetensors, .json     the weights to be tested, and in the JSON what scales their images

The two newest steps are kept, so that a damaged one has one before it. No state of any generator is stored: every draw
has a name. Tensors go to the file, and from it, without standing in memory a second time.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.optim import Optimizer

from alexnet_lab.networks.pretrained import RUN_PREFIX
from alexnet_lab.records import atomically, digest_of, parse_json, read_text, write_atomically

KEPT = 2
BEST = "best"
BLOCK = 2**20  # bytes of a file that are read at once


@dataclass(frozen=True)
class Checkpoint:
    """Tensors by name, and the facts beside them."""

    tensors: dict[str, Tensor]
    facts: dict[str, Any]


def save_step(folder: Path, step: int, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """Write the checkpoint of a step and remove all but the newest two; it becomes valid with its JSON."""
    name = f"step-{step:08}"
    with atomically(folder / f"{name}.safetensors") as file:
        signed = _written(Path(file.name), tensors, facts)
    write_atomically(folder / f"{name}.json", json.dumps(signed))
    for stale in sorted(folder.glob("step-*.json"))[:-KEPT]:
        # The JSON goes first: without it the tensors are no checkpoint.
        stale.unlink()
        stale.with_suffix(".safetensors").unlink(missing_ok=True)


def save_best(folder: Path, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """Replace the weights to be tested.

    Two files cannot be replaced at once. The JSON is written first, with the facts of the weights so far as `before`,
    and the digests say which of the two belong to the tensors: a crash in between leaves the earlier weights valid.
    """
    try:
        before = facts_of(folder, BEST)
    except ValueError:  # none yet, or damaged
        before = None
    with atomically(folder / f"{BEST}.safetensors") as file:
        signed = _written(Path(file.name), tensors, facts)
        write_atomically(folder / f"{BEST}.json", json.dumps({**signed, "before": before}))


def load_checkpoint(folder: Path, name: str) -> Checkpoint:
    """Read one checkpoint; ValueError if it is missing, torn or damaged."""
    facts = facts_of(folder, name)
    try:
        return Checkpoint(safetensors.torch.load_file(folder / f"{name}.safetensors"), facts)
    except (SafetensorError, OSError) as error:  # it matches its digest, and was never a checkpoint
        raise ValueError(f"checkpoint {folder / name} cannot be read: {error}") from None


def facts_of(folder: Path, name: str) -> dict[str, Any]:
    """Return those facts of a checkpoint whose digest its tensors match; ValueError if there are none."""
    path = folder / f"{name}.safetensors"
    try:
        written = parse_json(read_text(folder / f"{name}.json"))
        content = _blake_of(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"checkpoint {folder / name} cannot be read: {error}") from None
    if isinstance(written, dict):
        before = written.pop("before", None)
        for facts in (written, before):
            if isinstance(facts, dict) and _is_signed(content, facts):
                return facts
    raise ValueError(f"checkpoint {folder / name} is damaged: tensors and facts do not match their digest")


def load_latest(
    folder: Path, check: Callable[[Checkpoint], None] = lambda _checkpoint: None
) -> tuple[Checkpoint | None, tuple[str, ...]]:
    """Return the newest step that is whole and passes the check, and why each newer one does not.

    The check raises ValueError for a step that cannot be used.
    """
    passed_over: list[str] = []
    for path in sorted(folder.glob("step-*.json"), reverse=True):
        try:
            candidate = load_checkpoint(folder, path.stem)
        except ValueError as error:
            passed_over.append(str(error))
            continue
        try:
            check(candidate)
        except ValueError as error:
            passed_over.append(f"checkpoint {path.with_suffix('')} cannot be used: {error}")
            continue
        return candidate, tuple(passed_over)
    return None, tuple(passed_over)


def _written(path: Path, tensors: dict[str, Tensor], facts: dict[str, Any]) -> dict[str, Any]:
    """Write the tensors into that file, and return the facts with the digest of both."""
    # safetensors refuses views that share memory, and writes what is contiguous.
    safetensors.torch.save_file({key: value.detach().cpu().contiguous() for key, value in tensors.items()}, path)
    return {**facts, "digest": _digest(_blake_of(path), facts)}


def _is_signed(content: "hashlib.blake2b", facts: dict[str, Any]) -> bool:
    own = {name: value for name, value in facts.items() if name != "digest"}
    # Version 0.1.0 signed the tensors alone.
    return facts.get("digest") in (_digest(content, own), content.hexdigest())


def _digest(content: "hashlib.blake2b", facts: dict[str, Any]) -> str:
    hasher = content.copy()
    hasher.update(digest_of(facts).encode())
    return hasher.hexdigest()


def _blake_of(path: Path) -> "hashlib.blake2b":
    hasher = hashlib.blake2b(digest_size=16)
    if path.exists() and not path.is_file():  # a named pipe would be waited for
        raise ValueError("its tensors are in no regular file")
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            hasher.update(block)
    return hasher


def network_tensors(network: nn.Module, prefix: str = RUN_PREFIX) -> dict[str, Tensor]:
    """Return parameters and buffers under a prefix."""
    return {prefix + name: value for name, value in network.state_dict().items()}


def restore_network(network: nn.Module, tensors: dict[str, Tensor], prefix: str = RUN_PREFIX) -> None:
    """Give a network the tensors of that prefix."""
    network.load_state_dict(
        {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    )


def optimiser_tensors(optimiser: Optimizer) -> dict[str, Tensor]:
    """Return what the optimiser keeps for each parameter; every optimiser here keeps tensors only."""
    state = optimiser.state_dict()["state"]
    return {
        f"optimiser.{index}.{key}": value
        for index, slots in state.items()
        for key, value in slots.items()
        if value is not None
    }


def restore_optimiser(optimiser: Optimizer, tensors: dict[str, Tensor]) -> None:
    """Give the optimiser back what it kept."""
    settings = optimiser.state_dict()
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimiser."):
            _, index, key = name.split(".", 2)
            state.setdefault(int(index), {})[key] = value
    with torch.no_grad():
        optimiser.load_state_dict({**settings, "state": state})
