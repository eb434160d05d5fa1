"""Rasters that appear under their final name only when they are complete."""

import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import rasterio
from rasterio.errors import NotGeoreferencedWarning

from rsseg.datasets.simulated.place import Grid
from rsseg.datasets.simulated.render import Pixels

_BLOCK = 256


def write_geotiff(
    path: Path, pixels: Pixels, grid: Grid | None, bands: Sequence[str], *, nodata: float | None, tag: str
) -> Path:
    """Write a tiled, compressed GeoTIFF.

    Args:
        path: final name; its folder is made.
        pixels: (bands, H, W).
        grid: where it lies; None writes no georeferencing.
        bands: a description per band.
        nodata: value of pixels without data.
        tag: what to note as ``simulated``.
    """
    profile: dict[str, object] = {"driver": "GTiff", "compress": "deflate", "nodata": nodata}
    profile["predictor"] = 3 if pixels.dtype == np.float32 else 2
    profile["photometric"] = "rgb" if tuple(bands[:3]) == ("red", "green", "blue") else "minisblack"
    if min(pixels.shape[1:]) >= _BLOCK:
        profile |= {"tiled": True, "blockxsize": _BLOCK, "blockysize": _BLOCK}
    if grid is not None:
        profile |= {"transform": grid.transform, "crs": grid.crs}
    return _write(path, pixels, profile, {"simulated": tag}, bands)


def write_jpeg(path: Path, pixels: Pixels) -> Path:
    """Write a JPEG without georeferencing from (bands, H, W) bytes."""
    return _write(path, pixels, {"driver": "JPEG", "quality": 95}, {}, ())


def _write(
    path: Path, pixels: Pixels, profile: dict[str, object], tags: dict[str, str], bands: Sequence[str]
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    count, height, width = pixels.shape
    shape = {"count": count, "height": height, "width": width, "dtype": pixels.dtype.name}
    try:
        with warnings.catch_warnings():
            # Files without georeferencing are meant where the official layout has them so.
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(part, "w", **shape, **profile) as raster:
                raster.write(pixels)
                raster.update_tags(**tags)
                for number, band in enumerate(bands, 1):
                    raster.set_band_description(number, band)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path
