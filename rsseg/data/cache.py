"""What was read once and need not be read again: counts and statistics, kept beside the data.

A result is kept as JSON under a name that hashes everything which decides it: files with size and time of
change, areas, grids, windows, facts.  Whatever changes, changes the name, so nothing has to be thrown away.
Files are written whole or not at all; one that is damaged is computed and written anew.
"""

import base64
import hashlib
import json
import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import rasterio

from rsseg.data.scenes import Polygons, Source
from rsseg.data.tiles import OpenScene
from rsseg.errors import RssegError
from rsseg.raster.location import Location

FORMAT = 1
"""Part of every key; another number when the way of counting changes."""

FOLDER = ".rsseg"
"""Of the cache, under the data's root."""

_MOST = 1 << 28
"""Bytes of an array that are unpacked."""

_BESIDE = (".msk", ".aux.xml")
_INSTEAD = (".dbf", ".prj", ".tfw", ".wld", ".pgw", ".jgw", ".RPB")
"""Files beside a file that change what is read of it, by what is added to its name or put for its suffix."""

_DAMAGE = (
    OSError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RecursionError,
    MemoryError,
    RssegError,
)
"""What reading a file raises that is not what was written."""

ValueT = TypeVar("ValueT")
Ints = npt.NDArray[np.int64]
Progress = Callable[[int, int], None]
Say = Callable[[str], None]


@dataclass(frozen=True)
class Job(Generic[ValueT]):
    """A result that takes some reading, and how it is kept."""

    kind: str
    """Short name: begins the file's."""
    what: str
    """For people: "statistics"."""
    key: Mapping[str, Any]
    """JSON values: all that decides the result."""
    size: int
    """Windows to read."""
    make: Callable[[Callable[[], None]], ValueT]
    """Reads; calls its argument after every window."""
    dump: Callable[[ValueT], Any]
    """Result → JSON values."""
    parse: Callable[[Any], ValueT]
    """The way back; it may raise anything that other JSON values bring about."""


@dataclass(frozen=True, slots=True)
class Cache:
    """A folder of kept results; without one, nothing is kept."""

    folder: Path | None = None
    """Made when the first result is kept."""
    root: Path | None = None
    """Files below it are known by their relative names, so that data may move together with their cache."""
    refresh: bool = False
    """Whether everything is read anew, and kept again."""

    def path(self, job: Job[Any]) -> Path | None:
        """Returns the file that a result is kept in."""
        if self.folder is None:
            return None
        text = json.dumps([FORMAT, job.kind, job.key], sort_keys=True)
        return self.folder / f"{job.kind}-{hashlib.sha256(text.encode()).hexdigest()[:24]}.json"

    def load(self, job: Job[ValueT]) -> ValueT | None:
        """Returns a kept result; None where there is none, or it is damaged."""
        path = self.path(job)
        if path is None or self.refresh or not path.is_file():
            return None
        try:
            return job.parse(json.loads(path.read_text(encoding="utf-8")))
        except _DAMAGE:
            return None

    def keep(self, job: Job[ValueT], value: ValueT) -> str:
        """Keeps a result, and returns in words whether that was possible."""
        path = self.path(job)
        if path is None:
            return "not kept, as there is no folder for it: set data.cache"
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            part.write_text(json.dumps(job.dump(value)), encoding="utf-8")
            part.replace(path)
        except OSError as error:
            return f"not kept, as {path.parent} cannot be written ({error.strerror}): set data.cache"
        return f"kept in {path.parent}"


def beside(root: Path, folder: Path | None = None, *, refresh: bool = False) -> Cache:
    """Returns the cache of a data set.

    Args:
        root: the data's folder, or a scene table.
        folder: of the cache; absent, it lies in the root, or beside the table.
        refresh: read everything anew.
    """
    home = root if root.is_dir() else root.parent
    return Cache(folder or (home / FOLDER if home.is_dir() else None), home, refresh)


def fulfil(
    jobs: Sequence[Job[Any]],
    cache: Cache,
    say: Say = lambda line: None,
    progress: Progress = lambda done, total: None,
) -> list[Any]:
    """Returns the results of all jobs: kept ones, or made now and kept.

    Args:
        jobs: what is wanted.
        cache: where results are kept.
        say: takes a line for each result: where it comes from.
        progress: takes windows read, and windows to read in all jobs together.
    """
    known = [cache.load(job) for job in jobs]
    total = sum(job.size for job, value in zip(jobs, known, strict=True) if value is None)
    steps = _Steps(progress, total)
    for place, job in enumerate(jobs):
        if known[place] is None:
            known[place] = job.make(steps.tick)
            say(f"{job.what}: {job.size} windows read, {cache.keep(job, known[place])}")
        else:
            say(f"{job.what}: from the cache ({cache.path(job)})")
    return known


@dataclass
class _Steps:
    progress: Progress
    total: int
    done: int = 0

    def tick(self) -> None:
        self.done += 1
        self.progress(self.done, self.total)


def fingerprint(
    scene: OpenScene, names: Sequence[str], root: Path | None, *, label: bool = False
) -> dict[str, Any]:
    """Returns what decides the pixels of a scene, as JSON values.

    Files in GDAL's virtual file systems have no time of change here: their names alone count.

    Args:
        scene: opened.
        names: modalities that are read.
        root: files below it are named relative to it.
        label: whether its labels are read.
    """
    row = scene.scene
    sources = {name: _source(row.files[name], root) for name in names if name in row.files}
    return {
        "id": row.id,
        "sources": sources,
        "label": _source(row.label, root) if label and row.label is not None else None,
        "area": None if row.area is None else hashlib.sha256(row.area.wkb).hexdigest(),
        "grid": [list(scene.shape), list(tuple(scene.grid.affine)[:6]), str(scene.grid.crs)],
    }


def packed(array: npt.NDArray[np.integer]) -> dict[str, Any]:
    """Returns an array of whole numbers as JSON values."""
    data = np.ascontiguousarray(array, "<i8")
    return {
        "shape": list(data.shape),
        "zlib": base64.b64encode(zlib.compress(data.tobytes(), 6)).decode("ascii"),
    }


def unpacked(content: Any) -> Ints:
    """Returns the array that was packed.

    Raises:
        ValueError: the content is damaged, or claims more than an array may have.
    """
    shape = tuple(int(length) for length in content["shape"])
    size = 8 * int(np.prod(shape, dtype=object))
    if not 0 <= size <= _MOST or min(shape, default=0) < 0:
        raise ValueError("size out of range")
    try:
        data = zlib.decompressobj().decompress(base64.b64decode(content["zlib"], validate=True), size + 1)
    except zlib.error as error:
        raise ValueError("damaged") from error
    return np.frombuffer(data, "<i8").reshape(shape).astype(np.int64)


def _source(source: Source | Polygons, root: Path | None) -> dict[str, Any]:
    facts = {key: value for key, value in asdict(source).items() if key not in ("path", "paths")}
    layout = [len(item) if isinstance(item, tuple) else 0 for item in getattr(source, "paths", ())]
    return {**facts, "layout": layout, "files": [_stamps(file, root) for file in source.files]}


def _stamps(file: Location, root: Path | None) -> list[Any]:
    if isinstance(file, str):
        return [file]
    whole = Path(os.path.abspath(file))  # not resolved: data may be links into a store
    base = None if root is None else Path(os.path.abspath(root))
    name = whole.relative_to(base) if base is not None and whole.is_relative_to(base) else whole
    others = [file.with_name(file.name + end) for end in _BESIDE]
    others += [file.with_suffix(end) for end in _INSTEAD]
    return [name.as_posix(), *(_stamp(path) for path in (file, *others)), *_sources(file)]


def _sources(file: Path) -> list[list[int] | None]:
    """Returns the stamps of what a virtual raster is made of: it stays as it is when they change."""
    if file.suffix.lower() != ".vrt":
        return []
    try:
        with rasterio.open(file) as dataset:
            return [_stamp(Path(name)) for name in sorted(dataset.files)]
    except (rasterio.errors.RasterioError, OSError):
        return []


def _stamp(path: Path) -> list[int] | None:
    try:
        facts = path.stat()
    except OSError:
        return None
    return [facts.st_size, facts.st_mtime_ns]
