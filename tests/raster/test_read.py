"""The law of reading, and rasterio as its oracle."""

import multiprocessing
import os
import pickle
import warnings
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from affine import Affine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox
from pyproj import Transformer
from rasterio.control import GroundControlPoint
from rasterio.rpc import RPC
from rasterio.warp import reproject

from rsseg.errors import GridError, RasterError, RssegError
from rsseg.geo import Window
from rsseg.raster import read as reading
from rsseg.raster.grids import reference_grid
from rsseg.raster.read import plan

DATA = Path(os.environ.get("RSSEG_TEST_DATA", Path(__file__).parents[2] / "../shared/data"))
ZION = DATA / "zion_landcover"
CRSS = ["EPSG:32632", "EPSG:32633", "EPSG:3857", "EPSG:4326", "EPSG:3035", "EPSG:2056"]
HOLE = 7
modest = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
numbered = count()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("rasters")


def grid_at(crs, shape, gsd=10.0, angle=0.0, offset=(0.0, 0.0)):
    """Returns a grid around 47° N 9.5° E; offset in its own pixels."""
    x, y = Transformer.from_crs("EPSG:4326", crs, always_xy=True).transform(9.5, 47.0)
    size = gsd / 111_320 if crs == "EPSG:4326" else gsd
    cos, sin = np.cos(np.radians(angle)) * size, np.sin(np.radians(angle)) * size
    row, col = (length / 2 + moved for length, moved in zip(shape, offset, strict=True))
    return GeoBox(
        shape, Affine(cos, sin, x - cos * col - sin * row, sin, -cos, y - sin * col + cos * row), crs
    )


def write(path, pixels, grid=None, **options):
    pixels = pixels if pixels.ndim == 3 else pixels[None]
    bands, height, width = pixels.shape
    place = {} if grid is None else {"transform": grid.affine, "crs": grid.crs and grid.crs.to_wkt()}
    shape = {"count": bands, "height": height, "width": width, "dtype": pixels.dtype}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(path, "w", driver="GTiff", **shape, **place, **options) as dataset:
            dataset.write(pixels)
    return path


def fresh(folder, *args, **options):
    return write(folder / f"{next(numbered)}.tif", *args, **options)


def whole(reader, grid, margin=0):
    return reader.read(Window(-margin, -margin, grid.shape[0] + 2 * margin, grid.shape[1] + 2 * margin))


def noise(shape, dtype="float32", bands=2, holes=0.0, seed=0):
    """Returns pixels, and the same with holes."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(HOLE + 1, 250, (bands, *shape)).astype(dtype)
    return pixels, np.where(rng.random((bands, *shape)) < holes, np.asarray(HOLE, dtype), pixels)


grids = st.builds(
    grid_at,
    st.sampled_from(CRSS),
    st.tuples(st.integers(1, 70), st.integers(1, 70)),
    angle=st.sampled_from([0.0, 0.0, 90.0, 180.0]) | st.floats(-60, 60),
)
files = st.builds(
    grid_at,
    st.sampled_from(CRSS),
    st.tuples(st.integers(1, 90), st.integers(1, 90)),
    gsd=st.floats(2, 33),
    angle=st.sampled_from([0.0, 0.0, 90.0]) | st.floats(-60, 60),
    offset=st.tuples(st.floats(-30, 30), st.floats(-30, 30)),
)
windows = st.builds(
    Window, st.integers(-12, 80), st.integers(-12, 80), st.integers(1, 40), st.integers(1, 40)
) | st.builds(Window, st.integers(-9, 70), st.integers(-9, 70), st.just(1), st.just(1))
looks = st.sampled_from(["bilinear", "nearest"])


@modest
@given(grid=grids, file=files, window=windows, look=looks, holes=st.sampled_from([0, 0.02, 0.3]))
def test_a_window_equals_the_crop_of_the_whole(folder, grid, file, window, look, holes):
    path = fresh(folder, noise(file.shape, holes=holes)[1], file, nodata=HOLE)
    reader = plan([path], grid, resampling=look)
    margin = 130
    all_pixels, all_valid = whole(reader, grid, margin)
    pixels, valid = reader.read(window)
    rows, cols = window.shifted(margin, margin).slices
    np.testing.assert_array_equal(valid, all_valid[rows, cols])
    if look == "nearest":
        np.testing.assert_array_equal(pixels, all_pixels[:, rows, cols])
    np.testing.assert_allclose(pixels, all_pixels[:, rows, cols], rtol=1e-5)
    assert not pixels[:, ~valid].any()


@modest
@given(grid=grids, file=files, look=looks, holes=st.sampled_from([0.002, 0.05, 0.3]))
def test_valid_never_lies(folder, grid, file, look, holes):
    complete, holed = noise(file.shape, holes=holes)
    truth, covered = whole(plan([fresh(folder, complete, file)], grid, resampling=look), grid)
    reader = plan([fresh(folder, holed, file, nodata=HOLE)], grid, resampling=look)
    pixels, valid = whole(reader, grid)
    assert not (valid & ~covered).any()
    np.testing.assert_allclose(pixels[:, valid], truth[:, valid], rtol=1e-5)


@modest
@given(grid=grids, file=files, value=st.floats(-9999, 9999, width=32), look=looks)
def test_constant_stays_constant(folder, grid, file, value, look):
    reader = plan([fresh(folder, np.full(file.shape, value, np.float32), file)], grid, resampling=look)
    pixels, valid = whole(reader, grid)
    assert (pixels[:, valid] == np.float32(value)).all()


def exact_places(grid, file):
    """Returns the file coordinates (x, y) of a grid's pixel centres by an exact transformation."""
    cols, rows = np.meshgrid(np.arange(grid.shape[1]) + 0.5, np.arange(grid.shape[0]) + 0.5)
    a, b, c, d, e, f = grid.affine[:6]
    x, y = a * cols + b * rows + c, d * cols + e * rows + f
    x, y = Transformer.from_crs(grid.crs.proj, file.crs.proj, always_xy=True).transform(x, y)
    a, b, c, d, e, f = (~file.affine)[:6]
    return a * x + b * y + c, d * x + e * y + f


def inside(places, file, margin):
    x, y = places
    height, width = file.shape
    return (x > margin) & (x < width - margin) & (y > margin) & (y < height - margin)


@modest
@given(grid=grids, file=files)
def test_ramps_are_reproduced(folder, grid, file):
    rows, cols = np.mgrid[: file.shape[0], : file.shape[1]]
    ramps = np.stack([rows + 0.5, cols + 0.5, 3.0 * rows - 2.0 * cols]).astype(np.float32)
    pixels, valid = whole(plan([fresh(folder, ramps, file)], grid), grid)
    x, y = exact_places(grid, file)
    sure = inside((x, y), file, margin=16)
    assert valid[sure].all()
    error = 0.01 if grid.crs == file.crs else 0.13
    np.testing.assert_allclose(pixels[0][sure], y[sure], atol=error)
    np.testing.assert_allclose(pixels[1][sure], x[sure], atol=error)


@modest
@given(grid=grids, file=files)
def test_valid_is_the_footprint(folder, grid, file):
    valid = whole(plan([fresh(folder, np.ones(file.shape, np.uint8), file)], grid), grid)[1]
    places = exact_places(grid, file)
    assert valid[inside(places, file, margin=0.13)].all()
    assert not valid[~inside(places, file, margin=-0.13)].any()


@modest
@given(grid=grids, file=files)
def test_nearest_matches_gdal_but_at_pixel_edges(folder, grid, file):
    pixels = noise(file.shape, "uint8", bands=1)[0]
    path = fresh(folder, pixels, file)
    found, valid = whole(plan([path], grid, resampling="nearest", dtype="int64"), grid)
    oracle = warped(pixels[0], file, grid, "nearest", nodata=0)
    x, y = exact_places(grid, file)
    near_edge = np.minimum(np.abs(x - np.rint(x)), np.abs(y - np.rint(y))) < 0.14
    different = found[0] != oracle
    assert not (different & ~near_edge).any()
    if valid.sum() > 500:
        assert different.mean() < 0.02


def smooth_field(shape):
    rows, cols = np.mgrid[: shape[0], : shape[1]]
    return (100 * np.sin(rows / 9) + 100 * np.cos(cols / 7)).astype(np.float32)


def bilinear(pixels, places):
    """Returns pixels interpolated at exact places, edges extended."""
    (col, x), (row, y) = (
        np.divmod(np.clip(place - 0.5, 0, length - 1 - 1e-9), 1)
        for place, length in zip(places, pixels.shape[::-1], strict=True)
    )
    row, col = row.astype(int), col.astype(int)
    above = pixels[row, col] * (1 - x) + pixels[row, col + 1] * x
    below = pixels[row + 1, col] * (1 - x) + pixels[row + 1, col + 1] * x
    return above * (1 - y) + below * y


@modest
@given(grid=grids, file=files.filter(lambda file: min(file.shape) > 1 and ground(file) > 6))
def test_bilinear_is_bilinear_at_exact_places(folder, grid, file):
    field = smooth_field(file.shape)
    found, valid = whole(plan([fresh(folder, field, file)], grid), grid)
    error = np.abs(found[0] - bilinear(field, exact_places(grid, file)))
    assert error[valid].max(initial=0) < 0.4


def ground(grid):
    """Returns the rough pixel size on the ground, metres; a metre of Mercator is 0.68 m there."""
    scale = {4326: 85_000, 3857: 0.68}.get(grid.crs.epsg, 1)
    return abs(grid.affine.determinant) ** 0.5 * scale


# GDAL widens its kernel where the enclosing box of turned pixels looks finer than the target.
upright = st.builds(grid_at, st.sampled_from(CRSS), st.just((50, 40)))
coarse = st.builds(
    grid_at,
    st.sampled_from(CRSS),
    st.just((40, 50)),
    st.floats(16, 33),
    offset=st.tuples(*[st.floats(-9, 9)] * 2),
)


@modest
@given(grid=upright, file=coarse)
def test_bilinear_matches_gdal_where_it_is_bilinear(folder, grid, file):
    field = smooth_field(file.shape)
    found, valid = whole(plan([fresh(folder, field, file)], grid), grid)
    oracle = warped(field, file, grid, "bilinear", nodata=-9999)
    both = valid & (oracle != -9999) & inside(exact_places(grid, file), file, margin=1)
    assert np.abs(found[0] - oracle)[both].max(initial=0) < (100 / 7 + 100 / 9) * 0.125 + 0.4


def warped(pixels, file, grid, look, nodata):
    oracle = np.full(grid.shape, nodata, pixels.dtype)
    reproject(
        pixels,
        oracle,
        src_transform=file.affine,
        src_crs=file.crs.to_wkt(),
        src_nodata=nodata,
        dst_transform=grid.affine,
        dst_crs=grid.crs.to_wkt(),
        dst_nodata=nodata,
        init_dest_nodata=True,
        resampling=rasterio.enums.Resampling[look],
        tolerance=0,
    )
    return oracle


@modest
@given(
    shift=st.tuples(st.integers(-40, 40), st.integers(-40, 40)),
    window=windows,
    jitter=st.floats(-9e-4, 9e-4),
    look=looks,
)
def test_agreeing_grids_give_the_files_own_pixels(folder, shift, window, jitter, look):
    file = grid_at("EPSG:32632", (50, 60))
    grid = grid_at("EPSG:32632", (50, 60), offset=(shift[0] + jitter, shift[1]))
    path = fresh(folder, noise(file.shape, "uint16", holes=0.1)[1], file, nodata=HOLE)
    pixels, valid = plan([path], grid, resampling=look).read(window)
    there = rasterio.windows.Window(window.col - shift[1], window.row - shift[0], window.width, window.height)
    with rasterio.open(path) as dataset, warnings.catch_warnings():
        warnings.simplefilter("ignore", PendingDeprecationWarning)  # rasterio multiplies with affine's `*`
        expected = dataset.read(window=there, boundless=True, masked=True)
    ok = ~expected.mask.any(axis=0)
    np.testing.assert_array_equal(valid, ok)
    np.testing.assert_array_equal(pixels, np.where(ok, expected.data, 0).astype(np.float32))


def test_one_crs_written_in_two_ways_is_read_plainly(folder):
    grid = grid_at("EPSG:32632", (20, 20))
    path = fresh(
        folder, noise(grid.shape)[0], GeoBox(grid.shape, grid.affine, grid.crs.proj.to_wkt("WKT1_ESRI"))
    )
    assert type(plan([path], grid).layers[0]) is reading._Aligned


@pytest.mark.parametrize("factor", [2, 3, 5])
def test_much_finer_pixels_are_averaged_over_whole_blocks(folder, factor):
    file = grid_at("EPSG:32632", (12 * factor, 9 * factor), gsd=10 / factor)
    pixels = noise(file.shape, bands=1)[0]
    grid = reference_grid([fresh(folder, pixels, file)], gsd=10)
    found, valid = whole(plan([fresh(folder, pixels, file)], grid), grid)
    assert grid.shape == (12, 9)
    assert valid.all()
    np.testing.assert_allclose(
        found[0], pixels[0].reshape(12, factor, 9, factor).mean(axis=(1, 3)), rtol=1e-6
    )


def test_edges_extend_to_the_files_true_border(folder):
    file, grid = grid_at("EPSG:32632", (4, 4), gsd=10), grid_at("EPSG:32632", (16, 16), gsd=5)
    pixels, valid = whole(plan([fresh(folder, noise(file.shape, bands=1)[0], file)], grid), grid)
    expected = np.zeros((16, 16), bool)
    expected[4:12, 4:12] = True
    np.testing.assert_array_equal(valid, expected)
    assert (pixels[0][valid] > HOLE).all()


def test_large_windows_are_read_in_parts(folder, monkeypatch):
    file, grid = grid_at("EPSG:3035", (90, 80), gsd=5, angle=20), grid_at("EPSG:32632", (50, 60))
    reader = plan([fresh(folder, noise(file.shape, holes=0.01)[1], file, nodata=HOLE)], grid)
    expected = whole(reader, grid)
    monkeypatch.setattr(reading, "_MOST", 200)
    for part, complete in zip(whole(reader, grid), expected, strict=True):
        np.testing.assert_allclose(part, complete, rtol=1e-6)


def test_files_stack_their_bands_and_share_valid(folder):
    grid = grid_at("EPSG:32632", (20, 30))
    finer = grid_at("EPSG:32632", (40, 60), gsd=5)
    one, two, three = (
        noise(shape, bands=2, holes=0.1, seed=seed)[1]
        for seed, shape in enumerate([grid.shape] * 2 + [finer.shape])
    )
    paths = [
        fresh(folder, pixels, place, nodata=HOLE)
        for pixels, place in ((one, grid), (two, grid), (three, finer))
    ]
    reader = plan(paths, grid, indexes=[2, 1])
    pixels, valid = whole(reader, grid)
    alone = [whole(plan([path], grid, indexes=[2, 1]), grid) for path in paths]
    np.testing.assert_array_equal(valid, np.logical_and.reduce([part[1] for part in alone]))
    np.testing.assert_array_equal(pixels, np.concatenate([part[0] for part in alone]) * valid)
    assert (reader.bands, pixels.shape) == (6, (6, 20, 30))


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int64"])
def test_labels_keep_their_values(folder, dtype):
    file, grid = grid_at("EPSG:3035", (60, 60), gsd=9, angle=5), grid_at("EPSG:32632", (30, 30))
    top = np.iinfo(dtype).max
    labels = np.random.default_rng(0).choice(np.array([0, 1, 3, top], dtype), file.shape)
    reader = plan([fresh(folder, labels, file)], grid, resampling="nearest", dtype="int64")
    found, valid = whole(reader, grid)
    assert found.dtype == np.int64
    assert set(np.unique(found[0][valid])) == {0, 1, 3, top}


def test_readers_travel_to_threads_and_processes(folder):
    file, grid = grid_at("EPSG:3035", (60, 60)), grid_at("EPSG:32632", (30, 30))
    reader = plan([fresh(folder, noise(file.shape)[0], file)], grid)
    expected = whole(reader, grid)
    copied = pickle.loads(pickle.dumps(reader))  # noqa: S301
    assert copied == reader
    with ThreadPoolExecutor(4) as pool:
        parts = list(pool.map(copied.read, [Window(0, 0, 30, 30)] * 40))
    with multiprocessing.get_context("fork").Pool(2) as pool:
        parts += pool.map(reader.read, [Window(0, 0, 30, 30)] * 8)
    for pixels, valid in parts:
        np.testing.assert_array_equal(pixels, expected[0])
        np.testing.assert_array_equal(valid, expected[1])


def test_a_file_written_anew_is_opened_anew(folder):
    grid = grid_at("EPSG:32632", (30, 30))
    for value in (3.0, 4.0):
        path = write(folder / "again.tif", np.full(grid.shape, value, np.float32), grid, compress=None)
        os.utime(path, ns=(int(value), int(value)))
        assert (whole(plan([path], grid), grid)[0] == value).all()


@pytest.mark.parametrize("change", ["smaller", "moved", "fewer bands"])
def test_a_file_replaced_after_it_was_described_is_not_read_wrong(folder, change):
    grid, bands = grid_at("EPSG:32632", (30, 30)), 1 if change == "fewer bands" else 2
    path = write(folder / "replaced.tif", noise(grid.shape)[0], grid)
    reader = plan([path], grid)
    other = grid_at(
        "EPSG:32632", (20, 30) if change == "smaller" else (30, 30), offset=(change == "moved", 0)
    )
    path.unlink()
    write(path, noise(other.shape, bands=bands)[0], other)
    with (
        ThreadPoolExecutor(1) as thread,
        pytest.raises(RasterError, match="when it was first read") as caught,
    ):
        thread.submit(whole, reader, grid).result()  # that has not opened the file yet
    assert "\n" not in str(caught.value)


def test_a_file_copied_anew_is_read_on(folder):
    grid = grid_at("EPSG:32632", (30, 30))
    path = write(folder / "copied.tif", noise(grid.shape)[0], grid)
    reader = plan([path], grid)
    os.utime(path, ns=(5, 5))
    with ThreadPoolExecutor(1) as thread:
        assert thread.submit(whole, reader, grid).result()[1].all()


def test_many_files_keep_few_open(folder):
    grid = grid_at("EPSG:32632", (4, 4))
    paths = [fresh(folder, np.full(grid.shape, index, np.uint8), grid) for index in range(50)]
    readers = [plan([path], grid) for path in paths]
    assert [int(whole(reader, grid)[0][0, 0, 0]) for reader in readers] == list(range(50))
    open_files = [
        os.readlink(f"/proc/self/fd/{name}")
        for name in os.listdir("/proc/self/fd")
        if os.path.lexists(f"/proc/self/fd/{name}")
    ]
    assert sum(str(folder) in name for name in open_files) <= reading.handles._OPEN


@pytest.mark.slow
def test_ten_thousand_reads_of_two_hundred_files_take_no_more_memory(folder, record_property):
    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

    rng, scene = np.random.default_rng(0), grid_at("EPSG:32632", (256, 256))
    pixels = noise(scene.shape, "uint8", bands=3, holes=0.01)[1]
    tiled = {"tiled": True, "blockxsize": 128, "blockysize": 128, "compress": "deflate", "nodata": HOLE}
    grids = [grid_at(crs, scene.shape, offset=(0, 0.5)) for crs in ("EPSG:32632", "EPSG:32633")]
    readers = [plan([fresh(folder, pixels, grids[index % 2], **tiled)], scene) for index in range(200)]
    taken = {}
    for reads in range(1, 10_001):
        row, col = (int(start) for start in rng.integers(-30, 220, 2))
        readers[int(rng.integers(200))].read(Window(row, col, 64, 64))
        taken[reads] = resident() if reads in (1000, 10_000) else 0.0
    record_property("resident_mib", {reads: taken[reads] for reads in (1000, 10_000)})
    assert taken[10_000] < taken[1000] + 40


# Grids of scenes


def test_the_reference_keeps_its_own_pixels(folder):
    for crs, angle in (("EPSG:32632", 0), ("EPSG:4326", 0), ("EPSG:32632", 30)):
        grid = grid_at(crs, (20, 30), angle=angle)
        path = fresh(folder, np.ones(grid.shape, np.uint8), grid)
        assert reference_grid([path]) == grid
        assert type(plan([path], reference_grid([path])).layers[0]) is reading._Aligned


def test_the_smallest_pixels_make_the_grid(folder):
    places = [grid_at("EPSG:32632", (20, 20), gsd=20), grid_at("EPSG:32632", (40, 40), gsd=10)]
    assert reference_grid([fresh(folder, np.ones(grid.shape, "u1"), grid) for grid in places]) == places[1]


@pytest.mark.parametrize(("crs", "gsd", "units"), [("EPSG:32632", 25, 25), ("EPSG:2263", 12000 / 3937, 10)])
def test_gsd_is_in_metres_and_starts_at_the_files_corner(folder, crs, gsd, units):
    place = GeoBox((100, 90), Affine(7, 0, 5e5 + 3, 0, -7, 2e5 + 1), crs)
    grid = reference_grid([fresh(folder, np.ones(place.shape, "u1"), place)], gsd)
    np.testing.assert_allclose(grid.affine[:6], (units, 0, 5e5 + 3, 0, -units, 2e5 + 1), rtol=1e-6)
    assert grid.shape == (-(-700 // units), -(-630 // units))


def test_the_files_own_gsd_changes_nothing(folder):
    place = grid_at("EPSG:32632", (20, 30), gsd=10)
    assert reference_grid([fresh(folder, np.ones(place.shape, "u1"), place)], 10) == place


def test_degrees_become_utm_with_a_gsd(folder):
    place = grid_at("EPSG:4326", (50, 50))
    path = fresh(folder, np.ones(place.shape, np.uint8), place)
    grid = reference_grid([path], 10)
    assert grid.crs == "EPSG:32632"
    assert grid.affine.a == -grid.affine.e == 10
    valid = whole(plan([path], grid), grid)[1]
    assert whole(plan([path], grid), grid, margin=9)[1].sum() == valid.sum()


def test_files_without_georeferencing_share_pixels(folder):
    paths = [fresh(folder, noise((20, 30), seed=seed)[0]) for seed in (1, 2)]
    grid = reference_grid(paths[:1])
    assert (grid.crs, grid.affine, grid.shape) == (None, Affine.identity(), (20, 30))
    pixels, valid = plan(paths[1:], grid).read(Window(-2, 3, 10, 10))
    np.testing.assert_array_equal(pixels[:, 2:], noise((20, 30), seed=2)[0][:, :8, 3:13])
    assert valid[2:].all()
    assert not valid[:2].any()


def test_a_file_without_georeferencing_takes_a_grid_of_its_size(folder):
    grid = grid_at("EPSG:32632", (20, 30), angle=10)
    labels = noise((20, 30), "uint8", bands=1)[0]
    found = whole(plan([fresh(folder, labels)], grid, resampling="nearest", dtype="int64"), grid)[0]
    np.testing.assert_array_equal(found, labels)


def test_transforms_without_a_crs_share_one_plane(folder):
    affine = Affine(0.09, 0, 496846, 0, -0.09, 5419386)
    place, finer = (
        GeoBox((20, 30), affine, None),
        GeoBox((40, 60), Affine(0.045, 0, 496846, 0, -0.045, 5419386), None),
    )
    reference = fresh(folder, np.ones(place.shape, np.uint8), place)
    assert reference_grid([reference]) == place
    pixels, valid = whole(plan([fresh(folder, np.full(finer.shape, 5, "u1"), finer)], place), place)
    assert valid.all()
    assert (pixels == 5).all()


# Errors


def without_a_grid(path, kind):
    """Writes a file whose place only control points, RPCs or geolocation arrays tell."""
    write(path, np.ones((9, 9), np.uint8))
    with rasterio.open(path, "r+") as file:
        if kind == "rpcs":
            ones = [1.0] * 20
            file.rpcs = RPC(0, 1, 0, 1, ones, ones, 0, 1, 0, 1, ones, ones, 0, 1)
        elif kind == "folded":
            file.gcps = [GroundControlPoint(row, row, row, row, 0.0) for row in (0, 5, 9)], "EPSG:32632"
        elif kind == "swath":
            file.update_tags(ns="GEOLOCATION", X_DATASET="x.tif", Y_DATASET="y.tif")
    if kind == "gcps":
        points = '<GCP Pixel="0" Line="0" X="1" Y="2"/><GCP Pixel="9" Line="9" X="2" Y="1"/>'
        path = path.with_suffix(".vrt")
        path.write_text(
            f'<VRTDataset rasterXSize="9" rasterYSize="9"><GCPList>{points}</GCPList>'
            '<VRTRasterBand dataType="Byte" band="1"/></VRTDataset>'
        )
    return path


def failing(folder, kind):
    """Writes a file that cannot be used."""
    if kind in {"gcps", "folded", "rpcs", "swath"}:
        return without_a_grid(folder / f"{kind}.tif", kind)
    path, place = folder / f"{kind}.tif", grid_at("EPSG:32632", (20, 30))
    if kind == "text":
        path.write_text("no raster\n" * 9)
    elif kind == "yard":
        yard = 'LOCAL_CS["yard",UNIT["metre",1]]'
        write(path, np.ones(place.shape, np.uint8), GeoBox(place.shape, place.affine, yard))
    elif kind == "flat":
        write(
            path, np.ones(place.shape, np.uint8), GeoBox(place.shape, Affine(0, 0, 5, 0, 0, 5), "EPSG:32632")
        )
    elif kind == "endless":
        write(path, np.ones(place.shape, np.uint8))
        path.with_suffix(".tif.aux.xml").write_text(
            "<PAMDataset><SRS>EPSG:32632</SRS><GeoTransform>0,10,0,nan,0,-10</GeoTransform></PAMDataset>"
        )
    elif kind == "mars":
        mars = "+proj=eqc +a=3396190 +b=3396190 +units=m"
        write(path, np.ones(place.shape, np.uint8), GeoBox(place.shape, Affine(10, 0, 0, 0, -10, 0), mars))
    elif kind != "missing":
        write(path, np.ones(place.shape, np.uint8), place if kind == "good" else None)
    return path


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        ("missing", {}, ["missing.tif", "no such file"]),
        ("text", {}, ["text.tif", "no raster", "check the file"]),
        ("rpcs", {}, ["rpcs.tif", "RPCs only", "gdalwarp -rpc -to RPC_DEM=DEM.tif", "rpcs_grid.tif"]),
        ("gcps", {}, ["gcps.vrt", "have no CRS", "gdalwarp -s_srs EPSG:CODE", "gcps_grid.tif"]),
        ("swath", {}, ["swath.tif", "geolocation arrays only", "gdalwarp -geoloc"]),
        ("folded", {}, ["folded.tif", "3 ground control points do not tell its place", "gdalwarp -tps"]),
        ("yard", {}, ["yard.tif: no transformation from"]),
        ("flat", {}, ["flat.tif", "pixel size is 0"]),
        ("endless", {}, ["endless.tif", "not finite"]),
        ("good", {"indexes": [1, 4]}, ["good.tif", "band 4", "bands 1 to 1"]),
        ("good", {"indexes": [0]}, ["good.tif", "band 0", "bands 1 to 1"]),
        ("good", {"indexes": []}, ["good.tif", "no band"]),
        ("good", {"resampling": "cubic"}, ["'cubic'", "'bilinear' or 'nearest'"]),
        ("bare", {}, ["bare.tif", "20 × 30", "50 × 60", "georeference"]),
    ],
)
def test_errors_say_what_to_do_in_one_line(folder, kind, options, words):
    with pytest.raises(RssegError) as caught:
        plan([failing(folder, kind)], grid_at("EPSG:32632", (50, 60)), **options)
    message = str(caught.value)
    assert [word for word in words if word not in message] == []
    assert "\n" not in message


def test_no_files_are_an_error():
    with pytest.raises(RasterError, match="at least one"):
        plan([], grid_at("EPSG:32632", (5, 5)))
    with pytest.raises(RasterError, match="at least one"):
        reference_grid([])


def test_another_planet_is_an_error(folder):
    with pytest.raises(GridError, match="no transformation"):
        plan([failing(folder, "mars")], grid_at("EPSG:32632", (5, 5)))


def test_a_crs_on_one_side_needs_equal_sizes(folder):
    bare = fresh(folder, np.ones((4, 4), np.uint8))
    placed = failing(folder, "good")
    with pytest.raises(RasterError, match=r"20 × 30 pixels in WGS 84.*4 × 4 pixels without a CRS"):
        plan([placed], reference_grid([bare]))


@pytest.mark.parametrize(("gsd", "words"), [(10, "has no CRS"), (0, "positive"), (float("nan"), "positive")])
def test_gsd_needs_metres(folder, gsd, words):
    with pytest.raises(GridError, match=words):
        reference_grid([fresh(folder, np.ones((4, 4), np.uint8))], gsd)


def test_gsd_of_the_whole_earth_is_refused(folder):
    earth = GeoBox((18, 36), Affine(10, 0, -180, 0, -10, 90), "EPSG:4326")
    with pytest.raises(GridError, match="UTM"):
        reference_grid([fresh(folder, np.ones(earth.shape, np.uint8), earth)], 1000)


def test_damaged_blocks_name_file_and_window(folder):
    grid = grid_at("EPSG:32632", (256, 256))
    options = {"tiled": True, "blockxsize": 64, "blockysize": 64, "compress": "deflate"}
    path = fresh(folder, noise(grid.shape, "uint8", bands=1)[0], grid, **options)
    good = whole(plan([path], grid), grid)[0]
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    reader = plan([path], grid)
    with pytest.raises(
        RasterError, match=rf"{path.name}: rows 200-209, columns 200-219 cannot be read"
    ) as caught:
        reader.read(Window(200, 200, 10, 20))
    assert "\n" not in str(caught.value)
    np.testing.assert_array_equal(reader.read(Window(0, 0, 9, 9))[0], good[:, :9, :9])


def test_an_interleaving_that_rasterio_does_not_know_is_read(folder):
    grid = grid_at("EPSG:32632", (9, 9))
    write(folder / "odd.tif", np.full(grid.shape, 3, np.uint8), grid)
    with rasterio.open(folder / "odd.tif") as source:
        path = folder / "odd.vrt"
        rasterio.shutil.copy(source, path, driver="VRT")
    domain = '<Metadata domain="IMAGE_STRUCTURE">'
    text = path.read_text()
    assert domain in text
    path.write_text(text.replace(">BAND<", ">TILE<").replace(">PIXEL<", ">TILE<"))
    with rasterio.open(path) as dataset:
        assert dataset.tags(ns="IMAGE_STRUCTURE")["INTERLEAVE"] == "TILE"
    pixels, valid = whole(plan([path], grid), grid)
    assert valid.all()
    assert (pixels == 3).all()


def test_damaged_text_in_a_file_is_no_traceback(folder, monkeypatch):
    def damaged(path):
        return b"\xcf".decode()  # as rasterio does with GDAL's messages about such files

    monkeypatch.setattr(rasterio, "open", damaged)
    with pytest.raises(RasterError, match=r"t\.tif: no "):
        plan([folder / "t.tif"], grid_at("EPSG:32632", (9, 9)))


def test_a_claimed_huge_size_allocates_nothing(folder):
    path = folder / "huge.tif"
    place = {"crs": "EPSG:32632", "transform": Affine(1e-3, 0, 5e5, 0, -1e-3, 5e6), "SPARSE_OK": True}
    shape = {"count": 1, "height": 400_000, "width": 400_000, "dtype": "uint8", "tiled": True}
    with rasterio.open(
        path, "w", driver="GTiff", **shape, **place, blockxsize=4096, blockysize=4096, bigtiff="YES"
    ):
        pass
    assert whole(plan([path], reference_grid([path])), GeoBox((9, 9), Affine.identity(), None))[1].all()
    assert plan([path], reference_grid([path], 0.1)).read(Window(0, 0, 5, 5))[1].all()
    assert reference_grid([path], 10).shape == (40, 40)


# Real data


@pytest.mark.skipif(not ZION.is_dir(), reason="no shared data beside the project")
def test_zion_matches_gdalwarp():
    bands = [ZION / f"landsat_b{band}.tif" for band in (2, 3, 4, 5)]
    grid = reference_grid(bands)
    pixels, valid = whole(plan(bands, grid), grid)
    assert pixels.shape == (4, 1428, 1128)
    assert valid.all()
    elevation, known = whole(plan([ZION / "srtm.tif"], grid), grid)
    oracle, file, heights = reprojected(ZION / "srtm.tif", grid, "bilinear")
    assert 0.0145 < 1 - known.mean() < 0.0155
    assert ((oracle != 65535) == known).mean() > 0.9995
    assert np.abs(elevation[0] - bilinear(heights, exact_places(grid, file)))[known].max() < 0.05
    # GDAL approximates places to 0.05 pixels here whatever its tolerance: metres at Zion's cliffs.
    assert np.quantile(np.abs(elevation[0] - oracle)[known & (oracle != 65535)], [0.5, 0.9]).max() < 2
    labels, known = whole(plan([ZION / "nlcd.tif"], grid, resampling="nearest", dtype="int64"), grid)
    oracle, *_ = reprojected(ZION / "nlcd.tif", grid, "nearest")
    assert known.all()
    assert (labels[0] == oracle).mean() > 0.999


def reprojected(path, grid, look):
    with rasterio.open(path) as dataset:
        place = GeoBox(dataset.shape, dataset.transform, dataset.crs.to_wkt())
        pixels = dataset.read(1)
        return warped(pixels, place, grid, look, nodata=int(dataset.nodata)), place, pixels.astype(float)


def test_text_that_is_a_local_path_is_one(folder):
    grid = grid_at("EPSG:32632", (20, 30))
    path = fresh(folder, noise(grid.shape)[0], grid)
    reader = plan([str(path)], reference_grid([str(path)]))
    assert reader == plan([path], grid)
    with pytest.raises(RasterError, match=r"gone\.tif: no such file"):
        plan([str(folder / "gone.tif")], grid)
