"""The maps of a scene while they are made: locked, resumable, published together.

    OUT/.<stem>.part/   lock           whoever holds it owns the folder; a killed process lets go
                        job.json       whose rows these are; in the end also which file gets which final name
                        progress       number of finished rows
                        <suffix>.bin   rows, band-interleaved lines; a kill only leaves it shorter
                        <suffix>.vrt   what GDAL needs to know to read them
                        <stem>_….tif   finished maps and their sidecars, until all are renamed to OUT

A COG cannot be written row by row, and a killed GeoTIFF keeps no readable row.  So rows are appended to flat
files, and one copy turns each into a COG.  Nothing is synced to the disk: what a process has written outlives
its death.  After a power failure files may be shorter than `progress` says, so their sizes are looked at.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import rasterio
from odc.geo.geobox import GeoBox

from rsseg.errors import RasterError
from rsseg.raster.lock import LOCK, FolderLock
from rsseg.raster.sidecars import BitStyle, ClassStyle, sidecar_names, write_sidecars
from rsseg.raster.write import CACHE, Layer, describe, libtiff_hushed, make_cog, read_back, reported

_FORMAT = 1
"""Of job.json; another number when older folders cannot be gone on with."""

_AT_ONCE = 2
"""Maps that are copied at the same time."""

_NOTE, _PROGRESS = "job.json", "progress"
_MADE = "made"
"""Key of job.json: maps and sidecars are finished, some may be renamed."""


class Parts:
    """Unfinished maps of one scene, owned by this process until `close` or the end of `with`.

    What is settled is kept when the block ends, by an error too: a later run goes on there.  A folder in
    which nothing is settled goes.  Between `publish` and `close` the scene is still locked: what is noted
    there about it nobody else can have missed.

        with Parts.claim(out, safe_stem(scene.id)) as parts:        # None: another process is at it
            row = parts.begin(job, grid, layers)
            for … in views(…, first=row): parts.append(row, {"classes": …}); parts.settle()
            paths = parts.publish()
    """

    def __init__(self, lock: FolderLock, out: Path, stem: str) -> None:
        self._lock: FolderLock | None = lock
        self._folder, self._out, self._stem = lock.folder, out, stem
        self._flats: dict[str, _Flat] = {}
        self._rows = self._settled = 0
        self._published = False

    @classmethod
    def claim(cls, out: Path, stem: str, *, wait: bool = False) -> Parts | None:
        """Returns the parts of a scene, or None where another process holds them.

        Args:
            out: folder of the finished maps; it must exist.
            stem: of the maps' names, see `safe_stem`.
            wait: until the other process lets go or dies.

        Raises:
            RasterError: the folder cannot be written to.
        """
        out = Path(out).absolute()
        if not stem or Path(stem).name != stem or stem.startswith("."):
            raise RasterError(f"{stem!r} cannot begin a file name; use safe_stem(…)")
        with reported(out / stem):
            lock = FolderLock.take(_folder(out, stem), wait=wait)
        return None if lock is None else cls(lock, out, stem)

    @staticmethod
    def left(out: Path, stem: str) -> bool:
        """Returns whether somebody is at a scene, or was and left something."""
        return _folder(out, stem).exists()

    @property
    def job(self) -> str | None:
        """What was begun here and not brought to an end, e.g. by a killed run; None where nothing was.

        Maps under their final names may then be this job's own, renamed before the kill.  Who finds that
        they are accounted for calls `discard`.
        """
        note = self._note()
        return None if note is None else note["job"]

    @property
    def rows(self) -> int:
        """Rows appended so far, those of an earlier run included."""
        return self._rows

    def begin(self, job: str, grid: GeoBox, layers: Mapping[str, Layer]) -> int:
        """Returns the first row that is missing: 0, or where an earlier run of the same job stopped.

        Where it returns the grid's height, `publish` is all that is left to do.  What another job, grid or
        set of layers has left is thrown away; tags may differ, and those given last count.

        Args:
            job: a text that differs wherever pixels may differ.
            grid: of all maps.
            layers: suffix → what the map holds; it is named `<stem>_<suffix>.tif`.  The first one gets its
                name last: where it stands, all stand.

        Raises:
            RasterError: the folder cannot be written to, or a suffix is not of a-z, 0-9 and _.
        """
        self._close_files()
        self._flats = {suffix: _Flat(self._folder, suffix, layer, grid) for suffix, layer in layers.items()}
        self._require_names()
        asked, note = _asked(job, grid, layers), self._note() or {}
        made = note.pop(_MADE, False)
        with self._reported():
            self._require_lock()
            if note == asked and made and self._complete():
                self._rows = self._settled = grid.shape[0]
                return self._rows
            if note != asked or made:
                self._clear()
                self._replace(_NOTE, asked)
            self._open()
        return self._rows

    def append(self, row: int, rows: Mapping[str, npt.NDArray[Any]]) -> None:
        """Appends rows to every map.

        Args:
            row: first row, pixels from the top; where the rows before ended.
            rows: suffix → (bands, n, width), of the layer's dtype; n is the same for all.

        Raises:
            RasterError: another row, shape or dtype than expected, or the disk is full.
        """
        if row != self._rows or set(rows) != set(self._flats):
            raise RasterError(
                f"{self._named()}: got row {row} of {', '.join(rows)}; "
                f"expected {self._rows} of {', '.join(self._flats) or 'nothing: call begin first'}"
            )
        heights = {flat.checked(row, rows[suffix]) for suffix, flat in self._flats.items()}
        if len(heights) > 1:
            raise RasterError(f"{self._named()}: got {sorted(heights)} rows; expected as many for each map")
        with self._reported():
            for suffix, flat in self._flats.items():
                flat.write(row, rows[suffix])
        self._rows += heights.pop()

    def settle(self) -> None:
        """Counts everything appended so far as finished: a later run goes on behind it.

        Raises:
            RasterError: the disk is full, or somebody has removed the folder.
        """
        if self._rows > self._settled:
            with self._reported():
                self._require_lock()
                self._replace(_PROGRESS, self._rows)
            self._settled = self._rows

    def publish(self) -> list[Path]:
        """Makes COGs and sidecars, checks them, and gives all their final names.

        Where the process is killed meanwhile, the same job's next `begin` and `publish` finish it.  An error
        keeps all rows.  Memory is GDAL's cache of 64 MB and one row of blocks.

        Returns:
            The maps, in the order of the layers.

        Raises:
            RasterError: rows are missing, the disk is full, or a map is no valid COG.
        """
        if not self._flats:
            raise RasterError(f"{self._named()}: nothing to publish; call begin first")
        height = min(flat.height for flat in self._flats.values())
        if self._rows < height:
            raise RasterError(f"{self._named()}: got {self._rows} rows; expected {height}")
        with self._reported():
            self._require_lock()
            note = self._note() or {}
            if not note.get(_MADE):
                self._make()
                self._require_lock()
                self._replace(_NOTE, {**note, _MADE: True})
            self._close_files()
            for suffix in reversed(self._flats):
                self._rename(suffix)
            self._published = True
            self._clear(keep={_NOTE})
        return [self._out / self._map(suffix) for suffix in self._flats]

    def discard(self) -> None:
        """Forgets everything that was begun, finished maps excepted; the scene stays locked.

        Raises:
            RasterError: the folder cannot be written to.
        """
        self._close_files()
        self._flats = {}
        self._rows = self._settled = 0
        with self._reported():
            self._require_lock()
            self._clear()

    def close(self) -> None:
        """Lets go; the folder goes too where nothing in it is needed any more."""
        lock, self._lock = self._lock, None
        if lock is None:
            return
        self._close_files()
        empty = lock.holds() and not self._needed()
        if empty:
            with contextlib.suppress(OSError):  # what stays is cleared next time
                self._clear()
        lock.release(remove=empty)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _needed(self) -> bool:
        note = self._note()
        return not self._published and note is not None and (_MADE in note or self._progress() > 0)

    def _named(self) -> Path:
        return self._out / self._stem

    def _map(self, suffix: str) -> str:
        return f"{self._stem}_{suffix}.tif"

    def _reported(self) -> contextlib.AbstractContextManager[None]:
        return reported(self._named())

    def _require_names(self) -> None:
        if not self._flats:
            raise RasterError(f"{self._named()}: no map asked for; give at least one layer")
        for suffix in self._flats:
            path = self._out / self._map(suffix)
            if not re.fullmatch("[a-z0-9_]+", suffix):
                raise RasterError(f"{suffix!r} cannot end a file name; use a-z, 0-9 and _")
            if path.is_dir():
                raise RasterError(f"{path} is a folder; remove it or use another --out")

    def _require_lock(self) -> None:
        if self._lock is None:
            raise RasterError(f"{self._named()}: not claimed any more; claim it again")
        if not self._lock.holds():
            raise RasterError(f"{self._folder} was removed by somebody; start again, and leave it alone")

    def _note(self) -> dict[str, Any] | None:
        """Returns what job.json says; None where it says nothing that can be relied on."""
        try:
            note = json.loads((self._folder / _NOTE).read_text("utf-8"))
        except (OSError, ValueError):
            return None
        usable = isinstance(note, dict) and note.get("format") == _FORMAT and isinstance(note.get("job"), str)
        return note if usable else None

    def _progress(self) -> int:
        try:
            return max(0, int((self._folder / _PROGRESS).read_text("ascii")))
        except (OSError, ValueError):
            return 0

    def _replace(self, name: str, content: Any) -> None:
        """Writes a small file whole or not at all."""
        part = self._folder / f"{name}.new"
        part.write_text(json.dumps(content), "ascii")
        os.replace(part, self._folder / name)

    def _open(self) -> None:
        """Opens the flat files behind the rows that are finished in all of them."""
        start = min([self._progress(), *(flat.held() for flat in self._flats.values())])
        self._replace(_PROGRESS, start)
        for flat in self._flats.values():
            flat.open(start)
        self._clear(keep=self._kept())
        self._rows = self._settled = start

    def _kept(self) -> set[str]:
        return {_NOTE, _PROGRESS, *(flat.path.name for flat in self._flats.values())}

    def _complete(self) -> bool:
        """Whether every finished map is still somewhere."""
        names = [self._map(suffix) for suffix in self._flats]
        return all((self._folder / name).exists() or (self._out / name).exists() for name in names)

    def _make(self) -> None:
        """Makes all maps in the folder; Ctrl-C takes effect when the copies at hand are done."""
        pool = ThreadPoolExecutor(_AT_ONCE)
        try:
            with libtiff_hushed(), rasterio.Env(GDAL_CACHEMAX=CACHE):
                for making in [pool.submit(self._make_map, suffix) for suffix in self._flats]:
                    making.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            self._clear(keep=self._kept())  # a full disk has room again for the rows
            raise
        pool.shutdown()

    def _make_map(self, suffix: str) -> None:
        flat, cog = self._flats[suffix], self._folder / self._map(suffix)
        description = flat.path.with_suffix(".vrt")
        description.write_bytes(describe(flat.grid, flat.layer, flat.path.name))
        make_cog(description, cog, flat.grid, flat.layer)
        style = flat.layer.style
        counts = read_back(description, cog, count=isinstance(style, ClassStyle | BitStyle))
        if style is not None:
            write_sidecars(cog, style, counts)

    def _rename(self, suffix: str) -> None:
        """Gives a map its final name, after what stands beside it."""
        name, style = self._map(suffix), self._flats[suffix].layer.style
        beside = () if style is None else sidecar_names(name, style)
        attributes = f"{name}.aux.xml"
        if attributes not in beside:  # it would hold statistics of the map that is replaced
            (self._out / attributes).unlink(missing_ok=True)
        for one in (*beside, name):
            with contextlib.suppress(FileNotFoundError):  # it has its name since before a kill
                os.replace(self._folder / one, self._out / one)

    def _clear(self, keep: Collection[str] = ()) -> None:
        """Removes what is in the folder, first of all what makes sense of the rest."""
        names = {entry.name for entry in os.scandir(self._folder)} - {LOCK, *keep}
        for name in sorted(names, key=lambda name: name != _NOTE):
            path = self._folder / name
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()

    def _close_files(self) -> None:
        for flat in self._flats.values():
            flat.close()


class _Flat:
    """The rows of one map in a file: line after line, in each line band after band, little-endian."""

    def __init__(self, folder: Path, suffix: str, layer: Layer, grid: GeoBox) -> None:
        self.path, self.layer, self.grid = folder / f"{suffix}.bin", layer, grid
        self.height, self._width = grid.shape
        self._line = layer.bands * self._width * np.dtype(layer.dtype).itemsize
        self._descriptor: int | None = None

    def held(self) -> int:
        """Returns how many whole rows there are."""
        try:
            return min(self.height, self.path.stat().st_size // self._line)
        except OSError:
            return 0

    def open(self, row: int) -> None:
        """Opens the file, and forgets the rows from this one on."""
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        os.ftruncate(self._descriptor, row * self._line)

    def checked(self, row: int, rows: npt.NDArray[Any]) -> int:
        """Returns how many rows these are, if they fit."""
        bands, left = self.layer.bands, self.height - row
        if rows.ndim != 3 or rows.shape[::2] != (bands, self._width) or rows.shape[1] > left:
            raise RasterError(
                f"{self.path.stem}: got rows {rows.shape} at row {row}; "
                f"expected ({bands}, at most {left}, {self._width})"
            )
        if rows.dtype.newbyteorder("=") != self.layer.dtype:
            raise RasterError(f"{self.path.stem}: got {rows.dtype} pixels, expected {self.layer.dtype}")
        return int(rows.shape[1])

    def write(self, row: int, rows: npt.NDArray[Any]) -> None:
        """Writes rows where they belong, over what an attempt that failed may have left."""
        if self._descriptor is None:
            raise RasterError(f"{self.path.stem}: all rows are there; call publish")
        lines = rows.astype(rows.dtype.newbyteorder("<"), copy=False).swapaxes(0, 1)
        rest, place = np.ascontiguousarray(lines).reshape(-1).view(np.uint8), row * self._line
        while rest.size:  # a write may take only a part
            taken = os.pwrite(self._descriptor, rest.data, place)
            rest, place = rest[taken:], place + taken

    def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


def _folder(out: Path, stem: str) -> Path:
    return out / f".{stem}.part"


def _asked(job: str, grid: GeoBox, layers: Mapping[str, Layer]) -> dict[str, Any]:
    """Returns what must be the same for rows to be gone on with, as JSON gives it back."""
    place = [*grid.shape, *map(repr, grid.affine[:6]), None if grid.crs is None else grid.crs.to_wkt()]
    kinds = {
        suffix: {one.name: repr(getattr(layer, one.name)) for one in fields(layer) if one.name != "tags"}
        for suffix, layer in layers.items()
    }
    return {"format": _FORMAT, "job": job, "grid": place, "layers": kinds}
