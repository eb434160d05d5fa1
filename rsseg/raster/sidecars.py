"""What QGIS and GDAL read beside a map: class names, attribute table, colours."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable
from pathlib import Path
from xml.etree import ElementTree

from rsseg.classmap import ClassMap
from rsseg.errors import RasterError

_ILLEGAL = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that no XML file may hold, escaped or not."""

_INTEGER, _TEXT = "0", "2"
_COLUMNS = (
    ("Value", _INTEGER, "5"),
    ("Class name", _TEXT, "2"),
    ("Red", _INTEGER, "6"),
    ("Green", _INTEGER, "7"),
    ("Blue", _INTEGER, "8"),
    ("Alpha", _INTEGER, "9"),
)
"""Name, GDALRATFieldType and GDALRATFieldUsage of the attribute table's columns."""

_RAMP = ((0.0, "#440154"), (0.25, "#3b528b"), (0.5, "#21918c"), (0.75, "#5ec962"), (1.0, "#fde725"))
"""Confidence → colour (viridis: even steps, readable in grey and for colour-blind eyes)."""


def legible(text: str) -> str:
    """Returns the text without the characters that XML cannot hold."""
    return _ILLEGAL.sub("", text)


def write_class_sidecars(path: Path, class_map: ClassMap) -> None:
    """Writes `<name>.aux.xml` (class names, attribute table) and `<stem>.qml` (style) beside a class map.

    Call it after the map has its final name: a new map drops the old map's `.aux.xml`.

    Args:
        path: of the class map, `….tif`.
        class_map: names and colours, by id.

    Raises:
        RasterError: a file cannot be written.
    """
    _write(path.with_name(f"{path.name}.aux.xml"), _attributes(class_map))
    _write(path.with_suffix(".qml"), _style(_paletted(class_map)), doctype=True)


def write_confidence_style(path: Path) -> None:
    """Writes `<stem>.qml` beside a confidence map: dark where unsure, bright where sure.

    Args:
        path: of the confidence map, `….tif`.

    Raises:
        RasterError: the file cannot be written.
    """
    _write(path.with_suffix(".qml"), _style(_ramp()), doctype=True)


def _attributes(class_map: ClassMap) -> ElementTree.Element:
    root = ElementTree.Element("PAMDataset")
    band = ElementTree.SubElement(root, "PAMRasterBand", band="1")
    names = ElementTree.SubElement(band, "CategoryNames")
    for name in class_map.names:
        _leaf(names, "Category", name)
    table = ElementTree.SubElement(band, "GDALRasterAttributeTable", tableType="thematic")
    for index, column in enumerate(_COLUMNS):
        field = ElementTree.SubElement(table, "FieldDefn", index=str(index))
        for tag, text in zip(("Name", "Type", "Usage"), column, strict=True):
            _leaf(field, tag, text)
    for index, entry in enumerate(class_map.classes):
        row = ElementTree.SubElement(table, "Row", index=str(index))
        for value in (index, entry.name, *entry.rgb, 255):
            _leaf(row, "F", str(value))
    return root


def _style(renderer: ElementTree.Element) -> ElementTree.Element:
    root = ElementTree.Element("qgis", version="3.28", styleCategories="Symbology")
    ElementTree.SubElement(root, "pipe").append(renderer)
    _leaf(root, "blendMode", "0")
    return root


def _renderer(kind: str, **attributes: str) -> ElementTree.Element:
    # an empty nodataColor leaves nodata transparent
    shared = {"type": kind, "band": "1", "opacity": "1", "alphaBand": "-1", "nodataColor": ""}
    renderer = ElementTree.Element("rasterrenderer", {**shared, **attributes})
    ElementTree.SubElement(renderer, "rasterTransparency")
    return renderer


def _paletted(class_map: ClassMap) -> ElementTree.Element:
    renderer = _renderer("paletted")
    palette = ElementTree.SubElement(renderer, "colorPalette")
    for index, entry in enumerate(class_map.classes):
        label = legible(entry.name)
        ElementTree.SubElement(
            palette, "paletteEntry", value=str(index), color=entry.colour.lower(), label=label, alpha="255"
        )
    return renderer


def _ramp() -> ElementTree.Element:
    renderer = _renderer("singlebandpseudocolor", classificationMin="0", classificationMax="1")
    shader = ElementTree.SubElement(renderer, "rastershader")
    ramp = ElementTree.SubElement(
        shader,
        "colorrampshader",
        colorRampType="INTERPOLATED",
        classificationMode="1",
        clip="0",
        minimumValue="0",
        maximumValue="1",
    )
    for value, colour in _RAMP:
        ElementTree.SubElement(
            ramp, "item", value=f"{value:g}", color=colour, label=f"{value:.0%}", alpha="255"
        )
    return renderer


def _leaf(parent: ElementTree.Element, tag: str, text: str) -> None:
    ElementTree.SubElement(parent, tag).text = legible(text)


def _write(path: Path, root: ElementTree.Element, *, doctype: bool = False) -> None:
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_bytes(b"".join(_document(root, doctype)))
        os.replace(part, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise RasterError(f"{path}: cannot be written ({error.strerror}); check folder and disk") from error


def _document(root: ElementTree.Element, doctype: bool) -> Iterable[bytes]:
    ElementTree.indent(root)
    if doctype:
        yield b"<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n"
    yield ElementTree.tostring(root, encoding="utf-8")
    yield b"\n"
