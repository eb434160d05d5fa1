"""What QGIS and GDAL read beside a map: class names, attribute table, colours."""

from __future__ import annotations

import colorsys
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from rsseg.classmap import ClassMap

_ILLEGAL = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that no XML file may hold, escaped or not."""

_INTEGER, _REAL, _TEXT = "0", "1", "2"
_LARGEST = (1 << 31) - 1
"""That GDAL's attribute tables hold as an integer."""

_COLUMNS = (
    ("Value", _INTEGER, "5"),
    ("Count", _INTEGER, "1"),
    ("Class name", _TEXT, "2"),
    ("Red", _INTEGER, "6"),
    ("Green", _INTEGER, "7"),
    ("Blue", _INTEGER, "8"),
    ("Alpha", _INTEGER, "9"),
)
"""Name, GDALRATFieldType and GDALRATFieldUsage of the attribute table's columns."""

_MOST_NAMES = 256
"""Values that may have a category name: GDAL keeps a list that starts at value 0."""

_GOLDEN = (5**0.5 - 1) / 2
"""Multiples of it, modulo 1, keep apart from each other however many there are."""

_RAMP = ((0.0, "#440154"), (0.25, "#3b528b"), (0.5, "#21918c"), (0.75, "#5ec962"), (1.0, "#fde725"))
"""Share → colour (viridis: even steps, readable in grey and for colour-blind eyes)."""


@dataclass(frozen=True)
class Caption:
    """What QGIS says of a layer in its properties and its browser."""

    title: str
    """A few words; the layer's name is the file's."""
    abstract: str
    """What a pixel means, in a sentence or two.

    QGIS shows titles and abstracts as HTML and lets tags through: leave out names that come from files.
    """


@dataclass(frozen=True)
class ClassStyle:
    """Class ids, each with its name and colour."""

    class_map: ClassMap
    caption: Caption | None = None


@dataclass(frozen=True)
class RampStyle:
    """Shares from 0 to 1: dark where low, bright where high.  The layer's scale says what a pixel means."""

    caption: Caption | None = None


@dataclass(frozen=True)
class BitStyle:
    """Sets of names, one bit each: one colour for each set that occurs."""

    names: tuple[str, ...]
    """Of the bits, the lowest first."""
    caption: Caption | None = None


Style = ClassStyle | RampStyle | BitStyle
"""What a map shows: it decides the sidecars."""


def legible(text: str) -> str:
    """Returns the text without the characters that XML cannot hold."""
    return _ILLEGAL.sub("", text)


@dataclass(frozen=True)
class _Entry:
    """A value of a map, and what it means."""

    value: int
    name: str
    colour: str
    count: int


def sidecar_names(name: str, style: Style) -> tuple[str, ...]:
    """Returns the names of the files that stand beside a map.

    Args:
        name: of the map, `….tif`.
        style: what it shows.
    """
    stem = name.removesuffix(".tif")
    attributes = () if isinstance(style, RampStyle) else (f"{name}.aux.xml",)
    described = () if style.caption is None else (f"{stem}.qmd",)
    return (*attributes, f"{stem}.qml", *described)


def write_sidecars(path: Path, style: Style, counts: Mapping[int, int]) -> None:
    """Writes what QGIS and GDAL read beside a map.

    `<name>.aux.xml` has names and attribute table, except of ramps; `<stem>.qml` the style; `<stem>.qmd` the
    caption, if there is one.

    Args:
        path: of the map, `….tif`.
        style: what it shows.
        counts: value → number of pixels; those of bits that do not occur are not listed.

    Raises:
        OSError: a file cannot be written.
    """
    if style.caption is not None:
        path.with_suffix(".qmd").write_bytes(_document(_metadata(style.caption), doctype=True))
    if isinstance(style, RampStyle):
        path.with_suffix(".qml").write_bytes(_document(_style(_ramp()), doctype=True))
        return
    entries = _classes(style, counts) if isinstance(style, ClassStyle) else _combinations(style, counts)
    path.with_name(f"{path.name}.aux.xml").write_bytes(_document(_attributes(entries)))
    path.with_suffix(".qml").write_bytes(_document(_style(_paletted(entries)), doctype=True))


def _classes(style: ClassStyle, counts: Mapping[int, int]) -> list[_Entry]:
    return [
        _Entry(index, entry.name, entry.colour.lower(), counts.get(index, 0))
        for index, entry in enumerate(style.class_map.classes)
    ]


def _combinations(style: BitStyle, counts: Mapping[int, int]) -> list[_Entry]:
    """Returns an entry for each set of names that occurs; the empty one is nodata."""
    return [
        _Entry(value, _combined(value, style.names), _mixed(value, len(style.names)), counts[value])
        for value in sorted(counts)
        if value
    ]


def _combined(value: int, names: Sequence[str]) -> str:
    return " + ".join(
        names[bit] if bit < len(names) else f"bit {bit}"
        for bit in range(value.bit_length())
        if value >> bit & 1
    )


def _mixed(value: int, bits: int) -> str:
    """Returns a set's colour, the same in every map: the more names the darker, the hues far apart."""
    share = (value.bit_count() - 1) / max(bits - 1, 1)
    parts = colorsys.hls_to_rgb(value * _GOLDEN % 1, 0.7 - 0.35 * min(share, 1), 0.75)
    return "#" + "".join(f"{round(255 * part):02x}" for part in parts)


def _attributes(entries: Sequence[_Entry]) -> ElementTree.Element:
    root = ElementTree.Element("PAMDataset")
    band = ElementTree.SubElement(root, "PAMRasterBand", band="1")
    _name_categories(band, {entry.value: entry.name for entry in entries})
    table = ElementTree.SubElement(band, "GDALRasterAttributeTable", tableType="thematic")
    wide = any(entry.count > _LARGEST for entry in entries)
    for index, (name, kind, usage) in enumerate(_COLUMNS):
        column = ElementTree.SubElement(table, "FieldDefn", index=str(index))
        kind = _REAL if wide and name == "Count" else kind
        for tag, text in zip(("Name", "Type", "Usage"), (name, kind, usage), strict=True):
            _leaf(column, tag, text)
    for index, entry in enumerate(entries):
        row = ElementTree.SubElement(table, "Row", index=str(index))
        for value in (entry.value, entry.count, entry.name, *bytes.fromhex(entry.colour[1:]), 255):
            _leaf(row, "F", str(value))
    return root


def _name_categories(band: ElementTree.Element, names: Mapping[int, str]) -> None:
    if max(names, default=0) < _MOST_NAMES:
        categories = ElementTree.SubElement(band, "CategoryNames")
        for value in range(max(names, default=-1) + 1):
            _leaf(categories, "Category", names.get(value, ""))


def _style(renderer: ElementTree.Element) -> ElementTree.Element:
    root = ElementTree.Element("qgis", version="3.28", styleCategories="Symbology")
    ElementTree.SubElement(root, "pipe").append(renderer)
    _leaf(root, "blendMode", "0")
    return root


def _metadata(caption: Caption) -> ElementTree.Element:
    root = ElementTree.Element("qgis", version="3.28")
    for tag, text in (("type", "dataset"), ("title", caption.title), ("abstract", caption.abstract)):
        _leaf(root, tag, text)
    return root


def _renderer(kind: str, **attributes: str) -> ElementTree.Element:
    # an empty nodataColor leaves nodata transparent
    shared = {"type": kind, "band": "1", "opacity": "1", "alphaBand": "-1", "nodataColor": ""}
    renderer = ElementTree.Element("rasterrenderer", {**shared, **attributes})
    ElementTree.SubElement(renderer, "rasterTransparency")
    return renderer


def _paletted(entries: Sequence[_Entry]) -> ElementTree.Element:
    renderer = _renderer("paletted")
    palette = ElementTree.SubElement(renderer, "colorPalette")
    for entry in entries:
        shown = {"value": str(entry.value), "color": entry.colour, "label": legible(entry.name)}
        ElementTree.SubElement(palette, "paletteEntry", {**shown, "alpha": "255"})
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


def _document(root: ElementTree.Element, *, doctype: bool = False) -> bytes:
    ElementTree.indent(root)
    head = b"<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n" if doctype else b""
    text: bytes = ElementTree.tostring(root, encoding="utf-8")
    return head + text + b"\n"
