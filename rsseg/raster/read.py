"""Files + a scene's grid + an integer window → pixels and which of them are valid.

    plan(files, grid) ──► Reader ──► read(window) ──► pixels (C, H, W), valid (H, W)

A plan looks at the files once and settles what each needs: a plain windowed read where its grid agrees with
the scene's, interpolation where it does not.  The law of this module: reading a window gives the same as
cutting it out of a read of the whole grid.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any, Literal, Protocol

import numpy as np
from odc.geo.geobox import GeoBox

from rsseg.errors import RasterError
from rsseg.geo import Window
from rsseg.raster import handles, sampling, warp
from rsseg.raster.control import Control
from rsseg.raster.grids import named, share_coordinates
from rsseg.raster.location import Files
from rsseg.raster.mosaic import Sheet, sheets_of
from rsseg.raster.validity import Bools, Pixels

_MOST = 1 << 22
"""Pixels of a file that are read at once to interpolate; larger windows are read in parts."""

Resampling = Literal["bilinear", "nearest"]


class _Layer(Protocol):
    """Files that share a grid, and the way their pixels reach the scene's."""

    @property
    def stored(self) -> int: ...

    def read(self, window: Window, dtype: str | None) -> tuple[Pixels, Bools]: ...


@dataclass(frozen=True, slots=True)
class Reader:
    """An immutable plan of how a modality's files are read; holds no open file, so it can be pickled."""

    bands: int
    """Bands of all files together."""
    dtype: str
    """Type of the pixels."""
    layers: tuple[_Layer, ...]
    """Bands in their order, by the grids they lie in."""

    @property
    def stored(self) -> int:
        """Bytes in the files, decoded, for one pixel of the scene's grid, about."""
        return sum(layer.stored for layer in self.layers)

    def read(self, window: Window) -> tuple[Pixels, Bools]:
        """Returns the pixels of a window and which of them are usable.

        Args:
            window: in the scene's grid; may lie partly or wholly outside the grid and the files.

        Returns:
            (C, H, W), 0 where invalid; and (H, W), True where all bands are valid.

        Raises:
            RasterError: the files are damaged or gone.
        """
        dtype = np.dtype(self.dtype)
        wanted = self.dtype if dtype.kind == "f" else None
        parts = [layer.read(window, wanted) for layer in self.layers]
        valid = parts[0][1] if len(parts) == 1 else np.logical_and.reduce([part[1] for part in parts])
        with np.errstate(over="ignore", invalid="ignore"):  # of invalid pixels, which become 0 below
            bands = [_converted(pixels, dtype) for pixels, _ in parts]
        result = bands[0] if len(bands) == 1 else np.concatenate(bands)
        if not valid.all():
            np.copyto(result, 0, where=~valid)
        return result, valid


def plan(
    files: Sequence[Files],
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
        files: their bands are stacked in this order; each may have a grid of its own.  Several in place of
            one are tiles of a mosaic.
        grid: the scene's.
        indexes: bands taken from each file, from 1; None takes all but alpha.
        nodata: sentinel value in addition to the files' own.
        resampling: "nearest" never mixes pixels, as labels need it; palettes are read so anyway.
        dtype: of the pixels that are read; floats are scaled by the files' own scale and offset.
        alpha: whether a band tagged as alpha marks invalid pixels; False where it holds data.

    Raises:
        RasterError: a file cannot be read, lacks a band, or has no place in the grid.
        GridError: no transformation is known between the CRSs of a file and the grid.
    """
    if not files:
        raise RasterError("no files to read; expected at least one: check the scene's files")
    if resampling not in ("bilinear", "nearest"):
        raise RasterError(f"resampling {resampling!r} is unknown; use 'bilinear' or 'nearest'")
    described = partial(handles.describe, indexes=indexes, nodata=nodata, alpha=alpha)
    items = [sheets_of(item, described) for item in files]
    smooth = resampling == "bilinear" and not any(sheet.codes for sheets in items for sheet in sheets)
    layers: list[_Layer] = []
    for overlaid, group in groupby(items, key=lambda sheets: len(sheets) > 1 or _place(sheets[0])):
        if overlaid is True:
            layers += [
                _Overlay(tuple(_layer((sheet,), grid, smooth) for sheet in sheets)) for sheets in group
            ]
        else:
            layers.append(_layer(tuple(sheet for (sheet,) in group), grid, smooth))
    return Reader(sum(len(sheets[0].indexes) for sheets in items), dtype, tuple(layers))


@dataclass(frozen=True, slots=True)
class _Aligned:
    """Files whose pixels are the scene's, shifted by whole rows and columns."""

    rasters: tuple[Sheet, ...]
    shift: tuple[int, int]

    @property
    def stored(self) -> int:
        return _bytes(self.rasters)

    def read(self, window: Window, dtype: str | None) -> tuple[Pixels, Bools]:
        there = window.shifted(*self.shift)
        within = there.intersection(Window(0, 0, *self.rasters[0].shape))
        if within is None:
            return _nothing(self.rasters, window, dtype)
        pixels, valid = _stacked(self.rasters, within, dtype)
        if within == there:
            return pixels, valid
        rows, cols = within.shifted(-there.row, -there.col).slices
        all_pixels, all_valid = _nothing(self.rasters, window, str(pixels.dtype))
        all_pixels[:, rows, cols], all_valid[rows, cols] = pixels, valid
        return all_pixels, all_valid


@dataclass(frozen=True, slots=True)
class _Warped:
    """Files whose pixels must be interpolated; much finer ones are averaged over whole blocks before."""

    rasters: tuple[Sheet, ...]
    mapping: warp.Mapping
    factors: tuple[int, int]
    smooth: bool

    @property
    def stored(self) -> int:
        return _bytes(self.rasters) * self.factors[0] * self.factors[1]

    def read(self, window: Window, dtype: str | None) -> tuple[Pixels, Bools]:
        if window.height * window.width > _MOST:
            return self._halved(window, dtype)
        field = self.mapping.field(window)
        shape = self.rasters[0].shape
        if isinstance(field, warp.Field):
            found = self._inner(window, field, dtype) if self.smooth else None
            if found is not None:
                return found
            field = field.all()
        at = sampling.places(*field, shape, self.factors, smooth=self.smooth)
        if not at.inside.any():
            return _nothing(self.rasters, window, dtype)
        blocks = at.needed
        if self._files(blocks) > _MOST and window.shape != (1, 1):
            return self._halved(window, dtype)
        return sampling.sample(*self._averaged(blocks, dtype), at, (blocks.row, blocks.col))

    def _inner(self, window: Window, field: warp.Field, dtype: str | None) -> tuple[Pixels, Bools] | None:
        """Returns a window that lies wholly inside the file: most do, and a shorter way leads there."""
        border = sampling.between(field, self.rasters[0].shape, self.factors)
        if border is None or self._files(border.needed) > _MOST:
            return None
        blocks = border.needed
        start = blocks.row, blocks.col
        pixels, valid = self._averaged(blocks, dtype)
        found = sampling.bilinear(pixels, field, self.factors, start)
        if valid.all():
            return found, np.ones(window.shape, np.bool_)
        at = sampling.places(*field.all(), self.rasters[0].shape, self.factors, smooth=True)
        return found, sampling.all_valid(valid, at, start)

    def _files(self, blocks: Window) -> int:
        return blocks.height * self.factors[0] * blocks.width * self.factors[1]

    def _averaged(self, blocks: Window, dtype: str | None) -> tuple[Pixels, Bools]:
        down, across = self.factors
        part = Window(blocks.row * down, blocks.col * across, blocks.height * down, blocks.width * across)
        within = part.intersection(Window(0, 0, *self.rasters[0].shape)) or part
        pixels, valid = _stacked(self.rasters, within, dtype)
        if not self.smooth:
            return pixels, valid
        pixels = pixels.astype(np.result_type(pixels.dtype, np.float32), copy=False)
        if not valid.all():
            np.copyto(pixels, 0, where=~valid)
        return (pixels, valid) if self.factors == (1, 1) else sampling.averaged(pixels, valid, self.factors)

    def _halved(self, window: Window, dtype: str | None) -> tuple[Pixels, Bools]:
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
        pixels, valid = zip(*(self.read(part, dtype) for part in parts), strict=True)
        return np.concatenate(pixels, axis=1 + axis), np.concatenate(valid, axis=axis)


@dataclass(frozen=True, slots=True)
class _Overlay:
    """Tiles in grids of their own, e.g. in neighbouring UTM zones: the first valid one counts."""

    tiles: tuple[_Layer, ...]

    @property
    def stored(self) -> int:
        return max(tile.stored for tile in self.tiles)

    def read(self, window: Window, dtype: str | None) -> tuple[Pixels, Bools]:
        pixels, valid = self.tiles[0].read(window, dtype)
        for tile in self.tiles[1:]:
            if valid.all():
                break
            more, good = tile.read(window, dtype)
            pixels = np.where(valid, pixels, more)
            valid = valid | good
        return pixels, valid


def _place(sheet: Sheet) -> tuple[GeoBox, Control | None, tuple[int, int]]:
    return sheet.grid, sheet.control, sheet.shape


def _layer(rasters: tuple[Sheet, ...], grid: GeoBox, smooth: bool) -> _Layer:
    own, path = rasters[0].grid, rasters[0].path
    if not share_coordinates(own, grid):
        if own.shape != grid.shape:
            raise RasterError(
                f"{path}: has {_words(own)} and the scene's grid {_words(grid)}; "
                "expected equal sizes where georeferencing is missing: georeference the file"
            )
        return _Aligned(rasters, (0, 0))
    with named(path):
        fit = warp.fit(grid, own, rasters[0].control)
    if fit.shift is not None:
        return _Aligned(rasters, fit.shift)
    return _Warped(rasters, fit.mapping, fit.factors if smooth else (1, 1), smooth)


def _words(grid: GeoBox) -> str:
    size = f"{grid.shape[0]} × {grid.shape[1]} pixels"
    return f"{size} in {grid.crs.proj.name}" if grid.crs is not None else f"{size} without a CRS"


def _bytes(rasters: Sequence[Sheet]) -> int:
    return sum(len(raster.indexes) * np.dtype(raster.dtype).itemsize for raster in rasters)


def _stacked(rasters: Sequence[Sheet], window: Window, dtype: str | None) -> tuple[Pixels, Bools]:
    parts = [raster.read(window, dtype) for raster in rasters]
    if len(parts) == 1:
        return parts[0]
    valid = np.logical_and.reduce([part[1] for part in parts])
    return np.concatenate([part[0] for part in parts]), valid


def _nothing(rasters: Sequence[Sheet], window: Window, dtype: str | None) -> tuple[Pixels, Bools]:
    bands = sum(len(raster.indexes) for raster in rasters)
    found = dtype or np.result_type(*(raster.dtype for raster in rasters))
    return np.zeros((bands, *window.shape), found), np.zeros(window.shape, bool)


def _converted(pixels: Pixels, dtype: np.dtype[Any]) -> Pixels:
    whole = np.rint(pixels) if pixels.dtype.kind == "f" and dtype.kind in "iu" else pixels
    return whole.astype(dtype, copy=False)
