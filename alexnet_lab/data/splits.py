"""Which image serves which purpose: stratified, and the same for every run that shares a split seed."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from alexnet_lab.randomness import derived_seed


@dataclass(frozen=True)
class Split:
    """Indices into a set of images; no index stands twice."""

    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    test: NDArray[np.int64]


def stratified_split(labels: NDArray[np.int64], seed: int = 0, held_out: float = 0.2) -> Split:
    """Hold out that share for validation and again for test, every class in its proportion."""
    from sklearn.model_selection import train_test_split

    def divide(indices: NDArray[np.int64], count: int, purpose: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        luck = derived_seed(seed, "split", purpose) % 2**32  # what scikit-learn accepts
        kept, taken = train_test_split(indices, test_size=count, random_state=luck, stratify=labels[indices])
        return np.sort(kept), np.sort(taken)

    count = round(held_out * len(labels))
    rest, test = divide(np.arange(len(labels)), count, "test")
    train, validation = divide(rest, count, "validation")
    return Split(train, validation, test)
