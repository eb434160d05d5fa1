"""Part of a scene → a picture of bounded size, read window by window.

A cell of the picture stands for `cell` × `cell` pixels of the scene: pictures of modalities show means over
the valid ones, those of classes the pixel in the middle.  Very large files are read through their overviews.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
import rasterio.shutil
from affine import Affine
from odc.geo.geobox import GeoBox

from rsseg.classmap import ClassMap
from rsseg.data.check.scan import chunks
from rsseg.data.check.tally import Sketch, Tally
from rsseg.data.scenes import Source
from rsseg.data.tiles import OpenScene
from rsseg.errors import GridError
from rsseg.geo import Window
from rsseg.modality import Bools, Floats, Modality
from rsseg.predict.memory import small_cache
from rsseg.raster import warp
from rsseg.raster.handles import describe, opened, quiet
from rsseg.raster.location import Files
from rsseg.raster.read import plan

Ids = npt.NDArray[np.int64]

_HUGE = 1 << 26
"""Pixels of a scene from which on overviews are read: everything would take longer than some seconds."""
_CACHE = 256 << 20
"""Bytes of GDAL's cache while a picture is made: rows of blocks of very wide files."""
_OTHER_BLOCK = (256, 256)
"""Rows and columns that are read together where a file's own pixels are not the scene's."""


@dataclass(frozen=True, slots=True)
class Picture:
    """Means over cells."""

    pixels: Floats
    """(C, h, w); 0 where invalid."""
    valid: Bools
    """Cells of which at least half is valid, (h, w)."""
    share: float
    """Of the pixels that are valid, 0–1."""
    grid: GeoBox
    """Of the cells; the last ones may reach beyond the scene."""


@dataclass(frozen=True)
class Frame:
    """Part of a scene, and the size of the cells in which it is shown."""

    scene: OpenScene
    window: Window
    cell: int
    """Height and width, pixels of the scene."""

    @classmethod
    def of(cls, scene: OpenScene, window: Window | None, max_size: int) -> Frame:
        """Returns the frame of a scene, or of a window of it.

        Args:
            scene: opened.
            window: of its grid; None takes all of it.
            max_size: longest side of the picture, cells.

        Raises:
            GridError: the window lies outside, or the size is not positive.
        """
        if max_size < 1:
            raise GridError(f"max_size {max_size}; expected a number of pixels, e.g. 600")
        whole = Window(0, 0, *scene.shape)
        part = whole if window is None else window.intersection(whole)
        if part is None:
            height, width = scene.shape
            raise GridError(
                f"{window} lies outside scene {scene.scene.id}, which has {height} × {width} pixels; "
                "give rows and columns of its grid"
            )
        return cls(scene, part, max(1, -(-max(part.shape) // max_size)))

    @cached_property
    def grid(self) -> GeoBox:
        """Of the scene's pixels in the window."""
        return self.scene.grid[self.window.slices]

    @cached_property
    def cells(self) -> GeoBox:
        """Of the cells."""
        return _coarser(self.grid, self.cell)

    @cached_property
    def middles(self) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
        """Rows and columns of the pixels in the middle of cells, from the window's corner."""
        rows, cols = (
            np.minimum(np.arange(0, length, self.cell) + self.cell // 2, length - 1)
            for length in self.window.shape
        )
        return rows, cols

    def picture(self, modality: Modality, shown: tuple[int, ...]) -> Picture:
        """Returns a modality that the scene has, in raw values.

        Args:
            modality: which.
            shown: its bands, from 0.

        Raises:
            RasterError: a file cannot be read.
        """
        with small_cache(_CACHE), self._reader(modality) as (read, factor, block):
            grid = _coarser(self.grid, factor)
            shape = int(grid.shape[0]), int(grid.shape[1])
            cell = -(-self.cell // factor)
            tally = Tally(shape, modality.channels, Sketch(cell, shown))
            for window in chunks(shape, block, 8 * modality.channels):
                tally.add(tally.sketch.part(window, *read(window)))
        valid = (tally.valid > 0) & (2 * tally.valid >= tally.seen)
        means = np.where(valid, tally.shown / np.maximum(tally.valid, 1), 0)
        return Picture(means.astype(np.float32), valid, tally.share or 0.0, _coarser(grid, cell))

    @contextmanager
    def _reader(self, modality: Modality) -> Iterator[tuple[Any, int, tuple[int, int]]]:
        """Gives what reads windows of the frame, pixels of the scene per pixel that is read, and a block."""
        source, large = self.scene.scene.files[modality.name], self.window.height * self.window.width > _HUGE
        factor = self._factor(source) if large else 1
        if factor == 1:
            yield self._plainly(modality.name), 1, self._block(source)
            return
        with tempfile.TemporaryDirectory(prefix="rsseg-") as folder:
            paths = tuple(_reduced(item, factor, Path(folder), k) for k, item in enumerate(source.paths))
            reader = plan(
                paths,
                _coarser(self.grid, factor),
                indexes=source.indexes,
                nodata=modality.nodata,
                resampling=modality.resampling,
                alpha=source.alpha,
            )
            yield reader.read, factor, _OTHER_BLOCK

    def _plainly(self, name: str) -> Callable[[Window], tuple[Floats, Bools]]:
        return lambda window: self.scene.raw(name, window.shifted(self.window.row, self.window.col))

    def _block(self, source: Source) -> tuple[int, int]:
        raster = describe(source.files[0], source.indexes, alpha=source.alpha)
        if raster.shape != self.scene.shape:
            return _OTHER_BLOCK
        rows, cols = opened(raster.path, raster.stamp).block_shapes[0]
        return int(rows), int(cols)

    def _factor(self, source: Source) -> int:
        """Returns the largest factor of the cell by which every file has an overview, or 1.

        Only files whose pixels are about the scene's are looked at: others have few pixels, or are warped.
        """
        found: set[int] | None = None
        for path in source.files:
            raster = describe(path, source.indexes, alpha=source.alpha)
            if raster.control is not None or not _alike(raster.grid, self.scene.grid):
                return 1
            there = set(opened(raster.path, raster.stamp).overviews(raster.indexes[0]))
            found = there if found is None else found & there
        return max((factor for factor in found or () if factor <= self.cell), default=1)

    def target(self, class_map: ClassMap) -> Ids:
        """Returns the class ids in the middle of cells, (h, w); 255 where there is no label.

        Raises:
            SceneError: the labels hold a value that the class map does not know.
            RasterError: the file broke.
        """
        return self.sampled(lambda window: self.scene.target(window, class_map))

    def sampled(self, read: Callable[[Window], Ids]) -> Ids:
        """Returns the pixels in the middle of cells, (h, w).

        Args:
            read: gives the pixels (H, W) of a window of the scene.
        """
        rows, cols = self.middles
        top, left, width = self.window.row, self.window.col, self.window.width
        if self.cell == 1:
            return read(self.window)
        with small_cache(_CACHE):
            return np.stack([read(Window(top + row, left, 1, width))[0, cols] for row in rows.tolist()])

    def looked_up(self, values: npt.NDArray[Any], grid: GeoBox) -> tuple[npt.NDArray[Any], Bools]:
        """Returns the pixels of another grid that lie in the middle of cells, and which cells have one.

        Args:
            values: (height, width) of that grid.
            grid: in the scene's CRS.
        """
        rows, cols = self.middles
        x, y = np.meshgrid(cols + 0.5, rows + 0.5)
        a, b, c, d, e, f = tuple(warp.composed(~grid.affine, self.grid.affine))[:6]
        col, row = np.floor(a * x + b * y + c).astype(np.int64), np.floor(d * x + e * y + f).astype(np.int64)
        inside = (row >= 0) & (row < values.shape[0]) & (col >= 0) & (col < values.shape[1])
        row, col = np.where(inside, row, 0), np.where(inside, col, 0)
        return values[row, col], inside


def _coarser(grid: GeoBox, factor: int) -> GeoBox:
    """Returns a grid from the same corner on, of pixels that are larger."""
    shape = -(-int(grid.shape[0]) // factor), -(-int(grid.shape[1]) // factor)
    return GeoBox(shape, warp.composed(grid.affine, Affine.scale(factor)), grid.crs)


def _alike(file: GeoBox, scene: GeoBox) -> bool:
    ratio = abs(file.affine.determinant / scene.affine.determinant)
    return warp.same_crs(file.crs, scene.crs) and 0.9 < ratio < 1.1


def _reduced(item: Files, factor: int, folder: Path, number: int) -> Files:
    """Returns files that show an overview of files as their own pixels."""
    tiles = item if isinstance(item, tuple) else (item,)
    found: list[Path] = []
    with quiet():
        for path in tiles:
            with rasterio.open(path) as file:
                level = file.overviews(1).index(factor)
            found.append(folder / f"{number}_{len(found)}.vrt")
            with rasterio.open(path, OVERVIEW_LEVEL=level) as file:
                rasterio.shutil.copy(file, found[-1], driver="VRT")
    return tuple(found) if isinstance(item, tuple) else found[0]
