"""Several files that are tiles of one raster."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from affine import Affine
from odc.geo.geobox import GeoBox

from rsseg.errors import RasterError
from rsseg.geo import Window
from rsseg.raster import warp
from rsseg.raster.control import Control
from rsseg.raster.handles import Raster
from rsseg.raster.location import Files, Location, locate
from rsseg.raster.validity import Bools, Pixels

_OFF = 1e-3
"""Largest deviation of a tile from the pixels of the first, pixels."""


@dataclass(frozen=True, slots=True)
class Mosaic:
    """Tiles whose pixels lie in one grid, read as one; where they overlap the first valid one counts."""

    tiles: tuple[tuple[Raster, Window], ...]
    """Each tile, and the pixels that it covers."""
    grid: GeoBox
    """The smallest grid that holds all tiles."""
    control: Control | None = None
    """None: tiles have transforms."""

    @property
    def path(self) -> Location:
        """The first file."""
        return self.tiles[0][0].path

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return int(self.grid.shape[0]), int(self.grid.shape[1])

    @property
    def indexes(self) -> tuple[int, ...]:
        """Bands that are taken of each tile, from 1."""
        return self.tiles[0][0].indexes

    @property
    def dtype(self) -> str:
        """Type that holds the pixels of all tiles."""
        return str(np.result_type(*(raster.dtype for raster, _ in self.tiles)))

    @property
    def codes(self) -> bool:
        """Whether a tile is a palette, whose pixels are no quantities."""
        return any(raster.codes for raster, _ in self.tiles)

    def read(self, window: Window, dtype: str | None = None) -> tuple[Pixels, Bools]:
        """Returns pixels (C, H, W), 0 where no tile is valid, and valid (H, W) of a window.

        Args:
            window: in the mosaic's rows and columns.
            dtype: of the pixels; None takes that of all tiles.

        Raises:
            RasterError: a file cannot be opened any more, or its blocks are damaged.
        """
        pixels = np.zeros((len(self.indexes), *window.shape), dtype or self.dtype)
        valid = np.zeros(window.shape, np.bool_)
        for raster, place in self.tiles:
            part = window.intersection(place)
            if part is None:
                continue
            rows, cols = part.shifted(-window.row, -window.col).slices
            if valid[rows, cols].all():
                continue
            found, good = raster.read(part.shifted(-place.row, -place.col), dtype)
            good &= ~valid[rows, cols]
            np.copyto(pixels[:, rows, cols], found, where=good, casting="same_kind")
            valid[rows, cols] |= good
        return pixels, valid


Sheet = Raster | Mosaic
"""What has one grid: a file, or tiles that make one raster."""


def sheets_of(item: Files, described: Callable[[Location], Raster]) -> tuple[Sheet, ...]:
    """Returns a file, tiles as one raster, or tiles that do not lie in one grid.

    Args:
        item: a file, or tiles.
        described: says what reads must know of a file.

    Raises:
        RasterError: a file cannot be read; tiles differ in their bands, or have no georeferencing.
    """
    if not isinstance(item, tuple):
        return (described(locate(item)),)
    if not item:
        raise RasterError("a mosaic without tiles; expected at least one file: check the scene's files")
    rasters = tuple(described(locate(path)) for path in item)
    if len(rasters) == 1:
        return rasters
    joined = mosaic(rasters)
    return rasters if joined is None else (joined,)


def mosaic(rasters: Sequence[Raster]) -> Mosaic | None:
    """Returns tiles as one raster, or None where they do not lie in one grid.

    Raises:
        RasterError: tiles differ in their bands, or have no georeferencing.
    """
    first = rasters[0]
    for raster in rasters:
        _require_alike(first, raster)
    offsets = [_offset(first, raster) for raster in rasters]
    places = [place for place in offsets if place is not None]
    if len(places) < len(rasters):
        return None
    top, left = min(place.row for place in places), min(place.col for place in places)
    moved = [place.shifted(-top, -left) for place in places]
    shape = max(place.row + place.height for place in moved), max(place.col + place.width for place in moved)
    corner = warp.composed(first.grid.affine, Affine.translation(left, top))
    return Mosaic(tuple(zip(rasters, moved, strict=True)), GeoBox(shape, corner, first.grid.crs))


def _require_alike(first: Raster, other: Raster) -> None:
    if len(other.indexes) != len(first.indexes):
        raise RasterError(
            f"{other.path}: {len(other.indexes)} bands, but {first.path} has {len(first.indexes)}; tiles of "
            "a mosaic need the same bands: state `indexes`, or take the file out"
        )
    if other.grid.crs is None and other.grid.affine == Affine.identity():
        raise RasterError(f"{other.path}: has no georeferencing; tiles of a mosaic need it")


def _offset(first: Raster, other: Raster) -> Window | None:
    """Returns the pixels that a tile covers, counted from the first one's corner."""
    if first.control or other.control or not warp.same_crs(first.grid.crs, other.grid.crs):
        return None
    a, b, left, d, e, top = warp.composed(~first.grid.affine, other.grid.affine)[:6]
    col, row = round(left), round(top)
    height, width = other.shape
    drift = max(abs(a - 1) * width, abs(b) * height, abs(d) * width, abs(e - 1) * height)
    if max(drift, abs(left - col), abs(top - row)) > _OFF:
        return None
    return Window(row, col, height, width)
