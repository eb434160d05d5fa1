"""Outlines in degrees, cut at the antimeridian as GeoJSON (RFC 7946, 3.1.9) and every GIS expect them."""

import numpy as np
import numpy.typing as npt
from shapely import box, make_valid, transform, union_all
from shapely.affinity import translate
from shapely.geometry.base import BaseGeometry


def cut(outline: BaseGeometry, *, projected: bool = False) -> BaseGeometry:
    """Returns an outline with longitudes from -180 to 180, in two parts where it crosses the antimeridian.

    Args:
        outline: in degrees, x = longitude; longitudes may lie beyond 180.
        projected: whether it was transformed from a projection, point by point: its longitudes then jump from
            one side to the other, and an outline that seems wider than half the Earth crosses there.

    Example:
        >>> cut(box(179, 0, 181, 1)).bounds
        (-180.0, 0.0, 180.0, 1.0)
        >>> cut(box(179, 0, 181, 1)).area
        2.0
    """
    west, _, east, _ = outline.bounds
    if projected and east - west > 180:
        joined = transform(outline, _eastward)
        low, _, high, _ = joined.bounds
        outline = make_valid(joined) if 0 < high - low < 180 else outline
    west, _, east, _ = outline.bounds
    if west >= -180 and east <= 180:
        return outline
    turns = range(int(np.floor((west + 180) / 360)), int(np.floor((east + 180) / 360)) + 1)
    parts = [
        translate(outline.intersection(box(360 * turn - 180, -90, 360 * turn + 180, 90)), xoff=-360 * turn)
        for turn in turns
    ]
    whole: BaseGeometry = union_all(parts)
    return whole


def _eastward(points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Returns points counted eastward from Greenwich, 0 to 360, so that those around 180 are neighbours."""
    return np.column_stack([points[:, 0] % 360.0, points[:, 1]])
