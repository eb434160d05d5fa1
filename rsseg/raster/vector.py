"""Polygons with a class column → label pixels of a window, as if they had been rasterised beforehand.

    plan(labels, grid, class map) ──► VectorReader ──► read(window) ──► pixels (B, H, W), valid (H, W)

Pixels are burnt in blocks anchored to the scene's grid, whatever window is asked for: reading a window gives
the same, bit by bit, as cutting it out of a read of the whole grid.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from itertools import product
from typing import Any, NamedTuple

import geopandas as gpd
import numpy as np
import numpy.typing as npt
import pandas as pd
import shapely
from affine import Affine
from odc.geo.geobox import GeoBox
from pyproj import Transformer
from rasterio.features import rasterize

from rsseg.classmap import ClassMap
from rsseg.errors import RasterError, SceneError
from rsseg.facts import IGNORED, nearest
from rsseg.geo import Window
from rsseg.raster.handles import quiet
from rsseg.raster.location import Location, Stamp, exists

Ids = npt.NDArray[np.uint8]

_BLOCK = 256
"""Side of the blocks that are burnt and kept, pixels."""
_KEPT = 256
"""Blocks that a process keeps: 16 MB."""
_MARGIN = 16
"""Pixels around a scene within which polygons are looked for: its outline bends in another CRS."""
_POLYGON = 3
"""Shapely's number of the geometry type."""


class VectorFile(NamedTuple):
    """What is read of a vector file."""

    path: Location
    """The file."""
    stamp: Stamp
    """Its time of change and size, so that a file written anew is read anew."""
    layer: str | None
    """Of the file; its first where None."""
    column: str
    """Holds the class."""


@dataclass(frozen=True)
class VectorReader:
    """An immutable plan of how polygons become label pixels; polygons are loaded once per process."""

    file: VectorFile
    """Where the polygons are."""
    grid: GeoBox
    """The scene's; any other of the same place does as well."""
    class_map: ClassMap
    """What the column's values mean."""
    touched: bool
    """Whether all pixels that a polygon touches are its, or those whose centre it holds."""
    outside: int
    """Class id of pixels in no polygon."""

    @property
    def bands(self) -> int:
        """Bands of the pixels: 1, or 3 where the class map's values are RGB triples."""
        return self.class_map.bands

    def read(self, window: Window) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """Returns raw label values of a window and which of its pixels have a class.

        Args:
            window: in the grid; may lie partly or wholly outside.

        Returns:
            (B, H, W), the first raw value of each class, 0 where there is none; and (H, W).

        Raises:
            RasterError: the file is gone or damaged.
        """
        ids = np.full(window.shape, IGNORED, np.uint8)
        within = window.intersection(Window(0, 0, *self.grid.shape))
        for row, col, part in _parts(within) if within else ():
            there, here = part.shifted(-row, -col), part.shifted(-window.row, -window.col)
            ids[here.slices] = _burnt(self._key, row, col)[there.slices]
        valid = ids != IGNORED
        raw = self.class_map.decode(np.where(valid, ids, 0))
        return np.where(valid, raw.reshape(self.bands, *window.shape), 0), valid

    @cached_property
    def _key(self) -> "_Key":
        values = tuple((entry.name, entry.values) for entry in self.class_map.classes)
        return _Key(self, (self.file, self.grid, values, self.class_map.ignored, self.touched, self.outside))

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_key"}


class _Key:
    """Finds a reader's blocks again; its hash is computed once."""

    def __init__(self, reader: VectorReader, parts: tuple[Any, ...]) -> None:
        self.reader, self._parts, self._hash = reader, parts, hash(parts)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, _Key) and self._parts == other._parts)


def plan(
    file: VectorFile, grid: GeoBox, class_map: ClassMap, *, touched: bool, outside: int | None
) -> VectorReader:
    """Returns how polygons become label pixels in a scene's grid.

    Where polygons overlap, the one that stands later in the file counts; one whose class is null hides those
    before it.

    Args:
        file: of polygons, in any CRS.
        grid: the scene's.
        class_map: the column holds its raw values, as numbers or as text, or its classes' names.
        touched: whether all pixels that a polygon touches are its, or only those whose centre it holds.
        outside: raw value of pixels in no polygon; None leaves them without a class.

    Raises:
        RasterError: the file cannot be read, lacks the column or a CRS, or holds points or lines.
        SceneError: the class map does not know a value; no polygon lies in the scene.
    """
    if grid.crs is None:
        raise SceneError(f"{file.path}: polygons for a scene without a CRS; georeference its rasters")
    known = _known(class_map)
    if outside is not None and str(outside) not in known:
        raise SceneError(
            f"outside {outside}: not a value of the class map; {nearest(str(outside), list(known))}"
        )
    rest = IGNORED if outside is None else known[str(outside)]
    reader = VectorReader(file, grid, class_map, touched, rest)
    _require_overlap(reader, expected=outside is None)
    return reader


def values(file: VectorFile) -> tuple[str, ...]:
    """Returns what stands in the class column, as text and in order; nulls are left out.

    Args:
        file: of polygons.

    Raises:
        RasterError: the file cannot be read, lacks the column or a CRS, or holds points or lines.
    """
    found = {_word(value) for value in _loaded(file).values.dropna().unique()}
    return tuple(sorted(found, key=lambda word: (not is_whole(word), len(word), word)))


def is_whole(word: str) -> bool:
    """Returns whether a class is given as a whole number."""
    return word.lstrip("+-").isdecimal()


def _require_overlap(reader: VectorReader, *, expected: bool) -> None:
    """With a value for pixels outside, a scene may hold no polygon, but not if all lie elsewhere."""
    file = _loaded(reader.file)
    _ids(file, reader.class_map, reader.file)
    if not len(_polygons(reader._key).shapes) and (expected or not file.surrounds(reader.grid)):
        raise SceneError(
            f"{reader.file.path}: none of its {len(file.shapes)} polygons lies in the scene ({file.title} "
            f"against {reader.grid.crs}); check its CRS, or state `outside` for scenes without any"
        )


class _Loaded(NamedTuple):
    """Polygons as they stand in a file."""

    shapes: npt.NDArray[np.object_]
    """Valid single polygons in the file's CRS."""
    feature: npt.NDArray[np.intp]
    """The feature that each belongs to."""
    values: "pd.Series[Any]"
    """Of the class column, by feature."""
    crs: str
    """As WKT."""
    title: str
    """Name of the CRS."""
    tree: shapely.STRtree
    """Of the polygons."""

    def near(self, grid: GeoBox) -> npt.NDArray[np.intp]:
        """Returns which polygons may lie in a grid, in their order."""
        found: npt.NDArray[np.intp] = np.sort(
            self.tree.query(_outline(grid, self.crs), predicate="intersects")
        )
        return found

    def surrounds(self, grid: GeoBox) -> bool:
        """Returns whether a grid lies among the polygons, if there are any."""
        if not len(self.shapes):
            return True
        left, bottom, right, top = (float(edge) for edge in shapely.total_bounds(self.shapes))
        return bool(shapely.box(left, bottom, right, top).intersects(_outline(grid, self.crs)))


class _Polygons(NamedTuple):
    """Polygons near a scene, in pixels of its grid, in the order in which they are burnt."""

    shapes: npt.NDArray[np.object_]
    ids: Ids
    tree: shapely.STRtree


@lru_cache(maxsize=128)
def _loaded(file: VectorFile) -> _Loaded:
    frame = _frame(file)
    shapes, feature = _simple(file, frame.geometry.to_numpy())
    return _Loaded(
        shapes, feature, frame[file.column], frame.crs.to_wkt(), frame.crs.name, shapely.STRtree(shapes)
    )


def read_layer(path: Location, layer: str | None, name: str) -> gpd.GeoDataFrame | pd.DataFrame:
    """Returns a layer of a vector file as it is; without geometries it is a plain table.

    Args:
        path: of the file.
        layer: None takes the first.
        name: with which errors begin.

    Raises:
        RasterError: it cannot be read.
    """
    try:
        layer = layer or gpd.list_layers(str(path))["name"].iloc[0]
        return gpd.read_file(str(path), layer=layer, engine="pyogrio")
    except Exception as error:  # pyogrio's errors share no base below this
        reason = " ".join(str(error).split())[:200]
        raise RasterError(f"{name}: no readable polygons ({reason}); give a vector file") from error


def _frame(file: VectorFile) -> gpd.GeoDataFrame:
    if not exists(file.path):
        raise RasterError(f"{file.path}: no such file; expected label polygons there: check the path")
    frame = read_layer(file.path, file.layer, str(file.path))
    if not isinstance(frame, gpd.GeoDataFrame):
        raise RasterError(f"{file.path}: holds no geometries; expected polygons with a class column")
    if file.column not in frame or file.column == frame.geometry.name:
        there = [str(name) for name in frame.columns if name != frame.geometry.name]
        raise RasterError(
            f"{file.path}: no column {file.column!r}; it has {', '.join(there) or 'none'}: name one of them"
        )
    if frame.crs is None:
        raise RasterError(f"{file.path}: has no CRS; write one into the file (ogr2ogr -a_srs EPSG:…)")
    return frame


def _simple(
    file: VectorFile, geometries: npt.NDArray[np.object_]
) -> tuple[npt.NDArray[np.object_], npt.NDArray[np.intp]]:
    """Returns valid single polygons in their order, and the feature that each is a part of."""
    given = geometries[~(shapely.is_missing(geometries) | shapely.is_empty(geometries))]
    strange = int(np.sum(shapely.get_dimensions(given) < 2))
    if strange:
        raise RasterError(
            f"{file.path}: {strange} of {len(geometries)} features are points or lines; expected polygons: "
            "take them out, or buffer them"
        )
    parts, feature = shapely.get_parts(shapely.make_valid(shapely.force_2d(geometries)), return_index=True)
    parts, inner = shapely.get_parts(parts, return_index=True)  # a repaired polygon may be a collection
    polygon = shapely.get_type_id(parts) == _POLYGON
    return parts[polygon], feature[inner][polygon]


@lru_cache(maxsize=32)
def _polygons(key: _Key) -> _Polygons:
    reader = key.reader
    file, grid = _loaded(reader.file), reader.grid
    near = file.near(grid)
    shapes = shapely.transform(file.shapes[near], partial(_to_pixels, _transformer(file, grid), ~grid.affine))
    if len(shapes) and not np.isfinite(shapely.total_bounds(shapes)).all():
        raise RasterError(
            f"{reader.file.path}: polygons have no place in {grid.crs}; reproject the file first"
        )
    ids = _ids(file, reader.class_map, reader.file)[file.feature[near]]
    whole = shapely.box(0, 0, grid.shape[1], grid.shape[0])
    inside = shapely.intersects(shapely.make_valid(shapes), whole)
    return _Polygons(shapes[inside], ids[inside], shapely.STRtree(shapes[inside]))


def _transformer(file: _Loaded, grid: GeoBox) -> Transformer:
    return Transformer.from_crs(file.crs, str(grid.crs), always_xy=True)


def _to_pixels(
    transformer: Transformer, inverse: Affine, points: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    x, y = transformer.transform(points[:, 0], points[:, 1])
    a, b, c, d, e, f = inverse[:6]
    return np.stack([a * x + b * y + c, d * x + e * y + f], axis=1)


@lru_cache(maxsize=_KEPT)
def _burnt(key: _Key, row: int, col: int) -> Ids:
    """Returns class ids of one block."""
    reader, polygons = key.reader, _polygons(key)
    # Boxes are asked for, not shapes: a polygon that only touches the block's edge costs nothing.
    near = np.sort(polygons.tree.query(shapely.box(col - 1, row - 1, col + _BLOCK + 1, row + _BLOCK + 1)))
    if not len(near):
        return np.full((_BLOCK, _BLOCK), reader.outside, np.uint8)
    with quiet():  # rasterio warns of the block at the origin, whose transform is the identity
        burnt: Ids = rasterize(
            zip(polygons.shapes[near], polygons.ids[near].tolist(), strict=True),
            (_BLOCK, _BLOCK),
            fill=reader.outside,
            transform=Affine.translation(col, row),
            all_touched=reader.touched,
            dtype=np.uint8,
        )
    return burnt


def _parts(window: Window) -> Iterator[tuple[int, int, Window]]:
    """Yields first row and column of each block that a window meets, and what they share."""
    rows = range(window.row // _BLOCK * _BLOCK, window.row + window.height, _BLOCK)
    cols = range(window.col // _BLOCK * _BLOCK, window.col + window.width, _BLOCK)
    for row, col in product(rows, cols):
        part = window.intersection(Window(row, col, _BLOCK, _BLOCK))
        if part is not None:
            yield row, col, part


def _outline(grid: GeoBox, crs: str) -> Any:
    """Returns a grid with a margin as a polygon in another CRS."""
    return grid.pad(_MARGIN + max(grid.shape) // 64).footprint(crs).geom


def _known(class_map: ClassMap) -> dict[str, int]:
    """Returns class id by name and by raw value as text; numbers win over names that look like them."""
    known = {entry.name: index for index, entry in enumerate(class_map.classes)}
    for index, entry in enumerate(class_map.classes):
        known |= {str(raw): index for raw in entry.values if isinstance(raw, int)}
    return known | {str(raw): IGNORED for raw in class_map.ignored if isinstance(raw, int)}


def _ids(file: _Loaded, class_map: ClassMap, source: VectorFile) -> Ids:
    """Returns the class id of each feature."""
    known = _known(class_map)
    codes, distinct = pd.factorize(file.values)
    ids = [_id(value, known, source) for value in distinct]
    found: Ids = np.array([*ids, IGNORED], np.uint8)[codes]  # pandas' code of null is -1
    return found


def _id(value: Any, known: Mapping[str, int], source: VectorFile) -> int:
    word = _word(value)
    if isinstance(value, str) and word not in known and is_whole(word):
        word = str(int(word))
    if word not in known:
        raise SceneError(
            f"{source.path}: column {source.column!r} holds {value!r}, which the class map does not know; "
            f"{nearest(word, list(known))}"
        )
    return known[word]


def _word(value: Any) -> str:
    """Returns a class as text; whole numbers beside nulls are floats in the column."""
    whole = isinstance(value, float | np.floating) and value.is_integer()
    return str(int(value)) if whole else str(value).strip()
