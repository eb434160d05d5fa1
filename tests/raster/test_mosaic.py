"""Tiles read as one raster; the raster that they were cut from is the oracle."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox
from pyproj import Transformer

from rsseg.errors import RasterError
from rsseg.geo import Window
from rsseg.raster.grids import coverage, reference_grid
from rsseg.raster.read import _Aligned, plan

modest = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
SHAPE = (60, 70)
GRID = GeoBox(SHAPE, Affine(2, 0, 366_000, 0, -2, 5_808_000), "EPSG:32633")
SCENE = GeoBox((50, 40), Affine(2.7, 0.3, 366_011, 0.2, -2.9, 5_807_980), "EPSG:32633")


def write(path, pixels, affine, crs="EPSG:32633", **options):
    bands, height, width = pixels.shape
    shape = {"count": bands, "height": height, "width": width, "dtype": pixels.dtype}
    with rasterio.open(path, "w", driver="GTiff", transform=affine, crs=crs, **shape, **options) as file:
        file.write(pixels)
    return path


def cut(folder, pixels, window, name, **options):
    rows, cols = window.slices
    a, b, c, d, e, f = GRID.affine[:6]
    affine = Affine(a, b, c + a * window.col, d, e, f + e * window.row)
    return write(folder / f"{name}.tif", pixels[:, rows, cols], affine, **options)


def picture(holes=0.0):
    rng = np.random.default_rng(4)
    pixels = rng.integers(1, 250, (2, *SHAPE)).astype(np.float32)
    pixels[:, rng.random(SHAPE) < holes] = -9
    return pixels


windows = st.builds(
    lambda top, left, down, across: Window(
        top, left, min(down, SHAPE[0] - top), min(across, SHAPE[1] - left)
    ),
    st.integers(0, SHAPE[0] - 1),
    st.integers(0, SHAPE[1] - 1),
    st.integers(1, 40),
    st.integers(1, 40),
)


@modest
@given(st.lists(windows, min_size=2, max_size=7), st.sampled_from([GRID, SCENE]))
def test_tiles_are_read_as_the_raster_they_were_cut_from(tmp_path_factory, parts, grid):
    folder, pixels = tmp_path_factory.mktemp("tiles"), picture(holes=0.05)
    covered = np.zeros(SHAPE, bool)
    for part in parts:
        covered[part.slices] = True
    paths = tuple(cut(folder, pixels, part, k, nodata=-9) for k, part in enumerate(parts))
    whole = write(folder / "whole.tif", np.where(covered, pixels, -9), GRID.affine, nodata=-9)
    expected, known = plan([whole], grid).read(Window(-3, -3, 60, 60))
    found, valid = plan([paths], grid).read(Window(-3, -3, 60, 60))
    if grid is GRID:
        np.testing.assert_array_equal(valid, known)
        np.testing.assert_array_equal(found, expected)
    else:  # at the edge of all tiles the nearest pixel counts, where the raster has nodata next to it
        assert not (known & ~valid).any()
        np.testing.assert_allclose(found[:, known], expected[:, known], rtol=1e-6)


def test_the_first_valid_tile_counts(tmp_path):
    one, two = np.full((1, 4, 4), 1, np.uint8), np.full((1, 4, 4), 2, np.uint8)
    one[0, :, 2:] = 0
    paths = tuple(write(tmp_path / f"{k}.tif", p, GRID.affine, nodata=0) for k, p in enumerate((one, two)))
    grid = reference_grid([paths])
    np.testing.assert_array_equal(plan([paths], grid).read(Window(0, 0, 4, 4))[0][0], [[1, 1, 2, 2]] * 4)
    np.testing.assert_array_equal(plan([paths[::-1]], grid).read(Window(0, 0, 4, 4))[0][0], [[2] * 4] * 4)


def test_a_mosaic_is_a_reference_and_a_band_among_others(tmp_path):
    pixels = picture()
    left, right = Window(0, 0, 60, 30), Window(0, 30, 60, 40)
    tiles = tuple(cut(tmp_path, pixels, part, k) for k, part in enumerate((right, left)))
    grid = reference_grid([tiles])
    assert grid == GRID
    alone = write(tmp_path / "b.tif", pixels[:1] + 1, GRID.affine)
    reader = plan([tiles, alone], grid)
    assert reader.bands == 3
    found, valid = reader.read(Window(5, 20, 30, 30))
    np.testing.assert_array_equal(found, np.concatenate([pixels, pixels[:1] + 1])[:, 5:35, 20:50])
    assert valid.all()
    assert coverage([tiles], grid) == 1
    assert abs(coverage([(tiles[1],)], grid) - 30 / 70) < 0.03


def test_tiles_of_two_utm_zones_meet_without_a_gap(tmp_path):
    """Value = degrees of longitude east of 12°, where zones 32 and 33 meet; the scene lies across."""

    def degrees(grid):
        rows, cols = np.mgrid[: grid.shape[0], : grid.shape[1]] + 0.5
        a, b, c, d, e, f = grid.affine[:6]
        turn = Transformer.from_crs(grid.crs, "EPSG:4326", always_xy=True)
        return turn.transform(a * cols + b * rows + c, d * cols + e * rows + f)[0] - 12

    tiles = []
    for crs, lon in (("EPSG:32632", 11.9), ("EPSG:32633", 12.1)):
        x, y = Transformer.from_crs("EPSG:4326", crs, always_xy=True).transform(lon, 50.0)
        grid = GeoBox((200, 200), Affine(100, 0, x - 10_000, 0, -100, y + 10_000), crs)
        tiles.append(write(tmp_path / f"{lon}.tif", degrees(grid)[None].astype(np.float32), grid.affine, crs))
    scene = GeoBox((60, 120), Affine(100, 0, 1_335_000, 0, -100, 6_450_000), "EPSG:3857")
    x, y = Transformer.from_crs("EPSG:4326", "EPSG:3857", always_xy=True).transform(12.0, 50.0)
    scene = GeoBox((60, 120), Affine(100, 0, x - 6000, 0, -100, y + 3000), "EPSG:3857")
    found, valid = plan([tuple(tiles)], scene).read(Window(0, 0, 60, 120))
    assert valid.all()
    np.testing.assert_allclose(found[0], degrees(scene), atol=8e-4)  # half a pixel at a tile's edge
    both = reference_grid([tuple(tiles)])
    assert both.crs == "EPSG:32632"
    assert both.shape[1] > 330  # from the west of one to the east of the other
    assert plan([tuple(tiles)], both).read(Window(100, 100, 20, 150))[1].any()


def test_tiles_of_one_grid_are_read_plainly(tmp_path):
    pixels = picture()
    parts = [Window(0, 0, 30, 70), Window(30, 0, 30, 70)]
    tiles = tuple(cut(tmp_path, pixels, part, k) for k, part in enumerate(parts))
    reader = plan([tiles], GRID)
    assert [type(layer) for layer in reader.layers] == [_Aligned]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("bands", r"2.tif: 1 bands, but .*1.tif has 2; tiles of a mosaic need the same bands"),
        ("bare", r"2.tif: has no georeferencing; tiles of a mosaic need it"),
        ("gone", r"2.tif: no such file"),
        ("none", r"a mosaic without tiles"),
    ],
)
@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_tiles_that_do_not_belong_together_are_refused(tmp_path, change, words):
    pixels = picture()
    first = write(tmp_path / "1.tif", pixels, GRID.affine)
    second: tuple[Path, ...] = (tmp_path / "2.tif",)
    if change == "bands":
        write(second[0], pixels[:1], GRID.affine)
    elif change == "bare":
        write(second[0], pixels, Affine.identity(), None)
    tiles = () if change == "none" else (first, *second)
    with pytest.raises(RasterError, match=words):
        plan([tiles], GRID)
