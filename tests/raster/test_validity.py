"""Valid maps against what GDAL itself says about files."""

import os
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.enums import ColorInterp

from rsseg.geo import Window
from rsseg.raster import validity
from rsseg.raster.grids import reference_grid
from rsseg.raster.read import plan

DATA = Path(os.environ.get("RSSEG_TEST_DATA", Path(__file__).parents[2] / "../shared/data"))
PLACE = {"crs": "EPSG:32632", "transform": rasterio.Affine(10, 0, 5e5, 0, -10, 5e6)}


def write(path, pixels, mask=None, **options):
    """Writes (C, H, W) pixels, with a stored mask (True = valid) on request."""
    bands, height, width = pixels.shape
    shape = {"count": bands, "height": height, "width": width, "dtype": pixels.dtype}
    with rasterio.open(path, "w", driver="GTiff", **shape, **PLACE, **options) as dataset:
        dataset.write(pixels)
        if mask is not None:
            dataset.write_mask(mask)
    return path


def read_valid(path, window=None, **options):
    grid = reference_grid([path])
    return plan([path], grid, **options).read(window or Window(0, 0, *grid.shape))[1]


def numbers(dtype, bands=2, low=0, high=5):
    return np.random.default_rng(0).integers(low, high, (bands, 7, 9)).astype(dtype)


@pytest.mark.parametrize(
    "dtype", ["uint8", "int8", "int16", "uint16", "int32", "int64", "float32", "float64"]
)
def test_nodata_matches_gdal_band_by_band(tmp_path, dtype):
    path = write(tmp_path / "a.tif", numbers(dtype), nodata=3)
    with rasterio.open(path) as dataset:
        expected = (dataset.read_masks() != 0).all(axis=0)
    valid = read_valid(path)
    np.testing.assert_array_equal(valid, expected)
    assert 0 < valid.mean() < 1


@pytest.mark.parametrize("nodata", [-9999, 3.4028234663852886e38, -3.3999999521443642e38, 0.1])
def test_float_nodata_is_compared_as_the_file_stores_it(tmp_path, nodata):
    pixels = numbers("float32", bands=1)
    pixels[0, 2, 3] = np.float32(nodata)
    valid = read_valid(write(tmp_path / "a.tif", pixels, nodata=nodata))
    assert np.argwhere(~valid).tolist() == [[2, 3]]


def test_infinities_and_nan_are_invalid_without_a_tag(tmp_path):
    pixels = numbers("float32", bands=1)
    pixels[0, 0, :3] = np.nan, np.inf, -np.inf
    valid = read_valid(write(tmp_path / "a.tif", pixels))
    assert np.argwhere(~valid).tolist() == [[0, 0], [0, 1], [0, 2]]


def test_values_beyond_float32_are_invalid(tmp_path):
    pixels = numbers("float64", bands=1)
    pixels[0, 0, 0] = -1.797e308
    assert np.argwhere(~read_valid(write(tmp_path / "a.tif", pixels))).tolist() == [[0, 0]]


@pytest.mark.parametrize(
    ("dtype", "nodata", "hole"),
    [
        ("int64", -(2**63), -(2**63)),
        ("int64", 2**63 - 1, 2**63 - 1),
        ("int64", 2**53 + 1, 2**53 + 1),
        ("uint64", 2**64 - 1, 2**64 - 1),
        ("float32", "-3.40282e+38", -3.4028234663852886e38),
        ("float32", "-3.402823e+38", -3.4028234663852886e38),
        ("float32", "-3.40282306074e+38", -3.4028230607370965e38),
        ("float64", "-1.797693e+308", -1.7976931348623157e308),
    ],
)
def test_nodata_that_float64_or_its_text_rounds(tmp_path, dtype, nodata, hole):
    pixels = numbers(dtype, bands=1)
    pixels[0, 0, :2] = hole, 2**53 if dtype == "int64" else 5
    path = write(tmp_path / "a.tif", pixels)
    band = f'<PAMRasterBand band="1"><NoDataValue>{nodata}</NoDataValue></PAMRasterBand>'
    Path(f"{path}.aux.xml").write_text(f"<PAMDataset>{band}</PAMDataset>")
    with rasterio.open(path) as dataset:
        np.testing.assert_array_equal(read_valid(path), dataset.read_masks(1) != 0)
    assert np.argwhere(~read_valid(path)).tolist() == [[0, 0]]


@pytest.mark.parametrize("nodata", [np.nan, -np.inf])
def test_nan_and_infinity_as_nodata(tmp_path, nodata):
    pixels = numbers("float32", bands=1)
    pixels[0, 4, 4] = nodata
    path = write(tmp_path / "a.tif", pixels, nodata=nodata)
    with rasterio.open(path) as dataset:
        np.testing.assert_array_equal(read_valid(path), dataset.dataset_mask() != 0)


def test_declared_nodata_counts_beside_the_tag(tmp_path):
    pixels = numbers("uint8", bands=1)
    path = write(tmp_path / "a.tif", pixels, nodata=3)
    np.testing.assert_array_equal(read_valid(path, nodata=1), (pixels[0] != 3) & (pixels[0] != 1))


@pytest.mark.parametrize("declared", [-9999, 256, 2.5, float("nan"), float("inf")])
def test_declared_nodata_that_the_type_cannot_hold_marks_nothing(tmp_path, declared):
    assert read_valid(write(tmp_path / "a.tif", numbers("uint8")), nodata=declared).all()


@pytest.mark.parametrize("internal", [True, False])
def test_stored_mask_matches_gdal(tmp_path, internal):
    mask = np.random.default_rng(1).random((7, 9)) > 0.3
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=internal):
        path = write(tmp_path / "a.tif", numbers("uint8", bands=3), mask)
    assert Path(f"{path}.msk").exists() != internal
    with rasterio.open(path) as dataset:
        np.testing.assert_array_equal(read_valid(path), dataset.dataset_mask() != 0)
    np.testing.assert_array_equal(read_valid(path, Window(-1, 2, 4, 4))[1:], mask[:3, 2:6])


def test_nodata_counts_beside_a_stored_mask(tmp_path):
    pixels, mask = numbers("uint8", bands=1), np.random.default_rng(1).random((7, 9)) > 0.3
    path = write(tmp_path / "a.tif", pixels, mask, nodata=3)
    np.testing.assert_array_equal(read_valid(path), mask & (pixels[0] != 3))


@pytest.mark.parametrize(("bands", "place"), [(2, 2), (4, 4), (6, 6), (6, 2)])
def test_alpha_is_a_mask_and_no_band(tmp_path, bands, place):
    pixels = numbers("uint8", bands)
    path = write(tmp_path / "a.tif", pixels)
    with rasterio.open(path, "r+") as dataset:
        kinds = [ColorInterp.undefined] * bands
        kinds[place - 1] = ColorInterp.alpha
        dataset.colorinterp = kinds
    reader = plan([path], reference_grid([path]))
    found, valid = reader.read(Window(0, 0, 7, 9))
    np.testing.assert_array_equal(valid, pixels[place - 1] != 0)
    np.testing.assert_array_equal(found, np.delete(pixels, place - 1, axis=0) * valid)


def vrt(path, source, bands):
    """Writes a VRT whose bands have nodata values of their own, which GeoTIFF cannot store."""
    entry = (
        '<VRTRasterBand dataType="Byte" band="{0}"><NoDataValue>{1}</NoDataValue><SimpleSource>'
        "<SourceFilename>{2}</SourceFilename><SourceBand>{0}</SourceBand></SimpleSource></VRTRasterBand>"
    )
    entries = "".join(entry.format(band, nodata, source) for band, nodata in enumerate(bands, start=1))
    path.write_text(
        '<VRTDataset rasterXSize="9" rasterYSize="7"><SRS>EPSG:32632</SRS>'
        f"<GeoTransform>500000, 10, 0, 5000000, 0, -10</GeoTransform>{entries}</VRTDataset>"
    )
    return path


def test_each_band_has_its_own_nodata(tmp_path):
    pixels = numbers("uint8", 3)
    path = vrt(tmp_path / "a.vrt", write(tmp_path / "a.tif", pixels), [0, 1, 2])
    np.testing.assert_array_equal(
        read_valid(path), (pixels != np.array([0, 1, 2])[:, None, None]).all(axis=0)
    )
    np.testing.assert_array_equal(read_valid(path, indexes=[2]), pixels[1] != 1)


def test_combined_nodata_values_match_gdal(tmp_path):
    path = write(tmp_path / "a.tif", numbers("uint8", 2, high=2))
    with rasterio.open(path, "r+") as dataset:
        dataset.update_tags(NODATA_VALUES="0 0")
    with rasterio.open(path) as dataset:
        expected = dataset.dataset_mask() != 0
    np.testing.assert_array_equal(read_valid(path), expected)
    assert 0 < expected.mean() < 1


def test_usable_demands_every_band():
    pixels = np.array([[[1, 2, 3]], [[4, 5, 6]]], np.int16)
    assert validity.usable(pixels, [(2,), (6, 7)]).tolist() == [[True, False, False]]
