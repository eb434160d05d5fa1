"""Ground that lies in two splits: found in world coordinates, across scenes and CRSs.

Areas of scenes without georeferencing can only be compared where two rows name the same file.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import sqrt
from pathlib import Path

import geopandas as gpd
import numpy as np
import numpy.typing as npt
from odc.geo.geobox import GeoBox
from pyproj import CRS, Geod
from shapely import (
    MultiPoint,
    Point,
    Polygon,
    STRtree,
    box,
    get_coordinates,
    get_parts,
    make_valid,
    segmentize,
)
from shapely.geometry.base import BaseGeometry

from rsseg.data.scenes import Scene, Scenes
from rsseg.errors import SceneError
from rsseg.geo import globe
from rsseg.raster.location import Location

_EDGE = 1.0
"""Pixels of the coarser grid by which neighbours' edges may differ: half-pixel conventions, reprojection."""
_THIN = 0.1
"""Of the smaller area's side, at most: a scene smaller than a pixel of another may lie in it."""
_MOST = 0.5
"""Of the smaller area: what is shared beyond it is no edge, however thin the area."""
_PIECES = 200
"""An outline's edges are cut into at least so many pieces per side before they are reprojected."""
_WIDE = 60.0
"""Degrees along either axis beyond which areas are compared on a map of the whole Earth."""
_WORLD = "EPSG:6933"
"""That map: cylindrical, equal-area."""
_EARTH = box(-180, -90, 180, 90)


@dataclass(frozen=True, slots=True)
class Leak:
    """An overlap between two splits."""

    one: str
    """Scene id."""
    other: str
    """Scene id; the same one where parts of one scene overlap."""
    splits: tuple[str, str]
    """Of the two scenes."""
    area_m2: float | None
    """Ground that lies in both, square metres; None without georeferencing."""
    share: float
    """Of the smaller of the two areas, 0–1."""

    def __str__(self) -> str:
        size = "" if self.area_m2 is None else f" ({self.area_m2:.4g} m²)"
        return (
            f"scenes {self.one} ({self.splits[0]}) and {self.other} ({self.splits[1]}) share "
            f"{100 * self.share:.3g} % of the smaller one's area{size}"
        )


@dataclass(frozen=True, slots=True)
class _Ground:
    """A row's area in its grid's own coordinates."""

    scene: Scene
    split: str
    grid: GeoBox
    area: BaseGeometry

    @property
    def crs(self) -> str | None:
        return None if self.grid.crs is None else str(self.grid.crs)

    @property
    def pixel(self) -> float:
        """In the CRS's units."""
        return sqrt(abs(self.grid.affine.determinant))


def find(scenes: Scenes, gsd: float | None = None) -> list[Leak]:
    """Returns every overlap between areas of different splits.

    Areas overlap where something is left of what they share once a pixel (of the coarser grid, or a tenth of
    the smaller area's side) is taken off all around, or where they share most of the smaller one: neighbours
    that touch, or whose edges differ by half-pixel conventions or by reprojection, do not.  Scenes without
    georeferencing overlap if they name the same file.

    Args:
        scenes: with their splits; rows without one take no part.
        gsd: of the scenes' grids, metres.

    Raises:
        RasterError: a file cannot be read.
    """
    grounds = [_ground(scene, scenes.modalities, gsd) for scene in scenes if scene.split is not None]
    placed = [ground for ground in grounds if ground.crs is not None]
    loose = [ground for ground in grounds if ground.crs is None]
    pairs = [*_near(placed), *_same_files(loose)]
    return [leak for one, other in pairs if (leak := _leak(one, other)) is not None]


def require_none(scenes: Scenes, gsd: float | None = None) -> None:
    """Checks that no ground lies in two splits.

    Raises:
        SceneError: some does.
    """
    leaks = find(scenes, gsd)
    if leaks:
        more = f", and {len(leaks) - 1} more pairs" if len(leaks) > 1 else ""
        raise SceneError(
            f"{max(leaks, key=lambda leak: leak.share)}{more}; training would see what it is scored on: "
            "put them into one split, or split by area (data.split=FILE)"
        )


def _ground(scene: Scene, order: Sequence[str], gsd: float | None) -> _Ground:
    grid = scene.grid(order, gsd)
    outline: BaseGeometry = grid.extent.geom
    return _Ground(scene, str(scene.split), grid, outline if scene.area is None else scene.area)


def _near(grounds: Sequence[_Ground]) -> Iterator[tuple[_Ground, _Ground]]:
    """Yields pairs of different splits whose bounds in EPSG:4326 meet."""
    bounds = np.array([_bounds(ground) for ground in grounds], object)
    ones, others = STRtree(bounds).query(bounds, predicate="intersects")
    for one, other in zip(ones.tolist(), others.tolist(), strict=True):
        if one < other and grounds[one].split != grounds[other].split:
            yield grounds[one], grounds[other]


def _bounds(ground: _Ground) -> BaseGeometry:
    """Returns a box in degrees; all longitudes where the area may cross the antimeridian."""
    west, south, east, north = _degrees(ground).bounds
    margin = 0.01 * max(east - west, north - south)
    if not np.isfinite([west, south, east, north]).all():
        return _EARTH
    if east - west > 180 or west - margin < -180 or east + margin > 180:
        west, east, margin = -180, 180, max(margin, 1e-3) if east - west <= 180 else 1e-3
    return box(west - margin, south - margin, east + margin, north + margin)


def _same_files(grounds: Sequence[_Ground]) -> Iterator[tuple[_Ground, _Ground]]:
    files = [_files(ground.scene) for ground in grounds]
    by_file: dict[str, list[int]] = {}
    for index, names in enumerate(files):
        for name in names:
            by_file.setdefault(name, []).append(index)
    pairs = {pair for indexes in by_file.values() for pair in combinations(indexes, 2)}
    for one, other in sorted(pairs):
        if grounds[one].split != grounds[other].split:
            yield grounds[one], grounds[other]


def _files(scene: Scene) -> set[str]:
    return {_identity(file) for source in scene.files.values() for file in source.files}


def _identity(file: Location) -> str:
    return str(file.resolve()) if isinstance(file, Path) else file


def _leak(one: _Ground, other: _Ground) -> Leak | None:
    plane = _plane(one, other)
    first, second = _moved(one, plane), _moved(other, plane)
    shared = first.intersection(second)
    least = min(first.area, second.area)
    edge = min(_EDGE * _pixel(one, other, plane), _THIN * sqrt(least))
    share = shared.area / least if least else 0.0
    if share <= _MOST and shared.buffer(-edge, join_style="mitre").is_empty:
        return None
    return Leak(
        one.scene.id, other.scene.id, (one.split, other.split), _square_metres(shared, plane), float(share)
    )


def _plane(one: _Ground, other: _Ground) -> str | None:
    """Returns the CRS in which two areas are compared: their own if it is a plane, else one made for them."""
    if one.crs is None or (one.crs == other.crs and not CRS(one.crs).is_geographic):
        return one.crs
    if _is_wide(one) or _is_wide(other):
        return _WORLD
    centre = _moved(one, "EPSG:4326").centroid
    return f"+proj=laea +lat_0={centre.y:.6f} +lon_0={centre.x:.6f} +datum=WGS84 +units=m"


def _pixel(one: _Ground, other: _Ground, plane: str | None) -> float:
    """Returns the coarser grid's pixel, in units of the plane."""
    return max(_scaled(one, plane), _scaled(other, plane))


def _scaled(ground: _Ground, plane: str | None) -> float:
    if ground.crs == plane:
        return ground.pixel
    return ground.pixel * sqrt(_moved(ground, plane).area / ground.area.area)


def _moved(ground: _Ground, crs: str | None) -> BaseGeometry:
    """Returns the area in another CRS; its edges become curves there."""
    if ground.crs == crs:
        return ground.area
    if crs == _WORLD:
        return _transformed(_degrees(ground), "EPSG:4326", crs)
    return _transformed(ground.area, ground.crs, crs)


def _degrees(ground: _Ground) -> BaseGeometry:
    """Returns the area in degrees, longitudes from -180 to 180; whole also where it holds a pole."""
    moved = _transformed(ground.area, ground.crs, "EPSG:4326")
    projected = not CRS(ground.crs).is_geographic
    pole = _pole_in(ground) if projected else None
    if pole is None:
        return globe.cut(moved, projected=projected)
    points = get_coordinates(moved)
    around = points[np.argsort(points[:, 0])]
    first, last = around[0, 1], around[-1, 1]
    ends = [(180, last), (180, pole), (-180, pole), (-180, first)]
    ring: BaseGeometry = make_valid(Polygon([*around.tolist(), *ends]))
    return ring


def _pole_in(ground: _Ground) -> float | None:
    """Returns the latitude of the pole that an area holds."""
    poles = gpd.GeoSeries([Point(0, 90), Point(0, -90)], crs="EPSG:4326").to_crs(ground.crs)
    held = [np.isfinite(p.x) and np.isfinite(p.y) and ground.area.contains(p) for p in poles]
    return 90.0 if held[0] else -90.0 if held[1] else None


def _is_wide(ground: _Ground) -> bool:
    if not CRS(ground.crs).is_geographic and _pole_in(ground) is not None:
        return False
    sides = [part.bounds for part in get_parts(_degrees(ground))]
    return any(max(east - west, north - south) > _WIDE for west, south, east, north in sides)


def _transformed(area: BaseGeometry, own: str | None, crs: str | None) -> BaseGeometry:
    """Returns an outline in another CRS; points that have no place there are left out."""
    west, south, east, north = area.bounds
    fine = segmentize(area, max(east - west, north - south) / _PIECES)
    moved = gpd.GeoSeries([fine], crs=own).to_crs(crs).iloc[0]
    points = get_coordinates(moved)
    placed = np.isfinite(points).all(1)
    if not placed.all():
        hull: BaseGeometry = MultiPoint(points[placed]).convex_hull
        return hull
    found: BaseGeometry = make_valid(moved)
    return found


def _square_metres(area: BaseGeometry, plane: str | None) -> float | None:
    if plane is None:
        return None
    if plane == _WORLD:
        return float(area.area)
    earth: npt.NDArray[np.object_] = gpd.GeoSeries([area], crs=plane).to_crs("EPSG:4326").to_numpy()
    return abs(float(Geod(ellps="WGS84").geometry_area_perimeter(earth[0])[0]))
