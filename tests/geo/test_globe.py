"""Outlines around the antimeridian keep their area, lie between -180 and 180, and hold the same places."""

import pytest
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox
from pyproj import Transformer
from shapely import Point, box

from rsseg.geo.globe import cut


@given(st.floats(-400, 400), st.floats(0.5, 150), st.floats(-80, 60), st.floats(0.5, 20))
def test_area_and_places_are_kept(west, width, south, height):
    outline = box(west, south, west + width, south + height)
    found = cut(outline)
    left, _, right, _ = found.bounds
    assert -180 - 1e-9 <= left <= right <= 180 + 1e-9
    assert found.area == pytest.approx(outline.area, rel=1e-9)
    lon = (west + width / 3 + 180) % 360 - 180
    assert found.buffer(1e-9).contains(Point(lon, south + height / 2))


@pytest.mark.parametrize(("crs", "lon"), [("EPSG:32601", 180.0), ("EPSG:32660", 180.0), ("EPSG:3832", 180.0)])
def test_a_grid_across_the_antimeridian_has_two_parts(crs, lon):
    x, y = Transformer.from_crs("EPSG:4326", crs, always_xy=True).transform(lon, -17.0)
    grid = GeoBox((100, 100), Affine(1000, 0, x - 50_000, 0, -1000, y + 50_000), crs)
    found = cut(grid.footprint("EPSG:4326").geom, projected=True)
    assert len(found.geoms) == 2
    assert found.area < 2
    assert found.contains(Point(179.9, -17))
    assert found.contains(Point(-179.9, -17))
    assert not found.intersects(Point(0, -17))


def test_what_does_not_cross_stays_as_it_is():
    outline = box(-120, -10, 130, 20)
    assert cut(outline) is outline


@pytest.mark.parametrize("world", [box(-180, -90, 180, 90), box(-180, -80, 180, 80).segmentize(10)])
def test_the_whole_earth_is_whole(world):
    assert cut(world).equals(world)
    assert cut(world, projected=True).area == pytest.approx(world.area)
