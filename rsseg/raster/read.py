"""Files + a scene's grid + an integer window → pixels and which of them are valid.

    plan(files, grid) ──► Reader ──► read(window) ──► pixels (C, H, W), valid (H, W)

A plan looks at the files once and settles what each needs: a plain windowed read where its grid agrees with
the scene's, interpolation where it does not.  The law of this module: reading a window gives the same as
cutting it out of a read of the whole grid.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from math import ceil, floor
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from affine import Affine
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox

from rsseg.errors import GridError, RasterError
from rsseg.geo import Window
from rsseg.raster import handles, warp
from rsseg.raster.handles import Raster
from rsseg.raster.validity import Bools, Pixels

_MOST = 1 << 22
"""Pixels of a file that are read at once to interpolate; larger windows are read in parts."""

_WIDEST, _NORTHERNMOST = 30.0, 84.0

_MOST_PIXELS = 10**11
"""Of a grid at a GSD that is asked for: ten times the largest scenes."""
"""Degrees of longitude around a UTM zone that its projection can still show, and of latitude."""

Resampling = Literal["bilinear", "nearest"]


class _Layer(Protocol):
    """Files that share a grid, and the way their pixels reach the scene's."""

    def read(self, window: Window) -> tuple[Pixels, Bools]: ...


@dataclass(frozen=True, slots=True)
class Reader:
    """An immutable plan of how a modality's files are read; holds no open file, so it can be pickled."""

    bands: int
    """Bands of all files together."""
    dtype: str
    """Type of the pixels."""
    layers: tuple[_Layer, ...]
    """Bands in their order, by the grids they lie in."""

    def read(self, window: Window) -> tuple[Pixels, Bools]:
        """Returns the pixels of a window and which of them are usable.

        Args:
            window: in the scene's grid; may lie partly or wholly outside the grid and the files.

        Returns:
            (C, H, W), 0 where invalid; and (H, W), True where all bands are valid.

        Raises:
            RasterError: the files are damaged or gone.
        """
        parts = [layer.read(window) for layer in self.layers]
        valid = np.logical_and.reduce([part[1] for part in parts])
        result = np.empty((self.bands, *window.shape), self.dtype)
        band = 0
        with np.errstate(over="ignore", invalid="ignore"):  # of invalid pixels, which become 0 below
            for pixels, _ in parts:
                result[band : band + len(pixels)] = _converted(pixels, result.dtype)
                band += len(pixels)
        if not valid.all():
            np.copyto(result, 0, where=~valid)
        return result, valid


def plan(
    files: Sequence[Path],
    grid: GeoBox,
    *,
    indexes: Sequence[int] | None = None,
    nodata: float | None = None,
    resampling: Resampling = "bilinear",
    dtype: str = "float32",
    alpha: bool = True,
) -> Reader:
    """Returns how files are read into a scene's grid.

    Args:
        files: their bands are stacked in this order; each may have a grid of its own.
        grid: the scene's.
        indexes: bands taken from each file, from 1; None takes all but alpha.
        nodata: sentinel value in addition to the files' own.
        resampling: "nearest" never mixes pixels, as labels need it.
        dtype: of the pixels that are read.
        alpha: whether a band tagged as alpha marks invalid pixels; False where it holds data.

    Raises:
        RasterError: a file cannot be read, lacks a band, or has no place in the grid.
        GridError: no transformation is known between the CRSs of a file and the grid.
    """
    if not files:
        raise RasterError("no files to read; expected at least one: check the scene's files")
    if resampling not in ("bilinear", "nearest"):
        raise RasterError(f"resampling {resampling!r} is unknown; use 'bilinear' or 'nearest'")
    rasters = [handles.describe(Path(path), indexes, nodata, alpha=alpha) for path in files]
    groups = (tuple(group) for _, group in groupby(rasters, key=lambda raster: raster.grid))
    layers = tuple(_layer(group, grid, resampling == "bilinear") for group in groups)
    return Reader(sum(len(raster.indexes) for raster in rasters), dtype, layers)


def reference_grid(files: Sequence[Path], gsd: float | None = None) -> GeoBox:
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
    grids = [handles.describe(Path(path)).grid for path in files]
    alike = [grid for grid in grids if warp.same_crs(grid.crs, grids[0].crs)]
    grid = min(alike, key=lambda grid: abs(grid.affine.determinant))
    return grid if gsd is None else _resized(grid, gsd, files[0])


@dataclass(frozen=True, slots=True)
class _Aligned:
    """Files whose pixels are the scene's, shifted by whole rows and columns."""

    rasters: tuple[Raster, ...]
    shift: tuple[int, int]

    def read(self, window: Window) -> tuple[Pixels, Bools]:
        there = window.shifted(*self.shift)
        within = there.intersection(Window(0, 0, *self.rasters[0].grid.shape))
        if within is None:
            return _nothing(self.rasters, window)
        pixels, valid = _stacked(self.rasters, within)
        if within == there:
            return pixels, valid
        rows, cols = within.shifted(-there.row, -there.col).slices
        all_pixels, all_valid = _nothing(self.rasters, window)
        all_pixels[:, rows, cols], all_valid[rows, cols] = pixels, valid
        return all_pixels, all_valid


@dataclass(frozen=True, slots=True)
class _Warped:
    """Files whose pixels must be interpolated; much finer ones are averaged over whole blocks before."""

    rasters: tuple[Raster, ...]
    mapping: warp.Mapping
    factors: tuple[int, int]
    smooth: bool

    def read(self, window: Window) -> tuple[Pixels, Bools]:
        if window.height * window.width > _MOST:
            return self._halved(window)
        taps = self._taps(window)
        if not (taps[0].inside & taps[1].inside).any():
            return _nothing(self.rasters, window)
        (row, height), (col, width) = (axis.span for axis in taps)
        blocks = Window(row, col, height, width)
        if self._files(blocks) > _MOST and window.shape != (1, 1):
            return self._halved(window)
        pixels, valid = self._averaged(blocks)
        rows, cols = (
            axis._replace(first=axis.first - start, second=axis.second - start)
            for axis, start in zip(taps, (row, col), strict=True)
        )
        return warp.sample(pixels, valid, rows, cols)

    def _taps(self, window: Window) -> tuple[warp.Taps, warp.Taps]:
        x, y = self.mapping.centres(window)
        shape = self.rasters[0].grid.shape
        rows, cols = (
            warp.taps(place, length, factor, self.smooth)
            for place, length, factor in zip((y, x), shape, self.factors, strict=True)
        )
        if rows.inside.shape == cols.inside.shape:
            inside = rows.inside & cols.inside
            rows, cols = rows._replace(inside=inside), cols._replace(inside=inside)
        return rows, cols

    def _files(self, blocks: Window) -> int:
        return blocks.height * self.factors[0] * blocks.width * self.factors[1]

    def _averaged(self, blocks: Window) -> tuple[Pixels, Bools]:
        down, across = self.factors
        part = Window(blocks.row * down, blocks.col * across, blocks.height * down, blocks.width * across)
        within = part.intersection(Window(0, 0, *self.rasters[0].grid.shape)) or part
        pixels, valid = _stacked(self.rasters, within)
        if not self.smooth:
            return pixels, valid
        pixels = pixels.astype(np.result_type(pixels.dtype, np.float32), copy=False)
        np.copyto(pixels, 0, where=~valid)
        return (pixels, valid) if self.factors == (1, 1) else warp.averaged(pixels, valid, self.factors)

    def _halved(self, window: Window) -> tuple[Pixels, Bools]:
        axis = int(window.width > window.height)
        half = window.shape[axis] // 2
        if axis:
            parts = [
                Window(window.row, window.col, window.height, half),
                Window(window.row, window.col + half, window.height, window.width - half),
            ]
        else:
            parts = [
                Window(window.row, window.col, half, window.width),
                Window(window.row + half, window.col, window.height - half, window.width),
            ]
        pixels, valid = zip(*(self.read(part) for part in parts), strict=True)
        return np.concatenate(pixels, axis=1 + axis), np.concatenate(valid, axis=axis)


def _layer(rasters: tuple[Raster, ...], grid: GeoBox, smooth: bool) -> _Layer:
    own, path = rasters[0].grid, rasters[0].path
    if not _share_coordinates(own, grid):
        if own.shape != grid.shape:
            raise RasterError(
                f"{path}: has {_words(own)} and the scene's grid {_words(grid)}; "
                "expected equal sizes where georeferencing is missing: georeference the file"
            )
        return _Aligned(rasters, (0, 0))
    fit = warp.fit(grid, own)
    if fit.shift is not None:
        return _Aligned(rasters, fit.shift)
    return _Warped(rasters, fit.mapping, fit.factors if smooth else (1, 1), smooth)


def _share_coordinates(one: GeoBox, other: GeoBox) -> bool:
    """Returns whether two grids both have a CRS, or both a transform in the same unnamed plane."""
    if one.crs is None and other.crs is None:
        return Affine.identity() not in (one.affine, other.affine)
    return one.crs is not None and other.crs is not None


def _words(grid: GeoBox) -> str:
    size = f"{grid.shape[0]} × {grid.shape[1]} pixels"
    return f"{size} in {grid.crs.proj.name}" if grid.crs is not None else f"{size} without a CRS"


def _stacked(rasters: Sequence[Raster], window: Window) -> tuple[Pixels, Bools]:
    parts = [raster.read(window) for raster in rasters]
    if len(parts) == 1:
        return parts[0]
    valid = np.logical_and.reduce([part[1] for part in parts])
    return np.concatenate([part[0] for part in parts]), valid


def _nothing(rasters: Sequence[Raster], window: Window) -> tuple[Pixels, Bools]:
    bands = sum(len(raster.indexes) for raster in rasters)
    dtype = np.result_type(*(raster.dtype for raster in rasters))
    return np.zeros((bands, *window.shape), dtype), np.zeros(window.shape, bool)


def _converted(pixels: Pixels, dtype: np.dtype[np.generic]) -> Pixels:
    return np.rint(pixels) if pixels.dtype.kind == "f" and dtype.kind in "iu" else pixels


def _resized(grid: GeoBox, gsd: float, path: Path) -> GeoBox:
    if not gsd > 0:
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


def _require_sane(height: int, width: int, gsd: float, path: Path) -> None:
    if not 0 < height * width <= _MOST_PIXELS:
        raise GridError(
            f"gsd {gsd} m: {path} becomes {height} × {width} pixels; expected 1 to {_MOST_PIXELS:.0e} in all"
        )


def _utm(grid: GeoBox, gsd: float, path: Path) -> GeoBox:
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
