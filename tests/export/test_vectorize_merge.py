"""Small regions that go, against a slow reference; borders that are simplified, by laws."""

import geopandas
import numpy as np
import pytest
import shapely
from affine import Affine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from rasterio.features import rasterize, shapes
from shapely.geometry import shape

from rsseg.export import vectorize as module
from rsseg.export.sieve import _mixed
from rsseg.export.vectorize import vectorize

NODATA = 255
UPRIGHT = Affine(1, 0, 500_000, 0, -1, 5_800_000)
modest = settings(deadline=None, max_examples=25, suppress_health_check=list(HealthCheck))
class_maps = hnp.arrays(
    "u1", st.tuples(*[st.integers(1, 9)] * 2), elements=st.sampled_from((0, 1, 2, 3, NODATA))
)


@pytest.fixture
def made(write_raster, tmp_path, monkeypatch):
    """Writes a class map and returns its regions and what was told of them."""

    def make(pixels, *, rows=64, transform=UPRIGHT, crs="EPSG:32633", **options):
        path = write_raster("m_classes.tif", pixels, transform=transform, crs=crs, nodata=NODATA)
        for name, value in (("_LOWEST", rows), ("_STRIP", 1), ("_TALL_STRIP", 1)):
            monkeypatch.setattr(module, name, value)
        told = vectorize(path, tmp_path / "m.gpkg", overwrite=True, **options)
        return geopandas.read_file(tmp_path / "m.gpkg", layer="m"), told

    return make


def around(pixels, row, col):
    for down, right in ((-1, 0), (1, 0), (0, -1), (0, 1)):
        if 0 <= row + down < pixels.shape[0] and 0 <= col + right < pixels.shape[1]:
            yield row + down, col + right


def regions(pixels) -> list[list[tuple[int, int]]]:
    """Returns the pixels of each region, by flooding."""
    left = {tuple(place) for place in np.argwhere(pixels != NODATA).tolist()}
    found = []
    while left:
        todo, members = [min(left)], []
        left.remove(todo[0])
        while todo:
            members.append(todo.pop())
            alike = [
                p for p in around(pixels, *members[-1]) if p in left and pixels[p] == pixels[members[-1]]
            ]
            left.difference_update(alike)
            todo += alike
        found.append(sorted(members))
    return found


def sieved(pixels, least):
    """Returns classes after one small region after the other has gone, the smallest first."""
    pixels = pixels.copy()
    while True:
        small = []
        for members in regions(pixels):
            inside = set(members)
            sides = [pixels[p] for m in members for p in around(pixels, *m) if p not in inside]
            sides = [int(value) for value in sides if value != NODATA]
            if len(members) < least and sides:
                tie = int(_mixed(np.array([members[0][0] * pixels.shape[1] + members[0][1]]))[0])
                small.append((len(members), tie, members, sides))
        if not small:
            return pixels
        _, _, members, sides = min(small)
        best = max(sorted(set(sides)), key=sides.count)
        for place in members:
            pixels[place] = best


@modest
@given(class_maps, st.integers(2, 12), st.integers(1, 10))
def test_small_regions_go_the_smallest_first(made, pixels, least, rows):
    found, told = made(pixels, rows=rows, min_area=least)
    new = sieved(pixels, least)
    expected = [
        (int(v), shape(p)) for p, v in shapes(new, mask=new != NODATA, connectivity=4, transform=UPRIGHT)
    ]
    mine = zip(found["class_id"], found.geometry, strict=True)
    assert sorted((k, p.simplify(0).normalize().wkt) for k, p in mine) == sorted(
        (k, p.simplify(0).normalize().wkt) for k, p in expected
    )
    assert found["area_m2"].sum() == (pixels != NODATA).sum()
    assert (told.merged > 0) == bool((new != pixels).any())


def test_noise_becomes_patches_and_keeps_its_area(made):
    pixels = np.random.default_rng(0).integers(0, 4, (200, 200)).astype("u1")
    found, told = made(pixels, rows=16, min_area=30)
    assert found["area_m2"].min() >= 30
    assert found["area_m2"].sum() == 200 * 200
    assert told.merged > 10_000


def test_what_stands_alone_in_nodata_stays(made):
    pixels = np.full((5, 5), NODATA, "u1")
    pixels[2, 2] = 1
    found, told = made(pixels, min_area=100)
    assert (len(found), told.merged) == (1, 0)


def blobs(size, seed):
    """Returns classes in blobs with rough edges, and gaps."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 4, (size // 12 + 1, size // 12 + 1)).repeat(12, 0).repeat(12, 1)
    row, col = np.indices((size, size)) + rng.integers(-2, 3, (2, size, size))
    pixels = coarse[row.clip(0, size - 1), col.clip(0, size - 1)].astype("u1")
    pixels[coarse[:size, :size] == 3] = NODATA
    return pixels


@modest
@given(
    st.one_of(class_maps, st.builds(blobs, st.integers(20, 60), st.integers(0, 99))),
    st.sampled_from((0.4, 0.8, 1.5, 3.0, 20.0, 1e300)),
    st.integers(1, 40),
)
def test_simple_borders_stay_shared_valid_and_near(made, pixels, tolerance, rows):
    raw, _ = made(pixels, rows=rows)
    found, _ = made(pixels, rows=rows, simplify=tolerance)
    assert shapely.is_valid(found.geometry).all()
    assert shapely.coverage_is_valid(found.geometry.to_numpy())
    assert (found.geometry.area > 0).all()
    assert list(found["area_m2"]) == list(raw["area_m2"])
    assert (
        shapely.get_num_interior_rings(found.geometry).tolist()
        == shapely.get_num_interior_rings(raw.geometry).tolist()
    )
    for new, old in zip(found.geometry, raw.geometry, strict=True):
        corners = shapely.points(shapely.get_coordinates(old))
        assert shapely.distance(corners, new.boundary).max() <= tolerance * (1 + 1e-9)
        assert shapely.get_num_coordinates(new) <= shapely.get_num_coordinates(old)


def test_staircases_become_lines(made):
    rows, cols = np.indices((120, 120))
    pixels = (rows > 0.37 * cols + 30).astype("u1")
    found, _ = made(pixels, rows=200, simplify=1.0)
    assert shapely.get_num_coordinates(found.geometry).max() <= 32
    shown = rasterize(zip(found.geometry, found["class_id"], strict=True), pixels.shape, transform=UPRIGHT)
    assert (shown != pixels).mean() < 0.01
    assert found.total_bounds.tolist() == [500_000, 5_799_880, 500_120, 5_800_000]


@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:32633"])
def test_the_tolerance_is_in_metres(made, crs):
    degree = 111_320 if crs == "EPSG:4326" else 1
    transform = Affine(10 / degree / (0.5 if degree > 1 else 1), 0, 13, 0, -10 / degree, 60)
    pixels = blobs(60, 1)
    counts = [
        shapely.get_num_coordinates(
            made(pixels, transform=transform, crs=crs, simplify=far)[0].geometry
        ).sum()
        for far in (0, 5, 20)
    ]
    assert counts[0] == counts[1] > 1.3 * counts[2]
