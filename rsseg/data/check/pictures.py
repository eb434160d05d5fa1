"""Tallies → small PNG pictures, and the outlines of what is valid."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import geopandas as gpd
import numpy as np
import numpy.typing as npt
import shapely
from odc.geo.geobox import GeoBox
from pyproj.exceptions import CRSError, ProjError
from rasterio.features import shapes
from rasterio.io import MemoryFile
from shapely.geometry import box, shape
from shapely.geometry.base import BaseGeometry

from rsseg.classmap import ClassMap
from rsseg.data.check.tally import Tally, packed
from rsseg.geo import globe
from rsseg.raster.handles import Raster, quiet

Bytes = npt.NDArray[np.uint8]

_GAP, _THERE = (190, 24, 36), (205, 219, 210)
"""Colours of the valid map: invalid and valid."""
_STEP = np.array([97, 57, 193])
"""Spreads colours of values without a legend over the colour cube."""


def quicklook(tally: Tally) -> bytes | None:
    """Returns a PNG of means over cells, stretched from the 2nd to the 98th percentile, or None."""
    there = tally.valid > 0
    if not there.any():
        return None
    with np.errstate(over="ignore", invalid="ignore"):
        means = tally.shown / np.maximum(tally.valid, 1)
    bands = np.stack([_stretched(band, there) for band in means])
    colours = np.repeat(bands, 3, axis=0) if len(bands) < 3 else bands
    return _png(colours, there, tally)


def label_picture(tally: Tally, class_map: ClassMap | None) -> bytes | None:
    """Returns a PNG in the colours of the class map; ignored and unknown values are grey and black."""
    there = tally.valid > 0
    if not there.any():
        return None
    codes = tally.shown.astype(np.int64)
    packed_codes = codes[0] if len(codes) == 1 else (codes[0] << 16) | (codes[1] << 8) | codes[2]
    values, place = np.unique(packed_codes, return_inverse=True)
    legend = np.array([_colour(value, class_map) for value in values.tolist()], np.uint8).reshape(-1, 3)
    return _png(np.moveaxis(legend[place.reshape(there.shape)], -1, 0), there, tally)


def validity_picture(tally: Tally) -> bytes | None:
    """Returns a PNG of the share of valid pixels per cell: red where there is none."""
    if not tally.seen.any():
        return None
    share = tally.valid / np.maximum(tally.seen, 1)
    mixed = [share * there + (1 - share) * gap for there, gap in zip(_THERE, _GAP, strict=True)]
    return _png(np.stack(mixed).astype(np.uint8), tally.seen > 0, tally)


def footprint(tally: Tally, raster: Raster | GeoBox) -> BaseGeometry | None:
    """Returns where most pixels of cells are valid, in EPSG:4326; None without georeferencing.

    Args:
        tally: of a file in its own pixels, or of a scene's grid.
        raster: that file or grid.
    """
    cell = tally.sketch.cell
    seen = tally.seen > 0
    good = _filled((2 * tally.valid >= np.maximum(tally.seen, 1)) & seen, seen)
    with quiet():
        polygons = [shape(found) for found, value in shapes(good.astype(np.uint8), mask=good) if value]
    if not polygons:
        return None
    pixels = shapely.transform(shapely.union_all(polygons), lambda xy: xy * cell)
    return placed(pixels.intersection(box(0, 0, tally.shape[1], tally.shape[0])), raster)


def outline(grid: GeoBox) -> BaseGeometry | None:
    """Returns a grid's outline in EPSG:4326; None without georeferencing."""
    return placed(box(0, 0, grid.shape[1], grid.shape[0]), grid)


def placed(pixels: BaseGeometry, raster: Raster | GeoBox) -> BaseGeometry | None:
    """Returns a shape given in columns and rows, in EPSG:4326; None where it has no place on Earth."""
    grid = raster if isinstance(raster, GeoBox) else raster.grid
    if grid.crs is None:
        return None
    step = max(*grid.shape, 1) / 16  # straight lines bend in another CRS
    there = shapely.transform(shapely.segmentize(pixels, step), _to_world(raster))
    try:
        found = gpd.GeoSeries([there], crs=grid.crs.to_wkt()).to_crs("EPSG:4326").iloc[0]
    except (ProjError, CRSError):
        return None
    if found is None or found.is_empty or not np.isfinite(found.bounds).all():
        return None
    return globe.cut(shapely.make_valid(found), projected=not grid.crs.geographic)


def _to_world(raster: Raster | GeoBox) -> Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]:
    if not isinstance(raster, GeoBox) and raster.control is not None:
        control = raster.control
        return lambda xy: np.column_stack(control.to_world(xy[:, 0], xy[:, 1]))
    grid = raster if isinstance(raster, GeoBox) else raster.grid
    a, b, c, d, e, f = tuple(grid.affine)[:6]
    return lambda xy: np.column_stack([a * xy[:, 0] + b * xy[:, 1] + c, d * xy[:, 0] + e * xy[:, 1] + f])


def _stretched(band: npt.NDArray[np.float64], there: npt.NDArray[np.bool_]) -> Bytes:
    usable = band[there & np.isfinite(band)]
    low, high = np.percentile(usable, (2, 98)) if usable.size else (0.0, 1.0)
    with np.errstate(invalid="ignore", over="ignore"):
        scaled = (band - low) / (high - low) if high > low else np.full(band.shape, 0.5)
        return np.nan_to_num(np.clip(scaled, 0, 1) * 255).astype(np.uint8)


def _colour(code: int, class_map: ClassMap | None) -> tuple[int, int, int]:
    if class_map is None:
        red, green, blue = (np.abs(code) * _STEP + np.array([40, 90, 20])) % 256
        return int(red), int(green), int(blue)
    return _legend(class_map).get(code, (0, 0, 0))


def _legend(class_map: ClassMap) -> Mapping[int, tuple[int, int, int]]:
    known = {packed(raw): entry.rgb for entry in class_map.classes for raw in entry.values}
    return known | {packed(raw): (150, 150, 150) for raw in class_map.ignored}


def _png(colours: Bytes, there: npt.NDArray[np.bool_], tally: Tally) -> bytes:
    seen = tally.seen > 0
    alpha = np.where(there, 255, 0).astype(np.uint8)
    pixels = np.stack([_filled(band, seen) for band in (*colours, alpha)])
    return encoded(pixels)


def encoded(pixels: Bytes, palette: Mapping[int, tuple[int, int, int, int]] | None = None) -> bytes:
    """Returns pixels as a PNG.

    Args:
        pixels: grey, grey and opacity, colours, or colours and opacity, (1 to 4, H, W).
        palette: red, green, blue and opacity of the values of a single band.
    """
    size = dict(zip(("count", "height", "width"), pixels.shape, strict=True))
    with quiet(), MemoryFile() as memory:
        with memory.open(driver="PNG", dtype="uint8", **size) as file:
            file.write(pixels)
            if palette is not None:
                file.write_colormap(1, palette)
        return bytes(memory.read())


def _filled(values: npt.NDArray[np.generic], seen: npt.NDArray[np.bool_]) -> npt.NDArray[np.generic]:
    """Returns values with those of cells that a sample left out taken from the nearest that it holds."""
    rows, cols = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
    if not len(rows) or seen.all():
        return values
    return values[_nearest(rows, len(seen))][:, _nearest(cols, seen.shape[1])]


def _nearest(known: npt.NDArray[np.intp], length: int) -> npt.NDArray[np.intp]:
    middles = (known[1:] + known[:-1]) / 2
    nearest: npt.NDArray[np.intp] = known[np.searchsorted(middles, np.arange(length))]
    return nearest
