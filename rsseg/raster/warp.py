"""Where a scene's pixels lie in a file of another grid, and pixels interpolated there.

Nothing here depends on the window that is asked for: control points are anchored to the scene's grid, blocks
that are averaged to the file's, and every pixel is computed by itself.  So reading a window gives the same
as cutting it out of a larger read.
"""

import os
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from affine import Affine
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox
from pyproj import Transformer
from pyproj.exceptions import ProjError

from rsseg.errors import GridError
from rsseg.geo import Window
from rsseg.raster.validity import Bools, Pixels

Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.intp]

_STEPS = (16, 8, 4, 2)
"""Distances of control points that are tried, scene pixels."""
_TOLERANCE = 0.125
"""Largest error of interpolated coordinates, file pixels."""
_SHIFT_TOLERANCE = 1e-3
"""Largest deviation from a shift by whole pixels that needs no interpolation, pixels."""
_NOISE = 1e-6
"""Coordinates closer than this are the same, file pixels: more than rounding, less than anyone sees."""


@dataclass(frozen=True, slots=True)
class Mapping:
    """Coordinates in a scene's grid → coordinates in a file, both in pixels from the top left corner."""

    scene: Affine
    """Scene pixels → world."""
    file: Affine
    """World → file pixels."""
    crs: tuple[str, str] | None
    """CRS of the scene and of the file as WKT; None where they are the same."""
    step: int = 1
    """Distance of control points, scene pixels; at 1 every pixel is transformed."""

    def exact(self, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        """Returns file coordinates; not finite where the projection is not defined.

        Args:
            x: columns in the scene's grid, broadcastable with `y`.
            y: rows in the scene's grid.
        """
        if self.crs is None:
            return _apply(_composed(self.file, self.scene), x, y)
        x, y = _apply(self.scene, *np.broadcast_arrays(x, y))
        x, y = _transformer(*self.crs, os.getpid()).transform(x, y)
        with np.errstate(invalid="ignore"):
            return _apply(self.file, x, y)

    def centres(self, window: Window) -> tuple[Floats, Floats]:
        """Returns file coordinates of a window's pixel centres, broadcastable to (H, W)."""
        rows = np.arange(window.row, window.row + window.height)
        cols = np.arange(window.col, window.col + window.width)
        if self.crs is None or self.step == 1:
            return self.exact(cols[None] + 0.5, rows[:, None] + 0.5)
        x, y = self._interpolated(rows, cols)
        lost = ~(np.isfinite(x) & np.isfinite(y))
        if lost.any():
            row, col = np.nonzero(lost)
            x[lost], y[lost] = self.exact(cols[col] + 0.5, rows[row] + 0.5)
        return x, y

    def _interpolated(self, rows: Ints, cols: Ints) -> tuple[Floats, Floats]:
        above, node_rows, down = _cells(rows, self.step)
        before, node_cols, right = _cells(cols, self.step)
        nodes = self.exact(node_cols[None], node_rows[:, None])
        with np.errstate(invalid="ignore"):
            down = down[:, None]
            left_x, left_y = (lerp(axis[above], axis[above + 1], down) for axis in nodes)
            x, y = (lerp(edge[:, before], edge[:, before + 1], right) for edge in (left_x, left_y))
        return x, y

    def error(self, x: Floats, y: Floats) -> float:
        """Returns how far interpolated coordinates are from exact ones near points, file pixels, at most.

        The error in a cell is at most the sum of those in the middle of two of its sides.  Its centre tells
        nothing: between conformal projections the curvatures along rows and columns cancel there.
        """
        left, top, half = x // self.step * self.step, y // self.step * self.step, self.step / 2
        corner = np.stack(self.exact(left, top))
        error = np.zeros_like(corner)
        for right, down in ((half, 0.0), (0.0, half)):
            middle = np.stack(self.exact(left + right, top + down))
            with np.errstate(invalid="ignore"):
                error += np.abs((corner + self.exact(left + 2 * right, top + 2 * down)) / 2 - middle)
        return float(np.max(error, where=np.isfinite(error), initial=0.0))


@dataclass(frozen=True, slots=True)
class Fit:
    """How a file's grid lies to a scene's."""

    mapping: Mapping
    """Scene pixels → file pixels."""
    shift: tuple[int, int] | None
    """Rows and columns to add where the grids agree, else None."""
    factors: tuple[int, int]
    """Whole file pixels per scene pixel, along the file's rows and columns; at least 1."""


def fit(scene: GeoBox, file: GeoBox) -> Fit:
    """Returns how a file's grid lies to a scene's, with as few control points as its projection allows.

    Raises:
        GridError: no transformation is known between the two CRSs.
    """
    crs = None if same_crs(scene.crs, file.crs) else (_wkt(scene.crs), _wkt(file.crs))
    mapping = Mapping(scene.affine, ~file.affine, crs)
    x, y = _lattice(mapping, scene.shape, file.shape)
    if crs is not None:
        steps = (replace(mapping, step=step) for step in _STEPS)
        mapping = next((tried for tried in steps if tried.error(x, y) < _TOLERANCE), mapping)
    return Fit(mapping, _shift(mapping, x, y), _factors(mapping, x, y, file.shape))


def _wkt(crs: CRS | None) -> str:
    if crs is None:
        raise GridError("one grid has a CRS and the other none; expected both or neither: georeference both")
    return str(crs.to_wkt())


def same_crs(one: CRS | None, other: CRS | None) -> bool:
    """Returns whether two CRSs are the same, however they are written."""
    if one is None or other is None:
        return one is other
    return bool(one == other or one.proj.equals(other.proj, ignore_axis_order=True))


def bounds(grid: GeoBox, crs: CRS) -> tuple[float, float, float, float]:
    """Returns left, bottom, right and top of a grid in another CRS; not finite where undefined."""
    box = grid.boundingbox
    transformer = _transformer(_wkt(grid.crs), _wkt(crs), os.getpid())
    left, bottom, right, top = transformer.transform_bounds(box.left, box.bottom, box.right, box.top)
    return left, bottom, right, top


class Taps(NamedTuple):
    """Along one axis: the two pixels between which coordinates lie, and how far along."""

    first: Ints
    second: Ints
    weight: Floats
    """Of the second; exactly 0 where the first alone counts."""
    inside: Bools

    @property
    def span(self) -> tuple[int, int]:
        """First pixel that is needed and how many."""
        whole = self.inside.all()
        first = int((self.first if whole else self.first[self.inside]).min())
        return first, int((self.second if whole else self.second[self.inside]).max()) + 1 - first


def taps(coordinates: Floats, length: int, factor: int, smooth: bool) -> Taps:
    """Returns the pixels, or blocks of pixels, around coordinates.

    Args:
        coordinates: in pixels from the file's edge; not finite means outside.
        length: of the file along this axis, pixels.
        factor: pixels per block.
        smooth: False takes the pixel that contains the coordinate alone.
    """
    inside = (coordinates >= -_NOISE) & (coordinates < length - _NOISE)
    place = np.where(inside, coordinates, 0.0)
    if not smooth:
        first = (place + _NOISE).astype(np.intp)
        return Taps(first, first, np.zeros((1, 1)), inside)
    last = -(-length // factor) - 1
    place = np.minimum(np.maximum(place / factor - 0.5, 0.0), last)
    first = (place + _NOISE).astype(np.intp)
    weight: Floats = np.maximum(place - first, 0.0)
    weight[weight < _NOISE] = 0.0
    return Taps(first, first + (weight > 0), weight, inside)


def sample(pixels: Pixels, valid: Bools, rows: Taps, cols: Taps) -> tuple[Pixels, Bools]:
    """Returns pixels between pixels, valid where every pixel that counts is.

    Args:
        pixels: (C, h, w); finite where valid.
        valid: (h, w).
        rows: pairs of rows, broadcastable with `cols` to (H, W); first rows beyond `pixels` are cut.
        cols: pairs of columns.

    Returns:
        (C, H, W) and (H, W).
    """
    flat, width = pixels.reshape(len(pixels), -1), valid.shape[1]
    inside = rows.inside & cols.inside
    corners = [row * width + col for row in _ends(rows) for col in _ends(cols)]
    if not valid.all():
        for corner in corners:
            inside &= valid.reshape(-1).take(corner, mode="clip")
    # Corners of pixels outside the file point anywhere: they are clipped, and invalid.
    values = [flat.take(corner, axis=1, mode="clip") for corner in corners]
    for axis in (cols, rows):
        if axis.weight.any():
            weight = axis.weight.astype(flat.dtype)
            values = [lerp(*pair, weight) for pair in zip(values[::2], values[1::2], strict=True)]
    return values[0], inside


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


def lerp(start: Pixels, end: Pixels, weight: Pixels) -> Pixels:
    """Returns values between two; exactly `start` where both are equal."""
    result: Pixels = start + weight * (end - start)
    return result


def _ends(axis: Taps) -> tuple[Ints, ...]:
    return (axis.first, axis.second) if axis.weight.any() else (axis.first,)


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


def _cells(pixels: Ints, step: int) -> tuple[Ints, Floats, Floats]:
    """Returns the cell of each pixel, the control points around all, and how far along its cell each is."""
    first = pixels[0] // step
    nodes = np.arange(first, pixels[-1] // step + 2) * float(step)
    return pixels // step - first, nodes, (pixels % step + 0.5) / step


def _apply(affine: Affine, x: Floats, y: Floats) -> tuple[Floats, Floats]:
    a, b, c, d, e, f = affine[:6]
    return _line(a, x, b, y, c), _line(e, y, d, x, f)


def _composed(outer: Affine, inner: Affine) -> Affine:
    # Spelled out since affine 3 warns of `*` and affine 2 does not know `@`.
    product = np.array(outer).reshape(3, 3) @ np.array(inner).reshape(3, 3)
    return Affine(*product.ravel()[:6].tolist())


def _line(slope: float, along: Floats, skew: float, across: Floats, start: float) -> Floats:
    # Without skew a coordinate keeps its one axis, and all that follows is done once per row or column.
    straight = slope * along + start
    return straight if abs(skew) <= 1e-13 * abs(slope) else straight + skew * across


@lru_cache(maxsize=64)
def _transformer(source: str, target: str, process: int) -> Transformer:
    try:
        return Transformer.from_crs(source, target, always_xy=True)
    except ProjError as failure:
        raise GridError(
            f"no transformation from {_title(source)} to {_title(target)} is known; expected CRSs of one "
            "planet: reproject the file first"
        ) from failure


def _title(wkt: str) -> str:
    return repr(CRS(wkt).proj.name)


def _lattice(mapping: Mapping, scene: Any, file: Any, points: int = 17) -> tuple[Floats, Floats]:
    """Returns points spread over the part of a scene's grid where a file is, or over all of it."""
    back = Mapping(~mapping.file, ~mapping.scene, mapping.crs and mapping.crs[::-1])
    rows, cols = (np.linspace(0, length, 2 * points) for length in file)
    spread = []
    for place, length in zip(back.exact(cols[None], rows[:, None]), scene[::-1], strict=True):
        found = place[np.isfinite(place)]
        low, high = np.clip((found.min(), found.max()), 0, length) if found.size else (0, length)
        spread.append(np.linspace(low, high, points) if high > low else np.linspace(0, length, points))
    x, y = np.meshgrid(*spread)
    return x, y


def _shift(mapping: Mapping, x: Floats, y: Floats) -> tuple[int, int] | None:
    moved = np.stack([there - here for there, here in zip(mapping.exact(x, y), (x, y), strict=True)])
    if not np.isfinite(moved).all():
        return None
    col, row = np.rint(np.median(moved, axis=(1, 2)))
    deviation = np.abs(moved - np.array([col, row])[:, None, None]).max()
    return (int(row), int(col)) if deviation < _SHIFT_TOLERANCE else None


def _factors(mapping: Mapping, x: Floats, y: Floats, shape: Any) -> tuple[int, int]:
    middle = np.array([x.mean(), y.mean()])[:, None] + 0.5 * np.array([[-1, 1, 0, 0], [0, 0, -1, 1]])
    there = np.stack(mapping.exact(*middle))
    ratios = np.hypot(there[:, 1] - there[:, 0], there[:, 3] - there[:, 2])[::-1]
    rows, cols = (
        int(np.clip(ratio + _NOISE, 1, length)) if np.isfinite(ratio) else 1
        for ratio, length in zip(ratios, shape, strict=True)
    )
    return rows, cols
