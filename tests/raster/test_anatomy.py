"""What files say about themselves: rasterio is the oracle."""

import warnings

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.control import GroundControlPoint
from rasterio.enums import Resampling
from rasterio.errors import NotGeoreferencedWarning

from rsseg.errors import RasterError
from rsseg.raster.anatomy import anatomy, ground_size, read_anatomy
from rsseg.raster.handles import describe

UTM = {"crs": "EPSG:32633", "transform": Affine(2, 0, 500_000, 0, -3, 5_800_000)}


@pytest.fixture
def made(tmp_path):
    """Writes a file and returns its anatomy."""

    def make(change=lambda file: None, *, shape=(40, 60), dtype="uint8", count=1, **profile):
        path = tmp_path / "a.tif"
        size = {"height": shape[0], "width": shape[1], "count": count, "dtype": dtype}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(path, "w", driver="GTiff", **size, **profile) as file:
                file.write(np.ones((count, *shape), dtype))
                change(file)
            with rasterio.open(path) as file:
                return anatomy(file)

    return make


def test_plain(made):
    found = made(**UTM, compress="deflate", nodata=9)
    assert (found.driver, found.height, found.width, found.bands) == ("GTiff", 40, 60, 1)
    assert (found.crs, found.pixel, found.nodata) == ("EPSG:32633", (2, 3), (9,))
    assert found.gsd == pytest.approx(6**0.5)
    assert (found.compression, found.dtypes, found.scales) == ("deflate", ("uint8",), ())
    strange = (
        found.rotated,
        found.south_up,
        found.palette,
        found.rpcs,
        found.complex,
        found.alpha,
        found.mask,
    )
    assert not any(strange)


LAYOUTS = [
    ({"tiled": True, "blockxsize": 16, "blockysize": 32}, "tiled", (32, 16)),
    ({"blockysize": 8}, "striped", (8, 60)),
    ({"blockysize": 40}, "whole", (40, 60)),
]


@pytest.mark.parametrize(("profile", "layout", "block"), LAYOUTS)
def test_layout(made, profile, layout, block):
    found = made(**UTM, **profile)
    assert (found.layout, found.block) == (layout, block)


def test_what_files_declare(made):
    def change(file):
        file.scales, file.offsets = (0.5, 1.0), (10.0, 0.0)
        file.build_overviews([2, 4], Resampling.nearest)

    found = made(change, count=2, alpha="yes", **UTM)
    assert found.scales == ((0.5, 10.0), (1.0, 0.0))
    assert (found.alpha, found.overviews) == (2, (2, 4))


def test_masks_and_palettes(made):
    assert made(lambda file: file.write_mask(True), **UTM).mask == "dataset"
    assert made(lambda file: file.write_colormap(1, {1: (9, 9, 9)}), **UTM).palette
    assert made(dtype="complex64").complex


def test_place(made):
    points = [GroundControlPoint(r, c, 10 + c / 10, 50 - r / 10) for r in (0, 40) for c in (0, 60)]
    placed = made(gcps=points, crs="EPSG:4326")
    assert (placed.gcps, placed.south_up, placed.rotated) == (4, False, False)
    turned = Affine.translation(5e5, 58e5) @ Affine.rotation(30) if hasattr(Affine, "__matmul__") else None
    rotated = made(crs="EPSG:32633", transform=turned or Affine(0.8, -0.5, 5e5, 0.5, 0.8, 58e5))
    assert rotated.rotated
    assert made(crs="EPSG:32633", transform=Affine(1, 0, 0, 0, 1, 0.5)).south_up
    nowhere = made()
    assert (nowhere.crs, nowhere.gsd, nowhere.south_up) == (None, None, False)


def test_ground_size_of_degrees_is_an_area_mean(write_raster):
    path = write_raster(
        "a.tif", np.zeros((10, 10)), crs="EPSG:4326", transform=Affine(1e-4, 0, 9, 0, -1e-4, 60)
    )
    size = ground_size(describe(path).grid)
    assert size == pytest.approx((11.13 * 11.13 / 2) ** 0.5, rel=0.01)  # cos 60° = 1/2


def test_unreadable(tmp_path):
    (tmp_path / "a.tif").write_text("no raster")
    with pytest.raises(RasterError, match=r"a\.tif"):
        read_anatomy(tmp_path / "a.tif", (0, 0))
