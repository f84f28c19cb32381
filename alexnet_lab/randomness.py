"""Named random streams.

Every draw comes from a generator named by a seed, a purpose and a name: stream(3, "init", "conv1.weight"). What a
stream yields depends on its name alone, not on what was drawn before. Two networks that differ in one part therefore
share every other initial weight, batch and dropout mask (common random numbers), and a difference between their results
comes from that part.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def derived_seed(seed: int, *names: str | int) -> int:
    """Return an integer of 63 bits that depends on the seed and on all names in order."""
    # The separator keeps ("ab", "c") and ("a", "bc") apart.
    key = "\x1f".join([str(seed), *map(str, names)]).encode()
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little") >> 1


def stream(seed: int, *names: str | int) -> torch.Generator:
    """Return a new CPU generator for the stream of that name, whatever the default device is.

    torch seeds its CPU generator with the low 32 bits of derived_seed, so two streams can coincide: among ten thousand
    streams the chance that any two do is 1%.
    """
    import torch

    return torch.Generator(device="cpu").manual_seed(derived_seed(seed, *names))
