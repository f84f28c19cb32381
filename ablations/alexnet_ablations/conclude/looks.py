"""Looks: a study that is extended after its report has been looked at, and each look is a chance to be wrong.

The 5% are spent over the looks by the number of seeds: up to the look with n seeds at most 5% x (1 - 1/n) are spent
in all, and a look is tested at what it adds. That is a spending function after Lan and DeMets (1983) that needs no
largest n named beforehand; what the looks share is left out of account, which is strict. Ten seeds at once are tested
at 4.5%; three seeds at 3.3%, and three more after them at 0.8%.
"""

from collections.abc import Sequence

from alexnet_ablations.conclude.intervals import LEVEL

WORDS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")


def spent(seeds: int) -> float:
    """Return the error that may be spent up to a look with so many seeds."""
    return LEVEL * (1 - 1 / seeds) if seeds > 1 else 0.0


def level_of_look(seeds: int, earlier: Sequence[int] = ()) -> float:
    """Return the level of a look with so many seeds after looks with fewer."""
    before = [n for n in earlier if n < seeds]
    return spent(seeds) - spent(max(before, default=0))


def look_in_words(seeds: int, earlier: Sequence[int]) -> str:
    """Say which look this is and at what level it is tested; empty for the first."""
    before = [n for n in earlier if n < seeds]
    if not before:
        return ""
    number = WORDS[len(before)] if len(before) < len(WORDS) else f"{len(before) + 1}th"
    rest, level = 100 * spent(max(before)), 100 * level_of_look(seeds, earlier)
    return (
        f"{number} look at this study, after one at {' and '.join(map(str, before))} seeds: of 5% for false findings "
        f"{rest:.1f}% were spent there, and this look is tested at {level:.2g}%"
    )
