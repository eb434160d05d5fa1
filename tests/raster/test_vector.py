"""Polygons as labels: rasterio's rasterisation of everything on the whole grid is the oracle."""

import pickle

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox
from rasterio.features import rasterize
from shapely.geometry import LineString, Point, Polygon, box

from rsseg.classmap import ClassMap, LandClass
from rsseg.data.scenes import Polygons, Scene, Source
from rsseg.data.tiles import open_scene
from rsseg.errors import RasterError, RssegError, SceneError
from rsseg.geo import Window
from rsseg.modality import Modality
from rsseg.raster import vector
from rsseg.raster.location import stamp_of
from rsseg.raster.vector import VectorFile

CLASSES = ClassMap(
    classes=(
        LandClass(name="water", values=(1, 7), colour="#0000ff"),
        LandClass(name="wood", values=(2,), colour="#00ff00"),
        LandClass(name="rock", values=(30,), colour="#808080"),
    ),
    ignored=(9,),
)
UPRIGHT = Affine(1, 0, 500_000, 0, -1, 5_800_000)
ROTATED = Affine.translation(500_000, 5_800_000) @ Affine.rotation(31) @ Affine.scale(2, -1.5)
SHAPE = (300, 530)


def reader(path, grid=None, column="code", classes=CLASSES, layer=None, touched=False, outside=None):
    file = VectorFile(path, stamp_of(path), layer, column)
    grid = GeoBox(SHAPE, UPRIGHT, "EPSG:32633") if grid is None else grid
    return vector.plan(file, grid, classes, touched=touched, outside=outside)


def blobs(rng, transform, count=60):
    """Polygons strewn over the grid and beyond its edges, many of them overlapping."""
    shapes = []
    for _ in range(count):
        col, row = rng.uniform(-40, SHAPE[1] + 40), rng.uniform(-40, SHAPE[0] + 40)
        angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 9)))
        radius = rng.uniform(2, 90, len(angles))
        pixels = zip(col + radius * np.cos(angles), row + radius * np.sin(angles), strict=True)
        shapes.append(shapely.make_valid(Polygon([transform @ pixel for pixel in pixels])))
    return [shape for shape in shapes if shape.geom_type == "Polygon"]


def written(path, shapes, codes, crs="EPSG:32633", **options):
    gpd.GeoDataFrame({"code": codes}, geometry=list(shapes), crs=crs).to_file(path, **options)
    return path


@pytest.mark.parametrize("transform", [UPRIGHT, ROTATED], ids=["upright", "rotated"])
@pytest.mark.parametrize("touched", [False, True])
@pytest.mark.parametrize("outside", [None, 2, 9])
def test_rasterising_everything_gives_the_same(tmp_path, transform, touched, outside):
    rng = np.random.default_rng(7)
    shapes = blobs(rng, transform)
    codes = rng.choice([1, 7, 2, 30, 9], len(shapes))
    path = written(tmp_path / "l.gpkg", shapes, codes)
    read = reader(path, GeoBox(SHAPE, transform, "EPSG:32633"), touched=touched, outside=outside)
    raw, valid = read.read(Window(0, 0, *SHAPE))
    expected = rasterize(
        zip(shapes, codes.tolist(), strict=True), SHAPE, 9 if outside is None else outside,
        transform=transform, all_touched=touched, dtype="int32",
    )  # fmt: skip
    assert raw.shape == (1, *SHAPE)
    assert len(np.unique(expected)) > 3
    np.testing.assert_array_equal(CLASSES.encode(raw[0], valid), CLASSES.encode(expected))


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    rng = np.random.default_rng(3)
    folder = tmp_path_factory.mktemp("vectors")
    found = []
    for transform in (UPRIGHT, ROTATED):
        shapes = blobs(rng, transform)
        frame = gpd.GeoDataFrame({"code": rng.choice([1, 2, 30], len(shapes))}, geometry=shapes, crs=32633)
        path = folder / f"{len(found)}.geojson"
        frame.to_crs(4326).to_file(path)
        for touched in (False, True):
            found.append(reader(path, GeoBox(SHAPE, transform, "EPSG:32633"), touched=touched))
    return [(read, read.read(Window(-20, -20, SHAPE[0] + 40, SHAPE[1] + 40))) for read in found]


@settings(deadline=None, max_examples=60)
@given(
    st.integers(-20, 299), st.integers(-20, 529), st.integers(1, 300), st.integers(1, 300), st.integers(0, 3)
)
def test_a_window_is_cut_out_of_the_whole(planned, row, col, height, width, which):
    read, (raw, valid) = planned[which]
    window = Window(row, col, min(height, SHAPE[0] + 20 - row), min(width, SHAPE[1] + 20 - col))
    part, there = read.read(window)
    rows, cols = window.shifted(20, 20).slices
    np.testing.assert_array_equal(part, raw[:, rows, cols])
    np.testing.assert_array_equal(there, valid[rows, cols])


def test_beyond_the_grid_nothing_is_labelled(planned):
    for _, (raw, valid) in planned:
        assert not valid[:20].any()
        assert not valid[:, -20:].any()
        assert not raw[:, ~valid].any()
        assert valid[20:-20, 20:-20].any()


def test_other_crs_are_brought_to_the_scenes(tmp_path):
    shapes = [box(500_010, 5_799_900, 500_060, 5_799_950)]
    frame = gpd.GeoDataFrame({"code": [2]}, geometry=shapes, crs=32633)
    frame.to_crs(3857).to_file(tmp_path / "l.shp")
    raw, valid = reader(tmp_path / "l.shp").read(Window(40, 0, 70, 70))
    assert valid.sum() == 2500
    assert (raw[0][10:60, 10:60] == 2).all()


@pytest.mark.parametrize(
    "codes",
    [
        np.array([1, 2, 30]),
        np.array([1.0, 2.0, 30.0]),
        ["1", "2", "30"],
        ["water", "wood", " rock "],
        ["01", "wood", "+30"],
        pd.array([1, 2, 30], "Int64"),
    ],
    ids=str,
)
def test_classes_are_numbers_or_names(tmp_path, codes):
    shapes = [box(500_000 + 10 * k, 5_799_990, 500_010 + 10 * k, 5_800_000) for k in range(3)]
    raw, valid = reader(written(tmp_path / "l.gpkg", shapes, codes)).read(Window(0, 0, 1, 30))
    assert valid.all()
    assert raw[0, 0, ::10].tolist() == [1, 2, 30]


def test_later_polygons_hide_earlier_ones_and_null_hides_them_too(tmp_path):
    shapes = [box(500_000, 5_799_900, 500_100, 5_800_000).buffer(-d) for d in (0, 10, 20)]
    path = written(tmp_path / "l.gpkg", shapes, pd.array([2, 30, None], "Int64"))
    raw, valid = reader(path).read(Window(0, 0, 100, 100))
    assert raw[0, 50, [5, 15, 25]].tolist() == [2, 30, 0]
    assert valid[50, [5, 15, 25]].tolist() == [True, True, False]


def test_names_give_rgb_triples_where_the_class_map_has_such(tmp_path):
    red = ClassMap(classes=(LandClass(name="roof", values=((255, 0, 9),), colour="#ff0000"),))
    path = written(tmp_path / "l.gpkg", [box(500_000, 5_799_990, 500_010, 5_800_000)], ["roof"])
    read = reader(path, classes=red)
    raw, valid = read.read(Window(0, 0, 20, 20))
    assert read.bands == 3
    assert raw[:, 0, 0].tolist() == [255, 0, 9]
    assert red.encode(raw, valid)[:10, :10].sum() == 0
    assert valid.sum() == 100


def test_invalid_and_empty_geometries_are_mended_or_skipped(tmp_path):
    bowtie = Polygon([(500_000, 5_800_000), (500_100, 5_799_900), (500_100, 5_800_000), (500_000, 5_799_900)])
    path = written(tmp_path / "l.gpkg", [bowtie, Polygon(), None], [1, 2, 2])
    raw, valid = reader(path).read(Window(0, 0, 100, 100))
    assert valid.sum() == pytest.approx(5000, abs=100)
    assert set(raw[0][valid]) == {1}


def test_the_reader_is_small_when_pickled_and_reads_the_same(tmp_path):
    shapes = blobs(np.random.default_rng(1), UPRIGHT, 400)
    read = reader(written(tmp_path / "l.gpkg", shapes, [2] * len(shapes)))
    whole = Window(0, 0, *SHAPE)
    before = read.read(whole)
    data = pickle.dumps(read)
    assert len(data) < 10_000
    for one, other in zip(pickle.loads(data).read(whole), before, strict=True):  # noqa: S301
        np.testing.assert_array_equal(one, other)


def test_a_file_written_anew_is_read_anew(tmp_path):
    square = box(500_000, 5_799_990, 500_010, 5_800_000)
    path = written(tmp_path / "l.geojson", [square], [1], driver="GeoJSON")
    assert reader(path).read(Window(0, 0, 1, 1))[0].item() == 1
    path.unlink()
    written(path, [square, square], [2, 30], driver="GeoJSON")
    assert reader(path).read(Window(0, 0, 1, 1))[0].item() == 30


def test_a_layer_is_chosen_by_name(tmp_path):
    square = box(500_000, 5_799_990, 500_010, 5_800_000)
    path = written(tmp_path / "l.gpkg", [square], [1], layer="a")
    written(path, [square], [2], layer="b")
    assert reader(path, layer="b").read(Window(0, 0, 1, 1))[0].item() == 2
    with pytest.raises(RasterError, match=r"l\.gpkg: no readable polygons \(.*'c'.*\)"):
        reader(path, layer="c")


@pytest.mark.parametrize("square", [box(10, 50, 10.1, 50.1), None], ids=["elsewhere", "empty"])
def test_a_scene_without_polygons_needs_a_value_for_outside(tmp_path, square):
    path = written(
        tmp_path / "l.gpkg", [] if square is None else [square], [] if square is None else [1], 4326
    )
    with pytest.raises(SceneError, match=r"l\.gpkg: none of its \d polygons lies in the scene"):
        reader(path)
    if square is not None:
        with pytest.raises(SceneError, match="check its CRS"):
            reader(path, outside=2)
    else:
        assert (reader(path, outside=2).read(Window(0, 0, 5, 5))[0] == 2).all()


def test_a_scene_between_polygons_is_all_outside(tmp_path):
    far = [box(490_000, 5_700_000, 490_010, 5_700_010), box(510_000, 5_900_000, 510_010, 5_900_010)]
    path = written(tmp_path / "l.gpkg", far, [1, 1])
    assert (reader(path, outside=2).read(Window(0, 0, 5, 5))[0] == 2).all()


SQUARE = box(500_000, 5_799_990, 500_010, 5_800_000)


def no_crs(path):
    gpd.GeoDataFrame({"code": [1]}, geometry=[SQUARE]).to_file(path)


def strange_crs(path):
    (path.parent / "l.geojson").write_text(
        '{"type": "FeatureCollection", "crs": {"type": "name", "properties": {"name": "EPSG:999999"}},'
        ' "features": [{"type": "Feature", "properties": {"code": 1},'
        ' "geometry": {"type": "Polygon", "coordinates":'
        " [[[15, 52], [16, 52], [16, 53], [15, 52]]]}}]}"
    )
    (path.parent / "l.geojson").rename(path)


def table_only(path):
    import pyogrio  # noqa: PLC0415

    pyogrio.write_dataframe(pd.DataFrame({"code": [1]}), path, driver="GPKG")


BROKEN = {
    "l.gpkg": [
        (lambda p: None, r"no such file; expected label polygons"),
        (lambda p: p.write_bytes(b"SQLite format 3\0" + bytes(300)), r"no readable polygons"),
        (
            lambda p: written(p, [SQUARE], [5]),
            r"'code' holds .*5.*, which the class map does not know; known: water",
        ),
        (lambda p: written(p, [SQUARE], ["wod"]), r"holds 'wod', which .*; did you mean 'wood'"),
        (lambda p: written(p, [SQUARE], [1.5]), r"holds .*1\.5.*, which the class map does not know"),
        (lambda p: written(p, [SQUARE], [True]), r"holds .*True.*, which the class map does not know"),
        (
            lambda p: written(p, [SQUARE, Point(500_000, 5_800_000)], [1, 1]),
            r"1 of 2 features are points or lines",
        ),
        (lambda p: written(p, [LineString([(0, 0), (1, 1)])], [1]), r"1 of 1 features are points or lines"),
        (no_crs, r"has no CRS; write one into the file"),
        (table_only, r"holds no geometries; expected polygons"),
        (
            lambda p: gpd.GeoDataFrame({"a": [1], "b": [2]}, geometry=[SQUARE], crs=32633).to_file(p),
            r"no column 'code'; it has a, b: name one",
        ),
    ],
    "l.geojson": [
        (lambda p: p.write_text('{"type": "FeatureCollection", "features": ['), r"no readable polygons"),
        (lambda p: p.write_text(""), r"no readable polygons"),
        (strange_crs, r"l\.geojson: "),
    ],
}


@pytest.mark.filterwarnings("ignore::UserWarning")  # geopandas' of a missing CRS, while the file is made
@pytest.mark.parametrize(("name", "make", "message"), [(n, *case) for n, c in BROKEN.items() for case in c])
def test_what_cannot_be_rasterised_is_refused_in_one_line(tmp_path, name, make, message):
    make(tmp_path / name)
    with pytest.raises(RssegError, match=message) as caught:
        reader(tmp_path / name)
    assert "\n" not in str(caught.value)
    assert name in str(caught.value)


def test_scenes_without_a_crs_and_values_outside_the_class_map_are_refused(tmp_path):
    path = written(tmp_path / "l.gpkg", [SQUARE], [1])
    with pytest.raises(SceneError, match="polygons for a scene without a CRS"):
        reader(path, GeoBox((9, 9), Affine.identity(), None))
    with pytest.raises(SceneError, match="outside 5: not a value of the class map; known: water"):
        reader(path, outside=5)


def test_a_scene_takes_its_target_from_polygons(tmp_path, write_raster):
    image = write_raster("a.tif", np.ones((40, 40), np.float32))
    path = written(tmp_path / "l.gpkg", [SQUARE], ["wood"])
    scene = Scene("s", {"a": Source((image,))}, Polygons(path, "code", outside=30))
    opened = open_scene(scene, {"a": Modality(name="a", role="other", bands=("value",))}, CLASSES)
    target = opened.target(Window(0, 0, 40, 40), CLASSES)
    assert (target[:10, :10] == 1).all()
    assert (target == 1).sum() == 100
    assert (target == 2).sum() == 1500
