"""An area of interest, and what of a scene's grid belongs to it.

    read_area("W,S,E,N" or a vector file) ──► Area ── region_of(…, scene) ──► Region: a window and an outline

An outline is kept in pixels of the scene's grid, so that nothing depends on which rows are asked for.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import geopandas as gpd
import numpy as np
import numpy.typing as npt
import shapely
from affine import Affine
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox
from pyproj import Transformer
from pyproj.exceptions import ProjError
from rasterio.features import rasterize
from shapely.affinity import translate
from shapely.geometry.base import BaseGeometry

from rsseg.data.tiles import OpenScene
from rsseg.errors import RasterError, SceneError
from rsseg.geo import Window, globe
from rsseg.modality import Bools
from rsseg.raster.handles import quiet
from rsseg.raster.location import locate
from rsseg.raster.vector import read_layer
from rsseg.raster.warp import same_crs

_DEGREES = "EPSG:4326"
_ORDER = "W,S,E,N in degrees, e.g. 9.1,52.3,9.2,52.4"
_POLYGON = 3
"""Shapely's number of the geometry type."""
_PIECES = 1024
"""Into which an edge across the scene is cut before it is projected: it bends by far less than a pixel."""
_MARGIN = 16
"""Pixels around a scene within which an area is looked for: its outline bends in another CRS."""
_NOISE = 1e-6
"""Pixels by which a transformed edge may miss the pixel's own."""
_BLOCK = 128
"""Rows that are burnt together, counted from the region's top whatever rows are asked for."""

Points = npt.NDArray[np.float64]


class OutsideError(SceneError):
    """An area holds no pixel of a scene."""


@dataclass(frozen=True)
class Area:
    """Polygons of interest in a CRS of their own; the same for every scene."""

    shape: BaseGeometry
    """Valid polygons, united; in degrees x is the longitude."""
    crs: str
    """As WKT, or EPSG:4326."""
    name: str = field(default="area", compare=False)
    """What the user gave, for messages."""

    @property
    def fingerprint(self) -> str:
        """The same text for the same polygons in the same CRS, and for no others."""
        shape = shapely.to_wkb(shapely.normalize(self.shape), byte_order=1)
        return hashlib.sha256(shape + self.crs.encode()).hexdigest()


@dataclass(frozen=True)
class Region:
    """The part of a scene's grid that belongs to an area."""

    window: Window
    """Smallest window of the grid that holds it; the grid of its maps is cut out of the scene's by this."""
    outline: BaseGeometry
    """Polygons in pixels of the scene's grid: x counts columns, y rows."""

    def touches(self, window: Window) -> bool:
        """Returns whether a window of the scene's grid may hold a pixel of the area."""
        return bool(shapely.intersects(self.outline, _box(window)))

    def inside(self, row: int, rows: int) -> Bools | None:
        """Returns which pixels have their centre in the area; None where all have.

        Args:
            row: first row, from the region's top.
            rows: how many.

        Returns:
            (rows, width of the region).
        """
        width = self.window.width
        if shapely.covers(self.outline, _box(Window(row, 0, rows, width).shifted(*self._corner))):
            return None
        mask = np.empty((rows, width), np.bool_)
        for top in range(row // _BLOCK * _BLOCK, row + rows, _BLOCK):
            begin, end = max(top, row), min(top + _BLOCK, row + rows)
            mask[begin - row : end - row] = self._burnt(top)[begin - top : end - top]
        return mask

    @property
    def _corner(self) -> tuple[int, int]:
        return self.window.row, self.window.col

    def _burnt(self, top: int) -> Bools:
        """Returns what is inside in the block of rows that begins here, from the region's top."""
        block = Window(top, 0, min(_BLOCK, self.window.height - top), self.window.width)
        block = block.shifted(*self._corner)
        shapes = _polygons(self.outline.intersection(_box(block).buffer(1)))
        if not len(shapes):
            return np.zeros(block.shape, np.bool_)
        with quiet():  # rasterio warns of the block at the origin, whose transform is the identity
            burnt = rasterize(
                shapes, block.shape, transform=Affine.translation(block.col, block.row), dtype="uint8"
            )
        return np.asarray(burnt, np.bool_)


def read_area(text: str) -> Area:
    """Returns the area that is meant by four numbers, or by the polygons of a file's first layer.

    Args:
        text: "W,S,E,N" in degrees (EPSG:4326), where W > E crosses the antimeridian; or a vector file with a
            CRS, of which all polygons count.

    Raises:
        SceneError: numbers out of order or range.
        RasterError: the file cannot be read, has no CRS, or holds no polygons, or points or lines.

    Example:
        >>> read_area("9.1,52.3,9.2,52.4").shape.bounds
        (9.1, 52.3, 9.2, 52.4)
    """
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        return _of_file(text)
    return Area(_rectangle(numbers, text), _DEGREES, text) if "," in text else _of_file(text)


def region_of(area: Area, opened: OpenScene) -> Region:
    """Returns the part of a scene's grid that belongs to an area: the pixels whose centres it holds.

    Raises:
        OutsideError: the area holds none of its pixels.
        SceneError: the scene has no CRS, or the area no place in it.
    """
    grid = opened.grid
    if grid.crs is None:
        raise SceneError(
            f"scene {opened.scene.id}: has no CRS, so area {area.name} has no place in it; "
            "georeference its files, or leave the area out"
        )
    outline = _in_pixels(area, grid)
    if outline.area > 0:
        shapely.prepare(outline)
        region = Region(_around(outline, opened.shape), outline)
        if any(region._burnt(top).any() for top in range(0, region.window.height, _BLOCK)):
            return region
    places = f"{_degrees(area.shape, area.crs)} against {_degrees(grid.extent.geom, grid.crs)}"
    raise OutsideError(
        f"scene {opened.scene.id}: area {area.name} holds none of its pixels ({places}, W,S,E,N in degrees); "
        "check the area's numbers and CRS, or take another scene"
    )


def _rectangle(numbers: Sequence[float], text: str) -> BaseGeometry:
    if len(numbers) != 4:
        raise SceneError(f"area {text}: {len(numbers)} numbers; expected four: {_ORDER}")
    west, south, east, north = numbers
    if not all(abs(number) <= limit for number, limit in zip(numbers, (180, 90, 180, 90), strict=True)):
        raise SceneError(f"area {text}: not on the globe; expected {_ORDER} (a file may have any CRS)")
    if south >= north:
        raise SceneError(f"area {text}: S {south:g} is not less than N {north:g}; the order is {_ORDER}")
    if west < east:
        return shapely.box(west, south, east, north)
    if not west - 360 < east <= west - 180:
        raise SceneError(
            f"area {text}: W {west:g} is not less than E {east:g}; the order is {_ORDER} "
            "(across the antimeridian W > E, and at most 180° wide)"
        )
    return globe.cut(shapely.box(west, south, east + 360, north))


def _of_file(text: str) -> Area:
    """Returns all polygons of a file's first layer, united."""
    frame = _frame(text)
    given = frame.geometry.to_numpy()
    given = given[~(shapely.is_missing(given) | shapely.is_empty(given))]
    strange = int(np.sum(shapely.get_dimensions(given) < 2))
    if strange:
        raise RasterError(
            f"area {text}: {strange} of {len(frame)} features are points or lines; expected polygons: "
            "take them out, or buffer them"
        )
    shapes = _polygons(shapely.make_valid(shapely.force_2d(given)))
    if not len(shapes):
        raise RasterError(f"area {text}: holds no polygons in its first layer; expected at least one")
    if frame.crs is None:
        raise RasterError(f"area {text}: has no CRS; write one into the file (ogr2ogr -a_srs EPSG:…)")
    return Area(shapely.union_all(shapes), frame.crs.to_wkt(), text)


def _frame(text: str) -> gpd.GeoDataFrame:
    place = locate(text)
    try:
        found = isinstance(place, str) or place.exists()
    except (OSError, ValueError):  # no name that a file can have
        found = False
    if not found:
        raise RasterError(f"area {text}: no such file; expected a vector file, or {_ORDER}")
    frame = read_layer(place, None, f"area {text}")
    if not isinstance(frame, gpd.GeoDataFrame):
        raise RasterError(f"area {text}: holds no geometries; expected polygons")
    return frame


def _polygons(shapes: BaseGeometry | npt.NDArray[np.object_]) -> npt.NDArray[np.object_]:
    """Returns single polygons; what an intersection leaves beside them has no area."""
    parts = shapely.get_parts(shapely.get_parts(shapes))  # a repaired polygon may be a collection
    kept = (shapely.get_type_id(parts) == _POLYGON) & ~shapely.is_empty(parts)
    found: npt.NDArray[np.object_] = parts[kept]
    return found


def _box(window: Window) -> BaseGeometry:
    box: BaseGeometry = shapely.box(
        window.col, window.row, window.col + window.width, window.row + window.height
    )
    return box


def _around(outline: BaseGeometry, shape: tuple[int, int]) -> Window:
    """Returns the smallest window of whole pixels that holds an outline inside a grid."""
    left, top, right, bottom = outline.bounds
    row, col = min(math.floor(top + _NOISE), shape[0] - 1), min(math.floor(left + _NOISE), shape[1] - 1)
    return Window(row, col, max(math.ceil(bottom - _NOISE) - row, 1), max(math.ceil(right - _NOISE) - col, 1))


def _in_pixels(area: Area, grid: GeoBox) -> BaseGeometry:
    """Returns the part of an area within a grid, in pixels of the grid; empty where there is none."""
    shape = area.shape if same_crs(CRS(area.crs), grid.crs) else _projected(area, grid)
    if grid.crs is not None and grid.crs.geographic:  # 170° W is 190° E to a scene across the antimeridian
        shape = shapely.union_all([translate(shape, xoff=360 * turn) for turn in (-1, 0, 1)])
    pixels = shapely.make_valid(shapely.transform(shape, partial(_applied, ~grid.affine)))
    whole = _box(Window(0, 0, *grid.shape))
    return shapely.union_all(_polygons(shapely.intersection(_polygons(pixels), whole)))


def _projected(area: Area, grid: GeoBox) -> BaseGeometry:
    """Returns the part of an area near a grid, in the grid's CRS; its edges are straight in its own."""
    crs, forward = CRS(area.crs), _transformer(area, grid)
    shape = globe.cut(area.shape) if crs.geographic else area.shape
    reach = _reach(grid, crs, forward)
    if reach is not None:
        shape = shapely.union_all(_polygons(shape.intersection(reach)))
    if shape.is_empty:
        return shape
    # part by part: one that is cut at the antimeridian seems as wide as the globe
    boxes = shapely.bounds(_polygons(shape if reach is None else reach))
    shape = shapely.segmentize(shape, float((boxes[:, 2:] - boxes[:, :2]).max()) / _PIECES)
    projected = shapely.transform(shape, partial(_transformed, forward))
    if not np.isfinite(projected.bounds).all():
        raise SceneError(f"area {area.name}: has no place in {grid.crs}; give it in the scene's CRS")
    return shapely.make_valid(projected)


def _reach(grid: GeoBox, crs: CRS, forward: Transformer) -> BaseGeometry | None:
    """Returns a polygon that holds a grid, in another CRS; None where it has no outline there.

    What lies beyond it is left out before it is projected: far away a projection means nothing.
    """
    for margin in (_MARGIN + max(grid.shape) // 64, 0):
        padded = grid.pad(margin) if margin else grid
        outline = padded.footprint(crs).geom
        if np.isfinite(outline.bounds).all():
            poles = _poles(padded, forward) if crs.geographic else []
            if poles:  # around a pole an outline in degrees encloses nothing
                _, low, _, high = outline.bounds
                return shapely.box(-180, min(low, *poles), 180, max(high, *poles))
            outline = (
                globe.cut(outline, projected=not CRS(grid.crs).geographic) if crs.geographic else outline
            )
            return shapely.make_valid(outline)
    return None


def _poles(grid: GeoBox, forward: Transformer) -> list[float]:
    """Returns the latitudes of the poles that a grid holds."""
    poles = np.array([[0.0, 90.0], [0.0, -90.0]])
    places = _applied(~grid.affine, _transformed(forward, poles))
    inside = ((places >= 0) & (places <= np.array(grid.shape[::-1]))).all(1)
    return [float(latitude) for latitude in poles[inside, 1]]


def _transformer(area: Area, grid: GeoBox) -> Transformer:
    try:
        return Transformer.from_crs(area.crs, CRS(grid.crs).to_wkt(), always_xy=True)
    except ProjError as error:
        raise SceneError(
            f"area {area.name}: no transformation from its CRS to {grid.crs} is known; reproject it first"
        ) from error


def _transformed(transformer: Transformer, points: Points) -> Points:
    return np.stack(transformer.transform(points[:, 0], points[:, 1]), axis=1)


def _applied(affine: Affine, points: Points) -> Points:
    a, b, c, d, e, f = affine[:6]
    with np.errstate(invalid="ignore"):
        x, y = points[:, 0], points[:, 1]
        return np.stack([a * x + b * y + c, d * x + e * y + f], axis=1)


def _degrees(shape: BaseGeometry, crs: CRS | str) -> str:
    """Returns an outline's bounds as W,S,E,N, where W > E if it crosses the antimeridian."""
    outline = gpd.GeoSeries([shape], crs=str(crs)).to_crs(_DEGREES).iloc[0]
    cut = globe.cut(outline, projected=not CRS(str(crs)).geographic)
    west, south, east, north = cut.bounds
    parts = shapely.get_parts(cut)
    if (west, east) == (-180, 180) and len(parts) > 1:
        sides = [part.bounds for part in parts]
        west = min((box[0] for box in sides if box[2] == 180), default=west)
        east = max((box[2] for box in sides if box[0] == -180), default=east)
    return ",".join(f"{edge:.6g}" for edge in (west, south, east, north))
