"""Values as files encode them: complex, scaled, coded, packed, wide and narrow."""

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.enums import ColorInterp

from rsseg.errors import RasterError
from rsseg.geo import Window
from rsseg.raster.grids import reference_grid
from rsseg.raster.read import plan

PLACE = {"crs": "EPSG:32633", "transform": Affine(10, 0, 366_000, 0, -10, 5_808_000)}
OTHER = {"crs": "EPSG:32633", "transform": Affine(10, 0, 366_003, 0, -10, 5_808_004)}


def write(path, pixels, place=PLACE, dtype=None, **options):
    bands, height, width = pixels.shape
    shape = {"count": bands, "height": height, "width": width, "dtype": dtype or pixels.dtype}
    tagged = {
        key: options.pop(key) for key in ("scales", "offsets", "colormap", "colorinterp") if key in options
    }
    with rasterio.open(path, "w", driver="GTiff", **shape, **place, **options) as file:
        file.write(pixels)
        for key in ("scales", "offsets", "colorinterp"):
            if key in tagged:
                setattr(file, key, tagged[key])
        if "colormap" in tagged:
            file.write_colormap(1, tagged["colormap"])
    return path


def read(path, **options):
    grid = reference_grid([path])
    return plan([path], grid, **options).read(Window(0, 0, *grid.shape))


@pytest.mark.parametrize("dtype", ["complex_int16", "complex64", "complex128"])
def test_complex_pixels_are_read_as_amplitudes(tmp_path, dtype):
    rng = np.random.default_rng(0)
    pixels = (rng.integers(-900, 900, (2, 8, 9)) + 1j * rng.integers(-900, 900, (2, 8, 9))).astype(
        "complex64"
    )
    pixels[0, 2, 3], pixels[1, 4, 5], pixels[0, 6, 6] = 0, 7j, 7
    path = write(tmp_path / "slc.tif", pixels, dtype=dtype, nodata=0)
    found, valid = read(path)
    expected = np.ones((8, 9), bool)
    expected[2, 3] = False  # 0 + 0j; 7j is an amplitude although its real part is nodata
    np.testing.assert_array_equal(valid, expected)
    np.testing.assert_allclose(found, np.abs(pixels) * valid, rtol=1e-6)


def test_complex_pixels_with_a_nan_in_either_part_are_invalid(tmp_path):
    pixels = np.ones((1, 2, 3), np.complex64)
    pixels[0, 0] = [np.nan + 1j, 1 + 1j * np.nan, np.inf]
    found, valid = read(write(tmp_path / "slc.tif", pixels))
    np.testing.assert_array_equal(valid, [[False] * 3, [True] * 3])
    np.testing.assert_array_equal(found[0], [[0] * 3, [1] * 3])


def test_amplitudes_are_interpolated_not_phases(tmp_path):
    """Speckle of random phase averages to nothing; its amplitude does not."""
    phases = np.random.default_rng(1).uniform(0, 2 * np.pi, (1, 40, 40))
    path = write(tmp_path / "slc.tif", np.exp(1j * phases).astype(np.complex64), OTHER)
    grid = reference_grid([write(tmp_path / "a.tif", np.ones((1, 30, 30), np.uint8))])
    found, valid = plan([path], grid).read(Window(0, 0, 30, 30))
    np.testing.assert_allclose(found[0][valid], 1, rtol=1e-5)


def test_scale_and_offset_are_applied_to_images_and_not_to_labels(tmp_path):
    pixels = np.arange(24, dtype=np.uint16).reshape(2, 3, 4)
    path = write(tmp_path / "s.tif", pixels, nodata=5, scales=(0.5, 10.0), offsets=(-1.0, 3.0))
    found, valid = read(path)
    np.testing.assert_array_equal(valid, (pixels != 5).all(0))  # sentinels are what is stored
    np.testing.assert_allclose(found, np.stack([pixels[0] * 0.5 - 1, pixels[1] * 10.0 + 3]) * valid)
    labels, _ = read(path, resampling="nearest", dtype="int64")
    np.testing.assert_array_equal(labels, pixels * valid)


def test_scaling_and_interpolating_commute(tmp_path):
    pixels = np.random.default_rng(2).integers(0, 1000, (1, 40, 40)).astype(np.int16)
    grid = reference_grid([write(tmp_path / "a.tif", np.ones((1, 30, 30), np.uint8))])
    plain = write(tmp_path / "plain.tif", pixels, OTHER)
    scaled = write(tmp_path / "scaled.tif", pixels, OTHER, scales=(0.01,), offsets=(7.0,))
    (one, valid), (two, _) = (plan([path], grid).read(Window(0, 0, 30, 30)) for path in (plain, scaled))
    np.testing.assert_allclose(two, (one * 0.01 + 7) * valid, rtol=1e-5)


def test_a_wide_value_keeps_its_digits_until_it_is_scaled(tmp_path):
    path = write(tmp_path / "s.tif", np.array([[[2_000_000_001]]], np.int32), scales=(1.0,), offsets=(-2e9,))
    assert read(path)[0].item() == 1.0


@pytest.mark.parametrize("scale", [0.0, float("nan"), float("inf")])
def test_a_scale_that_destroys_pixels_is_refused(tmp_path, scale):
    path = write(tmp_path / "s.tif", np.ones((1, 2, 2), np.uint8), scales=(scale,), offsets=(1.0,))
    with pytest.raises(
        RasterError, match=r"s.tif: scale and offset are .*expected finite numbers, no scale of 0"
    ):
        reference_grid([path])


def test_palettes_are_never_mixed(tmp_path):
    codes = np.random.default_rng(3).integers(0, 3, (1, 40, 40)).astype(np.uint8) * 100
    colours = {0: (0, 0, 0, 255), 100: (255, 0, 0, 255), 200: (0, 0, 255, 255)}
    path = write(tmp_path / "p.tif", codes, OTHER, colormap=colours)
    grid = reference_grid([write(tmp_path / "a.tif", np.ones((1, 30, 30), np.uint8))])
    found, _ = plan([path], grid).read(Window(0, 0, 30, 30))
    assert set(np.unique(found)) <= {0, 100, 200}


def test_alpha_and_nodata_both_count(tmp_path):
    pixels = np.array([[[5, 9, 5, 9]], [[255, 255, 0, 0]]], np.uint8)
    kinds = (ColorInterp.gray, ColorInterp.alpha)
    path = write(tmp_path / "a.tif", pixels, nodata=9, colorinterp=kinds, ALPHA="YES")
    found, valid = read(path)
    np.testing.assert_array_equal(valid, [[True, False, False, False]])
    np.testing.assert_array_equal(found, [[[5, 0, 0, 0]]])


@pytest.mark.parametrize("bits", [1, 2, 4, 7, 12])
def test_packed_bits_are_whole_numbers(tmp_path, bits):
    dtype = np.uint8 if bits <= 8 else np.uint16
    pixels = np.random.default_rng(bits).integers(0, 2**bits, (1, 17, 19)).astype(dtype)
    path = write(tmp_path / "b.tif", pixels, NBITS=bits)
    found, valid = read(path)
    assert valid.all()
    np.testing.assert_array_equal(found, pixels)


@pytest.mark.parametrize("value", [2**53 + 1, -(2**62) + 3])
def test_wide_labels_are_exact(tmp_path, value):
    path = write(tmp_path / "l.tif", np.array([[[value, 7]]], np.int64), nodata=7)
    labels, valid = read(path, resampling="nearest", dtype="int64")
    np.testing.assert_array_equal(labels, [[[value, 0]]])
    np.testing.assert_array_equal(valid, [[True, False]])


def test_bands_of_several_types_are_read_together(tmp_path):
    pixels = np.array([[[1, 2, 3]], [[4, 5, 70_000]]], np.float32)
    write(tmp_path / "a.tif", pixels)
    band = '<VRTRasterBand dataType="{}" band="{}"><NoDataValue>{}</NoDataValue><SimpleSource>'
    band += '<SourceFilename relativeToVRT="1">a.tif</SourceFilename><SourceBand>{}</SourceBand>'
    band += "</SimpleSource></VRTRasterBand>"
    bands = band.format("Byte", 1, 1, 1) + band.format("Int32", 2, 5, 2)
    path = tmp_path / "a.vrt"
    path.write_text(
        '<VRTDataset rasterXSize="3" rasterYSize="1"><SRS>EPSG:32633</SRS>'
        f"<GeoTransform>0,10,0,0,0,-10</GeoTransform>{bands}</VRTDataset>"
    )
    found, valid = read(path)
    assert valid.tolist() == [[False, False, True]]
    assert found[:, 0, 2].tolist() == [3, 70_000]


def test_pixels_that_scaling_makes_infinite_are_invalid(tmp_path):
    path = write(tmp_path / "a.tif", np.array([[[1, 2]], [[1, 20_000]]], "int16"), scales=(1, 1e35))
    found, valid = read(path)
    assert valid.tolist() == [[True, False]]
    np.testing.assert_allclose(found, [[[1, 0]], [[1e35, 0]]], rtol=1e-6)
