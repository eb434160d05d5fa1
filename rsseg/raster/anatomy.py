"""What a file is: its size, types, place, layout on disk, and what it declares about its pixels."""

from dataclasses import dataclass
from math import cos, radians, sqrt
from typing import Any

import numpy as np
import rasterio
from odc.geo.geobox import GeoBox
from pyproj.exceptions import CRSError
from rasterio._err import CPLE_BaseError
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import RasterioError

from rsseg.errors import RasterError
from rsseg.raster.handles import opened, reason
from rsseg.raster.location import Location, Stamp

_DEGREE = 111_320.0
"""Metres of a degree of latitude."""


@dataclass(frozen=True, slots=True)
class Anatomy:
    """What an open file says about itself; holds plain values only, so it can be written as JSON."""

    driver: str
    """GDAL's, e.g. GTiff."""
    height: int
    """Rows."""
    width: int
    """Columns."""
    bands: int
    """In the file, alpha included."""
    dtypes: tuple[str, ...]
    """Distinct types of its bands."""
    crs: str | None
    """EPSG code or name; None where the file has none."""
    pixel: tuple[float, float]
    """Width and height of a pixel in units of the CRS."""
    gsd: float | None
    """Pixel size on the ground, metres; None without a CRS."""
    rotated: bool
    """Whether rows do not run from west to east, as the CRS counts."""
    south_up: bool
    """Whether the first row is the southernmost."""
    block: tuple[int, int]
    """Rows and columns of a block."""
    layout: str
    """`tiled`, `striped` (blocks as wide as the file) or `whole` (one block)."""
    compression: str | None
    """E.g. deflate."""
    interleave: str | None
    """`pixel` or `band`."""
    overviews: tuple[int, ...]
    """Factors of the first band's overviews."""
    nodata: tuple[float | None, ...]
    """Declared value of each band; one where all are alike."""
    mask: str | None
    """`dataset` or `bands` where masks are stored, inside the file or beside it."""
    alpha: int | None
    """Band that is alpha, from 1."""
    scales: tuple[tuple[float, float], ...]
    """Scale and offset of each band where one is not 1 and 0."""
    palette: bool
    """Whether a band is a palette."""
    gcps: int
    """Ground control points."""
    rpcs: bool
    """Whether it has rational polynomial coefficients."""
    complex: bool
    """Whether pixels are complex numbers."""

    @property
    def pixels(self) -> int:
        """Rows × columns."""
        return self.height * self.width


def read_anatomy(path: Location, stamp: Stamp, grid: GeoBox | None = None) -> Anatomy:
    """Returns what a file is (see `anatomy`), also of one that rsseg refuses to read.

    Raises:
        RasterError: GDAL cannot open it.
    """
    try:
        with rasterio.Env():  # GDAL reports to Python's logging, not to stderr
            return anatomy(opened(path, stamp), grid)
    except (RasterioError, CPLE_BaseError, CRSError, OSError, ValueError) as failure:
        raise RasterError(f"{path}: not readable ({reason(failure)}); check the file") from failure


def anatomy(dataset: Any, grid: GeoBox | None = None) -> Anatomy:
    """Returns what an open dataset of rasterio is.

    Args:
        dataset: open for reading.
        grid: its pixels where control points place it; its own transform where absent.
    """
    a, b, _, d, e = tuple(dataset.transform)[:5]
    own = grid if grid is not None else _grid(dataset)
    block = tuple(int(length) for length in dataset.block_shapes[0])
    compression = dataset.compression
    interleave = dataset.interleaving
    return Anatomy(
        driver=str(dataset.driver),
        height=int(dataset.height),
        width=int(dataset.width),
        bands=int(dataset.count),
        dtypes=tuple(sorted(set(dataset.dtypes))),
        crs=_title(own),
        pixel=(sqrt(a * a + d * d), sqrt(b * b + e * e)),
        gsd=None if own is None else ground_size(own),
        rotated=abs(b) > 1e-9 * abs(a) or abs(d) > 1e-9 * abs(e),
        south_up=bool(e > 0 and not dataset.transform.is_identity and not dataset.gcps[0]),
        block=(block[0], block[1]),
        layout=_layout(block, dataset.shape),
        compression=None if compression is None else str(compression.value).lower(),
        interleave=None if interleave is None else str(interleave.value).lower(),
        overviews=tuple(int(factor) for factor in dataset.overviews(1)),
        nodata=_alike(dataset.nodatavals),
        mask=_mask(dataset),
        alpha=next((k for k, c in enumerate(dataset.colorinterp, 1) if c == ColorInterp.alpha), None),
        scales=_scales(dataset),
        palette=ColorInterp.palette in dataset.colorinterp,
        gcps=len(dataset.gcps[0]),
        rpcs=dataset.rpcs is not None,
        complex=any(dtype.startswith("complex") for dtype in dataset.dtypes),
    )


def ground_size(grid: GeoBox) -> float | None:
    """Returns the side of a grid's pixels on the ground, metres, in its middle; None without a CRS.

    Example:
        >>> from affine import Affine
        >>> round(ground_size(GeoBox((2, 2), Affine(1e-4, 0, 10, 0, -1e-4, 60), "EPSG:4326")), 1)
        7.9
    """
    if grid.crs is None:
        return None
    size = sqrt(abs(grid.affine.determinant))
    if not grid.crs.geographic:
        return size * float(grid.crs.proj.axis_info[0].unit_conversion_factor)
    box = grid.boundingbox
    latitude = min(max((box.bottom + box.top) / 2, -89.9), 89.9)
    return size * _DEGREE * sqrt(cos(radians(latitude)))


def _grid(dataset: Any) -> GeoBox | None:
    if not dataset.crs or dataset.transform.is_identity or dataset.transform.is_degenerate:
        return None
    return GeoBox(dataset.shape, dataset.transform, dataset.crs.to_wkt())


def _title(grid: GeoBox | None) -> str | None:
    if grid is None or grid.crs is None:
        return None
    return f"EPSG:{grid.crs.epsg}" if grid.crs.epsg else str(grid.crs.proj.name)


def _layout(block: tuple[int, ...], shape: tuple[int, int]) -> str:
    if block[0] >= shape[0] and block[1] >= shape[1]:
        return "whole"
    return "striped" if block[1] >= shape[1] else "tiled"


def _alike(values: tuple[float | None, ...]) -> tuple[float | None, ...]:
    first = values[0]
    same = all(value == first or (value != value and first != first) for value in values)
    return (first,) if same else values


def _mask(dataset: Any) -> str | None:
    stored = [
        set(flags)
        for flags in dataset.mask_flag_enums
        if not set(flags) & {MaskFlags.all_valid, MaskFlags.alpha, MaskFlags.nodata}
    ]
    if not stored:
        return None
    return "dataset" if all(MaskFlags.per_dataset in flags for flags in stored) else "bands"


def _scales(dataset: Any) -> tuple[tuple[float, float], ...]:
    pairs = tuple(zip(map(float, dataset.scales), map(float, dataset.offsets), strict=True))
    return () if np.allclose(pairs, [(1.0, 0.0)], rtol=0, atol=0) else pairs
