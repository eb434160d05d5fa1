"""Where a scene's pixels lie in a file of another grid.

Nothing here depends on the window that is asked for: control points are anchored to the scene's grid.  So
reading a window gives the same as cutting it out of a larger read.
"""

import os
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from affine import Affine
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox
from pyproj import Transformer
from pyproj.exceptions import ProjError

from rsseg.errors import GridError
from rsseg.geo import Window
from rsseg.raster.control import Control

Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.intp]

_STEPS = (64, 32, 16, 8, 4, 2)
"""Distances of control points that are tried, scene pixels."""
_TOLERANCE = 0.0005
"""Largest error of interpolated coordinates, file pixels; gdalwarp allows itself 0.125."""
_SHIFT_TOLERANCE = 1e-3
"""Largest deviation from a shift by whole pixels that needs no interpolation, pixels."""
_NOISE = 1e-6
"""Rounding error of a ratio of pixel sizes."""


@dataclass(frozen=True, slots=True)
class Field:
    """File coordinates of a window's pixel centres, as control points between which they lie."""

    nodes: Floats
    """x and y of control points, (2, n, m)."""
    step: int
    """Distance of control points, pixels."""
    window: Window
    """Whose pixels these are, in rows and columns from the first control point."""

    def all(self) -> tuple[Floats, Floats]:
        """Returns x and y, (H, W) each."""
        x, y = self._stretched(*self.window.slices)
        return x, y

    def corners(self) -> tuple[Floats, Floats]:
        """Returns x and y where straight pieces of the border meet: no pixel lies farther out."""
        rows, cols = (
            _weights(cut.start, cut.stop - 1, length, self.step)
            for cut, length in zip(self.window.slices, self.nodes.shape[1:], strict=True)
        )
        across, down = rows[[0, -1]] @ self.nodes @ cols.T, rows @ self.nodes @ cols[[0, -1]].T
        x, y = np.concatenate([across.reshape(2, -1), down.reshape(2, -1)], axis=1)
        return x, y

    def moved(self, scales: Floats, shifts: Floats) -> Floats:
        """Returns x and y, (2, H, W), each times a scale and moved by a shift."""
        nodes = self.nodes * scales[:, None, None] + shifts[:, None, None]
        return replace(self, nodes=nodes)._stretched(*self.window.slices)

    def _stretched(self, rows: slice, cols: slice) -> Floats:
        # whole cells and then a cut: much faster than a lookup per pixel, and no product of matrices, for
        # which a busy machine's threads would wait for one another
        down = self._between(np.ascontiguousarray(self.nodes.swapaxes(1, 2)))[..., rows].swapaxes(1, 2)
        return self._between(np.ascontiguousarray(down))[..., cols]

    def _between(self, nodes: Floats) -> Floats:
        along = (np.arange(self.step) + 0.5) / self.step
        cells: Floats = np.diff(nodes)[..., None] * along
        cells += nodes[..., :-1, None]
        return cells.reshape(*nodes.shape[:-1], -1)


@dataclass(frozen=True, slots=True)
class Mapping:
    """Coordinates in a scene's grid → coordinates in a file, both in pixels from the top left corner."""

    scene: Affine
    """Scene pixels → world."""
    file: Affine | Control
    """World → file pixels, or the control points that tell."""
    crs: tuple[str, str] | None
    """CRS of the scene and of the file as WKT; None where they are the same."""
    meridian: float | None = None
    """Longitude in the middle of the file, degrees; None where the file has no longitudes."""
    step: int = 1
    """Distance of control points, scene pixels; at 1 every pixel is transformed."""

    @property
    def straight(self) -> bool:
        """Whether one affine transform tells all."""
        return self.crs is None and self.meridian is None and isinstance(self.file, Affine)

    def exact(self, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        """Returns file coordinates; not finite where the projection is not defined.

        Args:
            x: columns in the scene's grid, broadcastable with `y`.
            y: rows in the scene's grid.
        """
        if isinstance(self.file, Affine) and self.straight:
            return _apply(composed(self.file, self.scene), x, y)
        x, y = _apply(self.scene, *np.broadcast_arrays(x, y))
        if self.crs is not None:
            x, y = _transformer(*self.crs, os.getpid()).transform(x, y)
        with np.errstate(invalid="ignore"):
            if self.meridian is not None:  # 170° W is 190° E to a file that crosses the antimeridian
                x = x + 360.0 * np.rint((self.meridian - x) / 360.0)
            return _apply(self.file, x, y) if isinstance(self.file, Affine) else self.file.to_pixels(x, y)

    def field(self, window: Window) -> Field | tuple[Floats, Floats]:
        """Returns file coordinates of a window's pixel centres, as control points where these tell all."""
        rows = np.arange(window.row, window.row + window.height)
        cols = np.arange(window.col, window.col + window.width)
        if self.straight or self.step == 1:
            return self.exact(cols[None] + 0.5, rows[:, None] + 0.5)
        nodes = np.stack(self.exact(_nodes(cols, self.step)[None], _nodes(rows, self.step)[:, None]))
        known = np.isfinite(nodes).all(axis=0)
        bent = _bends(np.where(known, nodes, np.nan)) > _TOLERANCE
        bent |= ~_corners(known[1:-1, 1:-1], np.logical_and)
        place = Window(window.row % self.step, window.col % self.step, window.height, window.width)
        field = Field(nodes[:, 1:-1, 1:-1], self.step, place)
        if not bent.any():
            return field
        # at the antimeridian, and where the projection ends, every pixel by itself
        with np.errstate(invalid="ignore"):
            x, y = field.all()
        row, col = np.nonzero(
            bent[np.ix_(*((axis // self.step - axis[0] // self.step) for axis in (rows, cols)))]
        )
        x[row, col], y[row, col] = self.exact(cols[col] + 0.5, rows[row] + 0.5)
        return x, y

    def error(self, x: Floats, y: Floats) -> float:
        """Returns how far interpolated coordinates are from exact ones near most points, file pixels.

        One in twenty may be further off, where the antimeridian cuts the file: such cells show when they are
        read, and their pixels are transformed one by one.  The error in a cell is at most the sum of those in
        the middle of two of its sides.  Its centre tells nothing: between conformal projections the
        curvatures along rows and columns cancel there.
        """
        left, top, half = x // self.step * self.step, y // self.step * self.step, self.step / 2
        corner = np.stack(self.exact(left, top))
        error = np.zeros_like(corner)
        for right, down in ((half, 0.0), (0.0, half)):
            middle = np.stack(self.exact(left + right, top + down))
            with np.errstate(invalid="ignore"):
                error += np.abs((corner + self.exact(left + 2 * right, top + 2 * down)) / 2 - middle)
        known = error[np.isfinite(error)]
        return float(np.quantile(known, 0.95)) if known.size else 0.0


@dataclass(frozen=True, slots=True)
class Fit:
    """How a file's grid lies to a scene's."""

    mapping: Mapping
    """Scene pixels → file pixels."""
    shift: tuple[int, int] | None
    """Rows and columns to add where the grids agree, else None."""
    factors: tuple[int, int]
    """Whole file pixels per scene pixel, along the file's rows and columns; at least 1."""


def fit(scene: GeoBox, file: GeoBox, placed: Control | None = None) -> Fit:
    """Returns how a file's grid lies to a scene's, with as few control points as its projection allows.

    Args:
        scene: its grid.
        file: its own pixels, or about those where control points place it.
        placed: those control points.

    Raises:
        GridError: no transformation is known between the two CRSs.
    """
    mapping, shape = _mapping(scene, file, placed), (file.shape if placed is None else placed.shape)
    x, y = _lattice(scene, file)
    if not mapping.straight:
        steps = (replace(mapping, step=step) for step in _STEPS)
        mapping = next((tried for tried in steps if tried.error(x, y) < _TOLERANCE), mapping)
    shift = _shift(mapping, x, y) if placed is None else None
    return Fit(mapping, shift, _factors(mapping, x, y, shape))


def overlap(scene: GeoBox, file: GeoBox, placed: Control | None = None) -> float:
    """Returns the share of a scene's grid that a file covers: exact to a few percent, 0 only if it is.

    Args:
        scene: its grid.
        file: its own pixels, or about those where control points place it.
        placed: those control points.

    Raises:
        GridError: no transformation is known between the two CRSs.
    """
    shape = file.shape if placed is None else placed.shape
    share = _share_within(_mapping(scene, file, placed), scene, shape)
    if share == 0 and _share_within(_mapping(file, scene), file, scene.shape) > 0:
        return 1e-6  # the file lies between the points
    return share


def _share_within(mapping: "Mapping", grid: GeoBox, shape: Any, points: int = 129) -> float:
    rows, cols = ((np.arange(points) + 0.5) * length / points for length in grid.shape)
    x, y = np.broadcast_arrays(*mapping.exact(cols[None], rows[:, None]))
    with np.errstate(invalid="ignore"):
        inside = (x > _NOISE) & (x < shape[1] - _NOISE) & (y > _NOISE) & (y < shape[0] - _NOISE)
    return float(inside.mean())


def _mapping(scene: GeoBox, file: GeoBox, placed: Control | None = None) -> "Mapping":
    crs = None if same_crs(scene.crs, file.crs) else (_wkt(scene.crs), _wkt(file.crs))
    return Mapping(scene.affine, placed or ~file.affine, crs, _meridian(scene, file, crs))


def _meridian(scene: GeoBox, file: GeoBox, crs: tuple[str, str] | None) -> float | None:
    if file.crs is None or not file.crs.geographic:
        return None
    box, other = file.boundingbox, scene.boundingbox
    spread = max(box.right, other.right) - min(box.left, other.left)
    return None if crs is None and spread <= 360 else (box.left + box.right) / 2


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


def pixel_bounds(scene: GeoBox, file: GeoBox) -> tuple[float, float, float, float]:
    """Returns the first and last column and row of a file in a scene's grid: left, top, right, bottom."""
    rows, cols = (np.linspace(0, length, 65) for length in file.shape)
    x, y = _mapping(file, scene).exact(cols[None], rows[:, None])
    return float(x.min()), float(y.min()), float(x.max()), float(y.max())


def _bends(nodes: Floats) -> Floats:
    """Returns how far coordinates inside cells are from straight at most, from control points around them."""
    down = np.abs(np.diff(nodes, 2, axis=1))[:, :, 1:-1]
    across = np.abs(np.diff(nodes, 2, axis=2))[:, 1:-1]
    return _corners(np.fmax(*(down + across)) / 8, np.fmax)


def _corners(nodes: npt.NDArray[Any], fold: np.ufunc) -> npt.NDArray[Any]:
    """Returns what the four corners of each cell make together."""
    sides = fold(nodes[:, :-1], nodes[:, 1:])
    cells: npt.NDArray[Any] = fold(sides[:-1], sides[1:])
    return cells


def _weights(first: int, last: int, count: int, step: int) -> Floats:
    """Returns weights of control points at the first and last pixel's centre, and at the points between."""
    inner = np.arange(first // step + 1, last // step + 1)
    places = np.concatenate([[(first + 0.5) / step], inner, [(last + 0.5) / step]])
    weights: Floats = np.maximum(0.0, 1.0 - np.abs(places[:, None] - np.arange(count)))
    return weights


def _nodes(pixels: Ints, step: int) -> Floats:
    """Returns the control points around pixels, and one more at either end that shows how much cells bend."""
    return np.arange(pixels[0] // step - 1, pixels[-1] // step + 3) * float(step)


def _apply(affine: Affine, x: Floats, y: Floats) -> tuple[Floats, Floats]:
    a, b, c, d, e, f = affine[:6]
    return _line(a, x, b, y, c), _line(e, y, d, x, f)


def composed(outer: Affine, inner: Affine) -> Affine:
    """Returns one affine transform after another."""
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


def _lattice(scene: GeoBox, file: GeoBox, points: int = 17) -> tuple[Floats, Floats]:
    """Returns points spread over the part of a scene's grid where a file is, or over all of it."""
    back = _mapping(file, scene)
    rows, cols = (np.linspace(0, length, 2 * points) for length in file.shape)
    spread = []
    for place, length in zip(back.exact(cols[None], rows[:, None]), scene.shape[::-1], strict=True):
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
    with np.errstate(invalid="ignore"):
        across = np.subtract(mapping.exact(x + 0.5, y), mapping.exact(x - 0.5, y))
        down = np.subtract(mapping.exact(x, y + 0.5), mapping.exact(x, y - 0.5))
        spans = np.hypot(across, down)  # of scene pixels in the file: along its columns and its rows
    # the median: next to the antimeridian a pixel may span the whole file
    ratios = [
        float(np.median(span[np.isfinite(span)])) if np.isfinite(span).any() else 1 for span in spans[::-1]
    ]
    rows, cols = (
        int(np.clip(ratio + _NOISE, 1, length)) for ratio, length in zip(ratios, shape, strict=True)
    )
    return rows, cols
