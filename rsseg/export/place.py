"""Where a map lies, as GeoJSON and STAC say it: degrees, cut at the antimeridian (RFC 7946)."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import shapely
from odc.geo.geobox import GeoBox
from pyproj import Transformer
from shapely.geometry import mapping
from shapely.geometry.base import BaseGeometry
from shapely.geometry.polygon import orient

from rsseg.geo import globe

Bounds = tuple[float, float, float, float]
"""West, south, east, north in degrees; west > east crosses the antimeridian (RFC 7946, 5.2)."""

_DIGITS = 9
"""Of a footprint's degrees: a tenth of a millimetre."""
_CENTIMETRE = 1e-7
"""Degrees by which an edge may be straightened: it needs few points then."""
_WORLD = (-180.0, -90.0, 180.0, 90.0)


def footprint(grid: GeoBox) -> BaseGeometry | None:
    """Returns where a grid lies, in degrees and cut at the antimeridian; None without georeferencing."""
    if grid.crs is None:
        return None
    outline = grid.footprint("EPSG:4326").geom
    poles = [pole for pole in (-90.0, 90.0) if _holds(grid, pole)]
    if poles:  # its outline runs around the pole, and so around the globe
        _, south, _, north = outline.bounds
        return shapely.box(-180, min(south, *poles), 180, max(north, *poles))
    found = globe.cut(outline, projected=not grid.crs.geographic).simplify(_CENTIMETRE)
    rounded = shapely.transform(found, lambda points: points.round(_DIGITS))
    return _polygons(rounded if rounded.is_valid else found)


def bounds(outline: BaseGeometry) -> Bounds:
    """Returns the bounds of an outline that was cut at the antimeridian; west > east where it was.

    Example:
        >>> bounds(globe.cut(shapely.box(179, 0, 181, 1)))
        (179.0, 0.0, -179.0, 1.0)
    """
    west, south, east, north = outline.bounds
    parts = [part.bounds for part in shapely.get_parts(outline)]
    if len(parts) > 1 and west <= -180 and east >= 180:
        west = min(part[0] for part in parts if part[0] > 0)
        east = max(part[2] for part in parts if part[2] < 0)
    return west, south, east, north


def around(boxes: Sequence[Bounds]) -> Bounds:
    """Returns the bounds of several: across the antimeridian only where one of them is; the globe for none.

    Example:
        >>> around([(1, 2, 3, 4), (-5, 0, 1, 1)])
        (-5, 0, 3, 4)
        >>> around([(179, 0, -179, 1), (160, 0, 170, 1)])
        (160, 0, -179, 1)
    """
    if not boxes:
        return _WORLD
    south, north = min(box[1] for box in boxes), max(box[3] for box in boxes)
    if all(box[0] <= box[2] for box in boxes):
        return min(box[0] for box in boxes), south, max(box[2] for box in boxes), north
    spans = sorted((box[0] % 360, (box[2] - box[0]) % 360) for box in boxes)
    ends = [start + span for start, span in spans]
    reached, gap, west = max(ends[0], max(ends) - 360), -1.0, spans[0][0]
    for start, span in [*spans[1:], (spans[0][0] + 360, 0.0)]:  # the widest gap is what stays outside
        if start - reached > gap:
            gap, west = start - reached, start
        reached = max(reached, start + span)
    if gap <= 0:
        return -180.0, south, 180.0, north
    return _within(west), south, _within(west - gap), north


def geojson(outline: BaseGeometry) -> dict[str, Any]:
    """Returns GeoJSON whose outer rings run counter-clockwise (RFC 7946, 3.1.6)."""
    parts = [orient(part) for part in shapely.get_parts(outline)]
    found: dict[str, Any] = mapping(parts[0] if len(parts) == 1 else shapely.MultiPolygon(parts))
    content: dict[str, Any] = json.loads(json.dumps(found))
    return content


def _holds(grid: GeoBox, pole: float) -> bool:
    """Returns whether a pole lies inside a projected grid."""
    if grid.crs is None or grid.crs.geographic:
        return False
    x, y = Transformer.from_crs("EPSG:4326", grid.crs.proj, always_xy=True).transform(0.0, pole)
    return bool(np.isfinite((x, y)).all() and shapely.intersects_xy(grid.extent.geom, x, y))


def _within(degrees: float) -> float:
    return (degrees + 180) % 360 - 180


def _polygons(shape: BaseGeometry) -> BaseGeometry:
    """Returns the same ground as valid polygons."""
    parts = shapely.get_parts(shapely.get_parts(shapely.make_valid(shape)))
    kept = parts[shapely.get_dimensions(parts) == 2]
    found: BaseGeometry = kept[0] if len(kept) == 1 else shapely.multipolygons(kept)
    return found if len(kept) else shape
