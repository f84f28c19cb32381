"""The page of explained images: each map beside one of random weights, with what the checks say of it.

>>> write_explanations(run_name, explain(...), Path("explanation"))
"""

import io
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray
from PIL import Image

import alexnet_lab
from alexnet_lab.explanation.checks import BORDER, ERASED
from alexnet_lab.explanation.explaining import Explained, Map
from alexnet_lab.records import write_atomically
from alexnet_lab.reports.page import Block, Callout, Page, Paragraph, Section, Table, decimals
from alexnet_lab.reports.pictures import Gallery, Picture

SHOWN = 224  # pixels, side of a picture
STRENGTH = 0.6  # of the colour where a map is hottest
LABEL = "no better than random weights"
COLUMNS = (
    "map", "better than random", "fall", "by random maps", "of untrained", "moved", "heat at border", "border", "seeds",
)  # fmt: skip
Floats = NDArray[np.float64]


def write_explanations(run: str, explained: Sequence[Explained], out: Path) -> Path:
    """Write index.html, explanation.json, and in maps/ a PNG of every image and map; return the page."""
    maps = out / "maps"
    maps.mkdir(parents=True, exist_ok=True)
    sections, facts = [], []
    for number, one in enumerate(explained, 1):
        plain = re.sub(r"[^A-Za-z0-9._-]+", "-", PurePath(one.name).stem)[:60].strip("-")
        stem = f"{number:03}-{plain or 'image'}"
        pictures = pictures_of(one)
        for suffix, picture in pictures:
            write_atomically(maps / f"{stem}{suffix}.png", picture.content)
        sections.append(_section(number, one, [picture for _, picture in pictures]))
        facts.append({"image": one.name, "class": one.kind, "probability": one.probability, "maps": rows_of(one)})
    write_atomically(out / "explanation.json", json.dumps({"run": run, "images": facts}, indent=1, allow_nan=False))
    legend = Section("How to read the numbers", _legend())
    lead = summary(explained)
    page = Page(f"Explanations by {run}", lead, [*sections, legend], footer=f"alexnet-lab {alexnet_lab.__version__}")
    return page.write(out)


def summary(explained: Sequence[Explained]) -> str:
    """Say how many maps are better than those of random weights."""
    maps = [one for image in explained for one in image.maps]
    random = sum(one.is_random for one in maps)
    images = "1 image" if len(explained) == 1 else f"{len(explained)} images"
    return (
        f"{len(maps)} map{'' if len(maps) == 1 else 's'} of {images}: {len(maps) - random} better than those of random "
        f"weights, {random} {LABEL}. A map shows what the network used, not what is ill."
    )


def pictures_of(one: Explained) -> list[tuple[str, Picture]]:
    """Return the image, then each map and one of random weights over it, with the endings of their file names."""
    picture = Picture(_png(_enlarged(one.pixels)), ("image", f"{one.kind} {one.probability:.1%}"))
    pictures = [("", picture)]
    for drawn in one.maps:
        verdict = LABEL if drawn.is_random else "better than random weights"
        pictures.append((f"-{drawn.method}", Picture(overlay(one.pixels, drawn.heat), (drawn.method, verdict))))
        random = Picture(overlay(one.pixels, drawn.of_random_weights), (drawn.method, "by random weights"))
        pictures.append((f"-{drawn.method}-random", random))
    return pictures


def overlay(pixels: NDArray[np.uint8], heat: Floats) -> bytes:
    """Return an image, C S S, under its map as a PNG file: the hotter, the more colour."""
    base = np.asarray(_enlarged(pixels).convert("L").convert("RGB"), float)
    positive = np.clip(heat, 0, None)
    scaled = positive / positive.max() if positive.max() > 0 else positive
    resized = Image.fromarray(scaled.astype(np.float32)).resize((SHOWN, SHOWN), Image.Resampling.BILINEAR)
    strength = np.clip(np.asarray(resized), 0, 1)[..., None]
    colour = 255 * mpl.colormaps["inferno"](0.25 + 0.7 * strength[..., 0])[..., :3]
    mixed = base * (1 - STRENGTH * strength) + colour * STRENGTH * strength
    return _png(Image.fromarray(mixed.round().astype(np.uint8)))


def rows_of(one: Explained) -> list[dict[str, Any]]:
    """Return what the checks say of each map, for JSON."""
    return [
        {
            "map": drawn.method,
            "no_better_than_random_weights": drawn.is_random,
            "fall_of_log_odds": drawn.fall,
            "fall_by_random_maps": drawn.fall_by_random_maps,
            "fall_of_random_networks": drawn.fall_of_random_networks,
            "correlation_with_random": _finite(drawn.correlation_with_random),
            "heat_at_border": _finite(drawn.border),
            "area_of_border": drawn.border_area,
            "correlation_with_other_seeds": _finite(drawn.repeatability),
        }
        for drawn in one.maps
    ]


def _section(number: int, one: Explained, pictures: Sequence[Picture]) -> Section:
    random = [drawn.method for drawn in one.maps if drawn.is_random]
    blocks: list[Block] = [Gallery(f"{one.kind}, probability {one.probability:.1%}", pictures)]
    if random:
        text = (
            f"The network's answer does not hang on where {' and '.join(random)} is hot more than chance would have it."
        )
        blocks.append(Callout("warning", f"{', '.join(random)}: {LABEL}", text))
    blocks.append(Table(COLUMNS, [_row(drawn) for drawn in one.maps]))
    return Section(f"Image {number}: {PurePath(one.name).name}", blocks)


def _row(drawn: Map) -> list[object]:
    return [
        drawn.method,
        "no" if drawn.is_random else "yes",
        decimals(drawn.fall, 2),
        decimals(drawn.fall_by_random_maps, 2),
        decimals(drawn.fall_of_random_networks, 2),
        decimals(drawn.correlation_with_random, 2),
        "–" if math.isnan(drawn.border) else f"{drawn.border:.0%}",
        f"{drawn.border_area:.0%}",
        decimals(drawn.repeatability, 2),
    ]


def _legend() -> list[Block]:
    texts = (
        "Fall: log odds that the explained class or finding loses when the hottest "
        f"{ERASED:.0%} of the pixels takes the mean "
        "of the training images. By random maps: the most that it loses when a map of an untrained network chooses the "
        "pixels. Of untrained: the most that an untrained network loses by its own map. A map is better only if "
        "its fall is larger than both.",
        "Moved: Spearman's correlation with the maps of untrained networks, their mean. Near 1 the map hardly depends "
        "on what was learned; near 0 it moved all the way.",
        f"Heat at border: the share of the heat in the outer {BORDER:.0%} of the side, beside the share of the pixels "
        "there. Much more heat than area speaks for tokens, tubes or edges of the film.",
        "Seeds: Spearman's correlation with the maps of the other runs that were given, their mean.",
    )
    return [Paragraph(text) for text in texts]


def _enlarged(pixels: NDArray[np.uint8]) -> Image.Image:
    image = Image.fromarray(pixels[0] if len(pixels) == 1 else np.moveaxis(pixels, 0, 2))
    return image.resize((SHOWN, SHOWN), Image.Resampling.BICUBIC if image.width > 48 else Image.Resampling.NEAREST)


def _png(image: Image.Image) -> bytes:
    content = io.BytesIO()
    image.save(content, "PNG")
    return content.getvalue()


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else value
