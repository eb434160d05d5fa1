"""Areas: which pixels of a scene belong to them, in whatever CRS either is given."""

import pickle
import warnings
from itertools import pairwise
from types import SimpleNamespace

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox
from pyproj import Transformer
from rasterio.features import geometry_mask
from shapely import MultiPolygon, Point, Polygon, box

from rsseg.errors import RasterError, SceneError
from rsseg.geo import Window
from rsseg.predict.area import Area, Region, read_area, region_of

UTM = GeoBox((300, 400), Affine(0.5, 0, 389_000.25, 0, -0.5, 5_806_998.75), "EPSG:25832")
UTM_60 = GeoBox((300, 400), Affine(100, 0, 820_000, 0, -100, 1_100_000), "EPSG:32660")
FIJI = GeoBox((300, 400), Affine(0.01, 0, 178, 0, -0.01, 10), "EPSG:4326")
FIJI_WEST = GeoBox((300, 400), Affine(0.01, 0, -182, 0, -0.01, 10), "EPSG:4269")
ARCTIC = GeoBox((200, 200), Affine(2e4, 0, -2e6, 0, -2e4, 2e6), "EPSG:3413")
PIXELS = GeoBox((90, 120), Affine(1, 0, 500_000, 0, -1, 5_800_000), "EPSG:32633")


def scene(grid: GeoBox) -> SimpleNamespace:
    return SimpleNamespace(grid=grid, shape=tuple(grid.shape), scene=SimpleNamespace(id="s"))


def mask(region: Region, shape: tuple[int, int]) -> np.ndarray:
    """Returns what is inside, over the whole grid."""
    whole = np.zeros(shape, bool)
    inside = region.inside(0, region.window.height)
    whole[region.window.slices] = True if inside is None else inside
    return whole


def degrees(grid: GeoBox) -> tuple[np.ndarray, np.ndarray]:
    """Returns longitude and latitude of every pixel centre."""
    a, b, c, d, e, f = grid.affine[:6]
    cols, rows = np.meshgrid(np.arange(grid.shape[1]) + 0.5, np.arange(grid.shape[0]) + 0.5)
    transformer = Transformer.from_crs(str(grid.crs), "EPSG:4326", always_xy=True)
    return transformer.transform(a * cols + b * rows + c, d * cols + e * rows + f)


def in_pixels(shape, grid: GeoBox = PIXELS) -> Area:
    """Returns an area given in columns and rows of a grid."""
    a, b, c, d, e, f = grid.affine[:6]
    placed = shapely.transform(
        shape, lambda p: np.stack([a * p[:, 0] + b * p[:, 1] + c, d * p[:, 0] + e * p[:, 1] + f], 1)
    )
    return Area(placed, str(grid.crs))


def written(path, shapes, crs="EPSG:32633", **columns):
    gpd.GeoDataFrame(columns, geometry=list(shapes), crs=crs).to_file(path)
    return str(path)


@pytest.mark.parametrize(
    ("grid", "text"),
    [
        (UTM, "7.37,52.4,7.3725,52.402"),
        (UTM, "7.3693,52.4008,7.3694,52.4018"),
        (UTM, "-180,-90,180,90"),
        (UTM, "5,-90,180,90"),
        (UTM_60, "179.98,9.7,-179.9,9.9"),
        (FIJI, "179.501,7.501,-179.251,9.001"),
        (FIJI_WEST, "179.501,7.501,-179.251,9.001"),
        (GeoBox((90, 180), Affine(2, 0, -180, 0, -2, 90), "EPSG:4269"), "170.5,-90,-170.5,90"),
        (ARCTIC, "-40,80,70,88"),
        (GeoBox((200, 200), ARCTIC.affine, "EPSG:3031"), "-180,-90,180,-80"),
        (GeoBox((80, 90), Affine(3, 1, 389_000, 1, -3, 5_806_998), "EPSG:25832"), "7.37,52.4,7.3725,52.402"),
    ],
    ids=["utm", "sliver", "globe", "half", "utm 60", "fiji", "west", "datum", "pole", "south", "rotated"],
)
def test_a_pixel_belongs_to_bounds_in_degrees_by_its_centre(grid, text):
    west, south, east, north = (float(part) for part in text.split(","))
    lon, lat = degrees(grid)
    along = (lon - west) % 360 < (east - west) % 360 if east - west < 360 else np.full(lon.shape, True)
    expected = along & (lat > south) & (lat < north)
    region = region_of(read_area(text), scene(grid))
    assert expected.any()
    assert np.array_equal(mask(region, tuple(grid.shape)), expected)


def smallest(shape, grid: GeoBox) -> Window:
    left, top, right, bottom = shape.intersection(box(0, 0, grid.shape[1], grid.shape[0])).bounds
    row, col = int(np.floor(top)), int(np.floor(left))
    return Window(row, col, int(np.ceil(bottom)) - row, int(np.ceil(right)) - col)


SHAPES = {
    "rectangle": box(10.3, 20.2, 60.7, 75.1),
    "on the pixels' edges": box(10, 20, 60, 75),
    "beyond the scene": box(-30, 40, 50.2, 200),
    "with a hole": Polygon(box(5, 5, 100, 80).exterior, [box(20.4, 20.4, 50.6, 60.6).exterior]),
    "in parts": MultiPolygon([box(3.2, 4.1, 20.9, 30.3), Point(80, 60).buffer(22.3)]),
    "a circle": Point(60, 45).buffer(40.03),
    "a sliver": Polygon([(5, 5), (110, 80.3), (110.4, 82)]),
    "all of it": box(-1, -1, 200, 200),
}


@pytest.mark.parametrize("name", SHAPES)
def test_a_region_is_what_rasterio_burns(name):
    area, shape = in_pixels(SHAPES[name]), tuple(PIXELS.shape)
    region = region_of(area, scene(PIXELS))
    expected = geometry_mask([area.shape], shape, PIXELS.affine, invert=True)
    assert np.array_equal(mask(region, shape), expected)
    assert region.window == smallest(SHAPES[name], PIXELS)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.floats(-20, 140), st.floats(-20, 110)), min_size=3, max_size=9),
    st.lists(st.integers(0, 400), max_size=4),
)
def test_whatever_rows_are_asked_for_a_pixel_is_inside_or_not(corners, cuts):
    shape = MultiPolygon([p for p in [shapely.convex_hull(shapely.MultiPoint(corners))] if p.area > 1])
    grid = PIXELS.zoom_to(shape=(400, 130)) if len(cuts) % 2 else PIXELS
    if shape.is_empty:
        return
    area = in_pixels(shape, grid)
    try:
        region = region_of(area, scene(grid))
    except SceneError:
        assert not geometry_mask([area.shape], grid.shape, grid.affine, invert=True).any()
        return
    height, width = region.window.shape
    whole = mask(region, tuple(grid.shape))[region.window.slices]
    edges = [0, *sorted({cut for cut in cuts if 0 < cut < height}), height]
    for row, end in pairwise(edges):
        inside = region.inside(row, end - row)
        assert np.array_equal(np.full((end - row, width), True) if inside is None else inside, whole[row:end])
    for row, col in zip(*np.nonzero(whole), strict=True):
        assert region.touches(Window(region.window.row + int(row), region.window.col + int(col), 1, 1))


def test_windows_beside_the_polygons_are_not_touched():
    region = region_of(in_pixels(SHAPES["with a hole"]), scene(PIXELS))
    assert region.touches(Window(0, 0, 10, 10))
    assert not region.touches(Window(25, 25, 20, 20))  # in the hole
    assert not region.touches(Window(0, 101, 90, 19))
    assert region.inside(7, 10) is not None
    assert region_of(in_pixels(SHAPES["all of it"]), scene(PIXELS)).inside(0, 90) is None


@pytest.mark.parametrize(
    "shape",
    [
        box(500, 500, 600, 600),
        box(120, 10, 150, 20),  # touches the border from outside
        box(10.1, 10.1, 10.4, 10.4),  # between the centres
    ],
    ids=["elsewhere", "border", "between centres"],
)
def test_an_area_that_holds_no_pixel_is_refused(shape):
    with pytest.raises(SceneError) as caught:
        region_of(in_pixels(shape), scene(PIXELS))
    message = str(caught.value)
    assert message.startswith("scene s: area area holds none of its pixels (15.0")
    assert "against 15,52.3" in message
    assert "\n" not in message


def test_an_area_smaller_than_a_pixel_is_one_pixel_if_it_holds_a_centre():
    region = region_of(in_pixels(box(10.4, 20.4, 10.6, 20.6)), scene(PIXELS))
    assert region.window == Window(20, 10, 1, 1)
    assert mask(region, (90, 120)).sum() == 1


def test_bounds_elsewhere_are_named_beside_the_scenes():
    with pytest.raises(
        SceneError, match=r"area 9,52,9.1,52.1 .*\(9,52,9.1,52.1 against 7.36841,52.4006,7.3714"
    ):
        region_of(read_area("9,52,9.1,52.1"), scene(UTM))
    far = GeoBox((10, 10), Affine(0.1, 0, 179.5, 0, -0.1, 1), "EPSG:4326")
    with pytest.raises(SceneError, match=r"\(179,50,-179,51 against 179.5,0,-179.5,1, W,S,E,N in degrees\)"):
        region_of(read_area("179,50,-179,51"), scene(far))


def test_a_scene_without_a_crs_has_no_place_for_areas():
    with pytest.raises(SceneError, match=r"scene s: has no CRS, so area 9,52,9.1,52.1 has no place"):
        region_of(read_area("9,52,9.1,52.1"), scene(GeoBox((3, 3), Affine.identity(), None)))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("9,52,9.1", "3 numbers; expected four: W,S,E,N"),
        ("9,52,9.1,52.1,4", "5 numbers; expected four"),
        ("9.1,52,9,52.1", "W 9.1 is not less than E 9; the order is W,S,E,N"),
        ("9,52,9,52.1", "W 9 is not less than E 9"),
        ("180,0,-180,1", "W 180 is not less than E -180"),
        ("9,52.1,9.1,52", "S 52.1 is not less than N 52"),
        ("9,52,9.1,52", "S 52 is not less than N 52"),
        ("389000,5806000,389100,5806100", "not on the globe"),
        ("9,-91,10,52", "not on the globe"),
        ("nan,1,2,3", "not on the globe"),
        ("1,2,inf,3", "not on the globe"),
    ],
)
def test_numbers_in_a_wrong_order_or_range_are_refused(text, reason):
    with pytest.raises(SceneError) as caught:
        read_area(text)
    assert str(caught.value).startswith(f"area {text}: ")
    assert reason in str(caught.value)


def test_w_beyond_e_crosses_the_antimeridian():
    assert read_area(" 179, -1, -178, 2").shape.area == pytest.approx(9)
    assert read_area("179,-1,-178,2").shape.bounds == (-180, -1, 180, 2)


def test_all_polygons_of_a_files_first_layer_count(tmp_path):
    path = written(tmp_path / "a.gpkg", [SHAPES["in parts"], box(30, 30, 40, 40), Polygon()])
    gpd.GeoDataFrame(geometry=[box(0, 0, 1, 1)], crs="EPSG:4326").to_file(path, layer="second")
    found = read_area(path)
    assert found.shape.equals(SHAPES["in parts"].union(box(30, 30, 40, 40)))
    assert (found.name, found.crs.split('"')[1]) == (path, "WGS 84 / UTM zone 33N")


def test_polygons_with_heights_and_crossed_edges_count_too(tmp_path):
    bow = Polygon([(0, 0, 5), (10, 10, 5), (10, 0, 5), (0, 10, 5)])
    found = read_area(written(tmp_path / "a.gpkg", [bow]))
    assert found.shape.area == pytest.approx(50)
    assert found.shape.is_valid
    assert not found.shape.has_z


@pytest.mark.parametrize(
    ("shapes", "crs", "reason"),
    [
        ([Point(0, 0)], "EPSG:4326", "1 of 1 features are points or lines; expected polygons"),
        ([box(0, 0, 1, 1), shapely.LineString([(0, 0), (1, 1)])], "EPSG:4326", "1 of 2 features are points"),
        ([Polygon()], "EPSG:4326", "holds no polygons in its first layer"),
        ([None], "EPSG:4326", "holds no polygons"),
        ([], "EPSG:4326", "holds no polygons"),
        ([box(0, 0, 1, 1)], None, "has no CRS; write one into the file"),
    ],
)
def test_files_without_usable_polygons_are_refused(shapes, crs, reason, tmp_path):
    path = tmp_path / "a.gpkg"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "'crs' was not provided")
        gpd.GeoSeries(shapes, crs=crs).to_frame("geometry").set_geometry("geometry").to_file(path)
    with pytest.raises(RasterError) as caught:
        read_area(str(path))
    assert str(caught.value).startswith(f"area {path}: ")
    assert reason in str(caught.value)


def test_what_is_no_vector_file_is_refused_in_one_line(tmp_path):
    pd.DataFrame({"a": [1]}).to_csv(tmp_path / "a.csv")
    (tmp_path / "a.gpkg").write_text("no database")
    for name, reason in (
        ("gone.gpkg", "no such file; expected a vector file, or W,S,E,N in degrees"),
        ("a.gpkg", "no readable polygons"),
        ("a.csv", "holds no geometries"),
        ("x" * 300, "no such file"),
    ):
        with pytest.raises(RasterError, match=reason) as caught:
            read_area(str(tmp_path / name))
        assert "\n" not in str(caught.value)
    with pytest.raises(RasterError, match=r"area 9 52: no such file; expected a vector file, or W,S,E,N"):
        read_area("9 52")


def test_an_area_travels_and_is_known_again(tmp_path):
    shapes = [in_pixels(SHAPES[name]).shape for name in ("with a hole", "a sliver")]
    path = written(tmp_path / "a.gpkg", shapes)
    turned = written(tmp_path / "b.gpkg", shapes[::-1])
    area = read_area(path)
    again = pickle.loads(pickle.dumps(area))  # noqa: S301 - our own
    assert (again, again.fingerprint) == (area, area.fingerprint)
    assert read_area(turned).fingerprint == area.fingerprint
    others = [
        Area(area.shape, "EPSG:32632"),
        Area(shapely.transform(area.shape, lambda points: points + 1e-6), area.crs),
        read_area("9,52,9.1,52.1"),
    ]
    assert len({other.fingerprint for other in others} | {area.fingerprint}) == 4
    region = region_of(area, scene(PIXELS))
    sent = pickle.loads(pickle.dumps(region))  # noqa: S301 - our own
    assert np.array_equal(mask(sent, (90, 120)), mask(region, (90, 120)))
