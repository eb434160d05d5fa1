"""Where the scenes lie, and how a modality comes onto a grid of its own."""

import math
from typing import NamedTuple

import numpy as np
from affine import Affine
from pyproj import CRS, Transformer
from rasterio.enums import Resampling
from rasterio.warp import reproject, transform_bounds

from rsseg.datasets.simulated.render import NODATA, Pixels
from rsseg.datasets.simulated.settings import SPLITS, CitySettings

ORIGIN_CRS, ORIGIN = "EPSG:32633", (366000.0, 5808000.0)
"""Upper left corner of the first scene, wherever the CRS reaches so far."""

_COLUMNS = 8
_MARGIN_PIXELS = 4


class Grid(NamedTuple):
    """Shape, transform and CRS of a raster."""

    height: int
    width: int
    transform: Affine
    crs: str

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """West, south, east and north edge in units of the CRS."""
        west, north, step = self.transform.c, self.transform.f, self.transform.a
        return west, north - self.height * step, west + self.width * step, north


def place_scene(settings: CitySettings, split: str, number: int) -> Grid:
    """Return the grid of a scene; it depends on the scene's own number only, not on how many there are."""
    row, column = divmod(number, _COLUMNS)
    return place(settings, row, column + (_COLUMNS + 1) * SPLITS.index(split), gap=settings.size // 8)


def place(settings: CitySettings, row: int, column: int, gap: int = 0) -> Grid:
    """Return the grid in a row and column of scenes that lie ``gap`` pixels apart."""
    x, y = _find_origin(settings.crs)
    step = (settings.size + gap) * settings.gsd
    transform = Affine(settings.gsd, 0, x + column * step, 0, -settings.gsd, y - row * step)
    return Grid(settings.size, settings.size, transform, settings.crs)


def _find_origin(name: str) -> tuple[float, float]:
    crs = CRS.from_user_input(name)
    longitude, latitude = Transformer.from_crs(ORIGIN_CRS, 4326, always_xy=True).transform(*ORIGIN)
    area = crs.area_of_use
    if area and not (area.west <= longitude <= area.east and area.south <= latitude <= area.north):
        longitude, latitude = (area.west + area.east) / 2, (area.south + area.north) / 2
    x, y = Transformer.from_crs(4326, crs, always_xy=True).transform(longitude, latitude)
    return round(x / 100) * 100.0, round(y / 100) * 100.0


def own_grid(settings: CitySettings, modality: str, reference: Grid) -> Grid:
    """Return the grid on which a modality is delivered."""
    gsd = settings.gsd_of.get(modality, settings.gsd)
    crs = settings.crs_of.get(modality, reference.crs)
    if CRS.from_user_input(crs) == CRS.from_user_input(reference.crs):
        pixels = math.ceil(round(reference.width * settings.gsd / gsd, 6))
        corner = Affine(gsd, 0, reference.transform.c, 0, -gsd, reference.transform.f)
        return Grid(pixels, pixels, corner, reference.crs)
    step = _same_pixel(reference, crs) * gsd / settings.gsd
    west, south, east, north = transform_bounds(reference.crs, crs, *reference.bounds, densify_pts=51)
    first, upper = math.floor(west / step) - _MARGIN_PIXELS, math.ceil(north / step) + _MARGIN_PIXELS
    width = math.ceil(east / step) + _MARGIN_PIXELS - first
    height = upper - math.floor(south / step) + _MARGIN_PIXELS
    return Grid(height, width, Affine(step, 0, first * step, 0, -step, upper * step), crs)


def _same_pixel(grid: Grid, crs: str) -> float:
    """Return the side of a square pixel, in another CRS's units, that covers the same ground."""
    west, south, east, north = grid.bounds
    x, y, step = (west + east) / 2, (south + north) / 2, grid.transform.a
    transformer = Transformer.from_crs(grid.crs, crs, always_xy=True)
    columns, rows = transformer.transform([x, x + step, x], [y, y, y + step])
    determinant = (columns[1] - columns[0]) * (rows[2] - rows[0]) - (columns[2] - columns[0]) * (
        rows[1] - rows[0]
    )
    return math.sqrt(abs(determinant))


def regrid(pixels: Pixels, modality: str, source: Grid, target: Grid) -> Pixels:
    """Return pixels (bands, H, W) on another grid: averages where it is coarser, else bilinear."""
    if source == target:
        return pixels
    nodata = NODATA[modality]
    moved = np.full((len(pixels), target.height, target.width), nodata, pixels.dtype)
    coarser = target.transform.a / _same_pixel(source, target.crs) > 1.5
    reproject(
        pixels,
        moved,
        src_transform=source.transform,
        src_crs=source.crs,
        src_nodata=nodata,
        dst_transform=target.transform,
        dst_crs=target.crs,
        dst_nodata=nodata,
        resampling=Resampling.average if coarser else Resampling.bilinear,
    )
    return moved
