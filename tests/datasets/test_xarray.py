"""xarray data sets as scenes: what is written reads back as the arrays say."""

import sys

import dask.array
import numpy as np
import pytest
import rasterio
import rioxarray
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox
from odc.geo.xr import xr_coords

from rsseg import scene_from_xarray
from rsseg.errors import RasterError, RssegError, SceneError
from rsseg.geo import Window
from rsseg.raster.grids import reference_grid
from rsseg.raster.read import plan

GRID = GeoBox((70, 90), Affine(10, 0, 500_000, 0, -10, 5_800_000), "EPSG:32633")


def cube(grid=GRID, **arrays) -> xr.Dataset:
    coords = xr_coords(grid)
    return xr.Dataset({name: (("y", "x"), array) for name, array in arrays.items()}, coords)


def read(source, grid=None, dtype="float64"):
    grid = reference_grid(source.paths) if grid is None else grid
    return plan(source.paths, grid, alpha=source.alpha, dtype=dtype).read(Window(0, 0, *grid.shape))


@pytest.fixture
def rng():
    return np.random.default_rng(5)


def test_variables_become_bands(rng, tmp_path):
    red, green = rng.integers(0, 9000, (2, 70, 90)).astype(np.uint16)
    dsm, label = rng.random((70, 90)), rng.integers(0, 5, (70, 90)).astype(np.uint8)
    data = cube(red=red, green=green, dsm=dsm, label=label)
    scene = scene_from_xarray(data, {"rg": ["red", "green"], "dsm": "dsm"}, "label", id="s", folder=tmp_path)
    assert reference_grid(scene.files["rg"].paths) == GRID
    pixels, valid = read(scene.files["rg"])
    assert valid.all()
    np.testing.assert_array_equal(pixels, [red, green])
    np.testing.assert_array_equal(read(scene.files["dsm"])[0][0], dsm)
    np.testing.assert_array_equal(read(scene.label)[0][0], label)
    names = [path.name for path in sorted(tmp_path.iterdir())]
    assert names == ["s_dsm_1.tif", "s_label.tif", "s_rg_1.tif", "s_rg_2.tif"]
    with rasterio.open(tmp_path / "s_rg_1.tif") as file:
        assert (file.dtypes, file.block_shapes) == (("uint16",), [(256, 256)])


@pytest.mark.parametrize("accessor", ["rio", "odc"])
@pytest.mark.parametrize("flip", [False, True])
def test_georeferencing_is_that_of_both_accessors(rng, accessor, flip):
    y, x = 5_799_995 - 10.0 * np.arange(70), 500_005 + 10.0 * np.arange(90)
    values = rng.random((70, 90))
    data = xr.Dataset({"a": (("y", "x"), values)}, {"y": y, "x": x})
    data = data.rio.write_crs(32633) if accessor == "rio" else data.odc.assign_crs("EPSG:32633")
    data = data.isel(y=slice(None, None, -1)) if flip else data
    scene = scene_from_xarray(data, {"a": "a"})
    pixels, valid = read(scene.files["a"], GRID)
    assert valid.all()
    np.testing.assert_allclose(pixels[0], values, atol=1e-12)


def test_a_part_and_a_rotated_grid_keep_their_place(rng):
    values = rng.random((70, 90))
    part = cube(a=values).isel(y=slice(10, 30), x=slice(5, 25))
    assert reference_grid(scene_from_xarray(part, {"a": "a"}).files["a"].paths) == GRID[10:30, 5:25]
    turned = xr.Dataset({"a": (("y", "x"), values)}).rio.write_crs(32633)
    transform = GRID.affine @ Affine.rotation(20)
    turned = turned.rio.write_transform(transform)
    assert reference_grid(scene_from_xarray(turned, {"a": "a"}).files["a"].paths).affine.almost_equals(
        transform
    )


def test_bands_in_a_dimension_and_one_time_step(rng):
    values = rng.random((1, 4, 70, 90)).astype(np.float32)
    data = cube(a=np.zeros((70, 90)))
    data["s2"] = (("time", "band", "y", "x"), values)
    data["turned"] = (("y", "x", "band"), np.moveaxis(values[0], 0, -1))
    for name in ("s2", "turned"):
        pixels, valid = read(scene_from_xarray(data, {"s2": name}).files["s2"])
        assert valid.all()
        np.testing.assert_array_equal(pixels, values[0])


def test_chunks_are_computed_once_each_and_never_all_at_once(tmp_path):
    seen = []

    def block(info):
        place = info[None]["array-location"]
        seen.append(place)
        return np.full([b - a for a, b in place], place[0][0] + place[1][0], np.float32)

    grid = GeoBox((700, 900), GRID.affine, GRID.crs)
    array = dask.array.map_blocks(
        lambda block_info: block(block_info), chunks=((300, 300, 100), (500, 400)), dtype="f4"
    )
    data = cube(grid, a=np.zeros((700, 900)))
    data["a"] = (("y", "x"), array)
    pixels, valid = read(scene_from_xarray(data, {"a": "a"}, folder=tmp_path).files["a"])
    assert len(seen) == 6
    rows, cols = np.repeat([0, 300, 600], [300, 300, 100]), np.repeat([0, 500], [500, 400])
    assert valid.all()
    np.testing.assert_array_equal(pixels[0], rows[:, None] + cols)


@pytest.mark.parametrize("where", ["attrs", "encoding"])
@pytest.mark.parametrize("key", ["_FillValue", "nodata"])
def test_nodata_and_nan_are_invalid(rng, where, key):
    values = rng.integers(1, 99, (70, 90)).astype(np.int16)
    values[3:9, 4:7] = -9
    floats = np.where(values == -9, np.nan, values).astype(np.float32)
    data = cube(ints=values, floats=floats)
    getattr(data["ints"], where)[key] = np.int16(-9)
    scene = scene_from_xarray(data, {"ints": "ints", "floats": "floats"})
    for source in scene.files.values():
        np.testing.assert_array_equal(read(source)[1], values != -9)


def test_a_file_of_rioxarray_comes_back(write_raster, rng):
    values = rng.integers(0, 50, (3, 40, 60)).astype(np.uint8)
    path = write_raster("a.tif", values, nodata=7)
    for masked in (False, True):
        data = xr.Dataset({"a": rioxarray.open_rasterio(path, masked=masked)})
        pixels, valid = read(scene_from_xarray(data, {"a": "a"}).files["a"])
        np.testing.assert_array_equal(valid, (values != 7).all(0))
        np.testing.assert_array_equal(pixels, np.where(valid, values, 0))


def test_without_any_crs_pixels_meet_pixels(rng):
    data = xr.Dataset({"a": (("y", "x"), rng.random((9, 8))), "b": (("y", "x"), rng.random((9, 8)))})
    scene = scene_from_xarray(data, {"a": "a", "b": "b"})
    assert reference_grid(scene.files["a"].paths).crs is None


def test_temporary_files_go_with_the_process(tmp_path):
    import subprocess  # noqa: PLC0415

    code = (
        "import numpy as np, xarray as xr; from rsseg import scene_from_xarray;"
        "d = xr.Dataset({'a': (('y', 'x'), np.ones((4, 4)))});"
        "p = scene_from_xarray(d, {'a': 'a'}).files['a'].files[0]; print(p, p.is_file())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={"TMPDIR": str(tmp_path)}
    )
    assert done.stdout.startswith(str(tmp_path)), done.stderr
    assert done.stdout.strip().endswith("True")
    assert list(tmp_path.iterdir()) == []


def uneven(data):
    return data.assign_coords(x=data.x.values + np.linspace(0, 5, 90) ** 2)


ONES = np.ones((70, 90))
WRONG = [
    (lambda: cube(a=ONES), {"a": "aa"}, "variable 'aa': known: a|did you mean"),
    (lambda: cube(a=ONES), {}, "a name without a variable"),
    (lambda: cube(a=ONES), {"../x": "a"}, "expected letters, digits"),
    (lambda: uneven(cube(a=ONES)), {"a": "a"}, "coordinates of x are not evenly spaced"),
    (
        lambda: cube(a=ONES).expand_dims(time=3),
        {"a": "a"},
        r"time 3 beside y and x; .*dataset.isel\(time=0\)",
    ),
    (lambda: cube(a=ONES.astype("datetime64[s]")), {"a": "a"}, "pixels are datetime64"),
    (lambda: xr.Dataset({"a": (("n",), np.ones(4))}), {"a": "a"}, "expected y and x"),
    (lambda: cube(a=ONES).isel(x=slice(0, 0)), {"a": "a"}, "has no pixels"),
]


@pytest.mark.parametrize(("make", "modalities", "message"), WRONG)
def test_what_makes_no_scene_is_refused(tmp_path, make, modalities, message):
    with pytest.raises(RssegError, match=message) as caught:
        scene_from_xarray(make(), modalities, folder=tmp_path)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_crs_of_only_some_and_files_in_the_way_are_refused(tmp_path):
    data = xr.Dataset(dict.fromkeys("ab", (("y", "x"), ONES)), {"y": np.arange(70.0), "x": np.arange(90.0)})
    data["a"].attrs["crs"] = "EPSG:32633"
    with pytest.raises(SceneError, match="variable b: has no CRS, but a has"):
        scene_from_xarray(data, {"a": "a", "b": "b"}, folder=tmp_path)
    scene_from_xarray(data, {"a": "a"}, folder=tmp_path)
    with pytest.raises(RasterError, match=r"scene_a_1\.tif: exists; give another folder or id"):
        scene_from_xarray(data, {"a": "a"}, folder=tmp_path)
