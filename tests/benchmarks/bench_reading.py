"""Reading tiles: rsseg against bare windowed reads of the same pixels, GDAL's warp and torchgeo.

The files are larger than GDAL's cache, so that windows come from the file and not from memory.
"""

from contextlib import ExitStack

import numpy as np
import pytest
import rasterio
from affine import Affine
from measuring import fastest, report
from odc.geo.geobox import GeoBox
from pyproj import Transformer
from rasterio.enums import Resampling
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window as Bare
from torchgeo.datasets import RasterDataset

from rsseg.geo import Window, draw
from rsseg.raster import warp
from rsseg.raster.grids import reference_grid
from rsseg.raster.read import plan

TILE, COUNT = 256, 200
CACHE = 64 << 20
SIDE = 4000.0  # metres
GRIDS = {
    "rgb": ("EPSG:32633", 0.5, 3, "uint8"),
    "sar": ("EPSG:32632", 0.9, 2, "float32"),
    "dsm": ("EPSG:3035", 1.1, 1, "float32"),
}
"""Modality → CRS, GSD in metres, bands, type."""


def write(path, crs, gsd, bands, dtype, compress):
    x, y = Transformer.from_crs("EPSG:4326", crs, always_xy=True).transform(13.03, 52.4)
    size = int(SIDE / gsd)
    rng = np.random.default_rng(bands)
    rough = rng.integers(20, 230, (bands, size // 8 + 1, size // 8 + 1))
    pixels = rough.repeat(8, 1).repeat(8, 2)[:, :size, :size] + rng.integers(-15, 15, (bands, size, size))
    profile = {"width": size, "height": size, "count": bands, "dtype": dtype, "crs": crs, "nodata": 0}
    tiled = {"tiled": True, "blockxsize": 512, "blockysize": 512, "compress": compress}
    transform = Affine(gsd, 0, x - SIDE / 2, 0, -gsd, y + SIDE / 2)
    with rasterio.open(path, "w", driver="GTiff", transform=transform, **profile, **tiled) as file:
        file.write(pixels.astype(dtype))
    return path


@pytest.fixture(params=["zstd", "deflate"])
def files(tmp_path, request):
    return {name: write(tmp_path / f"{name}.tif", *facts, request.param) for name, facts in GRIDS.items()}


@pytest.fixture(autouse=True)
def cache():
    with rasterio.Env(GDAL_CACHEMAX=CACHE):
        yield


def drawn(grid, seed=1):
    rng = np.random.default_rng(seed)
    # away from the border, where the other grids, which are turned a little, have nothing
    inner = (grid.shape[0] - 1200, grid.shape[1] - 1200)
    return [draw(inner, TILE, rng).shifted(600, 600) for _ in range(COUNT)]


@pytest.mark.parametrize("compress", ["none", "zstd", "deflate"])
def bench_aligned(tmp_path, compress):
    path = write(tmp_path / "a.tif", *GRIDS["rgb"], compress)
    grid = reference_grid([path])
    windows, reader = drawn(grid), plan([path], grid)

    def bare():
        for w in windows:
            file.read(window=Bare(w.col, w.row, w.width, w.height))

    def rsseg():
        for window in windows:
            reader.read(window)

    with rasterio.open(path) as file:
        times = fastest({"plain rasterio": bare, "rsseg": rsseg})
    report(f"{COUNT} aligned windows of {TILE}² × 3 bands, {compress}", times, "plain rasterio")
    assert times["rsseg"] < 1.6 * times["plain rasterio"]


def bench_three_grids(files, request):
    grid = reference_grid([files["rgb"]])
    windows = drawn(grid)
    readers = [plan([path], grid) for path in files.values()]
    natives = {path: [native(grid, path, window) for window in windows] for path in files.values()}

    stack = ExitStack()
    opened = {path: stack.enter_context(rasterio.open(path)) for path in files.values()}

    def alone():
        for index in range(COUNT):
            for path, file in opened.items():
                file.read(window=natives[path][index])

    def rsseg():
        for window in windows:
            for reader in readers:
                reader.read(window)

    dataset = joined(files, grid)
    jobs = {
        "native reads alone": alone,
        "rsseg": rsseg,
        "two WarpedVRTs": lambda: warped(files, grid, windows),
        "torchgeo": lambda: torchgeo(dataset, grid, windows),
    }
    with stack:
        times = fastest(jobs, rounds=3)
    report(
        f"{COUNT} windows of {TILE}², three modalities in three grids, {request.node.callspec.id}",
        times,
        "native reads alone",
    )
    assert times["rsseg"] < 2 * times["native reads alone"]
    assert times["torchgeo"] > 2 * times["rsseg"]


def native(grid: GeoBox, path, window: Window) -> Bare:
    """Returns the pixels of a file from which a window is interpolated."""
    x, y = warp.fit(grid, reference_grid([path])).mapping.exact(
        np.array([[window.col, window.col + TILE]]), np.array([[window.row], [window.row + TILE]])
    )
    left, top = int(x.min()), int(y.min())
    return Bare(left, top, int(np.ceil(x.max())) - left + 1, int(np.ceil(y.max())) - top + 1)


def warped(files, grid, windows):
    options = {"crs": grid.crs.to_wkt(), "transform": grid.affine, "resampling": Resampling.bilinear}
    with ExitStack() as stack:
        opened = [stack.enter_context(rasterio.open(path)) for path in files.values()]
        size = {"height": grid.shape[0], "width": grid.shape[1]}
        turned = [stack.enter_context(WarpedVRT(file, **options, **size)) for file in opened[1:]]
        for w in windows:
            for file in (opened[0], *turned):
                file.read(window=Bare(w.col, w.row, w.width, w.height))


def torchgeo(dataset, grid, windows):
    times = dataset.index.index[0]
    for window in windows:
        box = grid[window.slices].boundingbox
        dataset[
            slice(box.left, box.right, 0.5), slice(box.bottom, box.top, 0.5), slice(times.left, times.right)
        ]


def joined(files, grid):
    parts = [RasterDataset([path], crs=grid.crs.to_wkt(), res=0.5) for path in files.values()]
    return parts[0] & parts[1] & parts[2]
