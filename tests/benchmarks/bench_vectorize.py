"""Class map to polygons: rsseg, from file to GeoPackage, against rasterio's shapes of pixels in memory."""

import numpy as np
import rasterio
from affine import Affine
from measuring import fastest, report
from rasterio.features import shapes

from rsseg.export.vectorize import vectorize

SIZE, CELL, CLASSES = 2048, 20, 6


def rough() -> np.ndarray:
    """Returns classes in patches of about 15 pixels with rough edges."""
    rng = np.random.default_rng(0)
    heights = rng.random((CLASSES, SIZE // CELL + 2, SIZE // CELL + 2), "f4")
    place = (np.arange(SIZE) + 0.5) / CELL
    low, share = place.astype(int), (place % 1).astype("f4")
    down = heights[:, low] * (1 - share[:, None]) + heights[:, low + 1] * share[:, None]
    smooth = down[:, :, low] * (1 - share) + down[:, :, low + 1] * share
    return (smooth + 0.02 * rng.random(smooth.shape, "f4")).argmax(0).astype("u1")


def bench_vectorize(tmp_path):
    pixels = rough()
    path, out = tmp_path / "m_classes.tif", tmp_path / "m.gpkg"
    profile = {"width": SIZE, "height": SIZE, "count": 1, "dtype": "uint8", "nodata": 255}
    place = {"crs": "EPSG:32633", "transform": Affine(1, 0, 5e5, 0, -1, 5.8e6)}
    with rasterio.open(path, "w", driver="GTiff", tiled=True, compress="deflate", **profile, **place) as file:
        file.write(pixels, 1)
    options = {"rsseg": {}, "rsseg, min_area": {"min_area": 100}, "rsseg, simplify": {"simplify": 2.0}}
    jobs = {name: (lambda o=o: vectorize(path, out, overwrite=True, **o)) for name, o in options.items()}
    times = fastest({"rasterio's shapes": lambda: list(shapes(pixels, connectivity=4)), **jobs}, rounds=3)
    regions = vectorize(path, out, overwrite=True).regions
    report(f"{SIZE}² map, {regions} regions", times, "rasterio's shapes")
    assert times["rsseg"] < 2 * times["rasterio's shapes"]
