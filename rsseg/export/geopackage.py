"""Polygons into a GeoPackage that appears whole or not at all, with the style that QGIS applies on load."""

import contextlib
import os
import re
import shutil
import sqlite3
import warnings
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pyarrow as pa
import pyogrio
from pyogrio.errors import DataLayerError, DataSourceError, FeatureError, FieldError, GeometryError

from rsseg.errors import RasterError
from rsseg.export.legend import Legend
from rsseg.raster.sidecars import legible

GEOMETRY = "geom"
"""Name of the geometry column."""

_FAILURES = (OSError, DataSourceError, DataLayerError, FeatureError, FieldError, GeometryError, sqlite3.Error)

_STYLES = """CREATE TABLE layer_styles (
 id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, f_table_catalog TEXT(256), f_table_schema TEXT(256),
 f_table_name TEXT(256), f_geometry_column TEXT(256), styleName TEXT(30), styleQML TEXT, styleSLD TEXT,
 useAsDefault BOOLEAN, description TEXT, owner TEXT(30), ui TEXT(30),
 update_time DATETIME DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ','now')))"""
"""The table as QGIS makes it."""

_RESERVED = re.compile("$|gpkg|rtree|sqlite", re.IGNORECASE)
"""Beginnings of names that GeoPackage or SQLite keep for themselves, and no name."""

_TITLE = "UPDATE gpkg_contents SET identifier = ?, description = ? WHERE table_name = ?"
_CONTENTS = "INSERT INTO gpkg_contents (table_name, data_type, identifier) VALUES (?, 'attributes', ?)"
_ADD = (
    "INSERT INTO layer_styles (f_table_catalog, f_table_schema, f_table_name, f_geometry_column, styleName, "
    "styleQML, styleSLD, useAsDefault, description) VALUES ('', '', ?, ?, ?, ?, '', 1, ?)"
)


def layer_name(out: Path) -> str:
    """Returns the layer's name after the file's: a word, since GDAL and QGIS stumble over others.

    Example:
        >>> layer_name(Path("maps/%C3%84cker (2).gpkg")), layer_name(Path("gpkg_x.gpkg"))
        ('C3_84cker_2', 'regions_gpkg_x')
    """
    name = re.sub(r"\W+", "_", out.stem).strip("_")
    return f"regions_{name}".rstrip("_") if _RESERVED.match(name) else name


def require_free(out: Path, *, overwrite: bool) -> None:
    """Checks that a GeoPackage may be written.

    Raises:
        RasterError: not named `….gpkg`, something is there already, or another program has it open.
    """
    if out.suffix.lower() != ".gpkg":
        raise RasterError(f"{out}: expected a name that ends in .gpkg; give another --out")
    if "!" in str(out.absolute()):  # pyogrio takes what is before it for an archive
        raise RasterError(f"{out}: a '!' in a path cannot be written to; give another --out")
    if out.is_dir():
        raise RasterError(f"{out} is a folder; choose another name")
    if out.exists() and not overwrite:
        raise RasterError(f"{out} exists already; pass --overwrite or another --out")
    log = out.with_name(f"{out.name}-wal")
    if log.is_file() and log.stat().st_size:  # it would be applied to the new file
        raise RasterError(f"{out} is open in another program ({log.name} is there); close it first")


@contextmanager
def published(out: Path) -> Iterator[Path]:
    """Gives the path of a file to write; a clean end gives it its final name, an error removes it.

    Raises:
        RasterError: the folder is missing or cannot be written to, or the disk is full.
    """
    folder = out.absolute().with_name(f".{out.name}.part")
    with reported(out):
        shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed
        folder.mkdir()
        mark = (folder / "owner").open("xb")
    with mark:
        try:
            yield folder / "regions.gpkg"
            with reported(out):
                if not _owned(mark, folder):
                    raise RasterError(f"{out}: another run writes it too; start one of them again")
                os.replace(folder / "regions.gpkg", out)
        finally:
            if _owned(mark, folder):
                shutil.rmtree(folder, ignore_errors=True)


def _owned(mark: Any, folder: Path) -> bool:
    with contextlib.suppress(OSError):
        return os.path.samestat(os.fstat(mark.fileno()), (folder / "owner").stat())
    return False


def write_layer(
    path: Path, layer: str, schema: pa.Schema, batches: Iterator[pa.RecordBatch], crs: str | None
) -> None:
    """Writes polygons as they come.

    Args:
        path: of a new GeoPackage.
        layer: name of the table.
        schema: of the batches.
        batches: with the geometry as WKB in the column `GEOMETRY`.
        crs: WKT; None where the map has none.

    Raises:
        Exception: what the batches raise.
    """
    raised: list[BaseException] = []

    def watched() -> Iterator[pa.RecordBatch]:
        try:
            yield from batches
        except BaseException as error:  # GDAL pulls the batches, and would only say that they ended
            raised.append(error)
            raise

    reader = pa.RecordBatchReader.from_batches(schema, watched())
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "'crs' was not provided", UserWarning)
            pyogrio.write_arrow(
                reader,
                path,
                layer=layer,
                driver="GPKG",
                geometry_name=GEOMETRY,
                geometry_type="Polygon",
                crs=crs,
                dataset_options={"VERSION": "1.3"},  # GDAL 3.6, in Debian's QGIS, warns of newer ones
            )
    except Exception:
        if raised:
            raise raised[0] from None
        raise
    if raised:
        raise raised[0]


def write_title(path: Path, layer: str, title: str) -> None:
    """Stores what QGIS shows as the layer's title and abstract.

    Args:
        path: of the GeoPackage.
        layer: name of the table.
        title: plain text.
    """
    abstract = "Connected regions of equal class: area in square metres, mean confidence. Made by rsseg."
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(_TITLE, (legible(title), abstract, layer))


def write_style(path: Path, layer: str, legend: Legend, class_ids: Sequence[int], title: str) -> None:
    """Stores the layer's style in a GeoPackage, as QGIS does when a style is saved as default.

    Args:
        path: of the GeoPackage.
        layer: name of the table.
        legend: names and colours.
        class_ids: classes that the style shows.
        title: of the style.
    """
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(_STYLES)
        database.execute(_CONTENTS, ("layer_styles", "layer_styles"))
        database.execute(_ADD, (layer, GEOMETRY, layer[:30], style(legend, class_ids), legible(title)))


def style(legend: Legend, class_ids: Sequence[int]) -> str:
    """Returns QGIS's style of polygons by class: filled with the class's colour, without outline."""
    root = ElementTree.Element("qgis", version="3.22", styleCategories="Symbology")
    renderer = ElementTree.SubElement(
        root, "renderer-v2", type="categorizedSymbol", attr="class_id", symbollevels="0", enableorderby="0"
    )
    categories = ElementTree.SubElement(renderer, "categories")
    symbols = ElementTree.SubElement(renderer, "symbols")
    for number, class_id in enumerate(class_ids):
        ElementTree.SubElement(
            categories,
            "category",
            value=str(class_id),
            symbol=str(number),
            label=legible(legend.name(class_id)),
            render="true",
            type="integer",
        )
        symbol = ElementTree.SubElement(
            symbols, "symbol", type="fill", name=str(number), alpha="1", clip_to_extent="1", force_rhr="0"
        )
        fill = ElementTree.SubElement(
            symbol, "layer", {"class": "SimpleFill", "enabled": "1", "locked": "0", "pass": "0"}
        )
        options = ElementTree.SubElement(fill, "Option", type="Map")
        colour = ",".join(map(str, (*legend.colour(class_id), 255)))
        for key, value in (("color", colour), ("style", "solid"), ("outline_style", "no")):
            ElementTree.SubElement(options, "Option", name=key, value=value, type="QString")
    text = ElementTree.tostring(root, encoding="unicode")
    return f"<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n{text}"


@contextmanager
def reported(out: Path) -> Iterator[None]:
    """Turns what the disk, GDAL and SQLite complain of into one line that names the file."""
    try:
        yield
    except _FAILURES as error:
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())
        raise RasterError(
            f"{out} cannot be written: {reason}; check the folder and the space left"
        ) from error
