"""Places as files state them: upright or not, by corner or middle, in any CRS, across the antimeridian."""

from itertools import count

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox
from pyproj import Transformer
from rasterio.control import GroundControlPoint

from rsseg.geo import Window
from rsseg.raster.grids import coverage, reference_grid
from rsseg.raster.read import plan

numbered = count()
modest = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


def write(folder, pixels, affine, crs, **options):
    pixels = np.asarray(pixels)
    pixels = pixels if pixels.ndim == 3 else pixels[None]
    path = folder / f"{next(numbered)}.tif"
    tags = options.pop("tags", {})
    shape = dict(zip(("count", "height", "width"), pixels.shape, strict=True))
    with rasterio.open(
        path, "w", driver="GTiff", dtype=pixels.dtype, transform=affine, crs=crs, **shape, **options
    ) as file:
        file.write(pixels)
        file.update_tags(**tags)
    return path


def ramp(affine, crs, shape, at):
    """Returns a picture that is linear in UTM coordinates, whatever its own grid: it tells its place."""
    rows, cols = np.mgrid[: shape[0], : shape[1]] + 0.5
    a, b, c, d, e, f = affine[:6]
    x, y = Transformer.from_crs(crs, at.crs, always_xy=True).transform(
        a * cols + b * rows + c, d * cols + e * rows + f
    )
    box = at.boundingbox
    return ((x - box.left) + 3 * (y - box.bottom)).astype(np.float32)


def wanted(grid):
    return ramp(grid.affine, grid.crs, grid.shape, grid)


UTM = GeoBox((60, 50), Affine(10, 0, 366_000, 0, -10, 5_808_000), "EPSG:32633")
OFFSETS = {
    "EPSG:32633": (366_250, 5_807_700),
    "EPSG:4326": (13.0317, 52.4049),
    "EPSG:3857": (1_450_680, 6_875_660),
}


@pytest.mark.parametrize(
    ("crs", "pixel"),
    [
        ("EPSG:4979", 1e-4),  # geographic with ellipsoidal height
        ("EPSG:9518", 1e-4),  # compound: latitude, longitude and height above EGM2008
        ("EPSG:7415", None),  # compound in another country is elsewhere
        ("ESRI:102100", 12.0),  # Web Mercator by another name
        ("EPSG:32633+5773", 7.0),  # compound, projected
        ("EPSG:25833", 10.0),  # ETRS89, the same plane
    ],
)
def test_any_crs_finds_its_place(tmp_path, crs, pixel):
    if pixel is None:
        affine = Affine(10, 0, 100_000, 0, -10, 400_000)
        assert coverage([write(tmp_path, np.ones((9, 9), "u1"), affine, crs)], UTM) == 0
        return
    x, y = Transformer.from_crs("EPSG:32633", crs, always_xy=True).transform(366_250, 5_807_700)
    affine = Affine(pixel, 0, x - 80 * pixel, 0, -pixel, y + 80 * pixel)
    path = write(tmp_path, ramp(affine, crs, (160, 160), UTM), affine, crs)
    pixels, valid = plan([path], UTM).read(Window(0, 0, *UTM.shape))
    assert valid.mean() > 0.9
    np.testing.assert_allclose(pixels[0][valid], wanted(UTM)[valid], atol=0.4)  # 0.03 pixels of 7 to 12 m
    assert coverage([path], UTM) == 1


def test_feet_are_converted(tmp_path):
    crs = "EPSG:2263"  # New York, US survey feet
    path = write(tmp_path, np.ones((100, 200), "u1"), Affine(3, 0, 980_000, 0, -3, 200_000), crs)
    grid = reference_grid([path], gsd=1.0)
    assert abs(grid.affine.a - 3.280833333) < 1e-6
    assert grid.shape == (92, 183)  # 300 and 600 feet are 91.44 and 182.88 m


@pytest.mark.parametrize(
    "turn",
    [
        Affine(10, 0, 0, 0, 10, -600),  # south-up
        Affine(-10, 0, 500, 0, -10, 0),  # east-left
        Affine(0, 10, 0, -10, 0, 0),  # a quarter turn
        Affine(8, 3, 0, 3, -8, -200),  # rotated
        Affine(10, 4, -200, 0, -10, 0),  # sheared
    ],
)
def test_grids_may_lie_any_way(tmp_path, turn):
    a, b, c, d, e, f = turn[:6]
    affine = Affine(a, b, 366_000 + c, d, e, 5_808_000 + f)
    path = write(tmp_path, ramp(affine, "EPSG:32633", (90, 90), UTM), affine, "EPSG:32633")
    pixels, valid = plan([path], UTM).read(Window(0, 0, *UTM.shape))
    assert valid.mean() > 0.5
    np.testing.assert_allclose(pixels[0][valid], wanted(UTM)[valid], atol=20 if turn.b in (3, 4) else 1e-1)
    own = reference_grid([path])
    again, all_valid = plan([path], own).read(Window(0, 0, *own.shape))
    assert own.affine == affine
    assert all_valid.all()
    np.testing.assert_array_equal(again[0], ramp(affine, "EPSG:32633", (90, 90), UTM))


def test_pixel_is_point_counts_from_the_middle(tmp_path):
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    place = Affine(10, 0, 366_000, 0, -10, 5_808_000)
    area, point = (
        write(tmp_path, pixels, place, "EPSG:32633", tags={"AREA_OR_POINT": kind})
        for kind in ("Area", "Point")
    )
    # GDAL moves the tag, not the grid: a file says which place it means, and both mean the same
    assert reference_grid([area]) == reference_grid([point])
    np.testing.assert_array_equal(
        plan([point], reference_grid([area])).read(Window(0, 0, 3, 4))[0][0], pixels
    )


# Around the antimeridian


def longitudes(left, right, pixel=0.01, top=-16.0, rows=100):
    """Returns a grid in degrees, and its pixels: how far east of 175° E each is."""
    grid = GeoBox((rows, round((right - left) / pixel)), Affine(pixel, 0, left, 0, -pixel, top), "EPSG:4326")
    east = left + (np.arange(grid.shape[1]) + 0.5) * pixel
    return grid, np.tile((east - 175) % 360, (rows, 1)).astype(np.float32)


@pytest.mark.parametrize(("left", "right"), [(179.0, 181.0), (-181.0, -179.0)])
def test_a_scene_across_the_antimeridian_finds_files_however_they_count(tmp_path, left, right):
    grid, expected = longitudes(left, right)
    for own in ((178.5, 182.0), (-182.0, -178.5)):
        there, pixels = longitudes(*own, pixel=0.02)
        reader = plan([write(tmp_path, pixels, there.affine, "EPSG:4326")], grid)
        found, valid = reader.read(Window(0, 0, *grid.shape))
        assert valid.all()
        np.testing.assert_allclose(found[0], expected, atol=1e-3)


def test_both_sides_of_the_antimeridian_are_two_tiles(tmp_path):
    grid, expected = longitudes(179.0, 181.0)
    tiles = [longitudes(178.0, 180.0), longitudes(-180.0, -178.0)]
    paths = tuple(write(tmp_path, pixels, there.affine, "EPSG:4326") for there, pixels in tiles)
    found, valid = plan([paths], grid).read(Window(0, 0, *grid.shape))
    assert valid.all()
    np.testing.assert_allclose(found[0], expected, atol=1e-2)


@modest
@given(st.integers(-40, 40), st.integers(-40, 40), st.sampled_from(["EPSG:32601", "EPSG:3832", "EPSG:3031"]))
def test_a_world_file_is_cut_at_180_and_read_across(tmp_path_factory, row, col, crs):
    """The file ends where the scene goes on: cells that tear there are found whatever the window is."""
    there, pixels = longitudes(-180.0, 180.0, pixel=0.5, top=90.0, rows=360)
    path = write(tmp_path_factory.mktemp("world"), pixels, there.affine, "EPSG:4326")
    lat = -70 if crs == "EPSG:3031" else 10
    x, y = Transformer.from_crs("EPSG:4326", crs, always_xy=True).transform(180.0, lat)
    grid = GeoBox((80, 80), Affine(9000, 0, x - 40 * 9000, 0, -9000, y + 40 * 9000), crs)
    reader = plan([path], grid, resampling="nearest")
    whole, valid = reader.read(Window(0, 0, 80, 80))
    east, _ = Transformer.from_crs(crs, "EPSG:4326", always_xy=True).transform(
        *(
            grid.affine.c + 9000 * (np.mgrid[:80, :80][1] + 0.5),
            grid.affine.f - 9000 * (np.mgrid[:80, :80][0] + 0.5),
        )
    )
    exact = np.floor((east + 180) / 0.5).astype(int) % 720
    near = np.abs((east + 180) / 0.5 % 1 - 0.5) < 0.4  # not within 0.1 pixels of a border
    assert valid.all()
    np.testing.assert_array_equal(whole[0][near], pixels[0][exact][near])
    part = Window(40 + min(row, 0), 40 + min(col, 0), 1 + abs(row) // 2, 1 + abs(col) // 2)
    np.testing.assert_array_equal(reader.read(part)[0], whole[:, *part.slices])


# Control points


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize("order", [1, 2])
def test_control_points_of_a_plane_are_a_transform(tmp_path, order):
    turned = Affine(8, 3, 366_000, 2, -9, 5_808_000)
    pixels = ramp(turned, "EPSG:32633", (70, 60), UTM)
    spots = [(row, col) for row in np.linspace(0, 70, 2 + order) for col in np.linspace(0, 60, 2 + order)]
    points = [
        GroundControlPoint(row, col, 8 * col + 3 * row + 366_000, 2 * col - 9 * row + 5_808_000, 0.0)
        for row, col in spots
    ]
    path = tmp_path / "gcps.tif"
    profile = {"driver": "GTiff", "count": 1, "height": 70, "width": 60, "dtype": "float32"}
    with rasterio.open(path, "w", **profile) as file:
        file.gcps = points, "EPSG:32633"
        file.write(pixels, 1)
    grid = reference_grid([path])
    found, valid = plan([path], grid).read(Window(0, 0, *grid.shape))
    assert 0.5 < valid.mean() < 1
    truth = ramp(grid.affine, grid.crs, grid.shape, UTM)
    inner = (
        valid & np.roll(valid, 2, 0) & np.roll(valid, -2, 0) & np.roll(valid, 2, 1) & np.roll(valid, -2, 1)
    )
    np.testing.assert_allclose(found[0][inner], truth[inner], atol=0.5)
    into, known = plan([path], UTM).read(Window(0, 0, *UTM.shape))
    assert known.any()
    np.testing.assert_allclose(into[0][known], wanted(UTM)[known], atol=20)  # half a pixel at the file's edge
