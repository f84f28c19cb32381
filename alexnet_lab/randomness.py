"""Named streams of randomness.

Every draw comes from a stream named by a seed, a purpose and a name: stream(3, "init", "conv1.weight"). Two networks
that differ in one part therefore share every other weight, batch and mask, and the difference between their results
is the part, not the dice. A stream depends on its name alone, never on what was drawn before it.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def derived_seed(seed: int, *names: str | int) -> int:
    """Return 63 bits that depend on the seed and on every name, in order."""
    # The separator cannot occur in a number and ends each name, so ("ab", "c") and ("a", "bc") differ.
    key = "\x1f".join([str(seed), *map(str, names)]).encode()
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little") >> 1


def stream(seed: int, *names: str | int) -> torch.Generator:
    """Return a CPU generator for the stream of that name.

    torch seeds its CPU generator with the low 32 bits, so among ten thousand streams one pair in a hundred tries
    coincides: harmless here, where a pair of equal streams would feed two differently shaped purposes.
    """
    import torch

    return torch.Generator().manual_seed(derived_seed(seed, *names))
