"""Sidecars say what the class map says, to GDAL and to any XML parser, whatever the names hold."""

import os
from dataclasses import replace
from pathlib import Path
from unittest.mock import ANY
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
from rsseg.raster.parts import Parts
from rsseg.raster.sidecars import (
    BitStyle,
    Caption,
    ClassStyle,
    RampStyle,
    legible,
    sidecar_names,
    write_sidecars,
)
from rsseg.raster.write import Layer, class_layer, confidence_layer

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


GRID = GeoBox((8, 8), Affine(1, 0, 5e5, 0, -1, 5e6), "EPSG:32633")


def published(folder: Path, layer: Layer, rows: np.ndarray, stem: str = "m", suffix: str = "x") -> Path:
    with Parts.claim(folder, stem) as parts:
        parts.begin("", GRID, {suffix: layer})
        parts.append(0, {suffix: rows.reshape(layer.bands, 8, 8)})
        (path,) = parts.publish()
    return path


def class_raster(folder: Path, class_map: ClassMap, stem: str = "m") -> Path:
    rows = np.arange(64, dtype="uint8") % len(class_map)
    return published(folder, class_layer(class_map, {}), rows, stem)


def parsed(path: Path) -> ElementTree.Element:
    return ElementTree.parse(path).getroot()  # noqa: S314 - written a moment ago, by this test


def according_to_gdal(path: Path) -> tuple[list[str], list[list[str]]]:
    """Returns category names and attribute rows as GDAL reads them, by its copy into a VRT."""
    rasterio.shutil.copy(path, path.with_suffix(".vrt"), driver="VRT")
    root = parsed(path.with_suffix(".vrt"))
    names = [category.text or "" for category in root.iter("Category")]
    return names, [[cell.text or "" for cell in row] for row in root.iter("Row")]


def test_gdal_reads_names_counts_and_colours_of_hostile_classes(tmp_path):
    class_map = named(*HOSTILE)
    path = class_raster(tmp_path, class_map, "x.v1")
    names, rows = according_to_gdal(path)
    assert names == [legible(name) for name in HOSTILE]
    assert names[3] == "abcd"
    counts = np.bincount(np.arange(64) % 5)
    expected = [
        [str(index), str(counts[index]), legible(entry.name), *map(str, entry.rgb), "255"]
        for index, entry in enumerate(class_map.classes)
    ]
    assert rows == expected


def test_classes_that_do_not_occur_count_0_and_nodata_is_no_class(tmp_path):
    rows = np.full(64, 255, "u1")
    rows[:3] = 1
    path = published(tmp_path, class_layer(named("roof", "tree", "road"), {}), rows)
    assert [row[1:3] for row in according_to_gdal(path)[1]] == [["0", "roof"], ["3", "tree"], ["0", "road"]]


@pytest.mark.filterwarnings("ignore::rasterio.errors.RasterioDeprecationWarning")
def test_statistics_by_gdal_do_not_lose_the_names(tmp_path):
    path = class_raster(tmp_path, named("roof", "tree"))
    with rasterio.open(path) as file:
        file.statistics(1, approx=False)
    assert "STATISTICS_MEAN" in (tmp_path / "m_x.tif.aux.xml").read_text()
    names, rows = according_to_gdal(path)
    assert names == ["roof", "tree"]
    assert len(rows) == 2


@pytest.mark.parametrize(
    ("style", "layer", "names"),
    [
        (ClassStyle(named("a")), class_layer(named("a"), {}), ("m_x.tif.aux.xml", "m_x.qml")),
        (RampStyle(), confidence_layer({}), ("m_x.qml",)),
        (BitStyle(("a",)), Layer("uint8", nodata=0, style=BitStyle(("a",))), ("m_x.tif.aux.xml", "m_x.qml")),
    ],
)
def test_only_the_sidecars_appear_and_the_map_stays_valid(tmp_path, style, layer, names):
    assert sidecar_names("m_x.tif", style) == names
    path = published(tmp_path, replace(layer, style=style), np.zeros(64, "u1"))
    assert sorted(os.listdir(tmp_path)) == sorted(["m_x.tif", *names])
    assert cog_validate(path, quiet=True) == (True, [], [])


@pytest.mark.parametrize("style", [ClassStyle(named("a")), RampStyle(), BitStyle(("a",))])
def test_captions_are_the_metadata_that_qgis_loads(tmp_path, style):
    assert "m.qmd" not in sidecar_names("m.tif", style)
    said = replace(style, caption=Caption("Trees & roofs", "a < b\x00"))
    assert sidecar_names("m.tif", said) == (*sidecar_names("m.tif", style), "m.qmd")
    write_sidecars(tmp_path / "m.tif", said, {})
    assert sorted(os.listdir(tmp_path)) == sorted(sidecar_names("m.tif", said))
    root = parsed(tmp_path / "m.qmd")
    assert root.tag == "qgis"
    assert [(leaf.tag, leaf.text) for leaf in root] == [
        ("type", "dataset"),
        ("title", "Trees & roofs"),
        ("abstract", "a < b"),
    ]


def test_attribute_table_is_thematic_with_usages_that_qgis_looks_for(tmp_path):
    write_sidecars(tmp_path / "m.tif", ClassStyle(named("roof")), {})
    assert columns(tmp_path / "m.tif.aux.xml") == [
        ["Value", "0", "5"],
        ["Count", "0", "1"],
        ["Class name", "2", "2"],
        ["Red", "0", "6"],
        ["Green", "0", "7"],
        ["Blue", "0", "8"],
        ["Alpha", "0", "9"],
    ]


def columns(path: Path) -> list[list[str]]:
    table = parsed(path).find("PAMRasterBand[@band='1']/GDALRasterAttributeTable[@tableType='thematic']")
    return [[part.text for part in column] for column in table.iter("FieldDefn")]


def test_counts_beyond_gdals_integers_are_reals(tmp_path):
    path = class_raster(tmp_path, named("roof", "tree"))
    write_sidecars(path, ClassStyle(named("roof", "tree")), {0: 3_000_000_000, 1: 7})
    assert columns(tmp_path / "m_x.tif.aux.xml")[1] == ["Count", "1", "1"]
    assert [float(row[1]) for row in according_to_gdal(path)[1]] == [3e9, 7]


def test_style_is_paletted_with_transparent_nodata(tmp_path):
    class_map = named(*HOSTILE)
    write_sidecars(tmp_path / "a.b.tif", ClassStyle(class_map), {})
    root = parsed(tmp_path / "a.b.qml")
    renderer = root.find("pipe/rasterrenderer")
    assert (root.tag, renderer.get("type"), renderer.get("nodataColor")) == ("qgis", "paletted", "")
    assert palette(tmp_path / "a.b.qml") == [
        (str(index), entry.colour.lower(), legible(entry.name))
        for index, entry in enumerate(class_map.classes)
    ]


def palette(path: Path) -> list[tuple[str, ...]]:
    entries = parsed(path).iter("paletteEntry")
    return [tuple(entry.get(key) for key in ("value", "color", "label")) for entry in entries]


def test_ramps_go_from_0_to_1_as_gis_scales_the_pixels(tmp_path):
    path = published(tmp_path, confidence_layer({}), np.arange(64, dtype="u1") * 4 + 2)
    values = [float(item.get("value")) for item in parsed(tmp_path / "m_x.qml").iter("item")]
    assert (values[0], values[-1]) == (0, 1)
    assert values == sorted(values)
    with rasterio.open(path) as file:
        scaled = file.read(1) * file.scales[0] + file.offsets[0]
    assert values[0] <= scaled.min() < scaled.max() <= values[-1]


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32"])
def test_bits_are_named_by_the_sets_that_occur(tmp_path, dtype):
    style = BitStyle(("rgb", "dsm", "<sar>"))
    rows = np.zeros(64, dtype)
    rows[:10], rows[10:13], rows[13] = 1, 6, 7
    path = published(tmp_path, Layer(dtype, nodata=0, style=style), rows)
    names, table = according_to_gdal(path)
    assert names == ["", "rgb", "", "", "", "", "dsm + <sar>", "rgb + dsm + <sar>"]
    assert [row[:3] for row in table] == [
        ["1", "10", "rgb"],
        ["6", "3", "dsm + <sar>"],
        ["7", "1", "rgb + dsm + <sar>"],
    ]
    shown = palette(tmp_path / "m_x.qml")
    assert [(value, label) for value, _, label in shown] == [(row[0], row[2]) for row in table]
    assert [bytes.fromhex(colour[1:]) for _, colour, _ in shown] == [
        bytes(map(int, row[3:6])) for row in table
    ]


def test_high_bits_have_a_table_and_no_list_of_names(tmp_path):
    style = BitStyle(tuple(f"m{k}" for k in range(20)))
    rows = np.full(64, (1 << 19) + 1, "uint32")
    path = published(tmp_path, Layer("uint32", nodata=0, style=style), rows)
    assert according_to_gdal(path) == ([], [[str((1 << 19) + 1), "64", "m0 + m19", *ANY_COLOUR, "255"]])


ANY_COLOUR = (ANY, ANY, ANY)


def test_a_map_without_any_bit_is_shown_all_the_same(tmp_path):
    path = published(tmp_path, Layer("uint8", nodata=0, style=BitStyle(("rgb",))), np.zeros(64, "u1"))
    assert according_to_gdal(path) == ([], [])
    assert palette(tmp_path / "m_x.qml") == []


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_colours_of_sets_can_be_told_apart(tmp_path, bits):
    style = BitStyle(tuple(f"m{k}" for k in range(bits)))
    write_sidecars(tmp_path / "m.tif", style, dict.fromkeys(range(1 << bits), 1))
    shown = palette(tmp_path / "m.qml")
    assert len(shown) == (1 << bits) - 1
    colours = np.array([list(bytes.fromhex(colour[1:])) for _, colour, _ in shown], float)
    apart = np.abs(colours[:, None] - colours[None]).sum(2) + 999 * np.eye(len(shown))
    assert apart.min() > 40


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text(min_size=1, max_size=30), min_size=1, max_size=5, unique=True))
def test_any_names_make_well_formed_files(tmp_path, names):
    write_sidecars(tmp_path / "m.tif", ClassStyle(named(*names)), {})
    attributes = parsed(tmp_path / "m.tif.aux.xml")
    found = [category.text or "" for category in attributes.iter("Category")]
    assert [_lines(name) for name in found] == [_lines(legible(name)) for name in names]
    style = parsed(tmp_path / "m.qml")
    assert len(list(style.iter("paletteEntry"))) == len(names)


def _lines(text: str) -> str:
    """XML parsers read every line end as a newline."""
    return text.replace("\r\n", "\n").replace("\r", "\n")
