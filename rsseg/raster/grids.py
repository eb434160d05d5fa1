"""Grids of scenes: whose pixels they are, and how much of them files cover."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import ceil, floor, inf

import numpy as np
from affine import Affine
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox

from rsseg.errors import GridError, RasterError
from rsseg.raster import handles, warp
from rsseg.raster.location import Files, Location
from rsseg.raster.mosaic import Sheet, sheets_of

_WIDEST, _NORTHERNMOST = 30.0, 84.0
"""Degrees of longitude around a UTM zone that its projection can still show, and of latitude."""

_MOST_PIXELS = 10**11
"""Of a grid at a GSD that is asked for: ten times the largest scenes."""


def reference_grid(files: Sequence[Files], gsd: float | None = None) -> GeoBox:
    """Returns the grid of a scene: the pixels of its reference modality, or pixels of a given size.

    Of several files in one CRS the one with the smallest pixels counts.  A geographic CRS keeps its degrees
    unless `gsd` is given, which makes it UTM.

    Args:
        files: of the reference modality.
        gsd: pixel size, metres.

    Raises:
        RasterError: a file cannot be read.
        GridError: `gsd` is not positive, or is given for files without a CRS.
    """
    if not files:
        raise RasterError("no files to take a grid from; expected at least one: check the scene's files")
    grids = [_whole(sheets_of(item, handles.describe)) for item in files]
    alike = [grid for grid in grids if warp.same_crs(grid.crs, grids[0].crs)]
    grid = min(alike, key=lambda grid: abs(grid.affine.determinant))
    if gsd is None:
        return grid
    return _resized(grid, gsd, files[0][0] if isinstance(files[0], tuple) else files[0])


def coverage(files: Sequence[Files], grid: GeoBox) -> float:
    """Returns the share of a scene's grid over which files lie, valid or not: of several, the least.

    Args:
        files: of one modality.
        grid: the scene's.

    Returns:
        0 to 1, exact to a few percent; 0 only where a file lies elsewhere.  1 without georeferencing.

    Raises:
        RasterError: a file cannot be read.
        GridError: no transformation is known between the CRSs of a file and the grid.
    """
    shares = [sum(_covered(sheet, grid) for sheet in sheets_of(item, handles.describe)) for item in files]
    return min(1.0, *shares)


def share_coordinates(one: GeoBox, other: GeoBox) -> bool:
    """Returns whether two grids both have a CRS, or both a transform in the same unnamed plane."""
    if one.crs is None and other.crs is None:
        return Affine.identity() not in (one.affine, other.affine)
    return one.crs is not None and other.crs is not None


@contextmanager
def named(path: Location) -> Iterator[None]:
    """Puts a file's name before what is wrong with its grid."""
    try:
        yield
    except GridError as error:
        raise GridError(f"{path}: {error}") from error


def _covered(sheet: Sheet, grid: GeoBox) -> float:
    if not share_coordinates(sheet.grid, grid):
        return 1.0
    with named(sheet.path):
        return warp.overlap(grid, sheet.grid, sheet.control)


def _whole(sheets: tuple[Sheet, ...]) -> GeoBox:
    """Returns a grid that holds all tiles, of the first one's pixels."""
    own = sheets[0].grid
    if len(sheets) == 1 or own.crs is None:
        return own
    boxes = [warp.pixel_bounds(own, sheet.grid) for sheet in sheets]
    left, top = (floor(min(box[k] for box in boxes) + 1e-6) for k in (0, 1))
    right, bottom = (ceil(max(box[k] for box in boxes) - 1e-6) for k in (2, 3))
    corner = warp.composed(own.affine, Affine.translation(left, top))
    return GeoBox((bottom - top, right - left), corner, own.crs)


def _resized(grid: GeoBox, gsd: float, path: Location) -> GeoBox:
    if not 0 < gsd < inf:
        raise GridError(f"gsd {gsd}; expected a positive number of metres")
    if grid.crs is None:
        raise GridError(f"gsd {gsd} m given, but {path} has no CRS; georeference it or leave gsd out")
    if grid.crs.geographic:
        return _utm(grid, gsd, path)
    size = gsd / grid.crs.proj.axis_info[0].unit_conversion_factor
    own = grid.affine
    if np.allclose((own.a, own.b, own.d, own.e), (size, 0, 0, -size), rtol=1e-9, atol=size * 1e-9):
        return grid
    box = grid.boundingbox
    # Anchored to the file's corner, not to round coordinates, so that multiples of its pixels stay whole.
    height, width = (ceil(span / size - 1e-6) for span in (box.span_y, box.span_x))
    _require_sane(height, width, gsd, path)
    return GeoBox((height, width), Affine(size, 0, box.left, 0, -size, box.top), grid.crs)


def _require_sane(height: int, width: int, gsd: float, path: Location) -> None:
    if not 0 < height * width <= _MOST_PIXELS:
        raise GridError(
            f"gsd {gsd} m: {path} becomes {height} × {width} pixels; expected 1 to {_MOST_PIXELS:.0e} in all"
        )


def _utm(grid: GeoBox, gsd: float, path: Location) -> GeoBox:
    box = grid.boundingbox
    lon, lat = (box.left + box.right) / 2, (box.bottom + box.top) / 2
    if box.span_x > _WIDEST or abs(lat) > _NORTHERNMOST:
        raise GridError(
            f"{path}: {box.span_x:.3g}° wide around latitude {lat:.3g}° does not fit into a UTM zone; "
            "leave gsd out, or reproject the file first"
        )
    crs = CRS.utm(lon, lat)
    left, bottom, right, top = (edge / gsd for edge in warp.bounds(grid, crs))
    height, width = ceil(top) - floor(bottom), ceil(right) - floor(left)
    _require_sane(height, width, gsd, path)
    return GeoBox((height, width), Affine(gsd, 0, floor(left) * gsd, 0, -gsd, ceil(top) * gsd), crs)
