"""Open files, kept per process and thread, and plain windowed reads that fail in one line."""

import os
import threading
import time
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import rasterio
from affine import Affine
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox
from pyproj.exceptions import CRSError
from rasterio._err import CPLE_BaseError
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning
from rasterio.errors import RasterioError as RasterioFailure

from rsseg.errors import RasterError
from rsseg.geo import Window
from rsseg.raster import validity
from rsseg.raster.control import Control, control
from rsseg.raster.location import Location, Stamp, is_remote, stamp_of, stem
from rsseg.raster.validity import Bools, Pixels

_OPEN = 32
"""Files that a thread keeps open: more than the band files of one scene."""

_FAILURES = (RasterioFailure, CPLE_BaseError, CRSError, OSError, UnicodeDecodeError)
"""What rasterio raises for files that it cannot read; the last for damaged text in them."""

_TYPES = {"complex_int16": "complex64"}
"""GDAL's types that numpy lacks, and what holds them."""

_LARGEST_BLOCK, _MOST_PACKED = 64 << 20, 4096
"""Bytes of a block that a file may claim without holding at least one of so many of them."""

_RETRIES = 4
"""Times that a read over the network is tried again; the pause doubles from a quarter of a second."""

_NETWORK = {"GDAL_HTTP_MAX_RETRY": "4", "GDAL_HTTP_RETRY_DELAY": "0.25", "GDAL_HTTP_TIMEOUT": "60"}
"""GDAL's options for files on the network, unless the environment sets them."""


Result = TypeVar("Result")


class _Pools(threading.local):
    """Open files of a thread by process: what a fork inherits stays untouched under its parent's id."""

    def __init__(self) -> None:
        self.by_process: dict[int, OrderedDict[tuple[Location, Stamp], Any]] = {}

    @property
    def mine(self) -> OrderedDict[tuple[Location, Stamp], Any]:
        return self.by_process.setdefault(os.getpid(), OrderedDict())


_pools = _Pools()
_locks: dict[int, threading.Lock] = {}


@dataclass(frozen=True, slots=True)
class Raster:
    """What reads must know of a file; holds no open file, so it can be pickled."""

    path: Location
    """The file."""
    stamp: Stamp
    """Its time of change and size when it was described."""
    shape: tuple[int, int]
    """Rows and columns."""
    grid: GeoBox
    """Its own pixels, or about those where control points place it; identity transform and no CRS where it is
    not georeferenced."""
    control: Control | None
    """Ground control points in place of a transform."""
    indexes: tuple[int, ...]
    """Bands that are taken, from 1."""
    dtype: str
    """Type that holds all taken bands; of amplitudes where the file holds complex numbers."""
    stored: str
    """Type that they are read in."""
    codes: bool
    """Whether a band is a palette, whose pixels are no quantities."""
    scales: tuple[tuple[float, float], ...] | None
    """Scale and offset of each taken band; None where all are 1 and 0."""
    rule: validity.Rule
    """What marks its pixels as invalid."""
    mixed: bool = False
    """Whether the taken bands differ in type; rasterio reads such only one by one."""

    def read(self, window: Window, dtype: str | None = None) -> tuple[Pixels, Bools]:
        """Returns pixels (C, H, W) and valid (H, W) of a window that lies inside the file.

        Args:
            window: in the file's rows and columns.
            dtype: of the pixels; floats have scale and offset applied.  None leaves them as stored, or as
                amplitudes.

        Raises:
            RasterError: the file cannot be opened any more, or its blocks are damaged.
        """
        try:
            with _environment(self.path):
                return _patient(self.path, lambda: self._read(window, dtype or self.dtype))
        except _FAILURES as failure:
            damaged = "the file is damaged: copy or download it again"
            advice = "check the connection" if is_remote(self.path) else damaged
            raise RasterError(
                f"{self.path}: {window.words} cannot be read ({reason(failure)}); {advice}"
            ) from failure

    def _read(self, window: Window, dtype: str) -> tuple[Pixels, Bools]:
        part = rasterio.windows.Window(window.col, window.row, window.width, window.height)
        dataset = opened(self.path, self.stamp, self._require_same)
        try:
            if self.mixed:
                bands = [dataset.read(band, window=part, out_dtype=self.stored) for band in self.indexes]
                pixels = np.stack(bands)
            else:
                pixels = dataset.read(self.indexes, window=part, out_dtype=self.stored)
            valid = validity.read(dataset, self.rule, pixels, part)
        except _FAILURES:
            _pools.mine.pop((self.path, self.stamp), None)
            dataset.close()
            raise
        if pixels.dtype.kind == "c":
            pixels = np.abs(pixels, out=np.zeros(pixels.shape, self.dtype), where=valid)
        if self.scales is not None and np.dtype(dtype).kind == "f":
            pixels = _scaled(pixels, self.scales)
            valid &= validity.usable(pixels, [()] * len(pixels))
        return pixels, valid

    def _require_same(self, dataset: Any) -> None:
        """A file may be replaced between two of its openings, e.g. by one with other pixels."""
        same = dataset.shape == self.shape and dataset.count >= max(self.indexes)
        if not same or (self.control is None and dataset.transform != self.grid.affine):
            raise RasterError(
                f"{self.path}: now {dataset.shape[0]} × {dataset.shape[1]} pixels, {dataset.count} bands, at "
                f"{tuple(dataset.transform)[:6]}; it was {self.shape[0]} × {self.shape[1]} at "
                f"{tuple(self.grid.affine)[:6]} when it was first read: do not replace files during a run"
            )


def describe(
    path: Location, indexes: Sequence[int] | None = None, nodata: float | None = None, *, alpha: bool = True
) -> Raster:
    """Returns what reads must know of a file.

    Args:
        path: the file.
        indexes: bands to take, from 1; None takes all but alpha.
        nodata: sentinel value in addition to the file's own.
        alpha: whether a band tagged as alpha marks invalid pixels; False where it holds data.

    Raises:
        RasterError: no raster, unknown bands, a size that the file cannot hold, or a place that only RPCs or
            geolocation arrays tell.
    """
    stamp = stamp_of(path)
    with _environment(path), rasterio.Env():
        dataset = opened(path, stamp)
        try:
            mask = validity.alpha_band(dataset) if alpha else None
            taken = _checked(path, indexes, dataset.count, mask)
            _require_honest(path, dataset, stamp)
            kinds = [_TYPES.get(dataset.dtypes[index - 1], dataset.dtypes[index - 1]) for index in taken]
            stored = np.result_type(*kinds)
            return Raster(
                path=path,
                stamp=stamp,
                shape=dataset.shape,
                **_placed(path, dataset),
                indexes=taken,
                dtype=str(np.abs(np.zeros(1, stored)).dtype if stored.kind == "c" else stored),
                stored=str(stored),
                codes=any(dataset.colorinterp[index - 1] == ColorInterp.palette for index in taken),
                scales=_scales(path, dataset, taken),
                rule=validity.rule(dataset, taken, mask, nodata),
                mixed=len(set(kinds)) > 1,
            )
        except _FAILURES as failure:
            raise RasterError(f"{path}: not readable ({reason(failure)}); check the file") from failure


def opened(path: Location, stamp: Stamp, check: Callable[[Any], None] | None = None) -> Any:
    """Returns the open dataset of a file from this thread's pool.

    Args:
        path: the file.
        stamp: its time of change and size when it was described.
        check: called with a dataset that was not open yet; may raise.

    Raises:
        RasterError: no such file, or no raster.
    """
    pool = _pools.mine
    key = path, stamp
    if key not in pool:
        while len(pool) >= _OPEN:
            pool.popitem(last=False)[1].close()
        dataset = _open(path)
        try:
            if check is not None:
                check(dataset)
        except RasterError:
            dataset.close()
            raise
        pool[key] = dataset
    pool.move_to_end(key)
    return pool[key]


def reason(failure: BaseException) -> str:
    """Returns the innermost message of a failure on one line."""
    while failure.__cause__ is not None:
        failure = failure.__cause__
    words = " ".join(str(failure).split())
    return words if len(words) <= 200 else words[:199] + "…"


def _open(path: Location) -> Any:
    try:
        with quiet(), _environment(path):
            return _patient(path, lambda: rasterio.open(path))
    except _FAILURES as failure:
        if isinstance(path, Path) and not path.exists():
            raise RasterError(f"{path}: no such file; expected a raster there: check the path") from failure
        advice = "check the address and the connection" if is_remote(path) else "check the file"
        raise RasterError(f"{path}: no raster that GDAL can open ({reason(failure)}); {advice}") from failure


def _environment(path: Location) -> AbstractContextManager[Any]:
    """Returns GDAL's options for a read; entering them costs time, so local files have none."""
    if not is_remote(path):
        return nullcontext()
    options: AbstractContextManager[Any] = rasterio.Env(
        **{key: value for key, value in _NETWORK.items() if key not in os.environ}
    )
    return options


def _patient(path: Location, read: Callable[[], Result]) -> Result:
    """Returns what is read, in spite of a network that fails now and then."""
    for attempt in range(_RETRIES if is_remote(path) else 0):
        try:
            return read()
        except _FAILURES:
            time.sleep(0.25 * 2**attempt)
    return read()


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps rasterio from warning of files without georeferencing, whatever threads do meanwhile."""
    # `warnings` keeps its filters per process: two threads changing them at once would leave them changed.
    # Inside an Env GDAL reports to Python's logging, not to stderr; reads are silent and faster without.
    with _locks.setdefault(os.getpid(), threading.Lock()), rasterio.Env(), warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield


def _checked(path: Location, indexes: Sequence[int] | None, count: int, alpha: int | None) -> tuple[int, ...]:
    if indexes is None:
        indexes = [index for index in range(1, count + 1) if index != alpha or count == 1]
    wrong = [index for index in indexes if not 1 <= index <= count]
    if wrong or not indexes:
        asked = f"band {wrong[0]} asked for" if wrong else "no band asked for"
        raise RasterError(f"{path}: {asked}; the file has bands 1 to {count}: correct the band numbers")
    return tuple(int(index) for index in indexes)


def _require_honest(path: Location, dataset: Any, stamp: Stamp) -> None:
    """GDAL takes memory for a whole block before it finds that the file holds none of it."""
    rows, columns = dataset.block_shapes[0]
    # not `dataset.interleaving`, which raises for names that rasterio does not know
    by_pixel = dataset.tags(ns="IMAGE_STRUCTURE").get("INTERLEAVE") == "PIXEL"
    bands = dataset.count if by_pixel else 1
    claimed = rows * columns * bands * np.dtype(_TYPES.get(dataset.dtypes[0], dataset.dtypes[0])).itemsize
    if stamp[1] and claimed > _LARGEST_BLOCK and claimed > stamp[1] * _MOST_PACKED:
        height, width = dataset.shape
        raise RasterError(
            f"{path}: claims {height} × {width} pixels in blocks of {claimed >> 20} MiB, but has {stamp[1]} "
            "bytes; the file is damaged: copy or download it again"
        )


def _scales(path: Location, dataset: Any, taken: Sequence[int]) -> tuple[tuple[float, float], ...] | None:
    scales = tuple((float(dataset.scales[index - 1]), float(dataset.offsets[index - 1])) for index in taken)
    if not np.isfinite(scales).all() or any(scale == 0 for scale, _ in scales):
        raise RasterError(f"{path}: scale and offset are {scales}; expected finite numbers, no scale of 0")
    return None if set(scales) == {(1.0, 0.0)} else scales


def _scaled(pixels: Pixels, scales: Sequence[tuple[float, float]]) -> Pixels:
    factors = np.array(scales)[:, :, None, None]
    result: Pixels = pixels * factors[:, 0] + factors[:, 1]
    return result


def _placed(path: Location, dataset: Any) -> dict[str, Any]:
    """Returns the grid of a file, and its control points where these place it."""
    affine = dataset.transform
    if affine == Affine.identity():
        points, crs = dataset.gcps
        if points:
            return _placed_by_points(path, points, crs, dataset.shape)
        _refuse_unplaced(path, dataset)
        return {"grid": GeoBox(dataset.shape, affine, None), "control": None}
    if not 0 < abs(affine.determinant) < np.inf or not np.isfinite(affine).all():
        raise RasterError(
            f"{path}: pixel size is 0 or not finite ({tuple(affine)[:6]}); repair its georeferencing"
        )
    crs = _crs(path, dataset.crs) if dataset.crs else None
    return {"grid": GeoBox(dataset.shape, affine, crs), "control": None}


def _placed_by_points(path: Location, points: Any, crs: Any, shape: tuple[int, int]) -> dict[str, Any]:
    warped = f"{stem(path)}_grid.tif"
    if not crs:
        raise RasterError(
            f"{path}: its ground control points have no CRS; "
            f"run `gdalwarp -s_srs EPSG:CODE {path} {warped}` with theirs and use its result"
        )
    try:
        placed = control(points, shape)
        return {"grid": placed.grid(_crs(path, crs)), "control": placed}
    except _FAILURES as failure:
        raise RasterError(
            f"{path}: its {len(points)} ground control points do not tell its place ({reason(failure)}); "
            f"run `gdalwarp -tps {path} {warped}` and use its result"
        ) from failure


def _crs(path: Location, crs: Any) -> CRS:
    epsg = crs.to_epsg(confidence_threshold=100)
    try:
        return CRS(f"EPSG:{epsg}" if epsg else str(crs.to_wkt()))
    except (CRSError, ValueError) as failure:
        raise RasterError(
            f"{path}: PROJ does not know its CRS ({reason(failure)}); state the right one: "
            f"gdal_edit.py -a_srs EPSG:CODE {path}"
        ) from failure


def _refuse_unplaced(path: Location, dataset: Any) -> None:
    """RPCs tell a place only together with the height of the ground, which the file does not hold."""
    if dataset.rpcs:
        by, options = "RPCs", "-rpc -to RPC_DEM=DEM.tif"
    elif dataset.tags(ns="GEOLOCATION"):
        by, options = "geolocation arrays", "-geoloc"
    else:
        return
    raise RasterError(
        f"{path}: georeferenced by {by} only; expected a pixel grid: "
        f"run `gdalwarp {options} {path} {stem(path)}_grid.tif` and use its result"
    )
