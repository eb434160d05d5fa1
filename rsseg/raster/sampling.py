"""Pixels between pixels: the nearest one, bilinear, and means over whole blocks.

A pixel is valid only where everything that it was made of is.  Nothing here depends on the window that is
asked for, so that a window is the same as a crop.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import grid_sample

from rsseg.geo import Window
from rsseg.raster.validity import Bools, Pixels
from rsseg.raster.warp import Field

Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.intp]

_NOISE = 1e-6
"""Coordinates closer than this are the same, file pixels: more than rounding, less than anyone sees."""


@dataclass(frozen=True, slots=True)
class Places:
    """Where the pixels of a window lie in a file."""

    rows: Floats
    """From the middle of the first row or block of rows, or from its edge for the nearest pixel."""
    cols: Floats
    """Likewise, broadcastable with `rows` to (H, W)."""
    inside: Bools
    """(H, W): which of them the file covers."""
    blocks: tuple[int, int]
    """Rows and columns of the file, in blocks."""
    smooth: bool
    """Bilinear, or the nearest pixel alone."""

    @property
    def needed(self) -> Window:
        """The smallest rectangle of the file, in blocks, that tells all pixels; some must be inside."""
        (top, bottom), (left, right) = (self._span(axis) for axis in (0, 1))
        return Window(top, left, bottom - top, right - left)

    def _span(self, axis: int) -> tuple[int, int]:
        place, last = (self.rows, self.cols)[axis], self.blocks[axis] - 1
        if not self.inside.all():
            place = np.broadcast_to(place, self.inside.shape)[self.inside]
        low, high = (min(max(float(edge), 0.0), last) for edge in (place.min(), place.max()))
        return int(low + _NOISE), 1 + (int(np.ceil(high - _NOISE)) if self.smooth else int(high + _NOISE))

    def neighbours(self, axis: int, start: int) -> tuple[Ints, Ints]:
        """Returns the pixels around each place, the same twice where one alone counts."""
        place = np.clip(np.nan_to_num((self.rows, self.cols)[axis]), 0, self.blocks[axis] - 1)
        first = (place + _NOISE).astype(np.intp)
        second = first + (place - first > _NOISE) if self.smooth else first
        return first - start, second - start


def places(x: Floats, y: Floats, shape: tuple[int, int], factors: tuple[int, int], *, smooth: bool) -> Places:
    """Returns where coordinates lie among the pixels of a file, or blocks of them.

    Args:
        x: columns from the file's left edge, (H, W) or (1, W); not finite means outside.
        y: rows from its top, (H, W) or (H, 1).
        shape: of the file, pixels.
        factors: rows and columns per block.
        smooth: bilinear, or the nearest pixel alone.
    """
    inside = (y >= -_NOISE) & (y < shape[0] - _NOISE) & (x >= -_NOISE) & (x < shape[1] - _NOISE)
    blocks = -(-shape[0] // factors[0]), -(-shape[1] // factors[1])
    middle = 0.5 if smooth else 0.0
    rows, cols = (
        axis / factor - middle if factor > 1 else axis - middle
        for axis, factor in zip((y, x), factors, strict=True)
    )
    return Places(rows, cols, inside, blocks, smooth)


def between(field: Field, shape: tuple[int, int], factors: tuple[int, int]) -> Places | None:
    """Returns where the pixels of a window lie that is wholly inside a file, without a look at each of them.

    Args:
        field: their coordinates.
        shape: of the file, pixels.
        factors: rows and columns per block.

    Returns:
        Places of the window's border alone; None where the window is not wholly inside.
    """
    found = places(*field.corners(), shape, factors, smooth=True)
    return found if found.inside.all() else None


def bilinear(pixels: Pixels, field: Field, factors: tuple[int, int], start: tuple[int, int]) -> Pixels:
    """Returns the pixels of a window that is wholly inside a file.

    Args:
        pixels: of the rectangle that is needed, (C, h, w); finite.
        field: coordinates of the window's pixels.
        factors: rows and columns per block.
        start: first row and column of `pixels` in the file, in blocks.
    """
    # the same as below, but done to the few control points and not to every pixel
    scales = [2.0 / (length * factor) for length, factor in zip(pixels.shape[1:], factors, strict=True)]
    shifts = [-2.0 * first / length - 1.0 for first, length in zip(start, pixels.shape[1:], strict=True)]
    grid = field.moved(np.array(scales[::-1]), np.array(shifts[::-1]))
    return _interpolated(pixels, np.moveaxis(grid, 0, -1))


def sample(pixels: Pixels, valid: Bools, at: Places, start: tuple[int, int]) -> tuple[Pixels, Bools]:
    """Returns the pixels of a window.

    Args:
        pixels: of the rectangle that is needed, (C, h, w); finite.
        valid: (h, w).
        at: where the window's pixels lie.
        start: first row and column of `pixels` in the file, in blocks.

    Returns:
        (C, H, W), of the type of `pixels`, and (H, W).
    """
    if at.smooth:
        return _bilinear(pixels, at, start), all_valid(valid, at, start)
    rows, cols = (at.neighbours(axis, first)[0] for axis, first in enumerate(start))
    index = rows * valid.shape[1] + cols
    # Places outside the file point anywhere: they are clipped, and invalid.
    values = pixels.reshape(len(pixels), -1).take(index, axis=1, mode="clip")
    return values, at.inside & valid.reshape(-1).take(index, mode="clip")


def averaged(pixels: Pixels, valid: Bools, factors: tuple[int, int]) -> tuple[Pixels, Bools]:
    """Returns means over blocks, valid where all pixels of a block are; blocks at the end may be cut.

    Args:
        pixels: (C, h, w); finite.
        valid: (h, w).
        factors: rows and columns per block.
    """
    total, whole = pixels.astype(np.float64), valid
    for axis, factor in enumerate(factors, start=1):
        counts = np.diff(np.append(np.arange(0, total.shape[axis], factor), total.shape[axis]))
        total = _folded(total, factor, axis, np.add) / np.expand_dims(counts, 2 - axis)
        whole = _folded(whole, factor, axis - 1, np.logical_and)
    return total.astype(pixels.dtype), whole


def _bilinear(pixels: Pixels, at: Places, start: Sequence[int]) -> Pixels:
    # float64: coordinates count from the rectangle, and shorter ones would differ from window to window.
    grid = np.empty((*at.inside.shape, 2))
    for axis, (place, first) in enumerate(zip((at.rows, at.cols), start, strict=True)):
        scale = 2.0 / pixels.shape[1 + axis]
        np.multiply(place, scale, out=grid[..., 1 - axis])
        grid[..., 1 - axis] += (0.5 - first) * scale - 1.0
    if not at.inside.all():
        grid[~at.inside] = 0.0
    return _interpolated(pixels, grid)


def _interpolated(pixels: Pixels, grid: Floats) -> Pixels:
    """Returns pixels at places, (H, W, 2), that count from -1 at one edge to 1 at the other."""
    source = torch.from_numpy(pixels.astype(np.float64, copy=False))[None]
    found = grid_sample(source, torch.from_numpy(grid)[None], padding_mode="border", align_corners=False)
    result: Pixels = found[0].numpy().astype(pixels.dtype, copy=False)
    return result


def all_valid(valid: Bools, at: Places, start: Sequence[int]) -> Bools:
    """Returns where all pixels that a window's pixels are made of are valid, (H, W).

    Args:
        valid: of the rectangle that is needed, (h, w).
        at: where the window's pixels lie.
        start: first row and column of `valid` in the file, in blocks.
    """
    if valid.all():
        return at.inside
    inside = at.inside.copy()
    rows, cols = (at.neighbours(axis, first) for axis, first in enumerate(start))
    for row in rows:
        for col in cols:
            inside &= valid.reshape(-1).take(row * valid.shape[1] + col, mode="clip")
    return inside


def _folded(values: Pixels, factor: int, axis: int, fold: np.ufunc) -> Pixels:
    # Strided passes in fixed order: several times faster than a reduction over short axes, and the same
    # for every window.
    across = [slice(None)] * values.ndim
    across[axis] = slice(0, None, factor)
    result = values[tuple(across)].copy()
    for start in range(1, min(factor, values.shape[axis])):
        across[axis] = slice(start, None, factor)
        part = values[tuple(across)]
        across[axis] = slice(0, part.shape[axis])
        fold(result[tuple(across)], part, out=result[tuple(across)])
    return result
