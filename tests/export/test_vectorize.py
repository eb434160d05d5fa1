"""Polygons of a class map, against rasterio's shapes, whatever the strips; areas, names, style, failures."""

import os
import re
import resource
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing, contextmanager
from pathlib import Path
from xml.etree import ElementTree

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pyproj import Geod
from rasterio.features import shapes
from shapely.geometry import shape

from rsseg.classmap import ClassMap, LandClass
from rsseg.errors import RasterError
from rsseg.export import vectorize as module
from rsseg.export.vectorize import vectorize
from rsseg.raster.sidecars import ClassStyle, legible, write_sidecars

NODATA = 255
UPRIGHT = Affine(2, 0, 500_000, 0, -2, 5_800_000)
TURNED = Affine(1.5, 0.5, 500_000, 0.5, -1.5, 5_800_000)
SOUTH_UP = Affine(1, 0, 500_000, 0, 1, 5_800_000)
HOSTILE = (
    "<script>alert(1)</script>",
    "\"quoted\" & 'single'",
    "Straße 木 🌲",
    "x'); DROP TABLE layer_styles; --",
    "]]>&lt;",
    "../../etc/passwd",
)

class_maps = hnp.arrays(
    "u1", st.tuples(*[st.integers(1, 14)] * 2), elements=st.sampled_from((0, 1, 2, NODATA))
)
modest = settings(deadline=None, max_examples=30, suppress_health_check=list(HealthCheck))


@contextmanager
def strips_of(rows: int):
    """Makes strips so high, whatever the width."""
    before = module._LOWEST, module._STRIP, module._TALL_STRIP
    module._LOWEST, module._STRIP, module._TALL_STRIP = rows, 1, 1
    try:
        yield
    finally:
        module._LOWEST, module._STRIP, module._TALL_STRIP = before


def table(path: Path) -> geopandas.GeoDataFrame:
    return geopandas.read_file(path, layer=path.stem)


def polygons(path: Path) -> list[tuple[int, str]]:
    """Returns class and normal form of each polygon, without vertices on straight lines."""
    found = table(path)
    return sorted(
        (k, p.simplify(0).normalize().wkt) for k, p in zip(found["class_id"], found.geometry, strict=True)
    )


def oracle(pixels, transform) -> list[tuple[int, str]]:
    found = shapes(pixels, mask=pixels != NODATA, connectivity=4, transform=transform)
    return sorted((int(value), shape(part).simplify(0).normalize().wkt) for part, value in found)


@pytest.fixture
def made(write_raster, tmp_path):
    """Writes a class map, and returns its GeoPackage."""

    def make(pixels, *, rows=64, transform=UPRIGHT, crs="EPSG:32633", **options) -> Path:
        path = write_raster("m_classes.tif", pixels, transform=transform, crs=crs, nodata=NODATA)
        with strips_of(rows):
            vectorize(path, tmp_path / "out.gpkg", overwrite=True, **options)
        return tmp_path / "out.gpkg"

    return make


@modest
@given(class_maps, st.integers(1, 15), st.sampled_from((UPRIGHT, SOUTH_UP)))
def test_polygons_are_those_of_rasterio_whatever_the_strips(made, pixels, rows, transform):
    path = made(pixels, rows=rows, transform=transform)
    assert polygons(path) == oracle(pixels, transform)
    found = table(path)
    assert shapely.is_valid(found.geometry).all()
    assert all(part.exterior.is_ccw for part in found.geometry)
    # neighbours share their vertices, so that no slivers open when the layer is warped
    assert shapely.coverage_is_valid(found.geometry.to_numpy())
    np.testing.assert_allclose(found["area_m2"], found.geometry.area, rtol=1e-12)


def test_turned_grids_are_turned(made):
    pixels = np.random.default_rng(0).integers(0, 3, (30, 40)).astype("u1")
    found = table(made(pixels, rows=7, transform=TURNED))
    expected = [shape(part) for part, _ in shapes(pixels, connectivity=4, transform=TURNED)]
    assert len(found) == len(expected)
    assert shapely.is_valid(found.geometry).all()
    assert found.geometry.area.sum() == pytest.approx(1200 * abs(TURNED.determinant), rel=1e-9)
    mine, theirs = (sorted((round(p.area, 6), p.centroid.x) for p in ps) for ps in (found.geometry, expected))
    np.testing.assert_allclose(mine, theirs, rtol=1e-9)


def blobs(size=400, seed=0):
    """Returns classes in blobs with rough edges, and gaps."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 5, (size // 10 + 1, size // 10 + 1)).repeat(10, 0).repeat(10, 1)
    row, col = np.indices((size, size)) + rng.integers(-3, 4, (2, size, size))
    pixels = coarse[row.clip(0, size - 1), col.clip(0, size - 1)].astype("u1")
    pixels[rng.random(pixels.shape) < 0.02] = NODATA
    return pixels


def test_strips_leave_no_trace(made):
    pixels = blobs(240)
    small = polygons(made(pixels, rows=16))
    assert small == polygons(made(pixels, rows=1000)) == oracle(pixels, UPRIGHT)
    ends = shapely.get_coordinates(shapely.from_wkt([wkt for _, wkt in small]))
    rows = np.round((UPRIGHT.f - ends[:, 1]) / 2).astype(int)
    counts = np.bincount(rows, minlength=241)[1:240]
    on_seams = counts[15::16]
    assert abs(on_seams.mean() - counts.mean()) < 4 * counts.std() / len(on_seams) ** 0.5


def test_areas_add_up_to_the_raster(made):
    pixels = blobs()
    found = table(made(pixels, rows=16))
    assert found["area_m2"].sum() == pytest.approx((pixels != NODATA).sum() * 4, rel=1e-9)
    for class_id, part in found.groupby("class_id"):
        assert part["area_m2"].sum() == pytest.approx((pixels == class_id).sum() * 4, rel=1e-9)


@pytest.mark.parametrize("latitude", [-70, 0, 52])
def test_areas_in_degrees_are_those_on_the_ellipsoid(made, latitude):
    pixels = blobs(100)
    transform = Affine(1e-4, 0, 13, 0, -2e-4, latitude)
    found = table(made(pixels, rows=16, transform=transform, crs="EPSG:4326"))
    geod = Geod(ellps="WGS84")
    dense = found.geometry.segmentize(1e-4)
    # geodesics between vertices are not quite parallels, so each polygon differs a little
    expected = [geod.geometry_area_perimeter(part)[0] for part in dense]
    np.testing.assert_allclose(found["area_m2"], expected, rtol=1e-6)
    assert found["area_m2"].sum() == pytest.approx(sum(expected), rel=1e-7)


def test_areas_in_turned_degrees_and_in_feet(made):
    pixels = blobs(100)
    turned = Affine(1e-4, 2e-5, 13, 3e-5, -2e-4, 52)
    found = table(made(pixels, transform=turned, crs="EPSG:4326"))
    expected = [Geod(ellps="WGS84").geometry_area_perimeter(p)[0] for p in found.geometry.segmentize(1e-4)]
    np.testing.assert_allclose(found["area_m2"], np.abs(expected), rtol=1e-6)
    feet = table(made(pixels, transform=Affine(3, 0, 1e6, 0, -3, 2e5), crs="EPSG:2263"))
    foot = 1200 / 3937
    assert feet["area_m2"].sum() == pytest.approx((pixels != NODATA).sum() * (3 * foot) ** 2, rel=1e-9)


def test_a_plane_that_bends_areas_is_told(write_raster, tmp_path):
    path = write_raster(
        "m.tif", np.zeros((4, 4), "u1"), crs="EPSG:3857", transform=Affine(1, 0, 1e6, 0, -1, 6.8e6)
    )
    (line,) = vectorize(path, tmp_path / "m.gpkg").warnings
    assert "2.6" in line or "2.7" in line
    assert vectorize(write_raster("u.tif", np.zeros((4, 4), "u1")), tmp_path / "u.gpkg").warnings == ()


def test_a_map_without_crs_is_told_in_a_line(write_raster, tmp_path):
    path = write_raster("m.tif", np.zeros((4, 4), "u1"), crs=None, transform=Affine(2, 0, 0, 0, -2, 0))
    found = vectorize(path, tmp_path / "m.gpkg")
    (line,) = found.warnings
    assert "no CRS" in line
    assert found.area == 16


def test_confidence_is_the_mean_over_the_region(made, write_raster, tmp_path):
    pixels = blobs(60)
    coded = np.random.default_rng(1).integers(0, 255, pixels.shape).astype("u1")
    coded[pixels == 2] = 255
    beside = write_raster("m_confidence.tif", coded, transform=UPRIGHT, nodata=255)
    with rasterio.open(beside, "r+") as file:
        file.scales = (1 / 254,)
    found = table(made(pixels, rows=7))
    shown = [
        (coded[inside & (coded != 255)] / 254).mean() if (inside & (coded != 255)).any() else np.nan
        for inside in (
            rasterio.features.geometry_mask([part], pixels.shape, UPRIGHT, invert=True)
            for part in found.geometry
        )
    ]
    np.testing.assert_allclose(found["confidence"], shown, rtol=1e-6)
    assert found.loc[found["class_id"] == 2, "confidence"].isna().all()
    beside.unlink()
    assert "confidence" not in table(made(pixels))


def test_names_and_colours_stay_text_whatever_they_hold(write_raster, tmp_path):
    path = write_raster("m_classes.tif", np.arange(6, dtype="u1")[None], nodata=NODATA)
    class_map = ClassMap(
        classes=tuple(
            LandClass(name=name, values=(k,), colour=f"#0{k}80ff") for k, name in enumerate(HOSTILE)
        )
    )
    write_sidecars(path, ClassStyle(class_map), {})
    out = tmp_path / "a'; DROP TABLE gpkg_contents; --\".gpkg"
    found = vectorize(path, out)
    assert [entry.name for entry in found.classes] == list(HOSTILE)
    shutil.copy(out, tmp_path / "plain.gpkg")  # geopandas takes a path with a semicolon for a URL
    read = geopandas.read_file(tmp_path / "plain.gpkg", layer=found.layer)
    assert list(read.sort_values("class_id")["class"]) == list(HOSTILE)
    with closing(sqlite3.connect(out)) as database:
        rows = database.execute(
            "SELECT f_table_name, f_geometry_column, useAsDefault, styleQML FROM layer_styles"
        )
        ((layer, column, default, qml),) = rows.fetchall()
        assert (
            (layer, column, default) == (found.layer, "geom", 1) == ("a_DROP_TABLE_gpkg_contents", "geom", 1)
        )
        assert database.execute("SELECT count(*) FROM gpkg_contents").fetchone() == (2,)
        (title,) = database.execute(
            "SELECT identifier FROM gpkg_contents WHERE table_name = ?", (layer,)
        ).fetchone()
        assert title == f"Classes of {out.stem}"
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    root = ElementTree.fromstring(qml)  # noqa: S314 - written a moment ago, by this test
    assert [entry.get("label") for entry in root.iter("category")] == [legible(name) for name in HOSTILE]
    fills = [entry.get("value") for entry in root.iter("Option") if entry.get("name") == "color"]
    assert fills == [f"{k},128,255,255" for k in range(6)]
    assert root.find("renderer-v2").get("attr") == "class_id"


def test_without_names_classes_go_by_number_and_palette(made, tmp_path):
    path = made(np.array([[0, 7], [7, 7]], "u1"))
    assert sorted(table(path)["class"]) == ["0", "7"]
    with rasterio.open(tmp_path / "m_classes.tif", "r+") as file:
        file.write_colormap(1, {0: (1, 2, 3, 255), 7: (4, 5, 6, 255)})
    vectorize(tmp_path / "m_classes.tif", path, overwrite=True)
    with closing(sqlite3.connect(path)) as database:
        (qml,) = database.execute("SELECT styleQML FROM layer_styles").fetchone()
    assert "1,2,3,255" in qml
    assert "4,5,6,255" in qml


@pytest.mark.parametrize(
    "text",
    [
        "<PAMDataset><oops>",
        '<!DOCTYPE x [<!ENTITY a "aaaa">]><PAMDataset>&a;</PAMDataset>',
        "\x00",
    ],
)
def test_a_damaged_or_dangerous_sidecar_is_one_line(write_raster, tmp_path, text):
    path = write_raster("m.tif", np.zeros((2, 2), "u1"))
    (tmp_path / "m.tif.aux.xml").write_text(text)
    with pytest.raises(RasterError, match=r"m\.tif\.aux\.xml") as caught:
        vectorize(path, tmp_path / "m.gpkg")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "m.gpkg").exists()


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "i8"])
def test_class_ids_of_any_integers(write_raster, tmp_path, dtype):
    limits = np.iinfo(dtype)
    low = max(limits.min, -(2**31)) + 1
    values = np.array([[low, min(limits.max, 2**40) - 1, 3]], dtype)
    path = write_raster("m.tif", values, nodata=3)
    vectorize(path, tmp_path / "m.gpkg")
    assert sorted(table(tmp_path / "m.gpkg")["class_id"]) == sorted(values[0, :2].tolist())


def test_nothing_but_nodata_is_an_empty_layer(made):
    path = made(np.full((5, 5), NODATA, "u1"))
    assert len(table(path)) == 0


def test_what_is_no_class_map_is_refused(write_raster, tmp_path):
    out = tmp_path / "m.gpkg"
    for pixels in (np.zeros((2, 2), "f4"), np.zeros((2, 4, 4), "u1")):
        with pytest.raises(RasterError, match="expected a class map"):
            vectorize(write_raster("m.tif", pixels), out)
    with pytest.raises(RasterError, match=r"nothing\.tif: no such file"):
        vectorize(tmp_path / "nothing.tif", out)
    with pytest.raises(RasterError, match="min_area -1"):
        vectorize(write_raster("m.tif", np.zeros((2, 2), "u1")), out, min_area=-1)
    write_raster("m_confidence.tif", np.zeros((3, 3), "u1"))
    with pytest.raises(RasterError, match="its grid is not that of"):
        vectorize(write_raster("m_classes.tif", np.zeros((2, 2), "u1")), out)
    assert not out.exists()


def test_finished_layers_are_safe(write_raster, tmp_path):
    path, out = write_raster("m.tif", blobs(50)), tmp_path / "m.gpkg"
    vectorize(path, out)
    before = out.read_bytes()
    with pytest.raises(RasterError, match="exists already; pass --overwrite"):
        vectorize(path, out)
    with pytest.raises(RasterError, match=r"ends in \.gpkg"):
        vectorize(path, tmp_path / "m.shp")
    with pytest.raises(RasterError, match="No such file"):
        vectorize(path, tmp_path / "missing" / "m.gpkg")
    (tmp_path / "m.gpkg-wal").write_text("log")
    with pytest.raises(RasterError, match="open in another program"):
        vectorize(path, out, overwrite=True)
    (tmp_path / "m.gpkg-wal").unlink()
    for wrong in (KeyboardInterrupt, RasterError("gone")):

        def fail(done, total, wrong=wrong):
            raise wrong

        with pytest.raises(wrong if isinstance(wrong, type) else type(wrong)):
            vectorize(path, out, overwrite=True, progress=fail)
    assert out.read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["m.gpkg", "m.tif"]


@pytest.mark.parametrize("size", [0, 10_000, 130_000])
def test_a_full_disk_is_one_line_and_leaves_nothing(write_raster, tmp_path, size):
    path = write_raster("m.tif", blobs(300))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        with pytest.raises(RasterError, match=r"m\.gpkg cannot be written: ") as caught:
            vectorize(path, tmp_path / "m.gpkg")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == ["m.tif"]


def test_a_killed_run_is_cleaned_up_by_the_next(write_raster, tmp_path):
    path = write_raster("m.tif", blobs(50))
    (tmp_path / ".m.gpkg.part").mkdir()
    (tmp_path / ".m.gpkg.part" / "regions.gpkg").write_text("half")
    vectorize(path, tmp_path / "m.gpkg")
    assert sorted(os.listdir(tmp_path)) == ["m.gpkg", "m.tif"]


def test_a_run_that_was_overtaken_does_not_publish(write_raster, tmp_path):
    path, out = write_raster("m.tif", blobs(50)), tmp_path / "m.gpkg"
    others: list[int] = []

    def overtake(done, total):
        if not others:
            others.append(1)
            others.append(vectorize(path, out).regions)

    with pytest.raises(RasterError, match=r"another run writes it too|cannot be written"):
        vectorize(path, out, progress=overtake)
    assert len(table(out)) == others[1]


MEASURED = """
import sys
from pathlib import Path
from rsseg.export.vectorize import vectorize
found = vectorize(Path(sys.argv[1]), Path(sys.argv[2]))
status = Path("/proc/self/status").read_text()  # ru_maxrss would be the parent's, where that is more
peak = int(status.split("VmHWM:")[1].split()[0]) / 1024
print(found.regions, found.area, peak)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_a_large_map_of_a_million_regions_within_a_gigabyte(tmp_path):
    size, cell = 16_384, 16
    rng = np.random.default_rng(0)
    profile = {
        "driver": "GTiff",
        "width": size,
        "height": size,
        "count": 1,
        "dtype": "uint8",
        "nodata": NODATA,
    }
    tiled = {"tiled": True, "blockxsize": 512, "blockysize": 512, "compress": "deflate"}
    place = {"crs": "EPSG:32633", "transform": UPRIGHT}
    with rasterio.open(tmp_path / "m_classes.tif", "w", **profile, **tiled, **place) as file:
        for row in range(0, size, 512):
            rows = rng.integers(0, 250, (512 // cell, size // cell), "u1").repeat(cell, 0).repeat(cell, 1)
            rows[rng.random(rows.shape, "f4") < 2e-3] = 251
            file.write(rows, 1, window=((row, row + 512), (0, size)))
    command = [sys.executable, "-c", MEASURED, tmp_path / "m_classes.tif", tmp_path / "m.gpkg"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    regions, area, peak = map(float, done.stdout.split())
    assert regions > 1e6
    assert area == pytest.approx(size**2 * 4, rel=1e-9)
    assert peak < 1024


@pytest.mark.parametrize("stem", ["%41", "-x", "(x)", "gpkg_x", "%C3%84cker", "sqlite_a", "ä ö", "--", "a.b"])
def test_any_file_name_gives_a_layer(write_raster, tmp_path, stem):
    found = vectorize(write_raster("m.tif", np.array([[0, 1]], "u1")), tmp_path / f"{stem}.gpkg")
    assert len(geopandas.read_file(found.path, layer=found.layer)) == 2
    assert re.fullmatch(r"\w+", found.layer)
    assert ("QGIS 3.22 cannot open" in "".join(found.warnings)) == ("%" in stem)
