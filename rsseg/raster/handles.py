"""Open files, kept per process and thread, and plain windowed reads that fail in one line."""

import os
import threading
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from odc.geo.geobox import GeoBox
from pyproj.exceptions import CRSError
from rasterio._err import CPLE_BaseError
from rasterio.errors import NotGeoreferencedWarning
from rasterio.errors import RasterioError as RasterioFailure

from rsseg.errors import RasterError
from rsseg.geo import Window
from rsseg.raster import validity
from rsseg.raster.validity import Bools, Pixels

_OPEN = 32
"""Files that a thread keeps open: more than the band files of one scene."""

_FAILURES = (RasterioFailure, CPLE_BaseError, CRSError, OSError)
"""What rasterio raises for files that it cannot read."""

Stamp = tuple[int, int]
"""Time of change and size of a file, so that a file written anew is opened anew."""


class _Pools(threading.local):
    """Open files of a thread by process: what a fork inherits stays untouched under its parent's id."""

    def __init__(self) -> None:
        self.by_process: dict[int, OrderedDict[tuple[Path, Stamp], Any]] = {}

    @property
    def mine(self) -> OrderedDict[tuple[Path, Stamp], Any]:
        return self.by_process.setdefault(os.getpid(), OrderedDict())


_pools = _Pools()
_locks: dict[int, threading.Lock] = {}


@dataclass(frozen=True, slots=True)
class Raster:
    """What reads must know of a file; holds no open file, so it can be pickled."""

    path: Path
    """The file."""
    stamp: Stamp
    """Its time of change and size when it was described."""
    grid: GeoBox
    """Its own pixels; identity transform and no CRS where it is not georeferenced."""
    indexes: tuple[int, ...]
    """Bands that are taken, from 1."""
    dtype: str
    """Type that holds all taken bands."""
    rule: validity.Rule
    """What marks its pixels as invalid."""

    def read(self, window: Window) -> tuple[Pixels, Bools]:
        """Returns pixels (C, H, W) and valid (H, W) of a window that lies inside the file.

        Raises:
            RasterError: the file cannot be opened any more, or its blocks are damaged.
        """
        part = rasterio.windows.Window(window.col, window.row, window.width, window.height)
        dataset = opened(self.path, self.stamp)
        try:
            pixels = dataset.read(self.indexes, window=part, out_dtype=self.dtype)
            return pixels, validity.read(dataset, self.rule, pixels, part)
        except _FAILURES as failure:
            _pools.mine.pop((self.path, self.stamp), None)
            rows = f"rows {window.row}-{window.row + window.height - 1}"
            cols = f"columns {window.col}-{window.col + window.width - 1}"
            raise RasterError(
                f"{self.path}: {rows}, {cols} cannot be read ({reason(failure)}); "
                "the file is damaged: copy or download it again"
            ) from failure


def describe(
    path: Path, indexes: Sequence[int] | None = None, nodata: float | None = None, *, alpha: bool = True
) -> Raster:
    """Returns what reads must know of a file.

    Args:
        path: the file.
        indexes: bands to take, from 1; None takes all but alpha.
        nodata: sentinel value in addition to the file's own.
        alpha: whether a band tagged as alpha marks invalid pixels; False where it holds data.

    Raises:
        RasterError: no raster, unknown bands, complex pixels, or georeferenced by control points only.
    """
    stamp = _stamp(path)
    dataset = opened(path, stamp)
    with rasterio.Env():
        try:
            mask = validity.alpha_band(dataset) if alpha else None
            taken = _checked(path, indexes, dataset.count, mask)
            dtype = _common_dtype(path, [dataset.dtypes[index - 1] for index in taken])
            rule = validity.rule(dataset, taken, mask, nodata)
            return Raster(path, stamp, _grid(path, dataset), taken, dtype, rule)
        except _FAILURES as failure:
            raise RasterError(f"{path}: not readable ({reason(failure)}); check the file") from failure


def opened(path: Path, stamp: Stamp) -> Any:
    """Returns the open dataset of a file from this thread's pool.

    Raises:
        RasterError: no such file, or no raster.
    """
    pool = _pools.mine
    key = path, stamp
    if key not in pool:
        pool[key] = _open(path)
        if len(pool) > _OPEN:
            pool.popitem(last=False)[1].close()
    pool.move_to_end(key)
    return pool[key]


def reason(failure: BaseException) -> str:
    """Returns the innermost message of a failure on one line."""
    while failure.__cause__ is not None:
        failure = failure.__cause__
    words = " ".join(str(failure).split())
    return words if len(words) <= 200 else words[:199] + "…"


def _open(path: Path) -> Any:
    try:
        with _quiet():
            return rasterio.open(path)
    except _FAILURES as failure:
        if not str(path).startswith("/vsi") and not path.exists():
            raise RasterError(f"{path}: no such file; expected a raster there: check the path") from failure
        raise RasterError(
            f"{path}: no raster that GDAL can open ({reason(failure)}); check the file"
        ) from failure


@contextmanager
def _quiet() -> Iterator[None]:
    # `warnings` keeps its filters per process: two threads changing them at once would leave them changed.
    # Inside an Env GDAL reports to Python's logging, not to stderr; reads are silent and faster without.
    with _locks.setdefault(os.getpid(), threading.Lock()), rasterio.Env(), warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield


def _stamp(path: Path) -> Stamp:
    try:
        facts = path.stat()
    except OSError:
        return 0, 0
    return facts.st_mtime_ns, facts.st_size


def _checked(path: Path, indexes: Sequence[int] | None, count: int, alpha: int | None) -> tuple[int, ...]:
    if indexes is None:
        indexes = [index for index in range(1, count + 1) if index != alpha or count == 1]
    wrong = [index for index in indexes if not 1 <= index <= count]
    if wrong or not indexes:
        asked = f"band {wrong[0]} asked for" if wrong else "no band asked for"
        raise RasterError(f"{path}: {asked}; the file has bands 1 to {count}: correct the band numbers")
    return tuple(int(index) for index in indexes)


def _common_dtype(path: Path, dtypes: Sequence[str]) -> str:
    strange = [dtype for dtype in dtypes if dtype.startswith("complex")]
    if strange:
        raise RasterError(
            f"{path}: pixels are {strange[0]}; expected real numbers: write the amplitude to a file first"
        )
    return str(np.result_type(*dtypes))


def _grid(path: Path, dataset: Any) -> GeoBox:
    affine = dataset.transform
    if affine == Affine.identity():
        _refuse_ungridded(path, dataset)
        return GeoBox(dataset.shape, affine, None)
    if affine.is_degenerate:
        raise RasterError(f"{path}: pixel size is 0 ({tuple(affine)[:6]}); repair its georeferencing")
    return GeoBox(dataset.shape, affine, _crs(dataset.crs) if dataset.crs else None)


def _crs(crs: Any) -> str:
    epsg = crs.to_epsg(confidence_threshold=100)
    return f"EPSG:{epsg}" if epsg else str(crs.to_wkt())


def _refuse_ungridded(path: Path, dataset: Any) -> None:
    by = "ground control points" if dataset.gcps[0] else "RPCs" if dataset.rpcs else None
    if by is not None:
        option = "" if dataset.gcps[0] else "-rpc "
        raise RasterError(
            f"{path}: georeferenced by {by} only; expected a pixel grid: "
            f"run `gdalwarp {option}{path.name} {path.stem}_grid.tif` and use its result"
        )
