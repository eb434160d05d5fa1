"""What every room's tests share: a simulated city, real data where they lie, one thread."""

import os
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from affine import Affine
from rasterio.errors import NotGeoreferencedWarning

from rsseg.datasets.simulated import CitySettings, simulate

SCENES = {"train": 3, "val": 1, "test": 1}


def pytest_configure(config: pytest.Config) -> None:
    # odc-geo uses what affine 3 and shapely 2.2 announce to remove; rsseg does not
    config.addinivalue_line("filterwarnings", "ignore:Use `@` matmul:PendingDeprecationWarning")
    config.addinivalue_line("filterwarnings", r"ignore:The 'shapely.ops.transform\(\)':DeprecationWarning")


@pytest.fixture(scope="session", autouse=True)
def single_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def city(tmp_path_factory) -> Path:
    """A tiny simulated city: three training scenes, one for validation, one for test."""
    root = tmp_path_factory.mktemp("city")
    simulate(root, CitySettings(size=160, scenes=SCENES, modalities=("rgb", "nir", "dsm"), seed=3))
    return root


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Where real data lie; tests that need them are skipped elsewhere."""
    default = Path(__file__).parents[1] / "../shared/data"
    root = Path(os.environ.get("RSSEG_TEST_DATA") or default).resolve()
    if not root.is_dir():
        pytest.skip(f"no real data in {root}; set RSSEG_TEST_DATA")
    return root


@pytest.fixture
def write_raster(tmp_path) -> Callable[..., Path]:
    """Writes (C, H, W) or (H, W) as a GeoTIFF in UTM, 1 m pixels from (500 000, 5 800 000) unless told."""

    def write(name: str, pixels, *, crs="EPSG:32633", transform=None, nodata=None) -> Path:
        pixels = np.asarray(pixels)
        pixels = pixels if pixels.ndim == 3 else pixels[None]
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        place = {"crs": crs, "transform": transform or Affine(1, 0, 500_000, 0, -1, 5_800_000)} if crs else {}
        shape = dict(zip(("count", "height", "width"), pixels.shape, strict=True))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(
                path, "w", driver="GTiff", dtype=pixels.dtype, nodata=nodata, **shape, **place
            ) as f:
                f.write(pixels)
        return path

    return write
