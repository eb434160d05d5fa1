"""Names and colours of a raster's classes, where GDAL and QGIS find them: beside the file, or its palette."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from rsseg import colours
from rsseg.errors import RasterError
from rsseg.raster.location import Location

Colour = tuple[int, int, int]

_LARGEST = 16 << 20
"""Bytes of a sidecar: names of 65 536 classes fit."""

_NAME, _VALUE, _RGB = "2", "5", ("6", "7", "8")
"""GDALRATFieldUsage of the columns."""


@cache
def _fallback() -> tuple[Colour, ...]:
    """Returns the colours of classes for which the file states none."""
    found = (bytes.fromhex(name[1:]) for name in colours.fill([""] * 12))
    return tuple((red, green, blue) for red, green, blue in found)


@dataclass(frozen=True)
class Legend:
    """What is known of classes; the others go by their number."""

    names: Mapping[int, str] = field(default_factory=dict)
    """Class id → name."""
    colours: Mapping[int, Colour] = field(default_factory=dict)
    """Class id → red, green, blue, 0–255."""

    def name(self, class_id: int) -> str:
        """Returns a class's name, or its number as text."""
        return self.names.get(class_id, str(class_id))

    def colour(self, class_id: int) -> Colour:
        """Returns a class's colour, or one of twelve that colour-blind eyes can tell apart."""
        stated = self.colours.get(class_id)
        return _fallback()[class_id % len(_fallback())] if stated is None else stated


def read_legend(path: Location, palette: Mapping[int, tuple[int, ...]]) -> Legend:
    """Returns the names and colours of a raster's classes.

    Args:
        path: of the raster; `<name>.aux.xml` beside it may hold category names or an attribute table.
        palette: of the raster itself, value → red, green, blue, …

    Raises:
        RasterError: the sidecar is damaged.
    """
    colours: dict[int, Colour] = {value: (rgb[0], rgb[1], rgb[2]) for value, rgb in palette.items()}
    sidecar = Path(f"{path}.aux.xml") if isinstance(path, Path) else None
    if sidecar is None or not sidecar.is_file():
        return Legend({}, colours)
    band = _parsed(sidecar).find("PAMRasterBand[@band='1']")
    if band is None:
        return Legend({}, colours)
    names, table_colours = _table(band)
    categories = band.iterfind("CategoryNames/Category")
    names |= {value: leaf.text for value, leaf in enumerate(categories) if leaf.text}
    return Legend(names, colours | table_colours)


def _parsed(path: Path) -> ElementTree.Element:
    try:
        with path.open("rb") as file:
            text = file.read(_LARGEST + 1).decode("utf-8")
        # what a sidecar never needs, and what makes XML dangerous: entities
        if len(text) > _LARGEST or "<!DOCTYPE" in text or "<!ENTITY" in text:
            raise RasterError(f"{path}: larger than 16 MiB, or with a DOCTYPE; expected GDAL's: delete it")
        return ElementTree.fromstring(text)  # noqa: S314 - without entities, see above
    except (OSError, ValueError, ElementTree.ParseError) as error:
        raise RasterError(f"{path}: not readable as XML ({error}); mend or delete it") from error


def _table(band: ElementTree.Element) -> tuple[dict[int, str], dict[int, Colour]]:
    """Returns names and colours of an attribute table that has a column of values."""
    table = band.find("GDALRasterAttributeTable")
    names: dict[int, str] = {}
    colours: dict[int, Colour] = {}
    if table is None:
        return names, colours
    usages = {field.findtext("Usage", ""): place for place, field in enumerate(table.iterfind("FieldDefn"))}
    for row in table.iterfind("Row"):
        cells = [cell.text or "" for cell in row.iterfind("F")]
        value = _whole(cells, usages.get(_VALUE))
        if value is None:
            continue
        place = usages.get(_NAME, len(cells))
        if place < len(cells) and cells[place]:
            names[value] = cells[place]
        rgb = [part for part in (_whole(cells, usages.get(usage)) for usage in _RGB) if part is not None]
        if len(rgb) == 3 and all(0 <= part <= 255 for part in rgb):
            colours[value] = (rgb[0], rgb[1], rgb[2])
    return names, colours


def _whole(cells: list[str], place: int | None) -> int | None:
    try:
        return int(float(cells[place])) if place is not None and place < len(cells) else None
    except (ValueError, OverflowError):
        return None


def palette_of(dataset: Any) -> dict[int, tuple[int, ...]]:
    """Returns the palette of an open dataset's first band; empty where it has none."""
    try:
        return dict(dataset.colormap(1))
    except ValueError:
        return {}
