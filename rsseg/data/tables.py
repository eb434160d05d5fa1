"""Scene tables as files: GeoPackage, GeoParquet or CSV ↔ Scenes.

One row per scene, or per part of a scene that belongs to a split:

    id        unique; required
    split     train, val, test or empty
    <name>    a column per modality, in this order; the first is the reference
    label     of the classes
    geometry  where the scene lies, for looking at in a GIS; not read
    area      the part that belongs to the split, as WKT; with its CRS in `area_crs`

A cell of files is one path, or JSON: `["b2.tif", "b3.tif"]` (bands in order; an inner list is a mosaic), or
`{"files": …, "indexes": [1, 2, 3], "alpha": false}`.  A label may be
`{"polygons": "fields.gpkg", "column": "crop"}`.  An empty cell means that the scene lacks it.  Relative paths
start from the table's folder.
"""

import csv
import json
import warnings
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from odc.geo.crs import CRS
from pydantic import Field, StrictBool, StrictInt, StrictStr
from shapely.geometry.base import BaseGeometry

from rsseg import facts
from rsseg.data.scenes import SPLITS, Polygons, Scene, Scenes, Source, footprint
from rsseg.errors import RecipeError, RssegError, SceneError
from rsseg.raster.location import Files, Location, exists, locate

RESERVED = ("id", "split", "label", "geometry", "area", "area_crs")
"""Columns that are no modality."""

SUFFIXES = (".gpkg", ".parquet", ".geoparquet", ".csv")
"""Of files that are scene tables."""

Name = Annotated[StrictStr, Field(min_length=1)]
Tiles = Annotated[list[Name], Field(min_length=1)]
Bands = Annotated[list[Name | Tiles], Field(min_length=1)]


class _Rasters(facts.Fact):
    """A cell of raster files."""

    files: Name | Bands
    indexes: Annotated[list[Annotated[StrictInt, Field(ge=1)]], Field(min_length=1)] | None = None
    alpha: StrictBool = True


class _Vector(facts.Fact):
    """A cell of label polygons."""

    polygons: Name
    column: Name
    layer: Name | None = None
    touched: StrictBool = False
    outside: StrictInt | None = None


def is_table(path: Path) -> bool:
    """Returns whether a path names a scene table, by its suffix; a folder never does."""
    return path.suffix.lower() in SUFFIXES and not path.is_dir()


def read_scenes(
    path: Path | str, modalities: Collection[str] | None = None, *, complete: bool = True
) -> Scenes:
    """Returns the scenes of a table; its module, rsseg.data.tables, describes the columns.

    Args:
        path: GeoPackage, GeoParquet or CSV (UTF-8).
        modalities: columns that are taken; None takes all but `id, split, label, geometry, area, area_crs`.
        complete: whether a local file that is gone is refused here, or left to whoever opens it.

    Raises:
        SceneError: the table cannot be read; or a row is wrong, named with its scene and column: ids that
            stand twice, an unknown split, a cell that is no file list, a file that is gone.
    """
    path = Path(path)
    rows = _rows(path)
    names = [name for name in rows.columns if name not in RESERVED]
    taken = [name for name in names if modalities is None or name in modalities]
    if "id" not in rows:
        raise SceneError(f"{path}: no column `id`; it has {', '.join(rows.columns) or 'none'}: add it")
    if not taken:
        wanted = "" if modalities is None else f" {', '.join(modalities)}"
        there = ", ".join(names) or "none"
        raise SceneError(f"{path}: no column of a modality{wanted}; modalities there: {there}")
    if rows.empty:
        raise SceneError(f"{path}: holds no scene; expected a row for each")
    records = [{str(name): str(text) for name, text in row.items()} for row in rows.to_dict("records")]
    _require_distinct(path, records)
    scenes = Scenes(tuple(_scene(path, record, taken) for record in records), tuple(taken))
    if complete:
        _require_files(path, scenes)
    return scenes


def write_scenes(scenes: Scenes, path: Path | str) -> None:
    """Writes a scene table that `read_scenes` gives back; files below its folder are named from there.

    Args:
        scenes: the rows; GeoPackage and GeoParquet also show where they lie.
        path: its suffix decides: .gpkg, .parquet, .geoparquet or .csv; replaced if it exists.

    Raises:
        SceneError: another suffix, or a modality with the name of another column.
        RasterError: a scene's reference cannot be read, to see where it lies.
        RssegError: the table cannot be written.
    """
    path = Path(path)
    _require_suffix(path)
    clash = next((name for name in scenes.modalities if name.lower() in RESERVED), None)
    if clash is not None:
        raise SceneError(f"{path}: modality {clash!r} has the name of another column; rename it")
    folder = path.absolute().parent
    records = [_record(scene, scenes.modalities, folder) for scene in scenes]
    columns = ["id", "split", *scenes.modalities, "label", "area", "area_crs"]
    frame = pd.DataFrame(records, columns=columns, dtype=object)
    outlines = [] if path.suffix.lower() == ".csv" else [footprint(s, scenes.modalities) for s in scenes]
    try:
        _write(frame, outlines, path)
    except Exception as error:  # pyogrio's and pyarrow's errors share no base below this
        raise RssegError(f"{path}: cannot be written ({_line(error)}); give another path") from error


def _write(frame: pd.DataFrame, outlines: Sequence[BaseGeometry | None], path: Path) -> None:
    suffix = path.suffix.lower()
    if suffix == ".csv":
        # A lone carriage return is a line's end to readers, but not to the writer, who would not quote it.
        returns = frame.map(lambda text: "\r" in text).any(axis=None)
        frame.to_csv(path, index=False, quoting=csv.QUOTE_ALL if returns else csv.QUOTE_MINIMAL)
        return
    table = gpd.GeoDataFrame(frame, geometry=gpd.GeoSeries(outlines, crs="EPSG:4326"))
    if suffix == ".gpkg":
        path.unlink(missing_ok=True)
        table.to_file(path, driver="GPKG", layer="scenes", engine="pyogrio")
    else:
        table.to_parquet(path)


def _record(scene: Scene, modalities: Sequence[str], folder: Path) -> dict[str, str]:
    area = "" if scene.area is None else shapely.to_wkt(scene.area, rounding_precision=-1)
    return {
        "id": scene.id,
        "split": scene.split or "",
        **{name: _cell(scene.files.get(name), folder) for name in modalities},
        "label": _cell(scene.label, folder),
        "area": area,
        "area_crs": scene.area_crs or "",
    }


def _cell(source: Source | Polygons | None, folder: Path) -> str:
    if source is None:
        return ""
    if isinstance(source, Polygons):
        content: Any = {
            "polygons": _name(source.path, folder),
            "column": source.column,
            "layer": source.layer,
            "touched": source.touched,
            "outside": source.outside,
        }
        return json.dumps(
            {key: value for key, value in content.items() if value is not None}, ensure_ascii=False
        )
    content = [
        [_name(tile, folder) for tile in item] if isinstance(item, tuple) else _name(item, folder)
        for item in source.paths
    ]
    if source.indexes is not None or not source.alpha:
        indexes = {} if source.indexes is None else {"indexes": list(source.indexes)}
        content = {"files": content, **indexes, "alpha": source.alpha}
    elif len(content) == 1 and isinstance(content[0], str) and _is_plain(content[0]):
        return content[0]
    return json.dumps(content, ensure_ascii=False)


def _name(location: Location, folder: Path) -> str:
    """Returns a path from a folder where it lies below, else whole; virtual names as they are."""
    if isinstance(location, str):
        return location
    whole = location.absolute()
    return whole.relative_to(folder).as_posix() if whole.is_relative_to(folder) else whole.as_posix()


def _is_plain(text: str) -> bool:
    return text == text.strip() and text[:1] not in {"[", "{"}


def _require_suffix(path: Path) -> None:
    if path.suffix.lower() not in SUFFIXES:
        raise SceneError(f"{path}: no scene table by its suffix; expected {', '.join(SUFFIXES)}")


def _rows(path: Path) -> pd.DataFrame:
    """Returns the table as text; what is missing is empty."""
    _require_suffix(path)
    if not path.is_file():
        raise SceneError(f"{path}: no such file; expected a scene table there: check the path")
    try:
        frame = _read(path)
    except Exception as error:  # pyogrio's and pyarrow's errors share no base below this
        raise SceneError(f"{path}: no readable scene table ({_line(error)}); check the file") from error
    frame.columns = [str(name) for name in frame.columns]
    twice = next((name for name, count in Counter(frame.columns).items() if count > 1), None)
    if twice is not None:
        raise SceneError(f"{path}: column {twice!r} stands twice; rename one of them")
    kept = [name for name in frame.columns if name != "geometry"]
    # Not DataFrame.map: it may bring back columns of numbers.
    return pd.DataFrame({name: [_text(value) for value in frame[name]] for name in kept}, dtype=object)


def _read(path: Path) -> pd.DataFrame:
    suffix = path.suffix.lower()
    if suffix == ".csv":
        lines = pd.read_csv(path, header=None, dtype=str, keep_default_na=False, encoding="utf-8-sig")
        return lines.iloc[1:].set_axis(lines.iloc[0].tolist(), axis="columns")
    if suffix != ".gpkg":
        return pd.read_parquet(path)
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", RuntimeWarning
        )  # GDAL's, of a damaged file: an error follows, or none
        layers = gpd.list_layers(path)["name"].tolist()
        layer = "scenes" if "scenes" in layers else layers[0]
        frame: pd.DataFrame = gpd.read_file(path, layer=layer, engine="pyogrio")
    return frame


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list | dict | np.ndarray):  # GeoParquet has columns of lists
        return json.dumps(value, default=_plain)
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))  # integers beside empty cells become floats
    return "" if pd.api.types.is_scalar(value) and pd.isna(value) else str(value)


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else str(value)


def _require_distinct(path: Path, records: Sequence[Mapping[str, str]]) -> None:
    """One id may stand once per split, if each row has an area of its own."""
    empty = next((number for number, record in enumerate(records, 1) if not record["id"]), None)
    if empty is not None:
        raise SceneError(f"{path}, row {empty}, column id: is empty; give every scene an id")
    ids = Counter(record["id"] for record in records)
    places = Counter((record["id"], record.get("split", "")) for record in records)
    for record in records:
        name, split = record["id"], record.get("split", "")
        if ids[name] > 1 and (places[name, split] > 1 or not split or not record.get("area")):
            raise SceneError(
                f"{path}, scene {name}, column id: stands {ids[name]} times; expected once, or "
                "once per split with an `area` each"
            )


def _require_files(path: Path, scenes: Scenes) -> None:
    for scene in scenes:
        columns = {**scene.files, **({"label": scene.label} if scene.label else {})}
        for column, source in columns.items():
            gone = next((file for file in source.files if not _is_there(file)), None)
            if gone is not None:
                name = str(gone).removeprefix(f"{path.parent}/")[:200]
                raise SceneError(
                    f"{path}, scene {scene.id}, column {column}: {name}: no such file in {path.parent}; "
                    "restore it, or empty the cell"
                )


def _is_there(location: Location) -> bool:
    try:
        return exists(location)
    except OSError:  # a name that no file system takes
        return False


def _scene(path: Path, record: Mapping[str, str], modalities: Sequence[str]) -> Scene:
    place = f"{path}, scene {record['id']}, column"
    split = record.get("split", "")
    if split not in ("", *SPLITS):
        raise SceneError(f"{place} split: {split!r}; expected train, val, test or nothing")
    label = _parsed(f"{place} label", record.get("label", ""), path.parent)
    files = {}
    for name in modalities:
        source = _parsed(f"{place} {name}", record[name], path.parent)
        if isinstance(source, Polygons):
            raise SceneError(f"{place} {name}: polygons are labels; expected raster files")
        if source is not None:
            files[name] = source
    if not files:
        raise SceneError(f"{place} {', '.join(modalities)}: no file; expected one in at least one of them")
    area, crs = _area(f"{place} area", record.get("area", ""), record.get("area_crs", ""))
    return Scene(record["id"], files, label, split or None, area, crs)


def _parsed(place: str, text: str, folder: Path) -> Source | Polygons | None:
    try:
        return _source(text, folder) if text else None
    except (RecipeError, SceneError) as error:
        raise SceneError(f"{place}: {error}") from error


def _source(text: str, folder: Path) -> Source | Polygons:
    """Returns what a cell that is not empty stands for."""
    content = _content(text)
    if isinstance(content, dict) and "polygons" in content:
        vector = facts.parse(_Vector, content, "polygons")
        path = locate(vector.polygons, folder)
        return Polygons(path, vector.column, vector.layer, vector.touched, vector.outside)
    if isinstance(content, list) and not _is_list_of_files(content):
        raise SceneError(
            f'{text[:80]!r}: expected files, as in ["b2.tif", "b3.tif"]; an inner list is a mosaic'
        )
    rasters = facts.parse(_Rasters, content if isinstance(content, dict) else {"files": content}, "cell")
    items = [rasters.files] if isinstance(rasters.files, str) else rasters.files
    paths: list[Files] = [
        locate(item, folder) if isinstance(item, str) else tuple(locate(tile, folder) for tile in item)
        for item in items
    ]
    return Source(tuple(paths), None if rasters.indexes is None else tuple(rasters.indexes), rasters.alpha)


def _is_list_of_files(content: Sequence[Any]) -> bool:
    tiles = [tile for item in content for tile in (item if isinstance(item, list) else [item])]
    return bool(tiles) and all(isinstance(tile, str) and tile for tile in tiles) and [] not in content


def _content(text: str) -> Any:
    if text.lstrip()[:1] not in {"[", "{"}:
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SceneError(
            f"{text[:80]!r} is no JSON ({_line(error)}); a file whose name begins so is written "
            f"{json.dumps([text[:80]])}"
        ) from error


def _area(place: str, text: str, crs: str) -> tuple[BaseGeometry | None, str | None]:
    if not text:
        return None, None
    try:
        area = shapely.from_wkt(text)
    except shapely.errors.GEOSException as error:
        raise SceneError(f"{place}: no WKT ({_line(error)}); expected a polygon") from error
    if area.geom_type not in {"Polygon", "MultiPolygon"} or area.is_empty:
        raise SceneError(f"{place}: {area.geom_type}; expected a polygon that is not empty")
    try:
        _ = CRS(crs) if crs else None
    except Exception as error:  # pyproj's and odc-geo's errors share no base below this
        raise SceneError(
            f"{place}_crs: {crs[:80]!r} is no CRS that PROJ knows; write EPSG:… or WKT"
        ) from error
    return area, crs or None


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
