"""Checkpoints: everything a run needs to go on as if nothing had happened.

    checkpoints/step-00000120.safetensors   weights, optimiser, averaged weights
    checkpoints/step-00000120.json          where in the run, and the digest of the tensors
    checkpoints/best.safetensors, .json     the weights to be tested

Each pair is written tensors first and becomes valid with its JSON. Two are kept, so that a damaged one has one before
it. No state of any generator is stored: every draw has a name.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from alexnet_lab.records import write_atomically

KEPT = 2


@dataclass(frozen=True)
class Checkpoint:
    """What was found: tensors by name, the facts beside them, and what had to be passed over to get here."""

    tensors: dict[str, Tensor]
    facts: dict[str, Any]
    damaged: tuple[str, ...] = ()


def save_checkpoint(folder: Path, name: str, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """Write one checkpoint; a crash in between leaves the earlier ones as they were."""
    # safetensors refuses views that share memory, and writes what is contiguous.
    content = safetensors.torch.save({key: value.detach().cpu().contiguous() for key, value in tensors.items()})
    write_atomically(folder / f"{name}.safetensors", content)
    write_atomically(folder / f"{name}.json", json.dumps({**facts, "digest": _digest(content)}))


def save_step(folder: Path, step: int, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """Write the checkpoint of a step and let go of all but the newest two."""
    save_checkpoint(folder, f"step-{step:08}", tensors, facts)
    for stale in sorted(folder.glob("step-*.json"))[:-KEPT]:
        # The JSON goes first: without it the tensors are no checkpoint.
        stale.unlink()
        stale.with_suffix(".safetensors").unlink(missing_ok=True)


def load_checkpoint(folder: Path, name: str) -> Checkpoint:
    """Read one checkpoint; ValueError if it is torn or damaged."""
    try:
        facts = json.loads((folder / f"{name}.json").read_text())
        content = (folder / f"{name}.safetensors").read_bytes()
        whole = facts["digest"] == _digest(content)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"checkpoint {folder / name} cannot be read: {error}") from error
    if not whole:
        raise ValueError(f"checkpoint {folder / name} is damaged: its tensors are not those it was written with")
    return Checkpoint(safetensors.torch.load(content), facts)


def load_latest(folder: Path) -> Checkpoint | None:
    """Read the newest step that is whole; those passed over are named in `damaged`."""
    damaged: list[str] = []
    for path in sorted(folder.glob("step-*.json"), reverse=True):
        try:
            found = load_checkpoint(folder, path.stem)
        except ValueError as error:
            damaged.append(str(error))
            continue
        return Checkpoint(found.tensors, found.facts, tuple(damaged))
    return None


def network_tensors(network: nn.Module, prefix: str = "network.") -> dict[str, Tensor]:
    """Return parameters and buffers under a prefix."""
    return {prefix + name: value for name, value in network.state_dict().items()}


def restore_network(network: nn.Module, tensors: dict[str, Tensor], prefix: str = "network.") -> None:
    """Give a network the tensors of that prefix."""
    network.load_state_dict(
        {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    )


def optimiser_tensors(optimiser: Optimizer) -> dict[str, Tensor]:
    """Return what the optimiser keeps for each parameter; every optimiser here keeps tensors only."""
    state = optimiser.state_dict()["state"]
    return {
        f"optimiser.{index}.{key}": value
        for index, kept in state.items()
        for key, value in kept.items()
        if value is not None
    }


def restore_optimiser(optimiser: Optimizer, tensors: dict[str, Tensor]) -> None:
    """Give the optimiser back what it kept."""
    whole = optimiser.state_dict()
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimiser."):
            _, index, key = name.split(".", 2)
            state.setdefault(int(index), {})[key] = value
    with torch.no_grad():
        optimiser.load_state_dict({**whole, "state": state})


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()
