"""Sidecars say what the class map says, to GDAL and to any XML parser, whatever the names hold."""

import os
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from affine import Affine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox
from rio_cogeo.cogeo import cog_validate

from rsseg.classmap import ClassMap, LandClass
from rsseg.errors import RasterError
from rsseg.raster.sidecars import legible, write_class_sidecars, write_confidence_style
from rsseg.raster.write import CogWriter, class_layer, confidence_layer

HOSTILE = (
    "<script>alert(1)</script>",
    "\"quoted\" & 'single'",
    "Straße 木 🌲",
    "a\x00b\x1fc\ufffed",
    "]]>&lt;",
)
COLOURS = ("#FF0000", "#00c800", "#646464", "#0000ff", "#ffffff")


def named(*names: str) -> ClassMap:
    entries = zip(names, COLOURS, strict=False)
    return ClassMap(
        classes=tuple(
            LandClass(name=name, values=(index,), colour=colour)
            for index, (name, colour) in enumerate(entries)
        )
    )


def class_raster(path: Path, class_map: ClassMap) -> Path:
    grid = GeoBox((8, 8), Affine(1, 0, 5e5, 0, -1, 5e6), "EPSG:32633")
    with CogWriter(path, grid, class_layer(class_map, {})) as writer:
        writer.write(0, np.arange(64, dtype="uint8").reshape(1, 8, 8) % len(class_map))
    return path


def parsed(path: Path) -> ElementTree.Element:
    return ElementTree.parse(path).getroot()  # noqa: S314 - written a moment ago, by this test


def according_to_gdal(path: Path) -> tuple[list[str], list[list[str]]]:
    """Returns category names and attribute rows as GDAL reads them, by its copy into a VRT."""
    rasterio.shutil.copy(path, path.with_suffix(".vrt"), driver="VRT")
    root = parsed(path.with_suffix(".vrt"))
    names = [category.text or "" for category in root.iter("Category")]
    return names, [[cell.text or "" for cell in row] for row in root.iter("Row")]


def test_gdal_reads_names_and_table_of_hostile_classes(tmp_path):
    class_map = named(*HOSTILE)
    path = class_raster(tmp_path / "x.v1_classes.tif", class_map)
    write_class_sidecars(path, class_map)
    names, rows = according_to_gdal(path)
    assert names == [legible(name) for name in HOSTILE]
    assert names[3] == "abcd"
    expected = [
        [str(index), legible(entry.name), *map(str, entry.rgb), "255"]
        for index, entry in enumerate(class_map.classes)
    ]
    assert rows == expected


@pytest.mark.filterwarnings("ignore::rasterio.errors.RasterioDeprecationWarning")
def test_statistics_by_gdal_do_not_lose_the_names(tmp_path):
    class_map = named("roof", "tree")
    path = class_raster(tmp_path / "m.tif", class_map)
    write_class_sidecars(path, class_map)
    with rasterio.open(path) as file:
        file.statistics(1, approx=False)
    assert "STATISTICS_MEAN" in (tmp_path / "m.tif.aux.xml").read_text()
    names, rows = according_to_gdal(path)
    assert names == ["roof", "tree"]
    assert len(rows) == 2


def test_only_the_sidecars_appear_and_the_map_stays_valid(tmp_path):
    class_map = named("roof", "tree")
    path = class_raster(tmp_path / "m.tif", class_map)
    before = path.read_bytes()
    write_class_sidecars(path, class_map)
    write_class_sidecars(path, class_map)  # replaces its own
    assert sorted(os.listdir(tmp_path)) == ["m.qml", "m.tif", "m.tif.aux.xml"]
    assert path.read_bytes() == before
    assert cog_validate(path, quiet=True) == (True, [], [])


def test_attribute_table_is_thematic_with_usages_that_qgis_looks_for(tmp_path):
    write_class_sidecars(tmp_path / "m.tif", named("roof"))
    root = parsed(tmp_path / "m.tif.aux.xml")
    table = root.find("PAMRasterBand[@band='1']/GDALRasterAttributeTable[@tableType='thematic']")
    columns = [[part.text for part in column] for column in table.iter("FieldDefn")]
    assert columns == [
        ["Value", "0", "5"],
        ["Class name", "2", "2"],
        ["Red", "0", "6"],
        ["Green", "0", "7"],
        ["Blue", "0", "8"],
        ["Alpha", "0", "9"],
    ]


def test_style_is_paletted_with_transparent_nodata(tmp_path):
    class_map = named(*HOSTILE)
    write_class_sidecars(tmp_path / "a.b.tif", class_map)
    root = parsed(tmp_path / "a.b.qml")
    renderer = root.find("pipe/rasterrenderer")
    assert (root.tag, renderer.get("type"), renderer.get("nodataColor")) == ("qgis", "paletted", "")
    entries = [
        (entry.get("value"), entry.get("color"), entry.get("label")) for entry in root.iter("paletteEntry")
    ]
    assert entries == [
        (str(index), entry.colour.lower(), legible(entry.name))
        for index, entry in enumerate(class_map.classes)
    ]


def test_confidence_style_ramps_from_0_to_1(tmp_path):
    grid = GeoBox((2, 2), Affine(1, 0, 5e5, 0, -1, 5e6), "EPSG:32633")
    with CogWriter(tmp_path / "p.tif", grid, confidence_layer({})) as writer:
        writer.write(0, np.full((1, 2, 2), 254, "u1"))
    write_confidence_style(tmp_path / "p.tif")
    root = parsed(tmp_path / "p.qml")
    values = [float(item.get("value")) for item in root.iter("item")]
    assert (values[0], values[-1]) == (0, 1)
    assert values == sorted(values)
    assert sorted(os.listdir(tmp_path)) == ["p.qml", "p.tif"]


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text(min_size=1, max_size=30), min_size=1, max_size=5, unique=True))
def test_any_names_make_well_formed_files(tmp_path, names):
    write_class_sidecars(tmp_path / "m.tif", named(*names))
    attributes = parsed(tmp_path / "m.tif.aux.xml")
    found = [category.text or "" for category in attributes.iter("Category")]
    assert [_lines(name) for name in found] == [_lines(legible(name)) for name in names]
    style = parsed(tmp_path / "m.qml")
    assert len(list(style.iter("paletteEntry"))) == len(names)


def _lines(text: str) -> str:
    """XML parsers read every line end as a newline."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(
        RasterError, match=r"missing/m\.tif\.aux\.xml: cannot be written .No such file"
    ) as caught:
        write_class_sidecars(tmp_path / "missing" / "m.tif", named("roof"))
    assert "\n" not in str(caught.value)


def test_a_failed_rename_leaves_nothing(tmp_path):
    (tmp_path / "p.qml").mkdir()
    with pytest.raises(RasterError, match="Is a directory"):
        write_confidence_style(tmp_path / "p.tif")
    assert os.listdir(tmp_path) == ["p.qml"]
