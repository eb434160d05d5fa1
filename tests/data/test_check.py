"""A check says what is in files: numpy is the oracle of figures, and every fault is one line."""

import json
import re
import struct
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.io import MemoryFile
from shapely.geometry import box

from rsseg import modality, preparation, recipe
from rsseg.classmap import ClassMap, LandClass
from rsseg.data.check import Options, check, coverage, page, scan
from rsseg.data.check.files import share
from rsseg.data.check.report import Finding, one_line
from rsseg.data.check.tally import Sketch, Tally, cell_of
from rsseg.data.scenes import Polygons, Scene, Scenes, Source
from rsseg.geo import Window
from rsseg.modality import Modality, Statistics

VALUE = Modality(name="a", role="other", bands=("value",))
RNG = np.random.default_rng(5)


def table(files: dict, label=None, scene="s", split=None) -> Scenes:
    sources = {
        name: paths if isinstance(paths, Source) else Source((paths,)) for name, paths in files.items()
    }
    target = Source((label,)) if isinstance(label, Path) else label
    return Scenes((Scene(scene, sources, target, split),), tuple(files))


def found(report, level=None) -> dict[str, str]:
    """Code → line."""
    return {f.code: f.line for f in report.findings if level in (None, f.level)}


# ---- counting


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    size=st.tuples(st.integers(1, 17), st.integers(1, 17)),
    cell=st.integers(1, 9),
    seed=st.integers(0, 99),
)
def test_windows_add_up_to_the_whole(shape, size, cell, seed):
    rng = np.random.default_rng(seed)
    pixels = rng.normal(1e6, 1, (2, *shape))
    valid = rng.random(shape) < 0.7
    sketch = Sketch(cell, (1,), suspects=((0.0, 0.0),))
    tally = Tally(shape, 2, sketch)
    for window in scan.Chunks(shape, size):
        tally.add(sketch.part(window, pixels[(slice(None), *window.slices)], valid[window.slices]))
    assert (tally.pixels, tally.count) == (valid.size, valid.sum())
    rows, cols = np.indices(shape) // cell
    for array, expected in (
        (tally.seen, np.ones(shape)),
        (tally.valid, valid),
        (tally.shown[0], pixels[1] * valid),
    ):
        whole = np.zeros(array.shape)
        np.add.at(whole, (rows, cols), expected)
        np.testing.assert_allclose(array, whole)
    if valid.any():
        values, chosen = tally.statistics, pixels[:, valid]
        np.testing.assert_allclose(values.mean, chosen.mean(1))
        np.testing.assert_allclose(values.std, chosen.std(1), rtol=1e-6, atol=1e-6)
        assert (values.low, values.high) == (tuple(chosen.min(1)), tuple(chosen.max(1)))


@pytest.mark.parametrize("labels", [False, True])
@pytest.mark.parametrize("valid", [False, True])
def test_a_uniform_part_is_like_a_counted_one(labels, valid):
    sketch = Sketch(3, (0,), labels, () if labels else ((7.0,),))
    window = Window(4, 2, 7, 5)
    pixels, good = np.full((1, 7, 5), 7), np.full((7, 5), valid)
    one, other = sketch.part(window, pixels, good), sketch.uniform(window, pixels[:, :1, :1], good[:1, :1])
    for name in ("pixels", "count", "nan", "values", "cells"):
        assert getattr(one, name) == getattr(other, name), name
    for name in ("low", "high", "mean", "seen", "valid", "shown", "equal"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), name)


@given(
    shape=st.tuples(st.integers(1, 9000), st.integers(1, 9000)),
    block=st.tuples(st.integers(1, 600), st.integers(1, 9000)),
    weight=st.integers(1, 200),
)
@settings(max_examples=60, deadline=None)
def test_chunks_cover_once_in_bounded_memory(shape, block, weight):
    windows = scan.chunks(shape, block, weight)
    area = 0
    for window in windows:
        area += window.height * window.width
        assert window.row + window.height <= shape[0]
        assert window.col + window.width <= shape[1]
        assert window.height * window.width * weight <= 2 * scan.CHUNK + weight
    assert area == shape[0] * shape[1]
    assert len(windows) == len(list(windows))
    assert len(scan.chunks(shape, block, weight, quick=True)) <= 36


def test_pictures_are_small():
    assert all(-(-side // cell_of((side, 7))) <= 256 for side in (1, 255, 256, 257, 9999, 65535))


# ---- figures of real layouts


@pytest.fixture
def scene(write_raster):
    """A reference in UTM with holes, a coarser one in degrees that covers half, and labels."""
    a = RNG.integers(1, 200, (3, 90, 70)).astype("uint8")
    a[:, 10:30, 20:50] = 0
    b = RNG.normal(300, 40, (1, 12, 9)).astype("float32")
    b[0, 0, 0] = np.nan
    grid = box(500_000, 5_799_910, 500_035, 5_800_000)
    west, south, east, north = gpd.GeoSeries([grid], crs="EPSG:32633").to_crs("EPSG:4326").iloc[0].bounds
    place = Affine((east - west) / 9, 0, west, 0, -(north - south) / 12, north)
    labels = RNG.integers(0, 3, (90, 70)).astype("uint8")
    return {
        "rgb": write_raster("rgb.tif", a, nodata=0),
        "dem": write_raster("dem.tif", b, crs="EPSG:4326", transform=place),
        "label": write_raster("label.tif", labels),
        "pixels": a,
        "labels": labels,
    }


def test_figures(scene, digits):
    known = {"rgb": modality.load("rgb"), "dem": modality.load("dem")}
    report = check(table({"rgb": scene["rgb"], "dem": scene["dem"]}, scene["label"]), known, digits)
    (entry,) = report.scenes
    rgb, dem, label = entry.layers
    assert (entry.crs, entry.gsd, entry.height, entry.width) == ("EPSG:32633", 1, 90, 70)
    assert (rgb.way, rgb.overlap) == (("aligned",), 1)
    assert rgb.valid == pytest.approx(1 - 600 / 6300)
    chosen = scene["pixels"].reshape(3, -1)[:, (scene["pixels"] != 0).all(0).ravel()]
    np.testing.assert_allclose(rgb.values.mean, chosen.mean(1))
    np.testing.assert_allclose(rgb.physical.std, chosen.std(1))
    assert rgb.bands == ("red", "green", "blue")
    assert dem.way == ("resampled (bilinear)",)
    assert dem.overlap == pytest.approx(0.5, abs=0.02)
    assert 0.4 < dem.valid < 0.5
    assert dem.files[0].nan == pytest.approx(1 / 108)
    counts = np.bincount(scene["labels"].ravel(), minlength=4)
    assert [entry.pixels for entry in label.labels.classes] == counts.tolist()
    assert label.labels.unknown == {}
    assert report.sound
    assert set(found(report, "warning")) == {"gaps"}
    assert "51 %" in found(report)["gaps"] or "5" in found(report)["gaps"]


def test_json_is_json(scene, digits):
    report = check(table({"rgb": scene["rgb"], "dem": scene["dem"]}, scene["label"]), {}, digits)
    content = json.loads(json.dumps(report.as_json(), allow_nan=False))
    assert content["sound"] is True
    layer = content["scenes"][0]["layers"][0]
    assert layer["files"][0]["anatomy"]["nodata"] == [0.0]
    assert "quicklook" not in layer


def test_jobs_and_chunks_change_nothing(scene, digits, monkeypatch):
    scenes = table({"rgb": scene["rgb"], "dem": scene["dem"]}, scene["label"])
    one = check(scenes, {}, digits, options=Options(jobs=1)).as_json()
    monkeypatch.setattr(scan, "CHUNK", 4000)
    assert_close(check(scenes, {}, digits, options=Options(jobs=4)).as_json(), one)


def assert_close(one, other):
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_close(one[key], other[key])
    elif isinstance(one, list):
        assert len(one) == len(other)
        for pair in zip(one, other, strict=True):
            assert_close(*pair)
    else:
        assert one == (pytest.approx(other, rel=1e-9) if isinstance(other, float) else other)


def test_quick_reads_little_and_says_so(write_raster):
    path = write_raster("big.tif", RNG.integers(1, 99, (3000, 2500)).astype("uint8"))
    report = check(table({"a": path}), options=Options(quick=True))
    layer = report.scenes[0].layers[0]
    assert report.quick
    assert 0 < layer.files[0].read < 0.9
    assert layer.values.mean[0] == pytest.approx(49.5, abs=1)


def test_mosaics_and_bands_in_files(write_raster):
    left = write_raster("left.tif", np.full((20, 10), 4.0))
    right = write_raster(
        "right.tif", np.full((20, 10), 8.0), transform=Affine(1, 0, 500_010, 0, -1, 5_800_000)
    )
    other = write_raster("other.tif", RNG.random((20, 20)))
    report = check(table({"a": Source(((left, right), other))}))
    layer = report.scenes[0].layers[0]
    assert (layer.values.low[0], layer.values.mean[0], layer.values.high[0]) == (4, 6, 8)
    assert (layer.valid, layer.overlap, len(layer.files)) == (1, 1, 3)
    assert layer.way[0].startswith("mosaic of 2")
    assert layer.footprint.symmetric_difference(report.scenes[0].footprint).area < 1e-12


# ---- findings


def codes(scenes, modalities=None, class_map=None, **options):
    return found(check(scenes, modalities, class_map, **options))


def test_missing_and_broken_files_are_errors_and_the_rest_is_read(scene, tmp_path):
    broken = tmp_path / "broken.tif"
    broken.write_text("no raster")
    report = check(table({"rgb": scene["rgb"], "x": tmp_path / "gone.tif", "y": broken}))
    lines = [finding.line for finding in report.of("error")]
    assert len(lines) == 2
    assert any("gone.tif: no such file" in line for line in lines)
    assert any("broken.tif: no raster" in line for line in lines)
    assert report.scenes[0].layers[0].values.low


def test_the_reference_may_be_the_broken_one(scene, tmp_path):
    report = check(table({"x": tmp_path / "gone.tif", "rgb": scene["rgb"]}))
    assert [finding.code for finding in report.of("error")] == ["unreadable"]
    assert report.scenes[0].layers[1].values.low


def test_damage_has_a_place(tmp_path):
    path = tmp_path / "a.tif"
    size = {"height": 256, "width": 256, "count": 1, "dtype": "uint8", "blockxsize": 64, "blockysize": 64}
    place = {"crs": "EPSG:32633", "transform": Affine(1, 0, 500_000, 0, -1, 5_800_000)}
    with rasterio.open(path, "w", driver="GTiff", tiled=True, compress="deflate", **size, **place) as file:
        file.write(RNG.integers(0, 255, (1, 256, 256)).astype("uint8"))
    with rasterio.open(path) as file:
        start = int(file.get_tag_item("BLOCK_OFFSET_2_1", "TIFF", bidx=1))
    content = bytearray(path.read_bytes())
    content[start : start + 200] = b"\xff" * 200
    path.write_bytes(content)
    report = check(table({"a": path}))
    (file,) = report.scenes[0].layers[0].files
    assert file.damaged == ("rows 64-127, columns 128-191",)
    assert file.read == pytest.approx(15 / 16)
    assert "rows 64-127, columns 128-191" in found(report, "error")["damaged"]


def test_wrong_bands_and_place(scene, write_raster):
    assert "3 bands for modality a, expected 1" in codes(table({"a": scene["rgb"]}), {"a": VALUE})["bands"]
    far = write_raster("far.tif", RNG.random((9, 9)), transform=Affine(1, 0, 900_000, 0, -1, 5_800_000))
    assert "outside" in codes(table({"rgb": scene["rgb"], "far": far}))["elsewhere"]


def test_nothing_valid(write_raster):
    empty = codes(table({"a": write_raster("a.tif", np.zeros((9, 9)), nodata=0)}))
    assert {"empty", "empty-in-scene"} <= set(empty)
    constant = codes(table({"a": write_raster("b.tif", np.ones((9, 9)))}))
    assert "is 1 everywhere" in constant["constant"]


@pytest.mark.parametrize(("value", "dtype"), [(0, "uint8"), (-9999, "int16"), (-9999, "float32")])
def test_a_collar_is_noticed(write_raster, value, dtype):
    pixels = RNG.integers(1, 200, (300, 280)).astype(dtype)
    rows, cols = np.indices(pixels.shape)
    pixels[rows + cols < 120] = value
    assert f"nodata: {value}" in codes(table({"a": write_raster("a.tif", pixels)}))["collar"]
    assert "collar" not in codes(table({"a": write_raster("b.tif", pixels, nodata=value)}))
    inside = RNG.integers(1, 200, (300, 280)).astype(dtype)
    inside[100:200, 100:200] = value
    assert "collar" not in codes(table({"a": write_raster("c.tif", inside)}))


RANGES = [
    ("reflectance", "optical", 8000, True),
    ("reflectance", "optical", 0.4, False),
    ("db", "sar", 300, True),
    ("db", "sar", -12, False),
    ("linear", "sar", -3, True),
    ("amplitude", "sar", -3, True),
    ("metre", "elevation", -32768, True),
    ("metre", "elevation", 2000, False),
]


@pytest.mark.parametrize(("units", "role", "value", "told"), RANGES)
def test_values_outside_what_units_allow(write_raster, units, role, value, told):
    pixels = np.full((9, 9), 0.5, "float32")
    pixels[4, 4] = value
    known = {"a": Modality(name="a", role=role, bands=("x",), units=units)}
    assert ("range" in codes(table({"a": write_raster("a.tif", pixels)}), known)) is told


def test_statistics_that_are_far(write_raster):
    scenes = table({"a": write_raster("a.tif", RNG.normal(50, 2, (30, 30)).astype("float32"))})
    far, near = (Statistics(mean=(m,), std=(4.0,)) for m in (0.5, 48.0))
    assert "standard deviations" in codes(scenes, {"a": VALUE}, statistics={"a": far})["statistics"]
    assert "statistics" not in codes(scenes, {"a": VALUE}, statistics={"a": near})


def test_labels_that_the_class_map_does_not_know(scene, write_raster, digits):
    labels = scene["labels"].copy()
    labels[0, :7] = 99
    strange = write_raster("strange.tif", labels)
    report = check(table({"rgb": scene["rgb"]}, strange), {}, digits)
    assert "99 (7 pixels)" in found(report, "error")["unknown-labels"]
    assert report.scenes[0].layers[1].labels.unknown == {"99": 7}
    tagged = write_raster("tagged.tif", scene["labels"], nodata=2)
    assert "is also a class" in codes(table({"rgb": scene["rgb"]}, tagged), {}, digits)["nodata-class"]
    image = write_raster("image.tif", RNG.random((90, 70)))
    assert "fractions" in codes(table({"rgb": scene["rgb"]}, image), {}, digits)
    many = write_raster("many.tif", np.arange(6300, dtype="int32").reshape(90, 70))
    assert "no-classes" in codes(table({"rgb": scene["rgb"]}, many), {}, digits)


def test_rgb_labels(scene, write_raster):
    roof = LandClass(name="roof", values=((255, 0, 0),), colour="#ff0000")
    road = LandClass(name="road", values=((0, 0, 255),), colour="#0000ff")
    pixels = np.zeros((3, 90, 70), "uint8")
    pixels[0, :50], pixels[2, 50:] = 255, 255
    label = write_raster("rgb_label.tif", pixels)
    report = check(table({"rgb": scene["rgb"]}, label), {}, ClassMap(classes=(roof, road)))
    assert [c.pixels for c in report.scenes[0].layers[1].labels.classes] == [3500, 2800]


def test_polygons_as_labels(scene, tmp_path, digits):
    path = tmp_path / "fields.gpkg"
    shape = box(500_000, 5_799_980, 500_070, 5_800_000)
    gpd.GeoDataFrame({"kind": ["c1"]}, geometry=[shape], crs="EPSG:32633").to_file(path)
    report = check(table({"rgb": scene["rgb"]}, Polygons(path, "kind")), {}, digits)
    label = report.scenes[0].layers[1]
    assert [c.pixels for c in label.labels.classes] == [0, 20 * 70, 0, 0]
    lost = check(table({"rgb": scene["rgb"]}, Polygons(path, "crop")), {}, digits)
    assert "crop" in found(lost, "error")["unusable"]


def test_polygons_without_a_class_map(scene, tmp_path):
    path = tmp_path / "fields.gpkg"
    shapes = [box(500_000, 5_799_980, 500_070, 5_800_000), box(500_000, 5_799_970, 500_070, 5_799_980)]
    columns = {"kind": ["wood", None], "code": [7, 30], "many": [0.5, 1.5]}
    gpd.GeoDataFrame(columns, geometry=shapes, crs="EPSG:32633").to_file(path)

    def values(column, **options):
        report = check(table({"rgb": scene["rgb"]}, Polygons(path, column, **options)))
        assert report.sound
        return report.scenes[0].layers[1].labels.values

    assert values("kind") == {"wood": 1400}
    assert values("code") == {"7": 1400, "30": 700}
    assert values("code", outside=7) == {"7": 90 * 70 - 700, "30": 700}
    assert values("many") == {"0.5": 1400, "1.5": 700}


def test_polygons_that_cannot_be_read_are_errors_without_a_class_map_too(scene, tmp_path):
    path = tmp_path / "fields.geojson"
    shape = box(500_000, 5_799_980, 500_070, 5_800_000)
    gpd.GeoDataFrame({"kind": ["c1"]}, geometry=[shape], crs="EPSG:32633").to_file(path)
    lost = check(table({"rgb": scene["rgb"]}, Polygons(path, "crop")))
    assert "no column 'crop'; it has kind" in found(lost, "error")["unusable"]
    path.write_text('{"type": "FeatureCollection", "features": [')
    broken = check(table({"rgb": scene["rgb"]}, Polygons(path, "kind")))
    assert "no readable polygons" in found(broken, "error")["unusable"]


def test_strips_of_large_files(write_raster):
    path = write_raster("big.tif", RNG.integers(0, 9, (2100, 2100)).astype("uint8"))
    line = codes(table({"a": path}))["untiled"]
    assert re.search(r"gdal_translate -of COG .*big\.tif", line)


def test_without_georeferencing_it_is_said_once(write_raster):
    rows = []
    for k in range(5):
        path = write_raster(f"s{k}.tif", RNG.random((9, 9)), crs=None)
        rows += table({"a": path}, scene=f"s{k}").rows
    report = check(Scenes(tuple(rows), ("a",)))
    (line,) = [finding.line for finding in report.findings if finding.code == "no-crs"]
    assert "s0, s1, s2 and 2 more" in line


def test_leakage(scene, write_raster):
    rows = table({"rgb": scene["rgb"]}, split="train").rows
    rows += table({"rgb": scene["rgb"]}, scene="t", split="test").rows
    report = check(Scenes(rows, ("rgb",)))
    assert not report.sound
    assert "leakage" in found(report, "error")


def test_text_of_files_is_one_harmless_line():
    finding = Finding("error", "x", "a\n\x1b[31mb\tc", "s\x1b", "l")
    assert finding.line == "s�, l: a �[31mb c"
    assert one_line("a\u202eb") == "a�b"


@pytest.mark.parametrize("value", [0.0, 1e-7, 0.003, 0.0151, 0.39, 0.9851, 0.99999, 1.0])
def test_shares_never_look_whole_when_they_are_not(value):
    assert (share(value) == "100 %") is (value == 1)
    assert share(value).startswith("0 ") is False or value == 0


# ---- files


@pytest.fixture
def report(scene, digits):
    return check(
        table({"rgb": scene["rgb"], "dem": scene["dem"]}, scene["label"], scene="<b>s</b>"), {}, digits
    )


def test_coverage_is_where_pixels_are_valid(report, scene, tmp_path):
    path = tmp_path / "coverage.gpkg"
    coverage.write(report, path)
    coverage.write(report, path)  # reports are replaced
    assert list(tmp_path.glob("*.part*")) == []
    rows = gpd.read_file(path, layer="coverage").set_index("modality")
    assert (rows.crs.to_epsg(), list(rows["scene"])) == (4326, ["<b>s</b>"] * 3)
    areas = rows.to_crs("EPSG:32633").area
    assert areas["rgb"] == pytest.approx(6300 - 600, rel=1e-3)
    assert areas["label"] == pytest.approx(6300, rel=1e-3)
    assert rows.loc["rgb", "valid"] == pytest.approx(1 - 600 / 6300)
    (grid,) = gpd.read_file(path, layer="scenes").to_crs("EPSG:32633").area
    assert grid == pytest.approx(6300, rel=1e-3)


def test_coverage_of_scenes_without_a_place(write_raster, tmp_path):
    report = check(table({"a": write_raster("a.tif", RNG.random((9, 9)), crs=None)}))
    coverage.write(report, tmp_path / "c.gpkg")
    assert gpd.read_file(tmp_path / "c.gpkg", layer="coverage").geometry.isna().all()


def test_the_page_is_self_contained_and_escaped(report, tmp_path):
    path = tmp_path / "check.html"
    page.write(report, path, "<script>alert(1)</script>", "1.0")
    text = path.read_text(encoding="utf-8")
    assert "<script" not in text
    assert "<b>s</b>" not in text
    assert "&lt;b&gt;s&lt;/b&gt;" in text
    assert not re.findall(r"(?:src|href)=(?!\"data:)", text)
    assert not re.findall(r"https?://|url\(", text)
    assert text.count("data:image/png;base64,") == 6
    assert list(tmp_path.glob(".*")) == []


def test_pictures_show_what_is_there(report, scene):
    rgb, _, label = report.scenes[0].layers
    with (
        MemoryFile(rgb.validity) as memory,
        pytest.warns(rasterio.errors.NotGeoreferencedWarning),
        memory.open() as f,
    ):
        red, green = f.read([1, 2]).astype(int)
    assert ((red > green + 50) == (scene["pixels"] == 0).all(0)).all()
    with (
        MemoryFile(label.quicklook) as memory,
        pytest.warns(rasterio.errors.NotGeoreferencedWarning),
        memory.open() as f,
    ):
        assert (f.read(3) == scene["labels"]).all()  # class k is #00000k


# ---- files that lie about themselves

CLAIMS = {
    "one strip": [(259, 1), (273, 200), (278, 65535), (279, 0xFFFE0001)],
    "deflated strip": [(259, 8), (273, 200), (278, 65535), (279, 150)],
    "rows": [(259, 1), (273, 200), (278, 1), (279, 65535)],
    "tiles": [(259, 1), (322, 256), (323, 256), (324, 0), (325, 0)],
    "large tiles": [(259, 5), (322, 4096), (323, 4096), (324, 200), (325, 150)],
    "huge tile": [(259, 5), (322, 65536), (323, 65536), (324, 200), (325, 150)],
}


def claiming(path: Path, tags: list[tuple[int, int]]) -> Path:
    """Writes a TIFF of 400 bytes whose header claims 65535 × 65535 pixels."""
    whole = sorted([(256, 65535), (257, 65535), (258, 8), (262, 1), (277, 1), *tags])
    head = struct.pack("<2sHIH", b"II", 42, 8, len(whole))
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in whole)
    path.write_bytes((head + entries + bytes(4)).ljust(400, b"\0"))
    return path


@pytest.mark.parametrize("tags", CLAIMS.values(), ids=CLAIMS)
def test_claims_of_files_are_not_trusted(tags, tmp_path):
    path = claiming(tmp_path / "a.tif", tags)
    before = peak()
    with rasterio.Env(GDAL_CACHEMAX=64 << 20):
        report = check(table({"a": path}), options=Options(jobs=2))
    assert peak() - before < 500 << 20
    assert report.findings
    assert all("\n" not in finding.line for finding in report.findings)
    coverage.write(report, tmp_path / "c.gpkg")


def peak() -> int:
    """Returns the most memory that this process has held, bytes."""
    status = Path("/proc/self/status")
    if not status.is_file():
        pytest.skip("no /proc")
    return int(re.search(r"VmHWM:\s+(\d+)", status.read_text())[1]) << 10


def test_zion(real_data):
    root = real_data / "zion_landcover"
    loaded = recipe.load("zion_landcover", [f"data.root={root}"])
    known = preparation.modalities_of(loaded.data)
    scenes = preparation.split_scenes(loaded, list(known))
    report = check(scenes, known, preparation.class_map_of(loaded.data), options=Options(gsd=15))
    assert report.sound
    (scene,) = report.scenes
    landsat, dem, label = scene.layers
    assert scene.splits == ("train", "val", "test")
    assert (landsat.valid, len(landsat.files)) == (1, 4)
    assert dem.valid == pytest.approx(0.985, abs=0.001)
    assert "1.5 % of the scene has no valid pixel" in found(report)["gaps"]
    shares = {entry.name: entry.share for entry in label.labels.classes}
    assert shares["forest"] == pytest.approx(0.53, abs=0.01)
    assert shares["shrubland"] == pytest.approx(0.37, abs=0.01)
