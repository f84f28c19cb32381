"""One run over several processes: rank, sums over all, barriers.

Every process takes its part of each batch; gradients are averaged over all of them. On one machine the run starts them
itself (companions.py), on several torchrun does:

    alexnet-lab train --data cifar10 --processes 2 --out runs/two
    torchrun --nproc-per-node 2 --no-python alexnet-lab train --data cifar10 --out runs/two

The run has the numbers of a single process up to rounding, unless batch normalisation sees the parts.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

# Environment variables, the first three as torchrun sets them. MEETING names a file that all processes can reach.
COUNT, RANK, RANK_HERE, MEETING = "WORLD_SIZE", "RANK", "LOCAL_RANK", "ALEXNET_LAB_MEETING"


@dataclass(frozen=True)
class Ranks:
    """This process among all that share the run."""

    rank: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        """Return whether this is the process that writes and prints."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """Add up the values of all processes, in every one of them."""
        if self.count > 1:
            torch.distributed.all_reduce(values)
        return values

    def any(self, condition: bool, device: str) -> bool:
        """Return whether `condition` is true in any process; the same in all of them."""
        return condition if self.count == 1 else bool(self.sum(torch.tensor(float(condition), device=device)) > 0)

    def wait(self) -> None:
        """Wait until every process has come this far."""
        if self.count > 1:
            torch.distributed.barrier()

    def wrap(self, network: nn.Module) -> nn.Module:
        """Let the gradients of all processes be averaged in the backward pass."""
        return DistributedDataParallel(network) if self.count > 1 else network


@contextmanager
def joined(device: str) -> Iterator[Ranks]:
    """Join the other processes if there are any, and leave them in the end."""
    count = int(os.environ.get(COUNT, "1"))
    if count == 1:
        yield Ranks()
        return
    if device == "cuda":
        torch.cuda.set_device(int(os.environ[RANK_HERE]))
    backend, meeting = "nccl" if device == "cuda" else "gloo", os.environ.get(MEETING)
    if meeting is None:
        torch.distributed.init_process_group(backend)
    else:
        at = f"file://{meeting}"
        torch.distributed.init_process_group(backend, init_method=at, rank=int(os.environ[RANK]), world_size=count)
    try:
        yield Ranks(torch.distributed.get_rank(), count)
    finally:
        torch.distributed.destroy_process_group()
