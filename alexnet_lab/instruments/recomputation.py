"""Gradient checkpointing runs parts of a pass a second time, in the backward pass: what is counted, is counted once.

torch.utils.checkpoint has two ways. The one that is not reentrant keeps gradients on in the first pass, so that hooks
of that pass see all there is; what runs again in the backward pass gives back saved tensors and is to be overlooked.
The reentrant one runs the first pass without gradients: values are counted then, and the gradients of activations are
those of the tensors of the second pass. Which place such a tensor belongs to is known by the checkpoint that computes
it: it meets its places in the order in which it met them first.
"""

import sys
from collections import deque
from weakref import WeakKeyDictionary

import torch
from torch.utils.checkpoint import CheckpointFunction

FORWARD, BACKWARD = CheckpointFunction.forward.__code__, CheckpointFunction.backward.__code__


def is_backward() -> bool:
    """Say whether autograd's engine is at work, as torch's own checkpoints ask; it takes some 50 nanoseconds."""
    return torch._C._current_graph_task_id() != -1


class Checkpoints:
    """The places inside of reentrant checkpoints that were met without gradients, and will be met again."""

    def __init__(self) -> None:
        # By the node that autograd keeps of a checkpoint; the places go with it when its graph does.
        self.awaited: WeakKeyDictionary[object, deque[tuple[str, int | None]]] = WeakKeyDictionary()

    def enclose(self, name: str, use: int | None) -> bool:
        """Note which use of a place was met with gradients off, None if its gradient is watched already.

        Return False if no checkpoint is at work: then nobody will ask for gradients, and nothing is noted.
        """
        first, _ = _at_work()
        for node in first:
            self.awaited.setdefault(node, deque()).append((name, use))
        return bool(first)

    def met_again(self, name: str) -> int | None:
        """Return which use of a place a second pass has come to, if that is where its gradient is to be watched."""
        if not self.awaited:
            return None
        inner, node = _at_work()
        places = self.awaited.get(node) if node is not None else None
        if not places or places[0][0] != name:
            return None
        _, use = places.popleft()
        for checkpoint in inner:  # which run without gradients even now, and have a second pass of their own to come
            self.awaited.setdefault(checkpoint, deque()).append((name, use))
        return use if torch.is_grad_enabled() else None


def _at_work() -> tuple[list[object], object | None]:
    """Return the reentrant checkpoints in their first pass, innermost first, and the one in its second around these."""
    first: list[object] = []
    frame = sys._getframe()
    while frame is not None:
        if frame.f_code is FORWARD:
            first.append(frame.f_locals["ctx"])
        elif frame.f_code is BACKWARD:
            return first, frame.f_locals["ctx"]
        elif frame.f_code.co_name == "unpack_hook" and frame.f_code.co_filename == FORWARD.co_filename:
            break  # what runs for saved tensors alone, even inside of a reentrant checkpoint's backward
        frame = frame.f_back  # type: ignore[assignment]
    return first, None
