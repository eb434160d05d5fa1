"""Sixty GeoTIFFs as they really come: each is read as rasterio or gdalwarp does, or refused in one line."""

import csv
import os
import struct
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.enums import ColorInterp, Resampling
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.transform import GCPTransformer
from rasterio.warp import reproject

from rsseg.errors import RssegError
from rsseg.geo import cover
from rsseg.raster.grids import reference_grid
from rsseg.raster.handles import describe
from rsseg.raster.read import plan

ODD = Path(os.environ.get("RSSEG_TEST_DATA") or Path(__file__).parents[2] / "../shared/data") / "odd_geotiffs"
TABLE = ODD / "MANIFEST.csv"
FILES = [row["file"] for row in csv.DictReader(TABLE.read_text().splitlines())] if TABLE.is_file() else []

needs_data = pytest.mark.skipif(not FILES, reason="no shared data beside the project")

REFUSED = {
    "BAD_width_above_32bit.tif": "no raster that GDAL can open .*Too large image size.*check the file",
    "BAD_unknown_compression.tif": "no raster that GDAL can open .*missing codec.*check the file",
    "BAD_uint33.tif": "no raster that GDAL can open .*BitsPerSample.*check the file",
    "rpcs_internal.tif": "georeferenced by RPCs only.*gdalwarp -rpc -to RPC_DEM=DEM.tif .*and use its result",
}
"""Found when the file is described."""

BROKEN = [
    "corrupt_tiles.tif",
    "BAD_truncated.tif",
    "BAD_corrupt_geotags.tif",
    "BAD_corrupt_deflate.tif",
    "BAD_tile_offset.tif",
    "BAD_excessive_memory_tile.tif",
]
"""They open and fail only when they are read."""


def pixels_of(path):
    """Returns what rasterio reads, (C, H, W) as GDAL means it, and where its masks call all bands valid."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path) as file:
            alpha = [i for i, kind in enumerate(file.colorinterp, 1) if kind == ColorInterp.alpha]
            taken = [i for i in file.indexes if i not in alpha or file.count == 1]
            raw = file.read(taken)
            lost = np.zeros(file.shape, bool)
            if raw.dtype.kind == "c":  # whose masks GDAL makes of real parts alone
                lost, raw = (raw == (np.nan if file.nodata is None else file.nodata)).any(0), np.abs(raw)
            scales = np.array([[file.scales[i - 1], file.offsets[i - 1]] for i in taken])[:, :, None, None]
            pixels = raw * scales[:, 0] + scales[:, 1]
            masks = [file.read_masks(i) != 0 for i in taken if not file.dtypes[i - 1].startswith("complex")]
            masks += [~lost, *(file.read(i) != 0 for i in alpha)]
            return pixels, np.logical_and.reduce(masks) & np.isfinite(pixels).all(0)


@needs_data
def test_the_table_is_whole():
    assert len(FILES) == 60
    assert set(REFUSED) | set(BROKEN) <= set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_odd_files_are_read_right_or_refused(name):
    path = ODD / name
    if name in REFUSED:
        with pytest.raises(RssegError, match=REFUSED[name]) as caught:
            plan([path], reference_grid([path]))
        assert "\n" not in str(caught.value)
        return
    grid = reference_grid([path])
    reader = plan([path], grid)
    if name in BROKEN:
        with pytest.raises(RssegError, match=rf"{name}: rows .*cannot be read.*copy or download") as caught:
            read_all(reader, grid)
        assert "\n" not in str(caught.value)
        with pytest.raises((RasterioError, OSError)):
            pixels_of(path)
        return
    found, valid = read_all(reader, grid)
    pixels, good = warped(path, grid) if describe(path).control else pixels_of(path)
    assert found.dtype == np.float32
    with np.errstate(over="ignore"):
        good &= np.isfinite(pixels.astype(np.float32)).all(0)
    np.testing.assert_array_equal(found[:, ~valid], 0)
    if describe(path).control is None:
        np.testing.assert_array_equal(valid, good)
        np.testing.assert_allclose(found[:, valid], pixels[:, valid], rtol=1e-6)
    else:  # placed to 0.001 pixels
        assert (valid != good).mean() < 0.01
        both = valid & good
        np.testing.assert_allclose(found[:, both], pixels[:, both], atol=0.01 * spread(pixels))


def read_all(reader, grid):
    """Reads in windows, so that a large file is no large read."""
    pixels = np.empty((reader.bands, *grid.shape), np.float32)
    valid = np.empty(grid.shape, bool)
    for window in cover(grid.shape, 2048):
        pixels[:, *window.slices], valid[window.slices] = reader.read(window)
    return pixels, valid


def warped(path, grid):
    """Returns a literal reference: every pixel of a grid placed by GDAL's own transformer, then bilinear."""
    spline = describe(path).control.spline
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path) as file, GCPTransformer(file.gcps[0], tps=spline) as transformer:
            rows, cols = np.mgrid[: grid.shape[0], : grid.shape[1]] + 0.5
            a, b, c, d, e, f = grid.affine[:6]
            places = transformer.rowcol(
                (a * cols + b * rows + c).ravel(), (d * cols + e * rows + f).ravel(), op=np.positive
            )
    pixels, good = pixels_of(path)
    inside, taps = np.ones(grid.shape, bool), []
    for place, length in zip(places, good.shape, strict=True):
        place = place.reshape(grid.shape)
        inside &= (place >= 0) & (place < length)
        place = np.clip(np.where(inside, place - 0.5, 0), 0, length - 1)
        low = np.minimum(np.floor(place).astype(int), max(length - 2, 0))
        taps.append(((low, 1 - (place - low)), (np.minimum(low + 1, length - 1), place - low)))
    found, whole = np.zeros((len(pixels), *grid.shape)), inside
    for row, down in taps[0]:
        for col, right in taps[1]:
            weight = down * right
            found += np.where(weight > 0, pixels[:, row, col] * weight, 0)
            whole = whole & (good[row, col] | (weight < 1e-6))
    return found, whole


def spread(pixels):
    """Returns how much pixels differ from their neighbours at most: what an error of a pixel makes."""
    known = np.where(np.isfinite(pixels), pixels, 0)
    steps = [np.abs(np.diff(known, axis=axis)).max(initial=0) for axis in (1, 2)]
    return float(max(steps))


@needs_data
@pytest.mark.parametrize("name", ["s1_gcps_uint16.tif", "gcp_small.tif", "au_gcp.tif"])
def test_control_points_place_files_as_gdalwarp_does(name):
    path = ODD / name
    grid = reference_grid([path])
    found, valid = read_all(plan([path], grid, resampling="nearest"), grid)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path) as file:
            points, crs = file.gcps
            oracle = np.zeros(grid.shape, np.float32)
            reproject(
                file.read(1).astype(np.float32),
                oracle,
                gcps=points,
                src_crs=crs,
                src_nodata=file.nodata,
                dst_nodata=0,
                dst_transform=grid.affine,
                dst_crs=grid.crs.to_wkt(),
                resampling=Resampling.nearest,
                tolerance=0,
            )
    assert ((oracle != 0) == (valid & (found[0] != 0))).mean() > 0.99
    # GDAL approximates places to 0.05 pixels here whatever its tolerance; `gdalwarp -et 0` agrees in .9995
    assert (oracle == found[0])[valid].mean() > 0.93


# Made up: what a file claims is not believed


def tiff(path, entries):
    """Writes a little-endian TIFF of one directory and no pixels; entries are (tag, type, value)."""
    content = b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(entries))
    for tag, kind, value in entries:
        content += struct.pack("<HHI", tag, kind, 1) + struct.pack("<I" if kind == 4 else "<Hxx", value)
    path.write_bytes((content + struct.pack("<I", 0)).ljust(400, b"\0"))
    return path


@pytest.mark.parametrize(("rows_per_strip", "compression"), [(65535, 8), (65535, 1), (64, 8), (65535, 5)])
def test_a_file_that_claims_a_huge_size_takes_no_memory(tmp_path, rows_per_strip, compression):
    side = 65535
    entries = [(256, 4, side), (257, 4, side), (258, 3, 8), (259, 3, compression), (262, 3, 1), (273, 4, 390)]
    entries += [(277, 3, 1), (278, 4, rows_per_strip), (279, 4, 10)]
    path = tiff(tmp_path / "huge.tif", entries)
    script = (
        "import resource, sys\n"
        "from rsseg.errors import RssegError\n"
        "from rsseg.geo import Window\n"
        "from rsseg.raster.grids import reference_grid\n"
        "from rsseg.raster.read import plan\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try:\n"
        "    grid = reference_grid([sys.argv[1]])\n"
        "    plan([sys.argv[1]], grid).read(Window(9000, 9000, 64, 64))\n"
        "except RssegError as error:\n"
        "    print(error)\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script, str(path)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    *said, mebibytes = done.stdout.splitlines()
    assert int(mebibytes) < 200
    assert len(said) <= 1
