"""Reading tiles: rsseg's reader against bare windowed reads of the same pixels."""

import numpy as np
import pytest
import rasterio
from measuring import fastest, report
from rasterio.transform import from_origin
from rasterio.windows import Window as Bare

from rsseg.geo import Window, draw
from rsseg.raster.read import plan, reference_grid

SIZE, TILE, COUNT = 2048, 256, 60


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rasters")
    pixels = np.random.default_rng(0).integers(1, 255, (3, SIZE, SIZE), dtype=np.uint8)
    paths = {"aligned": folder / "a.tif", "other GSD": folder / "b.tif"}
    for path, gsd in zip(paths.values(), (0.5, 0.7), strict=True):
        profile = {
            "driver": "GTiff",
            "width": SIZE,
            "height": SIZE,
            "count": 3,
            "dtype": "uint8",
            "crs": "EPSG:32633",
        }
        tiled = {"tiled": True, "blockxsize": 256, "blockysize": 256, "compress": "zstd", "nodata": 0}
        transform = from_origin(366000, 5808000, gsd, gsd)
        with rasterio.open(path, "w", transform=transform, **profile, **tiled) as file:
            file.write(pixels)
    return paths


def bench_reading(files):
    grid = reference_grid([files["aligned"]])
    rng = np.random.default_rng(1)
    windows = [draw(grid.shape, TILE, rng) for _ in range(COUNT)]
    readers = {name: plan([path], grid) for name, path in files.items()}

    def bare(windows: list[Window]) -> None:
        with rasterio.open(files["aligned"]) as file:
            for w in windows:
                file.read(window=Bare(w.col, w.row, w.width, w.height))

    times = fastest(
        {
            "plain rasterio": lambda: bare(windows),
            "rsseg, aligned": lambda: [readers["aligned"].read(w) for w in windows],
            "rsseg, other GSD": lambda: [readers["other GSD"].read(w) for w in windows],
        }
    )
    report(f"{COUNT} windows of {TILE}² × 3 bands", times, "plain rasterio")
    assert times["rsseg, aligned"] < 3 * times["plain rasterio"]
