"""Small pictures inside a page, each with what is said of it."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from alexnet_lab.reports.page import escape

THUMBNAIL = 112  # pixels, longer side


@dataclass(frozen=True)
class Picture:
    """A picture as the content of a JPEG or PNG file, with lines of text under it."""

    content: bytes
    lines: Sequence[str]

    def html(self) -> str:
        """Return its markup."""
        alt = escape(", ".join(self.lines))
        text = "".join(f"<span>{escape(line)}</span>" for line in self.lines)
        return f'<li><img alt="{alt}" src="{source_of(self.content)}">{text}</li>'


@dataclass(frozen=True)
class Gallery:
    """Pictures side by side under a title; `folded` shows the title alone until it is opened."""

    title: str
    pictures: Sequence[Picture]
    folded: bool = False

    def html(self) -> str:
        """Return its markup."""
        gallery = f'<ul class="gallery">{"".join(picture.html() for picture in self.pictures)}</ul>'
        if self.folded:
            return f"<details><summary>{escape(self.title)}</summary>{gallery}</details>"
        return f"<h3>{escape(self.title)}</h3>{gallery}"


def source_of(content: bytes) -> str:
    """Return the content of a JPEG or PNG file as the address of a picture, so that the page needs no other file."""
    kind = "png" if content.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def thumbnail(pixels: NDArray[np.uint8], side: int = THUMBNAIL) -> bytes:
    """Return an image, C H W, as a small JPEG file."""
    image = Image.fromarray(pixels[0] if len(pixels) == 1 else np.moveaxis(pixels, 0, 2))
    if max(image.size) > side:
        image.thumbnail((side, side), Image.Resampling.BOX)
    content = io.BytesIO()
    image.save(content, "JPEG", quality=85)
    return content.getvalue()
