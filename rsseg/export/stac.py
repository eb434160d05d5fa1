"""Maps as STAC: an Item for each scene, beside its maps, and a Collection for all that lie in a folder.

    OUT/<stem>.json       Item: what `OUT/<stem>_*.tif` hold, where they lie, what they were made of;
                          with `~` where the stem has `%`
    OUT/collection.json   Collection: every Item in OUT, whoever wrote it

All that is said of a map is read from the finished file, its RSSEG_* tags included.  Links are relative
references of URIs (RFC 3986): a file name with `%` stands there as `%25`, so that no reader that decodes it
can be led out of the folder.

When a scene was taken is not known to rsseg.  Unless the caller says it, `datetime` is null and the scene
lies between 1900 and the moment at which it was mapped: in this case the specification asks for an interval.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np
import rasterio
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox
from rasterio.errors import RasterioError
from shapely.geometry.base import BaseGeometry

from rsseg import whole
from rsseg.classmap import ClassMap
from rsseg.data.scenes import Scene, Scenes
from rsseg.errors import GridError, RasterError, RssegError
from rsseg.export.links import plain, reference
from rsseg.export.place import around, bounds, footprint, geojson
from rsseg.raster.handles import quiet
from rsseg.raster.write import safe_stem

if TYPE_CHECKING:
    import pystac

COLLECTION = "collection.json"

_SCHEMA = "https://stac-extensions.github.io/{}/schema.json"
PROJECTION, RASTER, CLASSIFICATION, PROCESSING, FILE = (
    _SCHEMA.format(name)
    for name in (
        "projection/v2.0.0",
        "raster/v2.0.0",
        "classification/v2.0.0",
        "processing/v1.2.0",
        "file/v2.1.0",
    )
)

_COG = "image/tiff; application=geotiff; profile=cloud-optimized"
_KINDS = {
    "classes": "Class of each pixel",
    "confidence": "Probability of that class",
    "probabilities": "Probability of each class",
    "modalities": "Modalities that were used, one bit each",
    "contributions": "Share of each modality",
}
"""Suffix of a map → its title."""
_BESIDE = {
    ".qml": ("application/xml", "QGIS style"),
    ".qmd": ("application/xml", "QGIS layer metadata"),
    ".tif.aux.xml": ("application/xml", "Class names for GDAL"),
    ".gpkg": ("application/geopackage+sqlite3", "Regions as polygons"),
}
"""What may stand beside a map → media type, title."""
_LONG_AGO = datetime(1900, 1, 1, tzinfo=UTC)

Taken = tuple[datetime, datetime]


@dataclass(frozen=True)
class MapFile:
    """What a finished map says of itself."""

    path: Path
    grid: GeoBox
    tags: Mapping[str, str]
    dtype: str
    nodata: float | None
    names: tuple[str, ...]
    """One per band."""
    scale: float
    offset: float


def write_items(
    out: Path,
    scenes: Scenes,
    class_map: ClassMap,
    *,
    model: Path | None = None,
    taken: Mapping[str, Taken] | None = None,
    maps: Mapping[str, Sequence[Path]] | None = None,
) -> list[Path]:
    """Writes an Item for each scene that has maps in a folder, then the folder's Collection.

    Args:
        out: folder of the maps, `<stem>_classes.tif` and so on.
        scenes: the scene table; a scene without maps is passed over.
        class_map: of the model.
        model: model file, to which the Items link.
        taken: scene id → begin and end of its acquisition, with time zone, where they are known.
        maps: scene id → its maps, the class map first, where others lie in the folder that an older job left;
            None takes all that lie there.

    Returns:
        What was written, the Collection last.

    Raises:
        RssegError: pystac is not installed, or a file cannot be written.
        RasterError: a map cannot be read, or the maps of a scene are not alike.
    """
    written = []
    for scene in scenes:
        found = maps_of(out, scene.id) if maps is None else maps.get(scene.id)
        if found:
            when = (taken or {}).get(scene.id)
            written.append(write(item(found, scene, class_map, model=model, taken=when), out))
    return [*written, write(collection(out, class_map, model=model), out)]


def maps_of(out: Path, scene_id: str) -> list[Path]:
    """Returns the finished maps of a scene in a folder, the class map first."""
    found = (out / f"{safe_stem(scene_id)}_{kind}.tif" for kind in _KINDS)
    return [path for path in found if path.is_file()]


def item(
    maps: Sequence[Path],
    scene: Scene,
    class_map: ClassMap,
    *,
    model: Path | None = None,
    taken: Taken | None = None,
) -> "pystac.Item":
    """Returns the Item of a scene; its links are relative to the folder of the maps.

    Args:
        maps: finished maps of one scene in one folder, of one grid.
        scene: its row in the scene table.
        class_map: of the model.
        model: model file.
        taken: begin and end of the acquisition, with time zone, where they are known.

    Raises:
        RssegError: pystac is not installed, or a file cannot be read.
        RasterError: a map cannot be read, or the maps are not alike.
    """
    stac = require()
    files = [read(path) for path in maps]
    first = _alike(files, scene)
    outline = footprint(first.grid)
    made = _moment(first.tags.get("RSSEG_DATE"))
    begin, end = taken or (_LONG_AGO, made)
    found: pystac.Item = stac.Item(
        id=safe_stem(scene.id),
        geometry=None if outline is None else geojson(outline),
        bbox=None if outline is None else list(bounds(outline)),
        datetime=begin if begin == end else None,
        properties={**_properties(first, scene, outline), "created": _text(made), **_interval(begin, end)},
        stac_extensions=[PROJECTION, RASTER, CLASSIFICATION, PROCESSING, FILE],
    )
    for file in files:
        for key, asset in _assets(file, class_map).items():
            found.add_asset(key, stac.Asset.from_dict(asset))
    used = [name for name in first.tags.get("RSSEG_MODALITIES", "").split(",") if name in scene.files]
    inputs = [(name, place) for name in used for place in scene.files[name].files]
    for name, place in inputs:
        href = reference(place, first.path.parent)
        if href is not None:
            found.add_link(stac.Link("derived_from", href, title=plain(name)))
    if model is not None:
        found.add_link(_model_link(model, first.path.parent))
    found.add_link(stac.Link("collection", f"./{COLLECTION}", "application/json"))
    found.collection_id = _collection_id(first.path.parent)
    return found


def collection(out: Path, class_map: ClassMap, *, model: Path | None = None) -> "pystac.Collection":
    """Returns the Collection of all Items in a folder, also of those that another run has written.

    Args:
        out: the folder.
        class_map: of the model.
        model: model file.

    Raises:
        RssegError: pystac is not installed, or a file cannot be read.
    """
    stac = require()
    items = [(path, content) for path in sorted(out.glob("*.json")) if (content := _read_item(path))]
    boxes = [tuple(content["bbox"]) for _, content in items if content.get("bbox")]
    moments = [content["properties"] for _, content in items]
    extent = stac.Extent(
        stac.SpatialExtent([list(around(boxes))]), stac.TemporalExtent([list(_during(moments))])
    )
    found: pystac.Collection = stac.Collection(
        id=_collection_id(out),
        description=f"Land-cover maps of {len(items)} scenes"
        + ("" if len(boxes) == len(items) else f", {len(items) - len(boxes)} of them without georeferencing"),
        extent=extent,
        license="other",
        stac_extensions=[CLASSIFICATION],
        assets=None,
    )
    found.extra_fields["item_assets"] = {
        "classes": {
            "title": _KINDS["classes"],
            "type": _COG,
            "roles": ["data"],
            "classification:classes": classes(class_map),
        }
    }
    for path, content in items:
        title = content["properties"].get("title")
        found.add_link(stac.Link("item", f"./{quote(path.name)}", "application/geo+json", title))
    if model is not None:
        found.add_link(_model_link(model, out))
    return found


def write(found: "pystac.Item | pystac.Collection", out: Path) -> Path:
    """Writes an Item or a Collection into a folder, whole or not at all, and returns its path.

    Raises:
        RssegError: the file cannot be written.
    """
    content = found.to_dict(include_self_link=False)
    path = out / (COLLECTION if content["type"] == "Collection" else item_name(found.id))
    root = {"rel": "root", "href": f"./{COLLECTION}", "type": "application/json"}
    content["links"] = [root, *(link for link in content["links"] if link["rel"] != "root")]
    whole.write(path, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False).encode())
    return path


def item_name(stem: str) -> str:
    """Returns the file name of an Item; a scene called "collection" does not take the Collection's.

    Example:
        >>> item_name("Stra%C3%9Fe%207"), item_name("collection")
        ('Stra~C3~9Fe~207.json', 'collection~-item.json')
    """
    # pystac opens local links as they stand, so that it would look for %25 in a file's name; no stem holds
    # "~", nor "%-" and a letter that is no hexadecimal digit
    taken = f"{stem}.json".casefold() == COLLECTION
    return f"{stem.replace('%', '~')}{'~-item' if taken else ''}.json"


def require() -> Any:
    """Returns pystac.

    Raises:
        RssegError: it is not installed; the message says how to install it.
    """
    try:
        import pystac  # noqa: PLC0415 - optional
    except ImportError as error:
        raise RssegError("STAC needs pystac, not installed here; pip install 'rsseg[stac]'") from error
    return pystac


def read(path: Path) -> MapFile:
    """Returns what a finished map says of itself.

    Raises:
        RasterError: it cannot be read.
    """
    try:
        with quiet(), rasterio.open(path) as file:
            names = [name or f"band {index}" for index, name in enumerate(file.descriptions, 1)]
            return MapFile(
                path=path,
                grid=GeoBox(file.shape, file.transform, None if file.crs is None else CRS(file.crs.to_wkt())),
                tags=file.tags(),
                dtype=file.dtypes[0],
                nodata=file.nodata,
                names=tuple(map(plain, names)),
                scale=file.scales[0],
                offset=file.offsets[0],
            )
    except RasterioError as error:
        reason = " ".join(str(error).split())
        raise RasterError(f"{path}: cannot be read ({reason}); predict the scene again") from error


def classes(class_map: ClassMap) -> list[dict[str, Any]]:
    """Returns the classes as the classification extension has them.

    `name` is for machines, letters, digits, `-` and `_` alone; `title` is the class map's name.
    """
    found: dict[str, dict[str, Any]] = {}
    for value, entry in enumerate(class_map.classes):
        name = re.sub("[^0-9A-Za-z_-]+", "_", entry.name).strip("_") or f"class_{value}"
        while name in found:
            name = f"{name}_{value}"
        found[name] = {"value": value, "entry": entry}
    return [
        {
            "value": one["value"],
            "name": name,
            "title": plain(one["entry"].name),
            "description": plain(one["entry"].name),
            "color_hint": one["entry"].colour[1:].upper(),
        }
        for name, one in found.items()
    ]


def _alike(files: Sequence[MapFile], scene: Scene) -> MapFile:
    if not files:
        raise RasterError(f"scene {scene.id}: has no maps; predict it first")
    for file in files[1:]:
        if file.path.parent != files[0].path.parent or file.grid != files[0].grid:
            raise GridError(f"{file.path}: lies elsewhere than {files[0].path}; predict the scene again")
    return files[0]


def _properties(file: MapFile, scene: Scene, outline: BaseGeometry | None) -> dict[str, Any]:
    tags = {name: plain(text) for name, text in file.tags.items()}
    method, used = tags.get("RSSEG_METHOD", "rsseg"), tags.get("RSSEG_MODALITIES", "")
    found = {
        "title": plain(scene.id),
        "description": f"Land cover by {method} from {used.replace(',', ', ') or 'its modalities'}"
        + ("" if outline is not None else "; without georeferencing, and so without a place"),
        "processing:level": "L4",
        "processing:software": {"rsseg": tags.get("RSSEG_VERSION", "unknown")},
        "processing:lineage": f"rsseg predict with the model of recipe {tags.get('RSSEG_RECIPE', 'unknown')}",
        "rsseg:modalities": [name for name in used.split(",") if name],
        **_projection(file.grid),
    }
    extra = {"rsseg:method": "RSSEG_METHOD", "rsseg:recipe": "RSSEG_RECIPE", "rsseg:model": "RSSEG_MODEL"}
    return found | {name: tags[tag] for name, tag in extra.items() if tag in tags}


def _projection(grid: GeoBox) -> dict[str, Any]:
    found: dict[str, Any] = {"proj:code": None, "proj:shape": [int(side) for side in grid.shape]}
    found["proj:transform"] = [float(number) for number in grid.affine[:6]]
    if grid.crs is None:
        return found
    authority = grid.crs.proj.to_authority(min_confidence=100)
    found["proj:bbox"] = list(grid.extent.geom.bounds)
    if authority is not None:
        return found | {"proj:code": ":".join(authority)}
    return found | {"proj:wkt2": grid.crs.proj.to_wkt("WKT2_2019")}


def _assets(file: MapFile, class_map: ClassMap) -> dict[str, dict[str, Any]]:
    """Returns key → asset: the map, and what stands beside it."""
    kind = next((kind for kind in _KINDS if file.path.stem.endswith(f"_{kind}")), "data")
    asset = {"title": _KINDS.get(kind, kind), "type": _COG, "roles": ["data"], "bands": _bands(file)}
    if kind == "classes":
        asset["classification:classes"] = classes(class_map)
    found = {kind: {**asset, **_file(file.path)}}
    for suffix, (media, title) in _BESIDE.items():
        beside = file.path.with_name(file.path.stem + suffix)
        if beside.is_file():
            role = "data" if suffix == ".gpkg" else "metadata"
            key = f"{kind}-{suffix.rpartition('.')[2]}"
            found[key] = {"title": title, "type": media, "roles": [role], **_file(beside)}
    return found


def _bands(file: MapFile) -> list[dict[str, Any]]:
    shared: dict[str, Any] = {"data_type": file.dtype, "raster:sampling": "area"}
    if file.nodata is not None:
        shared["nodata"] = file.nodata if np.isfinite(file.nodata) else str(file.nodata)
    if (file.scale, file.offset) != (1.0, 0.0):
        shared |= {"raster:scale": file.scale, "raster:offset": file.offset}
    crs = file.grid.crs
    if crs is not None and crs.projected:
        metres = crs.proj.axis_info[0].unit_conversion_factor
        shared["raster:spatial_resolution"] = abs(float(file.grid.affine.determinant)) ** 0.5 * metres
    return [{"name": name, **shared} for name in file.names]


def _file(path: Path) -> dict[str, Any]:
    checksum = whole.checksum(path)
    return {"href": f"./{quote(path.name)}", "file:size": path.stat().st_size, "file:checksum": checksum}


def _model_link(model: Path, folder: Path) -> "pystac.Link":
    """Returns a link to a model's own Item where there is one, else to the model file."""
    described = model.with_suffix(".json")
    target, media = (
        (described, "application/geo+json") if described.is_file() else (model, "application/octet-stream")
    )
    link: pystac.Link = require().Link("processing-expression", reference(target, folder), media, "model")
    return link


def _collection_id(out: Path) -> str:
    return safe_stem(out.absolute().resolve().name) or "maps"


def _read_item(path: Path) -> dict[str, Any] | None:
    """Returns the Item of maps in a file; None where it holds anything else."""
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError):  # not ours: ours are written whole
        return None
    except OSError as error:
        raise RssegError(f"{path}: cannot be read ({error.strerror}); check the file") from error
    ours = isinstance(content, dict) and isinstance(content.get("properties"), dict)
    return content if ours and "rsseg:modalities" in content["properties"] else None


def _during(moments: Iterable[Mapping[str, Any]]) -> tuple[datetime | None, datetime | None]:
    """Returns when scenes were taken; without a begin where that is not known of one."""
    begins, ends = [], []
    for one in moments:  # someone may have corrected them by hand
        when = one.get("datetime")
        begins.append(_moment(when or one.get("start_datetime")))
        ends.append(_moment(when or one.get("end_datetime")))
    begin = min(begins, default=None)
    return None if begin == _LONG_AGO else begin, max(ends, default=None)


def _interval(begin: datetime, end: datetime) -> dict[str, str]:
    return {} if begin == end else {"start_datetime": _text(begin), "end_datetime": _text(end)}


def _moment(text: object) -> datetime:
    """Returns the moment that a text says; now where it says none."""
    try:
        found = datetime.fromisoformat(str(text))
    except ValueError:
        found = datetime.now(UTC)
    return found.replace(tzinfo=found.tzinfo or UTC).astimezone(UTC)


def _text(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
