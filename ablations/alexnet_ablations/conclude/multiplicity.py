"""Many comparisons at once: with ten true nulls at 5%, two studies in five would find something.

The family of an outcome is every contrast that the design declares, before anything is seen: one that could not be
tested counts as well, with p = 1, so that a failed run cannot make the others look better.
"""

from collections.abc import Sequence


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Adjust p-values by Holm's step-down rule; what could not be tested stays None and still counts in the family.

    An adjusted value at or below .05 means: at most one study in twenty finds anything false in this family.
    """
    family = len(p_values)
    tested = sorted((p, at) for at, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * family
    largest = 0.0
    for rank, (p, at) in enumerate(tested):
        largest = max(largest, min(1.0, (family - rank) * p))
        adjusted[at] = largest
    return adjusted
