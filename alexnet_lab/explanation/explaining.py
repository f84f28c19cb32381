"""Maps of a run for images, each beside those of random weights, and what the comparison says.

>>> explain("runs/xrays-alexnet-1f0c", ["scan.png"])[0].maps[0].is_random

A map is called no better than random weights' unless two things hold, against as many untrained networks as asked for:

1. Erasing its hottest tenth costs the network more log odds than erasing that of any map of random weights.
2. It costs more than any untrained network loses when its own map is erased from the image.

If the weights were random themselves, the second would hold by chance in one of (networks + 1) maps: 5% with 19.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from alexnet_lab.choices import unknown_choice
from alexnet_lab.data.views import middle_view
from alexnet_lab.evaluation.predictions import Decoder, Place, image_files
from alexnet_lab.evaluation.trained import Run, load_run
from alexnet_lab.explanation.checks import border_area, border_share, fall_when_erased, rank_correlation
from alexnet_lab.explanation.maps import METHODS
from alexnet_lab.randomness import derived_seed
from alexnet_lab.training.run import torch_set_as_in
from alexnet_lab.training.trainer import network_of

Floats = NDArray[np.float64]
Told = Callable[[str, int, int], None]  # what, done, total
RANDOM_NETWORKS = 19


PRESENT = 1  # the output of OfFinding that says that the finding is there


class OfFinding(nn.Module):
    """A network with two outputs, the absence and the presence of one finding, B 2: their log odds are its score."""

    def __init__(self, network: nn.Module, finding: int) -> None:
        super().__init__()
        self.network, self.finding = network, finding

    def forward(self, images: Tensor) -> Tensor:
        """Return 0 for its absence, and its score."""
        score = self.network(images)[:, self.finding]
        return torch.stack([torch.zeros_like(score), score], 1)


@dataclass(frozen=True)
class Map:
    """One map of one image, and what the checks say of it."""

    method: str
    heat: Floats = field(repr=False)  # S S
    of_random_weights: Floats = field(repr=False)  # S S: the map of the first untrained network
    correlation_with_random: float  # Spearman, mean over the untrained networks; 0: it moved all the way
    fall: float  # of the log odds, when its hottest tenth is erased
    fall_by_random_maps: float  # the largest, when that of a map of random weights is erased
    fall_of_random_networks: float  # the largest of untrained networks by their own maps
    border: float  # share of the heat in the frame
    border_area: float  # share of the pixels there
    repeatability: float | None  # Spearman with the maps of other seeds, mean; None without any

    @property
    def is_random(self) -> bool:
        """Return whether the map is no better than those of random weights."""
        return not (self.fall > self.fall_by_random_maps and self.fall > self.fall_of_random_networks)


@dataclass(frozen=True)
class Explained:
    """One image, the class or finding that was explained, and its maps."""

    name: str
    kind: str
    probability: float
    pixels: NDArray[np.uint8] = field(repr=False)  # C S S, as the network sees them
    maps: tuple[Map, ...]


def explain(
    folder: Place,
    images: Place | Sequence[Place],
    *,
    methods: Sequence[str] = tuple(METHODS),
    kind: str | None = None,
    seeds: Sequence[Place] = (),
    random_networks: int = RANDOM_NETWORKS,
    told: Told = lambda _what, _done, _total: None,
) -> list[Explained]:
    """Explain the most probable class or finding of each image, or `kind`; `seeds` are other runs of the same recipe.

    A finding is explained by its own log odds, against its absence, in untrained networks too.

    Raises ValueError for unknown methods and classes, images that cannot be read, and runs that do not belong together.
    """
    for method in methods:
        if method not in METHODS:
            raise unknown_choice("map", method, METHODS)
    if random_networks < 1:
        raise ValueError(
            f"a map is compared with those of at least 1 untrained network, got {random_networks}; 19 is usual"
        )
    run = load_run(folder)
    if kind is not None and kind not in run.classes:
        raise unknown_choice("finding of the run" if run.recipe.has_findings else "class of the run", kind, run.classes)
    repeats = [_repeat(run, place) for place in seeds]
    names, pixels = _decoded(run, images)
    with torch_set_as_in(run.recipe):
        network = run.network()
        untrained = [_untrained(run, number) for number in range(random_networks)]
        others = [other.network() for other in repeats]
        feed = run.preprocessing.feed_of(pixels, run.classes, "cpu", has_findings=run.recipe.has_findings)
        explained = []
        for at, (name, image) in enumerate(zip(names, feed.images, strict=True)):
            told("explaining images", at, len(names))
            explained.append(_explained(run, name, image, network, untrained, others, methods, kind))
        told("explaining images", len(names), len(names))
    return explained


def _explained(
    run: Run,
    name: str,
    image: Tensor,
    network: nn.Module,
    untrained: Sequence[nn.Module],
    others: Sequence[nn.Module],
    methods: Sequence[str],
    kind: str | None,
) -> Explained:
    has_findings = run.recipe.has_findings
    with torch.no_grad():
        scores = network(image[None])
        probabilities = (scores.sigmoid() if has_findings else scores.softmax(1))[0]
    chosen = int(probabilities.argmax()) if kind is None else run.classes.index(kind)
    if has_findings:
        network, *rest = (OfFinding(one, chosen) for one in (network, *untrained, *others))
        untrained, others = rest[: len(untrained)], rest[len(untrained) :]
    maps = tuple(
        examined(
            method,
            image,
            PRESENT if has_findings else chosen,
            network,
            untrained,
            others,
            is_free=kind is None and not has_findings,
        )
        for method in methods
    )
    return Explained(name, run.classes[chosen], float(probabilities[chosen]), _as_seen(run, image), maps)


def examined(
    method: str,
    image: Tensor,
    kind: int,
    network: nn.Module,
    untrained: Sequence[nn.Module],
    others: Sequence[nn.Module] = (),
    *,
    is_free: bool = True,
) -> Map:
    """Return a map and its checks; untrained networks explain their own most probable class if it is free."""
    draw = METHODS[method]
    heat = _array(draw(network, image, kind))
    random_maps, own_falls = [], []
    for random in untrained:
        with torch.no_grad():
            of_random = int(random(image[None]).argmax()) if is_free else kind
        random_maps.append(_array(draw(random, image, of_random)))
        own_falls.append(fall_when_erased(random, image, of_random, random_maps[-1]))
    repeated = [rank_correlation(heat, _array(draw(other, image, kind))) for other in others]
    return Map(
        method=method,
        heat=heat,
        of_random_weights=random_maps[0],
        correlation_with_random=_mean([rank_correlation(heat, one) for one in random_maps]),
        fall=fall_when_erased(network, image, kind, heat),
        fall_by_random_maps=max(fall_when_erased(network, image, kind, one) for one in random_maps),
        fall_of_random_networks=max(own_falls),
        border=border_share(heat),
        border_area=border_area(len(heat)),
        repeatability=_mean(repeated) if repeated else None,
    )


def _mean(values: Sequence[float]) -> float:
    defined = [value for value in values if np.isfinite(value)]
    return float(np.mean(defined)) if defined else float("nan")


def _array(heat: Tensor) -> Floats:
    array: Floats = heat.detach().cpu().double().numpy()
    return array


def _untrained(run: Run, number: int) -> nn.Module:
    """Return a network with initial values of the recipe, by a seed of its own."""
    recipe = replace(run.recipe, seed=derived_seed(run.recipe.seed, "untrained", number), weights="")
    return network_of(recipe, len(run.classes), run.preprocessing.channels).eval()


def _repeat(run: Run, place: Place) -> Run:
    """Return another seed of the run; anything else is refused."""
    other = load_run(place)
    differing = [
        name
        for name in ("network", "preset", "norm", "act", "width", "image_size", "data", "findings")
        if getattr(other.recipe, name) != getattr(run.recipe, name)
    ]
    if other.classes != run.classes:
        differing.append("classes")
    if differing:
        raise ValueError(
            f"repeatability compares seeds of one recipe, and {place} differs from {run.path} in "
            f"{', '.join(differing)}; give runs that differ in their seed alone"
        )
    return other


def _decoded(run: Run, images: Place | Sequence[Place]) -> tuple[list[str], NDArray[np.uint8]]:
    decoder = Decoder(run.preprocessing, run.recipe.fit)
    names: list[str] = []
    rows: list[NDArray[np.uint8]] = []
    with image_files(images) as files:
        for batch_names, images_read in decoder.batches(files, 64):
            names += batch_names
            rows += [image.pixels for image in images_read]
    if decoder.unreadable:
        name, why = next(iter(decoder.unreadable.items()))
        count = len(decoder.unreadable)
        more = f" (and {count - 1} more)" if count > 1 else ""
        raise ValueError(f"every image must be readable, and {name} is not: {why}{more}; repair it or leave it out")
    return names, np.stack(rows)


def _as_seen(run: Run, image: Tensor) -> NDArray[np.uint8]:
    """Return what the network sees as a picture of 0 to 255."""
    scaling, geometry = run.preprocessing.scaling, run.preprocessing.geometry
    mean = scaling.mean  # C 1 1, or the mean image as it is stored
    if mean.shape[-1] > 1:
        mean = middle_view(mean[None], geometry)[0]
    picture: NDArray[np.uint8] = (image * scaling.spread + mean).round().clamp(0, 255).byte().numpy()
    return picture
