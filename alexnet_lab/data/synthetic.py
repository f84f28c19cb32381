"""Generated pictures, of any number, size, number of classes and difficulty.

    synthetic   synthetic:classes=10,side=64,count=5000,difficulty=0.8,seed=1

A class is the direction of a grating, and among classes that share one, its pitch. Phase and colour are random, so that
no single pixel tells the class: a network has to detect edges. Difficulty is the share of noise: 0 is a clean grating,
1 is noise alone, where accuracy cannot exceed chance.
"""

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from alexnet_lab.choices import unknown_choice
from alexnet_lab.randomness import derived_seed


@dataclass(frozen=True)
class Pictures:
    """The arguments of the data source."""

    classes: int = 4
    side: int = 32
    count: int = 1000
    difficulty: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        ranges = {"classes": (2, 1000), "side": (4, 4096), "count": (self.classes, 10**7), "difficulty": (0, 1)}
        for name, (least, most) in ranges.items():
            if not least <= getattr(self, name) <= most:
                raise ValueError(f"synthetic: {name} must be from {least} to {most}, got {getattr(self, name)}")

    def __str__(self) -> str:
        return "synthetic:" + ",".join(f"{name}={value:g}" for name, value in asdict(self).items())

    @property
    def labels(self) -> NDArray[np.int64]:
        """Return the class of each picture; the classes take turns."""
        return np.arange(self.count, dtype=np.int64) % self.classes

    def pixels(self) -> NDArray[np.uint8]:
        """Return the pictures, N 3 S S."""
        rng = np.random.default_rng(derived_seed(self.seed, "synthetic"))
        pixels = np.empty((self.count, 3, self.side, self.side), np.uint8)
        for start in range(0, self.count, 256):
            labels = self.labels[start : start + 256]
            pixels[start : start + 256] = self._drawn(labels, rng)
        return pixels

    def _drawn(self, labels: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.uint8]:
        directions = min(self.classes, 8)
        angle = (np.pi * (labels % directions) / directions)[:, None, None]
        # Waves across the picture; a wave needs about four pixels.
        pitches = -(-self.classes // directions)
        waves = np.linspace(min(3, self.side / 4), max(self.side / 4, 3), pitches + 1)[labels // directions]
        y, x = np.mgrid[: self.side, : self.side] / self.side
        phase = rng.uniform(0, 2 * np.pi, (len(labels), 1, 1))
        grating = np.sin(2 * np.pi * waves[:, None, None] * (np.cos(angle) * x + np.sin(angle) * y) + phase)
        colour = rng.uniform(0.3, 1, (len(labels), 3, 1, 1)) * rng.choice([-1, 1], (len(labels), 1, 1, 1))
        noise = rng.standard_normal((len(labels), 3, self.side, self.side), np.float32)
        mixed = (1 - self.difficulty) * colour * grating[:, None] + self.difficulty * noise
        drawn: NDArray[np.uint8] = np.clip(np.rint(127.5 + 50 * mixed), 0, 255).astype(np.uint8)
        return drawn


def parse_pictures(arguments: str) -> Pictures:
    """Read `classes=10,side=64`; an error says what is possible."""
    types: dict[str, type[int | float]] = {name: type(value) for name, value in asdict(Pictures()).items()}
    values: dict[str, int | float] = {}
    for piece in filter(None, map(str.strip, arguments.split(","))):
        name, _, text = piece.partition("=")
        if name not in types:
            raise unknown_choice("argument of data source 'synthetic'", name, types)
        try:
            values[name] = types[name](text)
        except ValueError:
            expected = "a whole number" if types[name] is int else "a number"
            raise ValueError(f"synthetic: {name} must be {expected}, got {text!r}") from None
    return Pictures(**values)  # type: ignore[arg-type]  # each value was made by the type of its field
