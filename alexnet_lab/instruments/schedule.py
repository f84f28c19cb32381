"""When the instruments read: which steps of an epoch are measured, and how many of them one histogram adds up.

Units are counted at every step; norms and histograms only at measured ones. Needs no torch.
"""

from dataclasses import dataclass

from alexnet_lab.choices import unknown_choice

CHOICES = ("default", "off", "all", "every:20")
# The default reads every 20th step, so that a network as small as the laptop recipe's loses no twentieth of its time to
# it, and less often in long epochs: 90 epochs of 10,000 steps stay below 50 MB.
DEFAULT_EVERY, MOST_MEASURED, MOST_WINDOWS = 20, 100, 20
# Of fewer gradients than this, the noise among them says little.
LEAST_PER_WINDOW = 4


@dataclass(frozen=True)
class Schedule:
    """Every so many steps one is measured, the first of each epoch among them; some of those are a window.

    A window has one histogram of each tensor: of `each` of its measured steps, or of its first alone.
    """

    every: int = DEFAULT_EVERY
    window: int = LEAST_PER_WINDOW
    each: bool = False

    def measures(self, step_in_epoch: int) -> bool:
        """Say whether a step, counted from 0 within its epoch, is measured."""
        return step_in_epoch % self.every == 0


def parse_instruments(text: str) -> str:
    """Check what a recipe asks for: default, off, all, or every:20."""
    name, _, tail = text.partition(":")
    if name not in ("default", "off", "all", "every"):
        raise unknown_choice("instruments", name, CHOICES)
    if name != "every":
        if tail:
            raise ValueError(f"{name} takes no argument, got {text!r}")
        return text
    if not tail.isdecimal() or int(tail) < 1:
        raise ValueError(f"every takes the steps between two measured ones, as in every:20; got {text!r}")
    return f"every:{int(tail)}"


def schedule_of(text: str, steps_per_epoch: int) -> Schedule | None:
    """Return the schedule that a recipe asks for, for epochs of that length; None for `off`."""
    name, _, tail = parse_instruments(text).partition(":")
    if name == "off":
        return None
    default = max(DEFAULT_EVERY, -(-steps_per_epoch // MOST_MEASURED))
    every = {"all": 1, "default": default, "every": int(tail or 1)}[name]
    measured = -(-steps_per_epoch // every)
    return Schedule(every, max(LEAST_PER_WINDOW, -(-measured // MOST_WINDOWS)), each=name == "all")
