"""Area of a grid's pixels, m²: on the ellipsoid where the CRS is geographic, in the plane elsewhere."""

from dataclasses import dataclass
from functools import cached_property
from math import isfinite, pi, sqrt
from typing import Any

import numpy as np
import numpy.typing as npt
from odc.geo.geobox import GeoBox
from pyproj import Proj, Transformer
from pyproj.exceptions import ProjError

Numbers = npt.NDArray[np.float64]

_BENT = 0.01
"""Share by which a projection may change areas without a word."""


@dataclass(frozen=True)
class PixelAreas:
    """Areas of a grid's pixels.

    In a geographic CRS a pixel is what lies between two parallels and two meridians of the ellipsoid, to the
    last digit; where rows do not follow parallels, a pixel's area is that density in its middle.  In a
    projected CRS it is the area in the plane, in m² whatever the unit.  Without a CRS a unit counts as 1 m.
    """

    grid: GeoBox
    """Rows, columns, transform and CRS."""

    @property
    def geographic(self) -> bool:
        """Whether areas are taken on the ellipsoid."""
        return self.grid.crs is not None and bool(self.grid.crs.geographic)

    def rows(self, first: int, stop: int) -> Numbers:
        """Returns the areas of rows, (rows, 1) where a row's pixels are alike, else (rows, width)."""
        if not self.geographic:
            return np.full((stop - first, 1), self._flat)
        affine = self.grid.affine
        if affine.d == 0:
            edges = self._zone(affine.f + affine.e * np.arange(first, stop + 1))
            return np.abs(np.diff(edges))[:, None] * abs(affine.a) * self._radians
        row, col = np.arange(first, stop)[:, None] + 0.5, np.arange(self.grid.shape[1]) + 0.5
        return self._density(affine.f + affine.d * col + affine.e * row) * abs(affine.determinant)

    def distortion(self) -> float:
        """Returns by how much the plane enlarges areas in the middle of the grid; 1 on the ellipsoid."""
        crs, (height, width) = self.grid.crs, self.grid.shape
        if crs is None or self.geographic or not crs.projected:
            return 1.0
        x, y = self.grid.affine @ (width / 2, height / 2)
        try:
            place = Transformer.from_crs(crs.proj, crs.proj.geodetic_crs, always_xy=True).transform(x, y)
            scale = float(Proj(crs.proj).get_factors(*place).areal_scale)
        except (ProjError, TypeError, AttributeError):
            return 1.0
        return scale if isfinite(scale) and abs(scale - 1) > _BENT else 1.0

    @cached_property
    def _flat(self) -> float:
        area = abs(float(self.grid.affine.determinant))
        crs = self.grid.crs
        return area if crs is None else area * float(crs.proj.axis_info[0].unit_conversion_factor) ** 2

    @cached_property
    def _radians(self) -> float:
        """Radians of a unit of the CRS."""
        return float(self.grid.crs.proj.axis_info[0].unit_conversion_factor) if self.grid.crs else pi / 180

    @cached_property
    def _ellipsoid(self) -> tuple[float, float]:
        """Semi-major axis, metres, and square of the eccentricity."""
        geod = self.grid.crs.proj.get_geod() if self.grid.crs is not None else None
        return (6378137.0, 0.0066943799901413165) if geod is None else (float(geod.a), float(geod.es))

    def _latitude(self, y: npt.NDArray[np.floating[Any]]) -> Numbers:
        return np.clip(y * self._radians, -pi / 2, pi / 2)

    def _zone(self, y: npt.NDArray[np.floating[Any]]) -> Numbers:
        """Returns the area between the equator and latitudes, m² per radian of longitude."""
        axis, square = self._ellipsoid
        sine, eccentricity = np.sin(self._latitude(y)), sqrt(square)
        bent = np.arctanh(eccentricity * sine) / eccentricity if eccentricity else sine
        return axis**2 / 2 * (1 - square) * (sine / (1 - square * sine**2) + bent)

    def _density(self, y: npt.NDArray[np.floating[Any]]) -> Numbers:
        """Returns m² per square unit of the CRS at latitudes."""
        axis, square = self._ellipsoid
        latitude = self._latitude(y)
        bent = 1 - square * np.sin(latitude) ** 2
        return axis**2 * (1 - square) * np.cos(latitude) / bent**2 * self._radians**2
