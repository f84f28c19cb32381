"""What the network sees of an image: a window, and how its pixels are read from stored ones.

An image is stored as T x T pixels and represents M x M, M the side that the network sees plus the margin of `crop`. A
view is S x S of those: moved, mirrored, rotated and zoomed about its middle. Enlarging (T below M) and the view are one
bilinear step, so that CIFAR-10 at 227 pixels is never held in memory at 259.

Shapes: B images of a batch, C channels, S the side that the network sees, T the stored side, M as above.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

# Up to this side two dense products are faster than one gather on a CPU: 1.8 times at 32 stored pixels; at 64 they are
# not.
DENSE_SIDE = 48


@dataclass(frozen=True)
class Geometry:
    """Three sides: of what the network sees, of stored images, and of what these represent."""

    seen: int  # S
    stored: int  # T
    whole: int  # M

    @property
    def middle(self) -> int:
        """Return the offset of the window in the middle."""
        return (self.whole - self.seen) // 2


def middle_view(pixels: Tensor, geometry: Geometry) -> Tensor:
    """Return the window in the middle, the one that evaluation sees: B C S S of B C T T."""
    if geometry.stored == geometry.whole:
        window = slice(geometry.middle, geometry.middle + geometry.seen)
        return pixels[..., window, window]
    offset = torch.full((len(pixels), 2), geometry.middle, device=pixels.device)
    return view(pixels, geometry, offset, torch.zeros(len(pixels), dtype=torch.bool, device=pixels.device))


def ten_views(pixels: Tensor, geometry: Geometry) -> Tensor:
    """Return the four corners and the middle, then the same mirrored (paper, 4.1): B 10 C S S of B C T T."""
    last = geometry.whole - geometry.seen
    corners = [(0, 0), (0, last), (last, 0), (last, last), (geometry.middle, geometry.middle)]
    views = []
    for mirrored in (False, True):
        for corner in corners:
            offset = torch.tensor([corner] * len(pixels), device=pixels.device)
            flip = torch.full((len(pixels),), mirrored, device=pixels.device)
            views.append(view(pixels, geometry, offset, flip))
    return torch.stack(views, 1)


def view(
    pixels: Tensor,
    geometry: Geometry,
    offset: Tensor,
    flip: Tensor,
    angle: Tensor | None = None,
    zoom: Tensor | None = None,
) -> Tensor:
    """Return one view of each image; pixels outside it repeat the nearest edge.

    offset is B 2 (rows, columns), flip B, angle B in radians (positive is clockwise on the screen), zoom B.
    """
    half = (geometry.seen - 1) / 2
    steps = torch.arange(geometry.seen, dtype=torch.float32, device=pixels.device) - half  # S, from the middle
    along = torch.where(flip, -1.0, 1.0)[:, None] * steps  # B S
    down = steps.expand(len(pixels), -1)  # B S
    if zoom is not None:
        along, down = along / zoom[:, None], down / zoom[:, None]
    middle = offset.float() + half
    if angle is None:
        rows = _stored_coordinate(down + middle[:, :1], geometry)
        columns = _stored_coordinate(along + middle[:, 1:], geometry)
        if pixels.device.type == "cpu" and geometry.stored <= DENSE_SIDE:
            return _by_products(pixels, rows, columns)
        rows, columns = rows[:, :, None], columns[:, None, :]
    else:
        cosine, sine = torch.cos(angle)[:, None, None], torch.sin(angle)[:, None, None]
        x, y = along[:, None, :], down[:, :, None]
        rows = _stored_coordinate(cosine * y - sine * x + middle[:, 0, None, None], geometry)
        columns = _stored_coordinate(sine * y + cosine * x + middle[:, 1, None, None], geometry)
    return _by_gather(pixels, rows, columns, geometry)


def reading_weights(coordinates: Tensor, stored: int) -> Tensor:
    """Return the bilinear weight of every stored pixel in every one that is read: ... S T of ... S."""
    positions = torch.arange(stored, dtype=torch.float32, device=coordinates.device)
    return (coordinates[..., None] - positions).abs_().neg_().add_(1).clamp_min_(0)


def middle_weights(geometry: Geometry) -> Tensor:
    """Return those weights for the window in the middle, S T: it reads `weights @ pixels @ weights.T`."""
    positions = torch.arange(geometry.seen, dtype=torch.float32) + geometry.middle
    return reading_weights(_stored_coordinate(positions, geometry), geometry.stored)


def ten_view_weights(geometry: Geometry) -> tuple[Tensor, Tensor]:
    """Return the weights of rows and of columns of the ten views, 10 S T each, in the order of `ten_views`."""
    steps = torch.arange(geometry.seen, dtype=torch.float32)
    last = geometry.whole - geometry.seen
    corners = [(0, 0), (0, last), (last, 0), (last, last), (geometry.middle, geometry.middle)]
    rows, columns = [], []
    for along in (steps, steps.flip(0)):
        for down, right in corners:
            rows.append(reading_weights(_stored_coordinate(steps + down, geometry), geometry.stored))
            columns.append(reading_weights(_stored_coordinate(along + right, geometry), geometry.stored))
    return torch.stack(rows), torch.stack(columns)


def _stored_coordinate(position: Tensor, geometry: Geometry) -> Tensor:
    """Convert coordinates of the M x M image to the T x T stored one; pixel centres are at halves, as in Pillow."""
    if geometry.whole == geometry.stored:
        return position.clamp(0, geometry.stored - 1)  # exact; the general form would round
    ratio = geometry.stored / geometry.whole
    return ((position + 0.5) * ratio - 0.5).clamp(0, geometry.stored - 1)


def _by_products(pixels: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Read rows and columns separately: a bilinear window is two products with sparse weights."""
    batch, channels, stored, _ = pixels.shape
    across = reading_weights(columns, stored).transpose(1, 2)  # B T S
    narrow = torch.bmm(pixels.reshape(batch, channels * stored, stored), across)  # B CT S
    return torch.matmul(
        reading_weights(rows, stored)[:, None], narrow.view(batch, channels, stored, -1)
    )  # B 1 S T @ B C T S


def _by_gather(pixels: Tensor, rows: Tensor, columns: Tensor, geometry: Geometry) -> Tensor:
    size = (len(pixels), geometry.seen, geometry.seen)
    grid = torch.empty(*size, 2, device=pixels.device)
    # grid_sample wants -1 and 1 at the outer edges of the outer pixels, columns first.
    grid[..., 0] = (columns * 2 + 1) / geometry.stored - 1
    grid[..., 1] = (rows * 2 + 1) / geometry.stored - 1
    return F.grid_sample(pixels, grid, mode="bilinear", padding_mode="border", align_corners=False)
