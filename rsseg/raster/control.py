"""Files placed by ground control points: where their pixels lie, as gdalwarp places them."""

import atexit
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox
from rasterio.control import GroundControlPoint
from rasterio.transform import GCPTransformer
from rasterio.warp import calculate_default_transform

Floats = npt.NDArray[np.floating[Any]]

_MISS = 1.0
"""Largest distance of a control point from the polynomial, pixels; beyond it a spline goes through all."""


@dataclass(frozen=True, slots=True)
class Control:
    """Ground control points, and the curve near or through them."""

    points: tuple[tuple[float, float, float, float], ...]
    """Row, column, x and y of each."""
    shape: tuple[int, int]
    """Of the file, pixels."""
    spline: bool = False
    """Thin plate spline through every point (gdalwarp -tps) in place of GDAL's polynomial near them."""

    def to_pixels(self, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        """Returns columns and rows of world coordinates, from the file's top left corner; NaN far from it."""
        x, y = (np.asarray(axis, np.float64) for axis in np.broadcast_arrays(x, y))
        left, bottom, right, top = _bounds(self)
        near = (x >= left) & (x <= right) & (y >= bottom) & (y <= top)  # curves turn back far outside
        cols, rows = np.full((2, *x.shape), np.nan)
        if near.any():
            rows[near], cols[near] = _transformer(self, os.getpid()).rowcol(x[near], y[near], op=np.positive)
        return cols, rows

    def to_world(self, cols: Floats, rows: Floats) -> tuple[Floats, Floats]:
        """Returns world coordinates of columns and rows."""
        cols, rows = np.broadcast_arrays(cols, rows)
        x, y = _transformer(self, os.getpid()).xy(rows.ravel(), cols.ravel(), offset="ul")
        return np.reshape(x, cols.shape), np.reshape(y, cols.shape)

    def grid(self, crs: CRS) -> GeoBox:
        """Returns upright pixels of about the file's size over its area, as gdalwarp suggests them."""
        points = _gdal(self.points)
        height, width = self.shape
        wkt = crs.to_wkt()
        affine, columns, rows = calculate_default_transform(wkt, wkt, width, height, gcps=points)
        return GeoBox((rows, columns), affine, crs)


def control(points: Sequence[GroundControlPoint], shape: tuple[int, int]) -> Control:
    """Returns where control points place a file: by GDAL's polynomial, or a spline where that misses them.

    Args:
        points: rasterio's.
        shape: of the file, pixels.
    """
    found = Control(tuple((p.row, p.col, p.x, p.y) for p in points), shape)
    rows, cols, x, y = np.array(found.points).T
    there = _transformer(found, os.getpid()).rowcol(x, y, op=np.positive)
    missed = np.hypot(there[0] - rows, there[1] - cols).max()
    return found if missed <= _MISS else replace(found, spline=True)


def _gdal(points: Sequence[tuple[float, float, float, float]]) -> list[GroundControlPoint]:
    return [GroundControlPoint(row=row, col=col, x=x, y=y, z=0.0) for row, col, x, y in points]


@lru_cache(maxsize=32)
def _transformer(placed: Control, process: int) -> Any:
    return GCPTransformer(_gdal(placed.points), tps=placed.spline)


atexit.register(_transformer.cache_clear)  # while GDAL is still there to free them


@lru_cache(maxsize=32)
def _bounds(placed: Control) -> tuple[float, float, float, float]:
    """Returns left, bottom, right and top of the file in the world, one part in a hundred wider."""
    height, width = placed.shape
    x, y = placed.to_world(np.linspace(0, width, 65)[None], np.linspace(0, height, 65)[:, None])
    across, down = (x.max() - x.min()) / 100, (y.max() - y.min()) / 100
    return x.min() - across, y.min() - down, x.max() + across, y.max() + down
